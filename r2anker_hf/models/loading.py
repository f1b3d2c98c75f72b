"""Models of every kind come through one door: what is broken is refused by name, what is loaded is whole and finite.

Rankers, retrievers' encoders and pre-training load in float32 whatever the checkpoint's precision, into memory of
their own. Libraries leave weights where the file is mapped, aligned as its header happens to end. A CPU adds up in
another order with each alignment. The last digit would then depend on where a model came from.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ..records import InputError
from ..revisions import check_reachable

# In the order in which transformers looks for them; an index names further files.
WEIGHTS = (
    *("model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
TOKENIZERS = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer_config.json"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
)
ADAPTERS = "adapter_config.json"
MODULES = "modules.json"
_POINTER = b"version https://git-lfs"
_NAMED = 3  # layers that an error names


def check_source(
    model: str | os.PathLike, revision: str | None = None, modules: bool = False, weights: bool = True
) -> None:
    """Refuse what cannot be a model before any library reads it.

    Args:
        model: folder or Hub id.
        revision: commit, tag or branch on the Hub.
        modules: the folder may be one of sentence-transformers, whose parts lie in folders of their own.
        weights: False where only configuration and tokenizer are read.

    Raises:
        InputError: no such folder, and no such model in the cache while the Hub is out of reach; a file is missing,
            empty, truncated, a Git LFS pointer, or no JSON.
    """
    folder = Path(model)
    if folder.is_dir():
        parts = modules_of(folder / MODULES) if modules and (folder / MODULES).exists() else {"": "Transformer"}
        for path, kind in parts.items():
            _check_part(folder / path, kind == "Transformer", weights)
    elif folder.is_absolute() or str(model).startswith(".") or str(model).count("/") > 1:
        raise InputError(f"{model}: no such folder (give a model folder or a Hub repository 'owner/name')")
    else:
        check_reachable(str(model), revision)


@contextmanager
def loading(model: str | os.PathLike, kind: str) -> Iterator[None]:
    """Whatever a library raises over a model becomes one line that names the model and what it was to be."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # libraries have no base class for what a broken file makes of them
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{model}: cannot be loaded as a {kind}: {reason}") from error


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw what a checkpoint lacks, such as a fresh head, from this seed, and leave the process's own draws alone.

    PyTorch seeds a process at random, so that a fresh head would be another one in every run.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def load(
    auto: Any,
    model: str | os.PathLike,
    revision: str | None = None,
    *,
    kind: str,
    fresh_head: bool = False,
    labels: int | None = None,
) -> PreTrainedModel:
    """A transformers model in float32, checked by `check_source`, `check_layers` and `settle`.

    Args:
        auto: transformers' class, such as AutoModelForMaskedLM.
        model: folder or Hub id.
        revision: commit, tag or branch on the Hub. Code of a repository is never run.
        kind: what errors call it.
        fresh_head: allow a checkpoint that lacks the head.
        labels: of a classifier.

    Raises:
        InputError: it cannot be loaded, lacks layers, has others than its configuration says, or other labels.
    """
    check_source(model, revision)
    source = {"revision": revision, "trust_remote_code": False}
    with loading(model, kind):
        config = AutoConfig.from_pretrained(model, **source)
        stored = config.num_labels
        if labels is not None:
            config.num_labels = labels
        loaded, info = auto.from_pretrained(
            model,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # `check_layers` names them
            **source,
        )
    several = labels is not None and stored != labels and not fresh_head
    if several and all(_of_body(loaded, name) for name in info["missing_keys"]):
        raise InputError(f"{model}: has {stored} labels, but a {kind} has {labels}")
    check_layers(loaded, info, model, fresh_head)
    return settle(loaded, model)


def load_tokenizer(model: str | os.PathLike, revision: str | None = None, kind: str = "tokenizer") -> Any:
    """The fast tokenizer of a model that `check_source` has let pass."""
    with loading(model, kind):
        return AutoTokenizer.from_pretrained(model, revision=revision, use_fast=True, trust_remote_code=False)


