"""Any CrossEncoder reranks and teaches as sentence-transformers scores it, and what cannot score pairs is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from broken_models import POINTER, copied, edit, half_of
from foreign_toy import KINDS, with_labels
from published_toy import run, write_collection
from rerank_toy import collection as toy_collection
from rerank_toy import first_stage
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from teach_toy import mined

from r2anker_hf.collection.collection import load_collection
from r2anker_hf.negatives.candidates import load_candidates
from r2anker_hf.rankers import foreign
from r2anker_hf.rankers import ranker as rankers
from r2anker_hf.rankers.bi_encoder import BiEncoderRanker
from r2anker_hf.rankers.foreign import ForeignRanker, foreign_because, load_ranker
from r2anker_hf.rankers.ranker import CrossEncoderRanker
from r2anker_hf.records import InputError
from r2anker_hf.run import Run

PAIRS = [("cat", "the cat and the dog"), ("river water", "stone " * 200), ("what is a name", "dog")]
LENGTH = 40
BY_OTHERS = [kind for kind, (_, other) in KINDS.items() if other]


@pytest.fixture(scope="module")
def made(tiny_model, tmp_path_factory):
    """The folder of a kind, made once; do not write into it."""
    folders = {}

    def folder(kind):
        if kind not in folders:
            folders[kind] = KINDS[kind][0](tiny_model, tmp_path_factory.mktemp("others") / "model")
        return folders[kind]

    return folder


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def predicted(folder, pairs, **options):
    """The library's own scores."""
    model = CrossEncoder(str(folder), device="cpu", max_length=LENGTH)
    return model.predict(pairs, activation_fn=torch.nn.Identity(), **options)


def scored_by(folder):
    return json.loads((folder / "provenance.json").read_text())["inputs"].get("ranker scored by")


def test_rerank_is_predict(kind, made, tmp_path, capfd):
    write_collection(tmp_path / "toy")
    collection = load_collection(str(tmp_path / "toy"), "test")
    first = {query_id: [(f"d{i}", -i) for i in range(n, n + 5)] for n, query_id in enumerate(collection.queries)}
    Run(first, "first").write_trec(tmp_path / "first.trec")
    options = {"collection": tmp_path / "toy", "first_stage": tmp_path / "first.trec", "max_length": LENGTH}
    run("rerank", "RerankingConfig", ranker=made(kind), **options, output_dir=tmp_path / "run")
    reranked = Run.read_trec(tmp_path / "run" / "run.trec")
    keys = [(query_id, doc_id) for query_id, documents in first.items() for doc_id, _ in documents]
    scores = predicted(made(kind), [(collection.queries[q], collection.corpus.text(d)) for q, d in keys])
    expected = dict(zip(keys, scores, strict=True))
    assert scores.std() > 1e-2
    for query_id, documents in first.items():
        found = {document.doc_id: document.score for document in reranked[query_id]}
        assert found == pytest.approx({d: expected[query_id, d] for d, _ in documents}, abs=1e-5)
        assert list(found) == sorted(found, key=lambda d: -expected[query_id, d])
    assert scored_by(tmp_path / "run") == ("sentence-transformers" if KINDS[kind][1] else None)
    assert (f"{made(kind)}: scored by sentence-transformers, since it" in capfd.readouterr().out) is KINDS[kind][1]
    assert "sentence-transformers" in json.loads((tmp_path / "run" / "provenance.json").read_text())["packages"]


def test_teach_is_predict(kind, made, tmp_path):
    found = mined(tmp_path / "mined")
    options = {"negatives": tmp_path / "mined", "max_length": LENGTH, "output_dir": tmp_path / "taught"}
    run("teach", "TeachingConfig", ranker=made(kind), **options)
    taught = load_candidates(tmp_path / "taught")
    pairs, scores = [], []
    for row in taught.rows:
        (ranking,) = row["rankings"]
        pairs += [(row["query"], found.corpus.text(doc_id)) for doc_id in ranking["doc_ids"]]
        scores += ranking["scores"]
    assert scores == pytest.approx(predicted(made(kind), pairs), abs=1e-5)
    settings = taught.manifest["splits"]["train"]["rankings"]["teacher"]["settings"]
    assert settings["ranker"].startswith(f"{made(kind).name}@sha256:") and settings["max_length"] == LENGTH
    assert settings.get("scored_by", "").startswith("sentence-transformers ") is KINDS[kind][1]


