"""BM25 over bm25s with Lucene's text analysis: the lexical first stage, comparable with Anserini's figures."""

from __future__ import annotations

import json
import math
import os
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm.auto import tqdm

from ..records import InputError, ScoredDocument
from ..run import Run
from .base import IndexableCorpus, check_corpus, check_depth, cut
from .lucene import analyze


class BM25Parameters(NamedTuple):
    """k1: how slowly repetitions of a term saturate, at least 0; b: how much long documents are held back, 0 to 1."""

    k1: float
    b: float


PRESETS = {
    "lucene": BM25Parameters(k1=0.9, b=0.4),  # Anserini's default, used for all its BEIR figures
    "msmarco-tuned": BM25Parameters(k1=0.82, b=0.68),  # Anserini's grid search for recall on MS MARCO passages
}

_PASSAGES_A_CHUNK = 10_000
_DOC_IDS = "doc_ids.json"


class BM25Retriever:
    r"""BM25 with Lucene's formula; make one with `build` or `load`.

    .. math:: score(q, d) = \sum_{t \in q} \ln\Big(1 + \frac{N - n_t + .5}{n_t + .5}\Big)
              \frac{tf_{t,d}}{tf_{t,d} + k_1 (1 - b + b |d| / avgdl)}

    Kamphuis et al. 2020 (ECIR), "Which BM25 do you mean?", the row "Lucene (accurate)": document lengths are exact,
    where Lucene keeps them in one byte. A term that stands twice in a query counts twice. As in Lucene, N and avgdl
    count only documents with at least one term.
    """

    def __init__(self, index, doc_ids: Sequence[str], progress: bool = True, name: str = "bm25"):
        self.name = name
        self.progress = progress
        self._index = index
        self._doc_ids = doc_ids

    @property
    def parameters(self) -> BM25Parameters:
        """k1 and b of the index."""
        return BM25Parameters(self._index.k1, self._index.b)

    @classmethod
    def build(
        cls,
        corpus: IndexableCorpus,
        preset: str = "lucene",
        k1: float | None = None,
        b: float | None = None,
        progress: bool = True,
        name: str = "bm25",
    ) -> BM25Retriever:
        """Index a corpus, reading it in chunks; memory grows with 4 bytes a term, not with the texts.

        Args:
            corpus: the passages.
            preset: a key of PRESETS, which gives k1 and b.
            k1: in place of the preset's.
            b: in place of the preset's.
            progress: show progress bars, in search too.
            name: what the Run is called.

        Raises:
            InputError: unknown preset, k1 or b out of range, a corpus that is empty or has no word in it.
        """
        import bm25s
        from bm25s.tokenization import Tokenized

        parameters = resolve_parameters(preset, k1, b)
        check_corpus(corpus)
        terms = _read_terms(corpus, progress)
        index = bm25s.BM25(method="lucene", k1=parameters.k1, b=parameters.b)
        # create_empty_token would put a term into the vocabulary that no document has a column for
        index.index(Tokenized(terms, terms.vocabulary), create_empty_token=False, show_progress=progress)
        return cls(index, terms.doc_ids, progress, name)

    def search(self, queries: Mapping[str, str], depth: int) -> Run:
        """The best `depth` documents of each query; see `Retriever.search`.

        Documents without a term of the query are left out. Beside the results, one float a document is held.
        """
        check_depth(depth)
        bar = tqdm(queries.items(), desc=f"{self.name}: search", unit="query", disable=not self.progress)
        return Run({query_id: self._search_one(text, depth) for query_id, text in bar}, self.name)

    def save(self, folder: str | os.PathLike) -> None:
        """Write the index: the files of bm25s and `doc_ids.json`."""
        self._index.save(folder, show_progress=False)
        (Path(folder) / _DOC_IDS).write_text(json.dumps(list(self._doc_ids)), encoding="utf-8")

    @classmethod
    def load(
        cls, folder: str | os.PathLike, mmap: bool = False, progress: bool = True, name: str = "bm25"
    ) -> BM25Retriever:
        """Read what `save` wrote; with `mmap` the postings stay on disk.

        Raises:
            InputError: the folder is no index, or its parts do not belong together.
        """
        import bm25s

        try:
            doc_ids = json.loads((Path(folder) / _DOC_IDS).read_text(encoding="utf-8"))
            index = bm25s.BM25.load(folder, mmap=mmap, show_progress=False)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).replace("\n", " ")
            raise InputError(f"{folder}: not a BM25 index that BM25Retriever.save wrote ({reason})") from None
        if len(doc_ids) != index.scores["num_docs"]:
            raise InputError(f"{folder}: {len(doc_ids)} doc_ids for an index of {index.scores['num_docs']} documents")
        return cls(index, doc_ids, progress, name)

    def _search_one(self, text: str, depth: int) -> tuple[ScoredDocument, ...]:
        import numpy as np

        term_ids = self._index.get_tokens_ids(analyze(text))
        if not term_ids:
            return ()
        scores = self._index.get_scores_from_ids(term_ids)
        matching = np.flatnonzero(scores)
        if len(matching) > depth:
            # bm25s' own top-k cuts through equal scores at random: keep all that equal the last, and then cut
            lowest = np.partition(scores[matching], -depth)[-depth]
            matching = matching[scores[matching] >= lowest]
        return cut(((self._doc_ids[position], float(scores[position])) for position in matching.tolist()), depth)


