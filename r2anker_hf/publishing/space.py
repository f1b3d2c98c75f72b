"""A static Space as a folder: pages of reports and studies, and one on which a visitor searches in the browser."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple

from .. import __version__
from ..collection.collection import Collection
from ..draws import generator
from ..evaluation.report import read_report
from ..negatives.candidates import public_name
from ..records import InputError
from ..templates import environment, template_folder
from .licences import carried
from .lint import findings, refuse, this_machine

INDEX = "index.html"
PASSAGES_FILE = "passages.json"
PAGES = ("report.html", "study.html")
"""Self-contained pages, as `score.py` and `study.py` write them."""
SCRIPTS = ("search.js", "bm25.js", "ranker.js")
SUFFIXES = (".html", ".js", ".json", ".md")
LIBRARY = "https://cdn.jsdelivr.net/npm/@huggingface/transformers@4.3.2"
"""transformers.js at a fixed version. It brings onnxruntime-web, fixed by it."""
WEIGHTS = "onnx/model_quantized.onnx"
"""What the search page loads of a ranker: transformers.js looks there for `dtype: "q8"`."""
SHOWN = 10  # passages of each list on the page
MADE_BY = "Made by `r2anker space`"
"""In the README of every Space that was written here: such a folder may be written anew."""


class Example(NamedTuple):
    """A judged query to try: its text, and the ids of its relevant passages."""

    text: str
    relevant: list[str]


@dataclass(frozen=True)
class Search:
    """What the search page holds.

    Attributes:
        ranker: owner/name on the Hub.
        revision: its commit.
        hub: address of the Hub that has it.
        collection: what the passages are of.
        licence: that of the passages.
        documents: passages of the whole collection.
        passages: (id, text) of those that the page searches.
        examples: queries to try.
        depth: passages that BM25 hands to the ranker.
    """

    ranker: str
    revision: str
    hub: str
    collection: str
    licence: str
    documents: int
    passages: Sequence[tuple[str, str]]
    examples: Sequence[Example]
    depth: int

    def settings(self) -> dict[str, Any]:
        """What page and script read; the passages lie in a file of their own."""
        examples = [example._asdict() for example in self.examples]
        return {
            **{name: value for name, value in asdict(self).items() if name not in ("passages", "examples")},
            **{"library": LIBRARY, "shown": SHOWN, "passages": len(self.passages), "examples": examples},
        }


def searched(
    collection: Collection,
    *,
    ranker: str,
    revision: str,
    hub: str,
    licence: str | None,
    passages: int = 3000,
    examples: int = 6,
    depth: int = 20,
    seed: int = 42,
) -> Search:
    """Choose the passages and queries of a search page.

    The relevant passages of the chosen queries are always among the passages; all others are drawn.

    Args:
        collection: where passages and queries come from.
        ranker: owner/name on the Hub.
        revision: its commit.
        hub: address of the Hub.
        licence: of the passages, as the Hub names it; the page passes them on.
        passages: how many the page holds at most, as long as the examples' relevant ones fit.
        examples: judged queries that the page offers.
        depth: passages that BM25 hands to the ranker.
        seed: of the draws.

    Raises:
        InputError: no licence, or one that forbids to pass passages on in part.
    """
    licence = carried(licence, {"the passages": licence}, derived=True)
    if licence is None:
        raise InputError(f"{collection.name}: the page passes its passages on; state their licence with --licence")
    queries = [query_id for query_id in collection.queries if collection.positives(query_id)]
    chosen = [queries[place] for place in generator(seed, 0, "examples").permutation(len(queries))[:examples]]
    relevant = {doc_id for query_id in chosen for doc_id in collection.positives(query_id)}
    ids = collection.corpus.ids
    drawn = (ids[place] for place in generator(seed, 0, "passages").permutation(len(ids)).tolist())
    others = [doc_id for doc_id in drawn if doc_id not in relevant]
    kept = relevant.union(others[: max(0, passages - len(relevant))])
    texts = [(doc_id, collection.corpus.text(doc_id)) for doc_id in ids if doc_id in kept]
    return Search(
        ranker=ranker,
        revision=revision,
        hub=hub,
        collection=public_name(collection.name),
        licence=licence,
        documents=len(ids),
        passages=texts,
        examples=[Example(collection.queries[query_id], collection.positives(query_id)) for query_id in chosen],
        depth=depth,
    )


def write_space(
    folder: str | os.PathLike,
    title: str,
    pages: Sequence[str | os.PathLike] = (),
    search: Search | None = None,
    licence: str | None = None,
) -> None:
    """Write a Space: README.md, index.html, and what the latter links to.

    `hf upload owner/name FOLDER --repo-type space` makes it public as it lies. A single page and no search is the
    index itself.

    Args:
        folder: made anew; a Space that was written there before is replaced, other files never.
        title: of the Space.
        pages: folders with a page, as `score.py` and `study.py` write them, or the pages themselves.
        search: what the search page holds; None for none.
        licence: of the Space, where there is no search.

    Raises:
        InputError: nothing to show, no page there, other files in the folder, or a token, local path or this machine's
            name in what was written. The folder is left as it was then.
    """
    if not (pages or search):
        raise InputError("a Space needs a page or a ranker: give --pages, --ranker, or both")
    folder = Path(folder)
    if not _may_be_replaced(folder):
        raise InputError(f"{folder}: holds other files; move them away, or give a new folder")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write(partial, title, pages, search, licence)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _may_be_replaced(folder: Path) -> bool:
    """Whether nothing stands there, or a Space that was written here, with nothing beside it."""
    files = list(folder.iterdir()) if folder.is_dir() else []
    ours = all(path.is_file() and path.suffix in SUFFIXES for path in files)
    return not files or ours and MADE_BY in _text_of(folder / "README.md")


def _text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _write(
    folder: Path,
    title: str,
    pages: Sequence[str | os.PathLike],
    search: Search | None,
    licence: str | None,
) -> None:
    """Write all files of a Space into an empty folder, and look for what must not go out."""
    shown = [_page(folder, Path(page), number) for number, page in enumerate(pages)]
    if search is None and len(shown) == 1:
        os.replace(folder / shown[0]["file"], folder / INDEX)
        shown[0]["file"] = INDEX
    else:
        _link_back(folder, shown, title)
        _render(folder, INDEX, "space.html.jinja", title=title, pages=shown, search=search and search.settings())
    if search is not None:
        _write_search(folder, search)
    view = {"title": title, "pages": shown, "search": search and search.settings(), "version": __version__}
    _render(folder, "README.md", "space.md.jinja", metadata=_metadata(title, search, licence), **view)
    quoting = [path.name for path in folder.iterdir() if path.suffix == ".html" or path.name == PASSAGES_FILE]
    refuse(findings(folder, this_machine(*pages), quoting=quoting, suffixes=SUFFIXES))


def _page(folder: Path, source: Path, number: int) -> dict[str, str]:
    """Copy a page; returns its file and title."""
    if source.is_dir():
        found = [source / name for name in PAGES if (source / name).is_file()]
        if not found:
            raise InputError(f"{source}: holds no page; choices: {', '.join(PAGES)}")
        source = found[0]
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: cannot be read ({error})") from None
    if source.name == PAGES[0]:
        text = _without_path(text, source.parent)
    heading = re.search(r"<h1>(.*?)</h1>", text, re.DOTALL)
    if heading is None:
        raise InputError(f"{source}: is no page of score.py or study.py")
    name = f"{source.stem}{f'-{number + 1}' if number else ''}.html"
    (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return {"file": name, "title": unescape(re.sub(r"<[^>]+>", "", heading[1])).strip()}


def _without_path(text: str, folder: Path) -> str:
    """A report's page; of a collection that is a local folder, it names the last part."""
    from markupsafe import escape

    name = read_report(folder).collection.name
    return text.replace(str(escape(name)), str(escape(public_name(name))))


