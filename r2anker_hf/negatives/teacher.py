"""Teacher scores: a ranker's logits for the candidates of each training query, made once and kept beside them.

They are one more entry of a row's `rankings`: every document with its score, best first. A score belongs to a
document id. So neither the order of the candidates nor that of the scores decides which document is the gold one.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..collection.collection import Collection
from ..files import remove_others
from ..fingerprints import corpus_fingerprint, fingerprint, fingerprint_of
from ..names import checked_name
from ..processes import is_main_process, once, processes, wait_for_all
from ..records import InputError
from ..run import Run, ranked
from .candidates import (
    Candidates,
    candidates_schema,
    counted,
    finish_manifest,
    remove_leftovers,
    write_corpus,
    write_rows,
)
from .sampling import Sampling, draw_group

QUERIES_A_BLOCK = 1000  # scored together; 600,000 pairs with three lists of 200, some hundred MB
SCORES = re.compile(r"scores-\d+(-[0-9a-f]{32})?\.npy")  # without a hash: of folders before 0.1.0

Row = Mapping[str, Any]
Choose = Callable[[Row], Sequence[str]]
"""Row of the candidates -> ids of the documents that the teacher scores, each once."""


class Rerank(Protocol):
    """`CrossEncoderRanker.rerank`: shares the work over the processes of a launch, and goes on after a kill.

    A method of what has a `fingerprint()`, as rankers have, is asked again where another ranker scored before.
    """

    def __call__(
        self, run: Run, collection: Collection, depth: int = ..., progress: bool = ..., folder: Any = ...
    ) -> Run: ...


def pooled(row: Row, depth: int) -> list[str]:
    """The relevant documents and the top `depth` of every list, each once.

    >>> lists = [{"doc_ids": ["b", "a"]}, {"doc_ids": ["c", "b"]}]
    >>> pooled({"positive_ids": ["a"], "candidates": lists}, depth=1)
    ['a', 'b', 'c']
    """
    lists = (one["doc_ids"][:depth] for one in row["candidates"])
    return list(dict.fromkeys(chain(row["positive_ids"], *lists)))


def drawn(row: Row, count: int, epochs: int, seed: int, sampling: Sampling) -> list[str]:
    """What a training of so many epochs draws of a row, each document once; far less than the whole pool."""
    groups = (draw_group(row, count, seed, epoch, sampling) for epoch in range(epochs))
    return list(dict.fromkeys(doc_id for positive, negatives in groups for doc_id in (positive, *negatives)))


@dataclass(frozen=True)
class TeacherScores:
    """Candidates with one ranking more, the teacher's.

    Attributes:
        candidates: what was mined.
        split: its split.
        name: what the ranking is called.
        choose: which documents of a row are scored, such as `pooled` or `drawn`.
        folder: keeps each block's scores, so that work that was killed goes on. Scores of another ranker, other texts
            or other documents are removed; other files stay as they are.

    Raises:
        InputError: the name is none, or the candidates hold a ranking of that name already.
    """

    candidates: Candidates
    split: str
    name: str
    choose: Choose
    folder: Path

    def __post_init__(self):
        checked_name(self.name, "name")
        taken = [one["ranker"] for one in self._first().get("rankings") or ()]
        if self.name in taken:
            raise InputError(f"the candidates hold scores of {self.name!r} already; give these another name")

    def make(self, rerank: Rerank) -> None:
        """Score all rows, block by block; every process of a launch calls this, and they share each block."""
        collection = self.candidates.manifest["collection"]
        source = once(lambda: self._source(getattr(rerank, "__self__", rerank)))
        paths = []
        for number, start in enumerate(range(0, len(self.candidates.rows), QUERIES_A_BLOCK)):
            rows = list(self._rows(start, start + QUERIES_A_BLOCK))
            chosen = {row["query_id"]: self.choose(row) for row in rows}
            parts = ((row["query"], chosen[row["query_id"]]) for row in rows)
            path = self.folder / f"scores-{number:05}-{fingerprint_of(chain([source], parts))}.npy"
            paths.append(path)
            # a block is written after all processes have worked at it, so all see alike which ones are missing
            if path.exists():
                continue
            if is_main_process():
                print(f"queries {start + 1} to {start + len(rows)} of {len(self.candidates.rows)}", flush=True)
            queries = {row["query_id"]: row["query"] for row in rows}
            asked = Collection(
                collection["name"], collection["revision"], self.split, self.candidates.corpus, queries, {}
            )
            self._score_block(number, path, chosen, asked, rerank)
        if is_main_process():
            remove_others(paths, self.folder, SCORES)
        wait_for_all()

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[dict[str, Any]]:
        """Rows `start` to `stop` with the teacher's ranking; `make` was called before."""
        stop = len(self.candidates.rows) if stop is None else stop
        for number in range(start // QUERIES_A_BLOCK, -(-stop // QUERIES_A_BLOCK)):
            (path,) = self.folder.glob(f"scores-{number:05}-{'?' * 32}.npy")
            scores, first = np.load(path), number * QUERIES_A_BLOCK
            position = 0
            for index, row in enumerate(self._rows(first, first + QUERIES_A_BLOCK), first):
                doc_ids = self.choose(row)
                part = scores[position : position + len(doc_ids)].tolist()
                position += len(doc_ids)
                if start <= index < stop:
                    best_first = ranked(row["query_id"], zip(doc_ids, part, strict=True))
                    ranking = {"ranker": self.name, "doc_ids": best_first.doc_ids, "scores": best_first.scores}
                    yield {**row, "rankings": [*(row.get("rankings") or ()), ranking]}

    def _source(self, ranker: Any) -> str:
        """Hash of the passages and of the ranker, if it has one."""
        known = ranker.fingerprint() if hasattr(ranker, "fingerprint") else None
        return fingerprint(corpus_fingerprint(self.candidates.corpus), known)

    def _score_block(
        self, number: int, path: Path, chosen: Mapping[str, Sequence[str]], collection: Collection, rerank: Rerank
    ) -> None:
        run = Run({query_id: [(doc_id, 0.0) for doc_id in doc_ids] for query_id, doc_ids in chosen.items()})
        work = self.folder / f"block-{number:05}"
        scored = rerank(run, collection, depth=max(map(len, chosen.values())), progress=True, folder=work)
        if is_main_process():
            lists = ((dict(scored[query_id]), doc_ids) for query_id, doc_ids in chosen.items())
            _save(path, [scores[doc_id] for scores, doc_ids in lists for doc_id in doc_ids])
            shutil.rmtree(work)

    def _rows(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        rows = self.candidates.rows
        return iter(rows.select(range(start, min(stop, len(rows)))))

    def _first(self) -> dict[str, Any]:
        return next(self._rows(0, 1), {})


def write_taught(folder: Path, scores: TeacherScores, facts: Mapping[str, Any]) -> None:
    """The candidates with the teacher's ranking as a dataset of the same form; every process of a launch calls this.

    Logits are float32, unless the candidates hold float64 rankings of another origin already.

    Args:
        folder: the new dataset's folder. Shards are fixed ranges of queries. So any number of processes, and of
            kills between, gives the same bytes.
        scores: made already.
        facts: what the manifest says of the teacher (see `candidates.run_facts`).
    """
    candidates, split, state = scores.candidates, scores.split, processes()
    first = next(scores.rows(0, 1))
    kept = "float64" if len(first["rankings"]) > 1 else "float32"
    schema = candidates_schema("constraints" in first, True, kept)
    total = len(candidates.rows)
    write_rows(folder, split, total, scores.rows, schema, state.process_index, state.num_processes)
    if "repo" not in candidates.manifest.get("corpus", {}) and state.is_last_process:
        write_corpus(folder, candidates.corpus)
    wait_for_all()
    before = candidates.manifest["splits"][split]
    if state.is_main_process:
        remove_leftovers(folder)
        queries, found = counted(folder, split, {("rankings", scores.name): facts})
        # counted anew: these may be some of the queries that were mined
        found = {
            use: {name: {**before.get(use, {}).get(name, {}), **one} for name, one in names.items()}
            for use, names in found.items()
        }
        finish_manifest(folder, {**candidates.manifest, "splits": {split: {**before, "queries": queries, **found}}})
    wait_for_all()


def _save(path: Path, scores: Sequence[float]) -> None:
    unfinished = path.with_name(f".{path.name}.partial")
    with open(unfinished, "wb") as file:
        np.save(file, np.asarray(scores, dtype=np.float32))
    os.replace(unfinished, path)
