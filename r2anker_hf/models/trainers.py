"""What every trainer here asks of transformers' Trainer: one GPU a process, a busy host, an order that is settled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.utils.data import Sampler
from transformers import TrainingArguments
from transformers.integrations import integration_utils as integrations

from ..draws import permutation
from ..records import InputError

NOT_HEEDED = {
    "resume_from_checkpoint": "the same command goes on from its own last checkpoint; leave the option out",
    "data_seed": "seed orders the queries",
    "label_smoothing_factor": "the losses here have no smoothing",
    "push_to_hub": "publish.py checks what is published; leave the option out",
}
"""Options of transformers that a recipe would pass over, and what to do instead."""


def refuse_unheeded(args: TrainingArguments) -> None:
    """Refuse what a training would not heed.

    Raises:
        InputError: an option of `NOT_HEEDED` is given.
    """
    for name, instead in NOT_HEEDED.items():
        if getattr(args, name) != TrainingArguments.__dataclass_fields__[name].default:
            raise InputError(f"{name} is not for this training: {instead}")


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that transformers does not know, or whose package is not installed, before anything is made.

    Args:
        names: as in transformers' `report_to`: "none", "all", or names of trackers.

    Raises:
        InputError: with the trackers that are installed.
    """
    installed = integrations.get_available_reporting_integrations()
    for name in sorted(set(names) - {"none", "all", *installed}):
        known = name in integrations.INTEGRATION_TO_CALLBACK
        what = f"which is not installed: pip install {name}" if known else "which transformers does not know"
        raise InputError(f"report_to is {name!r}, {what}; choices: {', '.join(['none', 'all', *installed])}")


def use_one_gpu(args: TrainingArguments) -> None:
    """Leave GPUs that no launcher gave a process for, and say so.

    The Trainer would split each batch over them (DataParallel): packed batches cannot be split by rows, and a batch
    would hold as many times the queries.
    """
    if args.n_gpu > 1:
        print(f"this process trains on 1 of {args.n_gpu} GPUs; start it by `accelerate launch` to use them all")
        args._n_gpu = 1  # as the Trainer itself does for models that lie on several


def keep_busy(args: TrainingArguments) -> None:
    """Let no step wait for the device: batches are copied while it computes, and losses are read once a line.

    Raises:
        InputError: dispatch_batches is set; the process that read a batch would send the others its tensors only.
    """
    accelerator: Any = args.accelerator_config  # an AcceleratorConfig by now, whatever was given
    if accelerator.dispatch_batches:
        raise InputError("dispatch_batches is true, but every process has to read its own batches: leave it out")
    accelerator.non_blocking = args.dataloader_pin_memory
    args.logging_nan_inf_filter = False  # it reads each step's loss, and hides those that are not a number


class EpochSampler(Sampler[tuple[int, int]]):
    """Every query once an epoch, in an order that depends on (seed, epoch) alone.

    The last batch is filled up from the head of the same order. So every optimiser step sees exactly `whole_batch`
    queries. That makes batch size, accumulation steps and processes exchangeable.

    Args:
        size: training queries.
        whole_batch: queries an optimiser step, over all processes and accumulation steps.
        seed: of the training.
        order: (seed, epoch) -> the items of an epoch; default a permutation of all (epoch, query).

    >>> len(EpochSampler(size=10, whole_batch=4, seed=42))
    12
    """

    def __init__(
        self,
        size: int,
        whole_batch: int,
        seed: int,
        order: Callable[[int, int], Sequence[tuple[int, int]]] | None = None,
    ):
        self.size, self.whole_batch, self.seed, self.epoch = size, whole_batch, seed, 0
        self.order = order or self._permuted

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch, also when it resumes."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.size // self.whole_batch) * self.whole_batch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = self.order(self.seed, self.epoch)
        for position in range(len(self)):
            yield order[position % self.size]

    def _permuted(self, seed: int, epoch: int) -> list[tuple[int, int]]:
        return [(epoch, int(row)) for row in permutation(self.size, seed, epoch)]
