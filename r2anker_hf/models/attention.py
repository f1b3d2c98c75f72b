"""Attention for pairs of texts: over pairs laid end to end without padding, and as plain products on a CPU.

PyTorch's fused attention has a backward pass on CPUs that does not use their matrix units: with pairs of 100 tokens
it takes over half of a training step in bfloat16. Products of short matrices do, and the scores of short texts fit in
the cache. On CPUs that have no matrix units but AVX512_BF16, products make a step 1.1 to 1.5 times as fast.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.utils import is_flash_attn_2_available

NAME = "r2anker_matmul"
HALF = (torch.float16, torch.bfloat16)


def override_dropout(model: torch.nn.Module, share: float | None) -> None:
    """Set what all dropout layers drop, attention's included; None leaves a model its own.

    On a CPU random numbers are drawn one by one: they may take a third of a training step.
    """
    if share is not None:
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = share


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
    return _products(query, key, value, attention_mask, scaling, dropout * module.training).transpose(1, 2), None


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    cu_seq_lens_k: torch.Tensor | None = None,
    max_length_q: int = 0,
    max_length_k: int = 0,
    lengths_q: np.ndarray | None = None,
    lengths_k: np.ndarray | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """Attention within each of the pairs that lie end to end; where no pairs are marked, plain attention.

    On CUDA one kernel takes all pairs: flash-attn if it is installed, else `torch.nn.attention.varlen`. The latter
    cannot drop attention weights out, so PyTorch's nested tensors do that. Elsewhere pairs of equal length, which
    lie side by side in a sorted batch, are one batched product: nothing is padded there either.

    Args:
        module: the layer; tells whether it trains.
        query: [1, heads, tokens of all pairs, head size]; it may have other tokens than `key`.
        key: like `query`.
        value: like `key`.
        attention_mask: of a padded batch.
        scaling: default one over the root of the head size.
        dropout: share of attention weights set to 0 in training.
        sliding_window: a token sees those less than this far away; default all.
        cu_seq_lens_q: [pairs + 1] where each pair's queries begin, then their number.
        cu_seq_lens_k: the same for keys and values.
        max_length_q: queries of the longest pair.
        max_length_k: keys of the longest pair.
        lengths_q: [pairs] queries of each pair, on the host: every layer reads them, and would wait for the device.
        lengths_k: the same for keys and values.
        kwargs: what other implementations take.

    Returns:
        [1, tokens of all pairs, heads, head size], and no weights.
    """
    dropout = dropout * module.training
    if lengths_q is None or lengths_k is None:
        if attention_mask is None and sliding_window is not None:
            attention_mask = _window(query, key, sliding_window)
        return _dense(query, key, value, attention_mask, scaling, dropout, module.training).transpose(1, 2), None
    one_kernel = query.is_cuda and query.dtype in HALF and query.shape[-1] % 8 == 0
    if not one_kernel or (dropout and sliding_window and not is_flash_attn_2_available()):
        return by_length(
            query, key, value, lengths_q, lengths_k, scaling, dropout, sliding_window, module.training
        ), None
    q, k, v = (values[0].transpose(0, 1) for values in (query, key, value))  # [tokens, heads, head size]
    starts: tuple[Any, Any] = cu_seq_lens_q, cu_seq_lens_k  # given wherever lengths are
    window = (-1, -1) if sliding_window is None else (sliding_window - 1, sliding_window - 1)
    if is_flash_attn_2_available():
        from flash_attn import flash_attn_varlen_func

        options = {"dropout_p": dropout, "softmax_scale": scaling, "window_size": window}
        output = flash_attn_varlen_func(q, k, v, *starts, max_length_q, max_length_k, **options)
    elif dropout:
        output = nested(q, k, v, *starts, lengths_q, lengths_k, scaling, dropout)
    else:
        from torch.nn.attention.varlen import varlen_attn

        longest = max_length_q, max_length_k
        output = varlen_attn(q, k, v, *starts, *longest, scale=scaling, window_size=window)
    return output[None], None


_padded_mask: Callable[..., torch.Tensor | None] = sdpa_mask


def packed_mask(*args: object, attention_mask: torch.Tensor | None = None, **kwargs: object) -> torch.Tensor | None:
    """No mask for a packed batch, which needs none; for a padded one that of PyTorch's attention."""
    return None if attention_mask is None else _padded_mask(*args, attention_mask=attention_mask, **kwargs)


