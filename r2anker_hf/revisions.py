"""Which commit of a Hub repository is read: a name without one means another model tomorrow."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from .records import InputError

Loaded = TypeVar("Loaded")

_COMMIT = re.compile("[0-9a-f]{40}")
_PATIENCE_S = 10
_FILES = {"model": "config.json", "dataset": "manifest.json"}  # what each has; downloaded to learn the commit


def reads_hub(load: Callable[..., Loaded]) -> Callable[..., Loaded]:
    """A loader whose first argument is a Hub repository, and whose every failure is one line with its name.

    Raises:
        InputError: no such repository or file, no access, no connection and not in the cache either, or other content
            than the loader expects.
    """

    @wraps(load, assigned=())
    def loaded(repo: str, *args: Any, **options: Any) -> Loaded:
        try:
            return load(repo, *args, **options)
        except InputError:
            raise
        except Exception as error:  # of three libraries, each with errors of its own
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise InputError(f"{repo}: cannot be read from the Hub: {reason}") from error

    return loaded


def resolved(repo: str, revision: str | None, repo_type: str = "model") -> str | None:
    """The revision to read; where none was given, the newest commit, which is named in a warning.

    All files are then read at that one commit. Without a connection it is the newest in the cache.

    Args:
        repo: "owner/name".
        revision: commit, tag or branch, or None.
        repo_type: "model" or "dataset".

    Returns:
        The revision; None if it is neither known nor to be found out.
    """
    if revision is not None:
        return revision
    commit = commit_of(repo, None, repo_type)
    name = f", {commit}; pin it with revision={commit!r}" if commit else "; pin it with a revision"
    warnings.warn(f"{repo} is read at its newest commit{name}", stacklevel=3)
    return commit


def commit_of(repo: str, revision: str | None, repo_type: str = "model") -> str | None:
    """The commit that a tag, a branch or None (the newest) stands for. The Hub says so, or the cache without a
    connection.

    Where neither knows, the revision comes back as it was given.

    Raises:
        InputError: a model that is not in the cache, and no connection (see `check_reachable`).
    """
    from huggingface_hub import hf_hub_download

    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    if repo_type == "model":
        check_reachable(repo, revision)
    try:
        path = Path(hf_hub_download(repo, _FILES[repo_type], repo_type=repo_type, revision=revision))
    except (OSError, ValueError):  # no connection, or no such repository: the loader says which
        return revision
    return next((part for part in path.parts if _COMMIT.fullmatch(part)), revision)


def check_reachable(model: str, revision: str | None = None) -> None:
    """Refuse a Hub id of which nothing is in the cache while the Hub does not answer, at once.

    Libraries would try again and again, for half a minute a file, and then name an address but no remedy.

    Raises:
        InputError: there is neither a folder, nor a copy in the cache, nor a connection; or no such name can exist.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if Path(model).exists():
        return
    try:
        snapshot_download(model, revision=revision, local_files_only=True)
        return
    except LocalEntryNotFoundError:
        pass
    except HFValidationError:
        raise InputError(f"{model}: no such folder (give a model folder or a Hub repository 'owner/name')") from None
    try:
        HfApi().model_info(model, revision=revision, timeout=_PATIENCE_S)
    except HfHubHTTPError:  # an answer: the loader says what is amiss
        pass
    except Exception as error:  # the HTTP library's own, which huggingface_hub has changed before
        offline = isinstance(error, OfflineModeIsEnabled)
        remedy = "unset HF_HUB_OFFLINE" if offline else "set HF_ENDPOINT to a mirror of the Hub"
        raise InputError(
            f"{model}: no such folder, not in the cache, and no connection to the Hub; give a model folder, "
            f"{remedy}, or run `hf download {model}` where there is a connection"
        ) from error
