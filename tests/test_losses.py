"""The listwise objective: its value by hand, what may not change it, and its gradient."""

import math

import pytest
import torch

from r2anker_hf.rankers.losses import kl_divergence, softmax_cross_entropy


def test_value_by_hand():
    scores = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 9.0]])
    labels = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    first = -math.log(math.exp(2) / (math.exp(2) + math.exp(1) + math.exp(0)))
    second = -math.log(math.exp(3) / (math.exp(0) + math.exp(3)))
    assert softmax_cross_entropy(scores, labels, mask).tolist() == pytest.approx([first, second], abs=1e-6)


def test_several_positives_average_and_a_lone_document_costs_nothing():
    two = softmax_cross_entropy(torch.zeros(1, 4), torch.tensor([[1.0, 1.0, 0.0, 0.0]]), torch.ones(1, 4))
    assert two.tolist() == pytest.approx([math.log(4)])
    lone = softmax_cross_entropy(torch.tensor([[5.0, 1.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[1, 0]]))
    assert lone.tolist() == [0.0]


def test_no_positive_is_zero_and_has_no_gradient():
    scores = torch.randn(1, 3, requires_grad=True)
    loss = softmax_cross_entropy(scores, torch.zeros(1, 3), torch.ones(1, 3))
    loss.sum().backward()
    assert loss.tolist() == [0.0] and scores.grad.abs().max() == 0


@pytest.mark.parametrize("seed", range(5))
def test_permutation_padding_and_shift_change_nothing(seed):
    generator = torch.Generator().manual_seed(seed)
    scores, labels = torch.randn(3, 6, generator=generator), torch.zeros(3, 6)
    labels[:, 2] = 1
    mask = torch.ones(3, 6, dtype=torch.long)
    expected = softmax_cross_entropy(scores, labels, mask)
    order = torch.randperm(6, generator=generator)
    assert torch.allclose(softmax_cross_entropy(scores[:, order], labels[:, order], mask), expected)
    assert torch.allclose(softmax_cross_entropy(scores + 7, labels, mask), expected, atol=1e-6)
    nonsense = torch.full((3, 2), 50.0)
    tails = [(scores, nonsense), (labels, nonsense), (mask, mask[:, :2] * 0)]
    padded = [torch.cat(parts, dim=1) for parts in tails]
    assert torch.allclose(softmax_cross_entropy(*padded), expected)


def test_batch_is_its_queries_one_by_one():
    scores, labels = torch.randn(4, 5), torch.eye(4, 5)
    mask = torch.tensor([[1, 1, 1, 1, last] for last in (0, 1, 0, 1)])
    singles = [softmax_cross_entropy(*(part[i : i + 1] for part in (scores, labels, mask))) for i in range(4)]
    assert torch.allclose(softmax_cross_entropy(scores, labels, mask), torch.cat(singles))


def test_gradient_is_softmax_minus_label():
    scores = torch.tensor([[1.0, -1.0, 0.5]], requires_grad=True)
    softmax_cross_entropy(scores, torch.tensor([[0.0, 1.0, 0.0]]), torch.ones(1, 3)).sum().backward()
    assert torch.allclose(scores.grad, scores.detach().softmax(-1) - torch.tensor([[0.0, 1.0, 0.0]]), atol=1e-6)


def test_half_precision_scores_lose_nothing_more():
    scores = torch.tensor([[300.0, 299.0]], dtype=torch.bfloat16)
    loss = softmax_cross_entropy(scores, torch.tensor([[1.0, 0.0]]), torch.ones(1, 2))
    assert loss.dtype == torch.float32 and torch.isfinite(loss).all()


def test_divergence_by_hand():
    scores, teacher, mask = (
        torch.tensor([[1.0, 0.0, 9.0]]),
        torch.tensor([[0.5, 0.0, -3.0]]),
        torch.tensor([[1, 1, 0]]),
    )
    p = math.exp(1) / (math.exp(1) + 1)
    t = math.exp(0.5 / 0.25) / (math.exp(0.5 / 0.25) + 1)  # temperature 0.25
    expected = t * math.log(t / p) + (1 - t) * math.log((1 - t) / (1 - p))
    assert kl_divergence(scores, teacher, mask, temperature=0.25).tolist() == pytest.approx([expected], abs=1e-6)


def test_divergence_is_zero_from_itself_and_blind_to_padding_and_shift():
    scores, mask = torch.randn(3, 4), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    assert kl_divergence(scores, scores + 3, mask).tolist() == pytest.approx([0, 0, 0], abs=1e-6)
    teacher = torch.randn(3, 4)
    other = torch.where(mask.bool(), scores, torch.full_like(scores, 70.0))
    assert torch.allclose(kl_divergence(other, teacher, mask), kl_divergence(scores, teacher, mask), atol=1e-6)
    assert (kl_divergence(scores, teacher, mask) > -1e-6).all()


def test_divergence_has_the_gradient_of_student_minus_teacher():
    scores = torch.tensor([[1.0, -1.0, 0.5]], requires_grad=True)
    teacher = torch.tensor([[0.0, 2.0, 0.0]])
    kl_divergence(scores, teacher, torch.ones(1, 3)).sum().backward()
    assert torch.allclose(scores.grad, scores.detach().softmax(-1) - teacher.softmax(-1), atol=1e-6)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="shapes differ"):
        kl_divergence(torch.zeros(1, 2), torch.zeros(1, 3), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="shapes differ"):
        softmax_cross_entropy(torch.zeros(1, 2), torch.zeros(1, 3), torch.zeros(1, 2))
