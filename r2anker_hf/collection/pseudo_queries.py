"""Pseudo-queries: titles and first sentences of passages, where a collection has few queries of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from ..records import Document, InputError, Query

SPLIT = re.compile(r"pseudo(\.(?P<count>[1-9]\d*))?")
"""`pseudo`: a query for every passage that has one; `pseudo.2000`: at most 2,000, evenly spaced over the corpus."""

MIN_WORDS, MAX_WORDS = 3, 30
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[^a-z\s])")


def is_pseudo(split: str) -> bool:
    """Whether a split's name means pseudo-queries.

    >>> [is_pseudo(split) for split in ("pseudo", "pseudo.500", "pseudo.0", "train")]
    [True, True, False, False]
    """
    return SPLIT.fullmatch(split) is not None


def pseudo_queries(split: str, document: Callable[[int], Document], size: int) -> Iterator[tuple[Query, str]]:
    """Queries cut out of passages, each with the id of the passage that it comes from.

    The corpus falls into as many equal stretches as queries are wanted, and each stretch gives the first one that it
    can. So few passages are read, and equal corpora give equal queries.

    Args:
        split: `pseudo` or `pseudo.<count>`.
        document: by position.
        size: documents of the corpus.

    Raises:
        InputError: no passage has a title or a first sentence of 3 to 30 words.
    """
    match = SPLIT.fullmatch(split)
    assert match is not None, split
    count = min(size, int(match["count"] or size))
    found = 0
    for stretch in range(count):
        for position in range(stretch * size // count, (stretch + 1) * size // count):
            source = document(position)
            if text := pseudo_query(source):
                found += 1
                yield Query(f"pseudo-{source.doc_id}", text), source.doc_id
                break
    if not found:
        raise InputError(f"{split}: no passage has a title or a first sentence of {MIN_WORDS} to {MAX_WORDS} words")


def pseudo_query(document: Document) -> str | None:
    """The passage's title, else its first sentence if others follow; None where neither has 3 to 30 words.

    >>> pseudo_query(Document("d", "", "Rivers flow to the sea. They are long."))
    'Rivers flow to the sea.'
    """
    sentences = _SENTENCE_END.split(document.text.strip(), maxsplit=1)
    for text in (document.title, sentences[0] if len(sentences) > 1 else ""):
        words = text.split()
        if MIN_WORDS <= len(words) <= MAX_WORDS:
            return " ".join(words)
    return None
