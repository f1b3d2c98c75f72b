"""How a recipe ends that cannot go on: with one line, an exit code, and the full trace in a file.

| what happened | exit code | the line |
|---|---|---|
| bad input, or the system refuses | 2 | what is wrong with which file or option |
| a package is missing | 2 | which one, and what to install |
| Ctrl-C | 130 | how to go on |
| another process of the launch is gone | 1 | how to go on |
| anything else: a fault of the program | 1 | the error, and the file that holds its trace |

Of several processes in one launch, one prints the line; where one is gone, one of each machine.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NoReturn

from .records import InputError

SHOW_TRACE = "R2ANKER_TRACEBACK"
"""With this environment variable set to 1, every error keeps its traceback."""

GRACE_S = 5.0
"""Seconds that a process waits for the word of another one, which may have failed first and caused its own failure.

Launchers end the other processes of a launch within a tenth of that once one has failed.
"""

_PACKAGE = "r2anker_hf"
_INSTALL = f"pip install '{_PACKAGE}[cpu]', or {_PACKAGE}[gpu] for CUDA"
_REFUSALS = {
    *(errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EPERM, errno.EROFS),
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP),
}
_PLACE = re.compile(r"^\[\S+:\d+\] ")  # the line of gloo's source
_SILENCE = ("gloo", "Gloo", "NCCL", "ncclRemoteError", "TCPStore", "Broken pipe", "timed out", "Timed out")


def end(error: BaseException, output_dir: str | os.PathLike | None = None) -> NoReturn:
    """Print the one line, and end this process.

    Args:
        error: what came out of the recipe.
        output_dir: the recipe's folder, beside which the trace is written; without one it is a temporary file.
    """
    if isinstance(error, KeyboardInterrupt):
        again = "; give the same command again to go on" if output_dir else ""
        _leave(f"stopped by Ctrl-C{again}" if _rank() == 0 else None, 130)
    refused = refusal(error, output_dir)
    if _processes() > 1 and (refused is None or _rank() > 0):
        time.sleep(GRACE_S)
    if refused is not None:
        _leave(f"error: {refused}", 2)
    if is_left_alone(error):
        why = _PLACE.sub("", first_line(error)).partition(". ")[0]
        gone = f"another process of this launch has ended, or its machine cannot be reached ({why})"
        again = "; give the same command again to go on" if output_dir else ""
        _leave(f"error: {gone}{again}" if _of_this_machine() == 0 else None, 1)
    what = f"{type(error).__name__}: {first_line(error)}"
    _leave(f"error: {what}; the full trace is in {_write_trace(error, output_dir)}, {SHOW_TRACE}=1 prints it", 1)


def refusal(error: BaseException, output_dir: str | os.PathLike | None = None) -> str | None:
    """What is wrong with the input, or what the system refuses; None for a fault of the program."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith(_PACKAGE):
        return f"{error.name.partition('.')[0]} is not installed: {_INSTALL}"
    if not isinstance(error, OSError):
        return None
    above = output_dir and isinstance(error.filename, str) and Path(output_dir).is_relative_to(error.filename)
    return f"{error.filename or 'writing'}: {error.strerror}" if above or error.errno in _REFUSALS else None


def is_left_alone(error: BaseException) -> bool:
    """Whether another process of the launch was waited for in vain; gloo and NCCL say it in words of their own."""
    return _processes() > 1 and isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SILENCE)


def first_line(error: BaseException) -> str:
    """The first line of an error's message that is not blank."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


def printable(text: str) -> str:
    r"""Text with its control characters written out: what a stranger's file says must not steer a terminal.

    >>> print(printable("é\x1b[2J\n"))
    é\x1b[2J\n
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _write_trace(error: BaseException, output_dir: str | os.PathLike | None) -> Path:
    text = "".join(traceback.format_exception(error))
    name = f"traceback{f'-{_rank()}' if _rank() else ''}.txt"
    if output_dir:
        path = Path(output_dir).with_name(f"{Path(output_dir).name}.{name}")
        try:
            path.write_text(text, encoding="utf-8")
            return path
        except OSError:  # no such folder yet, or it may not be written
            pass
    with tempfile.NamedTemporaryFile(
        "w", prefix="r2anker-", suffix=f".{name}", delete=False, encoding="utf-8"
    ) as file:
        file.write(text)
    return Path(file.name)


def _leave(line: str | None, code: int) -> NoReturn:
    if "tqdm" in sys.modules:  # a bar that stopped half-way holds the line that ours would be glued to
        for bar in list(getattr(sys.modules["tqdm"].tqdm, "_instances", ())):
            bar.close()
    if line is not None:
        print(printable(" ".join(line.split())), file=sys.stderr, flush=True)
    raise SystemExit(code)


def _rank() -> int:
    """This process among those of the launch; launchers say so in the environment."""
    return int(os.environ.get("RANK", 0))


def _of_this_machine() -> int:
    """This process among those that the launch has on this machine."""
    return int(os.environ.get("LOCAL_RANK", 0))


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))
