"""Bench: serving a ranker on a CPU, by the backends of this package and of sentence-transformers' CrossEncoder.

    python recipes/benchmarks/serving.py --ranker R --collection C --first_stage RUN.trec --peer_python PEER/bin/python

PEER is an environment with `pip install 'sentence-transformers[onnx,openvino]' 'transformers<5' 'datasets<5'`. Without
it only this package takes part. Two things are measured, and all sides take turns:

* `rank` of one query's documents, query after query: median and 99th percentile, and the nDCG of these rankings;
* `predict` of the pairs of several queries at once: pairs per second, the median of its repeats.

The other library runs at the fastest of `batch_sizes`, chosen in the same run on the first query. Some 12 minutes with
one thread for 60 queries of 100 documents.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from r2anker_hf.collection.collection import Collection
from r2anker_hf.collection.options import CollectionOptions
from r2anker_hf.config import run_recipe
from r2anker_hf.evaluation.measures import evaluate_run, means
from r2anker_hf.ranges import COUNT, COUNT_OR_NONE
from r2anker_hf.rankers.onnx_files import export
from r2anker_hf.rankers.ranker import CrossEncoderRanker
from r2anker_hf.records import InputError
from r2anker_hf.run import Run, RunFile

OURS: dict[str, dict[str, Any]] = {
    "torch-float32": {},
    "torch-bfloat16": {"dtype": torch.bfloat16},
    "onnx": {"backend": "onnx"},
    "onnx-int8": {"backend": "onnx-int8"},
}
THEIRS = ("torch-float32", "torch-bfloat16", "onnx", "onnx-int8", "openvino", "openvino-int8")
PEER = Path(__file__).with_name("serving_peer.py")
CALIBRATION = 400  # texts


@dataclass
class BenchConfig(CollectionOptions):
    ranker: str = field(metadata={"help": "Folder of a ranker."})
    first_stage: str = field(metadata={"help": "What is reranked, over this split: path/run.trec."})
    split: str = field(default="test", metadata={"help": "train, dev or test, as the collection names them."})
    peer_python: str | None = field(
        default=None, metadata={"help": "Interpreter with the other library; default this package only."}
    )
    ours: list[str] = field(default_factory=lambda: list(OURS), metadata={"help": "Backends of this package."})
    theirs: list[str] = field(default_factory=lambda: list(THEIRS), metadata={"help": "Backends of the other."})
    depth: int = field(default=100, metadata={"help": "Documents per query."})
    queries: int = field(default=60, metadata={"help": "Queries of the run, evenly taken, that are ranked."})
    bulk_queries: int = field(
        default=4, metadata={"help": "Queries whose pairs are scored at once; 0 for none.", "range": COUNT_OR_NONE}
    )
    repeats: int = field(default=3, metadata={"help": "How often each side has its turn with these."})
    batch_sizes: list[int] = field(
        default_factory=lambda: [16, 32, 64, 100], metadata={"help": "Tried for the other side."}
    )
    threads: int = field(default=1, metadata={"help": "Threads of every side.", "range": COUNT})
    cpu_time: bool = field(
        default=False, metadata={"help": "Count seconds of the CPU, not of the clock: for a core that others use too."}
    )
    measure: str = field(default="nDCG@10", metadata={"help": "Of the rankings."})
    folder: str | None = field(
        default=None, metadata={"help": "Where exported files stay for the next run; default a temporary folder."}
    )

    def __post_init__(self):
        for option, known in {"ours": tuple(OURS), "theirs": THEIRS}.items():
            if unknown := [name for name in getattr(self, option) if name not in known]:
                raise InputError(f"{option} is {unknown[0]!r}; choices: {', '.join(known)}")


class Question(NamedTuple):
    """A query with the documents that a first stage gave it."""

    query_id: str
    query: str
    doc_ids: list[str]
    documents: list[str]


@dataclass
class Side:
    """One backend of one library.

    Attributes:
        rank: (query, documents) -> seconds and scores in the documents' order.
        predict: pairs -> seconds and scores.
    """

    rank: Callable[[str, list[str]], tuple[float, np.ndarray]]
    predict: Callable[[list[tuple[str, str]]], tuple[float, np.ndarray]]


def main(config: BenchConfig) -> None:
    torch.set_num_threads(config.threads)
    collection = config.load(config.split)
    asked = questions(config, collection)
    with ExitStack() as stack:
        folder = Path(config.folder or stack.enter_context(tempfile.TemporaryDirectory()))
        sides = ours(config, folder / "ours")
        if config.peer_python:
            call = stack.enter_context(worker(config.peer_python))
            sides |= theirs(call, config, folder / "theirs", asked)
        seconds, runs = ranked(sides, asked)
        rates = bulk(sides, asked[: config.bulk_queries], config.repeats)
    show(seconds, rates, quality(config.measure, collection, runs))


def questions(config: BenchConfig, collection: Collection) -> list[Question]:
    """Queries of the run, taken evenly."""
    run = RunFile(config.first_stage)
    known = [query_id for query_id in run if query_id in collection.queries]
    asked = []
    for query_id in known[:: max(1, len(known) // config.queries)][: config.queries]:
        ids = [document.doc_id for document in run[query_id][: config.depth]]
        asked.append(Question(query_id, collection.queries[query_id], ids, list(collection.corpus.texts_of(ids))))
    return asked


def ours(config: BenchConfig, folder: Path) -> dict[str, Side]:
    """Sides of this package, by their names; the ONNX files are exported into the folder, which has a copy."""
    copied(config.ranker, folder)
    if any(name.startswith("onnx") for name in config.ours) and not (folder / "onnx").exists():
        export(folder)
    return {f"r2anker_hf, {name}": own(folder, config, OURS[name]) for name in config.ours}


def own(folder: Path, config: BenchConfig, settings: dict[str, Any]) -> Side:
    clock = time.process_time if config.cpu_time else time.perf_counter
    ranker = CrossEncoderRanker.from_pretrained(folder, device="cpu", **settings)

    def rank(query: str, documents: list[str]) -> tuple[float, np.ndarray]:
        started = clock()
        ranked = ranker.rank(query, documents)
        seconds = clock() - started
        scores = {one["corpus_id"]: one["score"] for one in ranked}
        return seconds, np.array([scores[place] for place in range(len(documents))])

    def predict(pairs: list[tuple[str, str]]) -> tuple[float, np.ndarray]:
        started = clock()
        scores = ranker.predict(pairs)
        return clock() - started, scores

    return Side(rank, predict)


@contextmanager
def worker(python: str):
    """A call to the other library, which answers as long as the context lasts."""
    process = subprocess.Popen([python, str(PEER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin and process.stdout

    def call(**words: Any) -> dict[str, Any]:
        print(json.dumps(words), file=process.stdin, flush=True)
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"{python} {PEER.name} ended with {process.wait()}; its message stands above")
        return json.loads(line)

    try:
        yield call
    finally:
        process.stdin.close()
        process.wait()


def theirs(call: Callable[..., dict[str, Any]], config: BenchConfig, folder: Path, asked: list[Question]) -> dict:
    """Sides of the other library, by their names; its files are exported into the folder, which has a copy."""
    copied(config.ranker, folder)
    calibrate(folder, asked)
    return {f"sentence-transformers, {name}": other(call, name, folder, config, asked) for name in config.theirs}


def other(
    call: Callable[..., dict[str, Any]], name: str, folder: Path, config: BenchConfig, asked: list[Question]
) -> Side:
    """A side of the other library, at its best batch size for the first query."""
    facts = call(side=name, folder=str(folder), threads=config.threads, cpu_time=config.cpu_time)

    def rank(query: str, documents: list[str], size: int) -> tuple[float, np.ndarray]:
        found = call(side=name, query=query, documents=documents, batch_size=size)
        return found["seconds"], np.array(found["scores"])

    def predict(pairs: list[tuple[str, str]]) -> tuple[float, np.ndarray]:
        found = call(side=name, pairs=pairs, batch_size=best)
        return found["seconds"], np.array(found["scores"])

    first = asked[0]
    rank(first.query, first.documents, config.batch_sizes[0])  # warm
    tried = {size: min(rank(first.query, first.documents, size)[0] for _ in range(2)) for size in config.batch_sizes}
    best = min(tried, key=tried.__getitem__)
    print(f"{name} of {facts['version']} {facts['precision']}: batch size {best}", tried)
    return Side(lambda query, documents: rank(query, documents, best), predict)


def copied(ranker: str, folder: Path) -> None:
    """The ranker's files in a folder; a copy that is there stays."""
    if not folder.exists():
        shutil.copytree(ranker, folder, ignore=shutil.ignore_patterns("onnx", "openvino", "optimizer.pt"))


