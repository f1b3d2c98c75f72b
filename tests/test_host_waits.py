"""The host never waits for the device within a step: it reads nothing from there, and no copy blocks."""

from contextlib import nullcontext

import listwise_toy
import numpy as np
import pretrain_toy
import pytest
import torch
from datasets import Dataset
from simulated_device import DEVICE, on_device, waits
from test_padding_free import tiny
from transformers import TrainingArguments

from r2anker_hf.models.attention import nested
from r2anker_hf.models.padding_free import LAYERS, forward, use_padding_free
from r2anker_hf.rankers.health import Health
from r2anker_hf.rankers.ranker import CrossEncoderRanker
from r2anker_hf.records import InputError
from r2anker_hf.retrievers.options import BOTTLENECKS
from r2anker_hf.retrievers.training import RetrieverTraining, contrastive_loss, load_dense, load_splade, trainer_of

X = torch.zeros(4, device=DEVICE)
READS = {
    "item": lambda: X.sum().item(),
    "bool": lambda: bool(X.any()),
    "tolist": lambda: X.tolist(),
    "cpu": lambda: X.cpu(),
    "nonzero": lambda: X.nonzero(),
    "mask": lambda: X[X > 0],
    "repeats": lambda: X.repeat_interleave(X.long()),
}
OTHER_WAITS = {
    "copy": lambda: torch.zeros(4).to(DEVICE),
    "copied into": lambda: torch.empty(4, device=DEVICE).copy_(torch.zeros(4)),
    "number": lambda: torch.tensor(1.0, device=DEVICE),
    "put": lambda: torch.empty(4, device=DEVICE).index_put_((X > 0,), X),
}
NO_WAITS = {
    "copy": lambda: torch.zeros(4).to(DEVICE, non_blocking=True),
    "where": lambda: torch.where(X > 0, X, 0.0),
    "fill": lambda: X.masked_fill(X > 0, 1.0),
    "places": lambda: X[torch.zeros(2, dtype=torch.long, device=DEVICE)],
    "new": lambda: torch.zeros(4, device=DEVICE) + 1.0,
}


@pytest.mark.parametrize("name", READS)
def test_the_simulated_device_refuses_reads(name):
    with waits(), pytest.raises((RuntimeError, NotImplementedError)):
        READS[name]()


@pytest.mark.parametrize("name", OTHER_WAITS)
def test_the_simulated_device_notes_other_waits(name):
    with waits() as found:
        OTHER_WAITS[name]()
    assert len(found) == 1


def test_the_simulated_device_lets_the_rest_pass():
    with waits() as found:
        for operation in NO_WAITS.values():
            operation()
    assert not found


WINDOWS = {"max_length": 12, "max_windows": 3}


@pytest.mark.parametrize("objective", ["labels", "retrievers"])
@pytest.mark.parametrize("options", [{}, {"memory_budget": 1.0}, {"gradient_checkpointing": True}, WINDOWS], ids=str)
def test_a_listwise_step(tiny_model, tmp_path, objective, options):
    trained = listwise_toy.trainer(str(tiny_model), str(tmp_path), objective=objective, **options)
    trained.chunk_tokens = 96  # several chunks
    batch = trained.data_collator([trained.train_dataset[(0, index)] for index in range(8)])
    inputs = on_device(trained, batch)
    trained.health = Health(trained.health.retrievers, DEVICE, peak_tflops=1.0)
    with waits() as found:
        for _ in range(2):
            trained.training_step(trained.model, inputs)
    assert not found
    assert not trained.args.logging_nan_inf_filter  # transformers would read each step's loss
    assert next(weights for weights in trained.model.parameters()).grad.device == DEVICE


@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_a_pretraining_step(tiny_model, tmp_path, bottleneck):
    trained = pretrain_toy.trainer(str(tiny_model), str(tmp_path), bottleneck=bottleneck)
    batch = trained.data_collator([trained.train_dataset[(0, index)] for index in range(7)])
    inputs = on_device(trained, batch)
    trained._begin_line()
    with waits() as found:
        for _ in range(2):
            count = trained._get_num_items_in_batch([inputs], DEVICE)
            trained.training_step(trained.model, inputs, count)
    assert not found and not trained.args.logging_nan_inf_filter


@pytest.mark.parametrize("kind", sorted(LAYERS))
def test_every_architecture_reads_its_lengths_on_the_host(kind):
    model = tiny(kind).to(DEVICE).train()
    assert use_padding_free(model)
    ids = torch.zeros(3, 20, dtype=torch.long, device=DEVICE)
    with waits() as found:
        forward(model, {"input_ids": ids}, np.array([20, 7, 7])).sum().backward()
    assert not found


def test_a_reranking_reads_its_scores_once_a_shard(tiny_model, monkeypatch):
    ranker = CrossEncoderRanker.from_pretrained(tiny_model, device="cpu")
    ranker.model.to(DEVICE)
    reads = []
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no such device
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: reads.append(self) or torch.zeros(self.shape))
    pairs = [[("cat", "dog"), ("cat", "river stone")], [("fish", "house " * 20)], [("bird", "")]]
    with waits() as found:
        assert len(ranker._logits(pairs)) == 4
    assert len(reads) == 1 and not found


def test_nested_attention_is_told_the_extremes(monkeypatch):
    starts = torch.tensor([0, 3, 10, 17], dtype=torch.int32)
    values = [torch.randn(17, 2, 8) for _ in range(3)]
    asked = []
    make = torch.nested.nested_tensor_from_jagged
    monkeypatch.setattr(torch.nested, "nested_tensor_from_jagged", lambda *a, **k: asked.append(k) or make(*a, **k))
    nested(*values, starts, starts, *[starts.diff().numpy()] * 2)
    assert asked == [{"min_seqlen": 3, "max_seqlen": 7}] * 3


@pytest.mark.parametrize("toy", [listwise_toy, pretrain_toy])
def test_batches_that_one_process_would_hand_out_are_refused(tiny_model, tmp_path, toy):
    with pytest.raises(InputError, match="dispatch_batches is true"):
        toy.trainer(str(tiny_model), str(tmp_path), accelerator_config={"dispatch_batches": True})


ARGUMENTS = {
    "ranker": lambda model, folder: listwise_toy.trainer(model, folder).args,
    "encoder": lambda model, folder: pretrain_toy.trainer(model, folder).args,
    "dense": lambda model, folder: retriever_trainer(load_dense(model, None, SETTINGS), folder).args,
    "splade": lambda model, folder: retriever_trainer(load_splade(model, None, SETTINGS), folder).args,
}
SETTINGS = RetrieverTraining(mixed_precision="no", max_length=32, head_steps=0)


def retriever_trainer(encoder, folder):
    """What `train` makes, without training."""
    tuples = Dataset.from_dict({"query": ["red"], "positive": ["red cat"]})
    return trainer_of(encoder, tuples, contrastive_loss(encoder, SETTINGS), SETTINGS, folder)


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_a_process_without_launcher_trains_on_one_gpu_and_says_so(tiny_model, tmp_path, monkeypatch, capsys, kind):
    monkeypatch.setattr(TrainingArguments, "_n_gpu", 2, raising=False)
    monkeypatch.setattr(TrainingArguments, "_setup_devices", torch.device("cpu"))  # would count the real ones
    monkeypatch.setattr(TrainingArguments, "distributed_state", None, raising=False)
    args = ARGUMENTS[kind](str(tiny_model), str(tmp_path))
    assert args.n_gpu == 1 and args.train_batch_size == args.per_device_train_batch_size
    assert "trains on 1 of 2 GPUs; start it by `accelerate launch` to use them all" in capsys.readouterr().out
