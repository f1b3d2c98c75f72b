"""Dense retrieval: a SentenceTransformer's vectors, searched by inner product with faiss."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from ..processes import gather, is_main_process, my_share
from ..records import InputError
from ..run import Found, Run
from .approximate import APPROXIMATIONS, open_approximate
from .base import IndexableCorpus, Texts, as_corpus, by_id, check_depth, cut
from .encoding import DTYPES, EncodedCorpus, chunks

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["DTYPES", "SEARCHES", "DenseRetriever"]

SEARCHES = ("flat", *APPROXIMATIONS)
_QUERIES_A_BLOCK = 4096  # searched together: about 100 MB of candidates at depth 1000
_SPARE = 32  # candidates beyond depth, so that float32 rounding in faiss does not decide the cut
_ROUNDING = 4e-6  # relative error that a float32 inner product may have
_MOST_OF_A_GPU = 2048  # documents that faiss finds a query on a GPU


class DenseRetriever:
    """Inner-product search over encoded passages; encoding happens when the retriever is made.

    Vectors go to disk in float32 shards, an `IndexFolder`: work that was cut short goes on at the first missing
    shard, and vectors of another model or corpus are refused. Several processes encode, and search, a share of the
    shards each. Scores are inner products summed in float64 and rounded to float32: they depend neither on the size
    of shards nor on the number of processes, and passages with equal vectors get equal scores.

    Args:
        model: a SentenceTransformer, or the folder or Hub id of one.
        corpus: the passages.
        revision: commit, branch or tag of a Hub id.
        folder: where the shards go and are looked for; None for a temporary folder that goes with this object.
        query_prompt: text put before each query; None for the model's own query prompt, if it has one.
        document_prompt: the same for passages.
        normalize: scale vectors to length 1, so that the score is the cosine; None: as the model's similarity says.
        batch_size: texts a batch.
        dtype: one of DTYPES, in which the model computes; None for float32. bfloat16 is several times as fast on
            GPUs and on CPUs with AMX or AVX512_BF16, and changes scores in the third digit.
        device: as torch names it; None for the best there is.
        shard_size: passages a shard. Encoding and searching hold one shard in memory.
        search: one of SEARCHES: "flat" is exact; "ivf" and "hnsw" look at a part of the corpus only, and `recall`
            says what that costs.
        progress: show progress bars.
        name: what the Run is called.

    Raises:
        InputError: an empty corpus, an unknown dtype, model or search, a model without an inner-product similarity
            (with `normalize` None), a vector that is not finite, a folder that holds another index.
    """

    def __init__(
        self,
        model: str | os.PathLike | SentenceTransformer,
        corpus: IndexableCorpus,
        *,
        revision: str | None = None,
        folder: str | os.PathLike | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        normalize: bool | None = None,
        batch_size: int = 32,
        dtype: str | None = None,
        device: str | None = None,
        shard_size: int = 100_000,
        search: str = "flat",
        progress: bool = True,
        name: str = "dense",
    ):
        from sentence_transformers import SentenceTransformer

        from .encoders import load_encoder

        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size!r}, but must be at least 1")
        if search not in SEARCHES:
            raise InputError(f"unknown search {search!r}; choose from {', '.join(SEARCHES)}")
        self.name = name
        self.progress = progress
        self.model = load_encoder(SentenceTransformer, model, revision, dtype, device)
        self.normalize = _resolve_normalize(self.model, normalize)
        self._prompts = {"query": query_prompt, "document": document_prompt}
        self._batch_size = batch_size
        self._corpus = corpus
        settings = {"document_prompt": document_prompt, "normalize": self.normalize}
        encoded = EncodedCorpus("dense", self.model, corpus, folder, settings, shard_size)
        paths = encoded.encode(".npy", self._encode_shard, _save_vectors, progress)
        self.folder = encoded.index.folder
        self._encoded = encoded  # a temporary folder goes with it
        self._shard_size = shard_size
        self._shards = [np.load(path, mmap_mode="r") for path in paths]
        self._approximate = None
        if search != "flat":
            self._approximate = open_approximate(search, encoded.index, self._shards, progress, encoded.alone)
        self.shares_corpus = self._approximate is None and not encoded.alone

    @classmethod
    def build(
        cls, corpus: IndexableCorpus | Texts, model: str | os.PathLike | SentenceTransformer, **options: Any
    ) -> DenseRetriever:
        """Encode a corpus, or texts; `options` are those of the class. Every retriever has such a `build`."""
        return cls(model, as_corpus(corpus), **options)

    def search(self, queries: Texts, depth: int) -> Run:
        """The best `depth` documents of each query; see `Retriever.search`. Memory: one shard, `depth` a query."""
        return self._search(by_id(queries), depth, exact=self._approximate is None)

    def scores(self, queries: Mapping[str, str], documents: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The scores that `search` gives documents, for each query; a process asks for its own queries.

        Args:
            queries: query id -> text.
            documents: of each query in their order, positions in the corpus.

        Returns:
            [documents] float32 of each query.
        """
        positions = np.full((len(documents), max(map(len, documents))), -1, np.int64)
        for row, found in zip(positions, documents, strict=True):
            row[: len(found)] = found
        exact = self._exact(self._encode_queries(list(queries), list(queries.values())), positions)
        return [row[: len(found)] for row, found in zip(exact, documents, strict=True)]

    def recall(self, queries: Mapping[str, str], depth: int) -> float:
        """Share of the exact top `depth` that this retriever finds, mean over queries; 1 for "flat"."""
        exact, found = self._search(queries, depth, exact=True), self.search(queries, depth)
        hits = [len({d for d, _ in exact[q]} & {d for d, _ in found[q]}) / len(exact[q]) for q in exact]
        return float(np.mean(hits))

    def _search(self, queries: Mapping[str, str], depth: int, exact: bool) -> Run:
        check_depth(depth)
        query_ids = list(queries)
        lists = {}
        hidden = not self.progress or not is_main_process()
        with tqdm(total=len(queries), desc=f"{self.name}: search", unit="query", disable=hidden) as bar:
            for start in range(0, len(query_ids), _QUERIES_A_BLOCK):
                block = query_ids[start : start + _QUERIES_A_BLOCK]
                texts = [queries[query_id] for query_id in block]
                vectors = self._encode_queries(block, texts, self.shares_corpus)
                best = self._best if exact else self._approximately_best
                for query_id, found in zip(block, best(vectors, depth, depth + _SPARE), strict=True):
                    lists[query_id] = found
                    bar.update()
        return Run.of_ranked(lists, self.name)

    def _encode_queries(self, query_ids: Sequence[str], texts: list[str], shared: bool = False) -> np.ndarray:
        """[queries, dimensions]; processes that search together (`shared`) encode a share each."""
        ranges = list(chunks(0, len(texts)))
        mine = my_share(ranges) if shared else ranges
        parts = [(start, self._encode("query", texts[start:stop])) for start, stop in mine]
        if shared:
            parts = [part for parts_of_one in gather(parts) for part in parts_of_one]
        vectors = np.concatenate([vectors for _, vectors in sorted(parts, key=lambda part: part[0])])
        _check_finite(vectors, "query", query_ids)
        return vectors

    def _encode(self, kind: str, texts: list[str]) -> np.ndarray:
        """[texts, dimensions] float32; `kind` is "query" or "document"."""
        encode = self.model.encode_query if kind == "query" else self.model.encode_document
        vectors = encode(
            texts,
            prompt=self._prompts[kind],
            batch_size=self._batch_size,
            show_progress_bar=False,
            convert_to_tensor=True,
        )
        vectors = vectors.float().cpu().numpy()
        if self.normalize:  # here and not in the model, whose half precision would leave lengths of 1 ± 0.004
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return np.ascontiguousarray(vectors, dtype=np.float32)

    def _encode_shard(self, start: int, stop: int, bar: tqdm) -> np.ndarray:
        parts = []
        for first, end in chunks(start, stop):
            part = self._encode("document", self._corpus.texts(first, end))
            _check_finite(part, "document", self._corpus.ids[first:end])
            parts.append(part)
            bar.update(len(part))
        return np.concatenate(parts)

    def _best(self, queries: np.ndarray, depth: int, width: int) -> Iterator[Found]:
        """For each row of `queries` its best documents, chosen among the `width` candidates of faiss.

        A query whose candidates may lack a document is searched again, wider.
        """
        width = min(width, len(self._corpus))
        scores, positions = self._nearest(queries, width)
        exact = self._exact(queries, positions)
        for row, query in enumerate(queries):
            found = positions[row], exact[row]
            if self._may_lack(scores[row], depth):
                found = self._widened(query[None], depth, width)
            yield cut(self._corpus.ids, found[0], found[1], depth)

    def _may_lack(self, scores: np.ndarray, depth: int) -> bool:
        """Whether candidates end within rounding of the score at the cut, so that equal documents may be left out.

        That is rare: it takes more than 32 near-equal passages. `scores` are those of one query, best first.
        """
        cut_at = scores[min(depth, len(scores)) - 1]
        return len(scores) < len(self._corpus) and bool(scores[-1] >= cut_at - _ROUNDING * abs(scores).max())

    def _widened(self, query: np.ndarray, depth: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Candidates of one query, [1, dimensions], and their scores: four times as many until none may be lacking."""
        lacking = True
        while lacking:
            width = min(4 * width, len(self._corpus))
            scores, positions = self._nearest(query, width)
            lacking = self._may_lack(scores[0], depth)
        return positions[0], self._exact(query, positions)[0]

    def _approximately_best(self, queries: np.ndarray, depth: int, width: int) -> Iterator[Found]:
        assert self._approximate is not None  # or `_best` was called
        _, positions = self._approximate.search(queries, min(width, len(self._corpus)))
        for found, scores in zip(positions, self._exact(queries, positions), strict=True):
            yield cut(self._corpus.ids, found[found >= 0], scores[found >= 0], depth)

    def _nearest(self, queries: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores and corpus positions, both [queries, width], best first.

        Processes that search together go through a share of the shards each, and all get the merged result.
        """
        numbers = list(range(len(self._shards)))
        best = self._nearest_in(queries, my_share(numbers) if self.shares_corpus else numbers, width)
        return _top(gather(best), width) if self.shares_corpus else best

    def _nearest_in(self, queries: np.ndarray, numbers: list[int], width: int) -> tuple[np.ndarray, np.ndarray]:
        """As `_nearest`, in some shards.

        A shard seldom holds much more than its share of the best, and a short list is found faster. Where one ends
        above the merged list's cut, it may go on there, and is made again in full.
        """
        short = min(width, 2 * width // max(1, len(numbers)) + 2 * _SPARE)
        found = {number: self._nearest_of(queries, number, short) for number in numbers}
        if not found:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        best = _top(found.values(), width)
        longer = {}
        for number, (scores, positions) in found.items():
            open_ended = np.flatnonzero(scores[:, -1] >= best[0][:, -1])
            if len(open_ended) and scores.shape[1] < min(width, len(self._shards[number])):
                more = self._nearest_of(queries[open_ended], number, width)
                longer[number] = _replaced(scores, more[0], open_ended), _replaced(positions, more[1], open_ended)
        return _top({**found, **longer}.values(), width) if longer else best

    def _nearest_of(self, queries: np.ndarray, number: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        scores, rows = _knn(queries, self._shards[number], width)
        return scores, rows + number * self._shard_size

    def _exact(self, queries: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """[queries, positions] float32 inner products, -inf at position -1.

        Each is summed in one fixed order; that of a product of matrices depends on its size and threads.
        """
        import faiss

        scores = np.full(positions.shape, -np.inf, np.float32)
        queries = np.ascontiguousarray(queries)
        for number, shard in enumerate(self._shards):
            rows = positions - number * self._shard_size
            rows[(rows < 0) | (rows >= len(shard))] = -1
            part = np.empty(positions.shape, np.float32)
            pointers = (faiss.swig_ptr(array) for array in (part, queries, np.asarray(shard), rows))
            faiss.fvec_inner_products_by_idx(  # type: ignore[attr-defined]
                *pointers, queries.shape[1], *positions.shape
            )
            np.maximum(scores, part, out=scores)
        return scores


def _knn(queries: np.ndarray, vectors: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows of the best by inner product, both [queries, min(width, rows)]; on a GPU if faiss sees one."""
    import faiss

    width = min(width, len(vectors))
    if getattr(faiss, "get_num_gpus", int)() and width <= _MOST_OF_A_GPU:
        import torch

        device = torch.cuda.current_device() if torch.cuda.is_available() else 0
        resources, metric = _gpu_resources(device), faiss.METRIC_INNER_PRODUCT
        return faiss.knn_gpu(resources, queries, vectors, width, metric=metric, device=device)
    return faiss.knn(queries, vectors, width, metric=faiss.METRIC_INNER_PRODUCT)


@cache
def _gpu_resources(device: int) -> Any:
    """What faiss keeps on a GPU: over a GiB of scratch memory, which takes longer to get than a shard to search."""
    import faiss

    return faiss.StandardGpuResources()


def _top(parts: Iterable[tuple[np.ndarray, np.ndarray]], width: int) -> tuple[np.ndarray, np.ndarray]:
    """The best of several results as `_nearest` returns them; one stands in order already."""
    parts = list(parts)
    if len(parts) == 1 and parts[0][0].shape[1] <= width:
        return parts[0]
    scores, positions = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
    if scores.shape[1] > width:
        best = np.argpartition(-scores, width - 1, axis=1)[:, :width]
        scores, positions = np.take_along_axis(scores, best, 1), np.take_along_axis(positions, best, 1)
    order = np.argsort(-scores, axis=1)
    return np.take_along_axis(scores, order, 1), np.take_along_axis(positions, order, 1)


def _replaced(values: np.ndarray, longer: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`values` with some rows in a longer form; the others end with -1 of scores -inf."""
    filler = -np.inf if values.dtype.kind == "f" else -1
    whole = np.full((len(values), longer.shape[1]), filler, values.dtype)
    whole[:, : values.shape[1]] = values
    whole[rows] = longer
    return whole


def _resolve_normalize(model: SentenceTransformer, normalize: bool | None) -> bool:
    if normalize is not None:
        return normalize
    similarity = str(model.similarity_fn_name)
    choices = {"cosine": True, "dot": False}
    if similarity not in choices:
        raise InputError(
            f"the model compares by {similarity!r}, but inner-product search knows {', '.join(choices)}; "
            "set normalize to True or False to search it all the same"
        )
    return choices[similarity]


def _check_finite(vectors: np.ndarray, kind: str, ids: Sequence[str]) -> None:
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise InputError(f"the model gives {kind} {ids[bad[0]]!r} a vector with NaN or infinity in it")


def _save_vectors(path: Path, vectors: Any) -> None:
    with open(path, "wb") as file:
        np.save(file, vectors)
