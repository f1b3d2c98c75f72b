"""Protects the one order of a Run, what TREC files carry, and what a malformed run file is told."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2anker_hf.records import InputError, ScoredDocument
from r2anker_hf.retrievers.base import cut
from r2anker_hf.run import Run, RunFile


def doc_ids(run, query_id):
    return [document.doc_id for document in run[query_id]]


def test_order_is_score_then_doc_id_both_descending():
    run = Run({"q": [("a", 1.0), ("c", 2.0), ("b", 1.0), ("d", -3.0)]})
    assert doc_ids(run, "q") == ["c", "b", "a", "d"]


def test_order_does_not_depend_on_the_order_given():
    documents = [(f"d{index}", float(index % 4)) for index in range(20)]
    expected = Run({"q": documents})["q"]
    for seed in range(5):
        shuffled = random.Random(seed).sample(documents, len(documents))
        assert Run({"q": shuffled})["q"] == expected


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.5, 1.0, 1.5, 2.0, -math.inf, math.inf]) | st.floats(-9, 9, width=32), max_size=40))
def test_what_retrievers_cut_is_in_the_order_of_a_run(scores):
    doc_ids, positions = [f"d{number}" for number in range(50)], np.random.default_rng(0).permutation(50)
    expected = Run({"q": zip([doc_ids[position] for position in positions], scores, strict=False)})
    for depth in (1, 7, 40):
        assert Run.of_ranked(
            {"q": cut(doc_ids, positions[: len(scores)], np.array(scores, np.float32), depth)}
        ) == expected.top(depth)


def written(scores, folder):
    Run({"q": scores.items()}).write_trec(folder / "run.trec")
    return folder / "run.trec"


def cut_by_a_retriever(scores, _):
    values = np.array(list(scores.values()))
    return Run.of_ranked({"q": cut(list(scores), np.arange(len(scores)), values, len(scores))})


# Every way in which a list gets its order.
ORDERED = {
    "made": lambda scores, _: Run({"q": scores.items()}),
    "written and read": lambda scores, folder: Run.read_trec(written(scores, folder)),
    "left on disk": lambda scores, folder: RunFile(written(scores, folder)),
    "merged": lambda scores, _: Run.merge([Run({"q": [pair]}) for pair in scores.items()]),
    "cut by a retriever": cut_by_a_retriever,
}
STEP = 2.0**-24  # of a float32 just below 1: half of it is lost
SCORES = {
    "equal": {"d1": 2.0, "d10": 2.0, "d9": 2.0, "é": 2.0, "Z": 2.0, "x": 3.0, "y": 1.0},
    "equal as float32": {"a": 7.000000001, "c": 7.0, "b": 7.0000000005, "top": 7.1, "last": 6.9},
    "at the edge of float32": {"a": 1.0, "b": 1.0 - STEP, "c": 1.0 - STEP * 0.4, "d": 1.0 - STEP * 0.6},
    "beyond float32": {"a": 1e300, "b": 1e299, "c": 3e38, "d": 1e-60, "e": 0.0, "f": -1e300},
}


@pytest.mark.parametrize("made", ORDERED.values(), ids=ORDERED)
@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_order_is_that_of_trec_eval(scores, made, tmp_path):
    """pytrec_eval sorts by itself; a single relevant document at every place shows where it puts each."""
    pytrec_eval = pytest.importorskip("pytrec_eval")
    for rank, document in enumerate(made(scores, tmp_path)["q"], start=1):
        evaluator = pytrec_eval.RelevanceEvaluator({"q": {document.doc_id: 1}}, {"recip_rank"})
        assert evaluator.evaluate({"q": scores})["q"]["recip_rank"] == pytest.approx(1 / rank)


def test_scores_keep_the_digits_that_do_not_count():
    assert Run({"q": [("a", 7.000000001), ("b", 7.0)]})["q"] == (("b", 7.0), ("a", 7.000000001))


def test_infinite_scores_have_a_place():
    assert doc_ids(Run({"q": [("a", -math.inf), ("b", 0.0), ("c", math.inf)]}), "q") == ["c", "b", "a"]


def test_run_is_a_mapping_and_does_not_hold_on_to_its_input():
    documents = [("a", 1)]
    lists = {"q1": documents, "q2": []}
    run = Run(lists, name="bm25")
    documents.append(("b", 2))
    lists["q3"] = []
    assert dict(run) == {"q1": (ScoredDocument("a", 1.0),), "q2": ()}
    assert repr(run) == "Run('bm25', 2 queries, 1 documents)"


def test_nan_score_is_an_error():
    with pytest.raises(InputError, match="'b' is NaN"):
        cut(["a", "b", "c"], np.arange(3), np.array([1.0, math.nan, 2.0]), depth=2)
    with pytest.raises(InputError, match="query 'q': the score of document 'a' is NaN"):
        Run({"q": [("a", math.nan), ("b", 1.0)]})


def test_document_listed_twice_is_an_error():
    with pytest.raises(InputError, match="query 'q': document 'a' is listed twice"):
        Run({"q": [("a", 1.0), ("a", 2.0)]})


def test_top_cuts_every_list_and_keeps_the_name():
    run = Run({"q1": [("a", 2.0), ("b", 1.0)], "q2": [("c", 1.0)]}, name="bm25")
    assert (doc_ids(run.top(1), "q1"), doc_ids(run.top(1), "q2"), run.top(1).name) == (["a"], ["c"], "bm25")
    assert dict(run.top(9)) == dict(run)


def test_merge_of_shards_is_the_whole():
    whole = {"q1": [("a", 2.0), ("b", 1.0)], "q2": [("c", 1.0)]}
    by_query = Run.merge([Run({"q1": whole["q1"]}), Run({"q2": whole["q2"]})])
    by_corpus = Run.merge([Run({"q1": [("b", 1.0)]}), Run({"q1": [("a", 2.0)], "q2": [("c", 1.0)]})])
    assert dict(by_query) == dict(by_corpus) == dict(Run(whole))


def test_merge_keeps_the_best_score_of_a_document():
    merged = Run.merge([Run({"q": [("a", 1.0)]}), Run({"q": [("a", 3.0), ("b", 2.0)]})], name="both")
    assert (doc_ids(merged, "q"), merged.name) == (["a", "b"], "both")


def test_trec_round_trip_is_exact(tmp_path):
    rng = random.Random(0)
    lists = {
        f"q{q}": [(f"d{d}", rng.choice([rng.gauss(0, 1), 1e-300, 1 / 3, 5.0])) for d in range(50)] for q in range(9)
    }
    run = Run(lists, name="dense")
    run.write_trec(tmp_path / "run.trec")
    read = Run.read_trec(tmp_path / "run.trec")
    assert dict(read) == dict(run)
    assert list(read) == list(run)
    assert read.name == "dense"


def test_written_lines_are_trec(tmp_path):
    Run({"q": [("a", 1.5), ("b", 2.0)]}, name="my run").write_trec(tmp_path / "run.trec")
    assert (tmp_path / "run.trec").read_bytes() == b"q Q0 b 1 2.0 my_run\nq Q0 a 2 1.5 my_run\n"


def test_score_column_decides_and_rank_column_is_ignored(tmp_path):
    (tmp_path / "run.trec").write_text("q Q0 a 1 0.5 x\nq Q0 b 2 0.9 x\n")
    assert doc_ids(Run.read_trec(tmp_path / "run.trec", name="other"), "q") == ["b", "a"]
    assert Run.read_trec(tmp_path / "run.trec", name="other").name == "other"


def test_foreign_spacing_is_read(tmp_path):
    """A byte order mark, tabs, Windows line ends, empty lines and exponents are met in real run files."""
    (tmp_path / "run.trec").write_bytes(b"\xef\xbb\xbfq\tQ0\ta\t1\t1e-3\tx\r\n\r\nq  Q0  b  2  -inf  x")
    assert Run.read_trec(tmp_path / "run.trec")["q"] == (ScoredDocument("a", 0.001), ScoredDocument("b", -math.inf))


def test_empty_file_is_an_empty_run_named_after_it(tmp_path):
    (tmp_path / "bm25.trec").write_text("")
    run = Run.read_trec(tmp_path / "bm25.trec")
    assert (len(run), run.name) == (0, "bm25")


GOOD = b"q Q0 a 1 2.0 x\n"
MALFORMED = {
    "five columns": (b"q Q0 b 2 1.0\n", r"line 2: 5 columns, but a TREC run has 6"),
    "seven columns": (b"q Q0 b 2 1.0 x y\n", r"line 2: 7 columns"),
    "NaN": (b"q Q0 b 2 nan x\n", r"line 2: the score is NaN"),
    "no number": (b"q Q0 b 2 high x\n", r"line 2: the score 'high' is not a number"),
    "decimal comma": (b"q Q0 b 2 1,0 x\n", r"line 2: the score '1,0' is not a number"),
    "duplicate": (b"q Q0 a 2 1.0 x\n", r"line 2: document 'a' stands twice for query 'q'"),
    "bad byte": (b"q Q0 b\xff 2 1.0 x\n", r"line 2: byte 0xff at column 7 is not UTF-8"),
}


@pytest.mark.parametrize("line,message", MALFORMED.values(), ids=MALFORMED)
def test_malformed_line_is_named(tmp_path, line, message):
    path = tmp_path / "run.trec"
    path.write_bytes(GOOD + line)
    with pytest.raises(InputError, match=message) as caught:
        Run.read_trec(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(InputError, match=r"absent\.trec: no such file"):
        Run.read_trec(tmp_path / "absent.trec")
    with pytest.raises(InputError, match="is a folder, but a file is needed"):
        Run.read_trec(tmp_path)


class TestRunFile:
    """A run that stays on disk reads as `Run.read_trec` does, errors included."""

    def write(self, tmp_path, text):
        path = tmp_path / "run.trec"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    @pytest.mark.parametrize(
        "text",
        [
            "q1 Q0 a 1 2.0 x\nq1 Q0 b 2 1.0 x\nq2 Q0 c 1 1.5 x\n",
            "q1 Q0 a 1 1 x\nq1 Q0 b 2 1 x\nq1 Q0 c 3 5e-1 x",  # ties, no end of line
            "q1 Q0 a 9 1.0 x\nq2 Q0 a 1 0.0 x\nq1 Q0 b 1 2.0 x\n",  # lines of a query apart, ranks ignored
            "\n\nq1\tQ0\ta 1  1.0\tx\r\n\nq1 Q0 b 2 inf x\n\n",  # blank lines, tabs, CRLF
            "\ufeffé Q0 ü 1 -1.0 x\n",
            "",
        ],
    )
    def test_same_lists(self, tmp_path, text):
        path = self.write(tmp_path, text)
        assert dict(RunFile(path)) == dict(Run.read_trec(path))

    @pytest.mark.parametrize(
        "text",
        [
            "q1 Q0 a 1 2.0 x\nq1 Q0 b 2 x\n",
            "q1 Q0 a 1 2.0 x\nq1 Q0 b 2 1.0 x y\nq1 Q0 c 3\n",
            "q1 Q0 a 1 two x\n",
            "q1 Q0 a 1 nan x\n",
            "q1 Q0 a 1 2.0 x\nq2 Q0 b 1 1.0 x\nq1 Q0 a 2 1.0 x\n",
            b"q1 Q0 a 1 2.0 x\nq1 Q0 \xff 2 1.0 x\n",
        ],
    )
    def test_same_errors(self, tmp_path, text):
        path = self.write(tmp_path, text)
        with pytest.raises(InputError) as eager:
            Run.read_trec(path)
        with pytest.raises(InputError) as lazy:
            dict(RunFile(path))
        assert str(lazy.value).split(":")[0] == str(eager.value).split(":")[0]  # file and line

    def test_what_is_no_file(self, tmp_path):
        for path in (tmp_path / "gone.trec", tmp_path):
            with pytest.raises(InputError, match=str(path)):
                RunFile(path)
        with pytest.raises(InputError, match="line 1: the query id"):
            RunFile(self.write(tmp_path, b"\xff Q0 a 1 2.0 x\n"))
