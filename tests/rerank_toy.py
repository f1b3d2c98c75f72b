"""A toy reranking in many shards, which may be killed: python rerank_toy.py MODEL FOLDER [SHARDS BEFORE THE END]"""

import os
import signal
import sys
from pathlib import Path

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


if __name__ == "__main__":
    model, folder = sys.argv[1], Path(sys.argv[2])
    rankers.SHARD, rankers.BATCH_SIZE = 1, {"cpu": 2}
    options = {"max_length": 24, "max_windows": 3, "batch_size": 2}  # half of the documents are longer
    ranker = rankers.CrossEncoderRanker.from_pretrained(model, device="cpu", **options)
    if len(sys.argv) > 3:
        save, left = rankers._save, iter(range(int(sys.argv[3])))

        def save_or_die(*arguments):
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            save(*arguments)

        rankers._save = save_or_die
    run = ranker.rerank(first_stage(), collection(), folder=folder / "work")
    if rankers.processes().is_main_process:
        run.write_trec(folder / "run.trec")
