"""After the rewrite a model loads everywhere with the scores that it had; what cannot be written so is refused."""

import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from r2anker_hf.publishing import compat, golden
from r2anker_hf.records import InputError

IDENTITY = "torch.nn.modules.linear.Identity"


def read(path):
    return json.loads(path.read_text())


def edit(path, **changes):
    content = {**read(path), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.fixture
def ranker(tiny_model, tmp_path):
    """As transformers' Trainer leaves one: no word of an activation, a tokenizer of a class that 4.x lacks."""
    folder = tmp_path / "ranker"
    shutil.copytree(tiny_model, folder)
    edit(folder / "tokenizer_config.json", is_local=True, local_files_only=False, name_or_path="/home/ann/model")
    edit(folder / "config.json", _name_or_path="/home/ann/model")
    return folder


def test_a_ranker_scores_alike_in_every_loader(ranker):
    before = golden.score_ranker(ranker)
    with pytest.raises(InputError, match=r"sentence-transformers and r2anker_hf score the same pair \S+ apart"):
        compat.check("ranker", ranker)  # its default activation is a sigmoid
    compat.rewrite("ranker", ranker)
    compat.check("ranker", ranker)
    assert golden.score_ranker(ranker) == pytest.approx(before, abs=1e-6) and before.std() > 0.1
    config, tokenizer = read(ranker / "config.json"), read(ranker / "tokenizer_config.json")
    assert config["id2label"] == {"0": "LABEL_0"} and "_name_or_path" not in config
    assert (
        config["sbert_ce_default_activation_function"] == config["sentence_transformers"]["activation_fn"] == IDENTITY
    )
    assert read(ranker / "config_sentence_transformers.json")["activation_fn"] == IDENTITY
    assert tokenizer["tokenizer_class"] == "BertTokenizer" and "token_type_ids" in tokenizer["model_input_names"]
    assert not {"is_local", "local_files_only", "name_or_path"} & tokenizer.keys()


def test_token_types_that_other_loaders_would_lose_are_refused(ranker):
    compat.rewrite("ranker", ranker)
    edit(ranker / "tokenizer_config.json", model_input_names=["input_ids", "attention_mask"])
    with pytest.raises(InputError, match="tokenizer.json: gives token_type_ids that transformers' tokenizer does not"):
        compat.check("ranker", ranker)


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"auto_map": {"AutoModel": "x.Y"}}, "has auto_map"),
        ({"architectures": ["BertForMaskedLM"]}, r"the architecture is BertForMaskedLM, not \.\.\.ForSequence"),
        ({"id2label": {"0": "a", "1": "b"}}, "several labels, but a ranker has one"),
    ],
)
def test_what_is_no_portable_ranker_is_refused(changes, reason, ranker):
    edit(ranker / "config.json", **changes)
    with pytest.raises(InputError, match=reason):
        compat.rewrite("ranker", ranker)


def test_a_ranker_without_a_fast_tokenizer_is_refused(ranker):
    (ranker / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="tokenizer.json: no such file"):
        compat.rewrite("ranker", ranker)


@pytest.fixture(scope="module")
def dense(tiny_model, tmp_path_factory):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    transformer = Transformer(str(tiny_model))
    transformer.max_seq_length = 40
    model = SentenceTransformer(modules=[transformer, Pooling(32, "mean"), Normalize()], device="cpu")
    folder = tmp_path_factory.mktemp("dense")
    model.save_pretrained(str(folder), create_model_card=False)
    return folder


@pytest.fixture(scope="module")
def splade(tiny_model, tmp_path_factory):
    import torch
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

    plain, folder = tmp_path_factory.mktemp("mlm"), tmp_path_factory.mktemp("splade")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        BertForMaskedLM(BertConfig.from_pretrained(tiny_model)).save_pretrained(plain)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(plain)
    modules = [Transformer(str(plain), transformer_task="fill-mask"), SpladePooling(pooling_strategy="max")]
    SparseEncoder(modules=modules, device="cpu").save_pretrained(str(folder), create_model_card=False)
    return folder


def test_a_dense_retriever_gets_the_old_layout_and_equal_similarities(dense, tmp_path):
    folder = shutil.copytree(dense, tmp_path / "dense")
    before = golden.score_retriever(folder)
    compat.rewrite("retriever", folder)
    compat.check("retriever", folder)
    assert np.array_equal(golden.score_retriever(folder), before) and before.std() > 0.01
    types = [module["type"] for module in read(folder / "modules.json")]
    assert types == [f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Normalize")]
    pooling = read(folder / "1_Pooling" / "config.json")
    assert pooling["word_embedding_dimension"] == 32 and pooling["pooling_mode_mean_tokens"] is True
    assert pooling["pooling_mode_cls_token"] is False and "pooling_mode" not in pooling
    assert read(folder / "sentence_bert_config.json") == {"max_seq_length": 40, "do_lower_case": False}
    again = {path: path.read_bytes() for path in folder.rglob("*.json")}
    compat.rewrite("retriever", folder)  # what is in the old layout stays as it is
    assert again == {path: path.read_bytes() for path in folder.rglob("*.json")}


def test_a_splade_retriever_gets_the_old_layout_and_equal_similarities(splade, tmp_path):
    folder = shutil.copytree(splade, tmp_path / "splade")
    before = golden.score_retriever(folder)
    compat.rewrite("retriever", folder)
    assert np.array_equal(golden.score_retriever(folder), before) and before.std() > 0
    types = [module["type"].rpartition(".")[0] for module in read(folder / "modules.json")]
    assert set(types) == {"sentence_transformers.sparse_encoder.models"}
    assert "word_embedding_dimension" in read(folder / "1_SpladePooling" / "config.json")


def test_a_module_that_servers_do_not_know_is_refused(dense, tmp_path):
    folder = shutil.copytree(dense, tmp_path / "dense")
    modules = read(folder / "modules.json")
    modules[2]["type"] = "sentence_transformers.sentence_transformer.modules.dropout.Dropout"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "2_Normalize" / "config.json").write_text('{"dropout": 0.1}')
    with pytest.raises(InputError, match="modules.json: module sentence_transformers.*Dropout, but what older"):
        compat.rewrite("retriever", folder)


def test_golden_scores_notice_other_weights(ranker, tmp_path):
    golden.write_golden(ranker, "ranker")
    assert golden.check_golden(ranker, "ranker") == []
    weights = load_file(ranker / "model.safetensors")
    weights["classifier.bias"] += 0.01
    save_file(weights, ranker / "model.safetensors", metadata={"format": "pt"})
    failures = golden.check_golden(ranker, "ranker")
    assert len(failures) == len(golden.PAIRS) and failures[0].startswith("eval/golden.json: pair 1 ('how do tides")