def by_length(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths_q: np.ndarray,
    lengths_k: np.ndarray,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    training: bool = False,
) -> torch.Tensor:
    """Attention within each pair, neighbours of equal length as one batch. Shapes as in `packed_attention`."""
    sizes = zip(lengths_q.tolist(), lengths_k.tolist(), strict=True)
    runs = [(size, len(list(members))) for size, members in groupby(sizes)]
    rows_q, rows_k = ([size[side] * count for size, count in runs] for side in (0, 1))
    parts = zip(runs, query.split(rows_q, dim=2), key.split(rows_k, dim=2), value.split(rows_k, dim=2), strict=True)
    outputs = []
    for ((length_q, length_k), count), q, k, v in parts:
        q, k, v = _batched(q, count, length_q), _batched(k, count, length_k), _batched(v, count, length_k)
        mask = None if sliding_window is None else _window(q, k, sliding_window)
        outputs.append(_dense(q, k, v, mask, scaling, dropout, training).transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)[None]


def nested(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    starts_q: torch.Tensor,
    starts_k: torch.Tensor,
    lengths_q: np.ndarray,
    lengths_k: np.ndarray,
    scaling: float | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Attention within each pair by nested tensors: [tokens, heads, head size], the same for the output."""
    parts = (query, starts_q, lengths_q), (key, starts_k, lengths_k), (value, starts_k, lengths_k)
    q, k, v = (_nested(*part).transpose(1, 2) for part in parts)
    output = torch.nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling)
    return output.transpose(1, 2).values()


def _nested(values: torch.Tensor, starts: torch.Tensor, lengths: np.ndarray) -> torch.Tensor:
    # both extremes given: PyTorch would otherwise read them from the device, in every layer
    shortest, longest = int(lengths.min()), int(lengths.max())
    return torch.nested.nested_tensor_from_jagged(values, starts, min_seqlen=shortest, max_seqlen=longest)


def use_matmul_attention(model: PreTrainedModel) -> None:
    """Switch a model to `matmul_attention`; one whose architecture fixes its attention stays as it is."""
    if model._supports_attention_backend and model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, matmul_attention)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)


def _batched(values: torch.Tensor, count: int, length: int) -> torch.Tensor:
    """[1, heads, count * length, head size] to [count, heads, length, head size]."""
    return values[0].unflatten(1, (count, length)).transpose(0, 1)


def _window(query: torch.Tensor, key: torch.Tensor, sliding_window: int) -> torch.Tensor:
    """[queries, keys], True where a query's token is less than `sliding_window` away from the key's."""
    rows, columns = (torch.arange(values.shape[2], device=query.device) for values in (query, key))
    return (rows[:, None] - columns).abs() < sliding_window


def _dense(query, key, value, mask, scaling, dropout, training) -> torch.Tensor:
    """[pairs, heads, tokens, head size]: by products where they are faster, by PyTorch's attention elsewhere."""
    # in training also without gradients: a gradient cache's two passes must drop the same weights
    if query.device.type == "cpu" and training and query.dtype in HALF:
        return _products(query, key, value, mask, scaling, dropout)
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, mask, dropout, scale=scaling)


def _products(query, key, value, mask, scaling, dropout) -> torch.Tensor:
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query * scaling, key.transpose(2, 3))
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    # dtype given: autocast would otherwise copy every score to float32 and back
    weights = torch.nn.functional.softmax(scores, dim=-1, dtype=scores.dtype)
    weights = torch.nn.functional.dropout(weights, dropout) if dropout else weights
    return torch.matmul(weights, value)
