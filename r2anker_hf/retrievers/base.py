"""What a retriever is, and what it asks of a corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, cast

from ..records import InputError
from ..run import Found, Run

if TYPE_CHECKING:
    import numpy as np


Texts = Mapping[str, str] | Sequence[str]
"""Texts by id, or a list of them, whose ids are their places."""


class IndexableCorpus(Protocol):
    """Passages by position; `collection.Corpus` is one, and any list with these three members will do."""

    @property
    def ids(self) -> Sequence[str]:
        """Document ids by position."""
        ...

    def __len__(self) -> int: ...

    def texts(self, start: int, stop: int) -> list[str]:
        """Passages start..stop-1 as they are to be searched: title and text already joined."""
        ...


class Retriever(Protocol):
    """A first stage over a fixed corpus; each class makes one by `build(corpus, ...)`.

    Attributes:
        name: what its Run is called.
        shares_corpus: how several processes work together. True: each searches its part of the corpus for all
            queries, so all must call `search` alike, and all get the whole result. False: each searches the whole
            corpus, for queries of its own.
    """

    name: str
    shares_corpus: bool

    def search(self, queries: Texts, depth: int) -> Run:
        """The best `depth` documents of each query.

        Args:
            queries: query id -> text; or a list of texts, whose ids are their places, "0" onwards.
            depth: documents a query at most, at least 1.

        Returns:
            One list for each query, in the order of `queries`; empty where nothing matches. Run's order decides
            between equal scores at the cut. So a shallow search is the top of a deep one.

        Raises:
            InputError: depth is below 1.
        """
        ...


class Passages:
    """An `IndexableCorpus` of texts that are in memory anyway.

    >>> Passages(["a passage", "another"]).ids
    ['0', '1']
    """

    def __init__(self, texts: Texts):
        passages = by_id(texts, "the corpus")
        self.ids, self._texts = list(passages), list(passages.values())

    def __len__(self) -> int:
        return len(self.ids)

    def texts(self, start: int, stop: int) -> list[str]:
        """Passages start..stop-1."""
        return self._texts[start:stop]


def as_corpus(corpus: IndexableCorpus | Texts) -> IndexableCorpus:
    """A corpus as it is, or one of texts."""
    if hasattr(corpus, "texts") and hasattr(corpus, "ids"):
        return cast(IndexableCorpus, corpus)
    return Passages(corpus)


def by_id(texts: Texts, name: str = "queries") -> Mapping[str, str]:
    """Texts by their ids; those of a list are their places.

    Raises:
        InputError: something else than texts; `name` is what the message calls them.

    >>> by_id(["first", "second"])
    {'0': 'first', '1': 'second'}
    """
    if isinstance(texts, Mapping):
        return texts
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{name}: give texts by their ids, or a list of texts")
    return {str(place): text for place, text in enumerate(texts)}


def cut(doc_ids: Sequence[str], positions: np.ndarray, scores: np.ndarray, depth: int) -> Found:
    """The first `depth` of different documents, given in any order; what `Run` does with pairs, later and faster.

    Args:
        doc_ids: of the corpus.
        positions: in it, of the documents found.
        scores: of the same; float32, or they are rounded to it.
        depth: at least 1.

    Raises:
        InputError: a score is NaN.
    """
    import numpy as np

    scores = scores.astype(np.float32, copy=False)  # as trec_eval holds them, and Run compares them
    nan = np.isnan(scores)
    if nan.any():
        raise InputError(f"the score of document {doc_ids[positions[nan.argmax()]]!r} is NaN")
    return Found(doc_ids, positions, scores, depth)


def best_positions(scores: np.ndarray, depth: int) -> np.ndarray:
    """Positions of the `depth` highest scores above 0, in no order, with all that equal the last of them.

    Args:
        scores: [documents] float32, at least 0; 0 where no term of the query occurs.
        depth: at least 1.

    >>> import numpy as np
    >>> best_positions(np.array([2.0, 0.0, 1.0, 1.0, 3.0]), depth=3).tolist()
    [0, 2, 3, 4]
    """
    import numpy as np

    if len(scores) > depth:
        # a threshold and one comparison: numpy's partition of values is several times as fast as that of positions
        lowest = np.partition(scores, len(scores) - depth)[-depth]
        if lowest > 0:
            return np.flatnonzero(scores >= lowest)
    return np.flatnonzero(scores > 0)


def check_depth(depth: int) -> None:
    """Raise InputError unless `depth` is a whole number of at least 1."""
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
        raise InputError(f"depth is {depth!r}, but a ranked list needs a whole number of at least 1")


def check_corpus(corpus: IndexableCorpus) -> None:
    """Raise InputError for a corpus without passages, or with another number of ids."""
    if len(corpus) == 0:
        raise InputError("the corpus is empty: there is nothing to retrieve from")
    if len(corpus.ids) != len(corpus):
        raise InputError(f"the corpus has {len(corpus)} passages but {len(corpus.ids)} ids")
