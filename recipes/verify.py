"""Verify: check a published ranker, retriever or negatives dataset, whoever published it.

    python recipes/verify.py --repo_id owner/name --revision COMMIT
    python recipes/verify.py --folder a/local/copy

Downloads the repository at that commit and checks the sha256 of every file, the golden scores (the model is loaded and
scores them), every figure of the card against runs and judgements, and that the base model and the datasets which it
names exist. Prints what holds and what does not, and ends with exit code 1 if anything fails. Seconds to minutes.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from r2anker_hf.config import run_recipe
from r2anker_hf.records import InputError


@dataclass
class VerificationConfig:
    repo_id: str | None = field(default=None, metadata={"help": "owner/name on the Hub."})
    revision: str | None = field(default=None, metadata={"help": "Commit, tag or branch; default main."})
    folder: str | None = field(default=None, metadata={"help": "A local copy instead: all files of one commit."})

    def __post_init__(self):
        if bool(self.repo_id) == bool(self.folder):
            raise InputError("give either --repo_id owner/name or --folder")


def main(config: VerificationConfig) -> None:
    from r2anker_hf.publishing.verify import verify_folder

    folder = Path(config.folder) if config.folder else download(str(config.repo_id), config.revision)
    lines = []
    for line in verify_folder(folder):
        print(line, flush=True)
        lines.append(line)
    failed = sum(bool(line.failures) for line in lines)
    unchecked = sum(line.failures is None for line in lines)
    print(f"\n{len(lines) - failed - unchecked} hold, {failed} fail, {unchecked} were not checked")
    if failed:
        sys.exit(1)


def download(repo_id: str, revision: str | None) -> Path:
    """All files of a repository, a model's or a dataset's, at one commit."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError
    from huggingface_hub.utils import httpx

    try:
        for repo_type in ("model", "dataset"):
            try:
                commit = HfApi().repo_info(repo_id, repo_type=repo_type, revision=revision, timeout=30).sha
            except RepositoryNotFoundError:
                continue
            if not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
                print(f"{repo_id}: {revision or 'main'} is commit {commit}")
            return Path(snapshot_download(repo_id, repo_type=repo_type, revision=commit))
    except (OSError, ValueError, httpx.HTTPError) as error:  # no network is none of the first two
        raise InputError(f"{repo_id}: cannot be downloaded: {str(error).splitlines()[0]}") from error
    raise InputError(f"{repo_id}: no such model or dataset on the Hub, or it is not open to you")


if __name__ == "__main__":
    run_recipe(main)
