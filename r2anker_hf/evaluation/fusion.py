"""Fusion: one run out of several, by ranks or by normalised scores, with weights that a dev split may choose.

What is decided here, once:

- A document that a run does not list gets the run's lowest value for that query; of reciprocal ranks, 0.
- A run that lacks a query says nothing about it. So does a list of one document or of equal scores, but for its ranks.
- An infinite score counts as the nearest finite score of its list.
- A run of weight 0 takes no part: what it alone lists is not in the fused run.
- Ties stand in Run's order, and the order of the runs changes no bit of a score.
- `within`, such as the run of a ranker, says which documents are fused. The others are left out, as in reranking.
  Lists are cut to these documents before they are normalised, so that all of them speak of one pool.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np

from ..records import InputError
from ..run import Run
from .measures import Qrels, measure_rankings, parse_measure

K = 60  # of reciprocal rank fusion (Cormack et al. 2009)


def reciprocal_rank(scores: np.ndarray, k: int) -> tuple[np.ndarray, float]:
    """1 / (k + rank), ranks from 1 (Cormack, Clarke & Büttcher 2009, SIGIR, `RRFscore`).

    Args:
        scores: [documents], falling; only their order counts.
        k: the larger, the less the first ranks stand out.

    Returns:
        [documents] values, and the value of a document that is not listed.
    """
    return 1.0 / (k + np.arange(1, len(scores) + 1)), 0.0


def minmax(scores: np.ndarray, k: int) -> tuple[np.ndarray, float]:
    """(score - lowest) / (highest - lowest), so from 0 to 1; arguments and returns as `reciprocal_rank`."""
    spread = np.ptp(scores)
    values = (scores - scores.min()) / spread if spread > 0 else np.zeros_like(scores)
    return values, 0.0


def standardise(scores: np.ndarray, k: int) -> tuple[np.ndarray, float]:
    """(score - mean) / standard deviation; arguments and returns as `reciprocal_rank`."""
    deviation = scores.std() if np.ptp(scores) > 0 else 0.0
    values = (scores - scores.mean()) / deviation if deviation > 0 else np.zeros_like(scores)
    return values, float(values.min())


def as_given(scores: np.ndarray, k: int) -> tuple[np.ndarray, float]:
    """The scores themselves, for runs of one scale; arguments and returns as `reciprocal_rank`."""
    return scores, float(scores.min())


METHODS: dict[str, Callable[[np.ndarray, int], tuple[np.ndarray, float]]] = {
    "reciprocal_rank": reciprocal_rank,
    "minmax": minmax,
    "standardise": standardise,
    "as_given": as_given,
}
CHOICES = ("reciprocal_rank", "minmax", "standardise")  # what `choose` tries; as_given fits runs of one scale only


def fuse(
    runs: Sequence[Run],
    method: str = "reciprocal_rank",
    weights: Sequence[float] | None = None,
    *,
    k: int = K,
    within: Run | None = None,
    depth: int | None = None,
    name: str = "fused",
) -> Run:
    """The weighted sum of what `method` makes of each run's scores.

    Args:
        runs: of the same queries.
        method: one of `METHODS`.
        weights: one for each run, at least 0; by default equal, with sum 1.
        k: of reciprocal ranks.
        within: fuse only the documents that this run lists, and only its queries.
        depth: documents kept of each list; None keeps all.
        name: of the fused run.

    Returns:
        A run over all queries of the runs.

    Raises:
        InputError: no run, runs without a common query, an unknown method, or weights that do not fit.

    >>> bm25, dense = Run({"q": [("a", 9.0), ("b", 5.0)]}), Run({"q": [("b", 0.5), ("c", 0.25)]})
    >>> [(document.doc_id, document.score) for document in fuse([bm25, dense], "minmax")["q"]]
    [('b', 0.5), ('a', 0.5), ('c', 0.0)]
    """
    _check(runs, method, within, k)
    weights = [1 / len(runs)] * len(runs) if weights is None else list(weights)
    _check_weights(runs, weights)
    chosen = np.array([weights], dtype=float)
    fused: dict[str, Iterable[tuple[str, float]]] = {}
    for query_id in _queries(runs, within):
        doc_ids, values, listed = _aligned(
            [run.get(query_id, ()) for run in runs], METHODS[method], k, within, query_id
        )
        (sums,) = _sums(values, listed, chosen)
        fused[query_id] = [(d, s) for d, s in zip(doc_ids, sums.tolist(), strict=True) if s > -math.inf]
    run = Run(fused, name)
    return run if depth is None else run.top(depth)


class Point(NamedTuple):
    """One way to fuse, and the mean of the measure over the dev queries."""

    method: str
    weights: tuple[float, ...]
    value: float


def choose(
    qrels: Qrels,
    runs: Sequence[Run],
    measure: str = "nDCG@10",
    methods: Sequence[str] = CHOICES,
    *,
    step: float = 0.1,
    k: int = K,
    within: Run | None = None,
) -> tuple[Point, list[Point]]:
    """Method and weights with the highest mean over the judged queries, out of a grid.

    The grid holds all weights that are multiples of `step` with sum 1, a single run included, and equal weights. Of
    equal means, the more even weights win. Then the method named first wins, then more weight on the runs named
    first.

    Args:
        qrels: judgements of the queries to choose on; never those that are reported.
        runs: of the same queries.
        measure: such as "nDCG@10".
        methods: names in `METHODS`.
        step: 1 divided by a whole number.
        k: of reciprocal ranks.
        within: as in `fuse`.

    Returns:
        The best point, and all of them.

    Raises:
        InputError: as `fuse`; a step that does not divide 1; no judged query in the runs.

    >>> found, lost = Run({"q": [("a", 2.0), ("b", 1.0)]}), Run({"q": [("b", 2.0), ("a", 1.0)]})
    >>> choose({"q": {"a": 1}}, [lost, found], "MRR@10", ["minmax"], step=0.25)[0]
    Point(method='minmax', weights=(0.25, 0.75), value=1.0)
    """
    parsed, grid = parse_measure(measure), simplex(len(runs), step)
    for method in methods:
        _check(runs, method, within, k)
    query_ids = sorted(qrels)
    if not qrels.keys() & set(_queries(runs, within)):
        raise InputError(
            f"none of the queries of run {runs[0].name!r} is judged; are runs and judgements of one split?"
        )
    weights = np.array(grid)
    rankings: list[list[str]] = []
    judgements: list[Mapping[str, int]] = []
    places = np.empty((len(methods), len(grid), len(query_ids)), dtype=int)
    for column, query_id in enumerate(query_ids):
        lists = [run.get(query_id, ()) for run in runs]
        for row, method in enumerate(methods):
            doc_ids, values, listed = _aligned(lists, METHODS[method], k, within, query_id)
            different, which = _tops(_sums(values, listed, weights), parsed.cutoff)
            places[row, :, column] = len(rankings) + which
            rankings += [[doc_ids[place] for place in top if place >= 0] for top in different.tolist()]
            judgements += [qrels[query_id]] * len(different)
    measured = np.array(measure_rankings(rankings, judgements, [parsed])[str(parsed)])
    points = [
        Point(method, one, math.fsum(measured[places[row, line]]) / len(query_ids))
        for row, method in enumerate(methods)
        for line, one in enumerate(grid)
    ]
    return min(points, key=lambda point: _preference(point, methods)), points


def simplex(runs: int, step: float) -> list[tuple[float, ...]]:
    """All weights of so many runs that are multiples of `step` and have sum 1, and equal weights.

    >>> simplex(2, 0.5)
    [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]
    """
    parts = round(1 / step) if step > 0 else 0
    if parts < 1 or abs(parts * step - 1) > 1e-9:
        raise InputError(f"step is {step}, but it must divide 1, such as 0.1 or 0.05")
    bars = itertools.combinations(range(parts + runs - 1), runs - 1)
    ends = ((-1, *places, parts + runs - 1) for places in bars)
    grid = [tuple((b - a - 1) / parts for a, b in itertools.pairwise(places)) for places in ends]
    equal = (1 / runs,) * runs
    return grid if parts % runs == 0 else [*grid, equal]


def _preference(point: Point, methods: Sequence[str]) -> tuple:
    uneven = round(sum(weight * weight for weight in point.weights), 9)
    return -round(point.value, 9), uneven, methods.index(point.method), [-weight for weight in point.weights]


def _check(runs: Sequence[Run], method: str, within: Run | None, k: int) -> None:
    if not runs:
        raise InputError("no run is given, so there is nothing to fuse")
    if method not in METHODS:
        raise InputError(f"no method is called {method!r}; choose among {', '.join(METHODS)}")
    if k < 0:
        raise InputError(f"k is {k}, but reciprocal ranks need at least 0")
    for other in [*runs[1:], *([within] if within else [])]:
        if not runs[0].keys() & other.keys():
            raise InputError(
                f"runs {runs[0].name!r} and {other.name!r} have no query in common; are both of one split?"
            )


def _check_weights(runs: Sequence[Run], weights: Sequence[float]) -> None:
    if len(weights) != len(runs):
        raise InputError(f"{len(weights)} weights are given for {len(runs)} runs")
    for run, weight in zip(runs, weights, strict=True):
        if not 0 <= weight < math.inf:
            raise InputError(f"the weight of run {run.name!r} is {weight}, but a weight is a number from 0")
    if not any(weights):
        raise InputError("all weights are 0, but at least one run must take part")


def _queries(runs: Sequence[Run], within: Run | None) -> list[str]:
    """Every query of the runs, in the order met; only those of `within`, if given."""
    found = list(dict.fromkeys(itertools.chain.from_iterable(runs)))
    for run in runs:
        if missing := len(found) - len(run):
            warnings.warn(f"run {run.name!r} lacks {missing} of {len(found)} queries", stacklevel=3)
    return found if within is None else [query_id for query_id in found if query_id in within]


def _aligned(
    lists: Sequence[Sequence[tuple[str, float]]],
    method: Callable[[np.ndarray, int], tuple[np.ndarray, float]],
    k: int,
    within: Run | None,
    query_id: str,
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """One query's lists side by side.

    Returns:
        The pool's document ids, descending, so that a stable sort by score is Run's order; [documents, runs] values;
        [documents, runs] whether a run lists a document.
    """
    if within is not None:
        kept = {doc_id for doc_id, _ in within.get(query_id, ())}
        lists = [[one for one in ranked if one[0] in kept] for ranked in lists]
    doc_ids = sorted({doc_id for ranked in lists for doc_id, _ in ranked}, reverse=True)
    position = {doc_id: place for place, doc_id in enumerate(doc_ids)}
    values, listed = np.zeros((len(doc_ids), len(lists))), np.zeros((len(doc_ids), len(lists)), dtype=bool)
    for column, ranked in enumerate(lists):
        if ranked:
            places = [position[doc_id] for doc_id, _ in ranked]
            found, absent = method(_finite(np.array([score for _, score in ranked])), k)
            values[:, column] = absent
            values[places, column] = found
            listed[places, column] = True
    return doc_ids, values, listed


def _finite(scores: np.ndarray) -> np.ndarray:
    finite = scores[np.isfinite(scores)]
    return np.clip(scores, finite.min(), finite.max()) if len(finite) else np.zeros_like(scores)


def _sums(values: np.ndarray, listed: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[grid, documents] weighted sums, -inf where no run that takes part lists the document.

    Terms are added in the order of their size: documents with exchanged ranks tie exactly, in any order of the runs.

    Args:
        values: [documents, runs].
        listed: [documents, runs].
        weights: [grid, runs].
    """
    terms = weights[:, None, :] * values[None]
    if terms.shape[2] > 2:  # two terms have one sum in either order
        terms.sort(axis=2)
    sums = reduce(np.add, (terms[:, :, column] for column in range(terms.shape[2])))
    return np.where((weights > 0) @ listed.T, sums, -np.inf)


def _tops(sums: np.ndarray, cutoff: int) -> tuple[np.ndarray, np.ndarray]:
    """The different top lists of a grid, as places in the pool with -1 for none, and which of them each point has."""
    order = np.argsort(-sums, axis=1, kind="stable")[:, :cutoff]
    order[np.take_along_axis(sums, order, axis=1) == -np.inf] = -1
    if not order.shape[1]:
        return order[:1], np.zeros(len(sums), dtype=int)
    different, which = np.unique(order, axis=0, return_inverse=True)
    return different, which.reshape(-1)
