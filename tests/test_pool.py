"""Protects several devices without a launcher: the bits of one process, errors of one line, and processes that end."""

import numpy as np
import pytest

from r2anker_hf.rankers import ranker as rankers
from r2anker_hf.rankers.ranker import CrossEncoderRanker
from r2anker_hf.records import InputError

PAIRS = [(f"cat {number % 7}", f"the {'dog and bird ' * (number % 5)}house {number}") for number in range(30)]


@pytest.fixture(scope="module")
def ranker(tiny_model):
    return CrossEncoderRanker.from_pretrained(tiny_model, device="cpu", max_length=24, max_windows=2, batch_size=3)


@pytest.fixture(scope="module")
def pool(ranker):
    pool = ranker.start_multi_process_pool(["cpu", "cpu"])
    yield pool
    ranker.stop_multi_process_pool(pool)


def test_two_processes_give_the_bits_of_one(ranker, pool, monkeypatch):
    monkeypatch.setattr(rankers, "BUFFER", 4)
    one = ranker.predict(PAIRS)
    assert len(set(one)) == len(PAIRS)
    np.testing.assert_array_equal(ranker.predict(PAIRS, pool=pool), one)
    assert len(pool._executor._processes) == 2
    np.testing.assert_allclose(ranker.predict(PAIRS, pool=pool, chunk_size=7), one, atol=1e-5)
    assert ranker.predict(PAIRS[0], pool=pool) == pytest.approx(one[0], abs=1e-5)
    assert ranker.predict([], pool=pool).shape == (0,)


def test_a_list_of_devices_is_a_pool_for_one_call(ranker, monkeypatch):
    made = []
    start = CrossEncoderRanker.start_multi_process_pool
    monkeypatch.setattr(
        CrossEncoderRanker, "start_multi_process_pool", lambda *given: made.append(start(*given)) or made[-1]
    )
    np.testing.assert_array_equal(ranker.predict(PAIRS[:3], device=["cpu"]), ranker.predict(PAIRS[:3], device="cpu"))
    (pool,) = made
    with pytest.raises(RuntimeError, match="after shutdown"):
        ranker.predict(PAIRS, pool=pool)


def test_what_cannot_work_is_one_line(ranker, pool):
    for options, message in (
        ({"device": ["cpu", "nowhere:3"]}, "device 'nowhere:3' cannot be used: "),
        ({"device": "nowhere"}, "device 'nowhere' cannot be used: "),
        ({"device": []}, "a pool needs devices"),
        ({"pool": pool, "chunk_size": 0}, "chunk_size is 0, but must be at least 1"),
        ({"pool": pool, "batch_size": 0}, "batch_size is 0, but must be at least 1"),  # said by a process of the pool
    ):
        with pytest.raises(InputError, match=f"^{message}"):
            ranker.predict(PAIRS, **options)
