"""Fusion of runs: its arithmetic, what does not change it, edges of lists, and weights chosen as they are applied."""

import itertools
import math
import random
import warnings

import pytest

from r2anker_hf.evaluation.fusion import METHODS, choose, fuse, simplex
from r2anker_hf.evaluation.measures import evaluate_run, means
from r2anker_hf.negatives.sampling import fused_scores
from r2anker_hf.records import InputError
from r2anker_hf.run import Run

NORMALISED = [name for name in METHODS if name != "as_given"]


def a_run(seed, queries=6, documents=30, length=12, name="run"):
    """Lists of random documents; scores repeat, so that there are ties."""
    draw = random.Random(seed)
    lists = {
        f"q{n}": [(f"d{d}", draw.randrange(20) / 4) for d in draw.sample(range(documents), length)]
        for n in range(queries)
    }
    return Run(lists, name)


def order(run):
    return {query_id: [document.doc_id for document in run[query_id]] for query_id in run}


def scores(run, query_id="q"):
    return {document.doc_id: document.score for document in run[query_id]}


FIRST = Run({"q": [("a", 9.0), ("b", 8.0), ("c", 5.0)]}, "first")
SECOND = Run({"q": [("c", 0.75), ("d", 0.25)]}, "second")
# of FIRST: mean 22/3, deviation sqrt(26)/3; of SECOND: mean 1/2, deviation 1/4
Z = [(score - 22 / 3) / (math.sqrt(26) / 3) for score in (9, 8, 5)]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (
            "reciprocal_rank",
            {"a": 0.5 / (60 + 1), "b": 0.5 / (60 + 2), "c": 0.5 * (1 / (60 + 3) + 1 / (60 + 1)), "d": 0.5 / (60 + 2)},
        ),
        ("minmax", {"a": 0.5, "b": 0.5 * 3 / 4, "c": 0.5 * (0 + 1), "d": 0.0}),
        (
            "standardise",
            {"a": 0.5 * (Z[0] - 1), "b": 0.5 * (Z[1] - 1), "c": 0.5 * (Z[2] + 1), "d": 0.5 * (Z[2] - 1)},
        ),
        ("as_given", {"a": 0.5 * 9.25, "b": 0.5 * 8.25, "c": 0.5 * 5.75, "d": 0.5 * 5.25}),
    ],
)
def test_arithmetic(method, expected):
    assert scores(fuse([FIRST, SECOND], method)) == pytest.approx(expected, abs=1e-12)


def test_every_method_has_its_arithmetic():
    assert {method for method, _ in test_arithmetic.pytestmark[0].args[1]} == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_the_runs_changes_no_bit(method):
    runs, weights = [a_run(seed) for seed in (1, 2, 3, 4)], [0.1, 0.2, 0.3, 0.4]
    expected = fuse(runs, method, weights)
    for places in itertools.permutations(range(4)):
        assert fuse([runs[n] for n in places], method, [weights[n] for n in places]) == expected


@pytest.mark.parametrize("method", METHODS)
def test_the_scale_of_the_weights_changes_no_order(method):
    runs = [a_run(seed) for seed in (1, 2)]
    assert order(fuse(runs, method, [1, 3])) == order(fuse(runs, method, [0.25, 0.75]))


@pytest.mark.parametrize("method", METHODS)
def test_weight_on_one_run_gives_that_run(method):
    runs = [a_run(1), a_run(2)]
    assert order(fuse(runs, method, [0, 2])) == order(runs[1])


@pytest.mark.parametrize("method", METHODS)
def test_a_run_fused_with_itself_keeps_its_order(method):
    assert order(fuse([a_run(5)] * 3, method)) == order(fuse([a_run(5)], method)) == order(a_run(5))


@pytest.mark.parametrize("method", NORMALISED)
def test_scale_and_shift_of_scores_change_nothing(method):
    runs = [a_run(1), a_run(2)]
    moved = Run({q: [(d, 8 * s - 16) for d, s in documents] for q, documents in runs[0].items()})
    fused, expected = fuse([moved, runs[1]], method), fuse(runs, method)
    for query_id in expected:
        assert scores(fused, query_id) == pytest.approx(scores(expected, query_id), abs=1e-12)


def test_reciprocal_ranks_see_the_order_only():
    runs = [a_run(1), a_run(2)]
    bent = Run({q: [(d, math.exp(s) if s > 2 else s**3) for d, s in documents] for q, documents in runs[0].items()})
    assert order(bent) == order(runs[0])
    assert fuse([bent, runs[1]]) == fuse(runs)


def test_standardised_scores_are_those_of_a_warm_start():
    runs = [a_run(1), a_run(2), a_run(3)]
    fused = fuse(runs, "standardise")
    for query_id in fused:
        lists = {str(n): tuple(zip(*run[query_id], strict=True)) for n, run in enumerate(runs)}
        assert scores(fused, query_id) == pytest.approx(fused_scores(lists), abs=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "other",
    [[("x", 3.0)], [("x", 2.0), ("y", 2.0)], [("x", -math.inf), ("a", -math.inf)], [("x", math.inf), ("a", 1.0)]],
    ids=["one document", "equal scores", "nothing finite", "infinite"],
)
def test_odd_lists_give_finite_scores(method, other):
    fused = fuse([FIRST, Run({"q": other})], method)
    assert set(scores(fused)) == {"a", "b", "c", *(doc_id for doc_id, _ in other)}
    assert all(math.isfinite(score) for score in scores(fused).values())


