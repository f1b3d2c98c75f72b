"""A packed batch in chunks under FSDP2, each process with its half of the pairs: python fsdp_toy.py MODEL."""

import sys
from contextlib import contextmanager

import torch
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForSequenceClassification

from r2anker_hf.gradient_cache import cached_backward
from r2anker_hf.padding_free import forward, is_padding_free, use_padding_free
from r2anker_hf.processes import processes


def chunks_of(model, rows):
    ids = torch.randint(5, 60, (8, 20), generator=torch.Generator().manual_seed(3))
    lengths = torch.tensor([20, 19, 12, 12, 7, 5, 3, 2])
    return [lambda row=row: forward(model, {"input_ids": ids[row : row + 1]}, lengths[row : row + 1]) for row in rows]


def load(path):
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    assert use_padding_free(model)
    return model


if __name__ == "__main__":
    rank = processes().process_index
    alone, sharded = load(sys.argv[1]), load(sys.argv[1])
    for layer in sharded.bert.encoder.layer:
        fully_shard(layer)
    fully_shard(sharded)
    assert is_padding_free(sharded)

    @contextmanager
    def unsynchronised():
        sharded.set_requires_gradient_sync(False)
        yield
        sharded.set_requires_gradient_sync(True)

    cached_backward(
        chunks_of(sharded, range(rank, 8, 2)),
        lambda logits: logits.square().mean(),
        torch.Tensor.backward,
        unsynchronised,
    )
    torch.cat([chunk() for chunk in chunks_of(alone, range(8))]).square().mean().backward()
    for (name, weights), other in zip(sharded.named_parameters(), alone.parameters(), strict=True):
        assert type(weights.data).__name__ == "DTensor"
        assert torch.allclose(weights.grad.full_tensor(), other.grad, atol=1e-5), name
    print("equal")
