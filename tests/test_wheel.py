"""The wheel holds all that its commands need: installed far from any clone, they run, and read no file of one."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest
from hub_server import Hub
from pages import snippets
from published_toy import write_collection

from r2anker_hf.publishing.preparing import prepare

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = ("r2anker_hf", "recipes", "hub_cards", "setup.py", "pyproject.toml", "README.md", "LICENSE")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
# Started with every interpreter of the environment: whoever opens a file of the clone fails.
GUARD = """
import sys
CLONE = {clone!r}
def look(event, args):
    if event in ("open", "os.listdir", "os.scandir") and isinstance(args[0], str) and args[0].startswith(CLONE):
        raise AssertionError(f"reads a file of the clone: {{args[0]}}")
sys.addaudithook(look)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        source, leave = REPOSITORY / name, shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, folder / name, ignore=leave) if source.is_dir() else shutil.copy(source, folder)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder / "dist"]
    subprocess.run([*PIP, "wheel", *options, folder], check=True)
    (built,) = (folder / "dist").glob("*.whl")
    return built


def make_environment(folder, dependencies=True):
    """An environment without this package; with this one's dependencies, or with nothing but pip."""
    venv.create(folder, symlinks=True, with_pip=not dependencies)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    paths = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")) if dependencies else ()
    (packages / "dependencies.pth").write_text("\n".join(["import r2anker_guard", *paths]))
    (packages / "r2anker_guard.py").write_text(
        GUARD.format(clone=tuple(f"{REPOSITORY / name}/" for name in ("r2anker_hf", "recipes", "hub_cards")))
    )
    return folder


def run_in(environment, *command, cwd, code=0, **settings):
    """Run a command line with an environment's programs first; returns what it printed, errors last."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    settings = {"PATH": path, **{name: str(value) for name, value in settings.items()}}
    words = list(map(str, command))
    done = subprocess.run(words, cwd=cwd, env={**kept, **settings}, capture_output=True, text=True, timeout=1200)
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + (done.stderr if code else "")


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Run a command line in an environment that has the wheel and this one's dependencies, in an empty folder."""
    environment = make_environment(tmp_path_factory.mktemp("environment"))
    pip = [PIP[0], "-m", "pip", "--python", environment / "bin" / "python", *PIP[3:]]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", wheel], check=True)

    def run(*command, cwd, code=0, **settings):
        return run_in(environment, environment / "bin" / command[0], *command[1:], cwd=cwd, code=code, **settings)

    return run


def test_the_wheel_holds_recipes_settings_and_templates(wheel):
    names = set(ZipFile(wheel).namelist())
    recipes = [*(REPOSITORY / "recipes").glob("*.py"), *(REPOSITORY / "recipes").glob("*/*.yaml")]
    scripts = [REPOSITORY / "recipes/run.sh", REPOSITORY / "recipes/nano/run.sh"]
    for path in [*recipes, *scripts, *(REPOSITORY / "hub_cards").iterdir()]:
        assert f"r2anker_hf/{path.relative_to(REPOSITORY)}" in names
    assert not [name for name in names if name.startswith(("tests/", "recipes/", "hub_cards/"))]


def test_commands_of_the_wheel_run_without_the_clone(installed, tmp_path):
    ours = str(REPOSITORY / "recipes/mine.py")
    installed("python", "-c", f"open({ours!r})", cwd=tmp_path, code=1)  # the guard is there
    write_collection(tmp_path / "toy")
    assert "train-ranker" in installed("r2anker", "--help", cwd=tmp_path)
    (tmp_path / "bm25.trec").write_text("q1 Q0 d1 1 7.5 bm25\n")
    options = ["--collection", "toy", "--runs", "bm25=bm25.trec", "--output_dir", "out/report"]
    printed = installed("r2anker", "score", "--config", "nano/score.yaml", *options, cwd=tmp_path)
    assert "\nbm25 " in printed and (tmp_path / "out/report/report.html").is_file()


