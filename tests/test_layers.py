"""Protects the layers: what a module may import, and which heavy packages it must load without."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "r2anker_hf"

# The floors of the house, from the ground up: a module imports from lower floors and from its own room.
GROUND = (
    *("records", "draws", "endings", "fingerprints", "names", "processes", "ranges", "revisions", "shipped"),
    *("files", "templates", "config", "stage", "run", "cli", "__main__"),
)
ROOMS = ("collection", "models", "evaluation", "negatives", "retrievers", "rankers", "publishing")
FLOORS = ({*GROUND}, *({room} for room in ROOMS))

# Loaded in a fresh interpreter, one after the other, the modules must not have pulled these in.
LOADS_WITHOUT = [
    (["records", "run", "evaluation.measures", "evaluation.fusion"], {"torch"}),
    (
        ["rankers.listwise", "rankers.ranker", "rankers.foreign", "retrievers.pretraining"],
        {"faiss", "bm25s", "sentence_transformers"},
    ),
]
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


def room(module: str) -> str:
    """The room of a module: its folder, or itself on the ground floor."""
    return module.split(".")[0]


def floor(module: str) -> int:
    """Its number from the ground, 0; the package's face stands above all."""
    return next((number for number, rooms in enumerate(FLOORS) if room(module) in rooms), len(FLOORS))


def violations(module: str, path: Path) -> list[str]:
    package = ["r2anker_hf", *path.relative_to(PACKAGE).parts[:-1]]
    found = []
    for line, name in imports(path.read_text(encoding="utf-8"), package):
        target = own_module(name)
        if name.split(".")[0] == "recipes":
            found.append(f"{path.name}, line {line}: imports {name}, but nothing imports recipes")
        elif target is None or name == "r2anker_hf.__version__" or room(target) == room(module):
            continue
        elif floor(target) >= floor(module) > 0:
            found.append(f"{path.name}, line {line}: {module} imports {target}, which does not lie below it")
        elif floor(module) == 0 and floor(target) > 0:
            found.append(f"{path.name}, line {line}: {module} imports {target}, but stands on the ground")
    return found


def arrows() -> dict[str, set[str]]:
    """Module -> the modules of ours that it imports."""
    found = {}
    for module, path in MODULES.items():
        package = ["r2anker_hf", *path.relative_to(PACKAGE).parts[:-1]]
        targets = {own_module(name) for _, name in imports(path.read_text(encoding="utf-8"), package)}
        found[module] = {target for target in targets if target} - {module, "__init__"}
    return found


@pytest.mark.parametrize("module", MODULES)
def test_module_stands_on_a_floor(module):
    assert module == "__init__" or floor(module) < len(FLOORS), f"{MODULES[module]}: give {room(module)} a floor"


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_what_lies_below(module):
    assert violations(module, MODULES[module]) == []


def test_no_circle():
    """Within a room too: taking away what imports nothing that is left must take away all."""
    left = arrows()
    while free := [module for module, below in left.items() if not below & left.keys()]:
        left = {module: below for module, below in left.items() if module not in free}
    assert left == {}


def test_imports_are_seen_wherever_they_stand():
    source = """
import r2anker_hf.run
from r2anker_hf.evaluation import measures
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from ..collection.collection import Collection
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
    (tmp_path / "rankers").mkdir()
    path = tmp_path / "rankers" / "losses.py"
    path.write_text("from ..publishing.hub import publish\nfrom ..run import Run\nimport recipes.mine\n")
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    first, second = violations("rankers.losses", path)
    assert "line 1: rankers.losses imports publishing.hub" in first and "nothing imports recipes" in second


@pytest.mark.parametrize("modules, heavy", LOADS_WITHOUT)
def test_modules_load_without(modules, heavy):
    """The first module that loads a heavy package is the one that is named."""
    names = [f"r2anker_hf.{module}" for module in modules]
    program = f"""
import importlib, sys
for name in {names}:
    importlib.import_module(name)
    if found := {heavy} & set(sys.modules):
        sys.exit(f"importing {{name}} also loads {{found}}")
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_no_recipe_hides_a_package():
    assert [name for name in HIDING_NAMES if (REPOSITORY / "recipes" / name).exists()] == []
