"""Run: ranked lists with one order, the only object that crosses stages."""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .files import read_lines, unreadable
from .records import InputError, ScoredDocument

if TYPE_CHECKING:
    import numpy as np


class Ranked(NamedTuple):
    """One list in Run's order; two plain tuples, since a record a document takes longer to make than to find."""

    doc_ids: tuple[str, ...]
    scores: tuple[float, ...]

    def top(self, depth: int) -> Ranked:
        """The first `depth` documents."""
        return Ranked(self.doc_ids[:depth], self.scores[:depth])


class Found(NamedTuple):
    """One list as a search found it: 12 bytes a document, put in Run's order when somebody reads it.

    Attributes:
        corpus_ids: document ids by position, shared by all lists.
        positions: [documents] in `corpus_ids`, of different documents in any order.
        scores: [documents] float32, none of them NaN.
        depth: documents that are kept.
    """

    corpus_ids: Sequence[str]
    positions: np.ndarray
    scores: np.ndarray
    depth: int

    def ranked(self) -> Ranked:
        """The list in Run's order: numbers are sorted at once, and only equal ones are looked at one by one.

        >>> import numpy as np
        >>> Found(["a", "b", "c"], np.array([1, 0, 2]), np.array([1.0, 2.0, 1.0], np.float32), depth=2).ranked()
        Ranked(doc_ids=('a', 'c'), scores=(2.0, 1.0))
        """
        import numpy as np

        order = np.argsort(-self.scores)
        values = self.scores[order]
        ids = [self.corpus_ids[position] for position in self.positions[order].tolist()]
        equal = np.flatnonzero(values[1:] == values[:-1])  # to the next one
        for run in np.split(equal, np.flatnonzero(np.diff(equal) > 1) + 1) if len(equal) else ():
            begin, end = run[0], run[-1] + 2
            ids[begin:end] = sorted(ids[begin:end], reverse=True)
        return Ranked(tuple(ids[: self.depth]), tuple(values[: self.depth].tolist()))

    def top(self, depth: int) -> Found:
        """The first `depth` documents."""
        return self._replace(depth=min(depth, self.depth))


class Run(Mapping[str, tuple[ScoredDocument, ...]]):
    """Ranked lists, one a query, ordered once: score as float32 descending, then doc_id descending.

    Every consumer (measures, mining, reranking) takes the order as it is, so that ties are decided in one place. The
    rule for ties is trec_eval's, so that whoever scores a run file with it finds our figures: RepLLaMA's run of DL19,
    with three-digit scores, has nDCG@10 .7384 in this order, as published, and .7445 with ascending ties. trec_eval
    holds scores as float32: two that differ beyond its digits are a tie. They keep all their digits here.

    Args:
        lists: for each query id its (doc_id, score) pairs in any order; higher scores are better.
        name: what reports call this system.

    Raises:
        InputError: a score is NaN, or a document stands twice in one list.

    >>> run = Run({"q1": [("b", 1.0), ("a", 1.0), ("c", 2.0)]})
    >>> [document.doc_id for document in run["q1"]]
    ['c', 'b', 'a']
    >>> [document.doc_id for document in Run({"q1": [("a", 1.00000001), ("b", 1.0)]})["q1"]]
    ['b', 'a']
    """

    def __init__(self, lists: Mapping[str, Iterable[tuple[str, float]]], name: str = "run"):
        self.name = name
        self._lists: dict[str, Ranked | Found] = {
            query_id: ranked(query_id, documents) for query_id, documents in lists.items()
        }

    def __getitem__(self, query_id: str) -> tuple[ScoredDocument, ...]:
        self._lists[query_id] = ordered = _ordered(self._lists[query_id])
        return tuple(map(ScoredDocument, *ordered))

    def __iter__(self) -> Iterator[str]:
        return iter(self._lists)

    def __len__(self) -> int:
        return len(self._lists)

    def __repr__(self) -> str:
        return f"Run({self.name!r}, {len(self)} queries, {sum(map(_size, self._lists.values()))} documents)"

    def top(self, depth: int) -> Run:
        """The first `depth` documents of every list.

        >>> len(Run({"q": [("a", 2.0), ("b", 1.0)]}).top(1)["q"])
        1
        """
        return Run.of_ranked({query_id: one.top(depth) for query_id, one in self._lists.items()}, self.name)

    @classmethod
    def of_ranked(cls, lists: Mapping[str, Ranked | Found], name: str = "run") -> Run:
        """A run from lists that `ranked`, and nobody else, put in order, or that a search found."""
        run = cls({}, name)
        run._lists = dict(lists)
        return run

    @classmethod
    def merge(cls, runs: Iterable[Run], name: str = "run") -> Run:
        """One run from shards, whether split by queries or by corpus; a document met twice keeps its best score."""
        best: dict[str, dict[str, float]] = {}
        for run in runs:
            for query_id, documents in run.items():
                scores = best.setdefault(query_id, {})
                for doc_id, score in documents:
                    scores[doc_id] = max(score, scores.get(doc_id, -math.inf))
        return cls({query_id: scores.items() for query_id, scores in best.items()}, name)

    def write_trec(self, path: str | os.PathLike) -> None:
        """Write `query_id Q0 doc_id rank score name` lines; scores keep all digits, so reading gives this run."""
        tag = "_".join(self.name.split()) or "run"
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            for query_id, one in self._lists.items():
                doc_ids, scores = _ordered(one)
                for rank, (doc_id, score) in enumerate(zip(doc_ids, scores, strict=True), start=1):
                    file.write(f"{query_id} Q0 {doc_id} {rank} {score!r} {tag}\n")

    @classmethod
    def read_trec(cls, path: str | os.PathLike, name: str | None = None) -> Run:
        """Read a TREC run file. The score column decides the order, as in trec_eval; the rank column is ignored.

        Raises:
            InputError: a line without six columns, a score that is no number or NaN, a document listed twice.
        """
        lists: dict[str, dict[str, float]] = {}
        tag = None
        for number, line in read_lines(path):
            columns = _columns(line, path, number)
            if not columns:
                continue
            query_id, _, doc_id, _, score, tag = columns
            scores = lists.setdefault(query_id, {})
            if doc_id in scores:
                raise InputError(f"{path}, line {number}: document {doc_id!r} stands twice for query {query_id!r}")
            scores[doc_id] = _parse_score(score, path, number)
        return cls({q: s.items() for q, s in lists.items()}, name or tag or Path(path).stem)


