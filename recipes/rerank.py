"""Rerank: a ranker orders a first stage's documents anew. Writes run.trec.

    accelerate launch recipes/rerank.py --ranker FOLDER_OR_REPO --collection C --split test --first_stage X.trec \\
        --depth 1000 --output_dir D

With MiniLM at 128 tokens some 100 pairs a second in float32 and 200 in bfloat16 on two CPU cores; several processes
share the pairs. A killed reranking goes on where it was when the same command is given again; where memory ran out,
with a smaller --batch_size. The ranker may be any that sentence-transformers loads as a CrossEncoder, such as
Qwen3-Reranker, or a bi-encoder: its scores are then those of retrieve.py, whose --index saves the encoding.
First stages share many documents: --scored A B takes over what the same ranker scored in these folders of this recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from r2anker_hf.collection.collection import Collection
from r2anker_hf.collection.options import CollectionOptions
from r2anker_hf.collection.subset import named, only
from r2anker_hf.config import CONFIG_FILE, run_recipe
from r2anker_hf.files import read_json, read_yaml
from r2anker_hf.rankers.scored import reordered, scores_of, unscored
from r2anker_hf.records import InputError
from r2anker_hf.run import Run, RunFile, check_run
from r2anker_hf.stage import PROVENANCE_FILE, digest_of, pinned, run_stage

if TYPE_CHECKING:
    from r2anker_hf.rankers.ranker import Reranker

DECISIVE_INPUTS = ("ranker", "ranker scored by", "collection")
DECISIVE_OPTIONS = ("split", "use_titles", "max_windows", "max_length", "prompt", "retriever", "dtype")
"""What scores of equal pairs depend on."""


@dataclass
class RerankingConfig(CollectionOptions):
    ranker: str = field(metadata={"help": "Folder or Hub id of a ranker, any CrossEncoder, or a bi-encoder."})
    first_stage: str = field(metadata={"help": "What is reranked, over this split: path/run.trec.", "formerly": "run"})
    output_dir: str = field(metadata={"help": "New folder for run.trec."})
    split: str = field(default="test", metadata={"help": "train, dev or test, as the collection names them."})
    ranker_revision: str | None = field(default=None, metadata={"help": "Commit of a Hub ranker."})
    query_ids: str | None = field(
        default=None, metadata={"help": "File of query ids, one per line: only these queries of the split."}
    )
    depth: int = field(default=1000, metadata={"help": "Documents reranked per query (the paper: 1000)."})
    scored: list[str] = field(
        default_factory=list,
        metadata={"help": "Folders of this recipe, by the same ranker: their pairs are not scored again."},
    )
    max_windows: int | None = field(
        default=None,
        metadata={
            "help": "Windows of a passage too long for a pair; they overlap by half, and the best score counts. "
            "Only such passages take longer. 1 truncates. Default: as the ranker was trained."
        },
    )
    batch_size: int | None = field(
        default=None, metadata={"help": "Pairs of full length scored at once (more short ones); default by device."}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Tokens of a pair; default what the ranker says, else 128."}
    )
    retriever: Literal["dense", "splade"] | None = field(
        default=None, metadata={"help": "Read the ranker as this kind of bi-encoder; default what its files say."}
    )
    index: str | None = field(
        default=None, metadata={"help": "Bi-encoder: retrieve.py's index, so that no passage is encoded again."}
    )
    prompt: str | None = field(
        default=None,
        metadata={
            "help": "Name of one of the ranker's prompts, or a text; default the ranker's own. With one given, "
            "sentence-transformers scores."
        },
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto",
        metadata={
            "help": "float32, or half precision: faster, scores with about two correct digits. auto: float32 on a "
            "CPU, bfloat16 on a GPU that has it, else float16. config.yaml records what was taken."
        },
    )

    def __post_init__(self):
        from r2anker_hf.models.precision import scoring_dtype

        self.dtype = scoring_dtype(self.dtype)


def main(config: RerankingConfig) -> None:
    from r2anker_hf.rankers.foreign import loaded_by

    collection = config.load(config.split)
    config, inputs = pinned(config, ranker="model")
    inputs |= {"collection": f"{collection.name}@{collection.revision}", "run": Path(config.first_stage)}
    if config.query_ids:
        collection = only(collection, named(config.query_ids, collection.queries, config.split))
        inputs["queries"] = Path(config.query_ids)
    inputs |= loaded_by(config.ranker, config.ranker_revision, config.prompt, config.retriever)
    check_scored(config, inputs)
    inputs |= {f"scored {number}": Path(folder) for number, folder in enumerate(config.scored, start=1)}
    work = partial(rerank, config, collection)
    run_stage(config, config.output_dir, inputs, work, free=("batch_size",), scratch=("work",))


def check_scored(config: RerankingConfig, inputs: Mapping[str, str | Path]) -> None:
    """Refuse folders whose scores this command would not give.

    Raises:
        InputError: names the folder, and what differs.
    """
    own = {name: digest_of(inputs[name]) if name in inputs else None for name in DECISIVE_INPUTS}
    own |= {name: getattr(config, name) for name in DECISIVE_OPTIONS}
    for scored in config.scored:
        record = read_json(Path(scored) / PROVENANCE_FILE, "inputs")["inputs"]
        theirs = {**read_yaml(Path(scored) / CONFIG_FILE), **{name: record.get(name) for name in DECISIVE_INPUTS}}
        for name, value in own.items():
            if theirs.get(name) != value:
                raise InputError(f"--scored {scored}: its {name} is {theirs.get(name)!r}, but here it is {value!r}")


def rerank(config: RerankingConfig, collection: Collection, folder: Path) -> None:
    """Score the run's documents and write the new order."""
    from accelerate import PartialState

    state, first_stage = PartialState(), RunFile(config.first_stage)
    check_run(first_stage, collection.queries, config.first_stage, config.split, collection.corpus, depth=config.depth)
    among = (first_stage, collection.queries, config.depth)
    runs = [Run.read_trec(Path(scored) / "run.trec") for scored in config.scored]
    left = unscored(*among, scores_of(runs)) if runs else first_stage
    if left:
        runs.append(loaded(config).rerank(left, collection, config.depth, progress=True, folder=folder / "work"))
    run = reordered(*among, scores_of(runs)) if config.scored else runs[0]
    if state.is_main_process:
        run.write_trec(folder / "run.trec")


def loaded(config: RerankingConfig) -> Reranker:
    """The ranker, as the options say."""
    import torch
    from accelerate import PartialState

    from r2anker_hf.rankers.foreign import load_ranker

    return load_ranker(
        config.ranker,
        config.ranker_revision,
        max_length=config.max_length,
        prompt=config.prompt,
        max_windows=config.max_windows,
        batch_size=config.batch_size,
        dtype=getattr(torch, config.dtype),
        device=PartialState().device,
        retriever=config.retriever,
        index=config.index,
    )


if __name__ == "__main__":
    run_recipe(main)
