"""Protects the retrievers' training: what a tuple holds, FLOPS over all devices, and heads for models without one."""

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback
from transformers.integrations import integration_utils as integrations

from r2anker_hf.records import InputError
from r2anker_hf.retrievers.training import (
    RetrieverTraining,
    SharedFlopsLoss,
    load_dense,
    load_splade,
    train,
    write_tuples,
)

SMALL = {"max_length": 32, "per_device_train_batch_size": 4, "mixed_precision": "no", "logging_steps": 1}


def row(number, positives=("p",), **lists):
    candidates = [{"retriever": name, "doc_ids": ids, "scores": [1.0] * len(ids)} for name, ids in lists.items()]
    query = {"query_id": f"q{number}", "query": f"red {number}", "positive_ids": list(positives)}
    return {**query, "candidates": candidates}


def rows_of_colours():
    """Queries whose passage names their colour; ids are the texts."""
    things = ("fish", "bird", "tree", "house")
    return [
        {**row(0, [f"{colour} {thing}"], bm25=[f"{other} {thing}"]), "query": f"{colour} {thing} {colour}"}
        for thing in things
        for colour, other in (("red", "blue"), ("green", "red"))
    ]


def tuples_of(rows, path, **options):
    write_tuples(rows, lambda doc_id: f"text of {doc_id}", RetrieverTraining(**SMALL, **options), path)
    return Dataset.from_file(str(path))


def test_a_tuple_is_query_positive_and_negatives_of_each_epoch(tmp_path):
    rows = [row(1, bm25=["p", *"abcdefgh"]), row(2, dense=["a"]), row(3, bm25=["p"])]
    tuples = tuples_of(rows, tmp_path / "t.arrow", num_negatives=2, num_train_epochs=3)
    assert tuples.column_names == ["query", "positive", "negative_1", "negative_2"]
    assert tuples["query"] == ["red 1"] * 3 + ["red 2"] * 3  # query 3 has no negative
    assert set(tuples["positive"]) == {"text of p"}
    drawn = [(t["negative_1"], t["negative_2"]) for t in tuples]
    assert all(len(set(pair)) == 2 and "text of p" not in pair for pair in drawn[:3])
    assert drawn[3:] == [("text of a", "text of a")] * 3  # one candidate for two places: twice
    assert len(set(drawn[:3])) > 1  # drawn anew in every epoch


def test_no_tuple_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no training query has a relevant document and a negative"):
        tuples_of([row(1, bm25=["p"])], tmp_path / "t.arrow")


def test_flops_is_arithmetic():
    weights = torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 0.0]])
    assert SharedFlopsLoss().compute_loss_from_embeddings(weights).item() == 2.0**2 + 0 + 1.0**2


def _gradient(rank, world, port, weights, out):
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    share = weights.chunk(world)[rank].clone().requires_grad_()
    loss = SharedFlopsLoss().compute_loss_from_embeddings(share)
    loss.backward()
    out[rank] = (loss.item(), share.grad / world)  # DDP averages gradients over devices
    torch.distributed.destroy_process_group()


def test_flops_has_the_gradient_of_the_whole_batch_on_two_devices():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    weights = torch.rand(6, 5, generator=torch.Generator().manual_seed(0))
    with torch.multiprocessing.Manager() as manager:
        out = manager.dict()
        torch.multiprocessing.spawn(_gradient, (2, port, weights, out), nprocs=2)
        (first, upper), (second, lower) = out[0], out[1]
    whole = weights.clone().requires_grad_()
    loss = SharedFlopsLoss().compute_loss_from_embeddings(whole)
    loss.backward()
    assert first == second == pytest.approx(loss.item())
    torch.testing.assert_close(torch.cat([upper, lower]), whole.grad)


