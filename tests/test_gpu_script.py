"""The script for a GPU gives benchmarks options that they take, goes on after a failure, and its rows are right."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from published_toy import recipe
from scripts import script

REPOSITORY = Path(__file__).resolve().parents[1]
ENDED = "exit code {}, 83 of at most 480 seconds, NVIDIA H200, commit 1234567\n"
SUITE = '<testsuites><testsuite errors="{}" failures="{}" skipped="{}" tests="10"/></testsuites>'


def gpu_script(out, **environment):
    environment = {**os.environ, "DEVICE": "cpu", "SIZE": "toy", "OUT": str(out), **environment}
    command = ["bash", "recipes/benchmarks/gpu.sh"]
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=900)


def rows(out):
    """For each bar the cells behind its name, from the file that bars.py writes."""
    bars = recipe("benchmarks/bars")
    bars.main(bars.BarsConfig(str(out)))
    lines = [line for line in (out / "rows.md").read_text().splitlines() if line.startswith("| ")]
    return [line.split(" | ")[1:] for line in lines[1:]]


def test_each_bar_is_met_or_missed(tmp_path):
    training = {"bf16": {"ours": 4000.0, "theirs": 2000.0, "their_batch": 4, "ratio": 2.0, "utilisation": 0.4496}}
    reranking = {"bfloat16": {"ours": 30_000.0, "theirs": 15_100.0, "ratio": 30 / 15.1, "difference": 1e-3}}
    memory = {"peak_memory_gib": {"41": 8.0, "401": 8.8}, "ratio": 1.1}
    for part, figures in {"training": training, "reranking": reranking, "memory": memory}.items():
        (tmp_path / f"{part}.json").write_text(json.dumps(figures))
        (tmp_path / f"{part}.log").write_text(f"$ python3 {part}.py --steps 2\nnoise\n{ENDED.format(0)}")
    (tmp_path / "kernels.xml").write_text(SUITE.format(1, 2, 3))
    assert rows(tmp_path) == [
        ["4 passed, 3 failed, 3 skipped", "**missed** |"],
        ["2.00 (4,000 and 2,000 pairs per second)", "met |"],
        ["45.0 %", "**missed** |"],
        ["1.99 (30,000 and 15,100 pairs per second)", "**missed** |"],
        ["1.10 (8.00 and 8.80 GiB)", "met |"],
    ]
    command = "* `python3 training.py --steps 2`: exit code 0, 83 of at most 480 seconds, NVIDIA H200, commit 1234567"
    assert command in (tmp_path / "rows.md").read_text().splitlines()


def test_a_row_without_a_figure_says_why(tmp_path):
    (tmp_path / "kernels.xml").write_text(SUITE.format(0, 0, 10))
    (tmp_path / "kernels.log").write_text(f"$ python3 -m pytest\n{ENDED.format(0)}")
    (tmp_path / "training.json").write_text(json.dumps({"bf16": {"ours": 3.0, "theirs": 1.0, "ratio": 3.0}}))
    (tmp_path / "reranking.log").write_text(f"$ python3 reranking.py\n{ENDED.format(124)}")
    kernels, training, utilisation, reranking, memory = ("|".join(cells) for cells in rows(tmp_path))
    assert kernels.startswith("not measured: all tests were skipped, exit code 0")
    assert training.endswith("met |") and utilisation.startswith("not measured: no utilisation")
    assert reranking.startswith("not measured: no reranking.json, exit code 124, 83 of at most 480 seconds")
    assert memory.startswith("not measured: no memory.json")


def test_every_command_of_the_script_runs_at_toy_size(tmp_path):
    """`echo` stands for python in the script; its commands then run in this process."""
    told = gpu_script(tmp_path, PYTHON="echo").stdout.splitlines()
    commands = [line.split()[2:] for line in told if line.startswith("$ echo ")]
    assert [words[0].rpartition("/")[2] for words in commands] == [
        *("-m", "fresh_model.py", "training.py", "reranking.py", "memory.py")
    ]
    for words in commands[1:]:
        done = script(*words)
        assert done.returncode == 0, done.stderr[-3000:]
    kernels, *measured = rows(tmp_path)
    assert kernels[0].startswith("not measured")
    assert [cells[1] in ("met |", "**missed** |") for cells in measured] == [True] * 4


@pytest.mark.slow
def test_the_script_goes_on_after_a_failure(tmp_path):
    done = gpu_script(tmp_path, MODEL=str(tmp_path / "nowhere"), PARTS="kernels training memory")
    assert done.returncode == 1 and "skipped" in (tmp_path / "kernels.log").read_text()
    for part in ("training", "memory"):
        log = (tmp_path / f"{part}.log").read_text()
        assert "nowhere" in log and log.splitlines()[-1].startswith("exit code 2, ")
    assert done.stdout.count("not measured") == 5 and not (tmp_path / "reranking.log").exists()


@pytest.mark.slow
def test_the_whole_script_runs_on_a_cpu(tmp_path):
    done = gpu_script(tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("met |") + done.stdout.count("**missed** |") == 4
    assert done.stdout.endswith((tmp_path / "rows.md").read_text())
