"""Protects the dry run: straight lines through what was measured, and nothing written."""

import pytest

from r2anker_hf.collection.collection import Corpus
from r2anker_hf.records import Document
from r2anker_hf.retrievers import planning
from r2anker_hf.run import Run

CORPUS = Corpus.from_documents([Document(f"d{number}", "", "word " * 20) for number in range(1000)])
QUERIES = {f"q{number}": "word" for number in range(400)}


class Clocked:
    """Takes 1 second and 10 ms a passage to index, and 1 ms a passage and query to search, on a clock of its own."""

    def __init__(self, clock, corpus, folder):
        self.clock, self.corpus = clock, corpus
        clock[0] += 1 + 0.01 * len(corpus)
        folder.mkdir()
        (folder / "data").write_bytes(b"x" * 8 * len(corpus))

    def search(self, queries, depth):
        self.clock[0] += 0.001 * len(queries) * len(self.corpus)
        return Run({})


def test_a_plan_goes_on_in_a_straight_line(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(planning.time, "perf_counter", lambda: clock[0])
    monkeypatch.setitem(planning.SAMPLE, "dense", 100)
    plan = planning.plan("dense", lambda *given: Clocked(clock, *given), CORPUS, QUERIES, 10, shard_size=50)
    assert plan.passages == 1000 and plan.queries == 400
    assert plan.index_seconds == pytest.approx(1 + 0.01 * 1000)
    assert plan.search_seconds == pytest.approx(0.001 * 400 * 1000)
    assert plan.index_bytes == 8 * 1000 and plan.read_bytes == 99 * 1000
    text = planning.describe(plan)
    assert "1,000 passages, 99 kB of text; 400 queries" in text and "6.7 minutes" in text


def test_units_are_read_at_a_glance():
    assert [planning._bytes(n) for n in (9, 3_400, 34_000_000, 5.6e9, 7e13)] == [
        "9.0 B",
        "3.4 kB",
        "34 MB",
        "5.6 GB",
        "70.0 TB",
    ]
    assert [planning._duration(n) for n in (5, 150, 9000, 200_000)] == [
        "5 seconds",
        "2.5 minutes",
        "2.5 hours",
        "2.3 days",
    ]
