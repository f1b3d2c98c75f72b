"""A kill while a checkpoint is written, or an old one removed, costs no more than the steps since the one before."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from listwise_toy import trainer
from transformers import TrainerState

from r2anker_hf.models import checkpoints
from r2anker_hf.records import InputError

REPOSITORY = Path(__file__).resolve().parents[1]
OPTIONS = {"per_device_train_batch_size": 8, "dropout": 0.1, "save_strategy": "steps", "save_steps": 2}
OPTIONS |= {
    "eval_strategy": "steps",
    "eval_steps": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "MRR@10",
}
NEWEST, BEFORE = "checkpoint-4", "checkpoint-2"


def trained(model, folder, measured=(0.1, 0.2, 0.3), **options):
    """Six steps with three checkpoints, gone on with if the folder holds any; the weights at the end."""
    made = trainer(str(model), str(folder), **OPTIONS, **options)
    made.measure = lambda model: {"MRR@10": measured[made.state.global_step // 2 - 1]}
    checkpoints.train(made)
    return made.model.state_dict()


def same(one, other):
    return all(torch.equal(one[name], weights) for name, weights in other.items())


@pytest.fixture(scope="module")
def whole(tiny_model, tmp_path_factory):
    """Folder and weights of a training that nothing broke."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, trained(tiny_model, folder)


@pytest.fixture
def broken_off(whole, tmp_path):
    """The folder as it was after the checkpoint of step 4."""
    shutil.copytree(whole[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    for path in (tmp_path / "run").glob("*/trainer_state.json"):  # which names the best checkpoint by its place
        path.write_text(path.read_text().replace(str(whole[0]), str(tmp_path / "run")))
        checkpoints.seal(path.parent)
    return tmp_path / "run"


def files_of(checkpoint):
    return sorted(path.relative_to(checkpoint) for path in checkpoint.rglob("*") if path.is_file())


def test_every_file_of_a_checkpoint_counts(broken_off, tmp_path, capsys):
    names = files_of(broken_off / NEWEST)
    assert {"model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt"} <= {str(name) for name in names}
    for damage in (lambda path: path.unlink(), lambda path: os.truncate(path, path.stat().st_size // 2)):
        for name in names:
            copy = tmp_path / "copy"
            shutil.copytree(broken_off, copy)
            damage(copy / NEWEST / name)
            checkpoints.remove_broken(copy)
            assert [path.name for path in copy.iterdir()] == [BEFORE], name
            assert f"{NEWEST}: was not written to its end" in capsys.readouterr().out
            shutil.rmtree(copy)


@pytest.mark.parametrize("damaged", [[], [NEWEST], [BEFORE, NEWEST]])
def test_a_training_goes_on_from_the_newest_whole_checkpoint_or_the_start(damaged, whole, broken_off, tiny_model):
    for name in damaged:
        os.truncate(broken_off / name / "optimizer.pt", 100)
    assert same(trained(tiny_model, broken_off), whole[1])


def test_a_checkpoint_counts_only_with_the_best_one_before_it(tiny_model, broken_off, tmp_path):
    measured = (0.3, 0.2, 0.1)
    expected = trained(tiny_model, tmp_path / "other", measured)
    shutil.rmtree(broken_off)
    shutil.copytree(tmp_path / "other", broken_off)
    for path in broken_off.glob("*/trainer_state.json"):
        path.write_text(path.read_text().replace(str(tmp_path / "other"), str(broken_off)))
        checkpoints.seal(path.parent)
    os.truncate(broken_off / BEFORE / "model.safetensors", 100)  # whose weights the training ends with
    assert same(trained(tiny_model, broken_off, measured), expected)


@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (transformers.Trainer, "_save_optimizer_and_scheduler"),
        (transformers.Trainer, "_save_rng_state"),
        (TrainerState, "save_to_json"),
        (checkpoints, "seal"),
        (checkpoints, "rotate_checkpoints"),
        (shutil, "rmtree"),
    ],
)
def test_a_kill_at_any_moment_of_saving_leaves_a_whole_checkpoint(
    owner, name, limit, whole, tiny_model, tmp_path, monkeypatch
):
    step, calls = getattr(owner, name), []

    def killed(*arguments, **named):
        calls.append(None)
        if name == "rmtree":  # half way
            files_of_it = sorted(Path(arguments[0]).iterdir())
            files_of_it[0].unlink()
            raise KeyboardInterrupt
        if len(calls) == 2:
            raise KeyboardInterrupt
        return step(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, killed)
        with pytest.raises(KeyboardInterrupt):
            trained(tiny_model, tmp_path, save_total_limit=limit)
    assert [path for path in tmp_path.iterdir() if checkpoints.is_whole(path)]
    assert same(trained(tiny_model, tmp_path, save_total_limit=limit), whole[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-4", "checkpoint-6"][2 - limit :]


def test_a_seal_lists_every_file_with_its_size(whole):
    sizes = json.loads((whole[0] / NEWEST / checkpoints.SEAL_FILE).read_text())
    assert set(sizes) == {str(name) for name in files_of(whole[0] / NEWEST)} - {checkpoints.SEAL_FILE}
    assert sizes["model.safetensors"] == (whole[0] / NEWEST / "model.safetensors").stat().st_size


def test_parameters_split_over_processes_are_refused(tiny_model, tmp_path):
    made = trainer(str(tiny_model), str(tmp_path))
    made.is_fsdp_enabled = True  # as accelerate says it on GPUs
    with pytest.raises(InputError, match="FSDP is not supported: .*multi_gpu.yaml"):
        checkpoints.train(made)


def test_every_training_of_a_recipe_goes_this_way():
    sources = [*(REPOSITORY / "r2anker_hf").rglob("*.py"), *(REPOSITORY / "recipes").rglob("*.py")]
    starting = {path.name for path in sources if "trainer.train(" in path.read_text()}
    assert starting == {"checkpoints.py", "memory.py", "training.py"}
