"""Mined candidates keep every list, load as an ordinary dataset, and are refused in one line when broken."""

import json

import datasets
import pytest

from r2anker_hf.collection import Collection, Corpus
from r2anker_hf.negatives.candidates import load_candidates, mine, write_candidates
from r2anker_hf.records import Document, InputError
from r2anker_hf.run import Run


@pytest.fixture
def collection():
    corpus = Corpus.from_documents([Document(f"d{i}", "Title", f"text {i}") for i in range(9)])
    qrels = {"q1": {"d1": 1, "d2": 0}, "q2": {"d3": 2}, "q3": {"d4": 0}}
    return Collection("toy", "sha256:0", "train", corpus, {"q1": "one", "q2": "two", "q3": "three"}, qrels)


@pytest.fixture
def runs():
    bm25 = Run({"q1": [("d1", 3.0), ("d5", 2.0), ("d6", 1.0)], "q2": [("d7", 1.5)]}, "x")
    return {"bm25": bm25, "dense": Run({"q1": [("d6", 0.9), ("d1", 0.8)]}, "y")}


def test_every_list_is_kept_with_its_order_and_scores(collection, runs):
    rows = list(mine(collection, runs, depth=2))
    assert rows == [
        {
            "query_id": "q1",
            "query": "one",
            "positive_ids": ["d1"],
            "candidates": [
                {"retriever": "bm25", "doc_ids": ["d1", "d5"], "scores": [3.0, 2.0]},
                {"retriever": "dense", "doc_ids": ["d6", "d1"], "scores": [0.9, 0.8]},
            ],
        },
        {
            "query_id": "q2",
            "query": "two",
            "positive_ids": ["d3"],
            "candidates": [
                {"retriever": "bm25", "doc_ids": ["d7"], "scores": [1.5]},
                {"retriever": "dense", "doc_ids": [], "scores": []},
            ],
        },
    ]


def test_the_folder_is_a_plain_dataset(collection, runs, tmp_path):
    manifest = write_candidates(tmp_path, collection, runs, depth=200)
    assert manifest["queries"] == 2 and manifest["queries_without_positive"] == 1
    assert manifest["retrievers"]["bm25"] == {"candidates": 4, "queries_whose_positive_is_found": 1}
    assert manifest == json.loads((tmp_path / "manifest.json").read_text())
    rows = datasets.load_dataset(str(tmp_path), "candidates", split="train")
    assert list(rows) == list(mine(collection, runs))
    streamed = datasets.load_dataset(str(tmp_path), "corpus", split="corpus", streaming=True)
    assert next(iter(streamed)) == {"doc_id": "d0", "title": "Title", "text": "text 0"}


def test_it_reads_back_with_its_corpus(collection, runs, tmp_path):
    collection.corpus.use_titles = False
    write_candidates(tmp_path, collection, runs)
    candidates = load_candidates(tmp_path)
    assert list(candidates.rows) == list(mine(collection, runs))
    assert candidates.corpus.text("d3") == "text 3" and candidates.manifest["use_titles"] is False


def test_a_folder_mined_again_is_read_anew(collection, runs, tmp_path):
    write_candidates(tmp_path / "a" / "negatives", collection, runs)
    assert len(load_candidates(tmp_path / "a" / "negatives").rows) == 2
    fewer = Collection("toy", "sha256:1", "train", collection.corpus, {"q1": "one"}, {"q1": {"d1": 1}})
    write_candidates(tmp_path / "b" / "negatives", fewer, runs)
    write_candidates(tmp_path / "a" / "negatives", fewer, runs)
    assert [len(load_candidates(tmp_path / name / "negatives").rows) for name in "ab"] == [1, 1]


def test_equal_inputs_give_equal_bytes(collection, runs, tmp_path):
    for name in ("a", "b"):
        write_candidates(tmp_path / name, collection, runs)
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_bad_input_is_refused(collection, runs, tmp_path):
    with pytest.raises(InputError, match="run 'bm25', query 'q1': document 'd99' is not in the corpus"):
        list(mine(collection, {"bm25": Run({"q1": [("d99", 1.0)]})}))
    with pytest.raises(InputError, match="one run at least"):
        list(mine(collection, {}))
    with pytest.raises(InputError, match="depth is 0"):
        list(mine(collection, runs, depth=0))
    with pytest.raises(InputError, match="no such folder"):
        load_candidates("/nowhere/at/all")
    with pytest.raises(InputError, match="no candidates of split 'train'; there are: none"):
        load_candidates(tmp_path)
    nothing = Collection("toy", "sha256:0", "train", collection.corpus, {"q3": "three"}, {"q3": {"d4": 0}})
    with pytest.raises(InputError, match="no query of split 'train' has a relevant document"):
        write_candidates(tmp_path / "empty", nothing, runs)
