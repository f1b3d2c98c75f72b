"""Folders that lie at the top of a clone, and that a wheel ships inside the package: recipes and hub_cards."""

from __future__ import annotations

import re
from pathlib import Path

from .records import InputError

PACKAGE = Path(__file__).parent


def shipped(name: str) -> Path:
    """The folder of that name.

    Raises:
        InputError: it is in neither place.

    >>> (shipped("recipes") / "mine.py").is_file()
    True
    """
    for folder in (PACKAGE / name, PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise InputError(f"no folder {name}, neither in {PACKAGE} nor beside it")


def as_commands(text: str) -> str:
    """A text about recipes with each of them as one types it without a clone.

    >>> as_commands("accelerate launch recipes/train_ranker.py takes what mine.py wrote")
    'r2anker train-ranker takes what r2anker mine wrote'
    """
    file = r"(?:(?:accelerate launch|python) +)?(?:recipes/)?\b(\w+)\.py\b"
    return re.sub(file, lambda recipe: f"r2anker {recipe[1].replace('_', '-')}", text)
