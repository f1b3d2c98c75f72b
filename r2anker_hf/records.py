"""The nouns of text retrieval, and the one error that bad input raises."""

from typing import NamedTuple


class InputError(ValueError):
    """What a user gave cannot be used; the message names file, line, value and choices in one line."""


class Query(NamedTuple):
    """An information need."""

    query_id: str
    text: str


class Document(NamedTuple):
    """One passage of a corpus; `title` is empty where the collection has none."""

    doc_id: str
    title: str
    text: str


class Qrel(NamedTuple):
    """One relevance judgement; `relevance` is a grade, 0 for judged and not relevant."""

    query_id: str
    doc_id: str
    relevance: int


class ScoredDocument(NamedTuple):
    """One entry of a ranked list."""

    doc_id: str
    score: float
