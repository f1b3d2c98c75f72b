"""CrossEncoderRanker: score pairs, rerank a run, and save so that every loader gives the same scores."""

from __future__ import annotations

import copy
import json
import os
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from tqdm.auto import tqdm
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from ..collection.collection import Collection
from ..files import remove_others
from ..fingerprints import fingerprint, fingerprint_of, tokenizer_fingerprint, weights_fingerprint
from ..models.attention import HALF
from ..models.loading import check_length, check_vocabulary, load, load_tokenizer, positions, seeded
from ..models.padding_free import batches, forward, use_padding_free
from ..models.tokens import Tokens, encode
from ..processes import once, processes
from ..records import InputError
from ..retrievers.base import cut
from ..revisions import resolved
from ..run import Run, RunFile
from .calibration import Calibration
from .collator import PairEncoder, Text, window_places
from .onnx_files import BATCH_SIZE as ONNX_BATCH_SIZE
from .onnx_files import OnnxModel
from .pairs import Pairs
from .pool import DevicePool, Devices, check_device
from .saving import save_ranker

BUFFER = 4096  # pairs tokenised and sorted by length together: bounds memory, keeps batches of like length
BATCH_SIZE = {"cpu": 16}  # a CPU's cache holds no more; a GPU wants to be filled
BATCH_SIZE_ELSEWHERE = 512
SHARD = 64  # default batches whose scores reach the disk together: what a killed reranking loses at most
SCORES = re.compile(r"scores-\d+(-[0-9a-f]{32})?\.npy")  # without a hash: of folders before 0.1.0
MAX_LENGTH = 128  # of a pair where nothing else is said (R2ANKER, appendix C)
# Of a model's configuration: what `save_pretrained` writes, and the names of things.
NOT_COMPUTED_WITH = (
    *("r2anker", "sbert_ce_default_activation_function", "sentence_transformers", "architectures"),
    *("_name_or_path", "transformers_version", "id2label", "label2id", "dtype"),
)


class Reranker(ABC):
    """What scores pairs, and so orders a run anew: in shards that outlast a kill, and that processes share."""

    def rerank(
        self,
        run: Run | RunFile,
        collection: Collection,
        depth: int = 1000,
        progress: bool = False,
        folder: str | os.PathLike | None = None,
    ) -> Run:
        """Order the top `depth` documents of each of the collection's queries anew; deeper ones are left out.

        Batches are of pairs of like length out of all queries. Several processes of one launch share them; all must
        call this, and every one gets the whole run. Its scores are the same to the last bit whatever their number,
        and however often the work was killed; another batch size changes them by rounding only.

        Args:
            run: a first stage; one that stays on disk takes no memory here, and each pair some 30 bytes.
            collection: texts of queries and documents; queries of the run that it lacks are left out.
            depth: documents reranked a query (the paper: 1000).
            progress: show a bar.
            folder: where all that is finished goes, so that a killed reranking goes on when it is called again;
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
        pairs = Pairs.of(run, known, depth)
        with _shared_folder(folder) as shared:
            scores = self._scores(pairs, collection, shared, folder is not None, progress)
            processes().wait_for_everyone()  # nobody removes what another still reads
        lists = {
            query_id: cut(pairs.doc_ids, pairs.documents[part], scores[part], depth)
            for query_id, part in zip(pairs.query_ids, pairs.of_queries(), strict=True)
        }
        return Run.of_ranked(lists, name=f"{run.name}+ranker")

    max_windows: int = 1  # windows of a long document; the best of them counts

    @property
    @abstractmethod
    def max_length(self) -> int:
        """Tokens of a pair."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of all that decides the scores of given texts."""

    @abstractmethod
    def _scores(self, pairs: Pairs, collection: Collection, folder: Path, kept: bool, progress: bool) -> np.ndarray:
        """[pairs] float32 scores, by way of shards in `folder` (see `in_shards`), if `kept`."""


