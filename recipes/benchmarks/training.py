"""Bench: listwise training of the same groups by this package and by sentence-transformers' CrossEncoderTrainer.

    python recipes/benchmarks/training.py --model M --collection msmarco-devsmall-pos

On CUDA, a BERT-base-sized model from its configuration and the paper's 12 x 41 pairs:

    python recipes/benchmarks/training.py --model TOKENIZER --base_size --collection C \
        --precisions bf16 --queries 12 --negatives 40 --batch_sizes 1 2 4 12 --steps 20

Both sides: random negatives, the model's own dropout, all weights trained, fused AdamW, equal queries an optimiser
step. sentence-transformers has ListNetLoss at the fastest of `batch_sizes` (queries that go through its model at once;
the rest is accumulated), first chosen in the same run. The sides take turns. Prints the median pairs per second
of a turn, and on known GPUs our model FLOP utilisation, of real tokens. Some 4 minutes on two CPU cores.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, TrainerCallback

from r2anker_hf.collection.collection import Collection, load_collection
from r2anker_hf.config import run_recipe
from r2anker_hf.ranges import COUNT
from r2anker_hf.rankers.collator import GroupedListwiseCollator
from r2anker_hf.rankers.listwise import ListwiseConfig, ListwiseTrainer, TrainingGroups
from r2anker_hf.rankers.ranker import CrossEncoderRanker


@dataclass
class BenchConfig:
    model: str = field(metadata={"help": "Encoder, or with --base_size the tokenizer of one: a folder or Hub id."})
    collection: str = field(metadata={"help": "BEIR folder or Hub repository, with a train split."})
    base_size: bool = field(default=False, metadata={"help": "A fresh model of BERT-base's size with M's tokenizer."})
    queries: int = field(default=8, metadata={"help": "Groups an optimiser step."})
    negatives: int = field(default=15, metadata={"help": "Negatives a group.", "range": COUNT})
    max_length: int = field(default=128, metadata={"help": "Tokens of a pair."})
    batch_sizes: list[int] = field(
        default_factory=lambda: [1, 2, 4, 8], metadata={"help": "Tried for the other side."}
    )
    precisions: list[str] = field(default_factory=lambda: ["bf16", "no"], metadata={"help": "bf16, no."})
    steps: int = field(default=2, metadata={"help": "Optimiser steps a turn, after one that is not timed."})
    repeats: int = field(default=5, metadata={"help": "How often each side has its turn.", "formerly": "rounds"})
    seed: int = field(default=42, metadata={"help": "Of the groups and of dropout."})


class Clock(TrainerCallback):
    """Seconds from the end of the first optimiser step to the end of the last, and the device's peak memory."""

    def on_step_end(self, args, state, control, **kwargs):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if state.global_step == 1:
            self.started = time.perf_counter()
        self.seconds = time.perf_counter() - self.started


def main(config: BenchConfig) -> None:
    collection = load_collection(config.collection, "train")
    turns = groups(config, collection)
    sides: dict[str, Callable[[int], float]] = {}
    for precision in config.precisions:
        sides[f"r2anker_hf, {precision}"] = ours(config, turns, collection, precision)
        tried = {size: theirs(config, turns, collection, precision, size) for size in config.batch_sizes}
        rates = {size: run(0) for size, run in tried.items()}
        print(f"sentence-transformers, {precision}, tried:", {size: round(rate, 1) for size, rate in rates.items()})
        best = max(rates, key=rates.__getitem__)
        sides[f"sentence-transformers, {precision}, batch {best}"] = tried[best]
    measured: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(1, config.repeats + 1):
        for name, run in sides.items():
            measured[name].append(run(number))
    for name, rates in measured.items():
        print(f"{name}: {statistics.median(rates):.1f} pairs a second ({min(rates):.1f} to {max(rates):.1f})")
    medians = list(map(statistics.median, measured.values()))
    for precision, mine, other in zip(config.precisions, medians[::2], medians[1::2], strict=True):
        print(f"ratio, {precision}: {mine / other:.2f}")
    if len(config.precisions) > 1:
        first, last = config.precisions[0], config.precisions[-1]
        print(f"ratio, ours in {first} to theirs in {last}: {medians[0] / medians[-1]:.2f}")


