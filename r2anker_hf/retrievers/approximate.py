"""Approximate search over dense shards with faiss: faster than exact search on large corpora, at a known recall."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..processes import is_main_process, wait_for_all
from .index import IndexFolder

_LISTS_PROBED = 32  # of an inverted file; more finds more
_LINKS = 32  # of a node of HNSW
_EXPLORED = 128  # nodes that HNSW keeps in view while building, and at least while searching
_VECTORS_A_LIST = 64  # to learn an inverted file's lists from; faiss warns below 39


def _inverted_file(dimensions: int, vectors: int) -> Any:
    """4 √N lists (faiss's guidelines), vectors as they are in each."""
    import faiss

    lists = max(1, min(round(4 * math.sqrt(vectors)), vectors // _VECTORS_A_LIST))
    index: Any = faiss.index_factory(dimensions, f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
    index.nprobe = _LISTS_PROBED
    return index


def _graph(dimensions: int, vectors: int) -> Any:
    import faiss

    index: Any = faiss.index_factory(dimensions, f"HNSW{_LINKS},Flat", faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = _EXPLORED
    return index


APPROXIMATIONS: dict[str, Callable[[int, int], Any]] = {"ivf": _inverted_file, "hnsw": _graph}
"""Index by name: (dimensions, vectors) -> an empty faiss index."""


class _Approximate:
    def __init__(self, index: Any):
        self._index = index

    def search(self, queries: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores and corpus positions, both [queries, width]; -1 where nothing more was found."""
        import faiss

        graph = getattr(self._index, "hnsw", None)
        if graph is not None:
            parameters = faiss.SearchParametersHNSW(efSearch=max(width, _EXPLORED))  # type: ignore[attr-defined]
            return self._index.search(queries, width, params=parameters)
        return self._index.search(queries, width)


def open_approximate(
    kind: str, folder: IndexFolder, shards: Sequence[np.ndarray], progress: bool, alone: bool
) -> _Approximate:
    """The approximate index that the folder holds, made by the main process if it is missing.

    Memory while it is made: all vectors, once (float32). An inverted file is then read memory-mapped.

    Args:
        kind: a key of APPROXIMATIONS.
        folder: of the dense index.
        shards: its vectors, each [passages, dimensions].
        progress: show a bar.
        alone: no other process waits for this one.
    """
    import faiss

    name = f"{kind}.faiss"
    if (alone or is_main_process()) and name not in folder:
        folder.write(name, partial(_write, _make(kind, shards, progress)))
    if not alone:
        wait_for_all()
    index: Any = faiss.read_index(str(folder.folder / name), faiss.IO_FLAG_MMAP if kind == "ivf" else 0)
    if kind == "ivf":
        index.nprobe = _LISTS_PROBED
    return _Approximate(index)


def _make(kind: str, shards: Sequence[np.ndarray], progress: bool) -> Any:
    vectors = sum(map(len, shards))
    index = APPROXIMATIONS[kind](shards[0].shape[1], vectors)
    if not index.is_trained:
        wanted = min(vectors, index.nlist * _VECTORS_A_LIST)
        step = max(1, vectors // wanted)
        index.train(np.concatenate([shard[::step] for shard in shards]))
    for shard in tqdm(shards, desc=f"dense: {kind}", unit="shard", disable=not progress):
        index.add(np.ascontiguousarray(shard))
    return index


def _write(index: Any, path: Path) -> None:
    import faiss

    faiss.write_index(index, str(path))
