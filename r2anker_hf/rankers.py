"""CrossEncoderRanker: score pairs, rerank a run, and save so that every loader gives the same scores."""

from __future__ import annotations

import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
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
from .files import remove_others
from .fingerprints import fingerprint, fingerprint_of, tokenizer_fingerprint, weights_fingerprint
from .padding_free import batches, forward, use_padding_free
from .processes import once, processes
from .records import InputError
from .revisions import resolved
from .run import Run
from .tokens import Tokens, encode

IDENTITY = "torch.nn.modules.linear.Identity"
BUFFER = 4096  # pairs tokenised and sorted by length together: bounds memory, keeps batches of like length
BATCH_SIZE = {"cpu": 32}  # a CPU's cache holds no more; a GPU wants to be filled
BATCH_SIZE_ELSEWHERE = 512
SHARD = 64  # default batches whose scores reach the disk together: what a killed reranking loses at most
SCORES = re.compile(r"scores-\d+(-[0-9a-f]{32})?\.npy")  # without a hash: of version 0.1.0
# Of a model's configuration: what `save_pretrained` writes, and the names of things.
_NOT_COMPUTED_WITH = ("r2anker", "sbert_ce_default_activation_function", "sentence_transformers", "architectures")
_NOT_COMPUTED_WITH += ("_name_or_path", "transformers_version", "id2label", "label2id", "dtype")
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


