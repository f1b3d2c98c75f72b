"""How far a ranker's scores agree with a teacher's over the same documents: divergence and rank correlation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from ..records import InputError
from ..run import Run


class Agreement(NamedTuple):
    """Means over queries.

    Attributes:
        kl: KL(teacher || ranker) in nats; 0 where both give each document the same share.
        tau: Kendall's tau-b, from -1 to 1; 1 for the same order.
        queries: of the means: those with two documents at least that both score.
    """

    kl: float
    tau: float
    queries: int


def agreement(run: Run, teacher: Run, temperature: float = 1.0) -> Agreement:
    """Agreement of a run with a teacher's, over the documents that both score.

    The divergence is what a training with objective `ranker` lowers: the teacher's scores are divided by the
    temperature, the run's are not. A query whose documents all have the same score in one of the two has no order.
    It counts 0 in tau.

    Args:
        run: a ranker's logits over its pool.
        teacher: any scores, such as a fused run's.
        temperature: of the teacher's scores.

    Raises:
        InputError: no query has two documents in common.

    >>> one, other = Run({"q": [("a", 2.0), ("b", 1.0)]}), Run({"q": [("a", 0.0), ("b", 1.0)]})
    >>> agreement(one, one), agreement(one, other).tau
    (Agreement(kl=0.0, tau=1.0, queries=1), -1.0)
    """
    import torch
    from scipy.stats import kendalltau

    from .losses import kl_divergence

    divergences, correlations = [], []
    for query_id in run:
        known = _scores(teacher, query_id)
        pairs = [(document.score, known[document.doc_id]) for document in run[query_id] if document.doc_id in known]
        if len(pairs) < 2:
            continue
        own, taught = torch.tensor(pairs).T.unsqueeze(1)
        divergences.append(kl_divergence(own, taught, torch.ones_like(own), temperature).item())
        tau = kendalltau(*zip(*pairs, strict=True)).statistic
        correlations.append(0.0 if math.isnan(tau) else float(tau))
    if not divergences:
        raise InputError(f"runs {run.name!r} and {teacher.name!r} have no query with two documents in common")
    count = len(divergences)
    return Agreement(math.fsum(divergences) / count, math.fsum(correlations) / count, count)


def _scores(run: Run, query_id: str) -> Mapping[str, float]:
    return {document.doc_id: document.score for document in run.get(query_id, ())}
