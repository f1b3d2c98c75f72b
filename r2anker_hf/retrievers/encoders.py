"""A retriever's encoder out of its folder or the Hub: all its layers from there, in the precision asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from ..models.loading import (
    MODULES,
    check_layers,
    check_length,
    check_source,
    check_vocabulary,
    loading,
    modules_of,
    positions,
    settle,
)
from ..records import InputError
from .encoding import DTYPES


def load_encoder(
    kind: type, model: Any, revision: str | None = None, dtype: str | None = None, device: str | None = None
) -> Any:
    """A SentenceTransformer or SparseEncoder (`kind`), from its folder or Hub id, or the one given.

    Args:
        kind: the class.
        model: folder or Hub id, also of a plain encoder (with mean pooling) or, for a SparseEncoder, of a masked
            language model; or a model loaded already, which is taken as it is.
        revision: commit of a Hub model.
        dtype: one of `DTYPES`, of the weights; None for float32, whatever the checkpoint has.
        device: as torch names it; None for the best there is.

    Raises:
        InputError: an unknown dtype; revision, dtype or device for a model that is loaded already; no such model; a
            broken one, or one that would have random layers (see `check_encoder`).
    """
    if isinstance(model, kind):
        given = {"revision": revision, "dtype": dtype, "device": device}
        if set(given.values()) != {None}:
            names = ", ".join(name for name, value in given.items() if value is not None)
            raise InputError(f"{names}: can only be chosen for a model given by name, not for one already loaded")
        return model
    dtype = dtype or "float32"
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}; choose from {', '.join(DTYPES)}")
    check_source(model, revision, modules=True)
    options = {"dtype": getattr(torch, dtype), "ignore_mismatched_sizes": True}  # `check_encoder` names them
    with loading(model, kind.__name__):
        encoder = kind(os.fspath(model), revision=revision, device=device, model_kwargs=options)
    if dtype == "float32":
        encoder.float()  # modules beside the transformer, whose precision no option decides
    return check_encoder(encoder, model, revision)


def check_encoder(encoder: Any, model: str | os.PathLike, revision: str | None, fresh_head: bool = False) -> Any:
    """The encoder with its weights in memory of their own. A wrong weight, tokenizer or limit is refused.

    Args:
        encoder: as sentence-transformers loaded it.
        model: folder or Hub id that it came from.
        revision: commit of a Hub model.
        fresh_head: whether a masked language model may lack its head.

    Raises:
        InputError: layers would be random, weights are not finite, the tokenizer is another model's, or texts may be
            longer than the model has positions for.
    """
    parts = _modules(model, revision)
    if "SparseAutoEncoder" in map(_name, encoder) and "SparseAutoEncoder" not in parts.values():
        raise InputError(f"{model}: is no sparse encoder and has no masked-language-model head; train it first")
    transformer = getattr(encoder[0], "auto_model", None)
    if transformer is not None:
        if not hasattr(transformer, "peft_config"):  # adapters lie beside a model that is somewhere else
            # without a head it ends with hidden states, and a pooler that it may have is not read
            without = transformer.base_model is transformer
            info = _layers(transformer, model, revision, next(iter(parts), ""))
            check_layers(transformer, info, model, fresh_head or without)
        check_vocabulary(transformer, encoder.tokenizer, model)
        if encoder.max_seq_length == getattr(transformer.config, "max_position_embeddings", None):
            encoder.max_seq_length = positions(transformer)  # RoBERTa's first positions are no token's
        check_length(transformer, encoder.max_seq_length, model, "max_seq_length")
    return settle(encoder, model)


def head_is_fresh(encoder: Any, model: str | os.PathLike, revision: str | None) -> bool:
    """Whether the head of a masked language model, biases aside, is not in its checkpoint."""
    info = _layers(encoder[0].auto_model, model, revision)
    names = [*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])]
    return any(not name.endswith("bias") for name in names)


def _layers(
    transformer: Any, model: str | os.PathLike, revision: str | None, subfolder: str = ""
) -> Mapping[str, Any]:
    """What transformers says about the layers of a checkpoint; sentence-transformers does not hand it on.

    Names and sizes are read once more, on the device "meta", that is without the weights.
    """
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()  # it was all said at the first time
    transformers_logging.disable_progress_bar()
    try:
        with loading(model, type(transformer).__name__):
            _, info = type(transformer).from_pretrained(
                os.fspath(model),
                revision=revision,
                subfolder=subfolder,
                config=transformer.config,
                device_map="meta",
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
    return info


def _modules(model: str | os.PathLike, revision: str | None) -> dict[str, str]:
    """Folder of each module -> its class, as sentence-transformers saved them; nothing for a plain model."""
    from sentence_transformers.util import load_file_path

    path = load_file_path(os.fspath(model), MODULES, revision=revision)
    return modules_of(Path(path)) if path else {}


def _name(module: Any) -> str:
    return type(module).__name__
