"""One door for all models: whatever is broken is one line for every loader, what comes in is float32 and finite."""

import math
import os
import subprocess
import sys
import time
from functools import partial

import listwise_toy
import pretrain_toy
import pytest
import torch
from broken_models import BROKEN, copied, each_weight, edit, in_bfloat16, masked, unaligned
from datasets import Dataset
from published_toy import recipe
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer, SparseEncoder
from transformers import AutoModel, AutoTokenizer

from r2anker_hf.models.loading import check_finite, positions
from r2anker_hf.ranges import RANGES, Range
from r2anker_hf.rankers.foreign import ForeignRanker
from r2anker_hf.rankers.ranker import CrossEncoderRanker
from r2anker_hf.records import InputError
from r2anker_hf.retrievers import pretraining, training
from r2anker_hf.retrievers.encoders import load_encoder


def ranker(folder, fresh_head=False, length=None):
    return CrossEncoderRanker.from_pretrained(folder, fresh_head=fresh_head, max_length=length, device="cpu").model


def foreign_ranker(folder, length=None):
    return ForeignRanker.from_pretrained(folder, max_length=length, device="cpu").model


def retriever(kind, folder, length=None):
    if length:
        load_encoder(kind, folder, device="cpu").save_pretrained(str(folder), create_model_card=False)
        edit(folder / "sentence_bert_config.json", max_seq_length=length)
    return load_encoder(kind, folder, device="cpu")


def settings(length):
    return training.RetrieverTraining(mixed_precision="no", max_length=length or 32, head_steps=0)


def pretrained(folder, length=None):
    module = recipe("pretrain")
    config = module.EncoderConfig(collection="unused", model=str(folder), max_length=length or 32)
    tokenizer = module.load_tokenizer(config, None, None)
    encoder = pretraining.load_encoder(folder)
    module.check_limits(config, encoder, tokenizer)
    return encoder


# Every way in which this package loads a model.
LOADERS = {
    "ranker": ranker,
    "ranker to train": lambda folder, **options: ranker(folder, fresh_head=True, **options),
    "ranker of others": foreign_ranker,
    "dense": lambda folder, **options: retriever(SentenceTransformer, folder, **options),
    "dense to train": lambda folder, length=None: training.load_dense(folder, None, settings(length)),
    "splade": lambda folder, **options: retriever(SparseEncoder, folder, **options),
    "splade to train": lambda folder, length=None: training.load_splade(folder, None, settings(length)),
    "encoder to pre-train": pretrained,
}


@pytest.fixture(scope="module")
def masked_model(tiny_model, tmp_path_factory):
    return masked(tiny_model, tmp_path_factory.mktemp("masked_model"))


@pytest.fixture(params=LOADERS)
def loader(request):
    return request.param


@pytest.fixture
def whole(loader, tiny_model, masked_model, tmp_path):
    """A folder that the loader takes, to be broken."""
    return copied(tiny_model if "ranker" in loader else masked_model, tmp_path / "model")


def body(model):
    """A layer that every kind of model has, by what its name ends with."""
    (weights,) = [w for name, w in model.named_parameters() if name.endswith("layer.1.output.dense.weight")]
    return weights


@pytest.mark.parametrize("broken", BROKEN)
def test_every_loader_says_in_one_line_what_is_broken(broken, loader, whole):
    damage, message = BROKEN[broken]
    damage(whole)
    with pytest.raises(InputError, match=message) as refused:
        LOADERS[loader](whole)
    assert str(whole) in str(refused.value) and "\n" not in str(refused.value)


def test_every_loader_gives_float32_whatever_the_checkpoint_has(loader, whole):
    before = body(LOADERS[loader](whole))
    in_bfloat16(whole)
    model = LOADERS[loader](whole)
    assert {weights.dtype for weights in model.parameters()} == {torch.float32}
    assert torch.equal(body(model), before.bfloat16().float())