class CrossEncoderRanker(Reranker):
    """A cross-encoder that scores (query, document) pairs (R2ANKER, Eq. 1); scores are raw logits.

    The score of a document that is read in several windows is the highest of theirs (MaxP; Dai and Callan 2019).

    Args:
        model: sequence classifier with one label, or an ONNX file of one.
        tokenizer: its fast tokenizer.
        max_length: tokens of a pair.
        max_query_length: tokens kept of a query; default all (see `PairEncoder`).
        batch_size: pairs of full length that go through the model at once; of shorter ones as many more as have the
            same number of tokens. Default by device.
        dtype: precision of the forward pass; `torch.bfloat16` is several times faster on hardware that has it, at
            about two correct digits, so measured figures use float32.
        max_windows: windows of a document that is longer than its room, overlapping by half; 1 truncates (see
            `PairEncoder`). Only documents that long take more time.
        calibration: how scores become probabilities (see `calibrate`); default none.
    """

    def __init__(
        self,
        model: PreTrainedModel | OnnxModel,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = 128,
        max_query_length: int | None = None,
        batch_size: int | None = None,
        dtype: torch.dtype = torch.float32,
        max_windows: int = 1,
        calibration: Calibration | None = None,
    ):
        if model.config.num_labels != 1:
            raise InputError(f"{model.name_or_path}: a ranker has one label, this model has {model.config.num_labels}")
        self.model = cast(PreTrainedModel, model)  # an ONNX file stands in for one, in all but training
        self.tokenizer, self.dtype = tokenizer, dtype
        default = ONNX_BATCH_SIZE if isinstance(model, OnnxModel) else default_batch_size(model.device)
        self.batch_size = batch_size or default
        self.encoder = PairEncoder(tokenizer, max_length, max_query_length, max_windows)
        self.calibration = calibration
        if isinstance(model, PreTrainedModel):
            use_padding_free(model)

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike,
        revision: str | None = None,
        max_length: int | None = None,
        max_query_length: int | None = None,
        fresh_head: bool = False,
        seed: int = 42,
        device: str | torch.device | None = None,
        max_windows: int | None = None,
        backend: str = "torch",
        **kwargs: Any,
    ) -> CrossEncoderRanker:
        """Load a ranker from a folder or the Hub, or any encoder to train one from; its weights become float32.

        On a CPU they become `dtype`, if that is given: casts to and from float32 between its operations would cost a
        fifth of the time, and do not bring scores nearer to those of float32. With `fresh_head` they stay float32,
        for training.

        Args:
            model: folder or Hub id.
            revision: commit, tag or branch on the Hub; without one the newest commit is loaded, with a warning that
                names it. Code of a repository is never run.
            max_length: tokens of a pair; default what the ranker was trained with, else 128, or fewer where it has no
                positions for them.
            max_query_length: tokens kept of a query; default what the ranker was trained with, or all.
            fresh_head: allow (and expect) a checkpoint without a trained classification head.
            seed: of a fresh head's weights.
            device: where it runs; default a GPU where there is one.
            max_windows: windows of a long document; default what the ranker was trained with, else 1.
            backend: "torch", or "onnx" and "onnx-int8" for the files of a published ranker, which run on the CPU.
            kwargs: to `CrossEncoderRanker`.

        Raises:
            InputError: no model there, or a broken one (see `models`); no tokenizer, or one of another model; several
                labels; `max_length` beyond the model's positions; no trained head and `fresh_head` not said.
        """
        if not Path(model).is_dir():
            revision = resolved(str(model), revision)
        loaded: Any
        if backend != "torch":
            loaded = OnnxModel.from_pretrained(model, revision, backend)
        else:
            with seeded(seed):
                loaded = load(
                    AutoModelForSequenceClassification, model, revision, kind="ranker", fresh_head=fresh_head, labels=1
                )
            loaded.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
            if loaded.device.type == "cpu" and not fresh_head:
                loaded.to(kwargs.get("dtype", torch.float32))
        tokenizer = load_tokenizer(model, revision, "ranker")
        if backend == "torch":
            check_vocabulary(loaded, tokenizer, model)
        limits = getattr(loaded.config, "r2anker", None) or {}
        max_length = max_length or limits.get("max_length") or min(MAX_LENGTH, positions(loaded) or MAX_LENGTH)
        check_length(loaded, max_length, model)
        max_query_length = max_query_length or query_limit(limits, tokenizer)
        max_windows = limits.get("max_windows", 1) if max_windows is None else max_windows
        if "calibration" in limits:
            kwargs.setdefault("calibration", Calibration.read(limits["calibration"], model))
        return cls(loaded, tokenizer, max_length, max_query_length, max_windows=max_windows, **kwargs)

    @property
    def max_length(self) -> int:
        return self.encoder.max_length

    @property
    def max_windows(self) -> int:  # type: ignore[override]
        return self.encoder.max_windows

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        *,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[[torch.Tensor], torch.Tensor] | None = None,
        calibrated: bool = False,
    ) -> list[dict[str, Any]]:
        """Documents of one query, best first; those of equal score in the order given.

        As of sentence-transformers' CrossEncoder, which gives the same for the same folder.

        Args:
            query: its text.
            documents: their texts.
            top_k: documents returned; default all.
            return_documents: whether to return the texts too.
            batch_size: as of `predict`.
            show_progress_bar: show a bar.
            activation_fn: as of `predict`.
            calibrated: as of `predict`; the order is that of the logits.

        Returns:
            A dictionary per document: `corpus_id`, its place in `documents`, `score`, and `text` if asked for.
        """
        calibration = self._calibration(activation_fn) if calibrated else None
        scores = self.predict(
            [(query, document) for document in documents],
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            activation_fn=activation_fn,
        )
        order = np.argsort(-scores, kind="stable")[:top_k].tolist()
        scores = calibration.probabilities(scores) if calibration else scores
        ranked = [{"corpus_id": place, "score": float(scores[place])} for place in order]
        return [{**one, "text": documents[one["corpus_id"]]} for one in ranked] if return_documents else ranked

    def predict(
        self,
        inputs: Sequence[Any],
        *,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[[torch.Tensor], torch.Tensor] | None = None,
        convert_to_tensor: bool = False,
        calibrated: bool = False,
        device: Devices | str | torch.device | None = None,
        pool: DevicePool | None = None,
        chunk_size: int | None = None,
    ) -> Any:
        """Scores of (query, document) pairs; equal pairs are scored once, so that they have equal scores.

        As of sentence-transformers' CrossEncoder, which gives the same for the same folder. `score` takes streams.

        Args:
            inputs: pairs of texts, or one pair.
            batch_size: pairs of full length that go through the model at once; default the ranker's.
            show_progress_bar: show a bar.
            activation_fn: applied to the logits, such as `torch.nn.Sigmoid()`; default none.
            convert_to_tensor: return a tensor on the model's device.
            calibrated: return the probability that the document is relevant, in place of the logit.
            device: where the model scores, and then stays. Of a list, each device scores a part in a process of its
                own, and scores are the same to the last bit as on one of them.
            pool: processes of `start_multi_process_pool`, which outlast this call.
            chunk_size: pairs that a process of a pool gets at a time; default `BUFFER`. Another number changes scores
                by rounding only.

        Returns:
            [pairs] float32 scores as an array or a tensor; of one pair a single number.

        Raises:
            InputError: something else than pairs of texts; a batch or chunk size below 1; a device that cannot be
                used; scores that are NaN; `calibrated` of a ranker without calibration, or beside an activation.
        """
        calibration = self._calibration(activation_fn) if calibrated else None
        alone = len(inputs) > 0 and isinstance(inputs[0], str)
        pairs = _pairs([inputs] if alone else inputs)
        unique = {pair: place for place, pair in enumerate(dict.fromkeys(pairs))}
        with self._pool_of(device) if pool is None else nullcontext(pool) as shared:
            if shared is None:
                found = self.score(unique, bool(show_progress_bar), len(unique), batch_size)
            else:
                found = _together(shared, list(unique), chunk_size, batch_size, bool(show_progress_bar))
        if len(unique) < len(pairs):
            found = found[[unique[pair] for pair in pairs]]
        if calibration:
            found = calibration.probabilities(found).astype(np.float32)
        scores: np.ndarray | torch.Tensor = found
        if activation_fn is not None or convert_to_tensor:
            values = torch.from_numpy(found).to(self.model.device if convert_to_tensor else "cpu")
            values = values if activation_fn is None else activation_fn(values)
            scores = values if convert_to_tensor else values.numpy()
        if not alone:
            return scores
        return scores[0] if convert_to_tensor else float(scores[0])

    def _calibration(self, activation_fn: Any) -> Calibration:
        if activation_fn is not None:
            raise InputError("calibrated and activation_fn both change the scores; give one of them")
        if self.calibration is None:
            raise InputError(
                f"{self.model.name_or_path}: has no calibration; publish.py --calibration fits one, and so does "
                "ranker.calibration = calibrate(run, qrels)"
            )
        return self.calibration

    def start_multi_process_pool(self, target_devices: Devices | None = None) -> DevicePool:
        """A process per device for `predict(..., pool=pool)`, as of sentence-transformers' CrossEncoder.

        Args:
            target_devices: as torch names them; default all GPUs.

        Raises:
            InputError: no device, or one that cannot be used.
        """
        return DevicePool(self, target_devices)

    @staticmethod
    def stop_multi_process_pool(pool: DevicePool) -> None:
        """End the processes of a pool."""
        pool.close()

    @contextmanager
    def _pool_of(self, device: Devices | str | torch.device | None) -> Iterator[DevicePool | None]:
        """A pool over several devices while it is needed; None for a single one, to which the model goes."""
        if device is None or isinstance(device, str | torch.device):
            if device is not None:
                check_device(device, self.model)
                self.model.to(device)  # type: ignore  # see `from_pretrained`
            yield None
        else:
            with closing(self.start_multi_process_pool(device)) as pool:
                yield pool

    def score(
        self,
        pairs: Iterable[tuple[str, str]],
        progress: bool = False,
        total: int | None = None,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Score (query, document) text pairs, each by the best of its windows.

        Args:
            pairs: any number of them, also a generator; `BUFFER` are held at a time.
            progress: show a bar.
            total: pairs to come, for the bar.
            batch_size: in place of the ranker's.

        Returns:
            [pairs] float32 logits in the order given; higher is more relevant.

        Raises:
            InputError: a score is not a number: the weights are broken; or a batch size below 1.
        """
        if batch_size is not None and batch_size < 1:
            raise InputError(f"batch_size is {batch_size}, but must be at least 1")
        size = batch_size or self.batch_size
        scores = []
        with tqdm(total=total, unit="pair", disable=not progress, desc="rerank") as bar:
            for buffer in _buffers(pairs, BUFFER):
                scores.append(self._score_buffer(buffer, bar, size))
        return np.concatenate(scores) if scores else np.zeros(0, np.float32)

    def rerank(
        self,
        run: Run | RunFile,
        collection: Collection,
        depth: int = 1000,
        progress: bool = False,
        folder: str | os.PathLike | None = None,
        max_windows: int | None = None,
    ) -> Run:
        """As every ranker's, with `max_windows` windows of a long document; default the ranker's own.

        Every text is tokenised once, before the first batch. Windows are slices of a document's tokens, batched as any
        other pair; a document stays in one shard.
        """
        ranker = self if max_windows is None else self._with_windows(max_windows)
        return super(CrossEncoderRanker, ranker).rerank(run, collection, depth, progress, folder)

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write safetensors, tokenizer and configuration.

        transformers, sentence-transformers' CrossEncoder (5.1 and 6) and `from_pretrained` load the folder and give
        the same scores: the Identity activation stands in all three places that loaders read, the tokenizer has its
        real class and explicit input names, and `model_max_length` is this ranker's. They know neither a
        `max_query_length` nor `max_windows`: with these, their scores of longer queries and documents differ, and a
        warning says so. Of a document of several windows they score the first only.
        """
        if not isinstance(self.model, PreTrainedModel):
            raise InputError(f"{self.model.name_or_path}: an ONNX file is not saved again; load it with backend torch")
        if self.model.dtype in HALF:
            raise InputError(
                f"{self.model.name_or_path}: was loaded as {self.model.dtype}; load it without dtype to save"
            )
        save_ranker(self.model, self.encoder, folder, calibration=self.calibration)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        token: str | None = None,
        private: bool | None = None,
        commit_message: str = "Add a cross-encoder ranker",
        exist_ok: bool = False,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Put the files of `save_pretrained` into a model repository, in one commit; it gets no model card.

        `recipes/publish.py` publishes a ranker with a card, measured figures, and a check of what stands there.

        Args:
            repo_id: owner/name; made if there is none.
            token: that may write; default the one of `hf auth login` or HF_TOKEN.
            private: whether a new repository is private; default as the owner's settings say.
            commit_message: title of the commit.
            exist_ok: whether the repository may be there already.
            revision: branch; default main.
            create_pr: open a pull request in place of a commit to the branch.

        Returns:
            The commit's address.

        Raises:
            InputError: the Hub refused, for instance since the repository exists.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

        api = HfApi(token=token)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            try:
                repo_id = api.create_repo(repo_id, private=private, exist_ok=exist_ok or create_pr).repo_id
                if revision is not None:
                    api.create_branch(repo_id, branch=revision, exist_ok=True)
                sent = api.upload_folder(
                    repo_id=repo_id,
                    folder_path=folder,
                    commit_message=commit_message,
                    revision=revision,
                    create_pr=create_pr,
                )
                return str(sent.commit_url)
            except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError) as error:
                raise InputError(f"{repo_id}: not pushed: {str(error).strip().splitlines()[0]}") from error

    def fingerprint(self) -> str:
        """Hash of all that decides the scores of given texts: weights, configuration, tokenizer, limits, precision.

        Where the model runs is a part of it, since devices round differently; the batch size is not.
        """
        config = {name: value for name, value in self.model.config.to_dict().items() if name not in NOT_COMPUTED_WITH}
        stated = json.dumps(config, sort_keys=True, default=str)
        weights = weights_fingerprint(self.model, (type(self.model).__name__, stated))
        limits: tuple[int | None, ...] = (self.encoder.max_length, self.encoder.max_query_length)
        if self.encoder.max_windows > 1:  # one window is what all rankers had before there was a choice
            limits += (self.encoder.max_windows,)
        return fingerprint(
            weights, tokenizer_fingerprint(self.tokenizer), limits, str(self.dtype), self.model.device.type
        )

    def _with_windows(self, max_windows: int) -> CrossEncoderRanker:
        """The same ranker with other windows; the model is shared."""
        other = copy.copy(self)
        other.encoder = replace(self.encoder, max_windows=max_windows)
        return other

    def _scores(self, pairs: Pairs, collection: Collection, folder: Path, kept: bool, progress: bool) -> np.ndarray:
        # every text is tokenised once, before the first batch
        queries, documents = self._tokenised(pairs, collection, folder / "tokens")
        lengths = (
            np.array([len(tokens) for tokens in queries], np.int64)[pairs.queries],
            documents.lengths()[pairs.documents],
        )
        sizes = np.stack(lengths, axis=1)
        # by the device's default batch size, so that one who runs out of memory goes on with a smaller one
        size = SHARD * default_batch_size(self.model.device) * self.encoder.max_length
        shards = batches(self.encoder.lengths(*sizes.T) * self.encoder.windows(*sizes.T), size)
        source = once(lambda: self._source(pairs, queries, documents, size)) if kept else "0"

        def score(shard: np.ndarray) -> np.ndarray:
            def texts(place: int) -> tuple[list[int], np.ndarray]:
                pair = shard[place]
                return queries[pairs.queries[pair]], documents.at(pairs.documents[pair])

            return self._best(sizes[shard], texts, self.batch_size)

        return in_shards(score, shards, folder, source, kept, progress)

    def _source(self, pairs: Pairs, queries: Sequence[list[int]], documents: Tokens, size: int) -> str:
        """Hash of all that decides the scores of these pairs and their place in shards of so many tokens."""
        return fingerprint_of(chain([self.fingerprint(), queries, documents.fingerprint, size], pairs.stated()))

    def _tokenised(self, pairs: Pairs, collection: Collection, folder: Path) -> tuple[list[list[int]], Tokens]:
        """Token ids of the queries and of the documents, each in the order of the pairs' ids."""
        queries = encode(self.tokenizer, [collection.queries[query_id] for query_id in pairs.query_ids])
        limit = self.encoder.document_limit(np.array([len(tokens) for tokens in queries]))
        texts = collection.corpus.texts_of(pairs.doc_ids)
        return queries, Tokens.shared((), texts, self.tokenizer, folder, limit)

    def _score_buffer(self, pairs: Sequence[tuple[str, str]], bar: tqdm, batch_size: int) -> np.ndarray:
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        tokens = dict(zip(texts, encode(self.tokenizer, texts), strict=True))
        sizes = np.array([[len(tokens[text]) for text in pair] for pair in pairs])
        scores = self._best(sizes, lambda place: (tokens[pairs[place][0]], tokens[pairs[place][1]]), batch_size)
        bar.update(len(pairs))
        return scores

    def _best(self, sizes: np.ndarray, pair: Callable[[int], tuple[Text, Text]], batch_size: int) -> np.ndarray:
        """[pairs] scores, each the highest of the pair's windows.

        Args:
            sizes: [pairs, 2] tokens of query and document.
            pair: token ids of both by the pair's place, read batch by batch.
            batch_size: pairs of full length that go through the model at once.
        """
        owners, numbers = window_places(self.encoder.windows(*sizes.T))
        parts = batches(self.encoder.lengths(*sizes.T)[owners], batch_size * self.encoder.max_length)
        logits = self._logits([(*pair(owners[place]), numbers[place]) for place in part] for part in parts)
        scores = np.full(len(sizes), -np.inf, np.float32)
        np.maximum.at(scores, owners[np.concatenate(parts)], logits)
        return scores

    @torch.no_grad()  # in inference mode autocast would cast the weights anew for every batch
    def _logits(self, parts: Iterable[Sequence[tuple]]) -> np.ndarray:
        """Logits of batches of pairs, one after the other: query, document and perhaps the window's number."""
        device = self.model.device
        self.model.eval()
        logits = []
        with torch.autocast(device.type, self.dtype, enabled=self.dtype not in (torch.float32, self.model.dtype)):
            for pairs in parts:  # read from the device at the end alone, so that it never waits for the next batch
                lengths, inputs = self.encoder.batch(*zip(*pairs, strict=True))
                logits.append(forward(self.model, inputs, lengths.numpy()).float())
        result = torch.cat(logits).cpu().numpy()
        if np.isnan(result).any():
            raise InputError(f"{self.model.name_or_path}: scores are NaN; the weights or the precision are broken")
        return result


