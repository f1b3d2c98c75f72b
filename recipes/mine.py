"""Mine: keep what every retriever ranked for each training query, as a dataset to draw negatives from.

    python recipes/mine.py --collection C --split train --runs bm25=A/run.trec dense=B/run.trec --depth 200 \
        --output_dir D

Thousands of queries a second. The folder loads with datasets.load_dataset(D, "candidates").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from r2anker_hf.collection import Collection, load_collection
from r2anker_hf.config import run_recipe
from r2anker_hf.negatives.candidates import write_candidates
from r2anker_hf.run import Run
from r2anker_hf.stage import run_stage


@dataclass
class MiningConfig:
    collection: str = field(metadata={"help": "BEIR or MS MARCO folder, Hub repository, or 'apidocs'."})
    runs: dict[str, str] = field(metadata={"help": "First stages over this split: name=path/run.trec ..."})
    output_dir: str = field(metadata={"help": "New folder for the dataset."})
    split: str = field(default="train", metadata={"help": "The split to train on; never the one to measure with."})
    revision: str | None = field(default=None, metadata={"help": "Commit of a Hub collection."})
    use_titles: bool = field(default=True, metadata={"help": "Passages are title and text, or text alone."})
    collection_options: dict[str, int] = field(default_factory=dict, metadata={"help": "Sizes of 'apidocs'."})
    depth: int = field(default=200, metadata={"help": "Documents kept of each run (top-N of appendix B)."})


def main(config: MiningConfig) -> None:
    collection = load_collection(
        config.collection, config.split, config.revision, config.use_titles, **config.collection_options
    )
    inputs: dict[str, str | Path] = {"collection": f"{collection.name}@{collection.revision}"}
    inputs.update({f"run {name}": Path(path) for name, path in config.runs.items()})
    run_stage(config, config.output_dir, inputs, partial(mine, config, collection))


def mine(config: MiningConfig, collection: Collection, folder: Path) -> None:
    """Read the runs and write the dataset; on several processes the main one works."""
    from accelerate import PartialState

    if PartialState().is_main_process:
        runs = {name: Run.read_trec(path, name) for name, path in config.runs.items()}
        manifest = write_candidates(folder, collection, runs, config.depth)
        for name, counts in manifest["retrievers"].items():
            print(
                f"{name}: {counts['candidates']} candidates, the positive among them for "
                f"{counts['queries_whose_positive_is_found']} of {manifest['queries']} queries"
            )


if __name__ == "__main__":
    run_recipe(main, MiningConfig)
