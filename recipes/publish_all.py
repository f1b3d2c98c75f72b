"""Publish all: negatives, the ranker that learned from them and the retriever that it taught, each naming the others.

    python recipes/publish_all.py --negatives D/negatives --ranker D/ranker --ranker_report D/report \\
        --retriever D/student --repo_id owner/name --output_dir P

The repositories are owner/name-negatives, owner/name-ranker and owner/name-retriever, in one collection of the Hub.
They go out in that order: the ranker names the commit of its negatives, and the retriever those of both. Each is sent
as publish.py sends it. Leave out what you do not publish. Where it breaks off, the same command goes on.

First try --dry_run: it sends nothing, so nothing has a commit yet, and the parts name each other by their hashes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from r2anker_hf.config import run_recipe, save_config
from r2anker_hf.files import check_output
from r2anker_hf.publishing.hub import version_tag
from r2anker_hf.publishing.mixtures import recorded_sets
from r2anker_hf.publishing.preparing import Stated, StatedOfAll
from r2anker_hf.publishing.provenance import AS_RECORDED, PINNED, lineage, read_stage
from r2anker_hf.publishing.sending import Part, Sending, publish_part
from r2anker_hf.records import InputError
from r2anker_hf.stage import digest_of

OF_THE_RANKER = (
    *("purpose", "collection", "runs", "systems", "benchmark"),
    *("calibration", "precision", "onnx", "onnx_queries"),
)
"""What is stated of the ranker and its reports, and of no other part."""


@dataclass
class StoryConfig:
    repo_id: str = field(metadata={"help": "owner/name, to which -negatives, -ranker and -retriever are added."})
    output_dir: str = field(
        metadata={"help": "Folder for what is prepared and for the receipts, one folder per part."}
    )
    negatives: list[str] = field(
        default_factory=list,
        metadata={"help": "Folder of mine.py or teach.py; several, if the ranker learned from a mixture."},
    )
    ranker: str | None = field(default=None, metadata={"help": "Folder of train_ranker.py."})
    ranker_report: list[str] = field(default_factory=list, metadata={"help": "Folders of score.py on the ranker."})
    retriever: str | None = field(default=None, metadata={"help": "Folder of distil.py or train_retriever.py."})
    retriever_report: list[str] = field(
        default_factory=list, metadata={"help": "Folders of score.py on the retriever."}
    )

    def __post_init__(self):
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.repo_id):
            raise InputError(f"repo_id is {self.repo_id!r}, but is written owner/name")
        if not self.folders:
            raise InputError("nothing to publish; give --negatives, --ranker or --retriever")

    @property
    def folders(self) -> list[str]:
        return [*self.negatives, *filter(None, (self.ranker, self.retriever))]

    def parts(self) -> Iterator[Part]:
        """In the order in which they name each other."""
        for number, folder in enumerate(self.negatives, 1):
            yield Part("negatives", folder, f"{self.repo_id}-negatives{f'-{number}' if self.negatives[1:] else ''}")
        if self.ranker:
            yield Part("ranker", self.ranker, f"{self.repo_id}-ranker", tuple(self.ranker_report))
        if self.retriever:
            yield Part("retriever", self.retriever, f"{self.repo_id}-retriever", tuple(self.retriever_report))


def main(config: StoryConfig, sending: Sending, stated: StatedOfAll) -> None:
    output = Path(config.output_dir)
    check_output(output, [*config.folders, *config.ranker_report, *config.retriever_report])
    check_story(config)
    check_base(config, stated.base_model)
    output.mkdir(parents=True, exist_ok=True)
    save_config((config, sending, stated), output)
    sending = replace(sending, hub_collection=sending.hub_collection or config.repo_id.partition("/")[2])
    pins: dict[str, str] = {}  # owner/name@commit by the digest that trainings record of a local folder
    parts = list(config.parts())
    for number, part in enumerate(parts, 1):
        print(f"\n== {number} of {len(parts)}: the {part.kind}, {part.repo_id}")
        receipt = publish_part(part, output / part.repo_id.partition("/")[2], stated_of(part, stated, pins), sending)
        if receipt:
            pins[digest_of(Path(part.folder))] = f"{part.repo_id}@{receipt.commit}"
    print(f"\n{closing(parts, sending)}")


def check_story(config: StoryConfig) -> None:
    """Refuse parts that do not come from each other, before anything is sent.

    Raises:
        InputError: a model learned from other local candidates, or from another local ranker, than what is given.
    """
    negatives = {digest_of(Path(folder)) for folder in config.negatives}
    for folder in filter(None, (config.ranker, config.retriever)):
        learned = {one for one in recorded_sets(read_stage(folder).record["inputs"]) if one.startswith("sha256:")}
        if negatives and learned and not negatives & learned:
            raise InputError(f"{folder}: learned from other negatives than {', '.join(config.negatives)}")
    if config.ranker and config.retriever:
        teacher = read_stage(config.retriever).record["inputs"].get("teacher", "")
        if teacher.startswith("sha256:") and teacher != digest_of(Path(config.ranker)):
            raise InputError(f"{config.retriever}: learned from another ranker than {config.ranker}")


def check_base(config: StoryConfig, stated: str | None) -> None:
    """Refuse a base model that is not that of the parts, before anything is sent.

    Raises:
        InputError: no part started from a local copy, or two from different ones.
    """
    starts = {start_of(folder) for folder in filter(None, (config.ranker, config.retriever)) if stated}
    local = {start for start in starts if not PINNED.fullmatch(start)}
    if len(local) > 1:
        raise InputError("base_model: the parts started from different local models; send each by publish.py")
    if starts and not local and stated not in starts:
        found = ", ".join(sorted(starts))
        raise InputError(f"base_model: {stated} is stated, but the parts started from {found}; leave it out")


def start_of(folder: str | os.PathLike) -> str:
    """What a model's first training started from: owner/name@commit, or a local folder's hash."""
    return str(lineage(Path(folder))[0].record["inputs"]["model"])


def stated_of(part: Part, stated: StatedOfAll, pins: dict[str, str]) -> Stated:
    """What is stated of one part, with the commits (`pins`, by folders' digests) of the parts that it came from."""
    if part.kind != "ranker":
        stated = replace(stated, **{name: getattr(StatedOfAll(), name) for name in OF_THE_RANKER})
    if part.kind == "negatives":
        return Stated(**vars(stated))
    if stated.base_model and PINNED.fullmatch(start_of(part.folder)):  # what is stated is of a local start
        stated = replace(stated, base_model=None)
    inputs = read_stage(part.folder).record["inputs"]
    negatives = [pins.get(recorded, AS_RECORDED) for recorded in recorded_sets(inputs)]
    return Stated(**vars(stated), negatives=negatives, teacher=pins.get(inputs.get("teacher", "")))


def closing(parts: list[Part], sending: Sending) -> str:
    """What anyone does next, in a line per repository."""
    if sending.dry_run:
        return "dry run: nothing was sent; the same command without --dry_run publishes it"
    checks = [f"r2anker verify {part.repo_id} --revision {version_tag(sending.version)}" for part in parts]
    return "\n".join(["Anyone verifies them:", *(f"  {check}" for check in checks)])


if __name__ == "__main__":
    run_recipe(main)
