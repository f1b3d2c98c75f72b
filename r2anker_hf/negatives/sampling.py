"""Sampling policies: which of the mined candidates a query is trained against (R2ANKER, 3.2 and appendix B)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..records import InputError

Lists = Mapping[str, Sequence[str]]
"""Each retriever's ranked document ids, best first."""


def union(lists: Lists, excluded: set[str], depth: int) -> list[str]:
    """The paper's joint distribution: all top-`depth` lists put together WITHOUT removing duplicates.

    A document that two retrievers agree on stands in the pool twice, so it is drawn with twice the chance.

    >>> union({"bm25": ["a", "b"], "dense": ["b", "c"]}, excluded={"c"}, depth=200)
    ['a', 'b', 'b']
    """
    return [doc_id for ranked in lists.values() for doc_id in ranked[:depth] if doc_id not in excluded]


BEST_OF_FUSED = 2
"""A warm start's first half is drawn from the best `BEST_OF_FUSED * count` documents of the fused list."""

POLICIES: dict[str, Callable[[Lists, set[str], int], list[str]]] = {"union": union}
"""Policy by name: (lists, excluded ids, depth) -> the pool that negatives are drawn from uniformly."""


def policy_named(name: str) -> Callable[[Lists, set[str], int], list[str]]:
    """The policy of that name.

    Raises:
        InputError: there is none.
    """
    if name not in POLICIES:
        raise InputError(f"no sampling policy {name!r}; choices: {', '.join(POLICIES)}")
    return POLICIES[name]


def draw(
    query_id: str,
    positives: Sequence[str],
    lists: Lists,
    count: int,
    seed: int,
    epoch: int,
    policy: str = "union",
    depth: int = 200,
) -> tuple[str, list[str]]:
    """One training group: a positive and `count` negatives, drawn from the policy's pool without replacement.

    The draw depends on (seed, epoch, query_id) alone: not on workers, processes, batch or row order.

    Args:
        query_id: the query.
        positives: ids of its relevant documents, at least one; none of them is ever a negative.
        lists: each retriever's ranked ids.
        count: negatives wanted.
        seed: of the training.
        epoch: other negatives are drawn in every epoch.
        policy: a name in `POLICIES`.
        depth: only the first `depth` documents of each list are candidates (top-N of appendix B).

    Returns:
        The positive's id and the negatives' ids; fewer than `count` where the pool is smaller, down to none.
    """
    generator = _generator(seed, epoch, query_id)
    positive = positives[generator.integers(len(positives))]
    pool = policy_named(policy)(lists, set(positives), depth)
    chosen = generator.permutation(len(pool))[:count]
    return positive, [pool[index] for index in chosen]


def draw_ranked(
    query_id: str,
    lists: Mapping[str, tuple[Sequence[str], Sequence[float]]],
    count: int,
    seed: int,
    epoch: int,
    depth: int,
) -> tuple[list[str], list[float]]:
    """Documents for a warm start: half from the best of the fused list, half from the rest, with their fused scores.

    No judgement is read. Like `draw`, it depends on (seed, epoch, query_id) alone.

    Args:
        query_id: the query.
        lists: each retriever's ranked ids and their scores.
        count: documents wanted.
        seed: of the training.
        epoch: other documents are drawn in every epoch.
        depth: only the first `depth` documents of each list are candidates.

    Returns:
        Ids and fused scores, `count` of them or all there are.
    """
    scores = fused_scores({name: (ids[:depth], values[:depth]) for name, (ids, values) in lists.items()})
    ranked = sorted(scores, key=lambda doc_id: (-scores[doc_id], doc_id))
    generator = _generator(seed, epoch, query_id)
    best = BEST_OF_FUSED * count
    head = [ranked[index] for index in generator.permutation(min(best, len(ranked)))[: count // 2]]
    chosen = set(head)
    rest = [doc_id for doc_id in ranked if doc_id not in chosen]
    tail = [rest[index] for index in generator.permutation(len(rest))[: count - len(head)]]
    return head + tail, [scores[doc_id] for doc_id in head + tail]


def fused_scores(lists: Mapping[str, tuple[Sequence[str], Sequence[float]]]) -> dict[str, float]:
    """Mean over retrievers of standardised scores: each list's mean becomes 0 and its deviation 1.

    A document that a retriever did not list gets that list's lowest value. Lists of fewer than two documents, or of
    equal scores, say nothing and count 0.

    >>> fused_scores({"bm25": (["a", "b"], [9.0, 5.0]), "dense": (["b", "c"], [0.5, 0.25])})
    {'a': 0.0, 'b': 0.0, 'c': -1.0}
    """
    pool = dict.fromkeys(doc_id for ids, _ in lists.values() for doc_id in ids)
    total = dict.fromkeys(pool, 0.0)
    for ids, values in lists.values():
        deviation = float(np.std(values)) if len(values) else 0.0
        if deviation > 0:
            standard = dict(zip(ids, (np.asarray(values, dtype=float) - np.mean(values)) / deviation, strict=True))
            lowest = min(standard.values())
            for doc_id in pool:
                total[doc_id] += float(standard.get(doc_id, lowest)) / len(lists)
    return total


def permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch visits `size` training queries; depends on (size, seed, epoch) alone."""
    return _generator(seed, epoch, "order of the queries").permutation(size)


def _generator(seed: int, epoch: int, name: str) -> np.random.Generator:
    # a hash, not Python's hash(): that one differs from process to process
    digest = hashlib.blake2b(f"{seed}/{epoch}/{name}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))
