"""SPLADE retrieval: a SparseEncoder's lexicon weights in an inverted index, searched exactly."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from ..processes import is_main_process
from ..records import InputError
from ..run import Found, Run
from .base import IndexableCorpus, Texts, as_corpus, best_positions, by_id, check_depth, cut
from .encoding import EncodedCorpus, chunks

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from sentence_transformers import SparseEncoder

_QUERIES_A_BLOCK = 32  # scored together: 8 bytes a matching document each
_PARTS = ("data", "indices", "indptr")


class SpladeRetriever:
    r"""Inner product of lexicon weights over an inverted index; encoding happens here, when the retriever is made.

    .. math:: score(q, d) = \sum_{t \in V} w_{q,t} w_{d,t}, \quad
              w_{d,t} = \max_{i} \ln(1 + \mathrm{ReLU}(\mathrm{MLM}(d)_{i,t}))

    Formal et al. 2021 (SIGIR), "SPLADE", with max pooling as in v2. Each shard of the corpus is its own inverted
    index (terms by passages, float32), memory-mapped; products are summed in the order of the vocabulary, so that
    neither shards nor processes show in a score.

    Args:
        model: a SparseEncoder, or the folder or Hub id of one.
        corpus: the passages.
        revision: commit, branch or tag of a Hub id.
        folder: where the index goes and is looked for; None for a temporary folder that goes with this object.
        batch_size: texts a batch; the encoder holds batch x tokens x vocabulary numbers.
        dtype: in which the model computes; None for float32.
        device: as torch names it; None for the best there is.
        shard_size: passages a shard.
        progress: show progress bars.
        name: what the Run is called.

    Raises:
        InputError: an empty corpus, an unknown dtype or model, a weight that is not finite or below 0, a folder that
            holds another index.
    """

    shares_corpus = False

    def __init__(
        self,
        model: str | os.PathLike | SparseEncoder,
        corpus: IndexableCorpus,
        *,
        revision: str | None = None,
        folder: str | os.PathLike | None = None,
        batch_size: int = 32,
        dtype: str | None = None,
        device: str | None = None,
        shard_size: int = 100_000,
        progress: bool = True,
        name: str = "splade",
    ):
        from sentence_transformers import SparseEncoder

        from .encoders import load_encoder

        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size!r}, but must be at least 1")
        self.name = name
        self.progress = progress
        self.model = load_encoder(SparseEncoder, model, revision, dtype, device)
        self._batch_size = batch_size
        self._corpus = corpus
        self._encoded = EncodedCorpus("splade", self.model, corpus, folder, {}, shard_size)
        self.folder = self._encoded.index.folder
        paths = self._encoded.encode("", self._encode_shard, _save_inverted, progress)
        self._shards = [_load_inverted(path) for path in paths]

    @classmethod
    def build(
        cls, corpus: IndexableCorpus | Texts, model: str | os.PathLike | SparseEncoder, **options: Any
    ) -> SpladeRetriever:
        """Encode a corpus, or texts; `options` are those of the class. Every retriever has such a `build`."""
        return cls(model, as_corpus(corpus), **options)

    def search(self, queries: Texts, depth: int) -> Run:
        """The best `depth` documents of each query; see `Retriever.search`. Documents that share no term are left out.

        Memory: the scores of 32 queries for one shard.
        """
        check_depth(depth)
        queries = by_id(queries)
        query_ids = list(queries)
        lists: dict[str, Found] = {}
        hidden = not self.progress or not is_main_process()
        with tqdm(total=len(queries), desc=f"{self.name}: search", unit="query", disable=hidden) as bar:
            for first, end in chunks(0, len(query_ids)):
                weights = self._encode("query", query_ids[first:end], [queries[q] for q in query_ids[first:end]])
                for start in range(0, end - first, _QUERIES_A_BLOCK):
                    block = query_ids[first + start : min(first + start + _QUERIES_A_BLOCK, end)]
                    lists.update(zip(block, self._best(weights[start : start + len(block)], depth), strict=True))
                    bar.update(len(block))
        return Run.of_ranked(lists, self.name)

    def scores(self, queries: Mapping[str, str], documents: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The scores that `search` gives documents, for each query; 0 where no term is shared.

        Args:
            queries: query id -> text.
            documents: of each query in their order, positions in the corpus.

        Returns:
            [documents] float32 of each query.
        """
        weights = self._encode("query", list(queries), list(queries.values()))
        found = [np.zeros(len(positions), np.float32) for positions in documents]
        for number, shard in enumerate(self._shards):
            for row, (scores, positions) in enumerate(zip(found, documents, strict=True)):
                places = positions - number * self._encoded.shard_size
                inside = (places >= 0) & (places < shard.shape[1])
                scores[inside] = (weights[row] @ shard).toarray()[0, places[inside]]
        return found

    def statistics(self) -> dict[str, float]:
        """Mean number of terms a passage, and bytes of the index."""
        terms = sum(shard.nnz for shard in self._shards)
        size = sum(getattr(shard, part).nbytes for shard in self._shards for part in _PARTS)
        return {"terms_per_passage": terms / len(self._corpus), "bytes": size}

    def _encode(self, kind: str, ids: Sequence[str], texts: list[str]) -> csr_matrix:
        """[texts, vocabulary]; `kind` is "query" or "document"."""
        from scipy.sparse import csr_matrix

        encode = self.model.encode_query if kind == "query" else self.model.encode_document
        options = {"batch_size": self._batch_size, "show_progress_bar": False, "save_to_cpu": True}
        weights = encode(texts, convert_to_sparse_tensor=True, **options).float().coalesce()
        rows, columns = weights.indices().numpy()
        values = weights.values().numpy()
        bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
        if len(bad):
            raise InputError(f"the model gives {kind} {ids[rows[bad[0]]]!r} the weight {values[bad[0]]}")
        return csr_matrix((values, (rows, columns)), shape=tuple(weights.shape))

    def _encode_shard(self, start: int, stop: int, bar: tqdm) -> csr_matrix:
        """Terms by passages: the shard's inverted lists."""
        from scipy.sparse import vstack

        parts = []
        for first, end in chunks(start, stop):
            parts.append(self._encode("document", self._corpus.ids[first:end], self._corpus.texts(first, end)))
            bar.update(end - first)
        return vstack(parts, format="csr").T.tocsr()

    def _best(self, weights: csr_matrix, depth: int) -> list[Found]:
        found: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(weights.shape[0])]
        for number, shard in enumerate(self._shards):
            products = weights @ shard
            for row, parts in enumerate(found):
                scores = products.data[products.indptr[row] : products.indptr[row + 1]]
                best = best_positions(scores, depth)
                positions = products.indices[products.indptr[row] + best] + number * self._encoded.shard_size
                parts.append((positions, scores[best]))
        merged = [map(np.concatenate, zip(*parts, strict=True)) for parts in found]
        return [cut(self._corpus.ids, positions, scores, depth) for positions, scores in merged]


def _save_inverted(path: Path, inverted: csr_matrix) -> None:
    path.mkdir()
    for part in _PARTS:
        np.save(path / f"{part}.npy", getattr(inverted, part))
    np.save(path / "shape.npy", inverted.shape)


def _load_inverted(path: Path) -> Any:
    """The shard, memory-mapped."""
    from scipy.sparse import csr_matrix

    parts = tuple(np.load(path / f"{part}.npy", mmap_mode="r") for part in _PARTS)
    return csr_matrix(parts, shape=tuple(np.load(path / "shape.npy")), copy=False)
