"""A Hub id without a revision is read at one commit that a warning names; code of a repository is never run."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import Hub
from scripts import script

from r2anker_hf.publishing.preparing import Stated, prepare
from r2anker_hf.stage import pinned

REPOSITORY = Path(__file__).resolve().parents[1]
CLIENT = """
import json, sys, warnings
from r2anker_hf import CrossEncoderRanker
from r2anker_hf.records import InputError

told = {"warned": [], "scores": []}
for revision in (None, *sys.argv[1:]):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ranker = CrossEncoderRanker.from_pretrained("me/toy", revision, device="cpu")
    told["warned"].append([str(one.message) for one in caught if "me/toy" in str(one.message)])
    told["scores"].append(ranker.score([("cat", "the cat and the dog")]).tolist())
try:
    CrossEncoderRanker.from_pretrained("me/code", "main", device="cpu")
except InputError as error:
    told["refused"] = str(error)
print(json.dumps(told))
"""


def told_by(environment, *revisions):
    """What a process of its own says: whether it may use the Hub is settled when it begins."""
    command = [sys.executable, "-c", CLIENT, *revisions]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.hub
def test_one_commit_a_warning_the_cache_and_a_verification(finished, tmp_path, talk_to):
    with Hub() as hub:
        base = hub.commit("them/base", {"config.json": b"{}"}, kind="model")
        options = {"report": finished / "report", "stated": Stated(base_model=f"them/base@{base}")}
        prepared = prepare("ranker", finished / "ranker", "me/toy", into=tmp_path / "prepared", **options).folder
        commit = hub.commit("me/toy", prepared, kind="model")
        code = {path.name: path.read_bytes() for path in prepared.glob("*.*") if path.is_file()}
        config = json.loads(code["config.json"]) | {"model_type": "own", "auto_map": {"AutoConfig": "code.Own"}}
        code |= {"config.json": json.dumps(config).encode(), "code.py": b"raise SystemExit('code was run')"}
        hub.commit("me/code", code, kind="model")
        environment = hub.environment(tmp_path / "home") | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        told = told_by(environment, commit)
        assert told["warned"][0] == [f"me/toy is read at its newest commit, {commit}; pin it with revision='{commit}'"]
        assert told["warned"][1] == [] and told["scores"][0] == told["scores"][1]
        assert told["refused"].startswith("me/code: cannot be loaded as a ranker:")
        offline = told_by(environment | {"HF_HUB_OFFLINE": "1"})
        assert offline["warned"] == told["warned"][:1] and offline["scores"] == told["scores"][:1]
        talk_to(hub)
        verify = ["recipes/verify.py", "--repo_id", "me/toy", "--revision", commit]
        done = script(*verify)
        assert f"holds        model them/base at {base[:12]} exists" in done.stdout and " 0 fail, " in done.stdout
        config = SimpleNamespace(model="me/toy", model_revision="main", ranker="me/none", ranker_revision=None)
        config, inputs = pinned(config, model="model", ranker="model")
        assert inputs == {"model": f"me/toy@{commit}", "ranker": "me/none@main"}
        assert (config.model_revision, config.ranker_revision) == (commit, None)
        del hub.repos["model", "them/base"]
        done = script(*verify)
        assert done.returncode == 1 and f"them/base@{base}: is not on the Hub" in done.stdout