def check_layers(
    model: PreTrainedModel, info: Mapping[str, Any], source: str | os.PathLike, fresh_head: bool = False
) -> None:
    """Refuse a model some of whose layers would be random, or that leaves out layers of its checkpoint.

    Heads of other tasks may be left out, and the model's own may be missing with `fresh_head`.

    Args:
        model: as it was loaded.
        info: transformers' `output_loading_info`.
        source: what errors call it.
        fresh_head: whether the head may be missing, or have another size.
    """
    mismatched = [name for name, *_ in info["mismatched_keys"]]
    random = {*info["missing_keys"], *mismatched}
    if body := [name for name in random if _of_body(model, name)]:
        raise InputError(f"{source}: the weights lack layers of config.json, or have other sizes ({_few(body)})")
    if left := [name for name in info["unexpected_keys"] if _of_body(model, name)]:
        raise InputError(f"{source}: the weights have layers that config.json lacks ({_few(left)})")
    if random and not fresh_head:
        raise InputError(f"{source}: has no trained head ({_few(random)} missing or of another size): train it first")
    if info["error_msgs"]:
        raise InputError(f"{source}: {str(info['error_msgs'][0]).splitlines()[0]}")


def settle(model: Any, source: str | os.PathLike) -> Any:
    """The model with its weights in memory of their own, aligned alike whatever file they came from, and finite."""
    for values in chain(model.parameters(), model.buffers()):
        if values.device.type == "cpu":
            values.data = values.data.clone()
    check_finite(model, f"{source}: the weights are broken")
    return model


def check_finite(model: Any, message: str) -> None:
    """Refuse weights that are NaN or infinite; `message` begins the error.

    Args:
        model: a module, or a mapping of names to tensors.
        message: what this means, such as the file that is not written.
    """
    for name, values in model.items() if isinstance(model, Mapping) else model.named_parameters():
        # a sum is a single pass over memory, and not finite if a value is not
        if values.is_floating_point() and not torch.isfinite(values.sum(dtype=torch.float32)):
            broken = int((~torch.isfinite(values)).sum())
            if broken:
                raise InputError(f"{message}: {broken} of {values.numel()} values of {name} are NaN or infinite")


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: str | os.PathLike) -> None:
    """Refuse a tokenizer without words, or with tokens that the model has no embedding for."""
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise InputError(f"{source}: holds no tokenizer's vocabulary ({', '.join(TOKENIZERS)})")
    embeddings: Any = model.get_input_embeddings()
    rows = len(embeddings.weight)
    if len(tokenizer) > rows:
        raise InputError(
            f"{source}: its tokenizer has {len(tokenizer)} tokens, but its embedding only {rows}; "
            "give the tokenizer that the model was trained with"
        )


def positions(model: PreTrainedModel) -> int | None:
    """Tokens that a model has positions for, special tokens included; None where it needs none.

    >>> from transformers import RobertaConfig, RobertaModel
    >>> sizes = dict(hidden_size=2, num_attention_heads=1, num_hidden_layers=0, intermediate_size=2, vocab_size=9)
    >>> positions(RobertaModel(RobertaConfig(**sizes, max_position_embeddings=40, pad_token_id=1)))  # from 2 onwards
    38
    """
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    longest = getattr(model.config, "max_position_embeddings", None)
    relative = getattr(model.config, "relative_attention", False)  # DeBERTa's clips distances and has no end
    return longest if isinstance(longest, int) and longest > 0 and not relative else None


def check_length(
    model: PreTrainedModel, length: int | None, source: str | os.PathLike, name: str = "max_length"
) -> None:
    """Refuse texts that are longer than the model has positions for; `name` is what errors call the length."""
    places = positions(model)
    if length is not None and places is not None and length > places:
        raise InputError(f"{name} is {length}, but {source} has positions for {places} tokens")


def modules_of(path: Path) -> dict[str, str]:
    """Folder of each module of a sentence-transformers model -> its class, out of its modules.json.

    Raises:
        InputError: the file says something else.
    """
    content = _json(path)
    try:
        return {module["path"]: module["type"].rpartition(".")[2] for module in content}
    except (TypeError, KeyError, AttributeError):
        raise InputError(f"{path}: is no list of modules, each with a path and a type") from None


