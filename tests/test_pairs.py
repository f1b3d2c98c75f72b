"""Protects the arrays that stand for a reranking's pairs: they are the pairs of the run, query after query."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from r2anker_hf.rankers.pairs import Pairs
from r2anker_hf.run import Run, RunFile

IDS = st.text("abc", min_size=1, max_size=3)
RUNS = st.dictionaries(IDS, st.dictionaries(IDS, st.floats(-9, 9, width=32), max_size=7), min_size=1, max_size=6)


@settings(deadline=None)
@given(RUNS, st.integers(1, 8), st.integers(1, 4))
def test_pairs_are_those_of_the_run(lists, depth, count):
    run = Run({query_id: found.items() for query_id, found in lists.items()})
    chosen = list(run)[::2]
    pairs = Pairs.of(run, chosen, depth)
    expected = [(query_id, document.doc_id) for query_id in chosen for document in run[query_id][:depth]]
    assert pairs.ids(np.arange(len(pairs))) == expected == [pair for part in pairs.stated() for pair in part]
    assert len(set(pairs.doc_ids)) == len(pairs.doc_ids) and pairs.query_ids == chosen
    parts = [pairs.ids(np.arange(part.start, part.stop)) for part in pairs.of_queries(count)]
    groups = [chosen[start : start + count] for start in range(0, len(chosen), count)]
    assert parts == [[pair for pair in expected if pair[0] in group] for group in groups]


def test_a_run_on_disk_gives_the_same_pairs_and_the_same_name(tmp_path):
    run = Run({"q": [("a", 2.0), ("b", 3.0)], "r": [("c", 1.0)]}, "a first stage")
    run.write_trec(tmp_path / "run.trec")
    left, read = RunFile(tmp_path / "run.trec"), Run.read_trec(tmp_path / "run.trec")
    assert left.name == read.name == "a_first_stage"
    for one in (left, read):
        pairs = Pairs.of(one, ["q", "r"], 2)
        assert pairs.ids(np.arange(3)) == [("q", "b"), ("q", "a"), ("r", "c")] and pairs.queries.dtype == np.int32
