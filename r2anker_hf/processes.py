"""The processes of one launch: who they are, what each does, and how they meet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelerate import PartialState


def processes() -> PartialState:
    """accelerate's state of this launch. On CPUs it must be told so, or each process believes itself alone."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.accelerator.is_available())


def my_share(work: list) -> list:
    """This process's part of the work: every n-th piece, n being the number of processes.

    The part is a matter of position alone. Sharing out what is missing would not do: processes look at different
    moments, and would leave out pieces that each thinks another's.
    """
    state = processes()
    return work[state.process_index :: state.num_processes]


def is_main_process() -> bool:
    """Whether this process does what is done once."""
    return processes().is_main_process


def wait_for_all() -> None:
    """Go on once every process has come here."""
    processes().wait_for_everyone()


def gather(found: Any) -> list[Any]:
    """What every process found, in the order of the processes; each gets the whole list."""
    from accelerate.utils import gather_object

    return gather_object([found]) if processes().num_processes > 1 else [found]
