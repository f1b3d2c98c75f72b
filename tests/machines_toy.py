"""Retrieve, mine, teach and rerank, one after the other: python machines_toy.py FINISHED OUT [STAGE RANK SHARDS]

FINISHED is the folder of a toy story. With a stage, the machine of that rank dies in it, having scored so many shards.
"""

import os
import signal
import sys
from pathlib import Path

from published_toy import recipe

from r2anker_hf.config import run_recipe
from r2anker_hf.rankers import ranker as rankers


def stages(finished: Path, out: Path) -> dict[str, list]:
    """The options of each stage, in order."""
    collection = ["--collection", finished / "toy"]
    runs = [f"{name}={out / name}/run.trec" for name in ("bm25", "dense")]
    train = [*collection, "--split", "train", "--depth", 12]
    return {
        "retrieve bm25": [*train, "--retriever", "bm25"],
        "retrieve dense": [*train, "--retriever", "dense", "--model", finished / "ranker"],
        "mine negatives": [*collection, "--runs", *runs, "--depth", 10],
        "teach taught": ["--negatives", out / "negatives", "--ranker", finished / "ranker", "--depth", 3],
        "rerank reranked": [*collection, "--ranker", finished / "ranker", "--split", "train", "--depth", 5]
        + ["--first_stage", out / "bm25" / "run.trec"],
    }


def die_after(shards: int) -> None:
    """This machine dies once it wrote so many more: the launcher first, which would tell the others."""
    save, left = rankers._save, iter(range(shards))

    def save_or_die(*arguments):
        if next(left, None) is None:
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        save(*arguments)

    rankers._save = save_or_die


if __name__ == "__main__":
    finished, out, *death = sys.argv[1:]
    rankers.SHARD, rankers.BATCH_SIZE = 1, {"cpu": 8}
    for words, options in stages(Path(finished), Path(out)).items():
        stage, name = words.split()
        if death[:2] == [stage, os.environ.get("RANK")]:
            die_after(int(death[2]))
        run_recipe(recipe(stage).main, [*map(str, options), "--output_dir", f"{out}/{name}"])
