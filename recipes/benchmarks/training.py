"""Bench: listwise training of the same groups by this package and by sentence-transformers' CrossEncoderTrainer.

    python recipes/benchmarks/training.py --model M --collection msmarco-devsmall-pos

On CUDA, the paper's 12 x 41 pairs (gpu.sh does it):

    python recipes/benchmarks/training.py --model M --collection C --precisions bf16 --queries 12 --negatives 40 \
        --batch_sizes 1 2 4 12 --steps 20

Both sides: random negatives, the model's own dropout, all weights trained, fused AdamW, equal queries an optimiser
step. sentence-transformers has ListNetLoss at the fastest of `batch_sizes` (queries that go through its model at once;
the rest is accumulated), first chosen in the same run. The sides take turns. Prints the median pairs per second
of a turn, and where the device's peak is known our model FLOP utilisation, of real tokens. Some 4 minutes on two CPU
cores.
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import TrainerCallback

from r2anker_hf.collection.collection import Collection
from r2anker_hf.collection.options import CollectionOptions
from r2anker_hf.config import run_recipe
from r2anker_hf.ranges import COUNT
from r2anker_hf.rankers.collator import GroupedListwiseCollator
from r2anker_hf.rankers.listwise import ListwiseConfig, ListwiseTrainer, TrainingGroups
from r2anker_hf.rankers.ranker import CrossEncoderRanker


@dataclass
class BenchConfig(CollectionOptions):
    model: str = field(metadata={"help": "Encoder: a folder or Hub id."})
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
    peak_tflops: float | None = field(default=None, metadata={"help": "Peak of the device; known for usual GPUs."})
    figures: str | None = field(default=None, metadata={"help": "JSON file for the medians; default none."})


class Speed(NamedTuple):
    """Of a turn: pairs per second, and model FLOP utilisation where it is known."""

    pairs: float
    utilisation: float | None = None


class Clock(TrainerCallback):
    """Seconds from the end of the first optimiser step to the end of the last, and the device's peak memory."""

    def on_step_end(self, args, state, control, **kwargs):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if state.global_step == 1:
            self.started = time.perf_counter()
        self.seconds = time.perf_counter() - self.started


def main(config: BenchConfig) -> None:
    collection = config.load("train")
    turns = groups(config, collection)
    sides: dict[str, Callable[[int], Speed]] = {}
    batches: dict[str, int] = {}
    for precision in config.precisions:
        sides[f"r2anker_hf, {precision}"] = ours(config, turns, collection, precision)
        tried = {size: theirs(config, turns, collection, precision, size) for size in config.batch_sizes}
        rates = {size: run(0).pairs for size, run in tried.items()}
        print(f"sentence-transformers, {precision}, tried:", {size: round(rate, 1) for size, rate in rates.items()})
        batches[precision] = best = max(rates, key=rates.__getitem__)
        sides[f"sentence-transformers, {precision}, batch {best}"] = tried[best]
    measured: dict[str, list[Speed]] = {name: [] for name in sides}
    for number in range(1, config.repeats + 1):
        for name, run in sides.items():
            measured[name].append(run(number))
    figures = medians(config, measured, batches)
    if config.figures:
        Path(config.figures).write_text(json.dumps(figures, indent=2))


def medians(
    config: BenchConfig, measured: dict[str, list[Speed]], batches: dict[str, int]
) -> dict[str, dict[str, float]]:
    """Of each precision the median rates, their ratio, and our utilisation where it is known; all is printed, too."""
    found = {name: statistics.median(speed.pairs for speed in speeds) for name, speeds in measured.items()}
    for name, speeds in measured.items():
        rates = [speed.pairs for speed in speeds]
        print(f"{name}: {found[name]:.1f} pairs per second ({min(rates):.1f} to {max(rates):.1f})")
    figures: dict[str, dict[str, float]] = {}
    names = list(measured)
    for precision, mine, other in zip(config.precisions, names[::2], names[1::2], strict=True):
        ratio = found[mine] / found[other]
        print(f"ratio, {precision}: {ratio:.2f}")
        row = {"ours": found[mine], "theirs": found[other], "their_batch": batches[precision], "ratio": ratio}
        used = [speed.utilisation for speed in measured[mine] if speed.utilisation is not None]
        if used:
            row["utilisation"] = statistics.median(used)
            print(f"model FLOP utilisation, {precision}: {row['utilisation']:.3f}")
        figures[precision] = row
    if len(config.precisions) > 1:
        first, last = config.precisions[0], config.precisions[-1]
        print(f"ratio, ours in {first} to theirs in {last}: {found[names[0]] / found[names[-1]]:.2f}")
    return figures


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
) -> Callable[[int], Speed]:
    """Pairs a second of this package; texts are tokenised once, before, as train_ranker.py does."""
    ranker = CrossEncoderRanker(*model_and_tokenizer(config), config.max_length)
    texts = {d: collection.corpus.text(d) for rows in turns for row in rows for d in documents(row)}
    tokens = dict(zip(texts, ranker.tokenizer(list(texts.values()), add_special_tokens=False).input_ids, strict=True))
    rest = {"num_negatives": config.negatives, "mixed_precision": precision, **options(config, config.queries)}
    rest["peak_tflops"] = config.peak_tflops
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
) -> Callable[[int], Speed]:
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


def timed(config: BenchConfig, make_trainer: Callable, make_args: Callable) -> Speed:
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(make_args(folder), clock)
        trainer.train()
    pairs = config.steps * config.queries * (1 + config.negatives) / clock.seconds
    health = getattr(trainer, "health", None)
    if not health or not health.peak_tflops:
        return Speed(pairs)
    used = health.flops * config.steps / (config.steps + 1)  # the first step is not timed
    return Speed(pairs, used / clock.seconds / health.peak_tflops / 1e12)


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
    ranker = CrossEncoderRanker.from_pretrained(config.model, fresh_head=True)
    return ranker.model, ranker.tokenizer


def documents(row: dict) -> list[str]:
    return [*row["positive_ids"], *row["candidates"][0]["doc_ids"]]


if __name__ == "__main__":
    run_recipe(main)
