"""Pairs of query and document as a cross-encoder reads them, and the collator that puts groups of them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..models.tokens import encode
from ..ranges import RANGES, check
from ..records import InputError

Text = str | Sequence[int] | np.ndarray
"""A text, or its token ids without special tokens."""

Pair = tuple[Sequence[int] | np.ndarray, Sequence[int] | np.ndarray]
"""Token ids of a query and of a document."""


@dataclass
class PairEncoder:
    """Token ids of (query, document) pairs: [CLS] query [SEP] document [SEP], by the tokenizer's own template (Eq. 1).

    Each text is tokenised once, by itself, and pairs are put together from the token ids. The result equals
    `tokenizer(query, document, truncation=True, max_length=max_length)`. So every other loader of a saved ranker
    reads the same.

    With `max_windows` above 1, a document that is longer than its room makes several pairs. Its room is what the
    truncated pair keeps of it, `r` tokens. Each window holds as many, beside the same query. Window `i` begins at
    token `i * ceil(r / 2)`, so that neighbours overlap by half. The last one begins earlier where it would
    otherwise run past the document's end. There are as many windows as the document needs, but no more than
    `max_windows`; what lies behind them is not read. So `n` windows read about `r * (n + 1) / 2` tokens: take the
    `n` that covers most documents. A tokenizer that truncates on the left counts from the document's end. Window 0
    is the truncated pair.

    Args:
        tokenizer: a fast tokenizer.
        max_length: tokens of a pair, special tokens included.
        max_query_length: tokens kept of a query, special tokens excluded, before the pair is truncated; default all.
            Other loaders know no such limit, and read more of a longer query.
        max_windows: windows of a document at most; 1 truncates. Other loaders read window 0 only.

    Raises:
        InputError: the tokenizer is slow or lacks a padding token, a pair has no room for two texts, or a limit is
            out of range.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int = 128
    max_query_length: int | None = None
    max_windows: int = 1

    def __post_init__(self):
        check("max_windows", self.max_windows, RANGES["max_windows"])
        if not self.tokenizer.is_fast or self.tokenizer.pad_token is None:
            raise InputError(f"{self.tokenizer.name_or_path}: needs a fast tokenizer with a padding token")
        self.room = self.max_length - self.tokenizer.num_special_tokens_to_add(pair=True)
        if self.room < 2:
            least = self.max_length - self.room + 2
            raise InputError(f"max_length is {self.max_length}, but must be at least {least} to hold two texts")
        if self.max_query_length is not None and self.max_query_length < 1:
            raise InputError(f"max_query_length is {self.max_query_length}, but must be at least 1")
        self._template = _template(self.tokenizer)

    def __call__(self, queries: Sequence[Text], documents: Sequence[Text]) -> dict[str, list[list[int]]]:
        """Token ids of each pair, not padded; of a document that has several windows, the first.

        Args:
            queries: [pairs] texts, or token ids.
            documents: [pairs] texts, or token ids.

        Returns:
            The tokenizer's model inputs, each a list of [pairs] lists of integers.
        """
        lengths, inputs = self.batch(queries, documents)
        return {
            name: [row[:n].tolist() for row, n in zip(values, lengths, strict=True)] for name, values in inputs.items()
        }

    def batch(
        self, queries: Sequence[Text], documents: Sequence[Text], numbers: Sequence[int] | np.ndarray | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Pairs as tensors: [pairs] lengths, and the model inputs [pairs, longest pair], padded on the right.

        Args:
            queries: [pairs] texts, or token ids.
            documents: [pairs] texts, or token ids.
            numbers: [pairs] which window of its document each pair holds; default the first.
        """
        pairs, sizes = self._pairs(queries, documents)
        return self._batch(pairs, sizes, np.zeros(len(pairs), np.int64) if numbers is None else np.asarray(numbers))

    def windowed(
        self, queries: Sequence[Text], documents: Sequence[Text]
    ) -> tuple[np.ndarray, torch.Tensor, dict[str, torch.Tensor]]:
        """[pairs] windows of each pair, and of all windows, pair after pair, what `batch` returns."""
        pairs, sizes = self._pairs(queries, documents)
        counts = self.windows(*sizes.T)
        owners, numbers = window_places(counts)
        return counts, *self._batch([pairs[owner] for owner in owners], sizes[owners], numbers)

    def _pairs(self, queries: Sequence[Text], documents: Sequence[Text]) -> tuple[list[Pair], np.ndarray]:
        """Token ids of both texts of each pair, and how many: [pairs, 2]."""
        known = self._tokenised([*queries, *documents])
        pairs = [
            (known[query] if isinstance(query, str) else query, known[text] if isinstance(text, str) else text)
            for query, text in zip(queries, documents, strict=True)
        ]
        sizes = np.array([(len(query), len(document)) for query, document in pairs], dtype=np.int64).reshape(-1, 2)
        return pairs, sizes

    def _batch(
        self, pairs: list[Pair], sizes: np.ndarray, numbers: np.ndarray
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        kept = np.stack(self._kept(*sizes.T), axis=1)
        if (kept < sizes).any():
            starts = np.minimum(numbers * _step(kept[:, 1]), sizes[:, 1] - kept[:, 1])
            cuts = zip(pairs, kept.tolist(), starts.tolist(), strict=True)
            pairs = [self._cut(pair, counts, start) for pair, counts, start in cuts]
        lengths = self.max_length - self.room + kept.sum(axis=1)
        shape = len(pairs), int(lengths.max(initial=0))
        ids = np.full(shape, self.tokenizer.pad_token_id, dtype=np.int64)
        types = np.full(shape, self.tokenizer.pad_token_type_id, dtype=np.int64)
        for row, pair in enumerate(pairs):
            self._fill(ids[row], types[row], pair)
        inputs = {"input_ids": ids, "token_type_ids": types, "attention_mask": np.arange(shape[1]) < lengths[:, None]}
        given = {name: torch.from_numpy(values).long() for name, values in inputs.items() if name in self._names}
        return torch.from_numpy(lengths), given

    def lengths(self, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """[pairs] tokens of pairs whose texts have so many; every window of a document makes a pair as long."""
        if self.max_query_length is not None:
            queries = np.minimum(queries, self.max_query_length)
        return self.max_length - self.room + np.minimum(queries + documents, self.room)

    def windows(self, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """[pairs] windows of pairs whose texts have so many tokens: 1 where the document fits into its room."""
        room = self._kept(queries, documents)[1]
        return np.minimum(1 - (room - documents) // _step(room), self.max_windows)

    def document_limit(self, queries: np.ndarray) -> int:
        """Tokens to keep of a document, so that beside queries of these lengths it is cut as if it were whole.

        With one window more than `max_length` only for a longer query: the longer of two texts gets the odd token of
        the room.
        """
        longest = int(np.max(queries, initial=0))
        longest = longest if self.max_query_length is None else min(longest, self.max_query_length)
        return max(self.max_length, longest) + (self.max_windows - 1) * int(_step(self.max_length))

    def _kept(self, queries: np.ndarray, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[pairs] tokens kept of each query and each document, as `truncate_encodings` of huggingface/tokenizers.

        Longest first: the shorter text keeps up to half of the room, the longer one the rest. Of equal ones the
        document counts as the longer.
        """
        if self.max_query_length is not None:
            queries = np.minimum(queries, self.max_query_length)
        shorter = np.minimum(np.minimum(queries, documents), self.room // 2)
        longer = np.minimum(np.maximum(queries, documents), self.room - shorter)
        swapped = queries > documents
        return np.where(swapped, longer, shorter), np.where(swapped, shorter, longer)

    @property
    def _names(self) -> Sequence[str]:
        return self.tokenizer.model_input_names

    def _tokenised(self, texts: Sequence[Text]) -> dict[str, list[int]]:
        unique = list(dict.fromkeys(text for text in texts if isinstance(text, str)))
        return dict(zip(unique, encode(self.tokenizer, unique), strict=True))

    def _cut(self, pair: Pair, kept: Sequence[int], start: int) -> Pair:
        """So many tokens of both texts, of the document those behind `start`, from the side that is kept."""
        (query, document), (of_query, of_document) = pair, kept
        if self.tokenizer.truncation_side == "left":
            stop = len(document) - start
            return query[len(query) - of_query :], document[stop - of_document : stop]
        return query[:of_query], document[start : start + of_document]

    def _fill(self, ids: np.ndarray, types: np.ndarray, pair: Pair) -> None:
        place = 0
        for part, kind in self._template:
            tokens = pair[part] if isinstance(part, int) else part
            ids[place : place + len(tokens)] = tokens
            types[place : place + len(tokens)] = kind
            place += len(tokens)


@dataclass
class GroupedListwiseCollator:
    """Collates groups (a query with its positive and negatives) of any sizes into one batch.

    Takes features `{"query": str, "documents": [str, ...], "labels": [float, ...]}`, texts or their token ids. The
    first axis of every tensor is the queries, so samplers, gathers and accumulation count queries:

    | key | shape | dtype |
    |---|---|---|
    | the tokenizer's inputs (`input_ids`, `attention_mask`, ...) | [queries, windows, tokens] | int64 |
    | `labels` | [queries, list_size] | float32, 0 beyond a list's end |
    | `mask` | [queries, list_size] | int64, 1 for a real document |
    | `relevant`, if the features have it | [queries, list_size] | float32, 1 for a document that is judged relevant |
    | `lengths` | [queries, windows] tokens of each pair, 0 where there is none | int64, a NumPy array |
    | `windows`, if a document has several | [queries, list_size], 0 where there is no document | int64, NumPy |
    | `sources`, if the features have it | [queries, list_size] | int64, bit i set: retriever i listed the document |

    A query's windows are those of its first document, then those of the second, and so on; mostly one a document.
    `mask` is int64 because a boolean one cannot be gathered when the longest lists of two processes differ.
    `lengths` and `windows` are no tensors, so they stay on the host when a trainer moves the batch.
    """

    encoder: PairEncoder

    def __call__(self, features: Sequence[Mapping]) -> dict[str, torch.Tensor | np.ndarray]:
        sizes = torch.tensor([len(feature["documents"]) for feature in features])
        mask = (torch.arange(int(sizes.max()))[None, :] < sizes[:, None]).long()
        queries = [feature["query"] for feature in features for _ in feature["documents"]]
        counts, lengths, pairs = self.encoder.windowed(queries, [text for f in features for text in f["documents"]])
        windows = _scatter(torch.from_numpy(counts), mask)
        totals = windows.sum(dim=1)
        real = torch.arange(int(totals.max()))[None, :] < totals[:, None]
        batch: dict[str, torch.Tensor | np.ndarray] = {n: _scatter(values, real) for n, values in pairs.items()}
        batch |= {"mask": mask, "lengths": _scatter(lengths, real).numpy()}
        if counts.max() > 1:
            batch["windows"] = windows.numpy()
        for name, dtype in {"labels": torch.float, "relevant": torch.float, "sources": torch.long}.items():
            if all(name in feature for feature in features):
                values = torch.tensor([value for feature in features for value in feature[name]], dtype=dtype)
                batch[name] = _scatter(values, mask)
        return batch


def window_places(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[windows] which document each window is of, and its number there.

    Args:
        counts: [documents] windows of each.

    >>> [places.tolist() for places in window_places(np.array([1, 3]))]
    [[0, 1, 1, 1], [0, 0, 1, 2]]
    """
    owners = np.repeat(np.arange(len(counts)), counts)
    return owners, np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)


def _step(room: np.ndarray | int) -> np.ndarray:
    """Tokens from the start of one window to that of the next; 1 where there is no room, and so no window more."""
    return np.maximum(1, (np.asarray(room) + 1) // 2)


def _scatter(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[pairs, ...] to [queries, list_size, ...], zeros where there is none."""
    grouped = values.new_zeros(*mask.shape, *values.shape[1:])
    grouped[mask.bool()] = values
    return grouped


def _template(tokenizer: PreTrainedTokenizerBase) -> list[tuple[int | list[int], int]]:
    """What the tokenizer makes of a pair: special tokens, 0 for the query's and 1 for the document's, with types."""
    probe = tokenizer(["a"], ["a"], return_token_type_ids=True)
    parts: list[tuple[int | list[int], int]] = []
    for sequence, token, kind in zip(
        probe.sequence_ids(0), probe["input_ids"][0], probe["token_type_ids"][0], strict=True
    ):
        if sequence is None:
            parts.append(([token], kind))
        elif parts[-1:] != [(sequence, kind)]:
            parts.append((sequence, kind))
    return parts