def resolve_parameters(preset: str = "lucene", k1: float | None = None, b: float | None = None) -> BM25Parameters:
    """k1 and b of a preset, each replaced where given.

    >>> resolve_parameters("msmarco-tuned", b=0.5)
    BM25Parameters(k1=0.82, b=0.5)

    Raises:
        InputError: unknown preset; k1 negative or not finite; b outside 0..1.
    """
    if preset not in PRESETS:
        raise InputError(f"unknown BM25 preset {preset!r}; choose from {', '.join(PRESETS)}")
    k1 = PRESETS[preset].k1 if k1 is None else k1
    b = PRESETS[preset].b if b is None else b
    if not 0 <= k1 < math.inf:
        raise InputError(f"k1 is {k1!r}, but must be a finite number of at least 0")
    if not 0 <= b <= 1:
        raise InputError(f"b is {b!r}, but must be between 0 and 1")
    return BM25Parameters(k1, b)


class _Terms(Sequence):
    """Term ids of all documents that have any, in two flat arrays: a list a document would take 20 times as much."""

    def __init__(self) -> None:
        self.vocabulary: dict[str, int] = {}
        self.doc_ids: list[str] = []
        self._term_ids = array("i")
        self._ends = array("q", [0])

    def add(self, doc_id: str, text: str) -> None:
        vocabulary = self.vocabulary
        terms = analyze(text)
        if terms:
            self._term_ids.extend([vocabulary.setdefault(term, len(vocabulary)) for term in terms])
            self._ends.append(len(self._term_ids))
            self.doc_ids.append(doc_id)

    def __len__(self) -> int:
        return len(self.doc_ids)

    def __getitem__(self, position):
        if not 0 <= position < len(self):  # ends iteration
            raise IndexError(position)
        return self._term_ids[self._ends[position] : self._ends[position + 1]]


def _read_terms(corpus: IndexableCorpus, progress: bool) -> _Terms:
    terms = _Terms()
    with tqdm(total=len(corpus), desc="bm25: analyse", unit="passage", disable=not progress) as bar:
        for start in range(0, len(corpus), _PASSAGES_A_CHUNK):
            stop = min(start + _PASSAGES_A_CHUNK, len(corpus))
            for doc_id, text in zip(corpus.ids[start:stop], corpus.texts(start, stop), strict=True):
                terms.add(doc_id, text)
            bar.update(stop - start)
    if not terms:
        raise InputError(f"none of the {len(corpus)} passages has a word to index")
    return terms
