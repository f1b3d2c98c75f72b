"""Bench: what a training step holds in memory for groups of 41 and of 401 pairs, with one memory budget.

    python recipes/benchmarks/memory.py --model M --memory_budget 8
    python recipes/benchmarks/memory.py --model M --queries 1 --sizes 41 401 --memory_budget 0.5 --tokens 64

Pairs are random tokens of full length. Prints for each group size the peak memory (CUDA: allocated; CPU: resident, of
a process that runs the sizes in this order, so later ones can only be larger) and pairs a second. Minutes on a CPU.
"""

from __future__ import annotations

import gc
import json
import random
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from r2anker_hf.config import run_recipe
from r2anker_hf.rankers.collator import GroupedListwiseCollator
from r2anker_hf.rankers.listwise import ListwiseConfig, ListwiseTrainer, TrainingGroups
from r2anker_hf.rankers.ranker import CrossEncoderRanker


@dataclass
class BenchConfig:
    model: str = field(metadata={"help": "Encoder: a folder or Hub id."})
    memory_budget: float | None = field(default=None, metadata={"help": "GiB, as in train_ranker.py; default none."})
    queries: int = field(default=12, metadata={"help": "Groups a step."})
    sizes: list[int] = field(default_factory=lambda: [41, 401], metadata={"help": "Pairs a group, ascending."})
    tokens: int = field(default=128, metadata={"help": "Tokens of a pair."})
    steps: int = field(default=2, metadata={"help": "Steps of each size."})
    seed: int = field(default=42, metadata={"help": "Of the tokens."})
    figures: str | None = field(default=None, metadata={"help": "JSON file for the figures; default none."})


def main(config: BenchConfig) -> None:
    ranker = CrossEncoderRanker.from_pretrained(config.model, fresh_head=True, max_length=config.tokens)
    peaks = []
    for size in config.sizes:
        trainer = None
        ranker.model.zero_grad()
        gc.collect()  # a trainer and its optimiser refer to each other
        trainer = make_trainer(config, ranker, size)
        trainer.health.reset()
        started = time.perf_counter()
        trainer.train()
        rate = config.steps * config.queries * size / (time.perf_counter() - started)
        peaks.append(trainer.health.figures()["peak_memory_gib"])
        print(f"groups of {size}: {peaks[-1]:.2f} GiB at most, {rate:.1f} pairs a second")
    ratio = peaks[-1] / peaks[0]
    print(f"ratio of memory, {config.sizes[-1]} to {config.sizes[0]}: {ratio:.2f}")
    if config.figures:
        gib = dict(zip(map(str, config.sizes), peaks, strict=True))
        Path(config.figures).write_text(json.dumps({"peak_memory_gib": gib, "ratio": ratio}, indent=2))


def make_trainer(config: BenchConfig, ranker: CrossEncoderRanker, size: int) -> ListwiseTrainer:
    draw = random.Random(config.seed)
    names = [f"d{number}" for number in range(size)]
    ranked = {"retriever": "random", "doc_ids": names[1:], "scores": [0.0] * (size - 1)}
    row = {"query": "", "positive_ids": names[:1], "candidates": [ranked]}
    rows = [{**row, "query_id": f"q{number}"} for number in range(config.queries)]
    with tempfile.TemporaryDirectory() as folder:
        args = ListwiseConfig(
            output_dir=folder,
            per_device_train_batch_size=config.queries,
            num_negatives=size - 1,
            depth=size,
            max_steps=config.steps,
            memory_budget=config.memory_budget,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
    ids = sorted(set(range(len(ranker.tokenizer))) - set(ranker.tokenizer.all_special_ids))
    texts = {name: draw.choices(ids, k=config.tokens) for name in names}
    groups = TrainingGroups(rows, texts.__getitem__, args)
    return ListwiseTrainer(ranker.model, args, groups, GroupedListwiseCollator(ranker.encoder))


if __name__ == "__main__":
    run_recipe(main)
