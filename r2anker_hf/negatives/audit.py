"""What mined candidates hide: overlap of the retrievers, copies of positives, and suspected false negatives."""

from __future__ import annotations

import hashlib
import heapq
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from ..records import InputError
from .card import AUDIT_FILE
from .sampling import QueryCandidates, fused_scores
from .suspects import NEAR_DUPLICATE_JACCARD, SHINGLE_WORDS, Standing, Suspicion, is_above, judged
from .suspects import jaccard as jaccard
from .suspects import shingles as shingles

OVERLAP_CUTS = (10, 50, 200)
POSITIVE_CUTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
RANK_BUCKETS = ((1, 10), (11, 50), (51, 100), (101, 200), (201, 500), (501, 1000))
SUSPICIOUS = 50  # cases of each kind in audit.json
QUERIES = 10_000


def audit(
    rows: Iterable[Mapping[str, Any]],
    text: Callable[[str], str],
    split: str = "train",
    queries_in_split: int | None = None,
    max_queries: int = QUERIES,
    seed: int = 42,
    judged_by: str | None = None,
    with_texts: bool = True,
) -> dict[str, Any]:
    """Audit mined candidates in one pass over the rows.

    Cost is bounded: at most about `max_queries` queries are looked at, the same ones for the same seed whatever the
    order of the rows, and a query costs its candidates times its relevant documents. Near-duplicates are found by
    the Jaccard index of word shingles, exactly, of each candidate with the query's relevant documents; pairs whose
    lengths already rule it out are skipped.

    Args:
        rows: rows of the candidates dataset.
        text: passage by document id.
        split: their name.
        queries_in_split: how many rows there are; None: all rows are looked at.
        max_queries: about how many of them to look at.
        seed: which ones.
        judged_by: a ranker among the rows' `rankings` whose scores say which negatives are suspected. None: those
            that every retriever ranks above the best relevant document.
        with_texts: whether suspicious negatives come with their texts.

    Returns:
        What `audit.json` holds: counts and shares (0 to 1) by retriever, by pair, by rank, and the most suspicious
        negatives. A negative is one (query, document) in `found_by`, and one (query, retriever, document) elsewhere.

    Raises:
        InputError: no rows, or `judged_by` names no ranking of theirs.
    """
    examined = _Examined(text, judged_by, with_texts)
    chosen = _chooser(seed, max_queries, queries_in_split)
    for row in rows:
        if chosen(row["query_id"]):
            examined.add(row["query"], QueryCandidates.of_row(row))
    if not examined.queries:
        raise InputError(f"split {split!r} has no rows to audit")
    return {
        "split": split,
        "queries": examined.queries,
        "queries_in_split": queries_in_split or examined.queries,
        "seed": seed,
        "max_queries": max_queries,
        **examined.summary(),
    }


def audit_folder(
    folder: str | os.PathLike,
    text: Callable[[str], str],
    split: str = "train",
    max_queries: int = QUERIES,
    seed: int = 42,
    judged_by: str | None = None,
) -> dict[str, Any]:
    """Audit a folder's split, write `audit.json` and `suspicious.md`, and return the audit.

    Where the dataset refers to another repository's corpus, `audit.json` has ids alone; `suspicious.md`, which is for
    reading here and stands in no manifest, has the texts in any case.
    """
    from .candidates import read_manifest, stream_rows

    folder = Path(folder)
    manifest = read_manifest(folder, "splits", "corpus")
    total = manifest["splits"][split]["queries"]
    result = audit(stream_rows(folder, split), text, split, total, max_queries, seed, judged_by)
    (folder / "suspicious.md").write_text(suspicious_markdown(result), encoding="utf-8")
    if "repo" in manifest["corpus"]:
        for cases in result["suspicious"].values():
            for case in cases:
                case["text"] = case["positive_text"] = None
    (folder / AUDIT_FILE).write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return result


