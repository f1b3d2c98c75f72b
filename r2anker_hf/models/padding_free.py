"""Cross-encoders without padding: pairs laid end to end, attention within each, the head on each first token.

Two exact savings over the padded forward pass of transformers. No token of padding is computed. The head reads the
last layer at the first token only, so only that token's row is computed there. That is one layer in twelve of
BERT-base and one in six of MiniLM, in training as in inference.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .attention import packed_attention, packed_mask

NAME = "r2anker_padding_free"

# Where each architecture keeps its layers. Those whose layers are built as BERT's also skip the last layer's rows.
LAYERS = {
    "bert": "bert.encoder.layer",
    "ernie": "ernie.encoder.layer",
    "electra": "electra.encoder.layer",
    "roberta": "roberta.encoder.layer",
    "xlm-roberta": "roberta.encoder.layer",
    "distilbert": "distilbert.transformer.layer",
    "modernbert": "model.layers",
}
BUILT_AS_BERT = ("bert", "ernie", "electra", "roberta", "xlm-roberta")
COUNT_FROM_PADDING_ID = ("roberta", "xlm-roberta")  # their first position is the padding token's id + 1


def use_padding_free(model: PreTrainedModel) -> bool:
    """Let `forward` run this model without padding. A plain, padded call still works and gives the same.

    Args:
        model: a sequence classifier that reads its first token.

    Returns:
        False, with a warning that says why, for a model that `forward` pads.
    """
    if is_padding_free(model):
        return True
    kind = model.config.model_type
    if kind not in LAYERS or getattr(model.config, "classifier_pooling", "cls") != "cls":
        reason = f"its model_type is {kind!r}" if kind not in LAYERS else "it pools by the mean"
        warnings.warn(f"{model.name_or_path}: runs with padding, {reason}; without: {', '.join(LAYERS)}", stacklevel=2)
        return False
    use_packed_attention(model)
    layers: Any = model.get_submodule(LAYERS[kind])
    last = layers[-1]
    run = _first_tokens_as_bert if kind in BUILT_AS_BERT else _first_tokens
    last.forward = partial(run, last)
    return True


def use_first_tokens(model: PreTrainedModel) -> None:
    """Let the last layer of a padded model compute each pair's first token only, if it is built as BERT's.

    The classifier's logits stay what they are. It is for models that are exported: `use_padding_free` does the same.
    """
    if model.config.model_type in BUILT_AS_BERT:
        layers: Any = model.get_submodule(LAYERS[model.config.model_type])
        layers[-1].forward = partial(_first_rows_as_bert, layers[-1])


def use_packed_attention(model: PreTrainedModel) -> None:
    """Let a model also read texts laid end to end, as `packed` makes them; a padded call gives what it gave."""
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, packed_mask)
    model.set_attn_implementation(NAME)


def is_padding_free(model: Any) -> bool:
    """Whether `use_padding_free` took effect on the model, also where DDP or peft wrap it."""
    return getattr(model, "module", model).config._attn_implementation == NAME


def forward(model: Callable[..., Any], inputs: Mapping[str, torch.Tensor], lengths: np.ndarray) -> torch.Tensor:
    """Logits of pairs of tokens, without padding where the model can do so.

    Args:
        model: a sequence classifier with one label.
        inputs: tensors [pairs, tokens], padded on the right with anything: `input_ids`, perhaps `token_type_ids`.
            Their device need not be the model's.
        lengths: [pairs] tokens of each pair, on the host.

    Returns:
        [pairs] logits.
    """
    lengths = np.asarray(lengths)
    longest = int(lengths.max())
    inputs = {name: values[:, :longest] for name, values in inputs.items() if name != "attention_mask"}
    plain: Any = getattr(model, "module", model)
    if is_padding_free(model):
        inputs = packed(inputs, lengths, plain.config)
    else:
        inputs["attention_mask"] = torch.from_numpy((np.arange(longest) < lengths[:, None]).astype(np.int64))
    inputs = {
        name: moved(values, plain.device) if isinstance(values, torch.Tensor) else values
        for name, values in inputs.items()
    }
    return model(**inputs).logits[:, 0]


def moved(values: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Values on a device, for which the host does not wait: it copies from pinned memory while the device computes."""
    values = torch.as_tensor(values)
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def packed(inputs: Mapping[str, torch.Tensor], lengths: np.ndarray, config: Any) -> dict[str, Any]:
    """What a padding-free model takes: every tensor [1, tokens of all pairs], with the places where pairs begin.

    Args:
        inputs: tensors [pairs, tokens].
        lengths: [pairs] tokens of each pair, on the host.
        config: the model's.
    """
    offset = config.pad_token_id + 1 if config.model_type in COUNT_FROM_PADDING_ID else 0
    (_, width), device = inputs["input_ids"].shape, inputs["input_ids"].device
    places = moved(np.flatnonzero(np.arange(width) < lengths[:, None]), device)
    starts = moved(np.concatenate([[0], lengths.cumsum()]).astype(np.int32), device)
    longest = int(lengths.max())
    return {
        **{name: values.reshape(-1).index_select(0, places)[None] for name, values in inputs.items()},
        "position_ids": (places % width + offset)[None],
        # the names under which transformers hands them to every attention implementation
        "cu_seq_lens_q": starts,
        "cu_seq_lens_k": starts,
        "max_length_q": longest,
        "max_length_k": longest,
        "lengths_q": lengths,
        "lengths_k": lengths,
    }


