"""Toy candidates scored by a teacher, which may be killed: python teach_toy.py MODEL FOLDER [SHARDS BEFORE THE END]"""

import os
import signal
import sys
from functools import partial
from pathlib import Path

from r2anker_hf.collection.collection import Collection, Corpus
from r2anker_hf.negatives import candidates, teacher
from r2anker_hf.rankers import ranker as rankers
from r2anker_hf.records import Document
from r2anker_hf.run import Run

QUERIES = 10


def mined(folder: Path) -> candidates.Candidates:
    """Ten queries over twelve documents, from two retrievers, three documents each."""
    texts = [f"the {'cat and dog ' * (i % 7)}house {i}" for i in range(12)]
    corpus = Corpus.from_documents([Document(f"d{i}", "", text) for i, text in enumerate(texts)])
    queries = {f"q{n}": f"{('cat', 'dog house', 'what is the river')[n % 3]} {n}" for n in range(QUERIES)}
    qrels = {query_id: {f"d{n}": 1} for n, query_id in enumerate(queries)}
    runs = {
        name: Run({q: [(f"d{(n * step + i) % 12}", -i) for i in range(3)] for n, q in enumerate(queries)}, name)
        for name, step in (("bm25", 1), ("dense", 5))
    }
    candidates.write_candidates(folder, Collection("toy", "sha256:0", "train", corpus, queries, qrels), runs)
    return candidates.load_candidates(folder)


if __name__ == "__main__":
    model, folder = sys.argv[1], Path(sys.argv[2])
    rankers.SHARD, rankers.BATCH_SIZE, teacher.QUERIES_A_BLOCK = 1, {"cpu": 2}, 4
    state = rankers.processes()
    with state.main_process_first():
        found = mined(folder / "mined") if state.is_main_process else candidates.load_candidates(folder / "mined")
    if len(sys.argv) > 3:
        save, left = rankers._save, iter(range(int(sys.argv[3])))

        def save_or_die(*arguments):
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            save(*arguments)

        rankers._save = save_or_die
    ranker = rankers.CrossEncoderRanker.from_pretrained(model, max_length=40, batch_size=2, device="cpu")
    scores = teacher.TeacherScores(found, "train", "teacher", partial(teacher.pooled, depth=3), folder / "work")
    scores.make(ranker.rerank)
    teacher.write_taught(folder / "taught", scores, {"settings": {"ranker": "toy@sha256:1"}})