class StopDiverged(TrainerCallback):
    """Ends a training whose weights are no numbers any more, before it saves or measures them."""

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict | None = None, **_: Any
    ) -> None:
        """With float16 the scaler leaves out steps whose gradients are not finite; otherwise they were taken."""
        norm = float((logs or {}).get("grad_norm", 0.0))
        if not args.fp16 and not torch.isfinite(torch.tensor(norm)):
            raise InputError(f"{_diverged(args, state)}: the gradient's norm is {norm}")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """By now it is known whether the step, or the epoch, is followed by a checkpoint or an evaluation."""
        if control.should_save or control.should_evaluate:
            check_finite(model, _diverged(args, state))

    on_epoch_end = on_step_end

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        check_finite(model, _diverged(args, state))


def _diverged(args: TrainingArguments, state: TrainerState) -> str:
    rate = f"learning_rate {args.learning_rate:g}"
    return f"step {state.global_step}: the training diverged at {rate}; lower it, or warm up longer"


def _of_body(model: PreTrainedModel, name: str) -> bool:
    """Whether a checkpoint's weight belongs to the layers below a head; the pooler counts as a part of the head."""
    prefix = f"{model.base_model_prefix}."
    body = model.base_model
    parts = {part for part, _ in chain(body.named_children(), body.named_parameters(recurse=False))}
    return name.removeprefix(prefix).split(".")[0] in parts - {"pooler"}


def _few(names: Any) -> str:
    first = sorted(names)
    return ", ".join(first[:_NAMED]) + (f" and {len(first) - _NAMED} more" if len(first) > _NAMED else "")


def _check_part(folder: Path, transformer: bool, weights: bool) -> None:
    """Files of a model, or of one module of several; a transformer must have a configuration and a tokenizer."""
    for path in sorted(folder.glob("*.json")):
        _json(path)
    own = next((folder / name for name in WEIGHTS if (folder / name).exists()), None)
    tokenizers = [folder / name for name in TOKENIZERS if (folder / name).exists()]
    if transformer and not (folder / ADAPTERS).exists():
        if weights and own is None:
            raise InputError(f"{folder}: holds no model weights ({', '.join(WEIGHTS)})")
        if not (folder / "config.json").exists():
            raise InputError(f"{folder}: holds no config.json")
        if not (isinstance(config := _json(folder / "config.json"), dict) and config):
            raise InputError(f"{folder / 'config.json'}: says nothing about a model")
    if transformer and not tokenizers:
        raise InputError(f"{folder}: holds no tokenizer ({', '.join(TOKENIZERS)})")
    for path in tokenizers:
        _head_of(path)
    if weights and own is not None:
        for path in _files(own):
            _check_weights(path)


def _files(weights: Path) -> list[Path]:
    if weights.suffix != ".json":
        return [weights]
    names = sorted(set(_json(weights).get("weight_map", {}).values()))
    if missing := [name for name in names if not (weights.parent / name).exists()]:
        raise InputError(f"{weights}: names {missing[0]}, which is missing")
    return [weights.parent / name for name in names]


def _check_weights(path: Path) -> None:
    head = _head_of(path)
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt"):
                return
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"{path}: is truncated or no safetensors file ({error})") from None
    if not head.startswith(b"\x80") and not zipfile.is_zipfile(path):  # b"\x80" begins a pickle of before PyTorch 1.6
        raise InputError(f"{path}: is truncated or no PyTorch file")


def _head_of(path: Path) -> bytes:
    """The first bytes of a file, which must have some of its own."""
    try:
        with open(path, "rb") as file:
            head = file.read(len(_POINTER))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if not head.strip():
        raise InputError(f"{path}: is empty")
    if head == _POINTER:
        raise InputError(f"{path}: is a Git LFS pointer, not the file itself; run `git lfs pull`")
    return head


def _json(path: Path) -> Any:
    _head_of(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: is no JSON ({error})") from None
    return content
