"""Suspected false negatives: the one rule of who is suspected, for the audit and for trainings that leave them out.

A candidate is suspected if it copies, or nearly copies, a relevant document. It also is if every retriever, or a
ranker that judges in their place, ranks it above the best relevant document. No judgement says so; they are often
relevant.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ..files import write_whole
from ..processes import is_main_process, my_share, wait_for_all
from ..records import InputError
from .sampling import QueryCandidates

SHINGLE_WORDS = 3
NEAR_DUPLICATE_JACCARD = 0.7
POSITIVES_COMPARED = 10  # relevant documents of a query that candidates are compared with, the first ones
TEXTS_HELD = 10_000  # passages whose shingles are kept between queries, some 6 kB each
QUERIES_A_BLOCK = 1000  # whose suspects are written together: what a kill costs at most, a minute's work

Row = Mapping[str, Any]


class Copy(NamedTuple):
    """How near a candidate's text comes to a relevant document's."""

    jaccard: float
    same: bool
    positive: str


class Standing(NamedTuple):
    """Where the candidates of a query stand.

    Attributes:
        ranks: of each retriever, the rank of each document, from 1.
        best: of each retriever, the rank of its first relevant document; None where it lists none.
        holders: for each negative, how many retrievers list it.
    """

    ranks: dict[str, dict[str, int]]
    best: dict[str, int | None]
    holders: Counter[str]

    @classmethod
    def of(cls, candidates: QueryCandidates) -> Standing:
        positives = set(candidates.positives)
        ranks = {name: {d: r for r, d in enumerate(one.doc_ids, 1)} for name, one in candidates.lists.items()}
        best = {name: min((of[p] for p in positives & of.keys()), default=None) for name, of in ranks.items()}
        return cls(ranks, best, Counter(d for of in ranks.values() for d in of if d not in positives))


class Suspicion:
    """The rule.

    Args:
        text: passage by document id.
        judged_by: a ranker among the rows' `rankings` whose scores decide who stands above; default the retrievers,
            all of which must agree.
    """

    def __init__(self, text: Callable[[str], str], judged_by: str | None = None):
        self.judged_by = judged_by

        @lru_cache(TEXTS_HELD)
        def parts(doc_id: str) -> _Text:
            words = tuple(_words(text(doc_id)))
            return _Text(words, _shingles(words))

        self._parts = parts

    def suspects(self, candidates: QueryCandidates) -> set[str]:
        """Ids of a query's suspected false negatives.

        Raises:
            InputError: `judged_by` names no ranking of the candidates.
        """
        standing = Standing.of(candidates)
        return self.leading(candidates, standing) | self.copies(candidates, standing).keys()

    def leading(self, candidates: QueryCandidates, standing: Standing) -> set[str]:
        """Negatives that stand above the best relevant document, whoever judges."""
        if self.judged_by:
            if self.judged_by not in candidates.rankings:
                names = ", ".join(candidates.rankings) or "none"
                raise InputError(f"judged_by: the candidates hold no ranker {self.judged_by!r}; choices: {names}")
            return judged(self.judged_by, candidates, standing.holders)[1]
        ranks, best = standing.ranks, standing.best
        if len(ranks) < 2 or all(rank is None for rank in best.values()):
            return set()  # nothing known of the positive: what stands above it says nothing
        return {
            d for d in standing.holders if all(d in of and is_above(of[d], best[name]) for name, of in ranks.items())
        }

    def copies(self, candidates: QueryCandidates, standing: Standing) -> dict[str, Copy]:
        """Negatives whose text is, or nearly is, that of a relevant document."""
        texts = [(positive, self._parts(positive)) for positive in candidates.positives[:POSITIVES_COMPARED]]
        found = {}
        for doc_id in standing.holders:
            part = self._parts(doc_id)
            nearest = max((_compare(positive, of, part) for positive, of in texts), default=None)
            if nearest and (nearest.same or nearest.jaccard >= NEAR_DUPLICATE_JACCARD):
                found[doc_id] = nearest
        return found


def judged(name: str, candidates: QueryCandidates, negatives: Iterable[str]) -> tuple[set[str], set[str]]:
    """Negatives that a ranker scored, and of these the ones at least as high as the best relevant document.

    Both are empty if it scored no relevant document.
    """
    scores = dict(zip(candidates.rankings[name].doc_ids, candidates.rankings[name].scores, strict=True))
    bar = max((scores[p] for p in candidates.positives if p in scores), default=None)
    if bar is None:
        return set(), set()
    scored = {doc_id for doc_id in negatives if doc_id in scores}
    return scored, {doc_id for doc_id in scored if scores[doc_id] >= bar}


def is_above(rank: int, positive: int | None) -> bool:
    """Whether a rank is better than the relevant document's; any is where that one is not listed."""
    return positive is None or rank < positive


