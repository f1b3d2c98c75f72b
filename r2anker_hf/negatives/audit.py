"""What mined candidates hide: overlap of the retrievers, copies of positives, and suspected false negatives."""

from __future__ import annotations

import hashlib
import heapq
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path
from typing import Any, NamedTuple

from ..records import InputError
from .card import AUDIT_FILE
from .sampling import QueryCandidates, fused_scores
from .suspects import NEAR_DUPLICATE_JACCARD, SHINGLE_WORDS, Copy, Standing, Suspicion, is_above, judged
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
    examined = _Examined(text, judged_by)
    chosen = _chooser(seed, max_queries, queries_in_split)
    for row in rows:
        if chosen(row["query_id"]):
            examined.add(row["query"], QueryCandidates.of_row(row))
    queries = examined.lists.queries
    if not queries:
        raise InputError(f"split {split!r} has no rows to audit")
    found = examined.summary()
    if with_texts:
        for case in chain.from_iterable(found["suspicious"].values()):
            case |= {"text": text(case["doc_id"]), "positive_text": text(case["positive_id"])}
    return {
        "split": split,
        "queries": queries,
        "queries_in_split": queries_in_split or queries,
        "seed": seed,
        "max_queries": max_queries,
        **found,
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
    rows = stream_rows(folder, split)
    result = audit(rows, text, split, total, max_queries=max_queries, seed=seed, judged_by=judged_by)
    (folder / "suspicious.md").write_text(suspicious_markdown(result), encoding="utf-8")
    if "repo" in manifest["corpus"]:
        for case in chain.from_iterable(result["suspicious"].values()):
            case["text"] = case["positive_text"] = None
    (folder / AUDIT_FILE).write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return result


def audit_with_card(folder: str | os.PathLike, text: Callable[[str], str], **options: Any) -> None:
    """`audit_folder`, the folder's card anew, and a line per retriever that says how many negatives are suspected.

    Args:
        folder: of the candidates.
        text: passage by document id.
        options: the others of `audit_folder`.
    """
    from .card import write_card

    audited = audit_folder(folder, text, **options)
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


class _Query(NamedTuple):
    """What every count looks at, of one query."""

    text: str
    candidates: QueryCandidates
    standing: Standing
    copies: dict[str, Copy]
    suspects: set[str]


@dataclass
class _OfList:
    """Counts of one retriever, or of one retriever within a rank bucket."""

    negatives: int = 0
    above: int = 0
    alone: int = 0
    duplicates: int = 0
    near: int = 0
    suspected: int = 0

    def add(self, query: _Query, doc_id: str, above: bool) -> None:
        """One negative; `above` the retriever's best relevant document or not."""
        copy = query.copies.get(doc_id)
        self.negatives += 1
        self.above += above
        self.alone += query.standing.holders[doc_id] == 1
        self.suspected += doc_id in query.suspects
        self.duplicates += copy is not None and copy.same
        self.near += copy is not None and not copy.same

    def summary(self) -> dict[str, Any]:
        shares = {"above_positive_share": self.above, "alone_share": self.alone, "suspected_share": self.suspected}
        return {
            "negatives": self.negatives,
            "duplicates": self.duplicates,
            "near_duplicates": self.near,
            "suspected": self.suspected,
            **{name: _share(count, self.negatives) for name, count in shares.items()},
        }


class _Lists:
    """Counts by retriever and by rank, and where each retriever puts its best relevant document."""

    def __init__(self):
        self.queries = 0
        self.deepest = 1
        self.whole: dict[str, _OfList] = {}
        self.buckets: dict[tuple[int, int], dict[str, _OfList]] = {}
        self.found_by: dict[tuple[int, int], Counter] = {}
        self.positive_ranks: dict[str, Counter] = {}

    def add(self, query: _Query) -> None:
        self.queries += 1
        for name, ranks in query.standing.ranks.items():
            self._add_list(query, name, ranks)
        for doc_id, number in query.standing.holders.items():
            rank = min(of[doc_id] for of in query.standing.ranks.values() if doc_id in of)
            self.found_by.setdefault(_bucket_of(rank), Counter())[number] += 1

    def _add_list(self, query: _Query, name: str, ranks: Mapping[str, int]) -> None:
        whole, best = self.whole.setdefault(name, _OfList()), query.standing.best[name]
        if best:
            self.positive_ranks.setdefault(name, Counter())[best] += 1
        for doc_id, rank in ranks.items():
            self.deepest = max(self.deepest, rank)
            if doc_id in query.standing.holders:  # a negative
                part = self.buckets.setdefault(_bucket_of(rank), {}).setdefault(name, _OfList())
                for counts in (whole, part):
                    counts.add(query, doc_id, is_above(rank, best))

    def by_retriever(self) -> dict[str, Any]:
        cuts = [cut for cut in POSITIVE_CUTS if cut < self.deepest] + [self.deepest]
        return {
            name: {**counts.summary(), "positive_within": {str(cut): self._within(name, cut) for cut in cuts}}
            for name, counts in self.whole.items()
        }

    def _within(self, name: str, cut: int) -> float:
        ranks = self.positive_ranks.get(name, Counter())
        return _share(sum(number for rank, number in ranks.items() if rank <= cut), self.queries)

    def shares_found_by(self) -> dict[str, float]:
        """Shares of the negatives that so many retrievers list."""
        return _shares(sum(self.found_by.values(), Counter()), len(self.whole))

    def by_rank(self) -> list[dict[str, Any]]:
        return [
            {
                "from": first,
                "to": min(last, self.deepest),
                "found_by": _shares(self.found_by.get((first, last), Counter()), len(self.whole)),
                "retrievers": {name: self.buckets[first, last].get(name, _OfList()).summary() for name in self.whole},
            }
            for first, last in sorted(self.buckets)
        ]


class _Pairs:
    """How much the lists of each two retrievers share."""

    def __init__(self):
        self.queries = 0
        self.overlaps: dict[tuple[str, str], dict[int, float]] = {}

    def add(self, query: _Query) -> None:
        self.queries += 1
        for (a, one), (b, other) in combinations(query.candidates.lists.items(), 2):
            sums = self.overlaps.setdefault((a, b), dict.fromkeys(OVERLAP_CUTS, 0.0))
            for cut in OVERLAP_CUTS:
                sums[cut] += overlap(one.doc_ids, other.doc_ids, cut)

    def summary(self) -> list[dict[str, Any]]:
        return [
            {"a": a, "b": b, "overlap": {str(cut): _share(total, self.queries) for cut, total in sums.items()}}
            for (a, b), sums in self.overlaps.items()
        ]


class _Judged:
    """How many negatives each ranking puts at or above the best relevant document."""

    def __init__(self):
        self.counts: dict[str, Counter] = {}

    def add(self, query: _Query) -> None:
        for name in query.candidates.rankings:
            scored, above = judged(name, query.candidates, query.standing.holders)
            if scored:
                self.counts.setdefault(name, Counter()).update(negatives=len(scored), above=len(above))

    def summary(self) -> dict[str, Any]:
        return {
            name: {
                "negatives": counts["negatives"],
                "at_or_above_positive": counts["above"],
                "at_or_above_positive_share": _share(counts["above"], counts["negatives"]),
            }
            for name, counts in self.counts.items()
        }


class _Queries:
    """In how many queries something is found."""

    def __init__(self):
        self.duplicate = self.copy = self.suspect = 0

    def add(self, query: _Query) -> None:
        self.duplicate += any(copy.same for copy in query.copies.values())
        self.copy += bool(query.copies)
        self.suspect += bool(query.suspects)

    def summary(self) -> dict[str, int]:
        return {
            "queries_with_a_duplicate": self.duplicate,
            "queries_with_a_copy": self.copy,
            "queries_with_a_suspect": self.suspect,
        }


class _Cases:
    """The most suspicious negatives of each kind, at most one per query."""

    def __init__(self, judged_by: str | None):
        self.judged_by = judged_by
        self.kept: dict[str, list] = {"duplicates": [], "leading": []}

    def add(self, query: _Query) -> None:
        if query.copies:
            self._add_copy(query)
        if leading := query.suspects - query.copies.keys():
            self._add_leading(query, leading)

    def _add_copy(self, query: _Query) -> None:
        copies = query.copies
        doc_id = max(copies, key=lambda d: (copies[d].same, copies[d].jaccard, d))
        near = copies[doc_id]
        reason = "same text" if near.same else f"{near.jaccard:.0%} of the shingles shared"
        self._keep("duplicates", (near.same, round(near.jaccard, 9)), query, doc_id, near.positive, reason)

    def _add_leading(self, query: _Query, suspects: set[str]) -> None:
        scores = self._scores(query.candidates)
        listed = [p for p in query.candidates.positives if p in scores]
        if not listed:
            return
        positive = max(listed, key=lambda p: (scores[p], p))
        doc_id = max((d for d in suspects if d in scores), key=lambda d: (scores[d], d))
        lead = scores[doc_id] - scores[positive]
        unit = "of the ranker's score" if self.judged_by else "standard deviations of the lists' scores"
        self._keep("leading", (round(lead, 9),), query, doc_id, positive, f"ahead by {lead:.2f} {unit}")

    def _scores(self, candidates: QueryCandidates) -> dict[str, float]:
        if self.judged_by:
            ranking = candidates.rankings[self.judged_by]
            return dict(zip(ranking.doc_ids, ranking.scores, strict=True))
        return fused_scores({name: (one.doc_ids, one.scores) for name, one in candidates.lists.items()})

    def _keep(
        self, kind: str, size: tuple[object, ...], query: _Query, doc_id: str, positive: str, reason: str
    ) -> None:
        """Keep a negative if it is among the most suspicious so far; of equal `size`, a hash decides."""
        query_id, ranks = query.candidates.query_id, query.standing.ranks
        case = {
            "query_id": query_id,
            "query": query.text,
            "doc_id": doc_id,
            "positive_id": positive,
            "reason": reason,
            "ranks": {name: of.get(doc_id) for name, of in ranks.items()},
            "positive_ranks": {name: of.get(positive) for name, of in ranks.items()},
            "text": None,
            "positive_text": None,
        }
        keep = heapq.heappush if len(self.kept[kind]) < SUSPICIOUS else heapq.heappushpop
        keep(self.kept[kind], ((*size, _tie(query_id)), query_id, case))

    def summary(self) -> dict[str, list[dict[str, Any]]]:
        """The cases of each kind, the most suspicious first."""
        return {
            kind: [case for _, _, case in sorted(kept, key=lambda one: one[:2], reverse=True)]
            for kind, kept in self.kept.items()
        }


class _Examined:
    """Everything counted so far."""

    def __init__(self, text: Callable[[str], str], judged_by: str | None):
        self.rule = Suspicion(text, judged_by)
        self.lists, self.pairs, self.judged = _Lists(), _Pairs(), _Judged()
        self.queries, self.cases = _Queries(), _Cases(judged_by)

    def add(self, text: str, candidates: QueryCandidates) -> None:
        standing = Standing.of(candidates)
        copies = self.rule.copies(candidates, standing)
        suspects = self.rule.leading(candidates, standing) | copies.keys()
        query = _Query(text, candidates, standing, copies, suspects)
        for counts in (self.lists, self.pairs, self.judged, self.queries, self.cases):
            counts.add(query)

    def summary(self) -> dict[str, Any]:
        return {
            "shingle_words": SHINGLE_WORDS,
            "near_duplicate_jaccard": NEAR_DUPLICATE_JACCARD,
            "overlap_cuts": list(OVERLAP_CUTS),
            "judged_by": self.rule.judged_by,
            "retrievers": self.lists.by_retriever(),
            "pairs": self.pairs.summary(),
            "found_by": self.lists.shares_found_by(),
            "by_rank": self.lists.by_rank(),
            **self.queries.summary(),
            "judged": self.judged.summary(),
            "suspicious": self.cases.summary(),
        }


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
