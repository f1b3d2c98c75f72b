"""Bench: reranking the same run by this package and by sentence-transformers' `CrossEncoder.predict`.

    python recipes/benchmarks/reranking.py --model M --collection msmarco-dl19-pool --first_stage BM25.trec

M is any encoder (its head is fresh: time does not depend on what it learned). Without a first stage, random passages
are reranked. Both sides begin with texts; ours tokenises all of them within the time measured. `CrossEncoder.predict`
runs at the fastest of `batch_sizes`, chosen in the same run on its first pairs. The sides take turns. Prints the
largest difference of scores, and the median pairs per second of a turn. 10 queries take 4 minutes on two CPU cores.
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

import numpy as np
import torch

from r2anker_hf.collection.collection import Collection
from r2anker_hf.collection.options import CollectionOptions
from r2anker_hf.config import run_recipe
from r2anker_hf.rankers.ranker import CrossEncoderRanker
from r2anker_hf.run import Run


@dataclass
class BenchConfig(CollectionOptions):
    model: str = field(metadata={"help": "Encoder: a folder or Hub id."})
    first_stage: str | None = field(
        default=None,
        metadata={"help": "What is reranked: run.trec of its test split; default random passages.", "formerly": "run"},
    )
    depth: int = field(default=100, metadata={"help": "Documents reranked a query."})
    queries: int = field(default=43, metadata={"help": "Queries of the run that are reranked."})
    batch_sizes: list[int] = field(
        default_factory=lambda: [16, 32, 64], metadata={"help": "Tried for the other side."}
    )
    precisions: list[str] = field(default_factory=lambda: ["float32", "bfloat16"], metadata={"help": "Of both sides."})
    repeats: int = field(default=3, metadata={"help": "How often each side has its turn.", "formerly": "rounds"})
    seed: int = field(default=42, metadata={"help": "Of the fresh head, and of random passages."})
    figures: str | None = field(default=None, metadata={"help": "JSON file for the medians; default none."})


def main(config: BenchConfig) -> None:
    collection = config.load("test")
    run = first_stage(config, collection)
    keys = [(query_id, document.doc_id) for query_id in run for document in run[query_id]]
    pairs = [(collection.queries[query_id], collection.corpus.text(doc_id)) for query_id, doc_id in keys]
    sides: dict[str, Callable[[], np.ndarray]] = {}
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(config.seed)
        CrossEncoderRanker.from_pretrained(config.model, fresh_head=True).save_pretrained(folder)
        for precision in config.precisions:
            dtype = getattr(torch, precision)
            ranker = CrossEncoderRanker.from_pretrained(folder, dtype=dtype)

            def ours(ranker: CrossEncoderRanker = ranker) -> np.ndarray:
                reranked = ranker.rerank(run, collection, config.depth)
                scores = {(query_id, doc_id): score for query_id in reranked for doc_id, score in reranked[query_id]}
                return np.array([scores[key] for key in keys])

            sides[f"r2anker_hf, {precision}"] = ours
            sides[f"CrossEncoder.predict, {precision}"] = theirs(folder, dtype, pairs, config.batch_sizes)
    times: dict[str, list[float]] = {name: [] for name in sides}
    scores = {}
    for _ in range(config.repeats):
        for name, side in sides.items():
            started = time.perf_counter()
            scores[name] = side()
            times[name].append(time.perf_counter() - started)
    rates = {name: len(pairs) / statistics.median(seconds) for name, seconds in times.items()}
    for name, rate in rates.items():
        print(f"{name}: {rate:.1f} pairs a second")
    figures = {}
    for precision in config.precisions:
        mine, other = f"r2anker_hf, {precision}", f"CrossEncoder.predict, {precision}"
        ratio, differ = rates[mine] / rates[other], float(np.abs(scores[mine] - scores[other]).max())
        figures[precision] = {"ours": rates[mine], "theirs": rates[other], "ratio": ratio, "difference": differ}
        print(f"{precision}: ratio {ratio:.2f}, scores differ by {differ:.1e} at most")
    if config.figures:
        Path(config.figures).write_text(json.dumps(figures, indent=2))


def first_stage(config: BenchConfig, collection: Collection) -> Run:
    """The top of the run that was given, or random passages for the first queries."""
    if config.first_stage:
        whole = Run.read_trec(config.first_stage)
        kept = list(whole)[: config.queries]
        return Run({query_id: whole[query_id][: config.depth] for query_id in kept}, whole.name)
    draw = random.Random(config.seed)
    scores = [1 / (rank + 1) for rank in range(config.depth)]
    chosen = sorted(collection.queries)[: config.queries]
    drawn = {query_id: draw.sample(collection.corpus.ids, config.depth) for query_id in chosen}
    return Run({query_id: list(zip(ids, scores, strict=True)) for query_id, ids in drawn.items()}, "random")


def theirs(folder: str, dtype: torch.dtype, pairs: list, batch_sizes: list[int]) -> Callable[[], np.ndarray]:
    """`CrossEncoder.predict` at its best batch size."""
    from sentence_transformers import CrossEncoder

    encoder = CrossEncoder(folder, model_kwargs={"torch_dtype": dtype})
    some = pairs[: 4 * max(batch_sizes)]
    encoder.predict(some[: max(batch_sizes)])  # warm
    seconds = {}
    for size in batch_sizes:
        started = time.perf_counter()
        encoder.predict(some, batch_size=size)
        seconds[size] = time.perf_counter() - started
    best = min(seconds, key=seconds.__getitem__)
    print(f"CrossEncoder.predict, {dtype}: batch size {best} of", {size: round(t, 2) for size, t in seconds.items()})
    return lambda: encoder.predict(pairs, batch_size=best)


if __name__ == "__main__":
    run_recipe(main)
