"""Calibrated scores: how probable it is that a document is relevant, out of a ranker's logit.

A listwise loss fixes differences within a query only, so logits of different queries cannot be compared. Two numbers
that dev queries choose turn them into probabilities, and leave every order as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..evaluation.measures import Qrels
from ..records import InputError
from ..run import Run

BINS = 15  # of equal width between 0 and 1 (Guo et al. 2017, section 5)
PRECISION = 0.9  # that a threshold is looked for, where nobody says which
DIGITS = 8  # significant ones, of what is stored


@dataclass(frozen=True)
class Calibration:
    """How logits become probabilities, p = sigmoid(logit / temperature + bias), and how good these are.

    Attributes:
        temperature: above 0, so that the order stays.
        bias: added to the divided logit.
        expected_calibration_error: mean distance of probability and share of relevant documents, over `BINS` bins;
            each half of the queries was scored by the fit of the other half.
        uncalibrated_error: the same of the plain sigmoid.
        precision: that the threshold was chosen for.
        threshold: the lowest probability from which on that share of documents is relevant; None where none is.
        recall: share of the run's relevant documents at or above it; None as well.
        queries: that it was fitted on.
        documents: pairs of query and document.
        relevant: those of them that are relevant.
    """

    temperature: float
    bias: float
    expected_calibration_error: float
    uncalibrated_error: float
    precision: float
    threshold: float | None
    recall: float | None
    queries: int
    documents: int
    relevant: int

    @classmethod
    def read(cls, stated: Mapping[str, Any], where: object) -> Calibration:
        """What a config.json states.

        Raises:
            InputError: other names than these, or a temperature that would turn the order around.
        """
        try:
            made = cls(**stated)
        except TypeError as error:
            raise InputError(f"{where}: r2anker.calibration is not as this version writes it ({error})") from None
        if not made.temperature > 0:
            raise InputError(f"{where}: the temperature is {made.temperature}, but must be above 0")
        return made

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """[documents] probabilities of being relevant, of [documents] logits.

        >>> made = Calibration(2.0, -1.0, 0.0, 0.0, 0.9, None, None, 0, 0, 0)
        >>> made.probabilities(np.array([2.0, 4.0])).round(4).tolist()
        [0.5, 0.7311]
        """
        return _sigmoid(np.asarray(scores, np.float64) / self.temperature + self.bias)


def calibrate(run: Run, qrels: Qrels, precision: float = PRECISION) -> Calibration:
    """Fit temperature and bias on a ranker's run, by logistic regression of relevance on the logit (Platt 1999).

    A document counts as relevant from grade 1 on; an unjudged one does not. Queries without judgements are left out.

    Args:
        run: what the ranker made of a first stage, over queries that it was not trained on.
        qrels: their judgements.
        precision: share of relevant documents that a threshold is looked for.

    Raises:
        InputError: fewer than two queries with relevant and other documents in each half; scores that do not rise
            with relevance; a precision that is none.

    >>> lists = {f"q{n}": [("a", 3.0), ("b", 1.0), ("c", 0.0)] for n in range(4)}
    >>> made = calibrate(Run(lists), {query_id: {"a": 1} for query_id in lists})
    >>> made.documents, made.relevant, made.recall
    (12, 4, 1.0)
    """
    if not 0 < precision <= 1:
        raise InputError(f"precision is {precision}, but must be above 0 and at most 1")
    scores, relevant, half = _pairs(run, qrels)
    slope, bias = _fit(scores, relevant)
    if not slope > 0:
        raise InputError(f"{run.name}: relevant documents do not score higher than others; nothing to calibrate")
    held_out = np.empty_like(scores)
    for side in (0, 1):
        other_slope, other_bias = _fit(scores[half != side], relevant[half != side])
        held_out[half == side] = _sigmoid(scores[half == side] * other_slope + other_bias)
    cut, recall = _threshold(scores, relevant, precision)
    return Calibration(
        temperature=_rounded(1 / slope),
        bias=_rounded(bias),
        expected_calibration_error=_rounded(calibration_error(held_out, relevant)),
        uncalibrated_error=_rounded(calibration_error(_sigmoid(scores), relevant)),
        precision=precision,
        threshold=None if cut is None else _rounded(_sigmoid(cut * slope + bias)),
        recall=None if recall is None else _rounded(recall),
        queries=sum(query_id in qrels for query_id in run),
        documents=len(scores),
        relevant=int(relevant.sum()),
    )


def calibration_error(probabilities: np.ndarray, relevant: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: sum over bins of n_b / n |mean probability - share of relevant| (Guo et al., eq. 3).

    Args:
        probabilities: [documents] between 0 and 1.
        relevant: [documents] whether each is.
        bins: of equal width; empty ones count nothing.

    >>> round(calibration_error(np.array([0.9, 0.9, 0.1, 0.1]), np.array([True, False, False, False])), 6)
    0.25
    """
    places = np.minimum((probabilities * bins).astype(int), bins - 1)
    gaps = np.bincount(places, weights=probabilities - relevant, minlength=bins)
    return float(np.abs(gaps).sum() / len(probabilities))


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _pairs(run: Run, qrels: Qrels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[documents] logit, relevance, and the half that the query belongs to, of all judged queries."""
    rows = [
        (document.score, qrels[query_id].get(document.doc_id, 0) >= 1, number % 2)
        for number, query_id in enumerate(sorted(query_id for query_id in run if query_id in qrels))
        for document in run[query_id]
    ]
    scores, relevant, half = (np.array([row[column] for row in rows]) for column in range(3))
    for side in (0, 1):
        if len(set(relevant[half == side].tolist())) < 2:
            raise InputError(
                f"{run.name}: {len(rows)} scores of judged queries are too few to calibrate on; each half of the "
                "queries needs relevant and other documents"
            )
    return scores.astype(np.float64), relevant.astype(bool), half


def _sigmoid(logits: Any) -> Any:
    from scipy.special import expit

    return expit(logits)


def _fit(scores: np.ndarray, relevant: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of the logistic regression, with Platt's targets, which keep both finite."""
    from scipy.optimize import minimize
    from scipy.special import logit

    ones, zeros = int(relevant.sum()), int((~relevant).sum())
    targets = np.where(relevant, (ones + 1) / (ones + 2), 1 / (zeros + 2))
    middle, spread = scores.mean(), scores.std() or 1.0
    standard = (scores - middle) / spread

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = weights[0] * standard + weights[1]
        apart = _sigmoid(logits) - targets
        return np.mean(np.logaddexp(0, logits) - targets * logits), np.array([apart @ standard, apart.sum()]) / len(
            apart
        )

    start = np.array([1.0, logit(targets.mean())])
    slope, intercept = minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-9}).x
    return float(slope / spread), float(intercept - slope * middle / spread)


def _threshold(scores: np.ndarray, relevant: np.ndarray, precision: float) -> tuple[float | None, float | None]:
    """The lowest logit from which on this share is relevant, and the recall there; half-way to the next lower one."""
    order = np.argsort(-scores, kind="stable")
    ranked, found = scores[order], np.cumsum(relevant[order])
    last = np.append(ranked[:-1] != ranked[1:], True)  # equal scores are on one side
    enough = np.flatnonzero(last & (found / np.arange(1, len(found) + 1) >= precision))
    if not len(enough):
        return None, None
    end = enough[-1]
    below = ranked[end + 1] if end + 1 < len(ranked) else ranked[end]
    return float((ranked[end] + below) / 2), float(found[end] / found[-1])
