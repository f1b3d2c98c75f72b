"""Protects the layers: what a module may import, and which heavy packages it must load without."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "r2anker_hf"
ANYTHING = {"*"}

# Module -> the modules that it may import, besides `records` and what those may import themselves. A name without a
# dot also stands for the modules of the folder of that name, and these may import each other.
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": ANYTHING,
    "records": set(),
    "files": {"records"},
    "run": {"records", "files"},
    "apidocs": {"records", "files"},
    "pseudo_queries": {"records"},
    "collection": {"records", "files", "names", "apidocs", "pseudo_queries", "revisions"},
    "measures": {"run"},
    "evaluation": {"run", "measures"},
    "report": {"evaluation", "shipped"},
    "fusion": {"run", "measures"},
    "retrievers": {"run", "collection", "processes", "fingerprints", "retrievers.encoders"},
    "retrievers.encoders": {"models", "retrievers.encoding"},
    "retrievers.training": {
        *{"attention", "trainers", "negatives.sampling", "processes", "retrievers.base", "retrievers.encoders"},
        *{"checkpoints", "negatives.suspects", "ranges"},
    },
    "retrievers.distillation": {"retrievers.training"},
    "rankers": {
        *{"run", "collection", "padding_free", "collator", "tokens", "processes", "revisions", "saving"},
        "fingerprints",
    },
    "foreign": {"rankers", "retrievers.encoders"},
    "negatives": {"run", "collection", "processes", "ranges", "revisions", "fingerprints", "negatives.card"}
    | {"negatives.suspects"},
    "negatives.card": {"report"},
    "negatives.suspects": {"files", "negatives.sampling", "processes"},
    "processes": set(),
    "checkpoints": {"files", "processes"},
    "milestones": {"files", "processes"},
    "agreement": {"losses", "run"},
    "revisions": set(),
    "models": {"revisions"},
    "saving": {"models", "collator"},
    "losses": set(),
    "fingerprints": set(),
    "names": set(),
    "tokens": {"fingerprints", "processes"},
    "collator": {"tokens", "ranges"},
    "ranges": set(),
    "endings": set(),
    "shipped": {"records"},
    "cli": {"endings", "shipped"},
    "__main__": {"cli"},
    "config": {"endings", "files", "ranges", "shipped"},
    "attention": set(),
    "precision": set(),
    "trainers": {"precision"},
    "padding_free": {"attention"},
    "gradient_cache": set(),
    "health": set(),
    "lora": set(),
    "listwise": {
        *{"losses", "padding_free", "gradient_cache", "health", "lora", "negatives.sampling", "saving", "trainers"},
        *{"ranges", "groups", "rankers", "measures", "negatives.candidates"},
    },
    "groups": {"negatives.sampling"},
    "mixture": {"listwise", "negatives.sampling"},
    "whole_words": set(),
    "pretraining": {"listwise", "padding_free", "ranges", "tokens", "whole_words"},
    "publishing": {"evaluation", "report", "stage", "rankers", "negatives", "retrievers", "config", "mixture"},
    "stage": {"config", "files", "processes", "revisions"},
}

# Loaded in a fresh interpreter, the module must not have pulled these in.
LOADS_WITHOUT = {
    "records": ["torch"],
    "run": ["torch"],
    "measures": ["torch"],
    "fusion": ["torch"],
    "listwise": ["faiss", "bm25s", "sentence_transformers"],
    "rankers": ["faiss", "bm25s", "sentence_transformers"],
    "foreign": ["faiss", "bm25s", "sentence_transformers"],
    "pretraining": ["faiss", "bm25s", "sentence_transformers"],
}
# `accelerate launch recipes/x.py` puts recipes/ first on the import path, where these would hide packages.
HIDING_NAMES = ["evaluate.py", "datasets.py"]


def module_name(path: Path) -> str:
    """`negatives/mine.py` -> `negatives.mine`, `negatives/__init__.py` -> `negatives`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(source: str, package: list[str]) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything imported, wherever the statement stands.

    `from a import b` gives `a.b`, since b may be a module. `package` is the package of the importing file.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            for alias in node.names:
                yield node.lineno, ".".join([*base, *([node.module] if node.module else []), alias.name])


def own_module(name: str) -> str | None:
    """The module of ours that an imported name means; None for what is not ours, `__init__` for the package."""
    first, _, rest = name.partition(".")
    if first != "r2anker_hf":
        return None
    while rest and rest not in MODULES:
        rest = rest.rpartition(".")[0]
    return rest or "__init__"


def row(module: str) -> str:
    """The row of the table for a module: its own, or that of its folder."""
    return module if module in MAY_IMPORT else module.split(".")[0]


def allowed(module: str) -> set[str]:
    """Rows and modules that a module may import, directly or through what it may import."""
    reached, waiting = {row(module), "records"}, list(MAY_IMPORT[row(module)])
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting.extend(MAY_IMPORT.get(name, set()))
    return reached


def violations(module: str, path: Path) -> list[str]:
    package = ["r2anker_hf", *path.relative_to(PACKAGE).parts[:-1]]
    may, found = allowed(module), []
    for line, name in imports(path.read_text(encoding="utf-8"), package):
        target = own_module(name)
        if name.split(".")[0] == "recipes":
            found.append(f"{path.name}, line {line}: imports {name}, but nothing imports recipes")
        elif target is None or name == "r2anker_hf.__version__" or "*" in may or {target, row(target)} & may:
            continue
        else:
            found.append(f"{path.name}, line {line}: {module} imports {target}, may import {', '.join(sorted(may))}")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_module_stands_in_the_table(module):
    assert row(module) in MAY_IMPORT, f"{MODULES[module]}: give {module} a row in MAY_IMPORT and in design.md"


@pytest.mark.parametrize("module", [module for module in MODULES if row(module) in MAY_IMPORT])
def test_module_imports_only_what_lies_below(module):
    assert violations(module, MODULES[module]) == []


def test_the_table_has_no_cycle():
    for module, direct in MAY_IMPORT.items():
        for below in direct & MAY_IMPORT.keys():
            assert module not in allowed(below), f"{module} and {below} may import each other"


def test_imports_are_seen_wherever_they_stand():
    source = """
import r2anker_hf.run
from r2anker_hf import measures
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from ..collection import Collection
def late():
    from . import sampling
    from .candidates import mine
"""
    names = [name for _, name in imports(source, ["r2anker_hf", "negatives"])]
    assert names == [
        "r2anker_hf.run",
        "r2anker_hf.evaluation.measures",
        "typing.TYPE_CHECKING",
        "r2anker_hf.collection.collection.Collection",
        "r2anker_hf.negatives.sampling",
        "r2anker_hf.negatives.candidates.mine",
    ]


def test_a_violation_is_found(tmp_path, monkeypatch):
    (tmp_path / "losses.py").write_text("def f():\n    from .run import Run\n    import recipes.mine\n")
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    first, second = violations("losses", tmp_path / "losses.py")
    assert first.startswith("losses.py, line 2: losses imports run") and "nothing imports recipes" in second


@pytest.mark.parametrize("module", LOADS_WITHOUT)
def test_module_loads_without(module):
    if module not in MODULES:
        pytest.skip(f"r2anker_hf/{module}.py is not written yet")
    program = f"import sys, r2anker_hf.{module}; print(*set({LOADS_WITHOUT[module]}) & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "", f"importing r2anker_hf.{module} also loads {run.stdout.strip()}"


def test_no_recipe_hides_a_package():
    assert [name for name in HIDING_NAMES if (REPOSITORY / "recipes" / name).exists()] == []
