"""Protects what `make types` checks: every module, wherever it moves, and by the strict rules those that had them."""

import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "r2anker_hf").rglob("*.py"))


def test_make_types_checks_the_package():
    assert (
        re.search(r"^TYPED := (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[1] == "r2anker_hf"
    )


@pytest.mark.parametrize("module", MODULES)
def test_a_commit_of_any_module_is_checked(module):
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (mypy,) = (hook for repo in config["repos"] for hook in repo["hooks"] if hook["id"] == "mypy")
    assert re.search(mypy["files"], module)


def test_the_modules_of_the_strict_rules_exist():
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    strict = [name for rules in tools["mypy"]["overrides"] for name in rules["module"]]
    assert strict and all(find_spec(name) for name in strict)
