"""From a finished folder to a staging folder: everything in it is published, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..records import InputError

KINDS = {"ranker": "model", "negatives": "dataset", "retriever": "model"}
"""What can be published, and the Hub's type of its repository."""
PUBLICATION_FILE = "publication.json"


@dataclass
class Stated:
    """What the publisher says, because no file knows it; the options of a recipe."""

    licence: str | None = field(
        default=None,
        metadata={"help": "Licence of what is published, as the Hub names it; default that of the training data."},
    )
    language: list[str] = field(default_factory=list, metadata={"help": "Languages of the texts: en ..."})
    base_model: str | None = field(
        default=None, metadata={"help": "owner/name@commit of the encoder that training started from, if it was local."}
    )
    negatives: str | None = field(
        default=None, metadata={"help": "owner/name@commit, or folder, of a ranker's candidates, if they were moved."}
    )
    collection: str | None = field(
        default=None, metadata={"help": "owner/name@commit of the collection measured on, if it was a local copy."}
    )
    runs: dict[str, str] = field(
        default_factory=dict, metadata={"help": "Run files behind the report, if they were moved: name=path ..."}
    )
    systems: list[str] = field(
        default_factory=list, metadata={"help": "Systems of the report that are this model; default by its hash."}
    )
    judgements: Literal["copy", "reference"] = field(
        default="copy", metadata={"help": "Publish the evaluated judgements, or refer to their Hub repository."}
    )
    benchmark: str | None = field(
        default=None, metadata={"help": "owner/name#task_id of a Hub benchmark, for a file in .eval_results."}
    )
    purpose: str | None = field(default=None, metadata={"help": "What it is for and for whom, one sentence or two."})
    watts: float | None = field(default=None, metadata={"help": "Power of a device in training, for the carbon."})
    grams_per_kwh: float | None = field(default=None, metadata={"help": "CO2 of a kilowatt-hour where it was trained."})


@dataclass(frozen=True)
class Staged:
    """A folder that may be published as it is.

    Attributes:
        kind: one of KINDS.
        repo_id: where it is meant for; the snippets of its card name it.
        repo_type: the Hub's type of repository, "model" or "dataset".
        folder: everything in it is published, and nothing else.
        files: sha256 by path, of every file, `publication.json` among them. Equal inputs give equal bytes.
    """

    kind: str
    repo_id: str
    repo_type: str
    folder: Path
    files: Mapping[str, str]


def stage(
    kind: str,
    folder: str | os.PathLike,
    repo_id: str,
    *,
    into: str | os.PathLike,
    report: str | os.PathLike | None = None,
    stated: Stated | None = None,
) -> Staged:
    """Stage a finished folder: allowed files alone, rewritten so that they load everywhere, with card and evidence.

    Nothing is sent, and the source folder is only read.

    Args:
        kind: ranker, negatives or retriever.
        folder: what train_ranker.py, mine.py or train_retriever.py (D/D2, say) wrote.
        repo_id: "owner/name" of the repository to be.
        into: the staging folder, made anew; what an earlier staging left there is removed.
        report: folder that score.py wrote; without one the card of a model says that nothing was measured.
        stated: what no file knows.

    Returns:
        The staged folder and the sha256 of its files.

    Raises:
        InputError: one line that names file and finding: a pickle, a token, a path of this machine or a training row
            in any byte, a base model or dataset without commit, a licence that clashes with the data's, a report that
            is not of this model or not of these runs, a model that other loaders would score differently. `into` is
            left empty then.
    """
    raise InputError("not written yet")
