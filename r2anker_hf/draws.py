"""Randomness as an argument: the generator of a (seed, epoch, name), the same in every process and at every resume."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, epoch: int, name: str) -> np.random.Generator:
    """A generator of its own for each thing that is drawn, so that no draw depends on another one's number."""
    # a hash, not Python's hash(): that one differs from process to process
    digest = hashlib.blake2b(f"{seed}/{epoch}/{name}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def evenly_spaced(size: int, count: int) -> list[int]:
    """Positions of `count` out of `size` things, the first one among them; all of them where there are no more.

    >>> evenly_spaced(10, 4), evenly_spaced(2, 4)
    ([0, 2, 5, 7], [0, 1])
    """
    count = min(size, count)
    return [number * size // count for number in range(count)]


def permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch visits `size` training queries; depends on (size, seed, epoch) alone."""
    return generator(seed, epoch, "order of the queries").permutation(size)
