"""Protects training on the Hub's machines: what the client makes of the script, and that a job that ended goes on."""

import os
import re
import shlex
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import lowest
import pytest
from every_recipe import configs
from hub_server import Hub
from published_toy import recipe
from test_publish_recipe import hub  # noqa: F401

from r2anker_hf.config import parse_config
from r2anker_hf.publishing.hub import PublishingError
from r2anker_hf.records import InputError

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPT = REPOSITORY / "recipes/hub_job.py"
IDS = {"repo_id": "me/story", "licence": "psf-2.0"}


def words(**options):
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def configured(output, **options):
    module = recipe("hub_job")
    args = words(**{"recipe": "nfcorpus", "output_dir": output, **IDS, **options})
    return module, parse_config(module.HubJobConfig, args=args)[0]


def head():
    """The inline metadata, by the rule of PEP 723."""
    (block,) = re.findall(r"(?m)^# /// script$\s((?:^#(?:| .*)$\s)+)^# ///$", SCRIPT.read_text())
    return tomllib.loads("".join(line.removeprefix("#").removeprefix(" ") for line in block.splitlines(True)))


def test_the_head_names_this_package_and_this_python():
    metadata = lowest.metadata()
    ((name, extra),) = (re.fullmatch(r"(\w+)\[(\w+)\]", one).groups() for one in head()["dependencies"])
    assert name == metadata["name"] and extra in metadata["extras_require"]
    assert head()["requires-python"] == metadata["python_requires"]


def test_the_client_reads_hardware_time_and_secret_from_the_head():
    header = pytest.importorskip("huggingface_hub.cli._uv_script_header")
    from huggingface_hub import JobHardware

    found = header.parse_uv_script_header(SCRIPT.read_text())
    assert JobHardware(found.flavor) and found.secrets == ["HF_TOKEN"]
    assert found.timeout == head()["tool"]["hf-jobs"]["timeout"]


@pytest.mark.hub
def test_the_command_of_the_docs_is_what_the_client_sends(hub: Hub, monkeypatch, tmp_path):  # noqa: F811
    """`hf` itself in this process; of the service, only the bucket that it lays the script into is replaced."""
    pytest.importorskip("huggingface_hub.cli._uv_script_header")
    from huggingface_hub import HfApi, Volume
    from huggingface_hub.cli.hf import app

    page = (REPOSITORY / "docs/tasks/train.md").read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^hf (jobs uv run .*)$", page, re.MULTILINE)
    command = shlex.split(line)
    script = command.index("recipes/hub_job.py")
    parse_config(*configs("hub_job"), args=command[script + 1 :])
    laid = Volume(type="bucket", source="me/jobs-artifacts", mount_path="/data")
    monkeypatch.setattr(HfApi, "_upload_scripts_to_bucket", lambda self, **options: [laid])
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(SystemExit) as ended:
        app([*command[:3], "--detach", *command[3:]])
    assert not ended.value.code
    (job,) = hub.jobs
    assert job["command"] == ["uv", "run", "/data/hub_job.py", *command[script + 1 :]]
    assert job["timeoutSeconds"] == 8 * 3600 and job["secrets"] == {"HF_TOKEN": "hf_write"}
    mounted = {volume["mountPath"]: volume["source"] for volume in job["volumes"]}
    assert mounted == {"/out": "me/r2anker", "/data": "me/jobs-artifacts"}


