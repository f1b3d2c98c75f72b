"""Bench: reranking the same run by this package and by sentence-transformers' `CrossEncoder.predict`.

    python recipes/benchmarks/reranking.py --model M --collection msmarco-dl19-pool --first_stage BM25.trec

M is any encoder (its head is fresh: time does not depend on what it learned). Both sides begin with texts; ours
tokenises all of them within the time measured. `CrossEncoder.predict` runs at the fastest of `batch_sizes`, chosen in
the same run on its first pairs. The sides take turns. Prints the largest difference of scores, and the median
pairs per second of a turn. Some 4 minutes on two CPU cores for 10 queries.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from r2anker_hf.collection.collection import load_collection
from r2anker_hf.config import run_recipe
from r2anker_hf.rankers.ranker import CrossEncoderRanker
from r2anker_hf.run import Run


@dataclass
class BenchConfig:
    model: str = field(metadata={"help": "Encoder: a folder or Hub id."})
    collection: str = field(metadata={"help": "BEIR folder or Hub repository."})
    first_stage: str = field(metadata={"help": "What is reranked: run.trec of its test split.", "formerly": "run"})
    depth: int = field(default=100, metadata={"help": "Documents reranked a query."})
    queries: int = field(default=43, metadata={"help": "Queries of the run that are reranked."})
    batch_sizes: list[int] = field(
        default_factory=lambda: [16, 32, 64], metadata={"help": "Tried for the other side."}
    )
    precisions: list[str] = field(default_factory=lambda: ["float32", "bfloat16"], metadata={"help": "Of both sides."})
    repeats: int = field(default=3, metadata={"help": "How often each side has its turn.", "formerly": "rounds"})
    seed: int = field(default=42, metadata={"help": "Of the fresh head."})


def main(config: BenchConfig) -> None:
    collection = load_collection(config.collection, "test")
    whole = Run.read_trec(config.first_stage)
    run = Run({query_id: whole[query_id][: config.depth] for query_id in list(whole)[: config.queries]}, whole.name)
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
    for precision in config.precisions:
        mine, other = f"r2anker_hf, {precision}", f"CrossEncoder.predict, {precision}"
        print(f"{precision}: ratio {rates[mine] / rates[other]:.2f}", end=", ")
        print(f"scores differ by {np.abs(scores[mine] - scores[other]).max():.1e} at most")


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
