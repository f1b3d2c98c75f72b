"""Groups of any size in fixed memory: gradient cache at the logits (Gao et al. 2021, RepL4NLP), for rankers.

A listwise loss sees nothing of a pair but its logit. So a step scores all pairs without a graph and takes the
loss's gradient at the logits. Then it runs the pairs again in chunks, each with its graph and its share of that
gradient. The second run starts every chunk from the random state of the first, so that dropout drops the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch


def cached_backward(
    chunks: Sequence[Callable[[], torch.Tensor]],
    loss: Callable[[torch.Tensor], torch.Tensor],
    backward: Callable[[torch.Tensor], None] = torch.Tensor.backward,
    unsynchronised: Callable[[], AbstractContextManager] = nullcontext,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of `loss(torch.cat([chunk() for chunk in chunks]))`, one chunk's graph in memory at a time.

    Args:
        chunks: each gives the [pairs] logits of a part of the pairs; called twice.
        loss: a scalar from the [pairs] logits of all.
        backward: of a scalar, such as the accelerator's.
        unsynchronised: surrounds all chunks but the last, where processes must not exchange gradients yet.

    Returns:
        The loss, and the [pairs] logits, both without graph.
    """
    states, logits = [], []
    with torch.no_grad():
        for chunk in chunks:
            states.append(_random_state())
            logits.append(chunk())
    scores = torch.cat(logits).requires_grad_()
    value = loss(scores)
    (gradient,) = torch.autograd.grad(value, scores)
    shares = gradient.split([len(part) for part in logits])
    for number, (chunk, state, share) in enumerate(zip(chunks, states, shares, strict=True)):
        with nullcontext() if number == len(chunks) - 1 else unsynchronised():
            _restore(state)
            backward((chunk() * share).sum())
    return value.detach(), scores.detach()


def bytes_a_token(run: Callable[[int], torch.Tensor], tokens: int, parameters: Sequence[torch.Tensor]) -> float:
    """What the graph of a forward pass holds for the backward pass, in bytes a token.

    Args:
        run: the forward pass of so many pairs.
        tokens: of each of these pairs.
        parameters: not counted, since they are there anyway.
    """
    few, many = 2, 6  # the difference leaves out what does not grow with the pairs, such as weights in bfloat16
    held = [_held_for_backward(run, pairs, parameters) for pairs in (few, many)]
    return (held[1] - held[0]) / ((many - few) * tokens)


def _held_for_backward(run: Callable[[int], torch.Tensor], pairs: int, parameters: Sequence[torch.Tensor]) -> int:
    known = {weights.untyped_storage().data_ptr() for weights in parameters}
    held: dict[int, int] = {}

    def keep(values: torch.Tensor) -> torch.Tensor:
        storage = values.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return values

    state = _random_state()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda values: values):
        output = run(pairs)
    _restore(state)
    del output
    return sum(size for address, size in held.items() if address not in known)


def _random_state() -> tuple[torch.Tensor, torch.Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None


def _restore(state: tuple[torch.Tensor, torch.Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])
