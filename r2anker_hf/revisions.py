"""Which commit of a Hub repository is read: a name without one means another model tomorrow."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

_TIMEOUT = 30.0  # seconds; without one a server that hangs would hang us


def resolved(repo: str, revision: str | None, repo_type: str = "model", file: str = "config.json") -> str | None:
    """The revision to read; where none was given, the newest commit, which is named in a warning.

    All files are then read at that one commit. Without a connection it is the one in the cache.

    Args:
        repo: "owner/name".
        revision: commit, tag or branch, or None.
        repo_type: "model" or "dataset".
        file: one that the cache would hold if the repository were in it.

    Returns:
        The revision; None if it is neither known nor to be found out.
    """
    if revision is not None:
        return revision
    commit = _newest(repo, repo_type) or _cached(repo, repo_type, file)
    name = f", {commit}; pin it with revision={commit!r}" if commit else "; pin it with a revision"
    warnings.warn(f"{repo} is read at its newest commit{name}", stacklevel=3)
    return commit


def _newest(repo: str, repo_type: str) -> str | None:
    from huggingface_hub import HfApi

    try:
        return HfApi().repo_info(repo, repo_type=repo_type, timeout=_TIMEOUT).sha
    except (OSError, ValueError):  # no connection, or no such repository: the loader says which
        return None


def _cached(repo: str, repo_type: str, file: str) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repo, file, repo_type=repo_type)
    parts = Path(path).parts if isinstance(path, str) else ()
    return next((part for part in parts if re.fullmatch("[0-9a-f]{40}", part)), None)
