"""Import: turn a peer's published negatives into a collection and runs, which mine.py takes.

    python recipes/import_negatives.py --file hard.jsonl.gz --form sentence_transformers --output_dir D
    python recipes/mine.py --collection mteb/msmarco --revision COMMIT --runs bm25=D/runs/bm25.trec ... --output_dir N

Forms: sentence_transformers (msmarco-hard-negatives: ids by system), tevatron (msmarco-passage), flag_embedding,
labeled_list, n_tuple, triplet. Those with texts give a whole BEIR folder: mine with --collection D. Some tens of
thousands of rows a minute.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from r2anker_hf.config import run_recipe
from r2anker_hf.names import checked_name
from r2anker_hf.negatives.converters import READERS, import_negatives
from r2anker_hf.records import InputError
from r2anker_hf.stage import run_stage


@dataclass
class ImportConfig:
    file: str = field(metadata={"help": "JSON lines, plain or gzipped, or Parquet."})
    form: str = field(metadata={"help": f"One of: {', '.join(READERS)}."})
    output_dir: str = field(metadata={"help": "New folder for judgements, runs and, where there are texts, corpus."})
    split: str = field(default="train", metadata={"help": "Name of the judgements."})

    def __post_init__(self):
        if self.form not in READERS:
            raise InputError(f"no import form {self.form!r}; choices: {', '.join(READERS)}")
        checked_name(self.split, "split")


def main(config: ImportConfig) -> None:
    run_stage(config, config.output_dir, {"file": Path(config.file)}, partial(import_file, config))


def import_file(config: ImportConfig, folder: Path) -> None:
    """Write the folder; on several processes the main one works."""
    import shutil

    from accelerate import PartialState

    if PartialState().is_main_process:
        for part in ("qrels", "runs"):  # of a launch that was killed
            shutil.rmtree(folder / part, ignore_errors=True)
        import_negatives(config.file, config.form, folder, config.split)
        print("runs: " + ", ".join(sorted(path.stem for path in (folder / "runs").iterdir())))


if __name__ == "__main__":
    run_recipe(main)
