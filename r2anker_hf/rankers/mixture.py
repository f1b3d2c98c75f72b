"""Several collections in one training: how many queries of each an epoch holds, and in which order they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from ..draws import permutation
from ..records import InputError
from .listwise import TrainingGroups


def epoch_counts(sizes: Sequence[int], weights: Sequence[float] = (), temperature: float = 1.0) -> list[int]:
    r"""Queries that each collection gives to an epoch, which has as many as all collections together.

    .. math:: p_i \propto n_i^{1/T}

    as mT5 (Xue et al. 2021) mixes languages, unless weights are given. What rounding leaves goes to the largest
    remainders; every collection gives at least one query.

    Args:
        sizes: [collections] training queries of each.
        weights: [collections] shares, brought to sum 1; empty for the formula.
        temperature: 1 mixes by size, a high one evenly.

    Raises:
        InputError: another number of weights than collections, a weight that is not above 0, or a temperature below 1.

    >>> epoch_counts([900, 100])
    [900, 100]
    >>> epoch_counts([900, 100], temperature=2.0)
    [750, 250]
    >>> epoch_counts([900, 100], weights=[1, 1])
    [500, 500]
    """
    if weights and len(weights) != len(sizes):
        raise InputError(f"mixture_weights: {len(weights)} are given for {len(sizes)} sets of negatives")
    if not all(0 < weight < np.inf for weight in weights):
        raise InputError(f"mixture_weights are {list(weights)}, but each must be above 0")
    if not 1 <= temperature < np.inf:
        raise InputError(f"mixture_temperature is {temperature}, but must be at least 1")
    shares = np.asarray(weights if len(weights) else np.asarray(sizes, dtype=float) ** (1 / temperature), dtype=float)
    wanted = shares / shares.sum() * sum(sizes)
    counts = np.floor(wanted + 1e-9).astype(int)
    for place in np.argsort(counts - wanted, kind="stable")[: sum(sizes) - counts.sum()]:
        counts[place] += 1
    return np.maximum(counts, 1).tolist()


class Mixture(Dataset):
    """Training groups of several collections; each keeps its own texts, so document ids need not differ.

    A collection that gives more queries than it has comes round again within an epoch, with other negatives; one that
    gives fewer goes on in the next epoch where it stopped. So its queries are seen equally often, up to one.

    Args:
        parts: the collections' groups.
        counts: [collections] queries of each in an epoch (see `epoch_counts`).
    """

    def __init__(self, parts: Sequence[TrainingGroups], counts: Sequence[int]):
        self.parts, self.counts = list(parts), list(counts)
        self.starts = np.cumsum([0, *(len(part) for part in parts)])
        self.retrievers = list(dict.fromkeys(name for part in parts for name in part.retrievers))
        for part in self.parts:
            part.retrievers = self.retrievers

    def __len__(self) -> int:
        return sum(self.counts)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        pass_, index = item
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.parts[number][(pass_, index - int(self.starts[number]))]

    def order(self, seed: int, epoch: int) -> list[tuple[int, int]]:
        """The items of an epoch: of each collection its next queries, all of them shuffled together.

        It depends on (seed, epoch) and the sizes only.
        """
        items = [
            (pass_, int(start) + row)
            for part, count, start in zip(self.parts, self.counts, self.starts, strict=False)
            for pass_, row in _next_rows(len(part), count, seed, epoch)
        ]
        return [items[place] for place in permutation(len(items), seed, epoch)]


def _next_rows(size: int, count: int, seed: int, epoch: int) -> list[tuple[int, int]]:
    """(pass, row) number epoch * count and following, of one endless series of shuffled passes over `size` rows."""
    first, last = epoch * count, (epoch + 1) * count
    orders = {number: permutation(size, seed, number) for number in range(first // size, (last - 1) // size + 1)}
    return [(place // size, int(orders[place // size][place % size])) for place in range(first, last)]
