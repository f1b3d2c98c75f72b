"""Bench: sentence-transformers' own way to a ranker, on equal terms: its miner, its trainer, one of its losses.

    python recipes/benchmarks/peer_ranker.py --collection apidocs --model M --retriever R --loss listnet --output_dir D

The miner takes the retriever's top documents that are not relevant, as its users do; each query has as many as
train_ranker.py draws, and a step as many queries. D is a CrossEncoder that rerank.py takes. results/peer_cpu.sh
trains both sides from the same weights, reranks one pool with each, and tests the difference.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from r2anker_hf.collection.collection import Collection
from r2anker_hf.collection.options import CollectionOptions
from r2anker_hf.config import run_recipe
from r2anker_hf.ranges import COUNT
from r2anker_hf.stage import pinned, run_stage

if TYPE_CHECKING:
    from datasets import Dataset

LOSSES = {"bce": "BinaryCrossEntropyLoss", "listnet": "ListNetLoss", "lambda": "LambdaLoss"}


@dataclass
class PeerConfig(CollectionOptions):
    output_dir: str = field(metadata={"help": "New folder for the ranker."})
    model: str = field(metadata={"help": "Encoder to start from: a folder or Hub id."})
    retriever: str = field(metadata={"help": "Bi-encoder that the miner searches with: a folder or Hub id."})
    loss: Literal["bce", "listnet", "lambda"] = field(default="bce", metadata={"help": "One of the library's losses."})
    split: str = field(default="train", metadata={"help": "The split to train on; never the one to measure with."})
    embeddings: str | None = field(
        default=None, metadata={"help": "Folder where the miner keeps its embeddings for other trainings."}
    )
    model_revision: str | None = field(default=None, metadata={"help": "Commit of a Hub model."})
    retriever_revision: str | None = field(default=None, metadata={"help": "Commit of a Hub retriever."})
    num_negatives: int = field(default=6, metadata={"help": "Negatives per query."})
    depth: int = field(default=100, metadata={"help": "The miner looks at so many documents per query."})
    sampling_strategy: Literal["top", "random"] = field(
        default="top", metadata={"help": "The miner takes the first ones (its default), or any of them."}
    )
    queries_a_step: int = field(default=16, metadata={"help": "Queries per optimiser step.", "range": COUNT})
    max_steps: int = field(default=200, metadata={"help": "Optimiser steps."})
    learning_rate: float = field(default=2e-5, metadata={"help": "Peak learning rate; the library's examples: 2e-5."})
    max_length: int = field(default=128, metadata={"help": "Tokens of a pair."})
    bf16: bool = field(default=False, metadata={"help": "Train in bfloat16."})
    seed: int = field(default=42, metadata={"help": "Of order, dropout and the miner's draw."})


def main(config: PeerConfig) -> None:
    collection = config.load(config.split)
    config, inputs = pinned(config, model="model", retriever="model")
    inputs |= {"collection": f"{collection.name}@{collection.revision}"}
    work = partial(train, config, collection)
    run_stage(config, config.output_dir, inputs, work, free=("embeddings",), scratch=("checkpoints",))


def train(config: PeerConfig, collection: Collection, folder: Path) -> None:
    """Mine, train and save, by sentence-transformers only."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, losses
    from transformers import set_seed

    set_seed(config.seed)
    data = mined(config, collection)
    model = CrossEncoder(config.model, num_labels=1, max_length=config.max_length, revision=config.model_revision)
    loss = getattr(losses, LOSSES[config.loss])(model)
    CrossEncoderTrainer(model=model, args=arguments(config, folder), train_dataset=data, loss=loss).train()
    model.save_pretrained(str(folder))


def mined(config: PeerConfig, collection: Collection) -> Dataset:
    """The miner's negatives: a list per query, or for the pointwise loss a row per pair."""
    import random

    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    text = collection.corpus.text
    known = [
        {"query": query, "positive": text(positive)}
        for query_id, query in collection.queries.items()
        for positive in collection.positives(query_id)
    ]
    random.seed(config.seed)  # the miner draws with Python's global generator
    return mine_hard_negatives(
        Dataset.from_list(known),
        SentenceTransformer(config.retriever, revision=config.retriever_revision),
        corpus=[text(doc_id) for doc_id in collection.corpus.ids],
        num_negatives=config.num_negatives,
        range_max=config.depth,
        sampling_strategy=config.sampling_strategy,
        output_format="labeled-pair" if config.loss == "bce" else "labeled-list",
        use_faiss=True,
        cache_folder=config.embeddings,
    )


def arguments(config: PeerConfig, folder: Path) -> Any:
    import torch
    from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments

    pairs = 1 + config.num_negatives if config.loss == "bce" else 1  # rows per query
    return CrossEncoderTrainingArguments(
        output_dir=str(folder / "checkpoints"),
        max_steps=config.max_steps,
        per_device_train_batch_size=config.queries_a_step * pairs,
        learning_rate=config.learning_rate,
        warmup_steps=0.1,
        bf16=config.bf16,
        use_cpu=not torch.cuda.is_available(),  # else the library refuses bf16 there
        seed=config.seed,
        save_strategy="no",
        report_to="none",
    )


if __name__ == "__main__":
    run_recipe(main)
