"""A ranker scores the same everywhere: alone or in a batch, ours, transformers' and sentence-transformers' loaders."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from broken_models import copied, unaligned
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from r2anker_hf.collection import Collection, Corpus
from r2anker_hf.rankers import CrossEncoderRanker
from r2anker_hf.records import Document, InputError
from r2anker_hf.run import Run

PAIRS = [("cat", "the cat and the dog"), ("river water", "stone " * 200), ("", "a"), ("what is a name", "")]


@pytest.fixture(scope="module")
def ranker(tiny_model):
    return CrossEncoderRanker.from_pretrained(tiny_model, max_length=48, device="cpu")


@pytest.fixture(scope="module")
def saved(ranker, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranker")
    ranker.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def collection():
    corpus = Corpus.from_documents([Document(f"d{i}", "", f"the {'cat ' * i}house") for i in range(6)])
    qrels = {"q1": {"d1": 1}, "q2": {"d2": 1}}
    return Collection("toy", "sha256:0", "test", corpus, {"q1": "cat", "q2": "dog"}, qrels)


def test_batches_order_and_buffers_change_nothing(ranker, monkeypatch):
    pairs = [(f"cat {i}", "and the list " * (i % 5)) for i in range(20)]
    alone = np.concatenate([ranker.score([pair]) for pair in pairs])
    assert alone.std() > 1e-3
    assert ranker.score(pairs) == pytest.approx(alone, abs=1e-5)
    assert ranker.score(pairs[::-1])[::-1] == pytest.approx(alone, abs=1e-5)
    monkeypatch.setattr("r2anker_hf.rankers.BUFFER", 3)
    assert ranker.score(iter(pairs)) == pytest.approx(alone, abs=1e-5)
    assert ranker.score([]).shape == (0,)


def test_three_loaders_give_equal_scores(ranker, saved):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    expected = ranker.score(PAIRS)
    again = CrossEncoderRanker.from_pretrained(saved, device="cpu")
    assert again.encoder.max_length == 48 and again.score(PAIRS) == pytest.approx(expected, abs=1e-6)
    cross_encoder = sentence_transformers.CrossEncoder(str(saved), device="cpu")
    assert cross_encoder.predict(PAIRS) == pytest.approx(expected, abs=1e-5)
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(saved), AutoTokenizer.from_pretrained(saved)
    inputs = tokenizer(*map(list, zip(*PAIRS, strict=True)), padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        assert model.eval()(**inputs).logits[:, 0].numpy() == pytest.approx(expected, abs=1e-5)


def test_what_other_loaders_need_is_on_disk(saved):
    identity = "torch.nn.modules.linear.Identity"
    config = json.loads((saved / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "LABEL_0"} and config["label2id"] == {"LABEL_0": 0}
    assert config["sbert_ce_default_activation_function"] == identity
    assert config["sentence_transformers"]["activation_fn"] == identity
    assert json.loads((saved / "config_sentence_transformers.json").read_text())["activation_fn"] == identity
    tokenizer = json.loads((saved / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "BertTokenizer" and tokenizer["model_max_length"] == 48
    assert "token_type_ids" in tokenizer["model_input_names"]
    assert not {"is_local", "local_files_only", "name_or_path"} & tokenizer.keys()
    assert {path.suffix for path in saved.iterdir()} == {".json", ".safetensors"}


def test_rerank_orders_by_score_and_cuts_at_depth(ranker, collection):
    run = Run({"q1": [(f"d{i}", -i) for i in range(6)], "q2": [("d3", 1.0)], "unknown": [("d1", 1.0)]}, name="first")
    reranked = ranker.rerank(run, collection, depth=4)
    assert list(reranked) == ["q1", "q2"] and reranked.name == "first+ranker"
    scores = ranker.score([("cat", collection.corpus.text(f"d{i}")) for i in range(4)])
    assert [d.doc_id for d in reranked["q1"]] == [f"d{i}" for i in np.argsort(-scores)]
    assert [d.score for d in reranked["q1"]] == pytest.approx(sorted(scores, reverse=True), abs=1e-5)


def test_rerank_refuses_what_it_cannot_read(ranker, collection):
    with pytest.raises(InputError, match="document 'd9' is not in the corpus of 6 documents"):
        ranker.rerank(Run({"q1": [("d9", 1.0)]}), collection)
    with pytest.raises(InputError, match=r"run 'run' and toy \(test\) have no query in common"):
        ranker.rerank(Run({"q9": [("d1", 1.0)]}), collection)


def test_broken_weights_are_said_to_be_so(tiny_model):
    ranker = CrossEncoderRanker.from_pretrained(tiny_model, device="cpu")
    ranker.model.classifier.weight.data.fill_(float("nan"))
    with pytest.raises(InputError, match="scores are NaN"):
        ranker.score(PAIRS)


def test_folders_that_are_no_ranker(tiny_model, saved, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        CrossEncoderRanker.from_pretrained("/nowhere/at/all")
    with pytest.raises(InputError, match="holds no model weights"):
        CrossEncoderRanker.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_bytes((saved / "config.json").read_bytes())
    with pytest.raises(InputError, match="holds no tokenizer"):
        CrossEncoderRanker.from_pretrained(tmp_path)


def test_a_model_without_a_trained_head_is_for_training_alone(tiny_model, tmp_path):
    AutoModel.from_pretrained(tiny_model).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has no trained head"):
        CrossEncoderRanker.from_pretrained(tmp_path)
    assert CrossEncoderRanker.from_pretrained(tmp_path, fresh_head=True).score(PAIRS).shape == (4,)


def reranked_by(model, folder, *arguments, processes=1, threads=1):
    """The bytes of a run that `rerank_toy.py` wrote; None if it was killed."""
    (folder / "work").mkdir(parents=True, exist_ok=True)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    script = [str(Path(__file__).with_name("rerank_toy.py")), str(model), str(folder), *arguments]
    command = [*launch, *script] if processes > 1 else [sys.executable, *script]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}  # torchrun sets 1
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    if done.returncode == -signal.SIGKILL:
        return None
    assert done.returncode == 0, done.stderr[-3000:]
    return (folder / "run.trec").read_bytes()


def test_a_killed_reranking_and_any_number_of_processes_write_the_same_bytes(tiny_model, tmp_path):
    model = copied(tiny_model, tmp_path / "model")
    unaligned(model)  # where weights lie in a file must not show
    whole = reranked_by(model, tmp_path / "whole")
    assert whole.count(b"\n") == 36
    assert reranked_by(model, tmp_path / "killed", "3") is None
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed" / "work").rglob("*.npy")}
    assert sum(path.name.startswith("scores-") for path in written) == 3
    assert reranked_by(model, tmp_path / "killed") == whole
    assert written.items() <= {path: path.stat().st_mtime_ns for path in written}.items()  # nothing was done twice
    assert len(list((tmp_path / "killed" / "work").glob("scores-*"))) > 5
    assert reranked_by(model, tmp_path / "two", processes=2) == whole


def test_what_a_ranker_says_of_its_attention_is_not_saved(saved):
    assert "r2anker_padding_free" not in (saved / "config.json").read_text()
