"""Every snippet of the README, and the story of the first page, run as they stand there."""

import os
import re
import shlex
import subprocess
import sys

from pages import REPOSITORY, snippets
from scripts import script
from test_recipes import configs

from r2anker_hf.cli import _named
from r2anker_hf.collection.collection import load_collection
from r2anker_hf.config import parse_config
from r2anker_hf.rankers.ranker import CrossEncoderRanker

README = REPOSITORY / "README.md"
START = REPOSITORY / "docs/index.md"
PUBLISHING = REPOSITORY / "docs/tasks/publish.md"


def test_python(tiny_model, tmp_path, monkeypatch, capsys):
    CrossEncoderRanker.from_pretrained(tiny_model).save_pretrained(tmp_path / "out/nano/ranker")
    monkeypatch.chdir(tmp_path)
    (snippet,) = snippets(README, "python")
    assert len([line for line in snippet.splitlines() if line.strip() and "import" not in line]) == 6
    exec(compile(snippet, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "bm25+ranker against bm25, MRR@10" in printed
    # what the README says it prints, but for the figures of another ranker
    (shown,) = (block for block in snippets(README, "text") if "bm25+ranker" in block)
    assert [line.split()[:1] for line in shown.splitlines()] == [line.split()[:1] for line in printed.splitlines()]
    (bm25,) = (line for line in shown.splitlines() if line.startswith("bm25 "))
    (measured,) = (line for line in printed.splitlines() if line.startswith("bm25 "))
    assert len(bm25.split()) == len(measured.split())


def test_commands(tiny_model, tmp_path, monkeypatch):
    for split in ("train", "test"):
        load_collection("apidocs", split, passages=80, test=12, dev=4).write_beir(tmp_path / "mydata")
    (tmp_path / "recipes").symlink_to(REPOSITORY / "recipes")
    (snippet,) = (block for block in snippets(START, "bash") if "recipes/score.py" in block)
    monkeypatch.setenv("PATH", f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}")
    monkeypatch.setenv("MODEL", str(tiny_model))
    monkeypatch.setenv("RETRIEVER", str(tiny_model))
    echo = 'python() { echo "$@"; }; accelerate() { echo accelerate "$@"; }\n'  # what they are given, line by line
    told = subprocess.run(["bash", "-euo", "pipefail", "-c", echo + snippet], capture_output=True, text=True)
    launched = []
    for line in told.stdout.splitlines():
        words = line.removeprefix("accelerate launch ").split()
        if words[0] == "recipes/rerank.py":  # the only one by accelerate, which finds no configuration of ours
            launched = line.split()
            done = subprocess.run(launched, cwd=tmp_path, capture_output=True, text=True)
        else:
            done = script(*words, folder=tmp_path)
        assert done.returncode == 0, done.stderr[-4000:]
    assert launched[:2] == ["accelerate", "launch"]
    assert "ranker against bm25, MRR@10:" in done.stdout
    assert (tmp_path / "out/report/report.html").exists()


def test_commands_of_the_hub_are_ones_that_the_recipes_take():
    """They run in test_hub_story.py."""
    (snippet,) = (block for block in snippets(PUBLISHING, "bash") if "--kind retriever" in block)
    lines = [line for line in snippet.replace("\\\n", " ").splitlines() if not line.startswith("#")]
    assert "\nhub:" in (REPOSITORY / "Makefile").read_text(encoding="utf-8") and len(lines) == 5
    for line in lines:
        command = re.search(r"recipes/(\w+)\.py|r2anker (\S+)", line)
        stage, args = (command[1] or command[2]).replace("-", "_"), shlex.split(line[command.end() :])
        parse_config(*configs(stage), args=_named(stage, args))


def test_the_two_commands_are_targets():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    (snippet,) = (block for block in snippets(README, "bash") if "make " in block)
    targets = re.findall(r"^make (\w+)", snippet, re.MULTILINE)
    assert targets == ["demo", "test"] and all(f"\n{target}:" in makefile for target in targets)