class RunFile(Mapping[str, tuple[ScoredDocument, ...]]):
    """A TREC run that stays on disk: the same lists as `Run.read_trec`, each read when it is asked for.

    One pass over the file notes where each query's lines lie, some 100 bytes per query. So runs of any length can
    be mined. A line is checked when its query is read. Lines of one query may stand apart in the file.

    Args:
        path: the file, which must not change meanwhile.
        name: what reports call this system; default the tag of its last line, as `Run.read_trec`.

    Raises:
        InputError: no such file; on reading a query, as `Run.read_trec`.
    """

    def __init__(self, path: str | os.PathLike, name: str | None = None):
        self.path = Path(path)
        self._stretches: dict[str, int] = {}  # position in the arrays of a query's first stretch of lines
        self._more: dict[str, list[int]] = {}  # and of its others, if its lines stand apart
        self._starts, self._ends, self._lines = array("Q"), array("Q"), array("Q")
        last = self._scan().decode("utf-8", "replace").split()
        self.name = name or (last[5] if len(last) == 6 else self.path.stem)

    def __getitem__(self, query_id: str) -> tuple[ScoredDocument, ...]:
        places = [self._stretches[query_id], *self._more.get(query_id, ())]
        texts = [self._read(place) for place in places]
        columns = "".join(texts).split()
        whole = sum(text.count("\n") for text in texts)
        scores = _floats(columns[4::6])
        plain = len(columns) == 6 * whole and columns[0::6].count(query_id) == whole
        if not plain or scores is None or len(set(columns[2::6])) != whole:
            self._complain(places)
        return tuple(ScoredDocument(doc_id, score) for _, doc_id, score in _in_order(columns[2::6], scores or []))

    def __iter__(self) -> Iterator[str]:
        return iter(self._stretches)

    def __len__(self) -> int:
        return len(self._stretches)

    def __repr__(self) -> str:
        return f"RunFile({self.name!r}, {len(self)} queries)"

    def _scan(self) -> bytes:
        """Note where the lines of each query lie; returns the last line that is not blank."""
        current, offset, last = None, 0, b""
        try:
            with open(self.path, "rb") as file:
                for number, line in enumerate(file, start=1):
                    first = line.split(None, 1)[:1]
                    if first:
                        last = line
                        if first[0] != current:
                            self._begin(first[0], offset, number)
                            current = first[0]
                    offset += len(line)
                    if current is not None:
                        self._ends[-1] = offset
        except OSError as error:
            raise unreadable(self.path, error) from None
        return last

    def _begin(self, raw: bytes, offset: int, number: int) -> None:
        try:
            query_id = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{self.path}, line {number}: the query id {raw!r} is not UTF-8") from None
        place = len(self._starts)
        if self._stretches.setdefault(query_id, place) != place:
            self._more.setdefault(query_id, []).append(place)
        for values, value in ((self._starts, offset), (self._ends, offset), (self._lines, number)):
            values.append(value)

    def _read(self, place: int) -> str:
        with open(self.path, "rb") as file:
            file.seek(self._starts[place])
            raw = file.read(self._ends[place] - self._starts[place])
        try:
            text = raw.decode("utf-8-sig" if self._starts[place] == 0 else "utf-8")
        except UnicodeDecodeError as error:
            number = self._lines[place] + raw[: error.start].count(b"\n")
            raise InputError(f"{self.path}, line {number}: byte 0x{raw[error.start]:02x} is not UTF-8") from None
        return text if text.endswith("\n") else text + "\n"

    def _complain(self, places: list[int]) -> None:
        """Read line by line what does not have the plain form; returns where only blank lines stood between."""
        seen = set()
        for place in places:
            for number, line in enumerate(self._read(place).split("\n"), start=self._lines[place]):
                columns = _columns(line, self.path, number)
                if not columns:
                    continue
                _parse_score(columns[4], self.path, number)
                if columns[2] in seen:
                    raise InputError(
                        f"{self.path}, line {number}: document {columns[2]!r} stands twice for query {columns[0]!r}"
                    )
                seen.add(columns[2])


