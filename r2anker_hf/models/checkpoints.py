"""Checkpoints of a training: one that a kill left half written does not count, and none is removed for it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

from ..files import remove, write_whole
from ..processes import is_main_process, wait_for_all
from ..records import InputError

SEAL_FILE = "whole.json"
"""Size in bytes of each file of a checkpoint, by its path there; written once all files are."""
_NAME = re.compile(r"checkpoint-(\d+)")


def train(trainer: Trainer) -> None:
    """Train, or go on from the newest whole checkpoint in the trainer's folder; every process of a launch calls this.

    What a kill left half written there is removed. `save_total_limit` counts whole checkpoints only, so that an old
    one stays until a newer one is whole.

    Args:
        trainer: any Trainer, before its training.

    Raises:
        InputError: parameters are split over processes (FSDP), which would end without a model to save.
    """
    if trainer.is_fsdp_enabled:
        raise InputError("FSDP is not supported: start with recipes/accelerate_configs/multi_gpu.yaml")
    folder = Path(output_dir(trainer.args))
    trainer.add_callback(_Sealing(trainer.args.save_total_limit))
    trainer.args.save_total_limit = None  # the Trainer would remove the old one before the new one counts
    if is_main_process():
        remove_broken(folder)
    wait_for_all()
    newest = max(_checkpoints(folder), default=None)
    trainer.train(resume_from_checkpoint=newest and os.fspath(newest[1]))


def output_dir(args: TrainingArguments) -> str:
    """The folder of a training."""
    assert args.output_dir is not None  # transformers fills in what was left out
    return args.output_dir


def remove_broken(folder: Path) -> None:
    """Remove checkpoints that are not whole, or whose best predecessor is not, and say so."""
    for _, checkpoint in sorted(_checkpoints(folder)):
        if not (is_whole(checkpoint) and _has_best(checkpoint)):
            print(f"{checkpoint.name}: was not written to its end, or has changed since; training goes on without it")
            remove(checkpoint)


def seal(checkpoint: Path) -> None:
    """Say that a checkpoint is whole as it stands."""
    sizes = {
        path.relative_to(checkpoint).as_posix(): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name != SEAL_FILE
    }
    write_whole(checkpoint / SEAL_FILE, lambda path: path.write_text(json.dumps(sizes), encoding="utf-8"))


def is_whole(checkpoint: Path) -> bool:
    """Whether every file has the size that it had when the checkpoint was sealed."""
    try:
        sizes = json.loads((checkpoint / SEAL_FILE).read_text(encoding="utf-8"))
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


class _Sealing(TrainerCallback):
    """Seals each checkpoint once every process has written its part, and only then removes old ones."""

    def __init__(self, limit: int | None):
        self.limit = limit

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Called by the trainer, on every process, after it wrote a checkpoint."""
        wait_for_all()
        if is_main_process():
            seal(Path(output_dir(args)) / f"checkpoint-{state.global_step}")
            rotate_checkpoints(output_dir(args), self.limit, state.best_model_checkpoint)


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Step and folder of each checkpoint, whole or not."""
    if not folder.is_dir():
        return []
    return [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]


def _has_best(checkpoint: Path) -> bool:
    """Whether the checkpoint that would give the weights at the end, if none later is better, is whole too."""
    state = checkpoint / "trainer_state.json"
    best = state.exists() and TrainerState.load_from_json(str(state)).best_model_checkpoint
    return not best or is_whole(checkpoint.with_name(Path(best).name))