def test_a_dense_model_learns_and_loads(tiny_model, tmp_path):
    settings = RetrieverTraining(**SMALL, learning_rate=1e-3, num_negatives=1, num_train_epochs=20, dropout=0.0)
    write_tuples(rows_of_colours(), str, settings, tmp_path / "t.arrow")
    model = load_dense(tiny_model, None, settings)
    assert model.max_seq_length == 32

    def margin():
        tuples = Dataset.from_file(str(tmp_path / "t.arrow"))
        query, positive, negative = (model.encode(list(tuples[name])) for name in tuples.column_names)
        return float((model.similarity_pairwise(query, positive) - model.similarity_pairwise(query, negative)).mean())

    before = margin()
    train(model, Dataset.from_file(str(tmp_path / "t.arrow")), settings, tmp_path / "checkpoints")
    assert margin() > before + 0.1
    shares = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert shares == {0.0}


def test_an_encoder_without_mlm_head_becomes_a_sparse_one_that_names_its_tokens(tiny_model, tmp_path):
    settings = RetrieverTraining(**SMALL, learning_rate=1e-3, num_negatives=1, head_steps=300)
    passages = ["red fish", "blue bird tree", "stone house", "the cat and the dog", "water fire"]
    model = load_splade(tiny_model, None, settings, passages)
    found = {term for term, _ in model.decode(model.encode_document(["blue house"])[0], top_k=6)}
    assert {"blue", "house"} <= found
    with pytest.raises(InputError, match="head is fresh; give the passages that teach it"):
        load_splade(tiny_model, None, settings)
    dense_start = load_splade(tiny_model, None, RetrieverTraining(**SMALL, head_steps=0))
    untaught = {term for term, _ in dense_start.decode(dense_start.encode_document(["blue house"])[0], top_k=6)}
    assert not {"blue", "house"} <= untaught

    write_tuples(rows_of_colours(), str, settings, tmp_path / "t.arrow")
    untrained = model.encode(["red"]).to_dense()
    train(model, Dataset.from_file(str(tmp_path / "t.arrow")), settings, tmp_path / "checkpoints")
    model.save_pretrained(str(tmp_path / "L1"), create_model_card=False)
    assert not torch.allclose(untrained, model.encode(["red"]).to_dense())
    again = load_splade(tmp_path / "L1", None, settings)
    torch.testing.assert_close(again.encode(["red"]).to_dense(), model.encode(["red"]).to_dense())


def test_bad_settings_are_named():
    for options, message in [
        ({"num_train_epochs": 0}, "num_train_epochs is 0"),
        ({"num_negatives": -1}, "num_negatives is -1, but must be at least 0"),
        ({"temperature": 0.0}, "temperature is 0.0, but must be at least 1e-06"),
    ]:
        with pytest.raises(InputError, match=message):
            RetrieverTraining(**options)


class Tracker(TrainerCallback):
    """A tracker of transformers, which notes what it is told."""

    told: list = []

    def on_log(self, args, state, control, logs, **kwargs):
        self.told.append(logs)


@pytest.mark.parametrize("names, told", [([], False), (["none"], False), (["trackio"], True)])
def test_losses_go_to_the_trackers_that_are_asked_for(names, told, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setitem(integrations.INTEGRATION_TO_CALLBACK, "trackio", Tracker)
    monkeypatch.setattr(integrations, "get_available_reporting_integrations", lambda: ["trackio"])
    monkeypatch.setattr(Tracker, "told", [])
    options = {"report_to": names} if names else {}
    settings = RetrieverTraining(**SMALL, num_negatives=1, num_train_epochs=1, **options)
    write_tuples(rows_of_colours(), str, settings, tmp_path / "t.arrow")
    tuples = Dataset.from_file(str(tmp_path / "t.arrow"))
    train(load_dense(tiny_model, None, settings), tuples, settings, tmp_path / "checkpoints")
    assert any("loss" in logs for logs in Tracker.told) == told


def test_a_tracker_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(integrations, "get_available_reporting_integrations", lambda: ["tensorboard"])
    for name, told in (("trackio", "is not installed: pip install trackio"), ("nope", "transformers does not know")):
        with pytest.raises(InputError, match=f"report_to is '{name}', which {told}; choices: none, all, tensorboard"):
            RetrieverTraining(report_to=["tensorboard", name])
