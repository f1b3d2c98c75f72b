"""Protects the teacher's scores: whose they are, that no kill and no process count changes a byte, and provenance."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from broken_models import copied, unaligned
from datasets import Dataset
from scripts import one_thread
from teach_toy import QUERIES, mined, teach
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from r2anker_hf.collection.collection import Corpus
from r2anker_hf.negatives import teacher
from r2anker_hf.negatives.candidates import load_candidates
from r2anker_hf.negatives.sampling import Sampling, draw_group
from r2anker_hf.negatives.teacher import TeacherScores, drawn, pooled, write_taught
from r2anker_hf.rankers.ranker import CrossEncoderRanker
from r2anker_hf.records import Document, InputError
from r2anker_hf.run import Run

PARQUET = "candidates/train-00000-of-00001.parquet"
POOLED = partial(pooled, depth=3)


class Counted:
    """A teacher whose logit of document dN for query qM is N + M / 16, and who remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, run, collection, depth=1000, progress=False, folder=None):
        folder.mkdir(parents=True)
        lists = {q: [(d.doc_id, int(d.doc_id[1:]) + int(q[1:]) / 16) for d in run[q][:depth]] for q in run}
        self.asked.append({query_id: len(documents) for query_id, documents in lists.items()})
        assert lists.keys() == collection.queries.keys()
        return Run(lists)


def taught(tmp_path, choose=POOLED, name="teacher", block=4, found=None):
    rerank = Counted()
    scores = TeacherScores(found or mined(tmp_path / "mined"), "train", name, choose, tmp_path / f"work-{name}")
    teacher.QUERIES_A_BLOCK, before = block, teacher.QUERIES_A_BLOCK
    try:
        scores.make(rerank)
        write_taught(tmp_path / name, scores, {"settings": {"ranker": "owner/name@0123abc"}})
    finally:
        teacher.QUERIES_A_BLOCK = before
    return rerank, load_candidates(tmp_path / name)


def test_every_pooled_document_has_its_own_score_beside_what_was_mined(tmp_path):
    rerank, found = taught(tmp_path)
    assert [len(block) for block in rerank.asked] == [4, 4, 2]
    for before, row in zip(load_candidates(tmp_path / "mined").rows, found.rows, strict=True):
        (ranking,) = row.pop("rankings")
        assert row == before and ranking["ranker"] == "teacher"
        assert sorted(ranking["doc_ids"]) == sorted(pooled(row, 3))
        expected = [int(d[1:]) + int(row["query_id"][1:]) / 16 for d in ranking["doc_ids"]]
        assert ranking["scores"] == expected == sorted(expected, reverse=True)
    assert found.corpus.ids == [f"d{i}" for i in range(12)]


def test_logits_are_float32_on_disk(tmp_path):
    taught(tmp_path)
    schema = pq.read_schema(tmp_path / "teacher" / PARQUET)
    ranking = schema.field("rankings").type.value_type.field("scores")
    assert ranking.type.value_type == pa.float32()
    assert schema.field("candidates").type.value_type.field("scores").type.value_type == pa.float64()


def test_a_second_teacher_stands_beside_the_first(tmp_path):
    _, first = taught(tmp_path)
    _, both = taught(tmp_path, name="second", found=first)
    assert [ranking["ranker"] for ranking in both.rows[0]["rankings"]] == ["teacher", "second"]
    assert both.rows[3]["rankings"][0] == first.rows[3]["rankings"][0]
    facts = both.manifest["splits"]["train"]["rankings"]
    assert {name: one["settings"]["ranker"] for name, one in facts.items()} == dict.fromkeys(
        ("teacher", "second"), "owner/name@0123abc"
    )
    with pytest.raises(InputError, match="hold scores of 'teacher' already"):
        taught(tmp_path, found=both)


def test_the_manifest_says_who_scored_what(tmp_path):
    taught(tmp_path)
    manifest = json.loads((tmp_path / "teacher" / "manifest.json").read_text())
    facts = manifest["splits"]["train"]["rankings"]["teacher"]
    documents = sum(len(pooled(row, 3)) for row in load_candidates(tmp_path / "mined").rows)
    assert facts == {
        "candidates": documents,
        "queries_whose_positive_is_found": QUERIES,
        "settings": {"ranker": "owner/name@0123abc"},
    }
    assert manifest["splits"]["train"]["retrievers"].keys() == {"bm25", "dense"}
    assert set(manifest["files"]) == {PARQUET, "corpus/corpus-00000-of-00001.parquet"}
    assert "owner/name@0123abc" in (tmp_path / "teacher" / "README.md").read_text()


def test_of_some_queries_only_these_are_scored_kept_and_counted(tmp_path):
    rerank, found = taught(tmp_path, found=mined(tmp_path / "mined").some(3))
    assert found.rows["query_id"] == ["q0", "q3", "q6"] == [query_id for block in rerank.asked for query_id in block]
    facts = found.manifest["splits"]["train"]
    assert facts["queries"] == 3
    lists = [one for row in found.rows for one in row["candidates"] if one["retriever"] == "bm25"]
    assert facts["retrievers"]["bm25"]["candidates"] == sum(len(one["doc_ids"]) for one in lists) == 9