@pytest.mark.hub
def test_the_commands_of_a_card_work_in_an_empty_environment(wheel, finished, tmp_path):
    """As they stand in the card of a ranker on the loopback Hub. Dependencies lie there; the rest comes by pip."""
    prepared = prepare("ranker", finished / "ranker", "me/toy", into=tmp_path / "prepared", report=finished / "report")
    (commands,) = (block for block in snippets(prepared.folder / "README.md", "bash") if "r2anker verify" in block)
    environment, folder = make_environment(tmp_path / "environment"), tmp_path / "empty"
    folder.mkdir()
    # `python -m pip` of this environment stands in for the pip that a stranger has
    pip = environment / "bin" / "pip"
    pip.write_text(f'#!/bin/sh\nexec {PIP[0]} -m pip --python {environment / "bin" / "python"} "$@"\n')
    pip.chmod(0o755)
    offline = {
        "PIP_NO_INDEX": 1,
        "PIP_NO_DEPS": 1,
        "PIP_IGNORE_INSTALLED": 1,
        "PIP_FIND_LINKS": wheel.parent,
        "HF_DATASETS_OFFLINE": 0,
    }
    with Hub() as hub:
        hub.commit("me/toy", prepared.folder, kind="model")
        settings = {**hub.environment(tmp_path / "home"), **offline, "HF_HUB_OFFLINE": 0}
        settings.pop("PYTHONPATH", None)
        settings.pop("PATH")
        script = ["bash", "-euc", commands]
        assert re.search(r"^\d+ hold, 0 fail, ", run_in(environment, *script, cwd=folder, **settings), re.MULTILINE)
        card = prepared.folder / "README.md"
        card.write_text(card.read_text().replace("0.", "1.", 1))
        hub.commit("me/toy", prepared.folder, kind="model")
        assert "FAILS" in run_in(environment, *script, cwd=folder, code=1, **settings)


def test_a_command_without_its_packages_says_what_to_install(wheel, tmp_path):
    environment = make_environment(tmp_path / "environment", dependencies=False)
    pip = [environment / "bin/python", "-m", *PIP[2:]]
    run_in(environment, *pip, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    told = run_in(environment, environment / "bin/r2anker", "verify", "me/ranker", cwd=tmp_path, code=2)
    (install,) = re.findall(r"^error: \w+ is not installed: pip install '(.*?)'", told)
    assert told.count("\n") == 1 and install == "r2anker_hf[cpu]"
    (metadata,) = (name for name in ZipFile(wheel).namelist() if name.endswith("/METADATA"))
    assert b"Provides-Extra: cpu\n" in ZipFile(wheel).read(metadata)


@pytest.mark.slow
def test_the_demo_runs_and_what_it_made_is_published_and_verified(installed, tiny_model, tmp_path):
    training = "--max_steps 4 --per_device_train_batch_size 4 --num_negatives 3 --use_cpu true --mixed_precision no"
    settings = {"MODEL": tiny_model, "RETRIEVER": tiny_model, "TRAINING": training, "OMP_NUM_THREADS": 1}
    settings |= {"COMMON": "--collection_options passages=150 test=20 dev=15"}
    printed = installed("r2anker", "demo", "--output_dir", "demo", cwd=tmp_path, **settings)
    assert "interpolated against fused, MRR@10:" in printed and (tmp_path / "demo/report/report.html").is_file()

    options = ["--kind", "negatives", "--folder", "demo/negatives", "--repo_id", "me/toy", "--output_dir", "published"]
    options += ["--licence", "psf-2.0", "--language", "en", "--dry_run"]
    installed("r2anker", "publish", *options, cwd=tmp_path)
    assert " 0 fail" in installed("r2anker", "verify", "--folder", "published/prepared", cwd=tmp_path)
    with open(tmp_path / "published/prepared/README.md", "a") as card:
        card.write("one more line")
    assert " 0 fail" not in installed("r2anker", "verify", "--folder", "published/prepared", cwd=tmp_path, code=1)


@pytest.mark.slow
@pytest.mark.parametrize("module", [["r2anker_hf", "train-ranker"], ["r2anker_hf.recipes.train_ranker"]], ids=len)
def test_a_training_of_the_wheel_is_launched_on_two_processes(installed, finished, tiny_model, tmp_path, module):
    options = ["--negatives", finished / "negatives", "--model", tiny_model, "--output_dir", "ranker"]
    options += "--max_steps 1 --per_device_train_batch_size 2 --num_negatives 2 --use_cpu true".split()
    options += "--mixed_precision no --report_to none".split()
    launch = ["python", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2, "-m"]
    installed(*launch, *module, *options, cwd=tmp_path, OMP_NUM_THREADS=1)
    assert (tmp_path / "ranker/model.safetensors").is_file()
