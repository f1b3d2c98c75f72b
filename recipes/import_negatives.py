"""Import: turn a peer's published negatives into a collection and runs, which mine.py takes.

    python recipes/import_negatives.py --repo sentence-transformers/msmarco-hard-negatives --revision COMMIT \\
        --file msmarco-hard-negatives.jsonl.gz --form sentence_transformers --output_dir D
    python recipes/mine.py --collection mteb/msmarco --revision COMMIT --runs bm25=D/runs/bm25.trec ... --output_dir N

Forms: sentence_transformers (msmarco-hard-negatives: ids by system), tevatron (msmarco-passage), flag_embedding,
labeled_list, n_tuple, triplet. Those with texts give a whole BEIR folder: mine with --collection D. Without --repo the
file is a local one. Some tens of thousands of rows a minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from r2anker_hf.config import run_recipe
from r2anker_hf.names import checked_name
from r2anker_hf.negatives.converters import READERS, import_negatives
from r2anker_hf.negatives.hub_files import download_files, find_files
from r2anker_hf.records import InputError
from r2anker_hf.stage import run_stage


@dataclass
class ImportConfig:
    form: str = field(metadata={"help": f"One of: {', '.join(READERS)}."})
    output_dir: str = field(metadata={"help": "New folder for judgements, runs and, where there are texts, corpus."})
    file: str | None = field(
        default=None,
        metadata={"help": "JSON lines, plain or gzipped, or Parquet. With --repo a path or pattern there."},
    )
    repo: str | None = field(default=None, metadata={"help": "Dataset repository of the Hub that holds the file."})
    revision: str | None = field(default=None, metadata={"help": "Commit of that repository."})
    split: str = field(default="train", metadata={"help": "Name of the judgements."})

    def __post_init__(self):
        if self.form not in READERS:
            raise InputError(f"no import form {self.form!r}; choices: {', '.join(READERS)}")
        checked_name(self.split, "split")
        if not self.repo and (not self.file or self.revision):
            raise InputError("give --file; or --repo for a file of the Hub, perhaps with --file and --revision")


def main(config: ImportConfig) -> None:
    if config.repo is None:
        run_stage(config, config.output_dir, {"file": Path(str(config.file))}, partial(import_files, config, []))
        return
    commit, names = find_files(config.repo, config.file, config.revision)
    config = replace(config, revision=commit)
    inputs: dict[str, str | Path] = {"file": f"{config.repo}@{commit}: {', '.join(names)}"}
    run_stage(config, config.output_dir, inputs, partial(import_files, config, names))


def import_files(config: ImportConfig, names: Sequence[str], folder: Path) -> None:
    """Write the folder from a local file, or from those of the repository; on several processes the main one works."""
    import shutil

    from accelerate import PartialState

    if PartialState().is_main_process:
        for part in ("qrels", "runs"):  # of a launch that was killed
            shutil.rmtree(folder / part, ignore_errors=True)
        files = download_files(config.repo, names, config.revision) if config.repo else [Path(str(config.file))]
        import_negatives(files, config.form, folder, config.split)
        print("runs: " + ", ".join(sorted(path.stem for path in (folder / "runs").iterdir())))


if __name__ == "__main__":
    run_recipe(main)
