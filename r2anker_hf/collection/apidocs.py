"""apidocs: a retrieval collection of real text that every Python machine already has.

The text is the docstrings of the standard library and of this package's dependencies, read as source with `ast`;
nothing is imported or downloaded. A query is the summary sentence of a docstring, and its one relevant passage is the
rest of that docstring. The labels are partial by nature: other functions often answer a summary as well, and nobody
judged them. That is the situation of MS MARCO, and the one that training on several retrievers' negatives addresses.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ..records import Document, InputError, Qrel, Query

PACKAGES = (
    "accelerate",
    "datasets",
    "fsspec",
    "huggingface_hub",
    "jinja2",
    "matplotlib",
    "networkx",
    "numpy",
    "pandas",
    "peft",
    "pyarrow",
    "scipy",
    "sentence_transformers",
    "sklearn",
    "sympy",
    "torch",
    "transformers",
)
"""Packages read besides the standard library, where installed; all come with this package's own requirements."""

SKIPPED_FOLDERS = {"site-packages", "test", "tests", "testing", "_vendor", "idlelib", "lib2to3", "__pycache__"}
MIN_QUERY_WORDS, MAX_QUERY_WORDS = 4, 30
MIN_PASSAGE_WORDS, MAX_PASSAGE_WORDS = 15, 80
REPEATED = 0.8  # share of three-word shingles in common from which a text merely repeats another


class ApiDoc(NamedTuple):
    """One documented object: its dotted name, the summary sentence, and the rest of its docstring."""

    name: str
    summary: str
    rest: str


def apidocs(
    passages: int = 3000, test: int = 150, dev: int = 100, packages: Iterable[str] = PACKAGES, seed: int = 0
) -> tuple[list[Document], dict[str, list[Query]], dict[str, list[Qrel]]]:
    """Build the collection. Equal arguments and equal installed packages give equal collections.

    Args:
        passages: number of documents; each is the positive of exactly one query.
        test: number of test queries.
        dev: number of dev queries; the remaining ones are for training.
        packages: top-level packages to read besides the standard library; those not installed are passed over.
        seed: another seed reads other files and splits otherwise.

    Returns:
        The corpus, and queries and qrels by split ("train", "dev", "test").

    Raises:
        InputError: fewer documented objects are installed than asked for, or nothing would be left for training.
    """
    if passages <= test + dev:
        raise InputError(f"apidocs: {passages} passages leave no training queries beside {test} test and {dev} dev")
    docs = _distinct(_api_docs(_source_files(packages, seed)), passages)
    if len(docs) < passages:
        raise InputError(f"apidocs: {passages} passages asked for, but only {len(docs)} documented objects were found")
    docs.sort(key=lambda doc: _hashed(f"{seed}/{doc.name}"))
    bounds = {"test": docs[:test], "dev": docs[test : test + dev], "train": docs[test + dev :]}
    queries = {split: [Query(f"q:{doc.name}", doc.summary) for doc in docs] for split, docs in bounds.items()}
    qrels = {split: [Qrel(f"q:{doc.name}", doc.name, 1) for doc in docs] for split, docs in bounds.items()}
    return sorted(Document(doc.name, "", doc.rest) for doc in docs), queries, qrels


def _source_files(packages: Iterable[str], seed: int) -> list[tuple[str, Path]]:
    """(module name, file) of every source file, in an order that mixes the packages but depends on names alone."""
    roots = [("", Path(sysconfig.get_path("stdlib")))]
    for package in packages:
        spec = importlib.util.find_spec(package)
        roots += [(package, Path(folder)) for folder in (spec and spec.submodule_search_locations) or []]
    files = {}
    for package, root in roots:
        for path in root.rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            if not SKIPPED_FOLDERS.intersection(parts):
                files[".".join([p for p in (package, *parts) if p and p != "__init__"])] = path
    return sorted(files.items(), key=lambda item: _hashed(f"{seed}/{item[0]}"))


def _api_docs(files: Iterable[tuple[str, Path]]) -> Iterator[ApiDoc]:
    for module, path in files:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # other people's invalid escapes
                tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError, OSError):  # templates, other encodings
            continue
        yield from _documented(tree, module)


def _documented(node: ast.AST, name: str) -> Iterator[ApiDoc]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            dotted = f"{name}.{child.name}".lstrip(".")
            parts = split_docstring(ast.get_docstring(child) or "")
            if parts:
                yield ApiDoc(dotted, *parts)
            yield from _documented(child, dotted)


def split_docstring(docstring: str) -> tuple[str, str] | None:
    """(summary sentence, rest) in plain words, or None where either is too short or too long to be one.

    >>> split_docstring("Join path components. Too short a rest.") is None
    True
    """
    first, _, after = docstring.strip().partition("\n\n")
    sentence, _, remainder = re.sub(r"\s+", " ", first).partition(". ")
    summary = sentence.rstrip(".").split()
    rest = f"{remainder} {after}".split()
    if not MIN_QUERY_WORDS <= len(summary) <= MAX_QUERY_WORDS or len(rest) < MIN_PASSAGE_WORDS:
        return None
    if re.match(r"\w+ \(`", sentence):  # a docstring that starts with its parameter list has no summary
        return None
    return " ".join(summary), " ".join(rest[:MAX_PASSAGE_WORDS])


def _distinct(docs: Iterable[ApiDoc], count: int) -> list[ApiDoc]:
    """The first `count` objects whose summary is new and whose text does not merely repeat an earlier one's.

    A name met again, as of a property's getter and setter, is the same object.
    """
    kept: list[ApiDoc] = []
    seen: set[str | tuple[str, ...]] = set()
    holders: dict[int, list[int]] = {}  # shingle -> the kept documents that contain it
    for doc in docs:
        summary, shingles = tuple(_words(doc.summary)), _shingles(doc.rest)
        if doc.name in seen or summary in seen or _repeats(shingles, holders):
            continue
        for shingle in shingles:
            holders.setdefault(shingle, []).append(len(kept))
        seen |= {doc.name, summary}
        kept.append(doc)
        if len(kept) == count:
            break
    return kept


def _repeats(shingles: set[int], holders: dict[int, list[int]]) -> bool:
    shared: dict[int, int] = {}
    for shingle in shingles:
        for index in holders.get(shingle, ()):
            shared[index] = shared.get(index, 0) + 1
    return max(shared.values(), default=0) >= REPEATED * max(1, len(shingles))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _shingles(text: str) -> set[int]:
    words = _words(text)
    return {hash(tuple(words[i : i + 3])) for i in range(max(1, len(words) - 2))}


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
