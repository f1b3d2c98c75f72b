"""Toy candidates scored by a teacher, which may be killed: python teach_toy.py MODEL FOLDER [SHARDS BEFORE THE END]"""

import os
import sys
from functools import partial
from pathlib import Path
from unittest.mock import patch

from rerank_toy import die_after

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


@patch.multiple(rankers, SHARD=1, BATCH_SIZE={"cpu": 2})
@patch.object(teacher, "QUERIES_A_BLOCK", 4)
def teach(model: str | os.PathLike, folder: Path) -> None:
    """Score the toy candidates in many shards and blocks, in `folder`, which may hold some of them."""
    state = rankers.processes()
    with state.main_process_first():
        found = mined(folder / "mined") if state.is_main_process else candidates.load_candidates(folder / "mined")
    ranker = rankers.CrossEncoderRanker.from_pretrained(model, max_length=40, batch_size=2, device="cpu")
    scores = teacher.TeacherScores(found, "train", "teacher", partial(teacher.pooled, depth=3), folder / "work")
    scores.make(ranker.rerank)
    teacher.write_taught(folder / "taught", scores, {"settings": {"ranker": "toy@sha256:1"}})


if __name__ == "__main__":
    if len(sys.argv) > 3:
        die_after(int(sys.argv[3]))
    teach(sys.argv[1], Path(sys.argv[2]))
