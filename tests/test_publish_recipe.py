"""The command line of publishing: a dry run sends nothing, and what could not be sent goes on from where it lies."""

import json

import pytest
from huggingface_hub import ModelCard
from test_recipes import SIZES, recipe

from r2anker_hf.collection.collection import load_collection
from r2anker_hf.config import parse_config
from r2anker_hf.publishing.hub import PublishingError
from r2anker_hf.publishing.sending import check
from r2anker_hf.rankers.ranker import CrossEncoderRanker
from r2anker_hf.run import Run

pytestmark = pytest.mark.hub


@pytest.fixture
def hub(loopback_hub):
    return loopback_hub


@pytest.fixture(scope="module")
def negatives(tmp_path_factory):
    """A folder that mine.py wrote."""
    folder = tmp_path_factory.mktemp("mined")
    collection = load_collection("apidocs", "train", passages=150, test=20, dev=15)
    doc_ids = collection.corpus.ids[:5]
    run = {
        query_id: [(doc_id, -float(rank)) for rank, doc_id in enumerate(doc_ids)] for query_id in collection.queries
    }
    Run(run, "bm25").write_trec(folder / "run.trec")
    options = (
        f"--collection apidocs {SIZES} --runs bm25={folder}/run.trec --audit_queries 0 --output_dir {folder}/mined"
    )
    module = recipe("mine")
    module.main(*parse_config(module.MiningConfig, args=options.split()))
    return folder / "mined"


def run_publish(*options):
    module = recipe("publish")
    module.main(*parse_config(module.PublishingConfig, module.Sending, module.Stated, args=options))


@pytest.fixture
def publish(negatives, tmp_path):
    """Run the recipe over mined negatives; its options are appended."""
    options = ["--kind", "negatives", "--folder", str(negatives), "--repo_id", "me/negatives"]
    options += ["--output_dir", str(tmp_path / "out"), "--licence", "mit"]

    def run(*more):
        run_publish(*options, *more)
        return tmp_path / "out"

    return run


def prepared(out):
    folder = out / "prepared"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_dry_run_shows_everything_and_sends_nothing(hub, publish, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    out = publish("--dry_run")
    printed = capsys.readouterr().out
    files = prepared(out)
    assert all(name in printed for name in files) and files["README.md"].decode() in printed
    assert "dataset me/negatives, v1.0.0, private" in printed and "nothing was sent" in printed
    assert hub.requests == [] and not (out / "receipt.json").exists()


def test_without_a_token_it_is_prepared_and_the_same_command_goes_on(hub, publish, monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PublishingError, match="no token: set HF_TOKEN.* Prepared in .*; the same command goes on"):
        publish()
    before = prepared(tmp_path / "out")
    assert before and hub.requests == []
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    out = publish("--hub_collection", "Mine")
    assert prepared(out) == before == hub.content("me/negatives", "dataset")
    receipt = json.loads((out / "receipt.json").read_text())
    assert receipt["new"] and receipt["commit"] == hub.repos["dataset", "me/negatives"].refs["refs/tags/v1.0.0"]
    assert [one["title"] for one in hub.collections.values()] == ["Mine"]
    capsys.readouterr()
    publish()
    assert "published before, nothing new" in capsys.readouterr().out


def test_what_is_published_is_verified(hub, publish, capsys):
    publish("--version", "2.0.0")
    verify = recipe("verify")
    verify.main(*parse_config(verify.VerificationConfig, args=["--repo_id", "me/negatives", "--revision", "v2.0.0"]))
    assert " 0 fail" in capsys.readouterr().out


def test_without_a_network_it_is_prepared(hub, publish, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PublishingError, match="offline mode is enabled.* Prepared in "):
        publish()
    assert prepared(tmp_path / "out") and hub.requests == []


def test_what_was_downloaded_is_held_against_itself(publish, tmp_path):
    """Rows against the manifest, the card against both, and the files that the card names."""
    prepared = publish("--dry_run") / "prepared"
    check("negatives", prepared)
    card = (prepared / "README.md").read_text()
    (prepared / "README.md").write_text(card.replace("candidates/train-", "candidates/nowhere-"))
    with pytest.raises((PublishingError, FileNotFoundError)):
        check("negatives", prepared)
    (prepared / "README.md").write_text(card.replace("115 queries", "116 queries"))
    with pytest.raises(PublishingError, match="README.md"):
        check("negatives", prepared)


def test_a_ranker_of_several_collections_goes_out_and_is_verified(hub, finished, mixed, tmp_path, capsys):
    """Both sets of negatives are published, then the ranker that states them, and everything is loaded from there."""
    folder, _ = mixed
    sets = {"me/toy-negatives": finished / "negatives", "me/other-negatives": folder / "negatives"}

    def send(kind, source, repo_id, *more):
        out = tmp_path / repo_id
        options = ["--kind", kind, "--folder", source, "--repo_id", repo_id, "--output_dir", out, *more]
        run_publish(*map(str, options))
        return json.loads((out / "receipt.json").read_text())["commit"]

    pins = [f"{repo_id}@{send('negatives', source, repo_id)}" for repo_id, source in sets.items()]
    reports = folder / "report", folder / "on_toy" / "report"
    commit = send("ranker", folder / "ranker", "me/mix", "--negatives", *pins, "--report", *reports)
    data = ModelCard((tmp_path / "me" / "mix" / "prepared" / "README.md").read_text()).data
    assert data.datasets == list(sets) and data.license == "cc-by-nc-4.0"
    pairs = [("the river returns", "a green list"), ("not red", "the house function")]
    local, loaded = (CrossEncoderRanker.from_pretrained(*one) for one in ((folder / "ranker",), ("me/mix", commit)))
    assert loaded.score(pairs).tolist() == pytest.approx(local.score(pairs).tolist(), abs=1e-5)
    capsys.readouterr()
    verify = recipe("verify")
    verify.main(*parse_config(verify.VerificationConfig, args=["--repo_id", "me/mix", "--revision", commit]))
    printed = capsys.readouterr().out
    assert " 0 fail, 0 were not checked" in printed
    for repo_id in sets:
        assert f"figures of the negatives {repo_id}" in printed
