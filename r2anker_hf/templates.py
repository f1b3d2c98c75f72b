"""Templates of cards and reports: where they lie, what Jinja needs, and how cells and numbers are written."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .shipped import shipped

_TEXT_LIMIT = 420  # characters of a passage: what fits a phone's screen beside its query


def template_folder() -> Path:
    """hub_cards: inside the package as a wheel ships it, or at the top of a checkout."""
    return shipped("hub_cards")


def environment(**filters: Callable[[Any], Any]) -> Any:
    """Jinja over `template_folder`; a name that a template misspells is an error, and pages in HTML are escaped.

    Args:
        filters: more filters, by the names that templates use, beside `cell`, `thousands`, `signed`, `p` and
            `embedded`.
    """
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template_folder()),
        autoescape=lambda name: name is not None and ".html" in name,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"cell": markdown_cell, "thousands": "{:,}".format, "signed": signed, "p": p_value}
    made.filters |= {"embedded": embedded, **filters}
    return made


def markdown_cell(text: str) -> str:
    """Text that can neither break a table nor be taken for markup.

    >>> markdown_cell("a|b <i>")
    'a\\\\|b &lt;i&gt;'
    """
    escaped = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for character in "\\|`*_[]":
        escaped = escaped.replace(character, "\\" + character)
    return escaped


def breakable(name: str) -> Any:
    """A name as HTML that may break after its underscores, slashes and hyphens, so that columns stay narrow.

    >>> breakable("a_b<c")
    Markup('a_<wbr>b&lt;c')
    """
    from markupsafe import Markup, escape

    return Markup(re.sub(r"([_/-])", r"\1<wbr>", str(escape(name))))


def embedded(data: Any) -> Any:
    """JSON that no text can end early inside a script element.

    >>> embedded({"text": "</script>"})
    Markup('{"text": "\\\\u003c/script\\\\u003e"}')
    """
    from markupsafe import Markup

    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def signed(value: float, digits: int = 4) -> str:
    """A difference with its sign; zero, also by rounding, has none.

    >>> signed(-0.25), signed(0.00001)
    ('−0.2500', '0.0000')
    """
    text = f"{abs(value):.{digits}f}"
    return text if float(text) == 0 else ("+" if value > 0 else "−") + text


def p_value(p: float) -> str:
    """Three digits; what is smaller is said to be so.

    >>> p_value(0.0312), p_value(0.0001)
    ('0.031', '<0.001')
    """
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def shorten(text: str, limit: int = _TEXT_LIMIT) -> str:
    """One line of at most `limit` characters and an ellipsis, cut between words where there is a space.

    >>> shorten("one two  three", 9)
    'one two …'
    """
    printable = (c if unicodedata.category(c) not in ("Cc", "Cs") else " " for c in text)
    text = " ".join("".join(printable).split())
    if len(text) <= limit:
        return text
    head = text[: limit + 1].rpartition(" ")[0]
    return f"{head} …" if head else f"{text[:limit]}…"
