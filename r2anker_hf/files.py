"""Reading text with line numbers and hashing, the same for runs, corpora and judgements."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

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


def remove_others(paths: Iterable[Path], folder: Path, name: re.Pattern[str]) -> None:
    """Remove from a folder the files of that form of name, except `paths`; what has another name stays."""
    kept = set(paths)
    for path in folder.glob("*"):
        if name.fullmatch(path.name) and path not in kept:
            path.unlink()


def sha256_file(path: str | os.PathLike) -> str:
    """Hex digest of a file's bytes, read in 1 MiB pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
