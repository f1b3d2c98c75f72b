"""The pairs that a reranking scores, in arrays: seven millions of tuples would take half a GB in every process."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..run import Run, RunFile

PAIRS_A_PART = 4096


@dataclass(frozen=True)
class Pairs:
    """Pairs of a query and a document, 8 bytes each; those of one query stand together.

    Attributes:
        query_ids: by the number that `queries` holds.
        doc_ids: by the number that `documents` holds; each once.
        queries: [pairs] int32, rising.
        documents: [pairs] int32.
    """

    query_ids: list[str]
    doc_ids: list[str]
    queries: np.ndarray
    documents: np.ndarray

    @classmethod
    def of(cls, run: Run | RunFile, query_ids: Sequence[str], depth: int) -> Pairs:
        """The top `depth` documents of these queries; a run on disk is read query by query.

        >>> pairs = Pairs.of(Run({"q": [("a", 2.0), ("b", 1.0)], "r": [("b", 1.0)]}), ["q", "r"], 10)
        >>> pairs.queries.tolist(), pairs.documents.tolist()
        ([0, 0, 1], [0, 1, 1])
        """
        numbers: dict[str, int] = {}
        documents, counts = array("i"), []
        for query_id in query_ids:
            found = run[query_id][:depth]
            documents.extend(numbers.setdefault(document.doc_id, len(numbers)) for document in found)
            counts.append(len(found))
        queries = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        return cls(list(query_ids), list(numbers), queries, np.array(documents, np.int32))

    def __len__(self) -> int:
        return len(self.queries)

    def ids(self, places: np.ndarray) -> list[tuple[str, str]]:
        """(query id, document id) of the pairs at these places."""
        numbers = zip(self.queries[places].tolist(), self.documents[places].tolist(), strict=True)
        return [(self.query_ids[query], self.doc_ids[document]) for query, document in numbers]

    def of_queries(self, count: int = 1) -> Iterator[slice]:
        """Where the pairs of each query stand, or of each `count` queries."""
        ends = np.searchsorted(self.queries, np.arange(len(self.query_ids) + 1)).tolist()
        for first in range(0, len(self.query_ids), count):
            yield slice(ends[first], ends[min(first + count, len(self.query_ids))])

    def stated(self) -> Iterator[Any]:
        """All pairs by their ids, in parts, as a fingerprint reads them."""
        for start in range(0, len(self), PAIRS_A_PART):
            yield self.ids(np.arange(start, min(start + PAIRS_A_PART, len(self))))
