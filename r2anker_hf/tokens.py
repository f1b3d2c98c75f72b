"""Texts tokenised once, into memory-mapped integer arrays; what trains and reranks only puts them together."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from .records import InputError

TEXTS_AT_ONCE = 10_000  # tokenised together, by all cores: bounds memory


class Tokens:
    """Token ids of texts by id, without special tokens; the arrays stay on disk until they are read.

    Args:
        ids: of the texts, in the order in which they were tokenised.
        values: [all tokens] token ids, text after text.
        ends: [texts] where each text ends in `values`.
    """

    def __init__(self, ids: Sequence[str], values: np.ndarray, ends: np.ndarray):
        self.values, self.ends = values, ends
        self._position = {text_id: position for position, text_id in enumerate(ids)}

    @classmethod
    def build(
        cls,
        ids: Sequence[str],
        texts: Iterable[str],
        tokenizer: PreTrainedTokenizerBase,
        folder: str | os.PathLike,
        limit: int,
    ) -> Tokens:
        """Tokenise texts into a folder, or read what an earlier call finished there.

        Args:
            ids: one a text, all different; or none, if texts are only read by position.
            texts: in the order of `ids`; read once, as a stream.
            tokenizer: a fast one.
            folder: made anew; a killed call leaves no folder of that name.
            limit: tokens kept of a text, on the side that the tokenizer's truncation keeps.
        """
        folder = Path(folder)
        if not folder.is_dir():
            unfinished = folder.with_name(f".{folder.name}.partial")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            _write(unfinished, _tokenised(texts, tokenizer, limit), np.uint16 if len(tokenizer) < 2**16 else np.uint32)
            os.replace(unfinished, folder)
        ends = np.load(folder / "ends.npy", mmap_mode="r")
        values = np.load(folder / "values.npy", mmap_mode="r")
        return cls(ids, values, ends)

    def __getitem__(self, text_id: str) -> np.ndarray:
        """[tokens] token ids of one text, a view of the array on disk."""
        return self.at(self._position[text_id])

    def at(self, position: int) -> np.ndarray:
        """[tokens] token ids of the text at that position, which needs no id."""
        return self.values[self.ends[position - 1] if position else 0 : self.ends[position]]

    def length(self, text_id: str) -> int:
        """Tokens of one text."""
        return len(self[text_id])


def learn_vocabulary(
    tokenizer: PreTrainedTokenizerBase, blocks: Callable[[], Iterable[list[str]]], size: int
) -> PreTrainedTokenizerBase:
    """A WordPiece tokenizer like the given one, but with a vocabulary of the texts' own words; equal for equal texts.

    Args:
        tokenizer: normalises and splits texts, and names the special tokens.
        blocks: gives the texts, some at a time; called twice.
        size: tokens; fewer where the texts hold no more, more where their characters alone are more (each counts
            twice: at the start of a word, and within one).

    Raises:
        InputError: another kind of tokenizer.
    """
    kind = type(tokenizer.backend_tokenizer.model).__name__ if tokenizer.is_fast else "slow"
    if kind != "WordPiece":
        raise InputError(
            f"{tokenizer.name_or_path}: a vocabulary is learnt for WordPiece tokenizers alone, not {kind}"
        )
    normal = getattr(tokenizer.backend_tokenizer.normalizer, "normalize_str", str)
    characters = {character for block in blocks() for text in block for character in normal(text)}
    # the trainer would number these as it meets them in a hash table, another way every time, and break ties by that
    pieces = sorted(f"##{character}" for character in characters if not character.isspace())
    learnt = tokenizer.train_new_from_iterator(blocks(), size, new_special_tokens=pieces, show_progress=False)
    state = json.loads(learnt.backend_tokenizer.to_str())
    state["added_tokens"] = [added for added in state["added_tokens"] if added["content"] not in pieces]
    backend = Tokenizer.from_str(json.dumps(state))
    kept = {name: getattr(tokenizer, name) for name in ("model_max_length", "model_input_names")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **kept, **tokenizer.special_tokens_map)


def _tokenised(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, limit: int) -> Iterator[list[int]]:
    texts = iter(texts)
    kept = slice(-limit, None) if tokenizer.truncation_side == "left" else slice(limit)
    while block := list(islice(texts, TEXTS_AT_ONCE)):
        for tokens in encode(tokenizer, block):
            yield tokens[kept]


def encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Token ids of each text, without special tokens, of any length.

    Args:
        tokenizer: a fast one.
        texts: [texts], may be empty.
    """
    if not texts:
        return []
    options = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    return tokenizer(texts, add_special_tokens=False, **options)["input_ids"]


def _write(folder: Path, texts: Iterator[list[int]], dtype: type) -> None:
    ends, total = [], 0
    with open(folder / "raw", "wb") as file:
        for tokens in texts:
            np.asarray(tokens, dtype=dtype).tofile(file)
            total += len(tokens)
            ends.append(total)
    np.save(folder / "ends.npy", np.asarray(ends, dtype=np.int64))
    raw = np.memmap(folder / "raw", dtype=dtype, mode="r") if total else np.zeros(0, dtype)
    np.save(folder / "values.npy", raw)
    (folder / "raw").unlink()
