"""Rankers of others: any CrossEncoder or bi-encoder of sentence-transformers, beside our own, through one door.

A folder that `CrossEncoderRanker` reads as sentence-transformers does comes in that way, which is the faster one. What
is more than a sequence classifier over two texts goes through sentence-transformers itself: stacks of modules,
decoders that answer yes or no, prompts, chat templates.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..collection.collection import Collection
from ..fingerprints import fingerprint, fingerprint_of, tokenizer_fingerprint, weights_fingerprint
from ..models.loading import MODULES, check_source, load_tokenizer, loading
from ..processes import is_main_process, once
from ..records import InputError
from ..retrievers.encoders import check_encoder
from ..revisions import resolved
from .bi_encoder import CLASSES, BiEncoderRanker
from .pairs import Pairs
from .ranker import BUFFER, NOT_COMPUTED_WITH, CrossEncoderRanker, Reranker, in_shards

LIBRARY = "sentence-transformers"
STATED = "config_sentence_transformers.json"
BATCH_SIZE = 32  # the library's own, on every device: its models may be large and their pairs long
SHARD = 16 * BATCH_SIZE  # pairs whose scores reach the disk together: what a killed reranking loses at most
ROLES = ("query", "document")  # of the messages that sentence-transformers makes of a pair


def load_ranker(
    model: str | os.PathLike,
    revision: str | None = None,
    *,
    max_length: int | None = None,
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    prompt: str | None = None,
    max_windows: int | None = None,
    retriever: str | None = None,
    index: str | os.PathLike | None = None,
) -> Reranker:
    """Any cross-encoder: by `CrossEncoderRanker` where that scores as sentence-transformers does, else by the latter.

    A bi-encoder becomes a `BiEncoderRanker`, and its scores are those of its search.

    Args:
        model: folder or Hub id.
        revision: commit, tag or branch on the Hub.
        max_length: tokens of a pair; default what the model says.
        batch_size: pairs scored at once; default by the way it is loaded.
        dtype: precision of the forward pass.
        device: where it runs; default a GPU where there is one.
        prompt: see `ForeignRanker`.
        max_windows: windows of a long document; default what the ranker was trained with, else 1.
        retriever: "dense" or "splade" for a bi-encoder of that kind; default what the model's files say.
        index: of a bi-encoder over the whole corpus (see `BiEncoderRanker`).

    Raises:
        InputError: neither can load it; it has several labels; windows for another library; an index for a
            cross-encoder; length, prompt or windows for a bi-encoder.
    """
    if not Path(model).is_dir():
        revision = resolved(str(model), revision)
    if kind := retriever or bi_encoder_kind(model, revision):
        given = {"max_length": max_length, "prompt": prompt, "max_windows": max_windows}
        if names := [name for name, value in given.items() if value is not None]:
            raise InputError(f"{model}: is a {kind} bi-encoder, which reads no pairs: leave out {', '.join(names)}")
        return BiEncoderRanker.from_pretrained(
            model, kind, revision, dtype, device, batch_size=batch_size, index=index
        )
    if index is not None:
        raise InputError(f"{model}: is no bi-encoder, so that it has no index: leave {index} out")
    reason = foreign_because(model, revision, prompt)
    if reason is None:
        return CrossEncoderRanker.from_pretrained(
            model,
            revision,
            max_length,
            device=device,
            max_windows=max_windows,
            batch_size=batch_size,
            dtype=dtype,
        )
    if (max_windows or 1) > 1:
        raise InputError(
            f"{model}: max_windows is {max_windows}, but {LIBRARY} scores it, since {reason}: leave it out"
        )
    if is_main_process():
        print(f"{model}: scored by {LIBRARY}, since {reason}")
    return ForeignRanker.from_pretrained(
        model, revision, max_length, dtype=dtype, device=device, prompt=prompt, batch_size=batch_size
    )


def loaded_by(
    model: str | os.PathLike, revision: str | None = None, prompt: str | None = None, retriever: str | None = None
) -> dict[str, str]:
    """What a stage records of a ranker beside the model itself: nothing of one that comes in the usual way."""
    other = retriever or bi_encoder_kind(model, revision) or foreign_because(model, revision, prompt)
    return {"ranker scored by": LIBRARY} if other else {}


def bi_encoder_kind(model: str | os.PathLike, revision: str | None = None) -> str | None:
    """Whether sentence-transformers saved it as a bi-encoder: "dense", "splade", or None for anything else.

    Raises:
        InputError: it is a bi-encoder of another kind.
    """
    kind = _content(model, STATED, revision).get("model_type", CLASSES["dense"])  # what a missing one means
    if kind == "CrossEncoder" or not _content(model, MODULES, revision, list):
        return None
    if _architecture(model, revision).endswith("ForSequenceClassification"):
        return None
    if kind not in CLASSES.values():
        raise InputError(f"{model}: is a {kind}, but a ranker is a CrossEncoder, {' or '.join(CLASSES.values())}")
    return next(retriever for retriever, name in CLASSES.items() if name == kind)


def foreign_because(model: str | os.PathLike, revision: str | None = None, prompt: str | None = None) -> str | None:
    """Why a ranker goes through sentence-transformers; None for one that `CrossEncoderRanker` loads, or refuses.

    Weights are not read, and what cannot be read counts as missing: whichever loader comes next says so.
    """
    config = _content(model, "config.json", revision)
    modules = _content(model, MODULES, revision, list)
    stated = _content(model, STATED, revision)
    if prompt:
        return "it is given a prompt"
    if "r2anker" in config:
        return None
    parts = [str(one.get("type")).rpartition(".")[2] if isinstance(one, dict) else repr(one) for one in modules]
    if parts and (parts != ["Transformer"] or modules[0].get("path")):
        return f"it is a stack of modules ({', '.join(parts)})"
    if _architecture(model, revision).endswith("ForCausalLM"):
        return "it is a language model, whose next word is the score"
    if stated.get("default_prompt_name"):
        return f"it has a prompt ({stated['default_prompt_name']})"
    settings = _content(model, "sentence_bert_config.json", revision)
    if "message" in (settings.get("modality_config") or ()):
        return "it has a chat template"
    return _of_tokenizer(model, revision, bool(settings))


class ForeignRanker(Reranker):
    """A CrossEncoder of sentence-transformers; scores are its raw logits, whatever activation the model names.

    Of a decoder that answers yes or no, that is the logit of yes less the one of no; of a stack of modules, what its
    last one gives. Weights are in the precision that is asked for, and not only the forward pass.

    Args:
        model: a CrossEncoder with one label.
        name: what errors call it.
        batch_size: pairs that go through the model at once; default 32.
        prompt: name of one of the model's prompts, or a prompt's text, which comes before every query, or as system
            message where the model has a chat template; default the model's own.
    """

    def __init__(self, model: Any, name: str, batch_size: int | None = None, prompt: str | None = None):
        if model.num_labels != 1:
            raise InputError(f"{name}: has {model.num_labels} labels, but a ranker has 1")
        self.model, self.name, self.batch_size = model.eval(), name, batch_size or BATCH_SIZE
        default = model.prompts.get(model.default_prompt_name or "", "")
        self.prompt: str = default if prompt is None else model.prompts.get(prompt, prompt)

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike,
        revision: str | None = None,
        max_length: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device | None = None,
        **kwargs: Any,
    ) -> ForeignRanker:
        """Load one from a folder or the Hub; code of a repository is never run.

        Args:
            model: folder or Hub id.
            revision: commit, tag or branch on the Hub.
            max_length: tokens of a pair; default what the model says.
            dtype: of the weights.
            device: where it runs; default a GPU where there is one.
            kwargs: to `ForeignRanker`.

        Raises:
            InputError: no model there, or a broken one; its layers are not in its checkpoint; several labels;
                `max_length` beyond the model's positions; its chat template has no place for a pair.
        """
        from sentence_transformers import CrossEncoder

        check_source(model, revision, modules=True)
        device = str(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        options = {"dtype": dtype, "ignore_mismatched_sizes": True}  # `check_encoder` names them
        with loading(model, "ranker"):
            loaded = CrossEncoder(
                os.fspath(model), revision=revision, device=device, max_length=max_length, model_kwargs=options
            )
        loaded.to(dtype)  # modules beside the transformer, whose precision no option decides
        ranker = cls(loaded, str(model), **kwargs)
        check_encoder(loaded, model, revision)
        _check_answers(loaded, model)
        with loading(model, "ranker"):
            ranker.score([("a", "b")])
        return ranker

    @property
    def max_length(self) -> int:
        return self.model.max_seq_length

    def score(self, pairs: Iterable[tuple[str, str]], progress: bool = False, total: int | None = None) -> np.ndarray:
        """Score (query, document) text pairs.

        Args:
            pairs: any number of them, also a generator; `BUFFER` are held at a time.
            progress: show a bar.
            total: pairs to come, for the bar.

        Returns:
            [pairs] float32 raw scores in the order given; higher is more relevant.

        Raises:
            InputError: a score is not a number: the weights are broken.
        """
        left, scores = iter(pairs), [np.zeros(0, np.float32)]
        with tqdm(total=total, unit="pair", disable=not progress, desc="rerank") as bar:
            while buffer := list(islice(left, BUFFER)):
                scores.append(self._predict(buffer))
                bar.update(len(buffer))
        return np.concatenate(scores)

    def fingerprint(self) -> str:
        """Hash of all that decides the scores of given texts: weights, modules, tokenizer, length, prompt, precision.

        Where the model runs is a part of it, since devices round differently; the batch size is not.
        """
        model = self.model
        config = {name: value for name, value in model.config.to_dict().items() if name not in NOT_COMPUTED_WITH}
        stated = json.dumps(config, sort_keys=True, default=str)
        tokenizer = model.tokenizer
        words = tokenizer_fingerprint(tokenizer) if tokenizer.is_fast else fingerprint(repr(tokenizer))
        settings = self.max_length, self.prompt, str(model.dtype), model.device.type, model.processor.chat_template
        return fingerprint(weights_fingerprint(model, (repr(model), stated)), words, *settings, version(LIBRARY))

    def _scores(self, pairs: Pairs, collection: Collection, folder: Path, kept: bool, progress: bool) -> np.ndarray:
        queries, corpus = [collection.queries[query_id] for query_id in pairs.query_ids], collection.corpus
        lengths = np.array([len(text) for text in corpus.texts_of(pairs.doc_ids)], np.int64)[pairs.documents]
        lengths += np.array([len(query) for query in queries], np.int64)[pairs.queries]
        # like long ones together, by characters, as the library sorts them
        order = np.argsort(-lengths, kind="stable")
        shards = [order[start : start + SHARD] for start in range(0, len(order), SHARD)]

        def source() -> str:
            texts = corpus.texts_of(pairs.doc_ids)
            return fingerprint_of(chain([self.fingerprint(), SHARD], pairs.stated(), queries, texts))

        def score(shard: np.ndarray) -> np.ndarray:
            chosen = pairs.ids(shard)
            return self._predict([(collection.queries[query_id], corpus.text(doc_id)) for query_id, doc_id in chosen])

        folder.mkdir(parents=True, exist_ok=True)
        return in_shards(score, shards, folder, once(source) if kept else "0", kept, progress)

    def _predict(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        options = {"batch_size": self.batch_size, "show_progress_bar": False, "activation_fn": torch.nn.Identity()}
        scores = self.model.predict(list(pairs), prompt=self.prompt, **options)
        if np.isnan(scores).any():
            raise InputError(f"{self.name}: scores are NaN; the weights or the precision are broken")
        return scores.astype(np.float32, copy=False)


def _content(model: str | os.PathLike, name: str, revision: str | None, kind: type = dict) -> Any:
    """A JSON file of a folder or Hub repository; empty where it is missing, broken, or no such `kind`."""
    from transformers.utils import cached_file

    try:
        path = cached_file(os.fspath(model), name, revision=revision, _raise_exceptions_for_missing_entries=False)
        found = json.loads(Path(path).read_text(encoding="utf-8")) if path else None
    except (OSError, ValueError):
        found = None
    return found if isinstance(found, kind) else kind()


def _architecture(model: str | os.PathLike, revision: str | None) -> str:
    """The first class that `config.json` names; empty where it names none."""
    names = _content(model, "config.json", revision).get("architectures")
    return str(names[0]) if names and isinstance(names, list) else ""


def _of_tokenizer(model: str | os.PathLike, revision: str | None, saved: bool) -> str | None:
    """Why a classifier's tokenizer asks for sentence-transformers; `saved` by that, it has said so in another file."""
    try:
        tokenizer = load_tokenizer(model, revision)
    except InputError:
        return None
    if not tokenizer.is_fast:
        return "its tokenizer is a slow one"
    template = str(tokenizer.chat_template or "")
    return "it has a chat template" if not saved and all(role in template for role in ROLES) else None


def _check_answers(model: Any, source: str | os.PathLike) -> None:
    """Refuse a language model whose tokenizer lacks the words that are its answers."""
    for module in model:
        if type(module).__name__ == "LogitScore" and module.true_token_id == module.false_token_id:
            raise InputError(f"{source}: its tokenizer has no tokens for the answers yes and no")