class CrossEncoderRanker:
    """A cross-encoder that scores (query, document) pairs (R2ANKER, Eq. 1); scores are raw logits.

    Args:
        model: sequence classifier with one label.
        tokenizer: its fast tokenizer.
        max_length: tokens of a pair.
        max_query_length: tokens kept of a query; default all (see `PairEncoder`).
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
        self.batch_size = batch_size or default_batch_size(model.device)
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
            max_query_length: tokens kept of a query; default what the ranker was trained with, or all.
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
        return cls(loaded, tokenizer, max_length, max_query_length or query_limit(limits, tokenizer), **kwargs)

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
        Several processes of one launch share them; all must call this, and every one gets the whole run. Its scores
        are the same to the last bit whatever their number, and however often the work was killed; another batch size
        changes them by rounding only.

        Args:
            run: a first stage.
            collection: texts of queries and documents; queries of the run that it lacks are left out.
            depth: documents reranked a query (the paper: 1000).
            progress: show a bar.
            folder: where tokens and finished scores go, so that a killed reranking goes on when it is called again;
                default a temporary folder. Scores of other weights, texts, lengths, precision or device are removed,
                and those of another batch size kept; other files stay as they are.

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
            scores = self._scores(keys, collection, shared, folder is not None, progress)
            for (query_id, doc_id), score in zip(keys, scores, strict=True):
                lists[query_id].append((doc_id, float(score)))
            processes().wait_for_everyone()  # nobody removes what another still reads
        return Run(lists, name=f"{run.name}+ranker")

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write safetensors, tokenizer and configuration.

        transformers, sentence-transformers' CrossEncoder (5.1 and 6) and `from_pretrained` load the folder and give
        the same scores: the Identity activation stands in all three places that loaders read, the tokenizer has its
        real class and explicit input names, and `model_max_length` is this ranker's. With a `max_query_length`, which
        they do not know, their scores of longer queries differ, and a warning says so.
        """
        folder = Path(folder)
        if self.encoder.max_query_length is not None:
            limit = self.encoder.max_query_length
            warnings.warn(f"{folder}: other loaders do not cut queries at max_query_length {limit}", stacklevel=2)
        self.model.config.r2anker = written_limits(self.encoder)
        self.model.config.id2label, self.model.config.label2id = {0: "LABEL_0"}, {"LABEL_0": 0}
        self.model.save_pretrained(folder)
        self.tokenizer.model_max_length = self.encoder.max_length
        self.tokenizer.save_pretrained(folder)
        edit_json(folder / "tokenizer_config.json", portable_tokenizer(self.tokenizer))
        write_activation(folder)

    def fingerprint(self) -> str:
        """Hash of all that decides the scores of given texts: weights, configuration, tokenizer, lengths, precision.

        Where the model runs is a part of it, since devices round differently; the batch size is not.
        """
        config = {name: value for name, value in self.model.config.to_dict().items() if name not in _NOT_COMPUTED_WITH}
        stated = json.dumps(config, sort_keys=True, default=str)
        weights = weights_fingerprint(self.model, (type(self.model).__name__, stated))
        lengths = self.encoder.max_length, self.encoder.max_query_length
        return fingerprint(
            weights, tokenizer_fingerprint(self.tokenizer), lengths, str(self.dtype), self.model.device.type
        )

    def _scores(
        self, keys: Sequence[tuple[str, str]], collection: Collection, folder: Path, kept: bool, progress: bool
    ) -> np.ndarray:
        """[keys] scores of (query id, document id), by way of shards in `folder`, which may be there."""
        state = processes()
        queries, documents = self._tokenised(keys, collection, folder / "tokens")
        lengths = self.encoder.lengths(
            np.array([len(queries[query_id]) for query_id, _ in keys]),
            np.array([documents.length(doc_id) for _, doc_id in keys]),
        )
        # by the device's default batch size, so that one who runs out of memory goes on with a smaller one
        size = SHARD * default_batch_size(self.model.device) * self.encoder.max_length
        shards = batches(lengths, size)
        source = once(lambda: self._source(keys, queries, documents, size)) if kept else "0"
        paths = [folder / f"scores-{number:06d}-{source}.npy" for number in range(len(shards))]
        if kept and state.is_main_process:
            remove_others(paths, folder, SCORES)
        state.wait_for_everyone()
        with tqdm(total=len(keys), unit="pair", disable=not (progress and state.is_main_process)) as bar:
            for number in range(state.process_index, len(shards), state.num_processes):
                shard = shards[number]
                if not paths[number].exists():
                    parts = batches(lengths[shard], self.batch_size * self.encoder.max_length)
                    pairs = ([(queries[q], documents[d]) for q, d in (keys[i] for i in shard[part])] for part in parts)
                    _save(paths[number], self._logits(pairs))
                bar.update(len(shard))
        state.wait_for_everyone()
        scores = np.empty(len(keys), np.float32)
        for shard, path in zip(shards, paths, strict=True):
            scores[shard] = np.load(path)
        return scores

    def _source(
        self, keys: Sequence[tuple[str, str]], queries: Mapping[str, list[int]], documents: Tokens, size: int
    ) -> str:
        """Hash of all that decides the scores of these pairs and their place in shards of so many tokens."""
        parts = (keys[start : start + BUFFER] for start in range(0, len(keys), BUFFER))
        return fingerprint_of(chain([self.fingerprint(), queries, documents.fingerprint, size], parts))

    def _tokenised(
        self, keys: Sequence[tuple[str, str]], collection: Collection, folder: Path
    ) -> tuple[dict[str, list[int]], Tokens]:
        """Token ids of the queries and of the documents of (query id, document id)."""
        query_ids, doc_ids = (list(dict.fromkeys(key[part] for key in keys)) for part in (0, 1))
        encoded = encode(self.tokenizer, [collection.queries[query_id] for query_id in query_ids])
        limit = self.encoder.document_limit(np.array([len(tokens) for tokens in encoded]))
        texts = (collection.corpus.text(doc_id) for doc_id in doc_ids)
        documents = Tokens.shared(doc_ids, texts, self.tokenizer, folder, limit)
        return dict(zip(query_ids, encoded, strict=True)), documents

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
                logits.append(forward(self.model, inputs, lengths).float())
        result = torch.cat(logits).cpu().numpy()
        if np.isnan(result).any():
            raise InputError(f"{self.model.name_or_path}: scores are NaN; the weights or the precision are broken")
        return result


def default_batch_size(device: torch.device) -> int:
    """Pairs of full length that go through a model at once, where nobody says how many."""
    return BATCH_SIZE.get(device.type, BATCH_SIZE_ELSEWHERE)


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


def written_limits(encoder: PairEncoder) -> dict[str, Any]:
    """What config.json says of how pairs are cut; `query_limit` reads it."""
    limits: dict[str, Any] = {"truncation": "longest_first", "max_length": encoder.max_length}
    return limits if encoder.max_query_length is None else {**limits, "max_query_length": encoder.max_query_length}


def query_limit(limits: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The `max_query_length` that a saved ranker was given; None where it was given none.

    Rankers of version 0.1.0 name no truncation, and half of a pair where none was given.

    >>> query_limit({"truncation": "longest_first", "max_length": 128, "max_query_length": 62}, None)
    62
    """
    limit = limits.get("max_query_length")
    if limit is None or "truncation" in limits:
        return limit
    half = (limits.get("max_length", 0) - tokenizer.num_special_tokens_to_add(pair=True)) // 2
    return None if limit == half else limit


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