def _link_back(folder: Path, pages: Sequence[dict[str, str]], title: str) -> None:
    from markupsafe import escape

    for page in pages:
        path = folder / page["file"]
        back = f'<main>\n<p class="note"><a href="{INDEX}">← {escape(title)}</a></p>'
        path.write_text(path.read_text(encoding="utf-8").replace("<main>", back, 1), encoding="utf-8", newline="\n")


def _write_search(folder: Path, search: Search) -> None:
    rows = [{"id": doc_id, "text": text} for doc_id, text in search.passages]
    (folder / PASSAGES_FILE).write_text(json.dumps(rows, ensure_ascii=False) + "\n", encoding="utf-8")
    for name in SCRIPTS:
        shutil.copyfile(template_folder() / name, folder / name)


def _render(folder: Path, name: str, template: str, **view: Any) -> None:
    text = environment().get_template(template).render(view)
    (folder / name).write_text(text, encoding="utf-8", newline="\n")


def _metadata(title: str, search: Search | None, licence: str | None) -> str:
    """The Space's settings, as the head of its README."""
    import yaml

    what = "BM25 and a ranker side by side in your browser" if search else "Rankers for text retrieval, measured"
    facts: dict[str, Any] = {"title": title, "emoji": "🔎", "colorFrom": "blue", "colorTo": "green", "sdk": "static"}
    facts |= {"app_file": INDEX, "pinned": False, "short_description": what}
    facts |= {"tags": ["text-ranking", "r2anker_hf"]}
    if licence := search.licence if search else licence:
        facts["license"] = licence
    if search:
        facts["models"] = [search.ranker]
        if re.fullmatch(r"[\w.-]+/[\w.-]+", search.collection):
            facts["datasets"] = [search.collection]
    return yaml.safe_dump(facts, sort_keys=False, allow_unicode=True).rstrip("\n")
