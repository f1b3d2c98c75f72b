"""Export: draw one epoch's training groups and write them for another library, or the lists as TREC runs.

    python recipes/export.py --negatives FOLDER_OR_REPO --form labeled_list --num_negatives 40 --output_dir D

Forms: labeled_list, n_tuple and triplet for sentence-transformers (Parquet), tevatron and flag_embedding (JSON lines),
trec (each retriever's lists) and pool (all as one run, for a ranker to rescore). Thousands of queries a second.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from r2anker_hf.config import run_recipe
from r2anker_hf.negatives.converters import FORMS, export_groups, export_pool, export_runs
from r2anker_hf.negatives.options import CandidatesOptions
from r2anker_hf.negatives.sampling import Sampling
from r2anker_hf.records import InputError
from r2anker_hf.stage import pinned, run_stage

CHOICES = (*FORMS, "trec", "pool")


@dataclass
class ExportConfig(CandidatesOptions):
    output_dir: str = field(metadata={"help": "New folder for the file."})
    form: str = field(default="labeled_list", metadata={"help": f"One of: {', '.join(CHOICES)}."})
    num_negatives: int = field(default=40, metadata={"help": "Negatives per query (appendix C)."})
    seed: int = field(default=42, metadata={"help": "Seed of the draw; the default is the trainer's."})
    epoch: int = field(default=0, metadata={"help": "Epoch of the draw: each epoch has other negatives."})

    def __post_init__(self):
        if self.form not in CHOICES:
            raise InputError(f"no export form {self.form!r}; choices: {', '.join(CHOICES)}")


def main(config: ExportConfig, sampling: Sampling) -> None:
    config, inputs = pinned(config, negatives="dataset")
    run_stage((config, sampling), config.output_dir, inputs, partial(export, config, sampling))


def export(config: ExportConfig, sampling: Sampling, folder: Path) -> None:
    """Write the file; on several processes the main one works."""
    from accelerate import PartialState

    if not PartialState().is_main_process:
        return
    candidates = config.load()
    if config.form == "trec":
        print(", ".join(path.name for path in export_runs(candidates, folder)))
    elif config.form == "pool":
        export_pool(candidates, folder / "run.trec")
    else:
        path, rows = export_groups(
            candidates,
            folder,
            config.form,
            num_negatives=config.num_negatives,
            seed=config.seed,
            epoch=config.epoch,
            sampling=sampling,
        )
        print(f"{path.name}: {rows} rows from {len(candidates.rows)} queries")


if __name__ == "__main__":
    run_recipe(main)