def test_every_loader_takes_weights_into_memory_of_their_own(loader, whole):
    LOADERS[loader](whole)
    unaligned(whole)
    model = LOADERS[loader](whole)
    assert {weights.data_ptr() % 64 for weights in model.parameters()} == {0}
    stored = load_file(whole / "model.safetensors")
    (name,) = [name for name in stored if name.endswith("layer.1.output.dense.weight")]
    assert torch.equal(body(model), stored[name])


def test_every_loader_refuses_texts_longer_than_the_model_has_positions_for(loader, whole):
    with pytest.raises(InputError, match=r"length is 129, but .*model has positions for 128 tokens"):
        LOADERS[loader](whole, length=129)


def test_every_loader_says_at_once_that_a_hub_id_cannot_be_had(loader):
    started = time.perf_counter()
    with pytest.raises(InputError, match="owner/name: no such folder, not in the cache.*unset HF_HUB_OFFLINE, or run"):
        LOADERS[loader]("owner/name")
    assert time.perf_counter() - started < 5


def test_without_a_connection_nothing_is_tried_again_and_again(tmp_path):
    program = """
import time
from r2anker_hf.records import InputError
from r2anker_hf.stage import pinned
from types import SimpleNamespace

started = time.perf_counter()
try:
    pinned(SimpleNamespace(model="owner/name", model_revision=None), model="model")
except InputError as error:
    print(error, time.perf_counter() - started < 5)
"""
    unreachable = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | unreachable, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.startswith("owner/name: no such folder, not in the cache, and no connection to the Hub;")
    assert "set HF_ENDPOINT" in done.stdout and done.stdout.endswith("True\n"), done.stderr[-2000:]


@pytest.mark.parametrize("stored", [2, 3])
def test_several_labels_are_for_training_alone(stored, tiny_model, tmp_path):
    folder = copied(tiny_model, tmp_path / "model")
    names = {str(number): f"LABEL_{number}" for number in range(stored)}
    edit(folder / "config.json", id2label=names, label2id={name: int(number) for number, name in names.items()})
    with pytest.raises(InputError, match=f"has {stored} labels, but a ranker has 1"):
        ranker(folder)
    each_weight(
        folder, lambda name, values: values.repeat(stored, *[1] * (values.dim() - 1)) if "class" in name else values
    )
    with pytest.raises(InputError, match=f"has {stored} labels, but a ranker has 1"):
        ranker(folder)
    assert ranker(folder, fresh_head=True).classifier.weight.shape == (1, 32)


@pytest.mark.parametrize("kind", ["splade", "ranker"])
def test_a_missing_head_is_for_training_alone(kind, tiny_model, masked_model, tmp_path):
    other = {"splade": tiny_model, "ranker": masked_model}[kind]
    with pytest.raises(
        InputError, match="has no trained head|no sparse encoder and has no masked-language-model head"
    ):
        LOADERS[kind](other)
    folder = copied(other, tmp_path / "model")
    edit(folder / "config.json", architectures=["BertForMaskedLM"])
    with pytest.raises(InputError, match="has no trained head"):
        LOADERS[kind](folder)
    assert isinstance(LOADERS[f"{kind} to train"](folder), torch.nn.Module)


def test_a_model_s_own_limit_counts_where_none_is_asked_for(tiny_model, masked_model, tmp_path):
    folder = copied(tiny_model, tmp_path / "model")
    each_weight(folder, lambda name, values: values[:40].clone() if "position_embeddings" in name else values)
    edit(folder / "config.json", max_position_embeddings=40)
    assert CrossEncoderRanker.from_pretrained(folder, device="cpu").encoder.max_length == 40
    assert positions(ranker(folder)) == 40 and load_encoder(SentenceTransformer, folder).max_seq_length == 40


def nan(model):
    next(model.parameters()).data[2, 3] = float("nan")
    return model


def of_pretraining(folder, target):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pretraining.save_encoder(nan(pretraining.load_encoder(folder)), tokenizer, target, 20)


