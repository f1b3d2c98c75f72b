"""Ranges of options: which numbers make sense, by the option's name, checked before anything is loaded.

A name means the same in every recipe, so one table serves all. Options of transformers' TrainingArguments stand in
it too. Where a dataclass means something else by it, its field says so in `metadata={"range": ...}`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from .records import InputError

LARGEST = 2**31 - 1
"""No option is larger, unless it says so itself: what engines and file formats count with 32 bits."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from one bound to another; NaN lies in none.

    Attributes:
        least: the smallest number allowed.
        most: the largest number allowed.
        above: a bound that is itself not allowed, in place of `least`.
        below: the same, in place of `most`.
        also: numbers outside the bounds that mean something of their own, such as -1 for "not set".

    >>> 0.5 in Range(above=0, most=1), float("nan") in Range(above=0, most=1)
    (True, False)
    >>> print(Range(least=1, also=(-1,)))
    -1, or at least 1
    """

    least: float = -math.inf
    most: float = LARGEST
    above: float = -math.inf
    below: float = math.inf
    also: tuple[float, ...] = ()

    def __contains__(self, value: float) -> bool:
        return self.least <= value <= self.most and self.above < value < self.below or value in self.also

    def __str__(self) -> str:
        low = f"above {_written(self.above)}" if self.above > -math.inf else f"at least {_written(self.least)}"
        high = f" and below {_written(self.below)}" if self.below < math.inf else f" and at most {_written(self.most)}"
        text = low if self.most == LARGEST and self.below == math.inf else low + high
        return f"{', '.join(map(_written, self.also))}, or {text}" if self.also else text


def _written(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


COUNT = Range(least=1)
COUNT_OR_NONE = Range(least=0)
POSITIVE = Range(above=0)
NOT_NEGATIVE = Range(least=0)
SHARE = Range(least=0, most=1)
PART = Range(above=0, most=1)
PROBABILITY = Range(least=0, below=1)
TEMPERATURE = Range(least=1e-6, most=1e6)
SEED = Range(least=0, most=2**32 - 1)
SCORE = Range(least=-1e9, most=1e9)

RANGES: dict[str, Range] = {
    # how much of something
    **dict.fromkeys(("depth", "constraint_depth", "dev_depth", "rank_from", "rank_to", "num_negatives"), COUNT),
    **dict.fromkeys(("queries", "max_queries", "passages", "sizes", "pairs", "tokens", "steps", "rounds"), COUNT),
    **dict.fromkeys(
        ("max_length", "max_query_length", "decoder_layers", "repeats", "fresh", "resamples", "jobs"), COUNT
    ),
    "passages": COUNT,
    "examples": COUNT_OR_NONE,
    "max_windows": Range(least=1, most=256),  # 256 of 128 tokens read some 13,000
    **dict.fromkeys(("batch_size", "batch_sizes", "encode_batch_size", "queries_a_part", "shard_size"), COUNT),
    **dict.fromkeys(
        ("audit_queries", "onnx_queries", "head_steps", "lora_rank", "epoch", "collection_options"), COUNT_OR_NONE
    ),
    # of a training
    "num_train_epochs": POSITIVE,
    **dict.fromkeys(("held_out", "early_stopping_patience", "keep_at"), COUNT),
    "label_weight": SHARE,
    "mixture_weights": POSITIVE,
    "mixture_temperature": Range(least=1, most=100),
    "max_steps": Range(least=1, also=(-1,)),
    "learning_rate": PART,
    "weight_decay": SHARE,
    "warmup_steps": NOT_NEGATIVE,
    "warmup_share": SHARE,
    **dict.fromkeys(("adam_beta1", "adam_beta2", "dropout", "label_smoothing_factor"), PROBABILITY),
    "adam_epsilon": PART,
    "max_grad_norm": NOT_NEGATIVE,
    **dict.fromkeys(("encoder_mask", "decoder_mask"), PART),
    **dict.fromkeys(("query_flops", "document_flops", "contrastive_weight"), NOT_NEGATIVE),
    **dict.fromkeys(("lora_alpha", "neftune_noise_alpha", "memory_budget", "peak_tflops"), POSITIVE),
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), COUNT),
    **dict.fromkeys(("gradient_accumulation_steps", "eval_accumulation_steps", "torch_empty_cache_steps"), COUNT),
    **dict.fromkeys(("logging_steps", "eval_steps", "save_steps"), POSITIVE),
    "eval_delay": NOT_NEGATIVE,
    **dict.fromkeys(("save_total_limit", "dataloader_prefetch_factor", "ddp_bucket_cap_mb", "ddp_timeout"), COUNT),
    "dataloader_num_workers": Range(least=0, most=1024),
    "local_rank": Range(least=-1),
    # of chance
    **dict.fromkeys(("seed", "data_seed"), SEED),
    **dict.fromkeys(("temperature", "sampling_temperature", "teacher_temperature"), TEMPERATURE),
    **dict.fromkeys(("smoothing", "precision"), PART),
    "k": COUNT_OR_NONE,  # of reciprocal ranks
    "weights": NOT_NEGATIVE,
    "step": PART,
    "shares": NOT_NEGATIVE,
    # of scores
    **dict.fromkeys(("min_score", "max_score", "values"), SCORE),
    **dict.fromkeys(("absolute_margin", "relative_margin", "k1"), NOT_NEGATIVE),
    "b": SHARE,
    # of time and energy
    **dict.fromkeys(("timeout", "deadline", "watts"), POSITIVE),
    "grams_per_kwh": NOT_NEGATIVE,
}
"""Range by option; a test finds the option that has none."""


def range_of(field: dataclasses.Field) -> Range | None:
    """The range of an option: its own, or that of its name; None for what is no number."""
    return field.metadata.get("range") or RANGES.get(field.name)


def check(name: str, value: Any, allowed: Range) -> None:
    """Refuse a number out of range, or a list or mapping that holds one; None, for "not given", passes.

    Raises:
        InputError: the message names option, value and range.

    >>> check("shares", {"bm25": 0.5, "dense": -1.0}, NOT_NEGATIVE)
    Traceback (most recent call last):
    r2anker_hf.records.InputError: shares[dense] is -1.0, but must be at least 0
    """
    if isinstance(value, Mapping):
        for key, one in value.items():
            check(f"{name}[{key}]", one, allowed)
    elif isinstance(value, list | tuple):
        for one in value:
            check(name, one, allowed)
    elif isinstance(value, str):
        raise InputError(f"{name} is {value!r}, but must be a number, {allowed}")
    elif value is not None and value not in allowed:
        limit = f" and at most {LARGEST}" if allowed.most == LARGEST < value else ""
        raise InputError(f"{name} is {value}, but must be {allowed}{limit}")


def check_all(config: Any) -> None:
    """Check every number of a dataclass, first thing when one is made.

    Raises:
        InputError: as `check`.
    """
    for field in dataclasses.fields(config):
        allowed = range_of(field)
        if allowed is not None:
            check(field.name, getattr(config, field.name), allowed)
