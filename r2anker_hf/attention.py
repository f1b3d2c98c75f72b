"""Attention as two matrix products, for training in bfloat16 on a CPU.

PyTorch's fused attention has a backward pass on CPUs that does not use their matrix units: with pairs of 100 tokens
it takes over half of a training step. Products of short matrices do, and the scores of short texts fit in the cache.
"""

from __future__ import annotations

import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "r2anker_matmul"


def matmul_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """softmax(query key^T * scaling) value, in the signature of transformers' attention interface.

    Args:
        module: the layer; tells whether it trains.
        query: [pairs, heads, tokens, head size].
        key: like `query`.
        value: like `query`.
        attention_mask: bool, broadcastable to [pairs, heads, tokens, tokens], False where a token is padding; or None.
        scaling: default one over the root of the head size.
        dropout: share of attention weights set to 0 in training.
        kwargs: what other implementations take.

    Returns:
        [pairs, tokens, heads, head size], and no weights.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query * scaling, key.transpose(2, 3))
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    # dtype given: autocast would otherwise copy every score to float32 and back
    weights = torch.nn.functional.softmax(scores, dim=-1, dtype=scores.dtype)
    weights = torch.nn.functional.dropout(weights, dropout, module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), None


def use_matmul_attention(model: PreTrainedModel) -> None:
    """Switch a model to `matmul_attention`; one whose architecture fixes its attention stays as it is."""
    if model._supports_attention_backend and model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, matmul_attention)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)