def of_ranker(folder, target):
    loaded = CrossEncoderRanker.from_pretrained(folder, fresh_head=True, device="cpu")
    nan(loaded.model)
    loaded.save_pretrained(target)


# Every way in which this package saves a model.
SAVERS = {
    "ranker": of_ranker,
    "dense": lambda folder, target: training.save_encoder(nan(LOADERS["dense"](folder)), target),
    "splade": lambda folder, target: training.save_encoder(nan(LOADERS["splade"](folder)), target),
    "pre-training": of_pretraining,
}


@pytest.mark.parametrize("saver", SAVERS)
def test_what_is_not_finite_is_not_saved(saver, masked_model, tmp_path):
    with pytest.raises(InputError, match="saved: not saved: 1 of .* values of .*word_embeddings.weight are NaN"):
        SAVERS[saver](masked_model, tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_large_weights_are_finite():
    check_finite({"a": torch.full((4,), 3e38), "b": torch.zeros(0), "c": torch.tensor([1])}, "")
    with pytest.raises(InputError, match="x: 2 of 4 values of a are NaN or infinite"):
        check_finite({"a": torch.tensor([1.0, float("inf"), -float("inf"), 0.0])}, "x")


def diverging_ranker(model, folder, **options):
    return listwise_toy.trainer(str(model), str(folder), **DIVERGING, **options).train()


def diverging_pretraining(model, folder, **options):
    return pretrain_toy.trainer(str(model), str(folder), **DIVERGING, **options).train()


def diverging_retriever(kind, model, folder, logging_steps=1, **_):
    given = {"num_train_epochs": 4, "num_negatives": 1, "per_device_train_batch_size": 2, "learning_rate": 1e30}
    chosen = training.RetrieverTraining(
        mixed_precision="no", max_length=16, head_steps=0, logging_steps=logging_steps, **given
    )
    words = "cat dog bird fish tree river stone house".split()
    columns = {"query": words, "positive": [f"the {w}" for w in words], "negative_1": [f"no {w}" for w in words]}
    load = {"dense": LOADERS["dense to train"], "splade": LOADERS["splade to train"]}[kind]
    training.train(load(model), Dataset.from_dict(columns), chosen, folder)


DIVERGING = {"learning_rate": 1e30, "per_device_train_batch_size": 8}
TRAININGS = {
    "ranker": diverging_ranker,
    "pre-training": diverging_pretraining,
    "dense": partial(diverging_retriever, "dense"),
    "splade": partial(diverging_retriever, "splade"),
}


@pytest.mark.parametrize("options", [{"logging_steps": 1}, {"logging_steps": 100, "save_strategy": "epoch"}])
@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_that_diverges_ends_with_its_step_and_rate(name, options, masked_model, tmp_path, monkeypatch):
    monkeypatch.setitem(RANGES, "learning_rate", Range(above=0, most=math.inf))  # options refuse a rate above 1
    with pytest.raises(InputError, match=r"step \d+: the training diverged at learning_rate 1e\+30; lower it"):
        TRAININGS[name](masked_model, tmp_path / "out", **options)
    for path in tmp_path.rglob("*.safetensors"):
        check_finite(load_file(path), str(path))  # what was saved before can be gone on from


FRESH = ("ranker to train", "splade to train")


@pytest.mark.parametrize("name", FRESH)
def test_a_fresh_head_is_drawn_by_its_seed(name, tiny_model, tmp_path):
    folder = copied(tiny_model, tmp_path / "encoder")
    AutoModel.from_pretrained(folder).save_pretrained(folder)  # without any head
    heads = []
    for place in range(2):
        torch.manual_seed(place)  # a process begins anywhere
        state = torch.get_rng_state()
        heads.append({key: value.clone() for key, value in LOADERS[name](folder).state_dict().items()})
        assert torch.equal(torch.get_rng_state(), state), "the process's own draws go on as if nothing was loaded"
    assert all(torch.equal(value, heads[1][key]) for key, value in heads[0].items())