def audit_with_card(folder: str | os.PathLike, text: Callable[[str], str], *options: Any) -> None:
    """`audit_folder`, the folder's card anew, and a line a retriever that says how many negatives are suspected."""
    from .card import write_card

    audited = audit_folder(folder, text, *options)
    write_card(folder)
    for name, counts in audited["retrievers"].items():
        print(f"{name}: {counts['suspected']} of {counts['negatives']} negatives are suspected to be false")


def suspicious_markdown(result: Mapping[str, Any]) -> str:
    """The most suspicious negatives with their texts, to read one by one."""
    titles = {"duplicates": "Closest copies of a relevant document", "leading": "Ahead of the relevant document"}
    lines = ["# Suspicious negatives", "", "Labelled negative because nobody judged them. Read before you trust them."]
    for kind, cases in result["suspicious"].items():
        lines += ["", f"## {titles[kind]}"]
        for case in cases:
            lines += ["", f"### {case['query_id']}: {case['query']}", ""]
            lines += [f"- **negative** {case['doc_id']} ({case['reason']}; {_ranks(case['ranks'])}): {case['text']}"]
            found = _ranks(case["positive_ranks"])
            lines += [f"- **relevant** {case['positive_id']} ({found}): {case['positive_text']}"]
    return "\n".join(lines) + "\n"


def overlap(a: Sequence[str], b: Sequence[str], cut: int) -> float:
    """Documents in the top `cut` of both lists, as a share of the longer top; 0 for two empty lists.

    >>> overlap(["x", "y", "z"], ["y", "q"], cut=2)
    0.5
    """
    longest = max(len(a[:cut]), len(b[:cut]))
    return len(set(a[:cut]) & set(b[:cut])) / longest if longest else 0.0


@dataclass
class _OfList:
    """Counts of one retriever, or of one retriever within a rank bucket."""

    negatives: int = 0
    above: int = 0
    alone: int = 0
    duplicates: int = 0
    near: int = 0
    suspected: int = 0

    def summary(self) -> dict[str, Any]:
        shares = {"above_positive_share": self.above, "alone_share": self.alone, "suspected_share": self.suspected}
        return {
            "negatives": self.negatives,
            "duplicates": self.duplicates,
            "near_duplicates": self.near,
            "suspected": self.suspected,
            **{name: _share(count, self.negatives) for name, count in shares.items()},
        }


