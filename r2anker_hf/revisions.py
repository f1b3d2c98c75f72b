"""Which commit of a Hub repository is read: a name without one means another model tomorrow."""

from __future__ import annotations

import re
import warnings
from pathlib import Path


def resolved(repo: str, revision: str | None, repo_type: str = "model", file: str = "config.json") -> str | None:
    """The revision to read; where none was given, the newest commit, which is named in a warning.

    All files are then read at that one commit. Without a connection it is the newest in the cache.

    Args:
        repo: "owner/name".
        revision: commit, tag or branch, or None.
        repo_type: "model" or "dataset".
        file: one that every such repository has; it is downloaded.

    Returns:
        The revision; None if it is neither known nor to be found out.
    """
    if revision is not None:
        return revision
    commit = _newest(repo, repo_type, file)
    name = f", {commit}; pin it with revision={commit!r}" if commit else "; pin it with a revision"
    warnings.warn(f"{repo} is read at its newest commit{name}", stacklevel=3)
    return commit


def _newest(repo: str, repo_type: str, file: str) -> str | None:
    """The commit that the Hub gives a file from, or without a connection the cache."""
    from huggingface_hub import hf_hub_download

    try:
        path = Path(hf_hub_download(repo, file, repo_type=repo_type))
    except (OSError, ValueError):  # no connection, or no such repository: the loader says which
        return None
    return next((part for part in path.parts if re.fullmatch("[0-9a-f]{40}", part)), None)