@pytest.mark.parametrize("method", ["minmax", "standardise"])
@pytest.mark.parametrize("other", [[("c", 3.0)], [("c", 2.0), ("b", 2.0)], []], ids=["one", "equal", "none"])
def test_a_list_without_differences_says_nothing(method, other):
    alone = scores(fuse([FIRST], method))
    fused = scores(fuse([FIRST, Run({"q": other})], method))
    assert fused == pytest.approx({doc_id: score / 2 for doc_id, score in alone.items()}, abs=1e-12)


def test_an_unscored_document_counts_as_the_list_s_lowest():
    minus = Run({"q": [("a", 9.0), ("b", 5.0), ("c", -math.inf)]})
    assert scores(fuse([minus], "minmax")) == {"a": 1.0, "b": 0.0, "c": 0.0}


@pytest.mark.parametrize("method", METHODS)
def test_a_query_that_one_run_lacks_keeps_the_other_s_order(method):
    both = Run({"q": FIRST["q"], "p": [("x", 1.0), ("y", 3.0)]}, "both")
    with pytest.warns(UserWarning, match="run 'second' lacks 1 of 2 queries"):
        fused = fuse([both, SECOND], method)
    assert order(fused)["p"] == ["y", "x"] and list(fused) == ["q", "p"]


def test_within_leaves_out_what_a_ranker_did_not_score():
    ranker = Run({"q": [("c", 4.0), ("b", 1.0)]}, "ranker")
    fused = fuse([ranker, FIRST, SECOND], "minmax", [0.5, 0.25, 0.25], within=ranker)
    # of FIRST, b and c remain and are normalised as a list of two; of SECOND, c does, and says nothing
    assert scores(fused) == {"c": 0.5, "b": 0.25}


def test_depth_keeps_the_top():
    runs = [a_run(1), a_run(2)]
    assert fuse(runs, depth=5) == fuse(runs).top(5)


@pytest.mark.parametrize("measure", ["nDCG@10", "MRR@3", "R(rel=2)@5"])
def test_every_point_of_the_table_is_what_fusing_gives(measure):
    draw = random.Random(7)
    runs = [a_run(seed, length=length) for seed, length in ((1, 12), (2, 3), (3, 25))]
    qrels = {f"q{n}": {f"d{d}": draw.randrange(4) for d in draw.sample(range(30), 9)} for n in range(7)}
    best, points = choose(qrels, runs, measure, list(METHODS), step=0.25)
    assert len(points) == len(METHODS) * 16  # 15 of the grid, and equal weights
    for point in points:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # q6 is judged, and no run has it
            values = means(evaluate_run(qrels, fuse(runs, point.method, point.weights), [measure]))
        assert point.value == pytest.approx(values[measure], abs=1e-12), point
    assert best.value == pytest.approx(max(point.value for point in points), abs=1e-12) and best in points


def test_the_table_holds_within():
    ranker, first = a_run(1, length=5), a_run(2, length=20)
    qrels = {f"q{n}": {f"d{d}": 1 for d in range(0, 30, 3)} for n in range(6)}
    _, points = choose(qrels, [ranker, first], "nDCG@10", ["standardise"], step=0.5, within=ranker)
    for point in points:
        fused = fuse([ranker, first], point.method, point.weights, within=ranker)
        assert point.value == pytest.approx(means(evaluate_run(qrels, fused, ["nDCG@10"]))["nDCG@10"], abs=1e-12)


def test_equal_means_go_to_even_weights_and_the_first_method():
    run = a_run(1)
    qrels = {"q0": {"d1": 1}}
    best, _ = choose(qrels, [run, run, run], "MRR@10")
    assert (best.method, best.weights) == ("reciprocal_rank", (1 / 3, 1 / 3, 1 / 3))
    best, _ = choose(qrels, [run, run], "MRR@10", ["standardise", "minmax"])
    assert (best.method, best.weights) == ("standardise", (0.5, 0.5))


@pytest.mark.parametrize(("runs", "step", "points"), [(1, 0.1, 1), (2, 0.1, 11), (3, 0.1, 66 + 1), (4, 0.1, 286 + 1)])
def test_the_grid_is_the_whole_simplex(runs, step, points):
    grid = simplex(runs, step)
    assert len(set(grid)) == len(grid) == points and (1 / runs,) * runs in grid
    assert all(sum(weights) == pytest.approx(1) and min(weights) >= 0 for weights in grid)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": []}, "no run is given"),
        ({"method": "max"}, "choose among reciprocal_rank, minmax, standardise, as_given"),
        ({"weights": [1]}, "1 weights are given for 2 runs"),
        ({"weights": [1, -1]}, "weight of run 'second' is -1"),
        ({"weights": [1, math.nan]}, "weight of run 'second' is nan"),
        ({"weights": [0, 0]}, "all weights are 0"),
        ({"k": -1}, "k is -1"),
        ({"runs": [FIRST, Run({"other": [("a", 1.0)]}, "strange")]}, "'first' and 'strange' have no query in common"),
        ({"within": Run({"other": [("a", 1.0)]}, "strange")}, "'first' and 'strange' have no query in common"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        fuse(**{"runs": [FIRST, SECOND], "method": "minmax", **change})


@pytest.mark.parametrize("step", [0, 0.3, -0.1, 2])
def test_a_step_that_does_not_divide_one_is_refused(step):
    with pytest.raises(InputError, match="it must divide 1"):
        choose({"q": {"a": 1}}, [FIRST, SECOND], step=step)


def test_runs_of_other_queries_than_the_judgements_are_refused():
    with pytest.raises(InputError, match="none of the queries of run 'first' is judged"):
        choose({"p": {"a": 1}}, [FIRST, SECOND])
