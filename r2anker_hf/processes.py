"""The processes of one launch: who they are, what each does, and how they meet."""

from __future__ import annotations

import atexit
import os
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from .records import InputError

if TYPE_CHECKING:
    from accelerate import PartialState

T = TypeVar("T")
GLOO_LETS_GO_S = 0.2
"""Seconds at the end of a launch; what it waits for takes microseconds on a processor that has time for it."""
PATIENCE = timedelta(hours=2)
"""How long processes wait for one that is silent, but still connected; torch's own default on GPUs is 10 minutes.

One may work that long while the others have nothing to do. The end of a process closes its connections, so the others
notice it at once.
"""
INTERFACE = "GLOO_SOCKET_IFNAME"
"""Names the network interface by which CPU processes of several machines reach each other; gloo reads it."""


def processes() -> PartialState:
    """accelerate's state of this launch. On CPUs it must be told so, or each process believes itself alone.

    Raises:
        InputError: this process cannot find the others of its launch, or they cannot reach it.
    """
    import torch
    from accelerate import PartialState

    on_cpus = not torch.accelerator.is_available()
    if on_cpus and not torch.distributed.is_initialized():
        _check_launch()
        _check_interface()
    return PartialState(cpu=on_cpus, timeout=PATIENCE)


def _check_launch() -> None:
    """Refuse what `accelerate launch --cpu` does without MPI: each process believes itself alone and does all work."""
    told = {"WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"} & os.environ.keys()
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" and "MASTER_ADDR" in os.environ and not told:
        raise InputError(
            "accelerate launch --cpu needs MPI to tell processes of each other: give --multi_gpu in its place, which "
            "works on CPUs too"
        )


def _check_interface() -> None:
    """Refuse a launch over several machines in which this one would tell the others a loopback address as its own."""
    machines = int(os.environ.get("WORLD_SIZE", 1)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if machines < 2 or INTERFACE in os.environ:
        return
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError:
        address = "nothing"
    if address == "nothing" or address.startswith("127."):
        choices = ", ".join(interface for _, interface in socket.if_nameindex() if interface != "lo")
        raise InputError(
            f"{name} resolves to {address}, by which other machines cannot reach this one: set {INTERFACE} to the "
            f"interface of their network; choices: {choices}"
        )


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
