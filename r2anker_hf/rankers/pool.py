"""Several devices without a launcher: a process per device, which scores chunks of pairs with the same ranker."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from ..models.padding_free import is_padding_free, use_packed_attention
from ..records import InputError

Devices = Sequence[str | torch.device]
Chunk = Sequence[tuple[str, str]]


class DevicePool:
    """Processes that have a copy of a ranker, each on its device; the ranker stays where it is.

    They start with their first work, and import the script that made the pool: what it runs belongs below
    `if __name__ == "__main__":`, as for every pool of Python's.

    Args:
        ranker: a `CrossEncoderRanker`.
        devices: as torch names them, one per process; default all GPUs. CPUs may stand there several times.

    Raises:
        InputError: no device, or one that cannot be used.
    """

    def __init__(self, ranker: Any, devices: Devices | None = None):
        if devices is None:
            devices = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        if not devices:
            raise InputError("a pool needs devices, and there is no GPU: name them, such as ['cpu', 'cpu']")
        for device in devices:
            check_device(device, ranker.model)
        context = get_context("spawn")  # a forked process could not use CUDA
        self._waiting = context.SimpleQueue()
        for device in devices:
            self._waiting.put(str(device))
        shared = copy.copy(ranker)
        shared.model = copy.deepcopy(ranker.model).to("cpu").share_memory()
        given = (shared, self._waiting, torch.get_num_threads())
        self._executor = ProcessPoolExecutor(len(devices), context, _start, given)

    def score(self, chunks: Iterable[Chunk], batch_size: int | None = None) -> Iterator[np.ndarray]:
        """Scores of each chunk of pairs, in order; see `CrossEncoderRanker.score`."""
        return self._executor.map(_score, chunks, repeat(batch_size))

    def close(self) -> None:
        """End the processes."""
        self._executor.shutdown(cancel_futures=True)


def check_device(device: str | torch.device, model: Any) -> None:
    """InputError where the model cannot be put on this device."""
    if not isinstance(model, torch.nn.Module):
        raise InputError(f"{model.name_or_path}: an ONNX file stays on its CPU; load the ranker with backend='torch'")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the second where torch was built without CUDA
        raise InputError(f"device {str(device)!r} cannot be used: {str(error).strip().splitlines()[0]}") from error


_working: dict[str, Any] = {}
"""The ranker of a process of a pool."""


def _start(ranker: Any, waiting: Any, threads: int) -> None:
    """Take one of the waiting devices; as many threads as where the pool was made give the same bits."""
    torch.set_num_threads(threads)
    model: Any = ranker.model
    if is_padding_free(model):
        use_packed_attention(model)  # transformers keeps the kinds of attention per process
    model.to(waiting.get())
    _working["ranker"] = ranker


def _score(chunk: Chunk, batch_size: int | None) -> np.ndarray:
    return _working["ranker"].score(chunk, batch_size=batch_size)
