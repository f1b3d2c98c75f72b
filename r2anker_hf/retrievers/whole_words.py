"""Which tokens make up one word, read off the token ids alone, for masks that take words as wholes."""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..records import InputError

_ONE_SPACE = -1


class Words:
    """The words of tokenised texts, as the tokenizer's own `word_ids` number them.

    WordPiece marks a piece that goes on with a word (##), SentencePiece one that begins it (▁). Byte-level BPE
    marks the blank before a word (Ġ), and also splits between letters, numbers and other characters. Where blanks
    stand in a row, their own numbering may differ.

    Args:
        tokenizer: a fast one.

    Raises:
        InputError: a tokenizer of another kind.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        decoder: Any = tokenizer.backend_tokenizer.decoder if tokenizer.is_fast else None
        kind = type(decoder).__name__
        if kind not in ("WordPiece", "ByteLevel", "Metaspace"):
            raise InputError(
                f"{tokenizer.name_or_path}: whole words are known for WordPiece, ByteLevel and Metaspace tokenizers, "
                f"not {kind}; mask pieces instead (whole_words: false)"
            )
        pieces = {number: piece for piece, number in tokenizer.get_vocab().items()}
        vocabulary = [pieces.get(number, "") for number in range(max(pieces) + 1)]
        if kind == "WordPiece":
            self.begins = np.array([not piece.startswith(decoder.prefix) for piece in vocabulary])
        else:
            mark = "Ġ" if kind == "ByteLevel" else decoder.replacement
            self.begins = np.array([piece.startswith(mark) for piece in vocabulary])
        self.classes = np.zeros(len(vocabulary), dtype=np.int8)
        if kind == "ByteLevel":
            self.classes[:] = [_character_class(decoder.decode([piece])) for piece in vocabulary]

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """[tokens] the number of the word that each token belongs to, from 0, never falling.

        Args:
            tokens: [tokens] ids of one text, without special tokens.
        """
        classes = self.classes[tokens]
        begins = self.begins[tokens]
        begins[:1] = False  # the first token begins word 0, whatever it is
        begins[1:] |= (classes[1:] != classes[:-1]) & (classes[:-1] != _ONE_SPACE)
        return begins.cumsum()


def _character_class(piece: str) -> int:
    """0 letters, 1 numbers, 2 blanks, 3 others: what GPT-2's pattern splits; a part of a character is a letter.

    One space is -1: it belongs to what follows.

    >>> [_character_class(piece) for piece in (" the", "42", "\\n", "'s", "\\ufffd", " ")]
    [0, 1, 2, 3, 0, -1]
    """
    first = piece.lstrip()[:1]
    if not first:
        return _ONE_SPACE if piece == " " else 2
    return 0 if first.isalpha() or first == "\ufffd" else 1 if first.isnumeric() else 3
