"""A stage's folder is whole or absent, goes on after a break, and is never overwritten by another stage."""

import json
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

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
    run_stage(Config(), tmp_path / "a", {"model": pinned(given, "model")}, write)
    (tmp_path / "model" / "weights").write_text("2")
    run_stage(Config(), tmp_path / "b", {"model": pinned(given, "model")}, write)
    inputs = [json.loads((tmp_path / name / "provenance.json").read_text())["inputs"]["model"] for name in "ab"]
    assert inputs[0] != inputs[1]
    given.model, given.model_revision = "owner/name", "0123456789" * 4
    assert pinned(given, "model") == f"owner/name@{given.model_revision}"
