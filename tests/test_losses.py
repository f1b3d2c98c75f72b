"""The listwise objective: its value by hand, what may not change it, and its gradient."""

import math

import pytest
import torch

from r2anker_hf.rankers import losses
from r2anker_hf.rankers.losses import kl_divergence, softmax_cross_entropy

LOSSES = [softmax_cross_entropy, kl_divergence]
"""Every loss: what may change none of them is tested for each."""


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


@pytest.fixture(params=LOSSES, ids=lambda loss: loss.__name__)
def loss(request):
    return request.param


def lists(seed, queries=3, size=6):
    """Scores, labels with one positive per list, and a mask without padding."""
    scores = torch.randn(queries, size, generator=torch.Generator().manual_seed(seed))
    return scores, torch.eye(queries, size), torch.ones(queries, size, dtype=torch.long)


@pytest.mark.parametrize("seed", range(5))
def test_permutation_padding_and_shift_change_nothing(loss, seed):
    scores, labels, mask = lists(seed)
    expected = loss(scores, labels, mask)
    assert (expected > 0).all()
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(loss(scores[:, order], labels[:, order], mask), expected)
    assert torch.allclose(loss(scores + 7, labels, mask), expected, atol=1e-6)
    nonsense = torch.full((3, 2), 50.0)
    tails = [(scores, nonsense), (labels, nonsense), (mask, mask[:, :2] * 0)]
    assert torch.allclose(loss(*(torch.cat(parts, dim=1) for parts in tails)), expected)


def test_batch_is_its_queries_one_by_one(loss):
    scores, labels, mask = lists(seed=0, queries=4, size=5)
    mask[::2, -1] = 0
    singles = [loss(*(part[i : i + 1] for part in (scores, labels, mask))) for i in range(4)]
    assert torch.allclose(loss(scores, labels, mask), torch.cat(singles))


def test_a_list_without_documents_costs_nothing_and_has_no_gradient(loss):
    scores, labels, mask = lists(seed=0)
    mask[1] = 0
    values = loss(scores.requires_grad_(), labels, mask)
    values.sum().backward()
    assert values[1] == 0 and (scores.grad[1] == 0).all()
    assert values[0] > 0 and scores.grad[0].abs().max() > 0


def test_gradient_is_that_of_finite_differences(loss):
    scores, labels, mask = lists(seed=1, queries=2, size=4)
    mask[1, -1] = 0
    loss(scores.requires_grad_(), labels, mask).sum().backward()
    step, plain = 1e-2, scores.detach()
    for place in range(plain.numel()):
        change = torch.zeros(plain.numel())
        change[place] = step
        above, below = (loss(plain + sign * change.view_as(plain), labels, mask).sum() for sign in (1, -1))
        assert scores.grad.flatten()[place].item() == pytest.approx(((above - below) / (2 * step)).item(), abs=1e-3)


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


def test_shapes_that_differ_are_refused(loss):
    with pytest.raises(ValueError, match="shapes differ"):
        loss(torch.zeros(1, 2), torch.zeros(1, 3), torch.zeros(1, 2))


def test_every_loss_is_tested():
    made = [value for value in vars(losses).values() if getattr(value, "__module__", "") == losses.__name__]
    assert made == LOSSES
