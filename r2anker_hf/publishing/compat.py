"""Model folders as every loader reads them alike: sentence-transformers 6 and 5.1, transformers, TEI's layout.

What each of them reads, and in which order, differs: the activation of a ranker stands in one of three places, the
pooling in one of two forms, the classes of modules moved, and a tokenizer without explicit input names loses
`token_type_ids` in some. All of it is written in the form that the oldest reads and the newest still understands.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..rankers.ranker import CrossEncoderRanker
from ..rankers.saving import edit_json, portable_tokenizer, write_activation
from ..records import InputError
from .golden import PAIRS, is_sparse, load_retriever

# Way of pooling -> the boolean that stood for it before sentence-transformers 5.4, and that TEI reads.
POOLING_MODES = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
EQUAL = 1e-5  # between loaders on one machine
# Class -> its path before sentence-transformers 5.4, which later versions still import.
_DENSE = {name: f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Normalize", "Dense")}
_SPARSE = {
    "Transformer": "sentence_transformers.sparse_encoder.models.MLMTransformer",
    "MLMTransformer": "sentence_transformers.sparse_encoder.models.MLMTransformer",
    "SpladePooling": "sentence_transformers.sparse_encoder.models.SpladePooling",
}


def rewrite(kind: str, folder: str | os.PathLike) -> None:
    """Rewrite the JSON files of a ranker's or retriever's folder in place; weights stay as they are.

    Raises:
        InputError: a model that cannot be written in a form that all loaders read.
    """
    folder = Path(folder)
    _strip_config(folder)
    if kind == "ranker":
        _rewrite_ranker(folder)
    else:
        _rewrite_retriever(folder)


def check(kind: str, folder: str | os.PathLike) -> None:
    """Score pairs with every loader that is installed, and look at the layout for those that are not.

    Raises:
        InputError: two loaders give different scores; the message says which, and by how much.
    """
    folder = Path(folder)
    _check_tokenizer(folder, pair=kind == "ranker")
    if kind == "ranker":
        _check_ranker(folder)
    else:
        load_retriever(folder)


def _strip_config(folder: Path) -> None:
    config = _read(folder / "config.json")
    if "auto_map" in config:
        raise InputError(f"{folder / 'config.json'}: has auto_map, which makes loaders run code of the repository")
    edit_json(folder / "config.json", {"_name_or_path": None})


def _rewrite_ranker(folder: Path) -> None:
    config = _read(folder / "config.json")
    architectures = config.get("architectures") or ["none"]
    if not architectures[0].endswith("ForSequenceClassification"):
        raise InputError(
            f"{folder / 'config.json'}: the architecture is {architectures[0]}, not ...ForSequenceClassification"
        )
    if len(config.get("id2label", {})) > 1 or config.get("num_labels", 1) > 1:
        raise InputError(f"{folder / 'config.json'}: several labels, but a ranker has one")
    labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "num_labels": None}
    edit_json(folder / "config.json", labels)
    write_activation(folder)
    _rewrite_tokenizer(folder)


def _rewrite_tokenizer(folder: Path) -> None:
    from transformers import AutoTokenizer

    if not (folder / "tokenizer.json").exists():
        raise InputError(f"{folder / 'tokenizer.json'}: no such file; save the model with a fast tokenizer")
    edit_json(folder / "tokenizer_config.json", portable_tokenizer(AutoTokenizer.from_pretrained(folder)))


def _rewrite_retriever(folder: Path) -> None:
    model, sparse = load_retriever(folder), is_sparse(folder)
    modules = _read(folder / "modules.json")
    paths = _SPARSE if sparse else _DENSE
    for module in modules:
        name = module["type"].rpartition(".")[2]
        if name not in paths:
            raise InputError(
                f"{folder / 'modules.json'}: module {module['type']}, but what older versions and servers load are "
                f"{', '.join(paths)}"
            )
        module["type"] = paths[name]
        _rewrite_module(folder / module["path"], name, model)
    _write(folder / "modules.json", modules)
    _rewrite_tokenizer(folder)
    edit_json(folder / "tokenizer_config.json", {"model_max_length": model.max_seq_length})


def _rewrite_module(folder: Path, name: str, model: Any) -> None:
    if name in ("Transformer", "MLMTransformer"):
        path = folder / "sentence_bert_config.json"
        lower = _read(path).get("do_lower_case", False) if path.exists() else False
        _write(path, {"max_seq_length": model.max_seq_length, "do_lower_case": lower})
    elif name == "Pooling":
        _write(folder / "config.json", _old_pooling(folder / "config.json"))
    elif name == "SpladePooling":
        config = _read(folder / "config.json")
        size = config.pop("embedding_dimension", None) or config.get("word_embedding_dimension")
        _write(folder / "config.json", {**config, "word_embedding_dimension": size})
    elif name == "Dense":
        wanted = ("in_features", "out_features", "bias", "activation_function")
        _write(folder / "config.json", {key: _read(folder / "config.json")[key] for key in wanted})


def _old_pooling(path: Path) -> dict[str, Any]:
    """Which tokens are pooled, as one boolean for each way: the form that TEI parses."""
    config = _read(path)
    if "pooling_mode" not in config:
        return config
    given = config["pooling_mode"]
    modes = {given} if isinstance(given, str) else set(given)
    if not modes <= POOLING_MODES.keys():
        raise InputError(f"{path}: pooling_mode {given!r}; choices that others load: {', '.join(POOLING_MODES)}")
    return {
        "word_embedding_dimension": config["embedding_dimension"],
        **{key: mode in modes for mode, key in POOLING_MODES.items()},
        "include_prompt": config.get("include_prompt", True),
    }


def _check_ranker(folder: Path) -> None:
    ranker = CrossEncoderRanker.from_pretrained(folder, device="cpu", max_windows=1)  # what others read
    scores = {"r2anker_hf": ranker.score(PAIRS), "transformers": _by_transformers(folder, PAIRS)}
    try:
        from sentence_transformers import CrossEncoder
    except ImportError:  # a machine that only trains
        pass
    else:
        encoder = CrossEncoder(str(folder), device="cpu", trust_remote_code=False)
        scores["sentence-transformers"] = encoder.predict(PAIRS, show_progress_bar=False)
    ours = scores.pop("r2anker_hf")
    for name, others in scores.items():
        apart = float(np.abs(np.asarray(others, np.float64) - ours).max())
        if not apart <= EQUAL * max(1.0, float(np.abs(ours).max())):
            raise InputError(f"{folder}: {name} and r2anker_hf score the same pair {apart:.2g} apart")


def _by_transformers(folder: Path, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=False).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    queries, documents = map(list, zip(*pairs, strict=True))
    inputs = tokenizer(queries, documents, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        return model(**inputs).logits[:, 0].numpy()


def _check_tokenizer(folder: Path, pair: bool) -> None:
    """TEI reads tokenizer.json alone: it must give what transformers' tokenizer gives, token types too if any."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    query, document = PAIRS[0]
    plain, ours = Tokenizer.from_file(str(folder / "tokenizer.json")), AutoTokenizer.from_pretrained(folder)
    plain.no_padding()
    expected, found = ours(query, document), plain.encode(query, document)
    if not pair:
        expected, found = ours(query), plain.encode(query)
    if found.ids != expected["input_ids"]:
        raise InputError(f"{folder / 'tokenizer.json'}: gives other tokens than transformers' tokenizer of the folder")
    typed = _read(folder / "config.json").get("type_vocab_size", 0) > 1
    if typed and found.type_ids != expected.get("token_type_ids", [0] * len(found.ids)):
        raise InputError(
            f"{folder / 'tokenizer.json'}: gives token_type_ids that transformers' tokenizer does not; "
            "name them in model_input_names if the model was trained with them"
        )


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except ValueError as error:
        raise InputError(f"{path}: is no JSON ({error})") from None


def _write(path: Path, content: Mapping | list) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
