"""Pairs of query and document as a cross-encoder reads them, and the collator that puts groups of them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from .records import InputError


@dataclass
class PairEncoder:
    """Tokenises (query, document) pairs: [CLS] query [SEP] document [SEP], by the tokenizer's own template (Eq. 1).

    Truncation shortens the document. The query is shortened only where it alone exceeds its own limit; a fast
    tokenizer would otherwise refuse such a pair (`only_second` cannot make it fit).

    Args:
        tokenizer: a fast tokenizer.
        max_length: tokens of a pair, special tokens included.
        max_query_length: tokens of a query, special tokens excluded; default half of what a pair holds. Up to that
            half, transformers' own `longest_first` truncates alike, so other loaders give the same scores.

    Raises:
        InputError: the tokenizer is slow or lacks a padding token, or no room is left for documents.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int = 128
    max_query_length: int | None = None

    def __post_init__(self):
        if not self.tokenizer.is_fast or self.tokenizer.pad_token is None:
            raise InputError(f"{self.tokenizer.name_or_path}: needs a fast tokenizer with a padding token")
        room = self.max_length - self.tokenizer.num_special_tokens_to_add(pair=True)
        if self.max_query_length is None:
            self.max_query_length = room // 2
        if not 0 < self.max_query_length < room:
            raise InputError(
                f"max_query_length {self.max_query_length} leaves no room for a document: choose 1 to {room - 1} "
                f"for max_length {self.max_length}"
            )

    def __call__(self, queries: Sequence[str], documents: Sequence[str]) -> Mapping[str, list[list[int]]]:
        """Token ids of each pair, not padded.

        Args:
            queries: [pairs] texts.
            documents: [pairs] texts.

        Returns:
            The tokenizer's model inputs, each a list of [pairs] lists of integers.
        """
        short = {query: self._shortened(query) for query in dict.fromkeys(queries)}
        return self.tokenizer(
            [short[query] for query in queries],
            list(documents),
            truncation="only_second",
            max_length=self.max_length,
        )

    def _shortened(self, query: str) -> str:
        """Cut at the end of the last token that fits; again, for the rare cut inside a word that splits into more."""
        while True:
            offsets = self.tokenizer(query, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            ends = [end for _, end in offsets["offset_mapping"]]
            if len(ends) <= self.max_query_length:
                return query
            query = query[: min(ends[self.max_query_length - 1], len(query) - 1)]

    def pad(self, encoded: Mapping[str, list[list[int]]]) -> dict[str, torch.Tensor]:
        """Model inputs as [pairs, longest pair] tensors."""
        return dict(self.tokenizer.pad(encoded, return_tensors="pt"))


@dataclass
class GroupedListwiseCollator:
    """Collates groups (a query with its positive and negatives) of any sizes into one batch.

    Takes features `{"query": str, "documents": [str, ...], "labels": [float, ...]}` and returns tensors whose first
    axis is the queries, so that samplers, gathers and accumulation all count queries:

    | key | shape | dtype |
    |---|---|---|
    | the tokenizer's inputs (`input_ids`, `attention_mask`, ...) | [queries, list_size, tokens] | int64 |
    | `labels` | [queries, list_size] | float32, 0 beyond a list's end |
    | `mask` | [queries, list_size] | int64, 1 for a real document |

    `mask` is int64 because a boolean one cannot be gathered when the longest lists of two processes differ.
    """

    encoder: PairEncoder

    def __call__(self, features: Sequence[Mapping]) -> dict[str, torch.Tensor]:
        sizes = torch.tensor([len(feature["documents"]) for feature in features])
        mask = (torch.arange(int(sizes.max()))[None, :] < sizes[:, None]).long()
        queries = [feature["query"] for feature in features for _ in feature["documents"]]
        pairs = self.encoder.pad(self.encoder(queries, [text for f in features for text in f["documents"]]))
        batch = {name: _scatter(values, mask) for name, values in pairs.items()}
        labels = torch.tensor([label for feature in features for label in feature["labels"]], dtype=torch.float)
        return {**batch, "labels": _scatter(labels, mask), "mask": mask}


def _scatter(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[pairs, ...] to [queries, list_size, ...], zeros where there is no document."""
    grouped = values.new_zeros(*mask.shape, *values.shape[1:])
    grouped[mask.bool()] = values
    return grouped
