"""The written pages, as the tests read them: their code, links, headings and prose."""

import json
import re
import shlex
from pathlib import Path

from r2anker_hf.cli import DEMO, _named

REPOSITORY = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((REPOSITORY / "docs" / "notebooks").glob("*.ipynb"))
PAGES = [REPOSITORY / "README.md", REPOSITORY / "recipes/README.md", *sorted(REPOSITORY.glob("docs/**/*.md"))]
LINK = re.compile(r"\]\(([^)\s:#]*)(?:#([^)\s]+))?\)")


def name(path):
    """A page's path in the repository."""
    return path.relative_to(REPOSITORY).as_posix()


def text(path):
    """A page's Markdown; of a notebook, that of its cells."""
    content = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return content
    return "\n\n".join("".join(c["source"]) for c in json.loads(content)["cells"] if c["cell_type"] == "markdown")


def snippets(path, language):
    """The blocks of that language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", text(path), re.DOTALL | re.MULTILINE)


def without_code(markdown):
    """Markdown without its blocks of code."""
    return re.sub(r"^```.*?^```", "", markdown, flags=re.DOTALL | re.MULTILINE)


def commands(path):
    """(stage, arguments) of every recipe that a page starts in one line of a shell."""
    lines = "\n".join(snippets(path, "bash")).replace("\\\n", " ").splitlines()
    for line in lines:
        found = re.match(r"\s*(?:(?:python|accelerate launch) recipes/(\w+)\.py|r2anker ([a-z-]+))(.*)", line)
        if found and found[2] != DEMO:
            args = shlex.split(found[3], comments=True)
            yield (found[1], args) if found[1] else (found[2].replace("-", "_"), list(_named(found[2], args)))


def anchors(path):
    """What the headings of a page are linked by."""
    headings = re.findall(r"^#+ (.*)$", without_code(text(path)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def sentences(markdown):
    """The sentences outside code, tables and headings; a piece of code in one counts as a word.

    >>> sentences("# A\\n* One `a b`. Two\\n  [words](c.md).\\n\\n| no | table |")
    ['One CODE.', 'Two words.']
    """
    plain = re.sub(r"<[^>]+>|^#.*$|^\|.*$", "", without_code(markdown), flags=re.MULTILINE)
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"`[^`]+`", "CODE", plain.replace("**", "")))
    paragraphs = re.split(r"\n\s*\n|\n\s*(?=(?:[*-]|\d+\.) )", plain)
    cleaned = (" ".join(re.sub(r"^\s*(?:[*-]|\d+\.) ", "", paragraph).split()) for paragraph in paragraphs)
    return [sentence for paragraph in cleaned for sentence in re.split(r"(?<=[.!?:;]) ", paragraph) if sentence]
