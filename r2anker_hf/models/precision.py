"""The precision that this machine computes fastest in, and what a configuration makes of `auto`."""

from __future__ import annotations

import os

import torch
from transformers import TrainingArguments

from ..records import InputError

AUTO = "auto"
PRECISIONS = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}  # as trainers and as torch name them


def fastest_precision(use_cpu: bool = False) -> str:
    """One of `PRECISIONS`: half precision where the hardware multiplies in it, not where it is only emulated.

    CPUs multiply in bfloat16 by AMX, or by AVX512_BF16 at half of AMX's rate. A step of MiniLM in bfloat16 takes a
    third of one in float32 there, and so does reranking. Measured on one core of an AMD EPYC with AVX512_BF16. The
    features decide and not a measurement, so that a busy machine chooses as an idle one does.

    Args:
        use_cpu: leave out a GPU that is there.
    """
    if not use_cpu and torch.cuda.is_available():
        # an emulated one is slower than float32: Turing and Volta have float16 only
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if not use_cpu and torch.accelerator.is_available():
        return "no"
    return "bf16" if torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported() else "no"


def scoring_dtype(dtype: str) -> str:
    """torch's name of what a ranker scores in: `auto` is float32 on a CPU, and the half precision that a GPU has."""
    if dtype != AUTO:
        return dtype
    chosen = PRECISIONS[fastest_precision()] if torch.accelerator.is_available() else "float32"
    say("dtype", chosen, "since auto takes half precision on GPUs only")
    return chosen


def choose_precision(args: TrainingArguments, mixed_precision: str) -> str:
    """Set `bf16`, `fp16` and `use_cpu`, before the arguments check themselves; what was asked for by name stays.

    Args:
        args: arguments under construction.
        mixed_precision: auto or one of `PRECISIONS`.

    Returns:
        One of `PRECISIONS`, for the arguments to keep.

    Raises:
        InputError: it is something else, or not what `bf16` and `fp16` say.
    """
    if mixed_precision not in (AUTO, *PRECISIONS):
        raise InputError(f"mixed_precision {mixed_precision!r}; choices: {', '.join((AUTO, *PRECISIONS))}")
    for name in ("bf16", "fp16"):
        if getattr(args, name):
            if mixed_precision not in (AUTO, name):
                raise InputError(f"mixed_precision is {mixed_precision}, but {name} is true: give one of them")
            mixed_precision = name
    if mixed_precision == AUTO:
        mixed_precision = fastest_precision(args.use_cpu)
        say("mixed_precision", mixed_precision)
    args.bf16, args.fp16 = mixed_precision == "bf16", mixed_precision == "fp16"
    if not torch.accelerator.is_available():
        args.use_cpu = True  # bf16, and several processes, work on CPUs only if TrainingArguments is told so
    return mixed_precision


def say(option: str, chosen: str, reason: str = "the fastest on this machine") -> None:
    """One line of the main process: what `auto` became. The stage's config.yaml records it too."""
    if os.environ.get("RANK", "0") == "0":
        print(f"{option}: {chosen}, {reason}")
