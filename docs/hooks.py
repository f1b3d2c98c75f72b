"""Hooks of the site: pages from beside docs/, notebooks as pages, links that hold on the site and in the files.

Every link in these files is relative and leads to a file of the repository. On the site a file that is no page has no
address, so the link to it becomes its plain text.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
# Pages that lie elsewhere in the repository, and the pictures in them; on the site they keep their paths.
TAKEN = (
    *("CHANGELOG.md", "CONTRIBUTING.md", "recipes/README.md", "recipes/results/RESULTS.md", "recipes/results/LOG.md"),
    *("recipes/msmarco/README.md", "recipes/results/retrieval_costs.png", "recipes/results/curve_apidocs.png"),
)
LINK = re.compile(r"(?<!\!)\[([^\]\n]*(?:\n[^\]\n]+)?)\]\(([^)\s:#]+)(#[^)\s]*)?\)")
CODE = re.compile(r"^(```.*?^```|<pre.*?^</pre>)", re.DOTALL | re.MULTILINE)


def on_files(files: Any, config: Any) -> Any:
    """Add the files of `TAKEN`, and read notebooks as pages."""
    from mkdocs.structure.files import File

    for path in TAKEN:
        files.append(File.generated(config, path, abs_src_path=str(REPOSITORY / path)))
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(file)
        text = notebook_page(json.loads(Path(file.abs_src_path).read_text(encoding="utf-8")))
        files.append(File.generated(config, as_page(file.src_uri), content=text))
    return files


def on_config(config: Any) -> Any:
    """Notebooks stand in `nav` by their own names."""
    config.nav = json.loads(json.dumps(config.nav).replace(".ipynb", ".md"))
    return config


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put a page's links right."""
    return links_for_site(markdown, page.file.src_uri)


def as_page(path: str) -> str:
    """The name of a notebook's page; any other name as it is.

    >>> as_page("notebooks/first.ipynb"), as_page("index.md")
    ('notebooks/first.md', 'index.md')
    """
    return re.sub(r"\.ipynb$", ".md", path)


def links_for_site(markdown: str, page: str) -> str:
    """The text of a page with links as the site needs them; code stays as it is.

    Args:
        markdown: text with links between files of the repository.
        page: the page's path on the site: below docs/, or one of `TAKEN`.

    >>> links_for_site("[a](../../CHANGELOG.md#top), [b](../notebooks/c.ipynb), [d](../../setup.py)", "tasks/x.md")
    '[a](../CHANGELOG.md#top), [b](../notebooks/c.md), d'
    """
    source = page if page in TAKEN else f"docs/{page}"

    def replaced(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[2]))
        if target not in TAKEN and not target.startswith("docs/"):
            return link[1]
        place = as_page(target.removeprefix("docs/"))
        return f"[{link[1]}]({os.path.relpath(place, posixpath.dirname(page) or '.')}{link[3] or ''})"

    parts = CODE.split(markdown)
    return "".join(part if number % 2 else LINK.sub(replaced, part) for number, part in enumerate(parts))


def notebook_page(notebook: Mapping[str, Any]) -> str:
    """A notebook as Markdown: its texts, its code, and what its cells printed or showed."""
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        parts += [_output(output) for output in cell.get("outputs", ())]
    return "\n\n".join(parts) + "\n"


def _output(output: Mapping[str, Any]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        return f'<img alt="figure" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">'
    text = "".join(output["text"] if output["output_type"] == "stream" else data["text/plain"])
    return f"```text\n{text.rstrip()}\n```"
