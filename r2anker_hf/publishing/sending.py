"""One finished folder on its way to the Hub: prepared, shown, sent, checked where it arrived, and linked."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ..negatives.candidates import read_manifest
from .hub import Limits, PublishingError, Receipt, link, publish, version_tag
from .preparing import Prepared, Stated, prepare

RECEIPT_FILE = "receipt.json"


@dataclass
class Sending:
    """How something is sent; the options of a recipe."""

    version: str = field(default="1.0.0", metadata={"help": "Tagged v1.0.0; a published version is never changed."})
    public: bool = field(default=False, metadata={"help": "Let everyone read it, once it is complete."})
    dry_run: bool = field(default=False, metadata={"help": "Prepare and show everything, send nothing."})
    hub_collection: str | None = field(
        default=None, metadata={"help": "Title of the collection on the Hub that links it with its like."}
    )
    timeout: float = field(default=60.0, metadata={"help": "Seconds to wait for a sign of the Hub."})
    deadline: float = field(default=4 * 3600.0, metadata={"help": "Seconds after which nothing more is tried."})

    def __post_init__(self):
        version_tag(self.version)

    @property
    def limits(self) -> Limits:
        return Limits(timeout=self.timeout, deadline=self.deadline)


@dataclass(frozen=True)
class Part:
    """A finished folder and the repository that it becomes.

    Attributes:
        kind: ranker, negatives or retriever.
        folder: what a recipe finished.
        repo_id: owner/name.
        report: folders of score.py that measured it.
    """

    kind: str
    folder: str | os.PathLike
    repo_id: str
    report: tuple[str, ...] = ()


def publish_part(part: Part, output: Path, stated: Stated, sending: Sending) -> Receipt | None:
    """Prepare a part in `output`/prepared, show it, and send it unless this is a dry run.

    Returns:
        What stands on the Hub, as `output`/receipt.json says; None after a dry run.

    Raises:
        InputError: it may not be published as it is (see `prepare`).
        PublishingError: it was not published; the same call goes on.
    """
    output.mkdir(parents=True, exist_ok=True)
    prepared = prepare(
        part.kind, part.folder, part.repo_id, into=output / "prepared", report=part.report, stated=stated
    )
    show(prepared, sending)
    if sending.dry_run:
        return None
    try:
        receipt = send(prepared, sending)
    except PublishingError as error:
        raise PublishingError(
            f"{error}. Prepared in {prepared.folder}; the same command goes on from there"
        ) from error
    receipt.write(output / RECEIPT_FILE)
    print(f"\n{'published' if receipt.new else 'published before, nothing new'}: {receipt.url}")
    print(f"{receipt.version}, {'private' if receipt.private else 'public'}; {output / RECEIPT_FILE}")
    return receipt


def show(prepared: Prepared, sending: Sending) -> None:
    """Print what is to be published: every file with its size and hash, in a dry run also the card."""
    tag, visibility = version_tag(sending.version), "public" if sending.public else "private"
    print(f"{prepared.repo_type} {prepared.repo_id}, {tag}, {visibility}; from {prepared.folder}:\n")
    for path, sha256 in prepared.files.items():
        print(f"{(prepared.folder / path).stat().st_size:>14,} bytes  {sha256}  {path}")
    print("\nlint: nothing found that must not be published")
    if sending.dry_run:
        print(f"\nREADME.md:\n\n{(prepared.folder / 'README.md').read_text(encoding='utf-8')}")


def send(prepared: Prepared, sending: Sending) -> Receipt:
    """Publish a prepared folder, and link it."""
    receipt = publish(
        prepared.folder,
        prepared.repo_id,
        kind=prepared.kind,
        repo_type=prepared.repo_type,
        version=sending.version,
        private=not sending.public,
        checks=partial(check, prepared.kind),
        limits=sending.limits,
    )
    if sending.hub_collection:
        repos = [(prepared.repo_id, prepared.repo_type)]
        linked = link(sending.hub_collection, repos, private=receipt.private, limits=sending.limits)
        print(f"collection: {linked}")
    return receipt


def check(kind: str, folder: Path) -> None:
    """What was downloaded loads, and all that verify.py would check of it holds.

    Raises:
        PublishingError: the first thing that does not.
    """
    from .verify import check_folder

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
        try:
            rows = load_dataset(str(folder), "candidates", split=split, streaming=True)
            first: dict[str, object] = next(iter(rows), {})
        except Exception as error:  # of several libraries, each with errors of its own
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise PublishingError(f"{split}: datasets does not load what README.md says: {reason}") from error
        if facts["queries"] and "positive_ids" not in first:
            raise PublishingError(f"{split}: datasets reads no candidates from what README.md says")
