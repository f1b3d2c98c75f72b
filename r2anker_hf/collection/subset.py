"""Some of a split's queries: those that a file names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from ..files import read_lines
from ..records import InputError
from .collection import Collection

T = TypeVar("T")


def only(collection: Collection, query_ids: Iterable[str]) -> Collection:
    """The collection with these queries only, in the order given."""
    chosen = list(query_ids)
    queries = {query_id: collection.queries[query_id] for query_id in chosen}
    return replace(collection, queries=queries, qrels={query_id: collection.qrels[query_id] for query_id in chosen})


def named(path: str | os.PathLike, queries: Mapping[str, T], split: str) -> dict[str, T]:
    """The queries that a file names, in the split's order.

    Args:
        path: one query id per line; what follows a tab, such as the text, is not read. Blank lines are skipped.
        queries: anything by query id, such as texts or judgements.
        split: what the message calls them.

    Raises:
        InputError: an id that the split lacks, or that stands twice; or the file names no query.
    """
    lines: dict[str, int] = {}
    for number, line in read_lines(path):
        query_id = line.rstrip("\r\n").partition("\t")[0].strip()
        if not query_id:
            continue
        if query_id not in queries:
            raise InputError(
                f"{path}, line {number}: query {query_id!r} is not among the {len(queries)} queries of split {split!r}"
            )
        if query_id in lines:
            raise InputError(f"{path}, line {number}: query {query_id!r} stands on line {lines[query_id]} already")
        lines[query_id] = number
    if not lines:
        raise InputError(f"{path}: names no query; give one query id per line")
    return {query_id: value for query_id, value in queries.items() if query_id in lines}
