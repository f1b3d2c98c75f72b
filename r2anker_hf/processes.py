"""The processes of one launch: who they are, what each does, and how they meet."""

from __future__ import annotations

import atexit
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from accelerate import PartialState

T = TypeVar("T")
GLOO_LETS_GO_S = 0.2
"""Seconds at the end of a launch; what it waits for takes microseconds on a processor that has time for it."""


def processes() -> PartialState:
    """accelerate's state of this launch. On CPUs it must be told so, or each process believes itself alone."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.accelerator.is_available())


@atexit.register
def _leave() -> None:
    """Leave the group before the interpreter ends, and let its threads let go of their last tensors.

    A thread of gloo that frees a tensor of the last gathering needs the interpreter's lock for it; if the interpreter
    is ending by then, PyTorch 2.13 aborts the whole process, though all its work is done.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
        time.sleep(GLOO_LETS_GO_S)


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


def once(make: Callable[[], T]) -> T:
    """What `make` gives the main process; every process calls this, and gets it."""
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([make() if is_main_process() else None])[0]


def gather(found: Any) -> list[Any]:
    """What every process found, in the order of the processes; each gets the whole list."""
    from accelerate.utils import gather_object

    return gather_object([found]) if processes().num_processes > 1 else [found]
