"""Ranking losses: pure functions (scores, labels, mask) -> one value a query."""

from __future__ import annotations

import torch


def softmax_cross_entropy(scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    r"""Negative log-probability of the positive among its group.

    R2ANKER, Eq. 4-5:  -log( exp(s_+) / sum_{d in group} exp(s_d) ).  With several positives in one list, the mean
    of their negative log-probabilities; with one, exactly the paper's.

    Args:
        scores: [queries, list_size] raw logits, any real; masked entries may hold anything.
        labels: [queries, list_size], 1 for a positive and 0 for a negative.
        mask: [queries, list_size], nonzero for a real document.

    Returns:
        [queries], nats a query; 0 where a list has no positive, or nothing but one document.

    Raises:
        ValueError: the shapes differ.

    >>> softmax_cross_entropy(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[1, 1]]))
    tensor([0.3133])
    """
    if not scores.shape == labels.shape == mask.shape:
        raise ValueError(f"shapes differ: scores {scores.shape}, labels {labels.shape}, mask {mask.shape}")
    real = mask.bool()
    # float32 whatever the model's precision: a difference of logits is all that this loss sees
    log_p = scores.float().masked_fill(~real, -torch.inf).log_softmax(dim=-1)
    positive = real & (labels > 0)
    total = torch.where(positive, -log_p, 0.0).sum(dim=-1)
    return total / positive.sum(dim=-1).clamp(min=1)
