"""Groups in chunks learn what they learn at once: the same loss and gradients, dropout included, in bounded memory."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from listwise_toy import losses, trainer

from r2anker_hf.rankers.gradient_cache import bytes_a_token, cached_backward


def layers():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Dropout(0.3), torch.nn.Tanh(), torch.nn.Linear(8, 1))


def test_gradients_are_those_of_the_plain_step_with_dropout():
    inputs = torch.randn(10, 6)

    def loss(logits):
        return torch.nn.functional.cross_entropy(logits.view(2, 5), torch.tensor([0, 3]))

    results = []
    for cached in (False, True):
        model = layers()
        chunks = [lambda part=part, model=model: model(part)[:, 0] for part in inputs.split(3)]
        torch.manual_seed(7)
        if cached:
            value, _ = cached_backward(chunks, loss)
        else:
            value = loss(torch.cat([chunk() for chunk in chunks]))
            value.backward()
        after = torch.rand(1)  # the random numbers go on as they would have
        results.append([value.detach(), after, *(weights.grad for weights in model.parameters())])
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_processes_exchange_gradients_in_the_last_chunk_alone():
    events = []

    class Unsynchronised:
        def __enter__(self):
            events.append("alone")

        def __exit__(self, *_):
            pass

    model = layers()
    chunks = [partial(lambda part: model(part)[:, 0], part) for part in torch.randn(6, 6).split(2)]
    cached_backward(chunks, torch.sum, lambda loss: (events.append("backward"), loss.backward()), Unsynchronised)
    assert events == ["alone", "backward"] * 2 + ["backward"]


def test_bytes_of_a_graph_are_counted():
    weights = torch.randn(4, 4, requires_grad=True)

    def run(pairs):
        return (torch.ones(pairs, 5, 4) @ weights).exp().sum()  # holds the ones and what exp gave: 8 floats a token

    assert bytes_a_token(run, 5, [weights]) == 32


# Adam would blow the rounding of gradients that are 0, such as those of key biases, up to whole steps
OPTIONS = {
    "per_device_train_batch_size": 8,
    "dropout": 0.2,
    "num_train_epochs": 1,
    "learning_rate": 0.05,
    "optim": "sgd",
}


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_training_within_a_budget_is_the_plain_one(tiny_model, tmp_path, precision):
    options = {**OPTIONS, "mixed_precision": precision}
    trainings = []
    for budget in (None, 1.0):
        trainings.append(trainer(tiny_model, str(tmp_path), memory_budget=budget, **options))
        trainings[-1].chunk_tokens = 96  # the same chunks, so that dropout draws the same
        trainings[-1].train()
    plain, cached = trainings
    assert losses(cached) == pytest.approx(losses(plain), abs=1e-5)
    for ours, theirs in zip(cached.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    figures = [entry["gold_rank"] for entry in cached.state.log_history if "gold_rank" in entry]
    assert figures == [entry["gold_rank"] for entry in plain.state.log_history if "gold_rank" in entry]


def test_the_budget_decides_the_chunk(tiny_model, tmp_path):
    chunks = []
    for budget in (0.0001, 0.0002):
        trained = trainer(tiny_model, str(tmp_path), memory_budget=budget, max_steps=1, **OPTIONS)
        trained.train()
        chunks.append(trained.chunk_tokens)
    assert 32 <= chunks[0] < 1000 and chunks[1] == pytest.approx(2 * chunks[0], abs=1)


def launched(script: str, *arguments: str) -> None:
    """Run a script of this folder in two processes."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, str(Path(__file__).with_name(script)), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_within_a_budget_have_the_loss_of_one(tiny_model, tmp_path):
    options = {"per_device_train_batch_size": 8, "dropout": 0.0, "num_train_epochs": 1}
    options |= {"max_length": 12, "max_windows": 3}  # the processes have different numbers of windows
    alone = trainer(tiny_model, str(tmp_path), **options)
    alone.train()
    options |= {"per_device_train_batch_size": 4, "memory_budget": 0.0001}
    launched("listwise_toy.py", str(tiny_model), str(tmp_path), json.dumps(options))
    assert json.loads((tmp_path / "losses.json").read_text()) == pytest.approx(losses(alone), abs=5e-5)
