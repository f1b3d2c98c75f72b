"""Search in parts: the queries of a run, block by block, over several processes, and on again after a kill."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from itertools import islice
from pathlib import Path

from ..files import write_whole
from ..processes import is_main_process, my_share, wait_for_all
from .base import Retriever

QUERIES_A_PART = 4096


def search_in_parts(
    retriever: Retriever, queries: Mapping[str, str], depth: int, folder: Path, size: int = QUERIES_A_PART
) -> Path:
    """Search for all queries and write `run.trec` into the folder; the file is the same whatever the processes.

    Each part is written under `parts/` as soon as it is found, so memory holds one part per process. After a kill
    the same call searches only for the missing ones.

    Args:
        retriever: searches as its `shares_corpus` says.
        queries: text by query id.
        depth: documents a query.
        folder: exists; seen by all processes.
        size: queries a part.
    """
    parts, whole = folder / "parts", folder / "run.trec"
    parts.mkdir(exist_ok=True)
    names = [f"{number:05}.trec" for number in range(-(-len(queries) // size))]
    done = set(names) if whole.exists() else {name for name in names if (parts / name).exists()}
    wait_for_all()  # all have looked before anyone writes: they must agree on what is missing
    for name in names if retriever.shares_corpus else my_share(names):
        if name in done:
            continue
        start = int(name[:5]) * size
        run = retriever.search(dict(islice(queries.items(), start, start + size)), depth)
        if is_main_process() or not retriever.shares_corpus:
            write_whole(parts / name, run.write_trec)
    wait_for_all()
    if is_main_process():
        if not whole.exists():
            write_whole(whole, partial(_join, [parts / name for name in names]))
        shutil.rmtree(parts)
    wait_for_all()
    return whole


def _join(paths: list[Path], target: Path) -> None:
    with open(target, "wb") as out:
        for path in paths:
            with open(path, "rb") as part:
                shutil.copyfileobj(part, out)
