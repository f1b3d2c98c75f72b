"""Low-rank adapters (Hu et al. 2022, ICLR) for rankers, by peft; what is saved is an ordinary model."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel


def with_lora(model: PreTrainedModel, rank: int, alpha: float | None = None, dropout: float = 0.0) -> PreTrainedModel:
    """The model with adapters beside every linear layer; they and the head learn, all else stays as it is.

    Args:
        model: a sequence classifier.
        rank: of the adapters.
        alpha: scale of what they add, times 1 / rank; default twice the rank.
        dropout: of what goes into them.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,  # keeps the head whole and trains it
        r=rank,
        lora_alpha=alpha or 2 * rank,  # type: ignore[arg-type]  # any number will do
        lora_dropout=dropout,
        target_modules="all-linear",
    )
    wrapped: Any = get_peft_model(model, config)  # hands on to the model what it has not itself
    return wrapped


def has_adapters(model: PreTrainedModel) -> bool:
    """Whether peft wraps the model."""
    return hasattr(model, "merge_and_unload")


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its adapters added to the weights; one without adapters as it is."""
    wrapped: Any = model
    return wrapped.merge_and_unload() if has_adapters(model) else model
