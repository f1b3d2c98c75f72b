"""A toy reranking in many shards, which may be killed: python rerank_toy.py MODEL FOLDER [SHARDS BEFORE THE END]"""

import os
import signal
import sys
from pathlib import Path
from unittest.mock import patch

from r2anker_hf.collection.collection import Collection, Corpus
from r2anker_hf.rankers import ranker as rankers
from r2anker_hf.records import Document
from r2anker_hf.run import Run


def collection() -> Collection:
    texts = [f"the {'cat and dog ' * (i % 7)}house {i}" for i in range(12)]
    corpus = Corpus.from_documents([Document(f"d{i}", "", text) for i, text in enumerate(texts)])
    queries = {"q1": "cat", "q2": "dog house", "q3": "what is the river"}
    return Collection("toy", "sha256:0", "test", corpus, queries, {query_id: {"d1": 1} for query_id in queries})


def first_stage() -> Run:
    return Run({query_id: [(f"d{i}", -i) for i in range(12)] for query_id in ("q1", "q2", "q3")}, "first")


def die_after(shards: int) -> None:
    """From now on this process is killed where it would save one shard more."""
    save, left = rankers._save, iter(range(shards))

    def save_or_die(*arguments):
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        save(*arguments)

    rankers._save = save_or_die


@patch.multiple(rankers, SHARD=1, BATCH_SIZE={"cpu": 2})
def rerank(model: str | os.PathLike, folder: Path) -> None:
    """Rerank the toy run in many shards, in `folder`, which may hold some of them."""
    options = {"max_length": 24, "max_windows": 3, "batch_size": 2}  # half of the documents are longer
    ranker = rankers.CrossEncoderRanker.from_pretrained(model, device="cpu", **options)
    run = ranker.rerank(first_stage(), collection(), folder=folder / "work")
    if rankers.processes().is_main_process:
        run.write_trec(folder / "run.trec")


if __name__ == "__main__":
    if len(sys.argv) > 3:
        die_after(int(sys.argv[3]))
    rerank(sys.argv[1], Path(sys.argv[2]))