def batches(lengths: np.ndarray, tokens: int) -> list[np.ndarray]:
    """Pairs of like length together, the longest first, so that a lack of memory shows at once.

    Args:
        lengths: [pairs] tokens of each pair.
        tokens: a batch's budget: its pairs times its longest pair; one pair at least.

    Returns:
        Indices of the pairs of each batch.

    >>> [batch.tolist() for batch in batches(np.array([3, 9, 4, 4]), tokens=9)]
    [[1], [2, 3], [0]]
    """
    order = np.argsort(-lengths, kind="stable")
    parts, start = [], 0
    while start < len(order):
        stop = start + max(1, tokens // max(1, int(lengths[order[start]])))
        parts.append(order[start:stop])
        start = stop
    return parts


def _first_tokens(layer: torch.nn.Module, hidden_states: torch.Tensor, *args, **kwargs):
    """The layer as it is; of a packed batch, then each pair's first token: [pairs, 1, hidden size]."""
    output = type(layer).forward(layer, hidden_states, *args, **kwargs)
    starts = kwargs.get("cu_seq_lens_q")
    return output if starts is None else output.transpose(0, 1)[starts[:-1].long()]


def _first_tokens_as_bert(layer: Any, hidden_states: torch.Tensor, *args, **kwargs):
    """As `_first_tokens`, computing no other row: the first token's query meets the keys of its whole pair."""
    starts = kwargs.get("cu_seq_lens_q")
    if starts is None:
        return type(layer).forward(layer, hidden_states, *args, **kwargs)
    attention = layer.attention.self
    first = hidden_states[:, starts[:-1].long()]
    attend = ALL_ATTENTION_FUNCTIONS[attention.config._attn_implementation]
    ones = torch.arange(len(starts), device=starts.device, dtype=starts.dtype)
    context, _ = attend(
        attention,
        _heads(attention.query(first), attention),
        _heads(attention.key(hidden_states), attention),
        _heads(attention.value(hidden_states), attention),
        None,
        scaling=attention.scaling,
        dropout=attention.dropout.p if attention.training else 0.0,
        **{**kwargs, "cu_seq_lens_q": ones, "max_length_q": 1, "lengths_q": np.ones(len(starts) - 1, np.int64)},
    )
    output = layer.attention.output(context.reshape(first.shape[:-1] + (-1,)), first)
    return layer.feed_forward_chunk(output).transpose(0, 1)


def _first_rows_as_bert(layer: Any, hidden_states: torch.Tensor, mask: torch.Tensor | None, *args, **kwargs):
    """Of a padded batch, each pair's first token: [pairs, 1, hidden size]. The mask is what is added to the scores."""
    attention = layer.attention.self
    first = hidden_states[:, :1]
    query = _heads(attention.query(first), attention)
    key, value = (_heads(project(hidden_states), attention) for project in (attention.key, attention.value))
    scores = torch.matmul(query, key.transpose(2, 3)) * attention.scaling
    scores = scores if mask is None else scores + mask[:, :, :1]
    context = torch.matmul(scores.softmax(dim=-1), value).transpose(1, 2).reshape(first.shape)
    return layer.feed_forward_chunk(layer.attention.output(context, first))


def _heads(values: torch.Tensor, attention: Any) -> torch.Tensor:
    """[pairs, tokens, hidden size] to [pairs, heads, tokens, head size]."""
    return values.view(*values.shape[:2], -1, attention.attention_head_size).transpose(1, 2)
