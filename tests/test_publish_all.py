"""A whole story in one command: each part names the commits of the others, and what does not belong is refused."""

import hashlib
import json
import math
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import Hub
from hub_state import Fault
from huggingface_hub import ModelCard
from published_toy import RECIPES, arguments, recipe

from r2anker_hf.config import parse_config
from r2anker_hf.publishing.hub import PublishingError
from r2anker_hf.records import InputError

pytestmark = pytest.mark.hub
REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def story(finished, student, tmp_path):
    """The options that publish the whole story."""
    options = {"negatives": finished / "negatives", "ranker": finished / "ranker", "retriever": student}
    return options | {"ranker_report": finished / "report", "repo_id": "me/toy", "output_dir": tmp_path / "out"}


@pytest.fixture
def publish(story, tmp_path):
    """Run the recipe over the whole story in this process; its options are appended or replaced."""

    def run(**more):
        options = {name: value for name, value in (story | more).items() if value is not None}
        module = recipe("publish_all")
        configs = (module.StoryConfig, module.Sending, module.StatedOfAll)
        module.main(*parse_config(*configs, args=arguments(**options)))
        return tmp_path / "out"

    return run


def prepared(out, kind, file):
    return (out / f"toy-{kind}" / "prepared" / file).read_text()


def commit(out, kind):
    return json.loads((out / f"toy-{kind}" / "receipt.json").read_text())["commit"]


def test_each_part_names_the_commits_of_those_before_it(loopback_hub, publish, capsys):
    out = publish()
    ranker, retriever = (json.loads(prepared(out, kind, "provenance.json")) for kind in ("ranker", "retriever"))
    assert ranker["negatives"]["name"] == retriever["negatives"]["name"] == "me/toy-negatives"
    assert ranker["negatives"]["revision"] == retriever["negatives"]["revision"] == commit(out, "negatives")
    (teacher,) = retriever["teachers"]
    assert (teacher["name"], teacher["revision"]) == ("me/toy-ranker", commit(out, "ranker"))
    card = ModelCard(prepared(out, "retriever", "README.md")).data
    assert "me/toy-ranker" in card.base_model and card.datasets[0] == "me/toy-negatives"
    (collection,) = loopback_hub.collections.values()
    assert [item["id"] for item in collection["items"]] == ["me/toy-negatives", "me/toy-ranker", "me/toy-retriever"]
    printed = capsys.readouterr().out
    verify = recipe("verify")
    for kind in ("negatives", "ranker", "retriever"):
        assert f"r2anker verify me/toy-{kind} --revision v1.0.0" in printed
        options = {"repo_id": f"me/toy-{kind}", "revision": "v1.0.0"}
        verify.main(*parse_config(verify.VerificationConfig, args=arguments(**options)))
        assert " 0 fail" in capsys.readouterr().out


def test_what_broke_off_goes_on(loopback_hub, publish, monkeypatch, tmp_path, capsys):
    from r2anker_hf.publishing import sending

    whole = sending.publish

    def no_models(*args, kind, **options):
        if kind == "ranker":
            raise PublishingError("the network is gone")
        return whole(*args, kind=kind, **options)

    told = "the network is gone. Prepared in .*toy-ranker.*; the same command goes on"
    with monkeypatch.context() as patched, pytest.raises(PublishingError, match=told):
        patched.setattr(sending, "publish", no_models)
        publish()
    assert {name for _, name in loopback_hub.repos} == {"me/toy-negatives"}
    first = commit(tmp_path / "out", "negatives")
    capsys.readouterr()
    out = publish()
    assert capsys.readouterr().out.count("published before, nothing new") == 1
    assert commit(out, "negatives") == first
    assert json.loads(prepared(out, "ranker", "provenance.json"))["negatives"]["revision"] == first


def test_a_dry_run_sends_nothing(loopback_hub, publish, capsys):
    out = publish(dry_run="true")
    assert loopback_hub.requests == [] and not list(out.glob("*/receipt.json"))
    assert json.loads(prepared(out, "ranker", "provenance.json"))["negatives"]["revision"].startswith("sha256:")
    assert "dry run: nothing was sent" in capsys.readouterr().out


def test_parts_that_do_not_come_from_each_other_are_refused(loopback_hub, publish, mixed, finished):
    folder, _ = mixed
    with pytest.raises(InputError, match="ranker: learned from other negatives than "):
        publish(negatives=folder / "negatives", retriever=None)
    with pytest.raises(InputError, match="student: learned from another ranker than "):
        publish(negatives=None, ranker=folder / "ranker", ranker_report=None)
    with pytest.raises(InputError, match="nothing to publish"):
        publish(negatives=None, ranker=None, retriever=None, ranker_report=None)
    assert loopback_hub.requests == []


def trained_from(folder, start):
    """A training's folder, as far as its start is read."""
    folder.mkdir()
    (folder / "config.yaml").write_text(json.dumps({"model": "small"}))
    (folder / "provenance.json").write_text(json.dumps({"inputs": {"model": start}}))
    return str(folder)


