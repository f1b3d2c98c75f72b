"""BM25 over bm25s: the lexical first stage. In English, Lucene's text analysis makes it comparable with Anserini."""

from __future__ import annotations

import json
import math
import os
from array import array
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from ..processes import is_main_process, my_share, wait_for_all
from ..records import InputError
from ..run import Found, Ranked, Run
from .base import IndexableCorpus, Texts, as_corpus, best_positions, by_id, check_corpus, check_depth, cut
from .index import IndexFolder, corpus_fingerprint, read_identity
from .languages import ENGLISH, Analysis, analysis, analysis_identity, check_language


class BM25Parameters(NamedTuple):
    """k1: how slowly repetitions of a term saturate, at least 0; b: how much long documents are held back, 0 to 1."""

    k1: float
    b: float


PRESETS = {
    "lucene": BM25Parameters(k1=0.9, b=0.4),  # Anserini's default, used for all its BEIR figures
    "msmarco-tuned": BM25Parameters(k1=0.82, b=0.68),  # Anserini's grid search for recall on MS MARCO passages
}

_PASSAGES_A_CHUNK = 50_000  # analysed by one process, and by it again if it is killed in the middle
_INDEX = "bm25s"  # the piece that bm25s reads
_POSITIONS = "positions.npy"


class BM25Retriever:
    r"""BM25 with Lucene's formula; make one with `build` or `load`.

    .. math:: score(q, d) = \sum_{t \in q} \ln\Big(1 + \frac{N - n_t + .5}{n_t + .5}\Big)
              \frac{tf_{t,d}}{tf_{t,d} + k_1 (1 - b + b |d| / avgdl)}

    Kamphuis et al. 2020 (ECIR), "Which BM25 do you mean?", the row "Lucene (accurate)": document lengths are exact,
    where Lucene keeps them in one byte. A term that stands twice in a query counts twice. As in Lucene, N and avgdl
    count only documents with at least one term.
    """

    shares_corpus = False

    def __init__(
        self,
        index,
        positions: np.ndarray,
        doc_ids: Sequence[str],
        progress: bool = True,
        name: str = "bm25",
        language: str = ENGLISH,
    ):
        self.name = name
        self.progress = progress
        self.language = language
        self._analyse = analysis(language)
        self._index = index
        self._positions = positions  # corpus position of each indexed document
        self._doc_ids = doc_ids

    @property
    def parameters(self) -> BM25Parameters:
        """k1 and b of the index."""
        return BM25Parameters(self._index.k1, self._index.b)

    @classmethod
    def build(
        cls,
        corpus: IndexableCorpus | Texts,
        preset: str = "lucene",
        k1: float | None = None,
        b: float | None = None,
        folder: str | os.PathLike | None = None,
        progress: bool = True,
        name: str = "bm25",
        language: str = ENGLISH,
    ) -> BM25Retriever:
        """Index a corpus, reading it in chunks, or open the index of it that the folder holds.

        Memory grows by some 16 bytes for each term of a document while the index is made; that of a folder is then
        read memory-mapped. Several processes share the text analysis, whose finished chunks survive a kill.

        Args:
            corpus: the passages, or texts.
            preset: a key of PRESETS, which gives k1 and b.
            k1: in place of the preset's.
            b: in place of the preset's.
            folder: where the index is kept, an `IndexFolder`; None to hold it in memory.
            progress: show progress bars, in search too.
            name: what the Run is called.
            language: how text is analysed, one of `languages.languages()`; queries are analysed alike.

        Raises:
            InputError: unknown preset or language, k1 or b out of range, a corpus that is empty or has no word in it,
                a folder that holds another index.
        """
        parameters, analyse = resolve_parameters(preset, k1, b), analysis(language)
        corpus = as_corpus(corpus)
        check_corpus(corpus)
        starts = range(0, len(corpus), _PASSAGES_A_CHUNK)
        if folder is None:
            chunks = (_analyse(corpus, start, analyse) for start in _bar(starts, progress))
            return cls(*_make_index(chunks, parameters, progress), corpus.ids, progress, name, language)
        index = IndexFolder(folder, _identity(corpus, *parameters, language))
        if _INDEX not in index:
            names = {f"terms-{start}.npz": start for start in starts}
            for piece in _bar(my_share(list(names)), progress):
                if piece not in index:
                    index.write(piece, partial(_save_chunk, _analyse(corpus, names[piece], analyse)))
            wait_for_all()
            if is_main_process():
                made = _make_index((_load_chunk(index.folder / piece) for piece in names), parameters, progress)
                index.write(_INDEX, partial(_save_index, *made))
                for piece in names:
                    (index.folder / piece).unlink()
            wait_for_all()
        return cls(*_load_index(index.folder), corpus.ids, progress, name, language)

    @classmethod
    def load(
        cls, folder: str | os.PathLike, corpus: IndexableCorpus, progress: bool = True, name: str = "bm25"
    ) -> BM25Retriever:
        """Open an index that `build` made, with whatever language, k1 and b; the postings stay on disk.

        Raises:
            InputError: the folder holds no finished BM25 index, or one of another corpus.
        """
        found = read_identity(Path(folder))
        if found is None or not (Path(folder) / _INDEX).is_dir():
            raise InputError(f"{folder}: no finished BM25 index")
        analysed = found.get("analysis")
        language = ENGLISH if analysed == "lucene" else str(analysed)
        check_language(language)
        IndexFolder(folder, _identity(corpus, found.get("k1"), found.get("b"), language))
        return cls(*_load_index(Path(folder)), corpus.ids, progress, name, language)

    def search(self, queries: Texts, depth: int) -> Run:
        """The best `depth` documents of each query; see `Retriever.search`.

        Documents without a term of the query are left out. Beside the results, one float a document is held.
        """
        check_depth(depth)
        bar = tqdm(by_id(queries).items(), desc=f"{self.name}: search", unit="query", disable=not self.progress)
        return Run.of_ranked({query_id: self._search_one(text, depth) for query_id, text in bar}, self.name)

    def _search_one(self, text: str, depth: int) -> Ranked | Found:
        term_ids = self._index.get_tokens_ids(self._analyse(text))
        if not term_ids:
            return Ranked((), ())
        scores = self._index.get_scores_from_ids(term_ids)
        best = best_positions(scores, depth)
        return cut(self._doc_ids, self._positions[best], scores[best], depth)


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


