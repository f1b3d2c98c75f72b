"""Whoever saves a ranker, three loaders read the same scores out of it, and a training goes on from its checkpoint."""

import numpy as np
import pytest
import torch
from listwise_toy import losses, trainer
from sentence_transformers import CrossEncoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from r2anker_hf.rankers.listwise import ListwiseTrainer
from r2anker_hf.rankers.lora import merged, with_lora
from r2anker_hf.rankers.ranker import CrossEncoderRanker
from r2anker_hf.records import InputError

PAIRS = [("cat", "the cat and the dog"), ("river water", "stone " * 200), ("", "a"), ("what is a name", "")]
OPTIONS = {"per_device_train_batch_size": 8, "dropout": 0.0, "max_steps": 3, "save_strategy": "steps", "save_steps": 2}


def scores_of(folder):
    """[3 loaders, pairs] scores by ours, sentence-transformers and transformers."""
    ours = CrossEncoderRanker.from_pretrained(folder, device="cpu")
    assert ours.encoder.max_length == 32
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    inputs = tokenizer(*map(list, zip(*PAIRS, strict=True)), padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        plain = model.eval()(**inputs).logits[:, 0].numpy()
    return np.array([ours.score(PAIRS), CrossEncoder(str(folder), device="cpu").predict(PAIRS), plain])


def ranker_of(trained, model):
    """The trained model as a ranker."""
    ranker = CrossEncoderRanker.from_pretrained(model, fresh_head=True, max_length=32, device="cpu")
    ranker.model = trained.accelerator.unwrap_model(trained.model)
    return ranker


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def trained(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    made = trainer(str(tiny_model), str(folder), **OPTIONS)
    made.train()
    return made, folder


def test_checkpoints_and_save_model_are_rankers(trained, tiny_model, tmp_path):
    made, folder = trained
    ranker = ranker_of(made, tiny_model)
    ranker.save_pretrained(tmp_path / "ranker")
    made.save_model(str(tmp_path / "saved"))
    assert names(tmp_path / "saved") == names(tmp_path / "ranker")  # and no pickle among them
    for path in (tmp_path / "ranker").iterdir():
        assert (tmp_path / "saved" / path.name).read_bytes() == path.read_bytes(), path.name
    assert names(folder / "checkpoint-3") > names(tmp_path / "ranker")  # the trainer's state besides
    expected = ranker.score(PAIRS)
    assert expected.std() > 1e-2
    for saved in (tmp_path / "saved", folder / "checkpoint-3"):
        assert np.abs(scores_of(saved) - expected).max() < 1e-5
    assert np.abs(scores_of(folder / "checkpoint-2") - expected).max() > 1e-4


def test_adapters_are_merged_where_a_ranker_is_saved_and_kept_where_a_training_goes_on(tiny_model, tmp_path):
    def with_adapters(folder):
        made = trainer(str(tiny_model), str(folder), **OPTIONS)
        torch.manual_seed(1)
        model = with_lora(made.model, rank=2)
        return ListwiseTrainer(model, made.args, made.train_dataset, made.data_collator)

    whole = with_adapters(tmp_path / "whole")
    whole.train()
    assert "adapter_model.safetensors" in names(tmp_path / "whole" / "checkpoint-2")
    again = with_adapters(tmp_path / "again")
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert losses(again)[-1] == losses(whole)[-1]
    again.save_model(str(tmp_path / "saved"))
    before = {name: weights.clone() for name, weights in again.model.state_dict().items()}
    ranker = ranker_of(again, tiny_model)
    expected = ranker.score(PAIRS)
    assert np.abs(scores_of(tmp_path / "saved") - expected).max() < 1e-5
    assert all(torch.equal(again.model.state_dict()[name], weights) for name, weights in before.items())
    ranker.model = merged(ranker.model)
    ranker.save_pretrained(tmp_path / "ranker")
    for path in (tmp_path / "ranker").iterdir():
        assert (tmp_path / "saved" / path.name).read_bytes() == path.read_bytes(), path.name


def test_weights_that_are_not_finite_make_no_checkpoint(trained, tmp_path):
    made, _ = trained
    weights = made.model.classifier.weight.data
    kept = weights.clone()
    weights.fill_(float("nan"))
    try:
        with pytest.raises(InputError, match="saved: not saved: 32 of 32 values of classifier.weight are NaN"):
            made.save_model(str(tmp_path / "saved"))
    finally:
        weights.copy_(kept)
    assert names(tmp_path) == set()
