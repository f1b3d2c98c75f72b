"""Benchmark: the candidates stage alone, over synthetic runs of any size. Prints seconds, memory, bytes a candidate.

    python recipes/benchmarks/mining.py --queries 50000 --folder /scratch/bench

Three runs of 200 documents a query over 1,000,000 ids are written, mined by a process of its own (one core) and
streamed back. Nothing of it is a result about retrieval.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from r2anker_hf.collection.collection import Collection, Corpus
from r2anker_hf.negatives.candidates import Mining, write_manifest, write_shards
from r2anker_hf.run import RunFile

NAMES = ("bm25", "dense", "splade")
DOCUMENTS = 1_000_000
DEPTH = 200


class Ids(Corpus):
    """A corpus of ids alone: what mining holds of a real one, without its texts."""

    def __init__(self):
        self.use_titles = False

    def __len__(self) -> int:
        return DOCUMENTS

    def __contains__(self, doc_id: object) -> bool:
        return str(doc_id).isdigit() and int(str(doc_id)) < DOCUMENTS


def write_runs(folder: Path, queries: int) -> None:
    """Float32 scores as retrievers give them, with the digits that `Run.write_trec` writes."""
    for number, name in enumerate(NAMES):
        generator = np.random.default_rng(number)
        with open(folder / f"{name}.trec", "w", encoding="utf-8") as file:
            for query in range(queries):
                documents = generator.choice(DOCUMENTS, DEPTH, replace=False)
                scores = -np.sort(-generator.gamma(2.0, 5.0, DEPTH).astype(np.float32))
                lines = zip(documents.tolist(), scores.tolist(), strict=True)
                file.writelines(f"{query} Q0 {d} {rank} {s!r} {name}\n" for rank, (d, s) in enumerate(lines, 1))


def mine(folder: Path, queries: int) -> dict[str, float]:
    """Mine into `folder/negatives`; seconds of indexing the runs and of mining, peak memory of this process."""
    before = _peak_mib()
    started = time.perf_counter()
    runs = {name: RunFile(folder / f"{name}.trec", name) for name in NAMES}
    indexed = time.perf_counter()
    texts = {str(query): f"query number {query}" for query in range(queries)}
    qrels = {str(query): {str(query): 1} for query in range(queries)}
    mining = Mining(Collection("synthetic/bench", "0" * 40, "train", Ids(), texts, qrels), runs, DEPTH)
    write_shards(folder / "negatives", mining)
    mined = time.perf_counter()
    write_manifest(folder / "negatives", [mining])
    return {"index_s": indexed - started, "mine_s": mined - indexed, "start_mib": before, "peak_mib": _peak_mib()}


def stream(folder: Path, queries: int) -> dict[str, float]:
    """Read every row back through plain `datasets`, streaming."""
    from datasets import load_dataset

    before, started = _peak_mib(), time.perf_counter()
    rows = load_dataset(str(folder / "negatives"), "candidates", split="train", streaming=True)
    count = sum(len(ranked["doc_ids"]) for row in rows for ranked in row["candidates"])
    assert count == queries * DEPTH * len(NAMES), f"{count} candidates were read"
    return {"stream_s": time.perf_counter() - started, "start_mib": before, "peak_mib": _peak_mib()}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Write, then mine and stream in processes of their own, so that each one's memory is its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=50_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--part", choices=["mine", "stream"], help="one part alone, over runs that are there")
    options = parser.parse_args()
    if options.part:
        print(json.dumps({"mine": mine, "stream": stream}[options.part](options.folder, options.queries)))
        return
    options.folder.mkdir(parents=True)
    write_runs(options.folder, options.queries)
    for part in ("mine", "stream"):
        command = [sys.executable, __file__, "--queries", str(options.queries), "--folder", str(options.folder)]
        done = subprocess.run([*command, "--part", part], capture_output=True, text=True, check=True)
        figures = json.loads(done.stdout.splitlines()[-1])
        print(part, {name: round(value, 1) for name, value in figures.items()})
        if part == "mine":
            size = sum(path.stat().st_size for path in (options.folder / "negatives/candidates").iterdir())
            print(f"{60 * options.queries / figures['mine_s']:,.0f} queries a minute")
            print(f"{size / (options.queries * DEPTH * len(NAMES)):.2f} bytes a candidate")


if __name__ == "__main__":
    main()