@dataclass
class _Examined:
    """Everything counted so far."""

    text: Callable[[str], str]
    judged_by: str | None
    with_texts: bool
    queries: int = 0
    queries_with: Counter = field(default_factory=Counter)
    lists: dict[str, _OfList] = field(default_factory=dict)
    buckets: dict[tuple[int, int], dict[str, _OfList]] = field(default_factory=dict)
    positive_ranks: dict[str, Counter] = field(default_factory=dict)
    overlaps: dict[tuple[str, str, int], float] = field(default_factory=dict)
    found_by: Counter = field(default_factory=Counter)
    bucket_found_by: dict[tuple[int, int], Counter] = field(default_factory=dict)
    judged: dict[str, Counter] = field(default_factory=dict)
    deepest: int = 1
    cases: dict[str, list] = field(default_factory=lambda: {"duplicates": [], "leading": []})

    def __post_init__(self):
        self.rule = Suspicion(self.text, self.judged_by)

    def add(self, query: str, candidates: QueryCandidates) -> None:
        self.queries += 1
        positives = set(candidates.positives)
        standing = Standing.of(candidates)
        ranks, best, holders = standing
        copies = self.rule.copies(candidates, standing)
        suspects = self.rule.leading(candidates, standing) | copies.keys()
        self._count_judged(candidates, holders)
        self._count_lists(ranks, best, positives, holders, copies, suspects)
        self._count_pairs(candidates)
        self._count_agreement(ranks, holders)
        for kind, found in (
            ("duplicate", any(c.same for c in copies.values())),
            ("copy", bool(copies)),
            ("suspected", bool(suspects)),
        ):
            self.queries_with[kind] += found
        self._keep_cases(query, candidates, ranks, copies, suspects - copies.keys())

    def _count_judged(self, candidates: QueryCandidates, holders) -> None:
        for name in candidates.rankings:
            scored, above = judged(name, candidates, holders)
            if scored:
                self.judged.setdefault(name, Counter()).update(negatives=len(scored), above=len(above))

    def _count_lists(self, ranks, best, positives, holders, copies, suspects) -> None:
        for name, of in ranks.items():
            if best[name]:
                self.positive_ranks.setdefault(name, Counter())[best[name]] += 1
            for doc_id, rank in of.items():
                self.deepest = max(self.deepest, rank)
                if doc_id in positives:
                    continue
                whole = self.lists.setdefault(name, _OfList())
                part = self.buckets.setdefault(_bucket_of(rank), {}).setdefault(name, _OfList())
                for counts in (whole, part):
                    counts.negatives += 1
                    counts.above += is_above(rank, best[name])
                    counts.alone += holders[doc_id] == 1
                    counts.suspected += doc_id in suspects
                    if doc_id in copies:
                        counts.duplicates += copies[doc_id].same
                        counts.near += not copies[doc_id].same
            self.lists.setdefault(name, _OfList())

    def _count_pairs(self, candidates: QueryCandidates) -> None:
        for a, b in combinations(candidates.lists, 2):
            for cut in OVERLAP_CUTS:
                shared = overlap(candidates.lists[a].doc_ids, candidates.lists[b].doc_ids, cut)
                self.overlaps[a, b, cut] = self.overlaps.get((a, b, cut), 0.0) + shared

    def _count_agreement(self, ranks, holders) -> None:
        self.found_by.update(holders.values())
        for doc_id, number in holders.items():
            rank = min(of[doc_id] for of in ranks.values() if doc_id in of)
            self.bucket_found_by.setdefault(_bucket_of(rank), Counter())[number] += 1

    def _keep_cases(self, query: str, candidates: QueryCandidates, ranks, copies, suspects) -> None:
        """The query's most suspicious negative of each kind, if it is among the most suspicious of all."""
        if copies:
            doc_id = max(copies, key=lambda d: (copies[d].same, copies[d].jaccard, d))
            near = copies[doc_id]
            reason = "same text" if near.same else f"{near.jaccard:.0%} of the shingles shared"
            size: tuple[object, ...] = (near.same, round(near.jaccard, 9), _tie(candidates.query_id))
            self._keep("duplicates", size, query, candidates, ranks, doc_id, near.positive, reason)
        if suspects:
            scores = self._scores(candidates)
            listed = [p for p in candidates.positives if p in scores]
            if not listed:
                return
            positive = max(listed, key=lambda p: (scores[p], p))
            doc_id = max((d for d in suspects if d in scores), key=lambda d: (scores[d], d))
            lead = scores[doc_id] - scores[positive]
            unit = "of the ranker's score" if self.judged_by else "standard deviations of the lists' scores"
            size = (round(lead, 9), _tie(candidates.query_id))
            self._keep("leading", size, query, candidates, ranks, doc_id, positive, f"ahead by {lead:.2f} {unit}")

    def _scores(self, candidates: QueryCandidates) -> dict[str, float]:
        if self.judged_by:
            ranking = candidates.rankings[self.judged_by]
            return dict(zip(ranking.doc_ids, ranking.scores, strict=True))
        return fused_scores({name: (one.doc_ids, one.scores) for name, one in candidates.lists.items()})

    def _keep(self, kind, size, query, candidates, ranks, doc_id, positive, reason) -> None:
        case = {
            "query_id": candidates.query_id,
            "query": query,
            "doc_id": doc_id,
            "positive_id": positive,
            "reason": reason,
            "ranks": {name: of.get(doc_id) for name, of in ranks.items()},
            "positive_ranks": {name: of.get(positive) for name, of in ranks.items()},
            "text": None,
            "positive_text": None,
        }
        keep = heapq.heappush if len(self.cases[kind]) < SUSPICIOUS else heapq.heappushpop
        keep(self.cases[kind], (size, candidates.query_id, case))

    def summary(self) -> dict[str, Any]:
        names = list(self.lists)
        cuts = [cut for cut in POSITIVE_CUTS if cut < self.deepest] + [self.deepest]
        retrievers = {
            name: {**self.lists[name].summary(), "positive_within": self._positive_within(name, cuts)}
            for name in names
        }
        return {
            "shingle_words": SHINGLE_WORDS,
            "near_duplicate_jaccard": NEAR_DUPLICATE_JACCARD,
            "overlap_cuts": list(OVERLAP_CUTS),
            "judged_by": self.judged_by,
            "retrievers": retrievers,
            "pairs": self._pairs(names),
            "found_by": _shares(self.found_by, len(names)),
            "by_rank": [self._bucket(bucket, names) for bucket in sorted(self.buckets)],
            "queries_with_a_duplicate": self.queries_with["duplicate"],
            "queries_with_a_copy": self.queries_with["copy"],
            "queries_with_a_suspect": self.queries_with["suspected"],
            "judged": {
                name: {
                    "negatives": counts["negatives"],
                    "at_or_above_positive": counts["above"],
                    "at_or_above_positive_share": _share(counts["above"], counts["negatives"]),
                }
                for name, counts in self.judged.items()
            },
            "suspicious": {kind: list(self._told(found)) for kind, found in self.cases.items()},
        }

    def _positive_within(self, name: str, cuts: Sequence[int]) -> dict[str, float]:
        ranks = self.positive_ranks.get(name, Counter())
        return {str(cut): _share(sum(n for rank, n in ranks.items() if rank <= cut), self.queries) for cut in cuts}

    def _pairs(self, names: Sequence[str]) -> list[dict[str, Any]]:
        return [
            {
                "a": a,
                "b": b,
                "overlap": {str(cut): _share(self.overlaps[a, b, cut], self.queries) for cut in OVERLAP_CUTS},
            }
            for a, b in combinations(names, 2)
        ]

    def _bucket(self, bucket: tuple[int, int], names: Sequence[str]) -> dict[str, Any]:
        counts = self.buckets[bucket]
        return {
            "from": bucket[0],
            "to": min(bucket[1], self.deepest),
            "found_by": _shares(self.bucket_found_by.get(bucket, Counter()), len(names)),
            "retrievers": {name: counts.get(name, _OfList()).summary() for name in names},
        }

    def _told(self, found: list) -> Iterator[dict[str, Any]]:
        for _, _, case in sorted(found, key=lambda kept: kept[:2], reverse=True):
            if self.with_texts:
                case |= {"text": self.text(case["doc_id"]), "positive_text": self.text(case["positive_id"])}
            yield case


def _bucket_of(rank: int) -> tuple[int, int]:
    return next((bucket for bucket in RANK_BUCKETS if rank <= bucket[1]), (RANK_BUCKETS[-1][1] + 1, 1 << 62))


def _share(part: float, whole: float) -> float:
    return round(part / whole, 6) if whole else 0.0


def _shares(counts: Counter, many: int) -> dict[str, float]:
    total = sum(counts.values())
    return {str(number): _share(counts[number], total) for number in range(1, many + 1)}


def _ranks(ranks: Mapping[str, int | None]) -> str:
    return ", ".join(f"{name} {f'rank {rank}' if rank else 'not listed'}" for name, rank in ranks.items())


def _tie(query_id: str) -> str:
    return hashlib.blake2b(query_id.encode(), digest_size=8).hexdigest()


def _chooser(seed: int, wanted: int, total: int | None) -> Callable[[str], bool]:
    """Which queries to look at, decided by each id alone."""
    if total is None or total <= wanted:
        return lambda query_id: True
    bar = int(wanted / total * 2**64)

    def chosen(query_id: str) -> bool:
        digest = hashlib.blake2b(f"{seed}/{query_id}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") < bar

    return chosen