@pytest.mark.parametrize(
    "ranker, retriever, used, told",
    [
        ("sha256:" + "0" * 64, "them/mini@" + "1" * 40, (True, False), None),
        ("sha256:" + "0" * 64, "sha256:" + "0" * 64, (True, True), None),
        ("them/base@" + "2" * 40, "them/mini@" + "1" * 40, (False, False), None),
        ("them/base@" + "3" * 40, "them/mini@" + "1" * 40, None, "is stated, but the parts started from them/base@3"),
        ("sha256:" + "0" * 64, "sha256:" + "1" * 64, None, "different local models; send each by publish.py"),
    ],
)
def test_a_base_model_is_stated_only_of_parts_that_started_from_a_local_copy(ranker, retriever, used, told, tmp_path):
    module, base = recipe("publish_all"), "them/base@" + "2" * 40
    folders = [trained_from(tmp_path / "a", ranker), trained_from(tmp_path / "b", retriever)]
    config = module.StoryConfig("me/toy", str(tmp_path / "out"), ranker=folders[0], retriever=folders[1])
    if told:
        with pytest.raises(InputError, match=told):
            module.check_base(config, base)
        return
    module.check_base(config, base)
    found = [module.stated_of(part, module.StatedOfAll(base_model=base), {}).base_model for part in config.parts()]
    assert found == [base if one else None for one in used]


def test_a_mixture_names_each_of_its_sets_in_whatever_order_they_are_given(loopback_hub, publish, mixed, finished):
    folder, _ = mixed
    sets = [folder / "negatives", finished / "negatives"]  # the training had them the other way round
    reports = [folder / "report", folder / "on_toy" / "report"]
    out = publish(negatives=sets, ranker=folder / "ranker", ranker_report=reports, retriever=None, licence="other")
    mixture = json.loads(prepared(out, "ranker", "provenance.json"))["negatives"]["mixture"]
    told = [(one["name"], one["revision"]) for one in mixture]
    assert told == [(f"me/toy-negatives-{n}", commit(out, f"negatives-{n}")) for n in (2, 1)]


class Killer(Hub):
    """A Hub at whose n-th call the caller is killed: before it does anything, or before it says that it was done."""

    def __init__(self):
        super().__init__()
        self.left, self.applied, self.caller = math.inf, False, None

    def fault_of(self, method, path):
        self.left -= 1
        if self.left > 0 or self.caller is None:
            return None
        self.caller.kill()
        return Fault(method, re.compile(re.escape(path)), "drop", applied=self.applied)


def check_whole(hub):
    """What stands on main of each repository is nothing of ours, or all that was prepared."""
    for repo_type, name in hub.repos:
        files = hub.content(name, repo_type)
        if files:
            listed = json.loads(files["publication.json"])["files"]
            assert {path: hashlib.sha256(files[path]).hexdigest() for path in listed} == {
                path: facts["sha256"] for path, facts in listed.items()
            }
            assert set(files) == {*listed, "publication.json"}


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_calls_main_is_never_half_there_and_the_same_command_ends(
    kills, story, publish, talk_to, tmp_path
):
    command = [sys.executable, "-W", "ignore", str(RECIPES / "publish_all.py"), *arguments(**story)]
    chance, whole, calls, died = random.Random(7), None, 0, 0

    def launch(hub, left):
        environment = hub.environment(tmp_path / "home", "hf_write") | {"PYTHONPATH": str(REPOSITORY)}
        hub.left, hub.caller = math.inf, None
        with open(tmp_path / "printed", "wb") as printed:
            process = subprocess.Popen(command, env=environment, stdout=printed, stderr=printed)
            hub.left, hub.applied, hub.caller = left, chance.random() < 0.5, process
            code = process.wait(timeout=600)
        hub.caller = None
        assert code in (0, -signal.SIGKILL), (tmp_path / "printed").read_text()[-3000:]
        return code

    def contents(hub):
        return {name: hub.content(name, repo_type, "v1.0.0") for repo_type, name in hub.repos}

    while died < kills:
        with Killer() as hub:
            talk_to(hub)
            if whole is None:
                publish()
                whole, calls = contents(hub), len(hub.requests)
                assert set(whole) == {"me/toy-negatives", "me/toy-ranker", "me/toy-retriever"}
                continue
            code = None
            while code != 0 and died < kills:
                code = launch(hub, chance.randrange(1, calls))
                died += code != 0
                check_whole(hub)
            if code != 0:
                publish()
            check_whole(hub)
            told = contents(hub)
            assert {name: sorted(files) for name, files in told.items()} == {n: sorted(f) for n, f in whole.items()}
            weights = [told[f"me/toy-{kind}"]["model.safetensors"] for kind in ("ranker", "retriever")]
            assert weights == [whole[f"me/toy-{kind}"]["model.safetensors"] for kind in ("ranker", "retriever")]
