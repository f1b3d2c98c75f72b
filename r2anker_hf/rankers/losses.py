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


def kl_divergence(
    scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    r"""Divergence of the group's distribution from a teacher's: KL(teacher || student), R2ANKER, appendix C.

    sum_d t_d ( log t_d - log p_d )  with  t = softmax(labels / temperature)  and  p = softmax(scores).

    Args:
        scores: [queries, list_size] raw logits of the student.
        labels: [queries, list_size] scores of the teacher, any real.
        mask: [queries, list_size], nonzero for a real document.
        temperature: above 0; the smaller, the more of the teacher's mass lies on its favourite.

    Returns:
        [queries], nats a query; 0 where both distributions are equal, or a list has one document.

    Raises:
        ValueError: the shapes differ.

    >>> kl_divergence(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]]), torch.tensor([[1, 1]]))
    tensor([0.1201])
    """
    if not scores.shape == labels.shape == mask.shape:
        raise ValueError(f"shapes differ: scores {scores.shape}, labels {labels.shape}, mask {mask.shape}")
    real = mask.bool()
    log_p = scores.float().masked_fill(~real, -torch.inf).log_softmax(dim=-1)
    log_t = (labels.float() / temperature).masked_fill(~real, -torch.inf).log_softmax(dim=-1)
    return torch.where(real, log_t.exp() * (log_t - log_p), 0.0).sum(dim=-1)
