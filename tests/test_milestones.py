"""Rankers kept along a training are the ones that it had then, over kills too; early stopping counts over them."""

import json
import shutil

import pytest
import torch
from listwise_toy import trainer
from transformers import Trainer, TrainerState

from r2anker_hf.models import checkpoints
from r2anker_hf.rankers.milestones import Clock, EarlyStopping, KeepAt, rankers_of, seconds_at
from r2anker_hf.rankers.ranker import CrossEncoderRanker
from r2anker_hf.records import InputError

STEPS = {"per_device_train_batch_size": 8, "save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps"}
STEPS |= {"eval_steps": 1, "load_best_model_at_end": True, "metric_for_best_model": "MRR@10"}
PAIRS_A_STEP = 8 * 5


def trained(model, folder, keep_at=(), values=None, patience=None, **options):
    """Six steps on the toy rows; `values` are the dev measurements by step."""
    made = trainer(str(model), str(folder / "checkpoints"), **(STEPS if values else {}), **options)
    made.args.per_device_train_batch_size = 8
    if values:
        made.measure = lambda model: {"MRR@10": values[made.state.global_step - 1]}
    clock = Clock()
    made.add_callback(clock)
    made.add_callback(KeepAt(folder, keep_at, PAIRS_A_STEP, made.save_model, clock))
    if patience:
        made.args.restore_callback_states_from_checkpoint = True
        made.add_callback(EarlyStopping(patience))
    checkpoints.train(made)
    return made


def weights(folder):
    return CrossEncoderRanker.from_pretrained(folder, device="cpu").model.state_dict()


def same(one, other):
    return all(torch.equal(one[name], value) for name, value in other.items())


def test_kept_rankers_are_those_of_their_step(tiny_model, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 8}
    made = trained(tiny_model, tmp_path, [61, 79, 200], **options)
    kept = rankers_of(tmp_path)
    # 40 pairs a step: 61 and 79 are reached in the second one, 200 at the end of the fifth
    assert [(one.pairs, one.folder.name) for one in kept] == [(80, "pairs-80"), (200, "pairs-200")]
    assert 0 < kept[0].seconds <= kept[1].seconds <= seconds_at(made.state, 6)
    assert json.loads((kept[0].folder / "seen.json").read_text())["step"] == 2
    assert same(weights(kept[0].folder), weights(tmp_path / "checkpoints" / "checkpoint-2"))


def dying(number):
    """A training step that is killed when it is called for the so-many-th time."""
    step, done = Trainer.training_step, []

    def killed(*arguments, **named):
        done.append(None)
        if len(done) == number:
            raise KeyboardInterrupt
        return step(*arguments, **named)

    return killed


@pytest.mark.parametrize("killed_at", [3, 5])
def test_what_was_kept_survives_a_kill_and_the_rest_is_kept_after_it(killed_at, tiny_model, tmp_path, monkeypatch):
    options = {"save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 8}
    trained(tiny_model, tmp_path / "whole", [100, 200], **options)
    killed = dying(killed_at)
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "training_step", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(tiny_model, tmp_path / "killed", [100, 200], **options)
    made = trained(tiny_model, tmp_path / "killed", [100, 200], **options)
    whole, gone_on = rankers_of(tmp_path / "whole"), rankers_of(tmp_path / "killed")
    assert [one.pairs for one in whole] == [one.pairs for one in gone_on] == [120, 200]
    assert all(same(weights(a.folder), weights(b.folder)) for a, b in zip(whole, gone_on, strict=True))
    seconds = [line["seconds"] for line in made.state.log_history]
    assert seconds == sorted(seconds) and seconds[0] > 0  # the launch before counts


def test_a_number_behind_the_end_is_refused_before_the_training(tiny_model, tmp_path):
    with pytest.raises(InputError, match="keep_at is 241, but the training ends after 240 pairs"):
        trained(tiny_model, tmp_path, [40, 241], per_device_train_batch_size=8)
    with pytest.raises(InputError, match="says nowhere how many pairs were seen"):
        rankers_of(tmp_path)


@pytest.mark.parametrize(("patience", "last"), [(1, 2), (2, 5)])
def test_a_training_ends_after_so_many_measurements_without_a_better_one(patience, last, tiny_model, tmp_path):
    made = trained(tiny_model, tmp_path, values=(0.3, 0.2, 0.4, 0.4, 0.1, 0.9), patience=patience)
    best = 1 if patience == 1 else 3
    assert made.state.global_step == last and made.state.best_global_step == best
    assert same(made.model.state_dict(), weights(tmp_path / "checkpoints" / f"checkpoint-{best}"))


@pytest.mark.parametrize("killed_at", [4, 5, 6])
def test_the_count_and_the_end_survive_a_kill(killed_at, tiny_model, tmp_path, monkeypatch):
    """Killed at the fourth and fifth of five steps, and, as 6, after the stop and before the best weights are read."""
    values = (0.3, 0.2, 0.4, 0.4, 0.1, 0.9)
    expected = trained(tiny_model, tmp_path / "whole", values=values, patience=2)
    killed = dying(killed_at)

    def killed_at_the_end(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "training_step", killed)
        patched.setattr(Trainer, "_load_best_model", killed_at_the_end)
        with pytest.raises(KeyboardInterrupt):
            trained(tiny_model, tmp_path / "killed", values=values, patience=2)
    gone_on = trained(tiny_model, tmp_path / "killed", values=values, patience=2)
    assert gone_on.state.best_global_step == expected.state.best_global_step == 3
    assert same(gone_on.model.state_dict(), expected.model.state_dict())
    measured = [line["eval_MRR@10"] for line in gone_on.state.log_history if "eval_MRR@10" in line]
    assert measured == list(values[:5])
    shutil.rmtree(tmp_path / "killed")


def test_a_state_without_a_clock_has_no_seconds():
    assert seconds_at(TrainerState(log_history=[{"loss": 1.0, "step": 1}]), 1) is None