class _Chunk(NamedTuple):
    """Analysed passages: their distinct terms, and each passage's terms as numbers of these, end to end."""

    vocabulary: list[str]
    term_ids: np.ndarray  # [terms of all passages] int32
    lengths: np.ndarray  # [passages] int32


def _analyse(corpus: IndexableCorpus, start: int, analyse: Analysis) -> _Chunk:
    vocabulary: dict[str, int] = {}
    term_ids, lengths = array("i"), array("i")
    for text in corpus.texts(start, min(start + _PASSAGES_A_CHUNK, len(corpus))):
        terms = analyse(text)
        term_ids.extend([vocabulary.setdefault(term, len(vocabulary)) for term in terms])
        lengths.append(len(terms))
    return _Chunk(list(vocabulary), np.frombuffer(term_ids, np.int32), np.frombuffer(lengths, np.int32))


def _save_chunk(chunk: _Chunk, path: Path) -> None:
    vocabulary = np.frombuffer(json.dumps(chunk.vocabulary).encode(), np.uint8)
    with open(path, "wb") as file:
        np.savez(file, vocabulary=vocabulary, term_ids=chunk.term_ids, lengths=chunk.lengths)


def _load_chunk(path: Path) -> _Chunk:
    with np.load(path) as arrays:
        return _Chunk(json.loads(arrays["vocabulary"].tobytes()), arrays["term_ids"], arrays["lengths"])


class _Terms(Sequence):
    """Term ids of all documents that have any, in two flat arrays: a list a document would take 20 times as much."""

    def __init__(self, chunks: Iterable[_Chunk]) -> None:
        self.vocabulary: dict[str, int] = {}
        self._term_ids, lengths = array("i"), []
        for chunk in chunks:
            numbers = [self.vocabulary.setdefault(term, len(self.vocabulary)) for term in chunk.vocabulary]
            self._term_ids.frombytes(np.array(numbers, np.int32)[chunk.term_ids].tobytes())
            lengths.append(chunk.lengths)
        self.passages = sum(map(len, lengths))
        all_lengths = np.concatenate(lengths)
        self.positions = np.flatnonzero(all_lengths)
        self._ends = [0, *np.cumsum(all_lengths[self.positions]).tolist()]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, position):
        if not 0 <= position < len(self):  # ends iteration
            raise IndexError(position)
        return self._term_ids[self._ends[position] : self._ends[position + 1]]


def _make_index(chunks: Iterable[_Chunk], parameters: BM25Parameters, progress: bool) -> tuple[Any, np.ndarray]:
    """The index of bm25s, and the corpus position of each of its documents."""
    import bm25s
    from bm25s.tokenization import Tokenized

    terms = _Terms(chunks)
    if not terms:
        raise InputError(f"none of the {terms.passages} passages has a word to index")
    index = bm25s.BM25(method="lucene", k1=parameters.k1, b=parameters.b)
    # create_empty_token would put a term into the vocabulary that no document has a column for
    index.index(Tokenized(terms, terms.vocabulary), create_empty_token=False, show_progress=progress)
    return index, terms.positions


def _save_index(index, positions: np.ndarray, folder: Path) -> None:
    index.save(folder, show_progress=False)
    np.save(folder / _POSITIONS, positions)


def _load_index(folder: Path) -> tuple[Any, np.ndarray]:
    import bm25s

    try:
        index = bm25s.BM25.load(folder / _INDEX, mmap=True, show_progress=False)
        return index, np.load(folder / _INDEX / _POSITIONS)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).replace("\n", " ")
        raise InputError(f"{folder}: a broken BM25 index; remove the folder and build it again ({reason})") from None


def _identity(corpus: IndexableCorpus, k1: float | None, b: float | None, language: str) -> dict[str, Any]:
    made = {"kind": "bm25", **analysis_identity(language)}
    return {**made, "k1": k1, "b": b, "corpus": corpus_fingerprint(corpus)}


def _bar(pieces: Sequence, progress: bool) -> tqdm:
    return tqdm(pieces, desc="bm25: analyse", unit=f"x {_PASSAGES_A_CHUNK} passages", disable=not progress)
