"""Publish: a finished ranker, negatives or retriever becomes a Hub repository, as a whole or not at all.

    python recipes/publish.py --kind ranker --folder D/ranker --report D/report --repo_id owner/name --output_dir P

First try --dry_run: it stages and shows what would be sent, and sends nothing. What is staged lies in P/staged and is
checked there: files by an allow-list, no pickle, token or local path, every figure of the card from the report. Then
it goes to a branch, is downloaded, compared and scored, and only then becomes main, tagged v1.0.0. A new repository is
private unless --public is given. Where that breaks off (no token, no network, a kill), the same command goes on.

HF_TOKEN, or `hf auth login`, says who publishes. --hub_collection "title" links all that is published with that title.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from r2anker_hf.config import run_recipe, save_config
from r2anker_hf.files import check_output
from r2anker_hf.negatives.candidates import read_manifest
from r2anker_hf.publishing.hub import Limits, PublishingError, Receipt, link, publish, version_tag
from r2anker_hf.publishing.staging import Staged, Stated, stage

RECEIPT_FILE = "receipt.json"


@dataclass
class PublishingConfig:
    kind: Literal["ranker", "negatives", "retriever"] = field(metadata={"help": "What the folder holds."})
    folder: str = field(metadata={"help": "The finished folder: of train_ranker.py, mine.py or train_retriever.py."})
    repo_id: str = field(metadata={"help": "The repository: owner/name."})
    output_dir: str = field(metadata={"help": "Folder for what is staged and for receipt.json."})
    report: list[str] = field(
        default_factory=list,
        metadata={"help": "Folder of score.py that measured it; several, if it was measured on several collections."},
    )
    version: str = field(default="1.0.0", metadata={"help": "Tagged v1.0.0; a published version is never changed."})
    public: bool = field(default=False, metadata={"help": "Let everyone read it, once it is complete."})
    dry_run: bool = field(default=False, metadata={"help": "Stage and show everything, send nothing."})
    hub_collection: str | None = field(
        default=None, metadata={"help": "Title of the collection on the Hub that links it with its like."}
    )
    timeout: float = field(default=60.0, metadata={"help": "Seconds to wait for a sign of the Hub."})
    deadline: float = field(default=4 * 3600.0, metadata={"help": "Seconds after which nothing more is tried."})

    def __post_init__(self):
        version_tag(self.version)


def main(config: PublishingConfig, stated: Stated) -> None:
    output = Path(config.output_dir)
    check_output(output, [config.folder, *config.report])
    output.mkdir(parents=True, exist_ok=True)
    save_config((config, stated), output)
    into = output / "staged"
    staged = stage(config.kind, config.folder, config.repo_id, into=into, report=config.report, stated=stated)
    show(config, staged)
    if config.dry_run:
        print("\ndry run: nothing was sent; the same command without --dry_run publishes it")
        return
    try:
        receipt = send(config, staged)
    except PublishingError as error:
        raise PublishingError(f"{error}. Staged in {staged.folder}; the same command goes on from there") from error
    receipt.write(output / RECEIPT_FILE)
    print(f"\n{'published' if receipt.new else 'published before, nothing new'}: {receipt.url}")
    print(f"{receipt.version}, {'private' if receipt.private else 'public'}; {output / RECEIPT_FILE}")


def show(config: PublishingConfig, staged: Staged) -> None:
    """Print what is to be published: every file with its size and hash, in a dry run also the card."""
    visibility = "public" if config.public else "private"
    print(f"{staged.repo_type} {staged.repo_id}, {version_tag(config.version)}, {visibility}; from {staged.folder}:\n")
    for path, sha256 in staged.files.items():
        print(f"{(staged.folder / path).stat().st_size:>14,} bytes  {sha256}  {path}")
    print("\nlint: nothing found that must not be published")
    if config.dry_run:
        print(f"\nREADME.md:\n\n{(staged.folder / 'README.md').read_text(encoding='utf-8')}")


def send(config: PublishingConfig, staged: Staged) -> Receipt:
    """Publish what is staged, and link it."""
    limits = Limits(timeout=config.timeout, deadline=config.deadline)
    receipt = publish(
        staged.folder,
        config.repo_id,
        kind=config.kind,
        repo_type=staged.repo_type,
        version=config.version,
        private=not config.public,
        checks=partial(check, config.kind),
        limits=limits,
    )
    if config.hub_collection:
        repos = [(config.repo_id, staged.repo_type)]
        print(f"collection: {link(config.hub_collection, repos, private=receipt.private, limits=limits)}")
    return receipt


def check(kind: str, folder: Path) -> None:
    """What was downloaded loads, and all that verify.py would check of it holds.

    Raises:
        PublishingError: the first thing that does not.
    """
    from r2anker_hf.publishing.verify import check_folder

    if kind == "negatives":
        check_loading(folder)
    if failures := check_folder(folder):
        raise PublishingError(failures[0])


def check_loading(folder: Path) -> None:
    """`datasets` finds the rows of every split by what the card says.

    Raises:
        PublishingError: it does not.
    """
    from datasets import load_dataset

    splits = read_manifest(folder, "splits")["splits"]
    for split, facts in splits.items():
        rows = load_dataset(str(folder), "candidates", split=split, streaming=True)
        if facts["queries"] and "positive_ids" not in next(iter(rows), {}):
            raise PublishingError(f"{split}: datasets reads no candidates from what README.md says")


if __name__ == "__main__":
    run_recipe(main)
