"""Protects the version ranges: they hold what was tried, say where they begin, and agree on the oldest Python."""

import inspect
import re
import tomllib

import pytest
from lowest import ROOT, lowest, metadata, normalised, requirements, tried

REQUIREMENTS = requirements("cpu", "demo", "test", "docs")


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_the_range_of_each_requirement_holds_the_version_tried(requirement):
    version = tried()[normalised(requirement.name)]
    assert version in requirement.specifier
    assert lowest(requirement) in requirement.specifier


def test_all_parts_name_the_same_oldest_python():
    oldest = metadata()["python_requires"].removeprefix(">=")
    tools = tomllib.loads(text("pyproject.toml"))["tool"]
    assert tools["ruff"]["target-version"] == "py" + oldest.replace(".", "")
    assert tools["mypy"]["python_version"] == oldest
    assert f"version_info < ({oldest.replace('.', ', ')})" in text("Makefile")
    assert re.search(r"Python (\S+) on Linux", text("constraints.txt"))[1] == oldest
    assert f"python:{oldest}-slim" in text("Dockerfile")


def test_torch_takes_what_packed_attention_gives_on_a_gpu():
    from torch.nn.attention.varlen import varlen_attn

    inspect.signature(varlen_attn).bind(*"qkv", "starts", "starts", 9, 9, scale=0.1, window_size=(3, 3))
