"""Reading text with line numbers, hashing, and writing that leaves no half file: the same for all that is kept."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .records import InputError


def read_lines(path: str | os.PathLike) -> Iterator[tuple[int, str]]:
    """Numbered lines of a UTF-8 text file, from 1; a byte that is no UTF-8 is an InputError with its line."""
    try:
        with open(path, "rb") as file:
            for number, raw in enumerate(file, start=1):
                try:
                    yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    bad = raw[error.start]
                    raise InputError(
                        f"{path}, line {number}: byte 0x{bad:02x} at column {error.start + 1} is not UTF-8"
                    ) from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, but a file is needed") from None


def sha256_file(path: str | os.PathLike) -> str:
    """Hex digest of a file's bytes, read in 1 MiB pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def write_whole(path: str | os.PathLike, save: Callable[[Path], Any]) -> None:
    """Let `save` write a file or folder beside its place, then put it there: under its name it is whole or absent.

    Args:
        path: where it belongs; a file that is there is replaced, a folder must not be there.
        save: writes to the path that it is given, which ends with `.partial` and is free.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    remove(partial)  # of a killed process that had the same number
    save(partial)
    os.replace(partial, path)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
