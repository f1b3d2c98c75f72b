"""Dense retrieval: a SentenceTransformer's vectors, searched exactly by inner product with faiss."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from ..records import InputError, ScoredDocument
from ..run import Run
from .base import IndexableCorpus, check_corpus, check_depth, cut

if TYPE_CHECKING:
    import numpy as np
    from sentence_transformers import SentenceTransformer

DTYPES = ("float32", "bfloat16", "float16")

_TEXTS_A_CALL = 512  # one call of the encoder: enough to sort by length, small enough for a lively progress bar
_QUERIES_A_BLOCK = 4096  # searched together: about 100 MB of candidates at depth 1000
_SPARE = 32  # candidates beyond depth, so that float32 rounding in faiss does not decide the cut
_ROUNDING = 4e-6  # relative error that a float32 inner product may have


class DenseRetriever:
    """Exact inner-product search over encoded passages; encoding happens here, when the retriever is made.

    Vectors go to disk in float32 shards. A shard's file name is a hash of the model's weights and settings and of the
    texts, so work that was cut short goes on where it stopped, and a changed model or corpus never meets old vectors.
    Scores are inner products summed in float64 and rounded to float32: they do not depend on the size of shards, and
    passages with equal vectors get equal scores.

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
            GPUs and on CPUs with AMX, and changes scores in the third digit.
        device: as torch names it; None for the best there is.
        shard_size: passages a shard. Encoding and searching hold one shard in memory.
        progress: show progress bars.
        name: what the Run is called.

    Raises:
        InputError: an empty corpus, an unknown dtype or model, a model without an inner-product similarity (with
            `normalize` None), a vector that is not finite.
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
        shard_size: int = 50_000,
        progress: bool = True,
        name: str = "dense",
    ):
        check_corpus(corpus)
        for argument, value in (("batch_size", batch_size), ("shard_size", shard_size)):
            if value < 1:
                raise InputError(f"{argument} is {value!r}, but must be at least 1")
        self.name = name
        self.progress = progress
        self.model = _load_model(model, revision, dtype, device)
        self.normalize = _resolve_normalize(self.model, normalize)
        self._prompts = {"query": query_prompt, "document": document_prompt}
        self._batch_size = batch_size
        self._doc_ids = corpus.ids
        self._shard_size = shard_size
        self.folder = Path(folder) if folder is not None else self._temporary_folder()
        self._shards = self._encode_corpus(corpus)

    def search(self, queries: Mapping[str, str], depth: int) -> Run:
        """The best `depth` documents of each query; see `Retriever.search`. Memory: one shard, `depth` a query."""
        check_depth(depth)
        query_ids = list(queries)
        lists = {}
        with tqdm(total=len(queries), desc=f"{self.name}: search", unit="query", disable=not self.progress) as bar:
            for start in range(0, len(query_ids), _QUERIES_A_BLOCK):
                block = query_ids[start : start + _QUERIES_A_BLOCK]
                vectors = self._encode("query", [queries[query_id] for query_id in block])
                _check_finite(vectors, "query", block)
                for query_id, found in zip(block, self._best(vectors, depth, depth + _SPARE), strict=True):
                    lists[query_id] = found
                    bar.update()
        return Run(lists, self.name)

    def _temporary_folder(self) -> Path:
        folder = tempfile.mkdtemp(prefix="r2anker-dense-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    def _encode(self, kind: str, texts: list[str]) -> np.ndarray:
        """[texts, dimensions] float32; `kind` is "query" or "document"."""
        import numpy as np

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

    def _encode_corpus(self, corpus: IndexableCorpus) -> list[np.ndarray]:
        """The shards, memory-mapped; those that the folder already holds are not encoded again."""
        import numpy as np

        self.folder.mkdir(parents=True, exist_ok=True)
        settings = self._fingerprint()
        shards = []
        with tqdm(total=len(corpus), desc=f"{self.name}: encode", unit="passage", disable=not self.progress) as bar:
            for start in range(0, len(corpus), self._shard_size):
                stop = min(start + self._shard_size, len(corpus))
                texts = corpus.texts(start, stop)
                path = self.folder / f"{_hash_texts(settings, texts)}.npy"
                if not path.exists():
                    _save(path, self._encode_shard(texts, corpus.ids[start:stop], bar))
                shards.append(np.load(path, mmap_mode="r"))
                bar.update(stop - bar.n)
        return shards

    def _encode_shard(self, texts: list[str], doc_ids: Sequence[str], bar: tqdm) -> np.ndarray:
        import numpy as np

        parts = []
        for start in range(0, len(texts), _TEXTS_A_CALL):
            part = self._encode("document", texts[start : start + _TEXTS_A_CALL])
            _check_finite(part, "document", doc_ids[start : start + _TEXTS_A_CALL])
            parts.append(part)
            bar.update(len(part))
        return np.concatenate(parts)

    def _fingerprint(self) -> str:
        """Hash of all that decides a passage's vector, except its text."""
        import torch

        settings = (repr(self.model), self.model.max_seq_length, self.model.prompts, self._prompts["document"])
        digest = hashlib.sha256(repr((settings, self.normalize)).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def _best(self, queries: np.ndarray, depth: int, width: int) -> Iterator[tuple[ScoredDocument, ...]]:
        """For each row of `queries` its best documents, chosen among the `width` candidates of faiss.

        Where the candidates end within rounding of the score at the cut, equal documents may have been left out; the
        query is searched again four times as wide. That is rare: it takes more than 32 near-equal passages.
        """
        width = min(width, len(self._doc_ids))
        scores, positions = self._nearest(queries, width)
        for row, query in enumerate(queries):
            reached = scores[row, -1] >= scores[row, min(depth, width) - 1] - _ROUNDING * abs(scores[row]).max()
            if reached and width < len(self._doc_ids):
                yield from self._best(query[None], depth, 4 * width)
            else:
                yield self._rank(query, positions[row], depth)

    def _nearest(self, queries: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores and corpus positions, both [queries, width], best first: a running best over the shards."""
        import faiss
        import numpy as np

        scores = np.empty((len(queries), 0), dtype=np.float32)
        positions = np.empty((len(queries), 0), dtype=np.int64)
        for number, shard in enumerate(self._shards):
            found = faiss.knn(queries, shard, min(width, len(shard)), metric=faiss.METRIC_INNER_PRODUCT)
            scores = np.hstack((scores, found[0]))
            positions = np.hstack((positions, found[1] + number * self._shard_size))
            best = np.argsort(-scores, axis=1, kind="stable")[:, :width]
            scores, positions = np.take_along_axis(scores, best, 1), np.take_along_axis(positions, best, 1)
        return scores, positions

    def _rank(self, query: np.ndarray, positions: np.ndarray, depth: int) -> tuple[ScoredDocument, ...]:
        import numpy as np

        positions = np.sort(positions)  # shards are read from front to back
        numbers = positions // self._shard_size
        vectors = np.concatenate(
            [self._shards[n][positions[numbers == n] - n * self._shard_size] for n in np.unique(numbers)]
        )
        scores = (vectors.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
        doc_ids = [self._doc_ids[position] for position in positions.tolist()]
        return cut(zip(doc_ids, scores.tolist(), strict=True), depth)


def _load_model(model, revision: str | None, dtype: str | None, device: str | None) -> SentenceTransformer:
    import torch
    from sentence_transformers import SentenceTransformer

    if isinstance(model, SentenceTransformer):
        given = {"revision": revision, "dtype": dtype, "device": device}
        if set(given.values()) != {None}:
            names = ", ".join(name for name, value in given.items() if value is not None)
            raise InputError(f"{names}: can only be chosen for a model given by name, not for one already loaded")
        return model
    dtype = dtype or "float32"
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}; choose from {', '.join(DTYPES)}")
    try:
        return SentenceTransformer(
            os.fspath(model), revision=revision, device=device, model_kwargs={"dtype": getattr(torch, dtype)}
        )
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{model}: cannot be loaded as a SentenceTransformer: {reason}") from error


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
    import numpy as np

    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise InputError(f"the model gives {kind} {ids[bad[0]]!r} a vector with NaN or infinity in it")


def _hash_texts(settings: str, texts: list[str]) -> str:
    digest = hashlib.sha256(settings.encode())
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()[:32]


def _save(path: Path, vectors: np.ndarray) -> None:
    import numpy as np

    partial = path.with_suffix(f".{os.getpid()}.partial")
    with open(partial, "wb") as file:
        np.save(file, vectors)
    os.replace(partial, path)  # a file under its final name is complete
