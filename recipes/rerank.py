"""Rerank: a ranker orders a first stage's documents anew. Writes run.trec.

    accelerate launch recipes/rerank.py --ranker FOLDER_OR_REPO --collection C --split test --run X.trec --depth 1000 \
        --output_dir D

With MiniLM at 128 tokens some 100 pairs a second in float32 and 200 in bfloat16 on two CPU cores; several processes
share the pairs. A killed reranking goes on where it was when the same command is given again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from r2anker_hf.collection import Collection, load_collection
from r2anker_hf.config import run_recipe
from r2anker_hf.rankers import CrossEncoderRanker
from r2anker_hf.run import Run
from r2anker_hf.stage import pinned, run_stage


@dataclass
class RerankingConfig:
    ranker: str = field(metadata={"help": "Folder that train_ranker.py wrote, or a Hub repository."})
    collection: str = field(metadata={"help": "BEIR or MS MARCO folder, Hub repository, or 'apidocs'."})
    run: str = field(metadata={"help": "First stage over this split: path/run.trec."})
    output_dir: str = field(metadata={"help": "New folder for run.trec."})
    split: str = field(default="test", metadata={"help": "train, dev or test, as the collection names them."})
    ranker_revision: str | None = field(default=None, metadata={"help": "Commit of a Hub ranker."})
    revision: str | None = field(default=None, metadata={"help": "Commit of a Hub collection."})
    use_titles: bool = field(default=True, metadata={"help": "Passages are title and text, or text alone."})
    collection_options: dict[str, int] = field(default_factory=dict, metadata={"help": "Sizes of 'apidocs'."})
    depth: int = field(default=1000, metadata={"help": "Documents reranked a query (the paper: 1000)."})
    batch_size: int | None = field(
        default=None, metadata={"help": "Pairs of full length scored at once (more short ones); default by device."}
    )
    dtype: Literal["float32", "bfloat16"] = field(
        default="float32", metadata={"help": "float32, or bfloat16: faster, scores with about two correct digits."}
    )


def main(config: RerankingConfig) -> None:
    collection = load_collection(
        config.collection, config.split, config.revision, config.use_titles, **config.collection_options
    )
    inputs: dict[str, str | Path] = {
        "ranker": pinned(config, "ranker"),
        "collection": f"{collection.name}@{collection.revision}",
        "run": Path(config.run),
    }
    run_stage(config, config.output_dir, inputs, partial(rerank, config, collection), scratch=("work",))


def rerank(config: RerankingConfig, collection: Collection, folder: Path) -> None:
    """Score the run's documents and write the new order."""
    import torch
    from accelerate import PartialState

    state = PartialState()
    ranker = CrossEncoderRanker.from_pretrained(
        config.ranker,
        config.ranker_revision,
        batch_size=config.batch_size,
        dtype=getattr(torch, config.dtype),
        device=state.device,
    )
    run = ranker.rerank(Run.read_trec(config.run), collection, config.depth, progress=True, folder=folder / "work")
    if state.is_main_process:
        run.write_trec(folder / "run.trec")


if __name__ == "__main__":
    run_recipe(main, RerankingConfig)
