"""Retrievers as rankers: a bi-encoder orders the documents of another first stage by the scores of its own search."""

from __future__ import annotations

import os
import shutil
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..collection.collection import Collection, Corpus
from ..fingerprints import fingerprint, fingerprint_of
from ..processes import is_main_process, once, wait_for_all
from ..retrievers.dense import DenseRetriever
from ..retrievers.encoders import load_encoder
from ..retrievers.encoding import TEXTS_A_CALL
from ..retrievers.index import model_fingerprint, read_identity
from ..retrievers.splade import SpladeRetriever
from .pairs import Pairs
from .ranker import Reranker, in_shards

RETRIEVERS: dict[str, type[DenseRetriever | SpladeRetriever]] = {"dense": DenseRetriever, "splade": SpladeRetriever}
CLASSES = {"dense": "SentenceTransformer", "splade": "SparseEncoder"}
"""What sentence-transformers calls their encoders."""
BATCH_SIZE = 64  # as `retrieve` has it: texts that are encoded together share their padding


class BiEncoderRanker(Reranker):
    """A SentenceTransformer or SparseEncoder; scores are those of `DenseRetriever` and `SpladeRetriever`.

    Only the documents of the run are encoded, or none of them with the index of an earlier search.

    Args:
        model: loaded already.
        retriever: one of RETRIEVERS.
        batch_size: texts a batch; default 64.
        index: folder that holds, or gets, the index of the whole corpus, as `retrieve` writes it. With the queries
            of that search in their order, scores are the same to the last bit; else to rounding.
    """

    def __init__(
        self, model: Any, retriever: str, batch_size: int | None = None, index: str | os.PathLike | None = None
    ):
        self.model, self.retriever = model, RETRIEVERS[retriever]
        self.batch_size, self.index = batch_size or BATCH_SIZE, index

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike,
        retriever: str,
        revision: str | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device | None = None,
        **kwargs: Any,
    ) -> BiEncoderRanker:
        """Load one from a folder or the Hub; code of a repository is never run.

        Args:
            model: folder or Hub id.
            retriever: one of RETRIEVERS.
            revision: commit, tag or branch on the Hub.
            dtype: of the weights.
            device: where it runs; default the best there is.
            kwargs: to `BiEncoderRanker`.

        Raises:
            InputError: no such model, or a broken one.
        """
        import sentence_transformers

        kind = getattr(sentence_transformers, CLASSES[retriever])
        options = {"dtype": str(dtype).removeprefix("torch."), "device": None if device is None else str(device)}
        return cls(load_encoder(kind, model, revision, **options), retriever, **kwargs)

    @property
    def max_length(self) -> int:
        """Tokens of a text: query and document are read apart."""
        return self.model.max_seq_length

    def fingerprint(self) -> str:
        """Hash of all that decides the scores of given texts, the device among it, but not the batch size."""
        return fingerprint(model_fingerprint(self.model), str(self.model.similarity_fn_name), self.model.device.type)

    def _scores(self, pairs: Pairs, collection: Collection, folder: Path, kept: bool, progress: bool) -> np.ndarray:
        chosen = _Chosen(collection.corpus, pairs.doc_ids)
        queries = {query_id: collection.queries[query_id] for query_id in pairs.query_ids}
        shards = [np.arange(part.start, part.stop) for part in pairs.of_queries(TEXTS_A_CALL)]

        def source() -> str:
            texts = collection.corpus.texts_of(pairs.doc_ids)
            return fingerprint_of(chain([self.fingerprint(), TEXTS_A_CALL], pairs.stated(), queries.values(), texts))

        folder.mkdir(parents=True, exist_ok=True)
        stated = once(source) if kept else "0"
        if self.index is None:
            encoded = self._encoded(chosen, _only(folder, f"index-{stated}"), progress)
            places = np.arange(len(chosen))
        else:
            encoded = self._encoded(collection.corpus, Path(self.index), progress)
            places = np.array([collection.corpus.position(doc_id) for doc_id in pairs.doc_ids])

        def score(shard: np.ndarray) -> np.ndarray:
            numbers, counts = np.unique(pairs.queries[shard], return_counts=True)
            asked = {pairs.query_ids[number]: queries[pairs.query_ids[number]] for number in numbers}
            lists = np.split(places[pairs.documents[shard]], np.cumsum(counts)[:-1])
            return np.concatenate(encoded.scores(asked, lists))

        return in_shards(score, shards, folder, stated, kept, progress)

    def _encoded(self, corpus: Any, folder: Path, progress: bool) -> DenseRetriever | SpladeRetriever:
        options = {"folder": folder, "batch_size": self.batch_size, "progress": progress}
        if stated := read_identity(folder):
            options["shard_size"] = stated.get("shard_size")
        return self.retriever.build(corpus, self.model, **options)


class _Chosen:
    """Some documents of a corpus, as an `IndexableCorpus`."""

    def __init__(self, corpus: Corpus, doc_ids: list[str]):
        self._corpus, self.ids = corpus, doc_ids

    def __len__(self) -> int:
        return len(self.ids)

    def texts(self, start: int, stop: int) -> list[str]:
        return list(self._corpus.texts_of(self.ids[start:stop]))


def _only(folder: Path, name: str) -> Path:
    """The path of that name; indexes of other documents or models are removed."""
    if is_main_process():
        for path in folder.glob("index-*"):
            if path.name != name:
                shutil.rmtree(path)
    wait_for_all()
    return folder / name
