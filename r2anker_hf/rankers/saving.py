"""A ranker's folder: whoever saves one, every loader reads the same scores out of it."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..models.loading import check_finite
from .calibration import Calibration
from .collator import PairEncoder

IDENTITY = "torch.nn.modules.linear.Identity"


def save_ranker(
    model: PreTrainedModel,
    encoder: PairEncoder,
    folder: str | os.PathLike,
    state_dict: dict[str, Any] | None = None,
    calibration: Calibration | None = None,
) -> None:
    """Write safetensors, tokenizer and configuration of a sequence classifier with one label.

    Other loaders know neither `max_query_length` nor `max_windows`: with these, their scores of longer queries and
    documents differ, and a warning says so.

    Args:
        model: its class and configuration, and its weights.
        encoder: tokenizer and limits of length.
        folder: where to.
        state_dict: weights in place of the model's own, such as those gathered from several devices.
        calibration: of exactly these weights; a training that changes them saves none.

    Raises:
        InputError: a weight is NaN or infinite; nothing is written.
    """
    folder = Path(folder)
    check_finite(model if state_dict is None else state_dict, f"{folder}: not saved")
    if encoder.max_query_length is not None:
        limit = encoder.max_query_length
        warnings.warn(f"{folder}: other loaders do not cut queries at max_query_length {limit}", stacklevel=3)
    if encoder.max_windows > 1:
        note = f"other loaders read the first of max_windows {encoder.max_windows} only"
        warnings.warn(f"{folder}: {note}", stacklevel=3)
    model.config.r2anker = written_limits(encoder)
    if calibration is not None:
        model.config.r2anker["calibration"] = asdict(calibration)
    model.config.id2label, model.config.label2id = {0: "LABEL_0"}, {"LABEL_0": 0}
    model.save_pretrained(folder, state_dict=state_dict)
    save_files(encoder, folder)


def save_files(encoder: PairEncoder, folder: str | os.PathLike) -> None:
    """Write what a ranker's folder has beside its weights: the tokenizer, and that scores are raw logits."""
    folder = Path(folder)
    encoder.tokenizer.model_max_length = encoder.max_length
    encoder.tokenizer.save_pretrained(folder)
    edit_json(folder / "tokenizer_config.json", portable_tokenizer(encoder.tokenizer))
    write_activation(folder)


def written_limits(encoder: PairEncoder) -> dict[str, Any]:
    """What config.json says of how pairs are cut; `rankers.query_limit` reads it."""
    limits: dict[str, Any] = {"truncation": "longest_first", "max_length": encoder.max_length}
    if encoder.max_query_length is not None:
        limits["max_query_length"] = encoder.max_query_length
    if encoder.max_windows > 1:
        limits["max_windows"] = encoder.max_windows
    return limits


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