def calibrate(folder: Path, asked: list[Question]) -> None:
    """Texts, evenly taken, to calibrate static quantisation by."""
    texts = [text for one in asked for text in one.documents]
    (folder / "calibration").mkdir(exist_ok=True)
    with open(folder / "calibration" / "train.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text"], *([text] for text in texts[:: max(1, len(texts) // CALIBRATION)])])


def ranked(sides: dict[str, Side], asked: list[Question]) -> tuple[dict[str, list[float]], dict[str, Run]]:
    """Seconds of every query by side, and the rankings: each query goes to all sides, who begin in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    lists: dict[str, dict] = {name: {} for name in sides}
    names = list(sides)
    for name in names:
        sides[name].rank(asked[0].query, asked[0].documents)  # warm
    for number, one in enumerate(asked):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            taken, scores = sides[name].rank(one.query, one.documents)
            seconds[name].append(taken)
            lists[name][one.query_id] = list(zip(one.doc_ids, scores.tolist(), strict=True))
    return seconds, {name: Run(found, name=name) for name, found in lists.items()}


def bulk(sides: dict[str, Side], asked: list, repeats: int) -> dict[str, float]:
    """Pairs per second of `predict` over all pairs of these queries: the median of its repeats."""
    pairs = [(one.query, document) for one in asked for document in one.documents]
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats if pairs else 0):
        for name, side in sides.items():
            rates[name].append(len(pairs) / side.predict(pairs)[0])
    return {name: float(np.median(found)) if found else float("nan") for name, found in rates.items()}


def quality(measure: str, collection: Collection, runs: dict[str, Run]) -> dict[str, float]:
    """Mean of the measure over the queries that were ranked, by side."""
    qrels = {query_id: collection.qrels[query_id] for query_id in next(iter(runs.values()))}
    return {name: means(evaluate_run(qrels, run, [measure]))[measure] for name, run in runs.items()}


def show(seconds: dict[str, list[float]], rates: dict[str, float], quality: dict[str, float]) -> None:
    """A row per side, as RESULTS.md has them."""
    print("| side | median, ms | 99th percentile, ms | pairs/s of many | quality |")
    print("|---|--:|--:|--:|--:|")
    for name, taken in seconds.items():
        middle, last = 1000 * np.percentile(taken, [50, 99])
        print(f"| {name} | {middle:.0f} | {last:.0f} | {rates[name]:.0f} | {quality[name]:.4f} |")


if __name__ == "__main__":
    run_recipe(main)
