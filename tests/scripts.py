"""Scripts run in this process, as `python SCRIPT ...` runs them but for the seconds that a fresh interpreter loads.

torchrun scripts.py RECIPE SETTINGS ... runs a recipe with one file of settings after the other.
"""

import contextlib
import io
import os
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from unittest import mock

REPOSITORY = Path(__file__).resolve().parents[1]


def script(path: str | Path, *arguments: object, folder: Path = REPOSITORY) -> CompletedProcess[str]:
    """Exit code and output of a script in this folder; what it raises is raised."""
    words, printed, errors, code = [str(path), *map(str, arguments)], io.StringIO(), io.StringIO(), 0
    with (
        contextlib.chdir(folder),
        mock.patch.object(sys, "argv", words),
        mock.patch.dict(os.environ),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(errors),
    ):
        try:
            runpy.run_path(words[0], run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
    return CompletedProcess(words, code, printed.getvalue(), errors.getvalue())


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """torch computes here as in a process of torchrun, so that both give equal bytes."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    for settings in sys.argv[2:]:
        done = script(sys.argv[1], "--config", settings)
        if done.returncode:
            sys.exit(done.stderr)
