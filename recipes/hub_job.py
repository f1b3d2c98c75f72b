"""Hub job: the whole story of a recipe folder on the Hub's machines, published at its end.

    hf buckets create me/r2anker --private
    hf jobs uv run -v hf://buckets/me/r2anker:/out SCRIPT --recipe nfcorpus --licence cc-by-sa-4.0 --output_dir /out/D
        --repo_id me/nfcorpus

SCRIPT is this file, or its address. `uv` runs it: its head names packages, hardware and time limit, and flags of
`hf jobs uv run` win over them. It does what `run.sh` does, from Hub ids only. Then `publish_all.py` sends the
negatives to me/nfcorpus-negatives and the ranker to me/nfcorpus-ranker. All folders lie on the volume that -v mounts,
so the same command goes on where a job ran out of time. Token and volume are tried before anything else. Hours.
"""
# /// script
# requires-python = ">=3.11"
# dependencies = ["r2anker_hf[gpu]"]
#
# [tool.hf-jobs]
# flavor = "l4x1"
# timeout = "8h"
# secrets = ["HF_TOKEN"]
# ///

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from r2anker_hf.config import run_recipe
from r2anker_hf.publishing.hub import check_rights, version_tag
from r2anker_hf.records import InputError
from r2anker_hf.shipped import shipped


@dataclass
class HubJobConfig:
    recipe: str = field(metadata={"help": "Folder of settings: nfcorpus, scifact, msmarco or nano."})
    repo_id: str = field(metadata={"help": "owner/name, to which -negatives and -ranker are added."})
    output_dir: str = field(metadata={"help": "Folder on the mounted volume; finished stages are not done twice."})
    licence: str = field(metadata={"help": "Licence of the collection, as the Hub names it."})
    language: list[str] = field(default_factory=lambda: ["en"], metadata={"help": "Languages of the texts."})
    collection: str | None = field(default=None, metadata={"help": "Hub id in place of the folder's collection."})
    revision: str | None = field(default=None, metadata={"help": "Its commit."})
    model: str | None = field(default=None, metadata={"help": "Hub id that the ranker starts from."})
    model_revision: str | None = field(default=None, metadata={"help": "Its commit."})
    retriever: str | None = field(
        default=None, metadata={"help": "Hub id of the dense retriever, where the folder names none."}
    )
    common: str = field(default="", metadata={"help": "Further options of every stage, as run.sh takes them."})
    training: str = field(default="", metadata={"help": "Further options of the training, likewise."})
    launch: str = field(default="python", metadata={"help": "On several GPUs: 'accelerate launch'."})
    version: str = field(default="1.0.0", metadata={"help": "Tagged v1.0.0; a published version is never changed."})
    public: bool = field(default=False, metadata={"help": "Let everyone read both, once they are complete."})

    def __post_init__(self):
        version_tag(self.version)
        folders = sorted(path.parent.name for path in shipped("recipes").glob("*/mine.yaml"))
        if self.recipe not in folders:
            raise InputError(f"recipe is {self.recipe!r}; choices: {', '.join(folders)}")
        if self.revision and not self.collection:
            raise InputError("revision is given without collection; the folder's own is pinned already")
        if self.model_revision and not self.model:
            raise InputError("model_revision is given without model")


def main(config: HubJobConfig) -> None:
    check_rights(f"{config.repo_id}-negatives", "dataset")
    check_rights(f"{config.repo_id}-ranker")
    check_volume(Path(config.output_dir))
    work(["bash", str(shipped("recipes") / "run.sh"), config.recipe], **story(config))
    work(publishing(config))


def check_volume(folder: Path) -> None:
    """Try what stages need of a volume before hours are paid for: a folder is written, renamed and removed.

    Raises:
        InputError: the volume cannot do it.
    """
    before, after = folder / ".tried.partial", folder / ".tried"
    try:
        before.mkdir(parents=True, exist_ok=True)
        (before / "file").write_text("tried", encoding="utf-8")
        os.replace(before, after)
        (after / "file").unlink()
        after.rmdir()
    except OSError as error:
        raise InputError(f"{folder}: stages cannot be written there: {error.strerror}; mount another volume") from None


def story(config: HubJobConfig) -> dict[str, str]:
    """The variables of run.sh."""
    pins = [f"--revision {config.revision}" if config.revision else "", config.common]
    start = [f"--model_revision {config.model_revision}" if config.model_revision else "", config.training]
    given = {"COLLECTION": config.collection, "MODEL": config.model, "RETRIEVER": config.retriever}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {
        **{name: value for name, value in given.items() if value},
        **{"OUT": config.output_dir, "LAUNCH": config.launch, "PATH": path, "R2ANKER_PYTHON": sys.executable},
        **{"COMMON": " ".join(filter(None, pins)), "TRAINING": " ".join(filter(None, start))},
    }


def publishing(config: HubJobConfig) -> list[str]:
    """The command that publishes what the story made."""
    output = Path(config.output_dir)
    # one per reported split; a fault leaves its traceback in a file beside them
    reports = [str(folder) for folder in sorted(output.glob("report*")) if folder.is_dir()]
    words = ["--negatives", str(output / "negatives"), "--ranker", str(output / "ranker"), "--ranker_report", *reports]
    words += ["--repo_id", config.repo_id, "--output_dir", str(output / "published"), "--version", config.version]
    words += ["--licence", config.licence, "--language", *config.language]
    words += ["--public"] if config.public else []
    return [sys.executable, "-m", "r2anker_hf", "publish-all", *words]


def work(words: Sequence[str], **variables: str) -> None:
    """Run a command to its end.

    Raises:
        InputError: it failed; what it printed says why.
    """
    code = subprocess.run(words, env={**os.environ, **variables}).returncode
    if code:
        raise InputError(f"exit code {code}: {shlex.join(words)}; the same job again goes on from there")


if __name__ == "__main__":
    run_recipe(main)
