"""Reading files with one-line errors, hashing them, and writing that leaves no half file: the same for every stage."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: str | os.PathLike, error: OSError) -> InputError:
    """Why the system does not give a file, as one line."""
    reasons = {errno.ENOENT: "no such file", errno.EISDIR: "is a folder, but a file is needed"}
    return InputError(f"{path}: {reasons.get(error.errno or 0, error.strerror or error)}")


def read_json(path: str | os.PathLike, *keys: str) -> dict[str, Any]:
    """A JSON file that holds one object with at least these keys.

    Raises:
        InputError: no such file, no JSON, another value than an object, or a key is missing: half a file.
    """
    return _object(path, json.loads, keys, "JSON")


def read_yaml(path: str | os.PathLike, *keys: str) -> dict[str, Any]:
    """A YAML file of `key: value` lines, checked as `read_json`."""
    import yaml

    return _object(path, yaml.safe_load, keys, "YAML")


def _object(path: str | os.PathLike, parse: Callable[[str], Any], keys: Sequence[str], form: str) -> dict[str, Any]:
    try:
        content = parse(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise unreadable(path, error) from None
    except Exception as error:  # of the parser, or UnicodeDecodeError
        raise InputError(f"{path}: is not whole {form} ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no {form} object, but {type(content).__name__}")
    if missing := [key for key in keys if key not in content]:
        raise InputError(f"{path}: lacks {', '.join(missing)}; it is not whole, or was written by something else")
    return content


def check_output(
    folder: str | os.PathLike, inputs: Iterable[str | os.PathLike] = (), option: str = "output_dir"
) -> None:
    """Refuse a place where no new folder can be made, before any work is done.

    Args:
        folder: where a stage is to write; it may exist, and so may any of its parents.
        inputs: what the stage reads; a folder in a folder that is read would change it.
        option: what the message calls the place.

    Raises:
        InputError: the path is empty, the root, the folder we are in or one above it; a file is in the way; the
            nearest parent that exists may not be written; or the place lies in an input.
    """
    path = Path(folder)
    if not str(folder).strip() or path.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise InputError(f"{option} is {str(folder)!r}, but must be a folder of its own, such as out/name")
    in_the_way = next((place for place in (path, *path.parents) if os.path.lexists(place)), Path())
    if not in_the_way.is_dir():
        raise InputError(f"{option} is {folder}, but {in_the_way} is not a folder; choose another place")
    if in_the_way != path and not os.access(in_the_way, os.W_OK | os.X_OK):
        raise InputError(f"{option} is {folder}, but {in_the_way} may not be written; choose another place")
    for source in inputs:
        if path.resolve().is_relative_to(Path(source).resolve()):
            raise InputError(f"{option} is {folder}, which lies in {source}, an input; choose another place")


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
