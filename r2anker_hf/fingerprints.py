"""Fingerprints: a hash of all that decides a result, so that what another run left is never taken for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PASSAGES_A_CHUNK = 10_000


def fingerprint(*parts: Any) -> str:
    """32 hex digits of JSON values; what is no JSON value stands by its text.

    >>> fingerprint("a", 1) == fingerprint("a", 1) != fingerprint("a", "1")
    True
    """
    return fingerprint_of(parts)


def fingerprint_of(parts: Iterable[Any]) -> str:
    """`fingerprint` of any number of parts, read as a stream."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(json.dumps(part, default=str).encode() + b"\n")
    return digest.hexdigest()[:32]


def corpus_fingerprint(corpus: Any) -> str:
    """Hash of all ids and texts in order, read in chunks; some seconds a million passages.

    Args:
        corpus: has `ids`, a length, and `texts(start, stop)`, as `collection.Corpus`.
    """
    digest = hashlib.sha256()
    for start in range(0, len(corpus), _PASSAGES_A_CHUNK):
        stop = min(start + _PASSAGES_A_CHUNK, len(corpus))
        rows = json.dumps([list(corpus.ids[start:stop]), corpus.texts(start, stop)], ensure_ascii=True)
        digest.update(rows.encode())
    return f"sha256:{digest.hexdigest()[:32]}"


def weights_fingerprint(model: Any, settings: Any) -> str:
    """Hash of all parameters and buffers of a torch module, and of what else it computes with; a second a GB or two.

    Args:
        model: the module; tensors are read one at a time.
        settings: anything with a `repr` that says it all.
    """
    import torch

    digest = hashlib.sha256(repr(settings).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return f"sha256:{digest.hexdigest()[:32]}"


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of what a fast tokenizer makes of texts and pairs; how its last call truncated and padded plays no part."""
    stated = tokenizer.backend_tokenizer.to_str()  # version, truncation, padding, added_tokens and what follows
    sides = tokenizer.truncation_side, tokenizer.model_input_names
    lasting = stated[stated.index('"added_tokens"') :]
    return fingerprint(lasting, *sides, tokenizer.pad_token_id, tokenizer.pad_token_type_id)