def _pairs(inputs: Sequence[Any]) -> list[tuple[str, str]]:
    """(query, document) texts, unless something else was given."""
    pairs = [tuple(pair) if isinstance(pair, list | tuple | np.ndarray) else (pair,) for pair in inputs]
    for place, pair in enumerate(pairs):
        if len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise InputError(f"inputs[{place}] is {str(inputs[place])[:80]!r}, but must be a pair (query, document)")
    return pairs


def _together(
    pool: DevicePool, pairs: list[tuple[str, str]], chunk_size: int | None, batch_size: int | None, progress: bool
) -> np.ndarray:
    """Scores of pairs by all processes of a pool, in the chunks that one process would go through."""
    if chunk_size is not None and chunk_size < 1:
        raise InputError(f"chunk_size is {chunk_size}, but must be at least 1")
    scores = []
    with tqdm(total=len(pairs), unit="pair", disable=not progress, desc="rerank") as bar:
        for found in pool.score(_buffers(pairs, chunk_size or BUFFER), batch_size):
            scores.append(found)
            bar.update(len(found))
    return np.concatenate(scores) if scores else np.zeros(0, np.float32)


def in_shards(
    score: Callable[[np.ndarray], np.ndarray],
    shards: Sequence[np.ndarray],
    folder: Path,
    source: str,
    kept: bool,
    progress: bool,
) -> np.ndarray:
    """Scores made shard by shard, each by one of the processes of a launch; those that lie in the folder stay.

    Args:
        score: (positions of a shard's pairs) -> their scores in that order.
        shards: positions of all pairs, each once.
        folder: where each shard's scores go.
        source: hash of all that decides them; shards of another one are removed.
        kept: whether the folder outlasts this call.
        progress: show a bar.

    Returns:
        [pairs] float32 scores, for every process.
    """
    state = processes()
    paths = [folder / f"scores-{number:06d}-{source}.npy" for number in range(len(shards))]
    if kept and state.is_main_process:
        remove_others(paths, folder, SCORES)
    state.wait_for_everyone()
    total = sum(map(len, shards))
    with tqdm(total=total, unit="pair", disable=not (progress and state.is_main_process)) as bar:
        for number in range(state.process_index, len(shards), state.num_processes):
            if not paths[number].exists():
                _save(paths[number], score(shards[number]))
            bar.update(len(shards[number]))
    state.wait_for_everyone()
    scores = np.empty(total, np.float32)
    for shard, path in zip(shards, paths, strict=True):
        scores[shard] = np.load(path)
    return scores


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


def _buffers(pairs: Iterable[tuple[str, str]], size: int) -> Iterable[list[tuple[str, str]]]:
    buffer: list[tuple[str, str]] = []
    for pair in pairs:
        buffer.append(pair)
        if len(buffer) == size:
            yield buffer
            buffer = []
    if buffer:
        yield buffer


def query_limit(limits: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The `max_query_length` that a saved ranker was given; None where it was given none.

    Rankers saved before 0.1.0 name no truncation, and half of a pair where none was given.

    >>> query_limit({"truncation": "longest_first", "max_length": 128, "max_query_length": 62}, None)
    62
    """
    limit = limits.get("max_query_length")
    if limit is None or "truncation" in limits:
        return limit
    half = (limits.get("max_length", 0) - tokenizer.num_special_tokens_to_add(pair=True)) // 2
    return None if limit == half else limit
