"""The command line of publishing: a dry run sends nothing, and what could not be sent goes on from where it lies."""

import json

import pytest
from hub_server import Hub
from test_candidates_hub import collection, mined
from test_recipes import recipe

from r2anker_hf.config import parse_config
from r2anker_hf.publishing.hub import PublishingError

pytestmark = pytest.mark.hub


@pytest.fixture
def hub(monkeypatch):
    from huggingface_hub import constants

    with Hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        monkeypatch.setenv("HF_TOKEN", "hf_write")
        yield hub


@pytest.fixture
def publish(tmp_path):
    """Run the recipe over mined negatives; its options are appended."""
    module = recipe("publish")
    mined(tmp_path / "negatives", collection())
    options = ["--kind", "negatives", "--folder", str(tmp_path / "negatives"), "--repo_id", "me/negatives"]
    options += ["--output_dir", str(tmp_path / "out"), "--licence", "mit"]

    def run(*more):
        module.main(*parse_config(module.PublishingConfig, module.Stated, args=[*options, *more]))
        return tmp_path / "out"

    return run


def staged(out):
    folder = out / "staged"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_dry_run_shows_everything_and_sends_nothing(hub, publish, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    out = publish("--dry_run")
    printed = capsys.readouterr().out
    files = staged(out)
    assert all(name in printed for name in files) and files["README.md"].decode() in printed
    assert "dataset me/negatives, v1.0.0, private" in printed and "nothing was sent" in printed
    assert hub.requests == [] and not (out / "receipt.json").exists()


def test_without_a_token_it_is_staged_and_the_same_command_goes_on(hub, publish, monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PublishingError, match="no token: set HF_TOKEN.* Staged in .*; the same command goes on"):
        publish()
    before = staged(tmp_path / "out")
    assert before and hub.requests == []
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    out = publish("--hub_collection", "Mine")
    assert staged(out) == before == hub.content("me/negatives", "dataset")
    receipt = json.loads((out / "receipt.json").read_text())
    assert receipt["new"] and receipt["commit"] == hub.repos["dataset", "me/negatives"].refs["refs/tags/v1.0.0"]
    assert [one["title"] for one in hub.collections.values()] == ["Mine"]
    capsys.readouterr()
    publish()
    assert "published before, nothing new" in capsys.readouterr().out


def test_without_a_network_it_is_staged(hub, publish, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PublishingError, match="offline mode is enabled.* Staged in "):
        publish()
    assert staged(tmp_path / "out") and hub.requests == []


def test_rows_are_counted(publish, tmp_path):
    out = publish("--dry_run")
    check = recipe("publish").check
    check("negatives", out / "staged")
    manifest = json.loads((out / "staged/manifest.json").read_text())
    manifest["splits"]["train"]["queries"] += 1
    (out / "staged/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PublishingError, match="train holds 3 rows, but manifest.json counts 4"):
        check("negatives", out / "staged")