def test_a_training_s_draws_are_scored_and_no_more(tmp_path):
    sampling = Sampling("single", retrievers=["bm25"])
    rerank, found = taught(tmp_path, partial(drawn, count=1, epochs=2, seed=7, sampling=sampling))
    for row in found.rows:
        groups = [draw_group(row, 1, 7, epoch, sampling) for epoch in range(2)]
        expected = {doc_id for positive, negatives in groups for doc_id in (positive, *negatives)}
        assert set(row["rankings"][0]["doc_ids"]) == expected
    assert sum(sum(block.values()) for block in rerank.asked) <= 3 * QUERIES


def test_blocks_that_are_there_are_not_scored_again(tmp_path):
    found = mined(tmp_path / "mined")
    scores = TeacherScores(found, "train", "teacher", POOLED, tmp_path / "work")
    first, again = Counted(), Counted()
    scores.make(first)
    (before,) = (tmp_path / "work").glob("scores-*.npy")
    rows, written = list(scores.rows()), before.stat().st_mtime_ns
    scores.make(again)
    assert again.asked == [] and before.stat().st_mtime_ns == written
    assert np.load(before).dtype == np.float32
    assert list(scores.rows(3, 5)) == rows[3:5]


@pytest.mark.parametrize("other", ["ranker", "precision", "passage", "query", "depth", "draws"])
def test_a_folder_gives_no_score_of_another_teacher(tiny_model, tmp_path, other):
    def made(change, folder):
        model = AutoModelForSequenceClassification.from_pretrained(tiny_model)
        if change == "ranker":
            model.classifier.weight.data.mul_(2)
        dtype = torch.bfloat16 if change == "precision" else torch.float32
        ranker = CrossEncoderRanker(model, AutoTokenizer.from_pretrained(tiny_model), dtype=dtype)
        found = mined(tmp_path / "mined")
        if change == "passage":
            texts = [text.replace("house 3", "fish") for text in found.corpus.texts()]
            documents = [Document(doc_id, "", text) for doc_id, text in zip(found.corpus.ids, texts, strict=True)]
            found = replace(found, corpus=Corpus.from_documents(documents))
        if change == "query":
            rows = [{**row, "query": row["query"].replace("cat", "fire")} for row in found.rows]
            found = replace(found, rows=Dataset.from_list(rows))
        choose = partial(pooled, depth=1) if change == "depth" else POOLED
        if change == "draws":
            choose = partial(drawn, count=1, epochs=1, seed=7, sampling=Sampling())
        scores = TeacherScores(found, "train", "teacher", choose, folder)
        scores.make(ranker.rerank)
        return list(scores.rows())

    before = made(None, tmp_path / "work")
    (tmp_path / "work" / "scores-of-mine.npy").write_text("kept")
    expected = made(other, tmp_path / "fresh")
    assert expected != before
    assert made(other, tmp_path / "work") == expected
    assert (tmp_path / "work" / "scores-of-mine.npy").read_text() == "kept"
    assert len(list((tmp_path / "work").iterdir())) == 2


def launched(model, folder, *arguments, processes=1):
    """The exit code of `teach_toy.py`, in processes of its own."""
    folder.mkdir()
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    script = [str(Path(__file__).with_name("teach_toy.py")), str(model), str(folder), *arguments]
    command = [*launch, *script] if processes > 1 else [sys.executable, *script]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as torchrun sets it
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
    return done.returncode


def taught_in(folder):
    """The bytes of the dataset."""
    return {path.name: path.read_bytes() for path in (folder / "taught").rglob("*") if path.is_file()}


def test_a_killed_teacher_and_any_number_of_processes_write_the_same_bytes(tiny_model, tmp_path):
    model = copied(tiny_model, tmp_path / "model")
    unaligned(model)  # where weights lie in a file must not show
    with one_thread():
        teach(model, tmp_path / "whole")
    whole = taught_in(tmp_path / "whole")
    parquet = {"train-00000-of-00001.parquet", "corpus-00000-of-00001.parquet"}
    assert whole.keys() == {*parquet, "manifest.json", "README.md"}
    assert launched(model, tmp_path / "killed", "10") == -signal.SIGKILL
    work = tmp_path / "killed" / "work"
    written = {path: path.stat().st_mtime_ns for path in work.rglob("scores-*.npy")}
    assert {path.parent.name for path in written} == {"work", "block-00001"}  # in the middle of the second block
    assert not (tmp_path / "killed" / "taught").exists()
    with one_thread():
        teach(model, tmp_path / "killed")
    assert taught_in(tmp_path / "killed") == whole
    kept = [path for path in written if path.parent == work]
    assert kept and all(path.stat().st_mtime_ns == written[path] for path in kept)  # nothing was done twice
    assert launched(model, tmp_path / "two", processes=2) == 0
    assert taught_in(tmp_path / "two") == whole


def test_scores_are_those_of_the_ranker(tiny_model, tmp_path):
    ranker = CrossEncoderRanker.from_pretrained(tiny_model, device="cpu")
    found = mined(tmp_path / "mined")
    scores = TeacherScores(found, "train", "teacher", POOLED, tmp_path / "work")
    scores.make(ranker.rerank)
    for row in scores.rows():
        (ranking,) = row["rankings"]
        expected = ranker.score([(row["query"], found.corpus.text(doc_id)) for doc_id in ranking["doc_ids"]])
        assert ranking["scores"] == pytest.approx(expected, abs=1e-5)
