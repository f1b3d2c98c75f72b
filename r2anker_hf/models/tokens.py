"""Texts tokenised once, into memory-mapped integer arrays; what trains and reranks only puts them together."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..fingerprints import fingerprint, tokenizer_fingerprint
from ..processes import is_main_process, wait_for_all
from ..records import InputError

TEXTS_AT_ONCE = 10_000  # tokenised together, by all cores: bounds memory
SOURCES_FILE = "sources.json"
PARALLELISM = "TOKENIZERS_PARALLELISM"


class Tokens:
    """Token ids of texts by id, without special tokens; the arrays stay on disk until they are read.

    Args:
        ids: of the texts, in the order in which they were tokenised.
        values: [all tokens] token ids, text after text.
        ends: [texts] where each text ends in `values`.
        fingerprint: hash of the tokenizer and of all texts.
    """

    def __init__(self, ids: Sequence[str], values: np.ndarray, ends: np.ndarray, fingerprint: str = ""):
        self.values, self.ends, self.fingerprint = values, ends, fingerprint
        self._position = {text_id: position for position, text_id in enumerate(ids)}

    @classmethod
    def build(
        cls,
        ids: Sequence[str],
        texts: Iterable[str],
        tokenizer: PreTrainedTokenizerBase,
        folder: str | os.PathLike,
        limit: int | None = None,
    ) -> Tokens:
        """Tokenise texts into a folder. Of what an earlier call finished there, that which still holds is kept.

        Args:
            ids: one a text, all different; or none, if texts are only read by position.
            texts: in the order of `ids`; read once, as a stream.
            tokenizer: a fast one.
            folder: made where there is none; other files in it stay. A killed call leaves nothing that is read later.
            limit: tokens kept of a text, on the side that the tokenizer's truncation keeps; default all.
        """
        folder = Path(folder)
        settings = fingerprint(tokenizer_fingerprint(tokenizer), limit, TEXTS_AT_ONCE)
        known = _known_blocks(folder, settings)
        blocks = _blocks(texts)
        same, changed = _compared(blocks, known or [])
        if known is None or changed or same < len(known):
            kept = cls.read((), folder) if same else None
            before: Iterable[np.ndarray] = (
                (kept.at(position) for position in range(same * TEXTS_AT_ONCE)) if kept else ()
            )
            digests = (known or [])[:same]
            tokens: Iterator[Sequence[int] | np.ndarray] = chain(
                before, _tokenised(chain(changed, blocks), digests, tokenizer, limit)
            )
            unfinished = folder.with_name(f".{folder.name}.partial")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            _write(unfinished, tokens, np.uint16 if len(tokenizer) < 2**16 else np.uint32)
            (unfinished / SOURCES_FILE).write_text(json.dumps({"settings": settings, "blocks": digests}))
            _put(unfinished, folder)
        return cls.read(ids, folder)

    @classmethod
    def shared(
        cls,
        ids: Sequence[str],
        texts: Iterable[str],
        tokenizer: PreTrainedTokenizerBase,
        folder: str | os.PathLike,
        limit: int | None = None,
    ) -> Tokens:
        """`build` for all processes of a launch: each calls this, and the main one reads and tokenises the texts."""
        if is_main_process():
            cls.build(ids, texts, tokenizer, folder, limit)
        wait_for_all()
        return cls.read(ids, folder)

    @classmethod
    def read(cls, ids: Sequence[str], folder: str | os.PathLike) -> Tokens:
        """What `build` finished in a folder, as it is; `ids` as there."""
        folder = Path(folder)
        ends, values = (np.load(folder / name, mmap_mode="r") for name in ("ends.npy", "values.npy"))
        return cls(ids, values, ends, fingerprint((folder / SOURCES_FILE).read_text()))

    def __getitem__(self, text_id: str) -> np.ndarray:
        """[tokens] token ids of one text, a view of the array on disk."""
        return self.at(self._position[text_id])

    def at(self, position: int) -> np.ndarray:
        """[tokens] token ids of the text at that position, which needs no id."""
        return self.values[self.ends[position - 1] if position else 0 : self.ends[position]]

    def lengths(self) -> np.ndarray:
        """[texts] tokens of each."""
        return np.diff(self.ends, prepend=0)


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


def _blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    texts = iter(texts)
    while block := list(islice(texts, TEXTS_AT_ONCE)):
        yield block


def _known_blocks(folder: Path, settings: str) -> list[str] | None:
    """Fingerprints of the blocks of texts that lie in a folder; None where nothing lies there by these settings."""
    try:
        sources = json.loads((folder / SOURCES_FILE).read_text())
    except (OSError, ValueError):
        return None
    return sources["blocks"] if sources["settings"] == settings else None


def _compared(blocks: Iterator[list[str]], known: Sequence[str]) -> tuple[int, list[list[str]]]:
    """How many blocks are the known ones, from the first on, and the block that is not, which was read by then."""
    same = 0
    for block in blocks:
        if known[same : same + 1] != [fingerprint(block)]:
            return same, [block]
        same += 1
    return same, []


def _tokenised(
    blocks: Iterable[list[str]], digests: list[str], tokenizer: PreTrainedTokenizerBase, limit: int | None
) -> Iterator[list[int]]:
    """Token ids of the texts of all blocks, whose fingerprints are appended to `digests`."""
    kept = slice(limit)
    if tokenizer.truncation_side == "left" and limit is not None:
        kept = slice(-limit, None)
    for block in blocks:
        digests.append(fingerprint(block))
        with _all_cores():
            encoded = encode(tokenizer, block)
        for tokens in encoded:
            yield tokens[kept]


@contextmanager
def _all_cores() -> Iterator[None]:
    """Tokenise in parallel, whatever the environment says: it forbids that for processes which fork in between."""
    before = os.environ.get(PARALLELISM)
    os.environ[PARALLELISM] = "true"
    try:
        yield
    finally:
        os.environ.pop(PARALLELISM)
        if before is not None:
            os.environ[PARALLELISM] = before


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


def _write(folder: Path, texts: Iterator[Sequence[int] | np.ndarray], dtype: type) -> None:
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


def _put(unfinished: Path, folder: Path) -> None:
    """Move finished files into place; the one that says what they were made from goes first and comes last."""
    folder.mkdir(exist_ok=True)
    (folder / SOURCES_FILE).unlink(missing_ok=True)
    for name in ("values.npy", "ends.npy", SOURCES_FILE):
        os.replace(unfinished / name, folder / name)
    unfinished.rmdir()
