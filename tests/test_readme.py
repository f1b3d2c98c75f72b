"""Every snippet of the README runs as it stands there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from test_recipes import configs

from r2anker_hf.collection import load_collection
from r2anker_hf.config import parse_config
from r2anker_hf.rankers import CrossEncoderRanker

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def snippets(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_python(tiny_model, tmp_path, monkeypatch, capsys):
    CrossEncoderRanker.from_pretrained(tiny_model).save_pretrained(tmp_path / "out/nano/ranker")
    monkeypatch.chdir(tmp_path)
    (snippet,) = snippets("python")
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 12
    exec(compile(snippet, "README.md", "exec"), {})
    assert "bm25+ranker against bm25, MRR@10" in capsys.readouterr().out


def test_commands(tiny_model, tmp_path):
    for split in ("train", "test"):
        load_collection("apidocs", split, passages=80, test=12, dev=4).write_beir(tmp_path / "mydata")
    (tmp_path / "recipes").symlink_to(REPOSITORY / "recipes")
    (snippet,) = (block for block in snippets("bash") if "recipes/score.py" in block)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    # accelerate finds no configuration of ours and starts one process on whatever there is
    environment = {**os.environ, "PATH": path, "MODEL": str(tiny_model), "RETRIEVER": str(tiny_model)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", snippet], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "ranker against bm25, MRR@10:" in done.stdout
    assert (tmp_path / "out/report/report.html").exists()


def test_commands_of_the_hub_are_ones_that_the_recipes_take():
    """They run in test_hub_story.py."""
    (snippet,) = (block for block in snippets("bash") if "recipes/publish.py" in block)
    lines = re.sub(r"#.*", "", snippet).replace("\\\n", " ").splitlines()
    assert "\nhub:" in (REPOSITORY / "Makefile").read_text(encoding="utf-8") and len(lines) == 4
    for line in lines:
        stage, *args = shlex.split(line[line.index("recipes/") + len("recipes/") :])
        parse_config(*configs(stage.removesuffix(".py")), args=args)


def test_the_two_commands_are_targets():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    (snippet,) = (block for block in snippets("bash") if "make " in block)
    targets = re.findall(r"^make (\w+)", snippet, re.MULTILINE)
    assert targets == ["demo", "test"] and all(f"\n{target}:" in makefile for target in targets)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_links_lead_somewhere(link):
    assert (REPOSITORY / link).exists()