def groups(config: BenchConfig, collection: Collection) -> list[list[dict[str, Any]]]:
    """Candidates of each turn, and before them of the choice of a batch size; no group comes twice.

    Every epoch draws the same negatives: there are no others.
    """
    draw = random.Random(config.seed)
    size = config.queries * (config.steps + 1)
    chosen = draw.sample(sorted(collection.queries), size * (config.repeats + 1))
    rows = [group(config, collection, draw, query_id) for query_id in chosen]
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def group(config: BenchConfig, collection: Collection, draw: random.Random, query_id: str) -> dict[str, Any]:
    positives = collection.positives(query_id)[:1]
    others = [doc_id for doc_id in draw.sample(collection.corpus.ids, config.negatives + 1) if doc_id not in positives]
    ranked = {"retriever": "random", "doc_ids": others[: config.negatives], "scores": [0.0] * config.negatives}
    given = {"query_id": query_id, "query": collection.queries[query_id]}
    return {**given, "positive_ids": positives, "candidates": [ranked]}


def ours(
    config: BenchConfig, turns: list[list[dict]], collection: Collection, precision: str
) -> Callable[[int], float]:
    """Pairs a second of this package; texts are tokenised once, before, as train_ranker.py does."""
    ranker = CrossEncoderRanker(*model_and_tokenizer(config), config.max_length)
    texts = {d: collection.corpus.text(d) for rows in turns for row in rows for d in documents(row)}
    tokens = dict(zip(texts, ranker.tokenizer(list(texts.values()), add_special_tokens=False).input_ids, strict=True))
    rest = {"num_negatives": config.negatives, "mixed_precision": precision, **options(config, config.queries)}
    return lambda number: timed(
        config,
        lambda args, clock: ListwiseTrainer(
            ranker.model,
            args,
            TrainingGroups(turns[number], tokens.__getitem__, args),
            GroupedListwiseCollator(ranker.encoder),
            callbacks=[clock],
        ),
        lambda folder: ListwiseConfig(output_dir=folder, **rest),
    )


def theirs(
    config: BenchConfig, turns: list[list[dict]], collection: Collection, precision: str, size: int
) -> Callable[[int], float]:
    """Pairs a second of sentence-transformers with `size` queries at once."""
    from datasets import Dataset
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import ListNetLoss

    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = model_and_tokenizer(config)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        encoder = CrossEncoder(folder, num_labels=1, max_length=config.max_length)
    data = [Dataset.from_list([labeled_list(config, collection, row) for row in rows]) for rows in turns]
    rest = {"bf16": precision == "bf16", **options(config, size)}
    return lambda number: timed(
        config,
        lambda args, clock: CrossEncoderTrainer(
            model=encoder, args=args, train_dataset=data[number], loss=ListNetLoss(encoder), callbacks=[clock]
        ),
        lambda folder: CrossEncoderTrainingArguments(output_dir=folder, **rest),
    )


def labeled_list(config: BenchConfig, collection: Collection, row: dict) -> dict[str, Any]:
    """A group in the form that sentence-transformers' listwise losses take."""
    texts = [collection.corpus.text(doc_id) for doc_id in documents(row)]
    return {"query": row["query"], "docs": texts, "labels": [1.0] + [0.0] * config.negatives}


def timed(config: BenchConfig, make_trainer: Callable, make_args: Callable) -> float:
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(make_args(folder), clock)
        trainer.train()
    health = getattr(trainer, "health", None)
    if health and health.peak_tflops:
        flops = float(health.sums[6]) * config.steps / (config.steps + 1)
        print(f"model FLOP utilisation: {flops / clock.seconds / health.peak_tflops / 1e12:.3f}")
    return config.steps * config.queries * (1 + config.negatives) / clock.seconds


def options(config: BenchConfig, size: int) -> dict[str, Any]:
    """What both sides' training arguments share."""
    return {
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": config.queries // size,
        "max_steps": config.steps + 1,
        "learning_rate": 1e-5,
        "seed": config.seed,
        "use_cpu": not torch.cuda.is_available(),
        "optim": "adamw_torch_fused",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def model_and_tokenizer(config: BenchConfig) -> tuple[Any, Any]:
    """The same weights for every side."""
    torch.manual_seed(config.seed)
    if not config.base_size:
        ranker = CrossEncoderRanker.from_pretrained(config.model, fresh_head=True)
        return ranker.model, ranker.tokenizer
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    model = BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), num_labels=1))
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def documents(row: dict) -> list[str]:
    return [*row["positive_ids"], *row["candidates"][0]["doc_ids"]]


if __name__ == "__main__":
    run_recipe(main)