def check_run(
    run: Mapping[str, Any],
    queries: Collection[str],
    where: object,
    split: str,
    corpus: Container[str] | None = None,
    depth: int | None = None,
) -> None:
    """Refuse a run that ranks none of a split's queries: it is empty, or of another split.

    Args:
        run: ranked lists.
        queries: query ids of the split.
        where: what the message calls the run.
        split: its name.
        corpus: where it is given, the documents down to `depth` must be in it.
        depth: all of them where None.

    Raises:
        InputError: so it is.
    """
    if not any(query_id in run for query_id in queries):
        first = f", first {next(iter(run))!r}" if run else ""
        raise InputError(
            f"{where}: ranks {len(run)} queries{first}, but none of the {len(queries)} of split {split!r}; "
            "are both of one collection and split?"
        )
    if corpus is None:
        return
    for query_id in (query_id for query_id in queries if query_id in run):
        for document in run[query_id][:depth]:
            if document.doc_id not in corpus:
                raise InputError(f"{where}, query {query_id!r}: document {document.doc_id!r} is not in the corpus")


def _columns(line: str, path: str | os.PathLike, number: int) -> list[str]:
    columns = line.split()
    if columns and len(columns) != 6:
        raise InputError(
            f"{path}, line {number}: {len(columns)} columns, but a TREC run has 6 "
            f"(query_id Q0 doc_id rank score tag): {line.strip()[:80]!r}"
        )
    return columns


def _floats(texts: list[str]) -> list[float] | None:
    """The numbers, or None where one of them is none or NaN."""
    try:
        values = list(map(float, texts))
    except ValueError:
        return None
    return None if any(map(math.isnan, values)) else values


def ranked(query_id: str, documents: Iterable[tuple[str, float]]) -> Ranked:
    """(doc_id, score) pairs in Run's order.

    Raises:
        InputError: as `Run`.
    """
    pairs = [(doc_id, float(score)) for doc_id, score in documents]
    ordered = _in_order(*zip(*pairs, strict=True)) if pairs else []
    _, doc_ids, scores = zip(*ordered, strict=True) if ordered else ((), (), ())
    if len(set(doc_ids)) < len(doc_ids):
        twice = next(doc_id for doc_id in doc_ids if doc_ids.count(doc_id) > 1)
        raise InputError(f"query {query_id!r}: document {twice!r} is listed twice")
    if any(map(math.isnan, scores)):
        nan = next(doc_id for doc_id, score in pairs if math.isnan(score))
        raise InputError(f"query {query_id!r}: the score of document {nan!r} is NaN")
    return Ranked(doc_ids, scores)


def _ordered(one: Ranked | Found) -> Ranked:
    return one if isinstance(one, Ranked) else one.ranked()


def _size(one: Ranked | Found) -> int:
    return len(one.doc_ids) if isinstance(one, Ranked) else min(one.depth, len(one.positions))


def _in_order(doc_ids: Sequence[str], scores: Sequence[float]) -> list[tuple[float, str, float]]:
    """(score as float32, doc_id, score), as trec_eval orders them."""
    return sorted(zip(array("f", scores), doc_ids, scores, strict=True), reverse=True)


def _parse_score(text: str, path: str | os.PathLike, number: int) -> float:
    try:
        score = float(text)
    except ValueError:
        raise InputError(f"{path}, line {number}: the score {text!r} is not a number") from None
    if math.isnan(score):
        raise InputError(f"{path}, line {number}: the score is NaN")
    return score
