"""Train a retriever: a dense or SPLADE one learns from BM25's negatives, then from its own hard ones too.

    accelerate launch recipes/train_retriever.py --collection C --retriever dense|splade --model M --output_dir D

D/D1 and D/D2 (dense), or D/L1 and D/L2 (SPLADE), are folders that sentence-transformers and retrieve.py load. Round 1
starts from M, and round 2 goes on from round 1 (4.2). Minutes for a few thousand queries on two CPU cores; a killed
training goes on.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from r2anker_hf.collection.collection import Collection
from r2anker_hf.collection.options import CollectionOptions
from r2anker_hf.config import run_recipe
from r2anker_hf.draws import evenly_spaced
from r2anker_hf.negatives.candidates import load_candidates, mine
from r2anker_hf.retrievers.options import RetrieverTraining, Rounds
from r2anker_hf.retrievers.parts import search_in_parts
from r2anker_hf.run import RunFile
from r2anker_hf.stage import pinned, run_stage

if TYPE_CHECKING:
    from r2anker_hf.retrievers.base import Retriever

LETTERS = {"dense": "D", "splade": "L"}


@dataclass
class RetrieverConfig(Rounds, CollectionOptions):
    output_dir: str = field(metadata={"help": "New folder for the models and their runs over the training queries."})
    model: str = field(metadata={"help": "Encoder that round 1 starts from: a folder or Hub id."})
    retriever: Literal["dense", "splade"] = field(default="dense", metadata={"help": "What is trained."})
    negatives: str | None = field(
        default=None, metadata={"help": "Candidates (mine.py) in place of BM25's top documents."}
    )
    negatives_revision: str | None = field(default=None, metadata={"help": "Commit of a Hub dataset."})
    model_revision: str | None = field(default=None, metadata={"help": "Commit of a Hub model."})
    split: str = field(default="train", metadata={"help": "The split to train on; never the one to measure with."})
    max_queries: int | None = field(
        default=None, metadata={"help": "Train on so many queries, evenly spaced, where time is short."}
    )
    encode_batch_size: int = field(default=64, metadata={"help": "Texts encoded at once between two rounds."})


def main(config: RetrieverConfig, training: RetrieverTraining) -> None:
    collection = config.load(config.split)
    if config.max_queries:
        queries = list(collection.queries.items())
        chosen = evenly_spaced(len(queries), config.max_queries)
        collection = replace(collection, queries=dict(queries[place] for place in chosen))
    config, models = pinned(config, model="model", negatives="dataset")
    inputs = {"collection": f"{collection.name}@{collection.revision}", **models}
    work, scratch = partial(in_rounds, config, training, collection), ("checkpoints-*", "tuples-*", "index-*")
    run_stage((config, training), config.output_dir, inputs, work, scratch=scratch)


def in_rounds(config: RetrieverConfig, training: RetrieverTraining, collection: Collection, folder: Path) -> None:
    """Round 1 on given negatives, each later one on those and on what the retriever before it mistakes."""
    from r2anker_hf.retrievers.training import starting_model

    start = starting_model(
        config.retriever, config.model, config.model_revision, training, collection.corpus, target=folder / "L0"
    )
    rows = partial(first_rows, config, collection, folder)
    names = [f"{LETTERS[config.retriever]}{number}" for number in range(1, config.rounds + 1)]
    for number, name in enumerate(names, start=1):
        if not (folder / name).exists():
            train_round(config, training, collection, start, rows(), folder / name, number)
        if number < len(names):
            own = own_run(config, training, collection, folder, name)
            rows = partial(with_list, rows, name, own)
            start = folder / name if config.round2_from == "round1" else start


def train_round(
    config: RetrieverConfig,
    training: RetrieverTraining,
    collection: Collection,
    start: str | os.PathLike,
    rows: Iterator[Mapping[str, Any]],
    target: Path,
    number: int,
) -> None:
    """Round `number`, from 1, begun at `start` and saved as `target`, which says its number."""
    from accelerate import PartialState
    from datasets import Dataset

    from r2anker_hf.retrievers.training import load_retriever, save_encoder, train, write_tuples

    print(f"\n{target.name}: trained on {config.split} queries")
    state, tuples = PartialState(), target.with_name(f"tuples-{target.name}.arrow")
    if state.is_main_process:
        write_tuples(rows, collection.corpus.text, training, tuples)
    state.wait_for_everyone()
    revision = config.model_revision if start == config.model else None
    model = load_retriever(config.retriever, start, revision, training)
    checkpoints = target.with_name(f"checkpoints-{target.name}")
    train(model, Dataset.from_file(str(tuples)), training, checkpoints)
    if state.is_main_process:
        save_encoder(model, target, number)
        shutil.rmtree(checkpoints)
        tuples.unlink()
    state.wait_for_everyone()


def first_rows(config: RetrieverConfig, collection: Collection, folder: Path) -> Iterator[Mapping[str, Any]]:
    """Candidates of round 1: the given ones, or what BM25 ranks for the training queries."""
    if config.negatives:
        rows = load_candidates(config.negatives, config.split, config.negatives_revision).rows
        return (row for row in rows if row["query_id"] in collection.queries)
    from r2anker_hf.retrievers.bm25 import BM25Retriever

    make = partial(BM25Retriever.build, collection.corpus, folder=folder / "index-bm25")
    return mine(collection, {"bm25": searched(folder, "bm25", collection, make)})


def own_run(
    config: RetrieverConfig, training: RetrieverTraining, collection: Collection, folder: Path, name: str
) -> RunFile:
    """What the retriever of a round finds for the training queries."""
    from accelerate import PartialState

    from r2anker_hf.retrievers.dense import DenseRetriever
    from r2anker_hf.retrievers.splade import SpladeRetriever

    make = DenseRetriever if config.retriever == "dense" else SpladeRetriever
    options = {"batch_size": config.encode_batch_size, "dtype": "bfloat16" if training.bf16 else None}
    options |= {"folder": folder / f"index-{name}", "device": str(PartialState().device)}
    return searched(folder, name, collection, partial(make, folder / name, collection.corpus, **options))


def searched(folder: Path, name: str, collection: Collection, make: Any, depth: int = 200) -> RunFile:
    """A retriever's run over the training queries, which stays in `runs/`; its index is removed afterwards."""
    from accelerate import PartialState

    runs = folder / "runs" / name
    if not (runs / "run.trec").exists():
        runs.mkdir(parents=True, exist_ok=True)
        retriever: Retriever = make()
        search_in_parts(retriever, collection.queries, depth, runs)
        if PartialState().is_main_process:
            shutil.rmtree(folder / f"index-{name}")
    return RunFile(runs / "run.trec", name)


def with_list(rows: Any, name: str, run: RunFile) -> Iterator[Mapping[str, Any]]:
    """The rows with one more retriever's list."""
    for row in rows():
        found = run.get(row["query_id"], ())
        own = {"retriever": name, "doc_ids": [d for d, _ in found], "scores": [score for _, score in found]}
        yield {**row, "candidates": [*row["candidates"], own]}


if __name__ == "__main__":
    run_recipe(main)