@pytest.mark.hub
def test_a_job_makes_the_story_and_then_publishes_what_it_made(hub: Hub, tmp_path):  # noqa: F811
    module, config = configured(tmp_path / "out", collection="them/c", revision="a" * 40, training="--max_steps 4")
    done = []

    def work(command, **variables):
        done.append((command, variables))
        (tmp_path / "out/report").mkdir(exist_ok=True)
        (tmp_path / "out/report.traceback.txt").write_text("of a fault that score.py met once")

    module.work = work
    module.main(config)
    (story, variables), (command, _) = done
    assert story[0] == "bash" and story[-1] == "nfcorpus" and Path(story[1]).is_file()
    assert variables["COLLECTION"] == "them/c" and variables["COMMON"] == f"--revision {'a' * 40}"
    assert variables["OUT"] == str(tmp_path / "out") and variables["TRAINING"] == "--max_steps 4"
    options = command[command.index("publish-all") + 1 :]
    publish, sending, stated = parse_config(*configs("publish_all"), args=options)
    sent = [(part.kind, part.folder, part.repo_id, part.report) for part in publish.parts()]
    assert sent == [
        ("negatives", str(tmp_path / "out/negatives"), "me/story-negatives", ()),
        ("ranker", str(tmp_path / "out/ranker"), "me/story-ranker", (str(tmp_path / "out/report"),)),
    ]
    assert not sending.public and stated.licence == "psf-2.0"


@pytest.mark.hub
def test_what_would_fail_at_the_end_is_refused_at_the_start(hub: Hub, tmp_path, monkeypatch):  # noqa: F811
    module, config = configured(tmp_path / "out")
    module.work = lambda *command, **variables: pytest.fail("it worked before it looked")
    with pytest.raises(PublishingError, match="may not publish there"):
        module.main(configured(tmp_path / "out", repo_id="them/story")[1])
    monkeypatch.setattr(module.os, "replace", lambda *paths: (_ for _ in ()).throw(OSError(38, "not implemented")))
    with pytest.raises(InputError, match="stages cannot be written there: not implemented; mount another volume"):
        module.main(config)
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    with pytest.raises(PublishingError, match="may only read"):
        module.main(config)


@pytest.mark.parametrize(
    "options, told",
    [
        ({"recipe": "nothing"}, "choices: msmarco, nano, nfcorpus, scifact"),
        ({"revision": "a" * 40}, "revision is given without collection"),
        ({"model_revision": "a" * 40}, "model_revision is given without model"),
        ({"version": "one"}, "not of the form 1.2.3"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, told, tmp_path):
    with pytest.raises(InputError, match=told):
        configured(tmp_path, **options)


@pytest.mark.slow
@pytest.mark.hub
def test_a_job_that_ran_out_of_time_goes_on_and_publishes(tiny_model, tmp_path):
    """The script as a job runs it, at toy size, ended in the middle; the same command does the rest."""
    with Hub() as loopback:
        base = loopback.commit("them/tiny", tiny_model, kind="model")
        training = (
            "--max_steps 4 --per_device_train_batch_size 4 --num_negatives 3 --use_cpu true --mixed_precision no"
        )
        options = {"recipe": "nano", "output_dir": tmp_path / "volume" / "nano", **IDS, "model": "them/tiny"}
        options |= {"model_revision": base, "retriever": "them/tiny", "training": f"{training} --mixed_precision no"}
        options["common"] = "--collection_options passages=150 test=20 dev=15"
        command = [sys.executable, str(SCRIPT), *words(**options)]
        settings = loopback.environment(tmp_path / "home", "hf_write") | {"PYTHONPATH": str(REPOSITORY)}
        settings |= {"OMP_NUM_THREADS": "1", "RERANK": "fused"}
        log = tmp_path / "log"
        with open(log, "w") as file:
            job = subprocess.Popen(
                command, stdout=file, stderr=file, env=settings, cwd=tmp_path, start_new_session=True
            )
            while "== mine" not in log.read_text() and job.poll() is None:
                time.sleep(0.1)
            assert job.poll() is None, log.read_text()[-3000:]
            os.killpg(job.pid, 9)
            job.wait()
        done = subprocess.run(command, env=settings, cwd=tmp_path, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        assert {("dataset", "me/story-negatives"), ("model", "me/story-ranker")} <= set(loopback.repos)
        again = loopback.environment(tmp_path / "another", "hf_read") | {"PYTHONPATH": str(REPOSITORY)}
        verify = [sys.executable, "-m", "r2anker_hf", "verify", "me/story-ranker"]
        told = subprocess.run(verify, env=again, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert told.returncode == 0 and " 0 fail" in told.stdout, told.stdout + told.stderr[-2000:]