@pytest.mark.parametrize("kind", BY_OTHERS)
def test_a_reranking_that_was_killed_goes_on(kind, made, tmp_path, monkeypatch):
    monkeypatch.setattr(foreign, "SHARD", 4)
    ranker = load_ranker(made(kind), max_length=LENGTH, batch_size=2, device="cpu")
    whole = ranker.rerank(first_stage(), toy_collection(), folder=tmp_path / "whole")
    save, left = rankers._save, iter(range(3))

    def save_or_end(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        save(*arguments)

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(rankers, "_save", save_or_end)
        ranker.rerank(first_stage(), toy_collection(), folder=tmp_path / "killed")
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").iterdir()}
    assert len(written) == 3
    again = load_ranker(made(kind), max_length=LENGTH, batch_size=2, device="cpu")
    assert again.rerank(first_stage(), toy_collection(), folder=tmp_path / "killed") == whole
    assert written.items() <= {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").iterdir()}.items()
    assert len(list((tmp_path / "killed").iterdir())) == 9
    assert whole == ranker.rerank(first_stage(), toy_collection())


def test_two_processes_score_as_one_does(made, tmp_path, monkeypatch):
    monkeypatch.setattr(foreign, "SHARD", 4)
    ranker = load_ranker(made("decoder"), max_length=LENGTH, batch_size=2, device="cpu")
    ranker.rerank(first_stage(), toy_collection()).write_trec(tmp_path / "whole.trec")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = [str(Path(__file__).with_name("foreign_toy.py")), str(made("decoder")), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run([*launch, *script], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("scored by sentence-transformers") == 1
    assert (tmp_path / "run.trec").read_bytes() == (tmp_path / "whole.trec").read_bytes()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, {"prompt_name": "web"}),
        ("code", {"prompt_name": "code"}),
        ("find the cat", {"prompt": "find the cat"}),
        ("", {"prompt": ""}),
    ],
)
def test_a_prompt_is_a_name_or_a_text(given, expected, made):
    ranker = load_ranker(made("decoder"), prompt=given, max_length=LENGTH, device="cpu")
    assert ranker.score(PAIRS) == pytest.approx(predicted(made("decoder"), PAIRS, **expected), abs=1e-5)


def test_a_prompt_makes_a_foreign_ranker_of_our_own(tiny_model, tmp_path):
    own = CrossEncoderRanker.from_pretrained(tiny_model, max_length=LENGTH, device="cpu")
    own.save_pretrained(tmp_path)
    assert foreign_because(tmp_path) is None
    prompted = load_ranker(tmp_path, prompt="find the ", device="cpu")
    assert isinstance(prompted, ForeignRanker) and prompted.max_length == LENGTH
    expected = own.score([(f"find the {query}", document) for query, document in PAIRS])
    assert prompted.score(PAIRS) == pytest.approx(expected, abs=1e-5)


def weigh(folder):
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight" if "lm_head.weight" in weights else "model.norm.weight"][3] += 0.5
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


# What is done to a decoder's folder, and what it is loaded with, so that its scores are others.
CHANGES = {
    "weights": (weigh, {}),
    "answers": (lambda f: edit(f / "1_LogitScore" / "config.json", true_token_id=4), {}),
    "chat template": (lambda f: (f / "chat_template.jinja").write_text(TEMPLATE), {}),
    "length": (None, {"max_length": 12}),
    "precision": (None, {"dtype": torch.bfloat16}),
    "prompt": (None, {"prompt": "code"}),
    "layers": (lambda f: edit(f / "config.json", rms_norm_eps=0.5), {}),
}
TEMPLATE = (
    '{{ messages | selectattr("role", "eq", "document") | map(attribute="content") | first }} query '
    '{{ messages | selectattr("role", "eq", "query") | map(attribute="content") | first }}'
)


@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_gives_no_score_of_another_run(change, made, tmp_path):
    damage, options = CHANGES[change]
    given = {"max_length": LENGTH, "device": "cpu"}
    folder = copied(made("decoder"), tmp_path / "model")
    before = load_ranker(folder, **given).rerank(first_stage(), toy_collection(), folder=tmp_path / "work")
    if damage:
        damage(folder)
    ranker = load_ranker(folder, **{**given, **options})
    after = ranker.rerank(first_stage(), toy_collection(), folder=tmp_path / "work")
    assert after != before and after == ranker.rerank(first_stage(), toy_collection())


def dense(folder):
    return folder / "2_Dense" / "model.safetensors"


def a_nan(folder):
    weights = {name: values.fill_(float("nan")) for name, values in load_file(dense(folder)).items()}
    save_file(weights, dense(folder))


def a_layer_less(folder):
    weights = load_file(folder / "model.safetensors")
    kept = {name: values for name, values in weights.items() if "layers.1." not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def a_module_of_others(folder):
    path = folder / "modules.json"
    path.write_text(path.read_text().replace("dense.Dense", "of.Others"))


BROKEN_STACKS = {
    "head is cut off": (lambda f: half_of(dense(f)), "is truncated or no safetensors file"),
    "head is a pointer": (lambda f: dense(f).write_text(POINTER), "2_Dense/model.safetensors: is a Git LFS pointer"),
    "head is empty": (lambda f: dense(f).write_bytes(b""), "2_Dense/model.safetensors: is empty"),
    "head is missing": (lambda f: dense(f).unlink(), "cannot be loaded as a ranker"),
    "head is NaN": (a_nan, "2.linear.* are NaN or infinite"),
    "head is of other sizes": (
        lambda f: edit(f / "2_Dense" / "config.json", in_features=16),
        "cannot be loaded as a ranker",
    ),
    "head has two scores": (lambda f: with_labels(f, 2), "has 2 labels, but a ranker has 1"),
    "pooling is no JSON": (lambda f: half_of(f / "1_Pooling" / "config.json"), "1_Pooling/config.json: is no JSON"),
    "modules are no JSON": (lambda f: half_of(f / "modules.json"), "modules.json: is no JSON"),
    "modules are no list": (lambda f: (f / "modules.json").write_text("[1]"), "is no list of modules"),
    "a module is unknown": (a_module_of_others, "cannot be loaded as a ranker"),
    "encoder is cut off": (lambda f: half_of(f / "model.safetensors"), "is truncated or no safetensors file"),
    "fewer layers": (a_layer_less, "lack layers of config.json.*layers.1"),
    "is longer than it can be": (
        lambda f: (
            edit(f / "sentence_bert_config.json", max_seq_length=129)
            or edit(f / "tokenizer_config.json", model_max_length=129)
        ),
        "has positions for 128 tokens",
    ),
}


@pytest.mark.parametrize("broken", BROKEN_STACKS)
def test_a_broken_stack_is_refused_in_one_line(broken, made, tmp_path):
    damage, message = BROKEN_STACKS[broken]
    folder = copied(made("stack of modules"), tmp_path / "model")
    damage(folder)
    with pytest.raises(InputError, match=message) as refused:
        load_ranker(folder, device="cpu")
    assert str(folder) in str(refused.value) and "\n" not in str(refused.value)


def test_a_bi_encoder_is_told_from_a_ranker(tiny_model, tmp_path):
    SentenceTransformer(str(tiny_model), device="cpu").save_pretrained(str(tmp_path))
    assert isinstance(load_ranker(tmp_path, device="cpu"), BiEncoderRanker)
    edit(tmp_path / "config_sentence_transformers.json", model_type="Other")
    with pytest.raises(InputError, match="is a Other, but a ranker is a CrossEncoder, SentenceTransformer or Sparse"):
        load_ranker(tmp_path)


def test_a_decoder_without_the_answers_is_refused(tiny_model, made, tmp_path):
    folder = copied(made("plain decoder"), tmp_path / "model")
    content = json.loads((folder / "tokenizer.json").read_text())
    for word in ("yes", "no"):
        content["model"]["vocab"][f"{word}{word}"] = content["model"]["vocab"].pop(word)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="has no tokens for the answers yes and no"):
        load_ranker(folder)


def test_a_chat_template_without_a_place_for_a_pair_is_refused(made, tmp_path):
    folder = copied(made("decoder"), tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{{ 'hello' }}")
    with pytest.raises(InputError, match="cannot be loaded as a ranker: The chat template of"):
        load_ranker(folder)
