"""Training files that others keep on the Hub: one file of a dataset repository, or several, at one commit."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from ..records import InputError
from ..revisions import reads_hub

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")
"""Files that `import_negatives` reads; archives are not unpacked."""


@reads_hub
def find_files(repo: str, pattern: str | None = None, revision: str | None = None) -> tuple[str, list[str]]:
    """The commit of a repository, and the files of it that are meant, by name.

    Args:
        repo: "owner/name" of a dataset.
        pattern: a file's path, or a pattern such as "data/fever-*.parquet"; None where there is only one that can be
            read.
        revision: commit, tag or branch; without one it is the newest commit, with a warning that names it.

    Raises:
        InputError: no such file; the message names those that can be read. Or no connection.
    """
    from huggingface_hub import HfApi

    if revision and re.fullmatch("[0-9a-f]{40}", revision) and pattern and "*" not in pattern:
        return revision, [pattern]  # may lie in the cache, and then needs no connection
    found = HfApi().dataset_info(repo, revision=revision)
    commit, there = str(found.sha), sorted(one.rfilename for one in found.siblings or ())
    if revision is None:
        warnings.warn(f"{repo} is read at its newest commit; pin it with revision: {commit}", stacklevel=3)
    names = [name for name in there if name.endswith(SUFFIXES) and fnmatchcase(name, pattern or "*")]
    if not names or (pattern is None and len(names) > 1):
        readable = [name for name in there if name.endswith(SUFFIXES)]
        what = f"no file {pattern!r}" if pattern else "give the file"
        raise InputError(f"{repo}: {what}; files there: {', '.join(readable[:20]) or 'none that can be read'}")
    return commit, names


@reads_hub
def download_files(repo: str, names: Sequence[str], commit: str) -> list[Path]:
    """Files of a dataset repository at a commit, in the cache.

    Raises:
        InputError: one of them is not there.
    """
    from huggingface_hub import hf_hub_download

    return [Path(hf_hub_download(repo, name, repo_type="dataset", revision=commit)) for name in names]
