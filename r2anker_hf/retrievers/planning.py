"""What a retrieval would cost, from a short calibration on the machine at hand."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from .base import IndexableCorpus, Retriever

SAMPLE = {"bm25": 10_000, "dense": 768, "splade": 384}  # passages: some ten seconds' work on two cores
_QUERIES = 100
_IDS = 100  # bytes that a document id takes as a Python string, in its list and in the corpus's own table
_BM25_TERM = 36  # bytes a term of a passage while bm25s makes its index (recipes/results/RESULTS.md)


class Plan(NamedTuple):
    """Estimates for one process; encoding, the analysis of text and search are shared by several.

    Attributes:
        passages: of the corpus.
        queries: to be searched.
        read_bytes: of the passages' text.
        index_seconds: to encode, or analyse and index.
        search_seconds: for all queries.
        index_bytes: on disk, kept.
        run_bytes: of run.trec.
        memory_bytes: at the most, beside model and libraries.
    """

    passages: int
    queries: int
    read_bytes: float
    index_seconds: float
    search_seconds: float
    index_bytes: float
    run_bytes: float
    memory_bytes: float


class _Part:
    """Evenly spaced passages of a corpus: long and short ones as they come."""

    def __init__(self, corpus: IndexableCorpus, size: int):
        step = max(1, len(corpus) // size)
        positions = range(0, len(corpus), step)[:size]
        self.ids = [corpus.ids[position] for position in positions]
        self._texts = [corpus.texts(position, position + 1)[0] for position in positions]

    def __len__(self) -> int:
        return len(self.ids)

    def texts(self, start: int, stop: int) -> list[str]:
        return self._texts[start:stop]


def plan(
    kind: str,
    make: Callable[[IndexableCorpus, Path], Retriever],
    corpus: IndexableCorpus,
    queries: Mapping[str, str],
    depth: int,
    shard_size: int,
) -> Plan:
    """Index a small part of the corpus, search it, and extrapolate in a straight line.

    Search is measured over the whole part and over a quarter of it; what grows between them grows on with the corpus,
    the rest (a query's own encoding) does not.

    Args:
        kind: a key of SAMPLE.
        make: (corpus, folder) -> retriever, as it would be made for the whole.
        corpus: the passages.
        queries: text by query id.
        depth: documents a query.
        shard_size: passages that encoding and search hold at once.
    """
    size = min(len(corpus), SAMPLE[kind])
    whole, quarter = _Part(corpus, size), _Part(corpus, max(1, size // 4))
    sample = dict(islice(queries.items(), _QUERIES))
    with tempfile.TemporaryDirectory() as folder:
        make(quarter, Path(folder) / "warm")  # what is loaded once is not the corpus's cost
        small_seconds, small = _timed(lambda: make(quarter, Path(folder) / "quarter"))
        index_seconds, retriever = _timed(lambda: make(whole, Path(folder) / "whole"))
        disk = sum(path.stat().st_size for path in (Path(folder) / "whole").rglob("*") if path.is_file())
        search_seconds = [_timed(lambda made=made: made.search(sample, depth))[0] for made in (small, retriever)]
    ratio, texts = len(corpus) / size, sum(map(len, whole.texts(0, size)))
    found = min(depth, len(corpus))
    index_bytes = disk * ratio
    if kind == "bm25":
        memory = len(corpus) * _IDS + _BM25_TERM * ratio * texts / 6  # a word and its space, in English
    else:
        memory = len(corpus) * _IDS + min(1, shard_size / len(corpus)) * index_bytes + 64 * found * 4096
    return Plan(
        passages=len(corpus),
        queries=len(queries),
        read_bytes=texts * ratio,
        index_seconds=_line(len(quarter), small_seconds, size, index_seconds, len(corpus)),
        search_seconds=_line(len(quarter), search_seconds[0], size, search_seconds[1], len(corpus))
        * len(queries)
        / len(sample),
        index_bytes=index_bytes,
        run_bytes=45.0 * len(queries) * found,
        memory_bytes=memory,
    )


def describe(plan: Plan) -> str:
    """The plan in words, for a terminal."""
    rows = [
        ("read", f"{plan.passages:,} passages, {_bytes(plan.read_bytes)} of text; {plan.queries:,} queries"),
        ("index", f"{_duration(plan.index_seconds)}, {_bytes(plan.index_bytes)} on disk"),
        ("search", f"{_duration(plan.search_seconds)}, run.trec of {_bytes(plan.run_bytes)} at the most"),
        ("memory", f"{_bytes(plan.memory_bytes)} beside model and libraries"),
    ]
    return "\n".join(f"{name:8}{text}" for name, text in rows)


def _timed(work: Callable) -> tuple[float, Retriever]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def _line(x1: int, y1: float, x2: int, y2: float, x: int) -> float:
    """The straight line through two measurements, at x; it never falls.

    >>> _line(10, 3.0, 20, 5.0, 100)
    21.0
    """
    slope = max(0.0, (y2 - y1) / (x2 - x1)) if x2 > x1 else y2 / x2
    return y2 + slope * (x - x2)


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if number >= 10 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
