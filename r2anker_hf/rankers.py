"""CrossEncoderRanker: score pairs, rerank a run, and save so that every loader gives the same scores."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from tqdm.auto import tqdm
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .collator import PairEncoder, Text
from .collection import Collection
from .padding_free import batches, forward, use_padding_free
from .processes import processes
from .records import InputError
from .revisions import resolved
from .run import Run
from .tokens import Tokens, encode

IDENTITY = "torch.nn.modules.linear.Identity"
BUFFER = 4096  # pairs tokenised and sorted by length together: bounds memory, keeps batches of like length
BATCH_SIZE = {"cpu": 32}  # a CPU's cache holds no more; a GPU wants to be filled
BATCH_SIZE_ELSEWHERE = 512
SHARD = 64  # batches whose scores reach the disk together: what a killed reranking loses at most
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


class CrossEncoderRanker:
    """A cross-encoder that scores (query, document) pairs (R2ANKER, Eq. 1); scores are raw logits.

    Args:
        model: sequence classifier with one label.
        tokenizer: its fast tokenizer.
        max_length: tokens of a pair.
        max_query_length: tokens of a query; default half of a pair.
        batch_size: pairs of full length that go through the model at once; of shorter ones as many more as have the
            same number of tokens. Default by device.
        dtype: precision of the forward pass; `torch.bfloat16` is several times faster on hardware that has it, at
            about two correct digits, so measured figures use float32.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = 128,
        max_query_length: int | None = None,
        batch_size: int | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        if model.config.num_labels != 1:
            raise InputError(f"{model.name_or_path}: a ranker has one label, this model has {model.config.num_labels}")
        self.model, self.tokenizer, self.dtype = model, tokenizer, dtype
        self.batch_size = batch_size or BATCH_SIZE.get(model.device.type, BATCH_SIZE_ELSEWHERE)
        self.encoder = PairEncoder(tokenizer, max_length, max_query_length)
        use_padding_free(model)

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike,
        revision: str | None = None,
        max_length: int | None = None,
        max_query_length: int | None = None,
        fresh_head: bool = False,
        device: str | torch.device | None = None,
        **kwargs: Any,
    ) -> CrossEncoderRanker:
        """Load a ranker from a folder or the Hub, or any encoder to train one from.

        Args:
            model: folder or Hub id.
            revision: commit, tag or branch on the Hub; without one the newest commit is loaded, with a warning that
                names it. Code of a repository is never run.
            max_length: tokens of a pair; default what the ranker was trained with, or 128.
            max_query_length: tokens of a query; likewise.
            fresh_head: allow (and expect) a checkpoint without a trained classification head.
            device: where it runs; default a GPU where there is one.
            kwargs: to `CrossEncoderRanker`.

        Raises:
            InputError: no model there, no tokenizer, several labels, or no trained head and `fresh_head` not said.
        """
        _check_folder(model)
        if not Path(model).is_dir():
            revision = resolved(str(model), revision)
        common = {"revision": revision, "trust_remote_code": False}
        try:
            loaded, info = AutoModelForSequenceClassification.from_pretrained(
                model, num_labels=1, output_loading_info=True, ignore_mismatched_sizes=fresh_head, **common
            )
            tokenizer = AutoTokenizer.from_pretrained(model, use_fast=True, **common)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{model}: cannot be loaded as a ranker: {str(error).splitlines()[0]}") from error
        untrained = sorted(name for name in info["missing_keys"] if "classifier" in name or "score" in name)
        if untrained and not fresh_head:
            raise InputError(f"{model}: has no trained head ({', '.join(untrained)} missing): train it first")
        limits = getattr(loaded.config, "r2anker", None) or {}
        loaded.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
        max_length = max_length or limits.get("max_length", 128)
        return cls(loaded, tokenizer, max_length, max_query_length or limits.get("max_query_length"), **kwargs)

    def score(self, pairs: Iterable[tuple[str, str]], progress: bool = False, total: int | None = None) -> np.ndarray:
        """Score (query, document) text pairs.

        Args:
            pairs: any number of them, also a generator; `BUFFER` are held at a time.
            progress: show a bar.
            total: pairs to come, for the bar.

        Returns:
            [pairs] float32 logits in the order given; higher is more relevant.

        Raises:
            InputError: a score is not a number: the weights are broken.
        """
        scores = []
        with tqdm(total=total, unit="pair", disable=not progress, desc="rerank") as bar:
            for buffer in _buffers(pairs, BUFFER):
                scores.append(self._score_buffer(buffer, bar))
        return np.concatenate(scores) if scores else np.zeros(0, np.float32)

    def rerank(
        self,
        run: Run,
        collection: Collection,
        depth: int = 1000,
        progress: bool = False,
        folder: str | os.PathLike | None = None,
    ) -> Run:
        """Order the top `depth` documents of each of the collection's queries anew; deeper ones are left out.

        Every text is tokenised once, before the first batch; batches are of pairs of like length out of all queries.
        Several processes of one launch share them; all must call this, and every one gets the whole run, which is the
        same whatever their number.

        Args:
            run: a first stage.
            collection: texts of queries and documents; queries of the run that it lacks are left out.
            depth: documents reranked a query (the paper: 1000).
            progress: show a bar.
            folder: where tokens and finished scores go, so that a killed reranking goes on when it is called again
                with the same arguments; default a temporary folder.

        Returns:
            A run with the ranker's logits as scores. Ties are broken by document id, as in every run.

        Raises:
            InputError: the run names a document that the corpus lacks, or shares no query with the collection.
        """
        known = [query_id for query_id in run if query_id in collection.queries]
        if not known:
            raise InputError(f"run {run.name!r} and {collection.name} ({collection.split}) have no query in common")
        keys = [(query_id, document.doc_id) for query_id in known for document in run[query_id][:depth]]
        lists: dict[str, list[tuple[str, float]]] = {query_id: [] for query_id in known}
        with _shared_folder(folder) as shared:
            for (query_id, doc_id), score in zip(keys, self._scores(keys, collection, shared, progress), strict=True):
                lists[query_id].append((doc_id, float(score)))
            processes().wait_for_everyone()  # nobody removes what another still reads
        return Run(lists, name=f"{run.name}+ranker")

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write safetensors, tokenizer and configuration.

        transformers, sentence-transformers' CrossEncoder (5.1 and 6) and `from_pretrained` load the folder and give
        the same scores: the Identity activation stands in all three places that loaders read, the tokenizer has its
        real class and explicit input names, and `model_max_length` is this ranker's.
        """
        folder = Path(folder)
        limits = {"max_length": self.encoder.max_length, "max_query_length": self.encoder.max_query_length}
        self.model.config.r2anker = limits
        self.model.config.id2label, self.model.config.label2id = {0: "LABEL_0"}, {"LABEL_0": 0}
        self.model.save_pretrained(folder)
        self.tokenizer.model_max_length = self.encoder.max_length
        self.tokenizer.save_pretrained(folder)
        edit_json(folder / "tokenizer_config.json", portable_tokenizer(self.tokenizer))
        write_activation(folder)

    def _scores(
        self, keys: Sequence[tuple[str, str]], collection: Collection, folder: Path, progress: bool
    ) -> np.ndarray:
        """[keys] scores of (query id, document id), by way of shards in `folder`."""
        state = processes()
        doc_ids = list(dict.fromkeys(doc_id for _, doc_id in keys))
        texts = (collection.corpus.text(doc_id) for doc_id in doc_ids)
        with state.main_process_first():
            documents = Tokens.build(doc_ids, texts, self.tokenizer, folder / "tokens", self.encoder.max_length)
        query_ids = list(dict.fromkeys(query_id for query_id, _ in keys))
        encoded = encode(self.tokenizer, [collection.queries[query_id] for query_id in query_ids])
        queries = dict(zip(query_ids, encoded, strict=True))
        lengths = self.encoder.lengths(
            np.array([len(queries[query_id]) for query_id, _ in keys]),
            np.array([documents.length(doc_id) for _, doc_id in keys]),
        )
        parts = batches(lengths, self.batch_size * self.encoder.max_length)
        shards = [parts[start : start + SHARD] for start in range(0, len(parts), SHARD)]
        with tqdm(total=len(keys), unit="pair", disable=not (progress and state.is_main_process)) as bar:
            for number in range(state.process_index, len(shards), state.num_processes):
                path = folder / f"scores-{number:06d}.npy"
                if not path.exists():
                    pairs = (
                        [(queries[q], documents[d]) for q, d in (keys[i] for i in part)] for part in shards[number]
                    )
                    _save(path, self._logits(pairs))
                bar.update(sum(map(len, shards[number])))
        state.wait_for_everyone()
        scores = np.empty(len(keys), np.float32)
        for number, shard in enumerate(shards):
            scores[np.concatenate(shard)] = np.load(folder / f"scores-{number:06d}.npy")
        return scores

    def _score_buffer(self, pairs: Sequence[tuple[str, str]], bar: tqdm) -> np.ndarray:
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        tokens = dict(zip(texts, encode(self.tokenizer, texts), strict=True))
        sizes = np.array([[len(tokens[text]) for text in pair] for pair in pairs])
        parts = batches(self.encoder.lengths(*sizes.T), self.batch_size * self.encoder.max_length)
        scores = np.empty(len(pairs), np.float32)
        logits = self._logits([(tokens[pairs[i][0]], tokens[pairs[i][1]]) for i in part] for part in parts)
        scores[np.concatenate(parts)] = logits
        bar.update(len(pairs))
        return scores

    @torch.no_grad()  # in inference mode autocast would cast the weights anew for every batch
    def _logits(self, parts: Iterable[Sequence[tuple[Text, Text]]]) -> np.ndarray:
        """Logits of batches of pairs, one after the other."""
        device = self.model.device
        self.model.eval()
        logits = []
        with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            for pairs in parts:  # read from the device at the end alone, so that it never waits for the next batch
                lengths, inputs = self.encoder.batch(*zip(*pairs, strict=True))
                logits.append(forward(self.model, inputs, lengths.numpy()).float())
        result = torch.cat(logits).cpu().numpy()
        if np.isnan(result).any():
            raise InputError(f"{self.model.name_or_path}: scores are NaN; the weights or the precision are broken")
        return result


@contextmanager
def _shared_folder(folder: str | os.PathLike | None) -> Iterator[Path]:
    """The folder given, or a temporary one that the main process makes and removes."""
    if folder is not None:
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(broadcast_object_list([scratch])[0])


def _save(path: Path, scores: np.ndarray) -> None:
    unfinished = path.with_name(f".{path.name}.partial")
    with open(unfinished, "wb") as file:
        np.save(file, scores)
    os.replace(unfinished, path)


def _check_folder(model: str | os.PathLike) -> None:
    folder = Path(model)
    if folder.is_dir():
        if not any((folder / name).exists() for name in WEIGHT_FILES):
            raise InputError(f"{folder}: holds no model weights ({', '.join(WEIGHT_FILES)})")
        if not any((folder / name).exists() for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json")):
            raise InputError(f"{folder}: holds no tokenizer")
    elif folder.is_absolute() or str(model).startswith(".") or str(model).count("/") > 1:
        raise InputError(f"{model}: no such folder (give a model folder or a Hub repository 'owner/name')")


def _buffers(pairs: Iterable[tuple[str, str]], size: int) -> Iterable[list[tuple[str, str]]]:
    buffer: list[tuple[str, str]] = []
    for pair in pairs:
        buffer.append(pair)
        if len(buffer) == size:
            yield buffer
            buffer = []
    if buffer:
        yield buffer


def write_activation(folder: Path) -> None:
    """Write into a saved ranker, wherever a version of sentence-transformers reads it, that scores are raw logits."""
    library = _installed("sentence-transformers")
    in_config = {"activation_fn": IDENTITY, "version": library}
    changes = {"sbert_ce_default_activation_function": IDENTITY, "sentence_transformers": in_config}
    edit_json(folder / "config.json", changes)
    edit_json(
        folder / "config_sentence_transformers.json",
        {
            "model_type": "CrossEncoder",
            "__version__": {"sentence_transformers": library},
            "activation_fn": IDENTITY,
            "prompts": {},
        },
    )


def portable_tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Keys of tokenizer_config.json with which every version of transformers makes the same inputs; None removes."""
    # a class that only transformers 5 knows would be loaded elsewhere without token_type_ids, and score differently
    name = type(tokenizer).__name__
    return {
        "tokenizer_class": "PreTrainedTokenizerFast" if name == "TokenizersBackend" else name,
        "model_input_names": list(tokenizer.model_input_names),
        "is_local": None,
        "local_files_only": None,
        "name_or_path": None,
    }


def edit_json(path: Path, changes: Mapping[str, Any]) -> None:
    """Set keys of a JSON file, made anew where it is missing; None removes a key."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    content = {
        name: value for name, value in {**content, **changes}.items() if name not in changes or value is not None
    }
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a machine that only trains
        return "6.0.0"