def with_suspects(rows: Iterable[Row], text: Callable[[str], str], judged_by: str | None = None) -> Iterator[Row]:
    """Rows one by one with `suspects`, the ids of their suspected false negatives; those that have them stay."""
    rule = Suspicion(text, judged_by)
    for row in rows:
        yield row if "suspects" in row else {**row, "suspects": _found(rule, row)}


class Examined:
    """Rows of candidates, each with its `suspects`: for who reads them in any order, such as a training.

    Every process of a launch makes one; they share the work. Some hundred queries a second and core.

    Args:
        rows: of the candidates, in memory or mapped from a file.
        text: passage by document id.
        judged_by: as in `Suspicion`.
        folder: keeps the suspects of each block of queries, so that work that was killed goes on; the caller's own,
            for these rows and this judge only.
    """

    def __init__(self, rows: Any, text: Callable[[str], str], judged_by: str | None, folder: Path):
        self.rows = rows
        starts = range(0, len(rows), QUERIES_A_BLOCK)
        paths = [folder / f"suspects-{start:09}.json" for start in starts]
        rule = Suspicion(text, judged_by)
        folder.mkdir(parents=True, exist_ok=True)
        for start, path in my_share(list(zip(starts, paths, strict=True))):
            if not path.exists():
                block = (rows[place] for place in range(start, min(start + QUERIES_A_BLOCK, len(rows))))
                _write(path, {row["query_id"]: _found(rule, row) for row in block})
        wait_for_all()
        self.suspects: dict[str, list[str]] = {}
        for path in paths:
            self.suspects |= json.loads(path.read_text(encoding="utf-8"))
        if is_main_process():
            touched = sum(map(bool, self.suspects.values()))
            number = sum(map(len, self.suspects.values()))
            print(f"{number} suspected false negatives of {touched} queries, of {len(rows)}, are left out")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | str) -> Any:
        found = self.rows[key]
        return found if isinstance(key, str) else self._with(found)

    def __iter__(self) -> Iterator[Row]:
        return map(self._with, self.rows)

    def select(self, places: Iterable[int]) -> Iterator[Row]:
        """Some of the rows."""
        return map(self._with, self.rows.select(places))

    def _with(self, row: Row) -> Row:
        return {**row, "suspects": self.suspects[row["query_id"]]}


def jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    """|a and b| / |a or b|; 0 for two empty sets.

    >>> jaccard(frozenset({1, 2, 3}), frozenset({2, 3, 4}))
    0.5
    """
    both = len(a & b)
    return both / (len(a) + len(b) - both) if both else 0.0


def shingles(text: str, words: int = SHINGLE_WORDS) -> frozenset[int]:
    """Hashes of a text's runs of `words` words, without case and punctuation; a shorter text is one shingle.

    >>> len(shingles("The cat sat on the mat.")), shingles("the CAT") == shingles("The cat!")
    (4, True)
    """
    return _shingles(_words(text), words)


def _shingles(found: Sequence[str], words: int = SHINGLE_WORDS) -> frozenset[int]:
    if len(found) < words:
        return frozenset([hash(tuple(found))] if found else [])
    return frozenset(map(hash, zip(*(found[start:] for start in range(words)), strict=False)))


class _Text(NamedTuple):
    words: tuple[str, ...]
    shingles: frozenset[int]


def _compare(positive: str, of: _Text, part: _Text) -> Copy:
    same = bool(part.words) and part.words == of.words
    shorter, longer = sorted((len(part.shingles), len(of.shingles)))
    possible = shorter >= NEAR_DUPLICATE_JACCARD * longer  # the index is at most shorter / longer
    return Copy(jaccard(part.shingles, of.shingles) if possible else 0.0, same, positive)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _write(path: Path, suspects: Mapping[str, list[str]]) -> None:
    write_whole(path, lambda partial: partial.write_text(json.dumps(suspects), encoding="utf-8"))


def _found(rule: Suspicion, row: Row) -> list[str]:
    return sorted(rule.suspects(QueryCandidates.of_row(row)))
