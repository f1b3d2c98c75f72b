"""A stage's folder is whole or absent, goes on after a break, and is never overwritten by another stage."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from r2anker_hf import stage
from r2anker_hf.records import InputError
from r2anker_hf.stage import pinned, run_stage


@dataclass
class Config:
    depth: int = 3
    seed: int = 42


def write(folder):
    (folder / "run.trec").write_text("done")


def test_config_and_provenance_stand_beside_the_result(tmp_path):
    (tmp_path / "input.trec").write_text("x")
    run_stage(Config(), tmp_path / "out", {"run": tmp_path / "input.trec", "collection": "name@rev"}, write)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.yaml", "provenance.json", "run.trec"}
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    digest = "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"  # of the letter x
    assert provenance["inputs"] == {"run": digest, "collection": "name@rev"}
    assert provenance["seed"] == 42 and "torch" in provenance["packages"]
    assert str(tmp_path) not in json.dumps(provenance)


def test_a_broken_stage_leaves_nothing_that_looks_finished_and_goes_on(tmp_path):
    def breaks(folder):
        (folder / "shard-0").write_text("kept")
        raise RuntimeError("killed")

    def goes_on(folder):
        assert (folder / "shard-0").read_text() == "kept"
        write(folder)

    with pytest.raises(RuntimeError):
        run_stage(Config(), tmp_path / "out", {}, breaks)
    assert not (tmp_path / "out").exists()
    run_stage(Config(), tmp_path / "out", {}, goes_on)
    assert (tmp_path / "out" / "run.trec").exists() and len(list(tmp_path.iterdir())) == 1


@dataclass
class Renamed:
    top_n: int = field(default=3, metadata={"formerly": "depth"})
    seed: int = 42


def test_a_stage_that_was_begun_or_finished_under_former_names_is_the_same_stage(tmp_path):
    def breaks(folder):
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        run_stage(Config(depth=5), tmp_path / "out", {}, breaks)
    (rest,) = (path for path in tmp_path.iterdir() if path.is_dir())
    (rest / "shard-0").write_text("kept")
    run_stage(Renamed(top_n=5), tmp_path / "out", {}, write)
    assert (tmp_path / "out" / "shard-0").exists()
    run_stage(Config(), tmp_path / "old", {}, write)
    run_stage(Renamed(), tmp_path / "old", {}, pytest.fail)
    with pytest.raises(InputError, match="another configuration"):
        run_stage(Renamed(top_n=4), tmp_path / "old", {}, pytest.fail)


@dataclass
class Grown(Config):
    languages: list[str] = field(default_factory=lambda: ["en"])


def test_an_option_that_is_younger_than_a_folder_had_its_default_there(tmp_path):
    run_stage(Config(), tmp_path / "out", {}, write)
    run_stage(Grown(), tmp_path / "out", {}, pytest.fail)
    with pytest.raises(InputError, match="another configuration"):
        run_stage(Grown(languages=["de"]), tmp_path / "out", {}, pytest.fail)
    run_stage(Grown(), tmp_path / "grown", {}, write)
    with pytest.raises(InputError, match="another configuration"):  # which option is gone, and what it did, is unknown
        run_stage(Config(), tmp_path / "grown", {}, pytest.fail)


def test_another_configuration_does_not_go_on_from_the_rest(tmp_path):
    def breaks(folder):
        (folder / "shard-0").write_text("stale")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        run_stage(Config(), tmp_path / "out", {}, breaks)
    run_stage(Config(depth=4), tmp_path / "out", {}, write)
    assert not (tmp_path / "out" / "shard-0").exists()


def test_an_option_that_decides_nothing_may_change_on_the_way(tmp_path):
    def breaks(folder):
        (folder / "shard-0").write_text("kept")
        raise RuntimeError("out of memory")

    def goes_on(folder):
        assert (folder / "shard-0").read_text() == "kept"
        assert "depth: 2" in (folder / "config.yaml").read_text()  # what it went on with
        write(folder)

    with pytest.raises(RuntimeError):
        run_stage(Config(depth=3), tmp_path / "out", {}, breaks, free=("depth",))
    run_stage(Config(depth=2), tmp_path / "out", {}, goes_on, free=("depth",))
    run_stage(Config(depth=1), tmp_path / "out", {}, pytest.fail, free=("depth",))  # finished before
    with pytest.raises(InputError, match="another configuration or input"):
        run_stage(Config(depth=2, seed=1), tmp_path / "out", {}, pytest.fail, free=("depth",))


@pytest.mark.parametrize("broken", ["", "- 1", "depth: [", "\xff"])
def test_a_configuration_that_was_half_written_is_begun_afresh(tmp_path, broken):
    partial = tmp_path / ".out.partial"
    partial.mkdir()
    (partial / "config.yaml").write_text(broken, encoding="latin-1")
    (partial / "provenance.json").write_text('{"inputs": {}}')
    (partial / "shard-0").write_text("stale")
    run_stage(Config(), tmp_path / "out", {}, write)
    assert not (tmp_path / "out" / "shard-0").exists()


def test_a_finished_stage_is_neither_repeated_nor_overwritten(tmp_path, capsys):
    run_stage(Config(), tmp_path / "out", {"model": "a@1"}, write)
    run_stage(Config(), tmp_path / "out", {"model": "a@1"}, pytest.fail)
    assert "finished before" in capsys.readouterr().out
    for config, inputs in ((Config(depth=4), {"model": "a@1"}), (Config(), {"model": "a@2"})):
        with pytest.raises(InputError, match="another configuration or input"):
            run_stage(config, tmp_path / "out", inputs, pytest.fail)


def test_inputs_that_are_missing_are_named(tmp_path):
    with pytest.raises(InputError, match="gone.trec: no such file"):
        run_stage(Config(), tmp_path / "out", {"run": tmp_path / "gone.trec"}, write)


def test_a_folder_is_hashed_by_its_files(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("1")
    given = SimpleNamespace(model=str(tmp_path / "model"), model_revision=None)
    run_stage(Config(), tmp_path / "a", pinned(given, model="model")[1], write)
    (tmp_path / "model" / "weights").write_text("2")
    run_stage(Config(), tmp_path / "b", pinned(given, model="model")[1], write)
    inputs = [json.loads((tmp_path / name / "provenance.json").read_text())["inputs"]["model"] for name in "ab"]
    assert inputs[0] != inputs[1]
    given.model, given.model_revision = "owner/name", "0123456789" * 4
    assert pinned(given, model="model")[1] == {"model": f"owner/name@{given.model_revision}"}


def test_a_commit_is_written_into_a_copy(monkeypatch):
    monkeypatch.setattr("r2anker_hf.stage.commit_of", lambda source, revision, kind: f"{source} {revision} {kind}")
    given = SimpleNamespace(model="me/a", model_revision=None, negatives="me/b", negatives_revision="v1", teacher=None)
    before = dict(vars(given))
    config, inputs = pinned(given, model="model", negatives="dataset", teacher="model")
    assert inputs == {"model": "me/a@me/a None model", "negatives": "me/b@me/b v1 dataset"}
    assert (config.model_revision, config.negatives_revision) == ("me/a None model", "me/b v1 dataset")
    assert vars(given) == before


FOREIGN = {
    "a folder of notes": lambda place: (place.mkdir(), (place / "notes.txt").write_text("mine")),
    "an empty configuration among notes": lambda place: (
        place.mkdir(),
        (place / "config.yaml").write_text(""),
        (place / "notes.txt").write_text("mine"),
    ),
    "a file": lambda place: place.write_text("mine"),
    "a link": lambda place: place.symlink_to(place.parent),
}


@pytest.mark.parametrize("made", FOREIGN.values(), ids=FOREIGN)
def test_what_no_stage_began_is_not_removed(tmp_path, made):
    place = tmp_path / ".out.partial"
    made(place)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"\.out\.partial: is in the way, and is no unfinished stage"):
        run_stage(Config(), tmp_path / "out", {}, write)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def half(name):
    def damage(place):
        whole = (place / name).read_bytes()
        (place / name).write_bytes(whole[: len(whole) // 2])
        if name == "provenance.json":
            (place / "config.yaml").unlink()  # written after it

    return damage


@pytest.mark.parametrize("damage", [half("config.yaml"), half("provenance.json")], ids=["config", "provenance"])
def test_a_kill_while_a_stage_begins_does_not_block_it(tmp_path, damage):
    def breaks(folder):
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        run_stage(Config(), tmp_path / "out", {}, breaks)
    damage(tmp_path / ".out.partial")
    run_stage(Config(), tmp_path / "out", {}, write)
    assert (tmp_path / "out" / "run.trec").read_text() == "done"


CHANGES = {
    "emptied": lambda path: path.write_text(""),
    "removed": lambda path: path.unlink(),
    "as long, but another": lambda path: path.write_text("d0ne"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_finished_file_that_changed_is_noticed_by_its_stage_and_by_the_next(tmp_path, change):
    out = tmp_path / "out"
    run_stage(Config(), out, {}, write)
    change(out / "run.trec")
    with pytest.raises(InputError, match=r"run\.trec: (has changed since its stage finished|is missing); remove"):
        run_stage(Config(), out, {}, write)
    for given in (out, out / "run.trec"):
        with pytest.raises(InputError, match=r"run\.trec: .*; make it again with its recipe"):
            run_stage(Config(), tmp_path / "next", {"run": given}, write)
    assert not (tmp_path / "next").exists()


def test_two_launches_at_once_are_one_that_works_and_one_that_says_so(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from test_stage import Config; "
        "from r2anker_hf.records import InputError; from r2anker_hf.stage import run_stage\n"
        "def slow(folder):\n    print('began', flush=True); time.sleep(600)\n"
        "try:\n    run_stage(Config(), sys.argv[1], {}, slow)\n"
        "except InputError as error:\n    sys.exit(f'refused: {error}')\n"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    command = [sys.executable, "-c", script, str(tmp_path / "out")]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    options["env"] = {**os.environ, "PYTHONPATH": paths}
    with subprocess.Popen(command, **options) as first:
        assert first.stdout.readline() == "began\n"
        second = subprocess.run(command, capture_output=True, text=True, env=options["env"], timeout=120)
        first.kill()  # as hard as possible: the lock goes with the process
    assert second.returncode == 1 and "Traceback" not in second.stderr
    assert f"out: is being written by process {first.pid}; wait for it, or choose another name" in second.stderr
    run_stage(Config(), tmp_path / "out", {}, write)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_scratch_goes_once_the_work_is_done(tmp_path):
    def work(folder):
        (folder / "tokens").mkdir()
        (folder / "tokens" / "values.npy").write_text("x")
        write(folder)

    run_stage(Config(), tmp_path / "out", {}, work, scratch=("tokens",))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.yaml", "provenance.json", "run.trec"}
    outputs = json.loads((tmp_path / "out" / "provenance.json").read_text())["outputs"]
    assert set(outputs) == {"config.yaml", "run.trec"}


def test_the_commit_recorded_is_that_of_the_package_s_own_clone(tmp_path, monkeypatch):
    """Not of a clone that it happens to be installed in; and a machine may be without git."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    for command in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "--message", "first"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    for package, found in (("r2anker_hf", commit), (".venv/lib/site-packages/r2anker_hf", None)):
        (tmp_path / package).mkdir(parents=True)
        monkeypatch.setattr(stage, "__file__", str(tmp_path / package / "stage.py"))
        assert stage._git_commit() == found
    monkeypatch.setattr(stage, "__file__", str(tmp_path / "r2anker_hf" / "stage.py"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert stage._git_commit() is None
