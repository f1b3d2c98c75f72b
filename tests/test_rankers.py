"""A ranker scores the same everywhere: alone or in a batch, ours, transformers' and sentence-transformers' loaders."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from broken_models import copied, unaligned
from rerank_toy import collection as toy_collection
from rerank_toy import first_stage, rerank
from scripts import one_thread
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from r2anker_hf.collection.collection import Collection, Corpus
from r2anker_hf.rankers import ranker as rankers
from r2anker_hf.rankers.ranker import CrossEncoderRanker
from r2anker_hf.rankers.saving import edit_json
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
    monkeypatch.setattr("r2anker_hf.rankers.ranker.BUFFER", 3)
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


# In pairs of 48 tokens: a long query beside a short document, and two long texts, each of which is once the longer.
LONG = [("cat " * 40, "dog"), ("cat " * 60, "dog " * 50), ("cat " * 50, "dog " * 60), ("cat " * 50, "dog " * 50)]


def test_loaders_agree_on_queries_longer_than_half_a_pair(ranker, saved):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    expected = sentence_transformers.CrossEncoder(str(saved), device="cpu").predict(LONG)
    assert ranker.score(LONG) == pytest.approx(expected, abs=1e-5)
    documents = [Document(f"d{i}", "", document) for i, (_, document) in enumerate(LONG)]
    queries = {f"q{i}": query for i, (query, _) in enumerate(LONG)}
    qrels = {query_id: {"d0": 1} for query_id in queries}
    collection = Collection("toy", "sha256:0", "test", Corpus.from_documents(documents), queries, qrels)
    reranked = ranker.rerank(Run({f"q{i}": [(f"d{i}", 1.0)] for i in range(len(LONG))}), collection)
    assert [reranked[query_id][0].score for query_id in queries] == pytest.approx(expected, abs=1e-5)


def test_a_query_limit_is_saved_and_warned_of(ranker, tmp_path):
    limited = CrossEncoderRanker(ranker.model, ranker.tokenizer, 48, max_query_length=22, batch_size=4)
    with pytest.warns(UserWarning, match="other loaders do not cut queries at max_query_length 22"):
        limited.save_pretrained(tmp_path)
    again = CrossEncoderRanker.from_pretrained(tmp_path, device="cpu")
    assert again.encoder.max_query_length == 22
    assert again.score(LONG) == pytest.approx(limited.score(LONG), abs=1e-5)
    assert np.abs(again.score(LONG) - ranker.score(LONG)).max() > 1e-3
    assert CrossEncoderRanker.from_pretrained(tmp_path, max_length=20, device="cpu").encoder.max_query_length == 22


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"max_length": 48, "max_query_length": 22}, (48, None)),  # half of a pair was what stood for no limit
        ({"max_length": 48, "max_query_length": 12}, (48, 12)),
        ({"max_length": 48}, (48, None)),
    ],
)
def test_rankers_of_the_version_before_load(saved, tmp_path, limits, expected):
    shutil.copytree(saved, tmp_path / "old")
    edit_json(tmp_path / "old" / "config.json", {"r2anker": limits})
    encoder = CrossEncoderRanker.from_pretrained(tmp_path / "old", device="cpu").encoder
    assert (encoder.max_length, encoder.max_query_length) == expected


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


def test_half_precision_on_a_cpu_scores_nearly_the_same_and_is_not_saved(tiny_model, ranker, tmp_path):
    half = CrossEncoderRanker.from_pretrained(tiny_model, max_length=48, device="cpu", dtype=torch.bfloat16)
    assert {weights.dtype for weights in half.model.parameters()} == {torch.bfloat16}
    pairs = [("cat", f"the {'dog and cat ' * n}house") for n in range(9)]
    exact = ranker.score(pairs)
    assert 0 < np.abs(half.score(pairs) - exact).max() < 0.02 * max(1, np.abs(exact).max())
    with pytest.raises(InputError, match="was loaded as torch.bfloat16; load it without dtype to save"):
        half.save_pretrained(tmp_path / "half")


def test_a_ranker_that_will_be_trained_keeps_float32_weights(tiny_model, tmp_path):
    options = {"device": "cpu", "dtype": torch.bfloat16, "fresh_head": True}
    starting = CrossEncoderRanker.from_pretrained(tiny_model, **options)
    assert {weights.dtype for weights in starting.model.parameters()} == {torch.float32}
    starting.save_pretrained(tmp_path / "trained")


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


OTHER_RUNS = ("weights", "one weight", "head count", "text of a document", "text of a query", "max_length")
OTHER_RUNS += ("max_query_length", "max_windows", "dtype", "depth", "tokenizer", "documents")
OTHER_RUNS += ("shards of another version",)


@pytest.mark.parametrize("other", OTHER_RUNS)
def test_a_folder_gives_no_score_of_another_run(tiny_model, tmp_path, other, monkeypatch):
    monkeypatch.setattr(rankers, "SHARD", 1)
    monkeypatch.setattr(rankers, "BATCH_SIZE", {"cpu": 2})

    def reranked(change, folder):
        config = {"num_attention_heads": 4} if change == "head count" else {}
        model = AutoModelForSequenceClassification.from_pretrained(tiny_model, **config)
        options = {name: value for name, value in LIMITS.items() if name == change}
        if change == "dtype":
            options["dtype"] = torch.bfloat16
        side = "left" if change == "tokenizer" else "right"
        tokenizer = AutoTokenizer.from_pretrained(tiny_model, truncation_side=side)
        if change in ("weights", "one weight"):
            weight = model.bert.encoder.layer[0].output.dense.weight.data
            (weight if change == "weights" else weight[7, 5:6]).add_(0.5)
        ranker = CrossEncoderRanker(model, tokenizer, **{"max_length": 40, **options})
        texts = [f"the {'cat and dog ' * (i % 7 + 3 * i)}house {i}" for i in range(6)]
        if change == "text of a document":
            texts[4] = "fish " * 9
        queries = {"q1": "fire water" if change == "text of a query" else "cat", "q2": "dog house what is the river"}
        documents = [Document(f"d{i}", "", text) for i, text in enumerate(texts)]
        collection = Collection("toy", "sha256:0", "test", Corpus.from_documents(documents), queries, {})
        first = [f"d{i}" for i in (range(5, -1, -1) if change == "documents" else range(6))]
        run = Run({query_id: [(d, -i) for i, d in enumerate(first)] for query_id in queries})
        return dict(ranker.rerank(run, collection, depth=4 if change == "depth" else 5, folder=folder).items())

    before = reranked(None, tmp_path / "work")
    (tmp_path / "work" / "scores-of-mine.npy").write_text("kept")
    np.save(tmp_path / "work" / "scores-000000.npy", np.zeros(3))  # as they were named before 0.1.0
    if other == "shards of another version":
        monkeypatch.setattr(rankers, "SHARD", 2)
    expected = reranked(other, tmp_path / "fresh")
    assert expected != before or other == "shards of another version"
    assert reranked(other, tmp_path / "work") == expected
    assert (tmp_path / "work" / "scores-of-mine.npy").read_text() == "kept"
    names = {path.name for path in (tmp_path / "work").glob("scores-0*")}
    assert names == {path.name for path in (tmp_path / "fresh").glob("scores-0*")}  # the others were removed


LIMITS = {"max_length": 20, "max_query_length": 2, "max_windows": 3}


def test_another_batch_size_goes_on_with_the_scores_that_are_there(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(rankers, "SHARD", 1)
    monkeypatch.setattr(rankers, "BATCH_SIZE", {"cpu": 4})
    given = first_stage(), toy_collection()
    sizes = (8, 3, 1)
    made = [CrossEncoderRanker.from_pretrained(tiny_model, max_length=40, batch_size=n, device="cpu") for n in sizes]
    expected = made[0].rerank(*given, folder=tmp_path)
    shards = sorted(tmp_path.glob("scores-*"))
    for ranker in made[1:]:
        lost, kept = shards[1], [path.stat().st_mtime_ns for path in shards if path != shards[1]]
        lost.unlink()
        found = ranker.rerank(*given, folder=tmp_path)
        assert [path.stat().st_mtime_ns for path in shards if path != lost] == kept and lost.exists()
        for query_id in expected:
            scores = ({d.doc_id: d.score for d in run[query_id]} for run in (found, expected))
            assert next(scores) == pytest.approx(next(scores), abs=1e-5)


def launched(model, folder, *arguments, processes=1):
    """The exit code of `rerank_toy.py`, in processes of its own."""
    (folder / "work").mkdir(parents=True)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    script = [str(Path(__file__).with_name("rerank_toy.py")), str(model), str(folder), *arguments]
    command = [*launch, *script] if processes > 1 else [sys.executable, *script]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as torchrun sets it
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
    return done.returncode


def test_a_killed_reranking_and_any_number_of_processes_write_the_same_bytes(tiny_model, tmp_path):
    model = copied(tiny_model, tmp_path / "model")
    unaligned(model)  # where weights lie in a file must not show
    (tmp_path / "whole" / "work").mkdir(parents=True)
    with one_thread():
        rerank(model, tmp_path / "whole")
    whole = (tmp_path / "whole" / "run.trec").read_bytes()
    assert whole.count(b"\n") == 36
    assert launched(model, tmp_path / "killed", "3") == -signal.SIGKILL
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed" / "work").rglob("*.npy")}
    assert sum(path.name.startswith("scores-") for path in written) == 3
    with one_thread():
        rerank(model, tmp_path / "killed")
    assert (tmp_path / "killed" / "run.trec").read_bytes() == whole
    assert written.items() <= {path: path.stat().st_mtime_ns for path in written}.items()  # nothing was done twice
    assert len(list((tmp_path / "killed" / "work").glob("scores-*"))) > 5
    assert launched(model, tmp_path / "two", processes=2) == 0
    assert (tmp_path / "two" / "run.trec").read_bytes() == whole


def test_what_a_ranker_says_of_its_attention_is_not_saved(saved):
    assert "r2anker_padding_free" not in (saved / "config.json").read_text()
