"""What happens along a ranker's training: rankers kept after so many pairs, a clock, and an end when dev says so."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..files import read_json, remove, write_whole
from ..processes import is_main_process, wait_for_all
from ..records import InputError

KEPT = "kept"
"""Folder of a ranker's folder that holds the ones kept along its training."""
SEEN_FILE = "seen.json"
"""What a ranker has seen when it was saved: `step`, `pairs` and `seconds`."""


class Seen(NamedTuple):
    """A ranker's folder, and how far its training was.

    Attributes:
        folder: loads as a ranker.
        pairs: (query, document) pairs that were trained on: queries times the documents of a whole group. They are a
            few less where a query had fewer candidates.
        seconds: since the training began, measuring and saving included; steps that a kill lost are not.
    """

    folder: Path
    pairs: int
    seconds: float | None


def rankers_of(folder: str | Path) -> list[Seen]:
    """The rankers that a training kept and the one that it ended with, by pairs.

    Raises:
        InputError: `folder` says of none what it has seen.
    """
    folder = Path(folder)
    paths = [*folder.glob(f"{KEPT}/*/{SEEN_FILE}"), *folder.glob(SEEN_FILE)]
    found = {(facts := read_json(path, "pairs", "seconds"))["pairs"]: (path.parent, facts) for path in paths}
    if not found:
        raise InputError(
            f"{folder}: says nowhere how many pairs were seen ({SEEN_FILE}); name rankers as PAIRS=FOLDER"
        )
    return [Seen(path, pairs, facts["seconds"]) for pairs, (path, facts) in sorted(found.items())]


class Clock(TrainerCallback):
    """Writes into each line of the log how many seconds the training took so far, over all its launches."""

    def __init__(self):
        self.before, self.started = 0.0, time.perf_counter()

    def seconds(self) -> float:
        """Seconds since the training began."""
        return round(self.before + time.perf_counter() - self.started, 3)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """A training that goes on has the log of its checkpoint."""
        self.before = seconds_at(state, state.global_step) or 0.0
        self.started = time.perf_counter()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The trainer has appended the line just now."""
        state.log_history[-1]["seconds"] = self.seconds()


def seconds_at(state: TrainerState, step: int) -> float | None:
    """What the clock said at a step, or at the last line of the log before it."""
    lines = [line["seconds"] for line in state.log_history if "seconds" in line and line["step"] <= step]
    return max(lines, default=None)


class KeepAt(TrainerCallback):
    """Saves the ranker once it has seen so many pairs, as often as there are numbers.

    A ranker that a launch before kept stays; a killed training goes on from its checkpoint and keeps the rest.

    Args:
        folder: of the ranker; they go into `KEPT` there, each a folder `pairs-<number>`.
        pairs: when; the first step's end that reaches a number counts.
        pairs_a_step: pairs of an optimiser step, over all processes.
        save: writes a ranker into the folder that it is given; every process calls it.
        clock: of the training.
    """

    def __init__(
        self, folder: Path, pairs: Sequence[int], pairs_a_step: int, save: Callable[[str], None], clock: Clock
    ):
        self.folder, self.pairs, self.pairs_a_step = folder / KEPT, sorted(pairs), pairs_a_step
        self.save, self.clock = save, clock

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """By now it is known how long the training is.

        Raises:
            InputError: a number lies behind its end.
        """
        end = state.max_steps * self.pairs_a_step
        if self.pairs and self.pairs[-1] > end:
            raise InputError(f"keep_at is {self.pairs[-1]}, but the training ends after {end} pairs")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called by the trainer, on every process, after each optimiser step."""
        now = state.global_step * self.pairs_a_step
        if not any(now - self.pairs_a_step < number <= now for number in self.pairs):
            return
        place = self.folder / f"pairs-{now}"
        partial, kept = place.with_name(f".{place.name}.partial"), place.exists()
        if is_main_process():
            remove(partial)
        wait_for_all()
        if not kept:
            self.save(str(partial))
            if is_main_process():
                write_seen(partial, state.global_step, now, self.clock.seconds())
                partial.replace(place)
        wait_for_all()


def write_seen(folder: Path, step: int, pairs: int, seconds: float | None) -> None:
    """Say in a ranker's folder what it has seen."""
    facts = {"step": step, "pairs": pairs, "seconds": seconds}
    write_whole(folder / SEEN_FILE, lambda path: path.write_text(json.dumps(facts) + "\n", encoding="utf-8"))


class EarlyStopping(EarlyStoppingCallback):
    """transformers' own, that also ends a training which was killed between its stop and its end.

    Its count of measurements without improvement is a part of each checkpoint, and training arguments with
    `restore_callback_states_from_checkpoint` bring it back.
    """

    over = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The trainer forgets here that the training had ended, and does one step before it asks again."""
        super().on_train_begin(args, state, control)
        self.over = self.early_stopping_patience_counter >= self.early_stopping_patience
        control.should_training_stop = control.should_training_stop or self.over

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """That step is neither measured nor saved, so the best checkpoint stays the best."""
        if self.over:
            control.should_evaluate = control.should_save = False

    on_epoch_end = on_step_end
