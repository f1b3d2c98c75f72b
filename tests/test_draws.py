"""Protects the choice of some out of many: as many as were asked for, far apart, the same ones every time."""

import pytest

from r2anker_hf.draws import evenly_spaced


@pytest.mark.parametrize("size", [1, 7, 460, 809, 1000])
def test_as_many_as_asked_for_and_evenly_spaced(size):
    for count in (1, 2, 3, 100, 459, 460, 461, 808, 999, 1000, 5000):
        chosen = evenly_spaced(size, count)
        assert len(chosen) == len(set(chosen)) == min(size, count) and chosen[0] == 0 and chosen[-1] < size
        gaps = {after - before for before, after in zip(chosen, [*chosen[1:], size], strict=True)}
        assert max(gaps) - min(gaps) <= 1


def test_a_part_is_every_so_manyth():
    assert evenly_spaced(1000, 250) == list(range(0, 1000, 4))
