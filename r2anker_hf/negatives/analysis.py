"""How far distributions of negatives lie from BM25's (R2ANKER, Figure 2) and from a trained ranker's (Figure 3)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from ..records import InputError
from .sampling import POLICIES, QueryCandidates, RankedList, Sampling

SMOOTHING = 0.01
"""Part of either distribution that is spread evenly over the support; see `discrete_kl`."""

Distribution = Mapping[str, float]
"""Probability by document id; what is not in it has none."""


@dataclass(frozen=True)
class Divergence:
    """Mean over queries of a divergence in nats, with its standard error; NaN for fewer than one or two queries."""

    mean: float
    standard_error: float
    queries: int

    @classmethod
    def over(cls, values: Sequence[float]) -> Divergence:
        """Of the queries' values.

        >>> Divergence.over([1.0, 3.0])
        Divergence(mean=2.0, standard_error=1.0, queries=2)
        """
        count = len(values)
        mean = sum(values) / count if count else math.nan
        spread = sum((value - mean) ** 2 for value in values)
        error = math.sqrt(spread / (count - 1) / count) if count > 1 else math.nan
        return cls(mean, error, count)


def discrete_kl(p: Distribution, q: Distribution, smoothing: float = SMOOTHING) -> float:
    """Kullback–Leibler divergence of two distributions over documents, in nats.

    .. math:: KL(P | Q) = \\sum_{d \\in S} P'(d) \\ln \\frac{P'(d)}{Q'(d)}, \\quad
              P'(d) = (1 - \\lambda) P(d) + \\lambda / |S|

    The support S is the documents to which either gives a probability. Q is 0 at those that only P holds, where the
    divergence would be infinite; so both are mixed with a uniform distribution over S, with weight `smoothing`. The
    paper (4.3) states neither support nor smoothing, so its absolute values cannot be expected. The value
    is 0 for equal distributions and at most ln(|S| / smoothing).

    Args:
        p: the distribution that is described.
        q: the one that describes it.
        smoothing: lambda, above 0 and at most 1.

    Raises:
        InputError: smoothing is out of range, or both are empty.

    >>> discrete_kl({"a": 0.5, "b": 0.5}, {"a": 0.5, "b": 0.5})
    0.0
    """
    if not 0 < smoothing <= 1:
        raise InputError(f"smoothing is {smoothing}, but must be above 0 and at most 1")
    support = sorted(p.keys() | q.keys())
    if not support:
        raise InputError("a divergence needs a document in one of the two distributions")
    even = smoothing / len(support)
    mixed = [((1 - smoothing) * p.get(d, 0.0) + even, (1 - smoothing) * q.get(d, 0.0) + even) for d in support]
    return max(0.0, math.fsum(a * math.log(a / b) for a, b in mixed))


def distribution(
    lists: Mapping[str, RankedList],
    positives: Iterable[str] = (),
    depth: int = 200,
    by: str = "rank",
    temperature: float = 1.0,
) -> dict[str, float]:
    """The distribution that a retriever, a joint of retrievers, or a ranker draws negatives from: one rule for all.

    Logits, cosines and BM25's scores have nothing in common but their order, so by default nothing else is read.

    Args:
        lists: of the retrievers that take part, or the ranking of one ranker.
        positives: documents that are never drawn.
        depth: top-N of each list (appendix B).
        by: "rank": uniform over all lists put together without removing duplicates, what `union` draws from; no
            increasing transform of the scores changes it. "score": each list's softmax of standardised scores,
            averaged over the lists, as policy `softmax`; neither scale nor offset of the scores changes it.
        temperature: of the softmax, by score.

    Returns:
        Probability by document, summing to 1; empty where no negative is left.

    >>> distribution({"bm25": RankedList(["a", "b"]), "dense": RankedList(["b", "p"])}, ["p"])
    {'a': 0.333..., 'b': 0.666...}
    """
    if by not in ("rank", "score"):
        raise InputError(f"distributions are taken by {by!r}; choices: rank, score")
    policy = "union" if by == "rank" else "softmax"
    sampling = Sampling(policy, depth, sampling_temperature=temperature)
    (pool,) = POLICIES[policy](QueryCandidates("", list(positives), lists), sampling)
    size = len(pool.doc_ids)
    weights = [1 / size for _ in range(size)] if pool.weights is None else pool.weights.tolist()
    chances: dict[str, float] = {}
    for doc_id, weight in zip(pool.doc_ids, weights, strict=True):
        chances[doc_id] = chances.get(doc_id, 0.0) + weight
    return chances


def divergences(
    rows: Iterable[Mapping[str, Any]],
    generators: Mapping[str, Sequence[str]],
    reference: str = "bm25",
    rankers: Mapping[str, str] | None = None,
    depth: int = 200,
    smoothing: float = SMOOTHING,
    temperature: float = 1.0,
    by: str = "rank",
) -> dict[str, dict[str, Divergence]]:
    """Figures 2 and 3 in numbers, in one pass over the candidates.

    For each generator: `kl`, KL(P(.|q; generator) | BM25(.|q)), the x-axis of Figure 2. Where a ranker was trained on
    its negatives, also `ranker_kl`, KL(P(.|q; ranker) | BM25(.|q)), and `delta`, the first minus the second (Figure
    3): how far training moved away from the distribution that it was given. Near 0 is best there. All of them are
    `distribution`s of the same kind. So a ranker that orders the pool as BM25 does is at 0 from it, whatever its
    logits. By rank, the pool must be deeper than `depth`, or every order of it has the same top.

    Args:
        rows: the candidates dataset.
        generators: retrievers by the name of their joint.
        reference: the retriever that is tested by reranking, BM25 in the paper.
        rankers: by generator, the name of its trained ranker among the rows' `rankings`.
        depth: top-N of every list, the ranker's too.
        smoothing: as in `discrete_kl`.
        temperature: as in `distribution`.
        by: as in `distribution`.

    Returns:
        By generator and quantity, the mean over queries. A query where generator, reference or ranker has no
        document left takes no part.

    Raises:
        InputError: a retriever, ranker or generator that is not there.
    """
    rankers = dict(rankers or {})
    for name in rankers.keys() - generators.keys():
        raise InputError(f"rankers: no generator {name!r}; choices: {', '.join(generators)}")
    values: dict[str, dict[str, list[float]]] = {name: {"kl": []} for name in generators}
    for name in rankers:
        values[name] |= {"ranker_kl": [], "delta": []}
    for row in rows:
        candidates = QueryCandidates.of_row(row)
        found = _of_query(candidates, generators, reference, rankers, depth, smoothing, temperature, by)
        for name, quantity, value in found:
            values[name][quantity].append(value)
    return {name: {q: Divergence.over(v) for q, v in quantities.items()} for name, quantities in values.items()}


def _of_query(candidates, generators, reference, rankers, depth, smoothing, temperature, by):
    def chances_of(names: Sequence[str], table: Mapping[str, RankedList], noun: str) -> dict[str, float]:
        lists = {name: _named(table, name, noun) for name in names}
        return distribution(lists, candidates.positives, depth, by, temperature)

    base = chances_of([reference], candidates.lists, "retriever")
    for name, members in generators.items():
        before = chances_of(members, candidates.lists, "retriever")
        if not (base and before):
            continue
        kl = discrete_kl(before, base, smoothing)
        yield name, "kl", kl
        if name in rankers:
            after = chances_of([rankers[name]], candidates.rankings, "ranker")
            if after:
                ranker_kl = discrete_kl(after, base, smoothing)
                yield name, "ranker_kl", ranker_kl
                yield name, "delta", kl - ranker_kl


def _named(table: Mapping[str, RankedList], name: str, noun: str) -> RankedList:
    if name not in table:
        raise InputError(f"the candidates hold no {noun} {name!r}; choices: {', '.join(table) or 'none'}")
    return table[name]


def pearson(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Pearson's correlation of two columns; NaN for fewer than two points or a column without spread.

    >>> pearson([1.0, 2.0, 3.0], [2.0, 1.0, 0.0])
    -1.0
    """
    if len(xs) < 2:
        return math.nan
    middle_x, middle_y = sum(xs) / len(xs), sum(ys) / len(ys)
    products = math.fsum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys, strict=True))
    spread = math.fsum((x - middle_x) ** 2 for x in xs) * math.fsum((y - middle_y) ** 2 for y in ys)
    return products / math.sqrt(spread) if spread else math.nan


def all_joints(retrievers: Sequence[str]) -> dict[str, list[str]]:
    """Every combination of the retrievers, by its name, the single ones first.

    >>> all_joints(["bm25", "dense"])
    {'bm25': ['bm25'], 'dense': ['dense'], 'bm25,dense': ['bm25', 'dense']}
    """
    sizes = range(1, len(retrievers) + 1)
    return {",".join(names): list(names) for size in sizes for names in combinations(retrievers, size)}
