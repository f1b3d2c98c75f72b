"""Indexes on disk: pieces that are whole or absent, for one corpus and one model, written by several processes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..files import write_whole
from ..fingerprints import corpus_fingerprint as corpus_fingerprint
from ..fingerprints import weights_fingerprint
from ..records import InputError

IDENTITY_FILE = "index.json"


class IndexFolder:
    """A folder that holds one index in pieces, and says what it was made from.

    Every piece is written beside its place and renamed. So a file under its final name is whole, whenever the
    process was killed: the same command again makes what is missing and nothing else. Several processes may write
    different pieces of one folder.

    Args:
        folder: made where it does not exist.
        identity: all that decides the bytes of the index: kind, settings, fingerprints of corpus and model.

    Raises:
        InputError: the folder holds an index of another identity, or other files.
    """

    def __init__(self, folder: str | os.PathLike, identity: Mapping[str, Any]):
        self.folder = Path(folder)
        self.identity = dict(identity)
        self.folder.mkdir(parents=True, exist_ok=True)
        found = read_identity(self.folder)
        if found is None and any(not path.name.endswith(".partial") for path in self.folder.iterdir()):
            found = read_identity(self.folder)  # another process may have begun in the meantime
            if found is None:
                raise InputError(f"{self.folder}: holds files but no {IDENTITY_FILE}; choose another folder")
        if found is None:
            self.write(IDENTITY_FILE, lambda path: path.write_text(json.dumps(self.identity, indent=2) + "\n"))
        elif found != self.identity:
            raise InputError(f"{self.folder}: an index of {_difference(found, self.identity)}; choose another folder")

    def __contains__(self, name: str) -> bool:
        return (self.folder / name).exists()

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that are not written yet."""
        return [name for name in names if name not in self]

    def write(self, name: str, save: Callable[[Path], Any]) -> None:
        """Let `save` write a piece to the path that it is given, then put it in place."""
        write_whole(self.folder / name, save)


def read_identity(folder: Path) -> dict[str, Any] | None:
    """What an index folder says it was made from; None where no index was begun.

    Raises:
        InputError: the file is broken.
    """
    path = folder / IDENTITY_FILE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not an index that was written here ({error})") from None


def model_fingerprint(model: Any) -> str:
    """Hash of a SentenceTransformer's or SparseEncoder's weights, modules and prompts."""
    return weights_fingerprint(model, (repr(model), model.max_seq_length, model.prompts))


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    keys = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
    return ", ".join(f"{key} {found.get(key)!r}, not {wanted.get(key)!r}" for key in keys)
