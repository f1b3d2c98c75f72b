"""Training queries held out of a training, to choose its checkpoint where the dev split is to be reported."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from ..collection.collection import Collection
from ..records import InputError
from ..run import Run
from .candidates import Candidates


def hold_out(
    candidates: Candidates, count: int, retriever: str | None = None, split: str = "train"
) -> tuple[Candidates, Collection, Run]:
    """Take queries out of the candidates, and make of them what a ranker reranks and is measured by.

    They are those whose ids have the smallest hashes. So any dataset of the same queries holds out the same ones,
    whatever its order.

    Args:
        candidates: mined ones.
        count: queries to hold out.
        retriever: whose list is reranked; default the first one's.
        split: the candidates', for the collection's name.

    Returns:
        The other queries' candidates; the held-out queries with their relevant documents (grade 1); their lists.

    Raises:
        InputError: no query would be left, or there is no such retriever.
    """
    rows = candidates.rows
    if not 1 <= count < len(rows):
        raise InputError(f"held_out is {count}, but must be at least 1 and below the {len(rows)} training queries")
    names = [ranked["retriever"] for ranked in rows[0]["candidates"]]
    retriever = retriever or names[0]
    if retriever not in names:
        raise InputError(f"held_out: the candidates hold no retriever {retriever!r}; choices: {', '.join(names)}")
    query_ids = list(rows["query_id"])
    chosen = set(sorted(range(len(query_ids)), key=lambda place: _hash(query_ids[place]))[:count])
    queries, qrels, lists = {}, {}, {}
    for row in rows.select(sorted(chosen)):
        query_id = row["query_id"]
        queries[query_id], qrels[query_id] = row["query"], dict.fromkeys(row["positive_ids"], 1)
        (one,) = (ranked for ranked in row["candidates"] if ranked["retriever"] == retriever)
        lists[query_id] = list(zip(one["doc_ids"], one["scores"], strict=True))
    source = candidates.manifest["collection"]
    facts = source["name"], source["revision"], f"{split}, held out"
    rest = replace(candidates, rows=rows.select(place for place in range(len(rows)) if place not in chosen))
    return rest, Collection(*facts, candidates.corpus, queries, qrels), Run(lists, retriever)


def _hash(query_id: str) -> bytes:
    return hashlib.blake2b(query_id.encode(), digest_size=8).digest()


def without(candidates: Candidates, texts: Iterable[str]) -> Candidates:
    """The candidates of all queries but those of these texts, such as queries held out of another set.

    Raises:
        InputError: no query would be left.
    """
    held = set(texts)
    kept = [place for place, text in enumerate(candidates.rows["query"]) if text not in held]
    if not kept:
        raise InputError("held_out: a set of negatives has none but held-out queries; hold out fewer")
    return replace(candidates, rows=candidates.rows.select(kept))
