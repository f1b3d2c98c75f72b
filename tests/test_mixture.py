"""A mixture gives every collection its share of an epoch, and every query of a collection the same attention."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from listwise_toy import rows

from r2anker_hf.models.trainers import EpochSampler
from r2anker_hf.rankers.listwise import ListwiseConfig, TrainingGroups
from r2anker_hf.rankers.mixture import Mixture, epoch_counts
from r2anker_hf.records import InputError

SIZES = st.lists(st.integers(1, 500), min_size=1, max_size=5)


@given(SIZES, st.floats(1, 50))
def test_an_epoch_is_as_large_as_all_collections_and_a_temperature_evens_shares(sizes, temperature):
    counts = epoch_counts(sizes, temperature=temperature)
    assert sum(sizes) <= sum(counts) <= sum(sizes) + len(sizes) and min(counts) >= 1
    assert epoch_counts(sizes) == sizes
    order = np.argsort(sizes, kind="stable")
    assert all(counts[a] <= counts[b] + 1 for a, b in zip(order, order[1:], strict=False))


def test_shares_are_the_formula_s():
    # 1000^(1/2) : 10^(1/2) = 10 : 1, of 1,010 queries
    assert epoch_counts([1000, 10], temperature=2.0) == [918, 92]
    assert epoch_counts([30, 10], weights=[1, 3]) == [10, 30]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": [1.0]}, "mixture_weights: 1 are given for 2"),
        ({"weights": [1.0, 0.0]}, "must be above 0"),
        ({"weights": [1.0, float("nan")]}, "must be above 0"),
        ({"temperature": 0.5}, "mixture_temperature is 0.5"),
        ({"temperature": float("nan")}, "mixture_temperature is nan"),
    ],
)
def test_what_cannot_be_mixed_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        epoch_counts([3, 4], **options)


def groups(size, retriever="bm25", **options):
    config = ListwiseConfig(output_dir="unused", mixed_precision="no", num_negatives=3, use_cpu=True, **options)
    given = [{**row, "query_id": f"{retriever}{number}"} for number, row in enumerate(rows() * size)][:size]
    for row in given:
        row["candidates"] = [{**row["candidates"][0], "retriever": retriever}]
    return TrainingGroups(given, str, config)


@pytest.mark.parametrize("counts", [[3, 9], [6, 6], [1, 11], [11, 1]])
def test_queries_are_seen_equally_often_and_never_twice_with_the_same_negatives(counts):
    mixture = Mixture([groups(5), groups(7, "dense")], counts)
    seen = Counter()
    for epoch in range(35):  # whole passes of both
        items = mixture.order(42, epoch)
        assert len(items) == sum(counts) == len(mixture)
        seen.update(items)
    assert set(seen.values()) == {1}
    for first, last, count in ((0, 5, counts[0]), (5, 12, counts[1])):
        times = Counter(index for _, index in seen if first <= index < last)
        assert set(times.values()) == {35 * count // (last - first)}


def test_items_come_from_their_collection_with_the_bits_of_all_retrievers():
    parts = [groups(5), groups(7, "dense")]
    mixture = Mixture(parts, [5, 7])
    assert mixture.retrievers == ["bm25", "dense"]
    first, second = mixture[(0, 4)], mixture[(0, 5)]
    assert first == parts[0][(0, 4)] and second == parts[1][(0, 0)]
    assert set(first["sources"]) <= {0, 1} and set(second["sources"]) <= {0, 2} and any(second["sources"])


def test_one_collection_is_visited_as_before():
    part = groups(9)
    plain, ordered = EpochSampler(9, 4, 42), EpochSampler(9, 4, 42, part.order)
    for epoch in range(3):
        plain.set_epoch(epoch)
        ordered.set_epoch(epoch)
        assert list(plain) == list(ordered)
