"""A script run in this process, as `python SCRIPT ...` runs it but for the seconds that a fresh interpreter loads."""

import contextlib
import io
import os
import runpy
import sys
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
