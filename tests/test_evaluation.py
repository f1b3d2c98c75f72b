"""Protects the report's statistics: intervals, paired tests, Holm's correction, and what a first stage allows."""

import dataclasses
import hashlib
import itertools
import json
import random

import numpy as np
import pytest

from r2anker_hf.evaluation.evaluation import (
    CollectionFacts,
    EvaluationReport,
    QueryCase,
    RelevantDocument,
    Settings,
    TopDocument,
    bootstrap_intervals,
    compare,
    evaluate,
    holm,
    randomisation_test,
    t_test,
)
from r2anker_hf.records import InputError
from r2anker_hf.run import Run

TESTS = ("randomisation", "t-test")
QUICK = Settings(resamples=500)


def ranked(*doc_ids):
    return [(doc_id, float(-rank)) for rank, doc_id in enumerate(doc_ids)]


def random_values(seed, systems=3, queries=25):
    rng = random.Random(seed)
    return {f"s{s}": {f"q{q}": rng.choice([0.0, 1 / 3, 0.5, 1.0]) for q in range(queries)} for s in range(systems)}


def small_case():
    """First stage a, b, c; the ranker reorders it; q3's relevant document is not in the first stage."""
    qrels = {"q1": {"b": 1}, "q2": {"a": 1, "c": 0}, "q3": {"z": 1}}
    first = Run({q: ranked("a", "b", "c") for q in qrels}, name="bm25")
    ranker = Run(
        {"q1": ranked("b", "a", "c"), "q2": ranked("c", "b", "a"), "q3": ranked("a", "c", "b")}, name="ranker"
    )
    return qrels, first, ranker


def small_report(**options):
    qrels, first, ranker = small_case()
    options = {"settings": QUICK, "first_stages": {"ranker": "bm25"}} | options
    return evaluate(qrels, [first, ranker], ["MRR@10", "R@2"], **options)


# Arithmetic


def test_holm_by_hand():
    """Sorted .01 .02 .03 .04 times 4 3 2 1 = .04 .06 .06 .04, and the last may not fall below .06."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_means_and_differences_by_hand():
    report = small_report()
    scores = {system.name: {m: e.mean for m, e in system.scores.items()} for system in report.systems}
    assert scores["bm25"] == pytest.approx({"MRR@10": (1 / 2 + 1 + 0) / 3, "R@2": 2 / 3})
    assert scores["ranker"] == pytest.approx({"MRR@10": (1 + 1 / 3 + 0) / 3, "R@2": 1 / 3})
    mrr = report.comparison("MRR@10", "bm25", "ranker")
    assert mrr.difference == pytest.approx((1 / 2 - 2 / 3) / 3)
    assert (mrr.wins, mrr.ties, mrr.losses) == (1, 1, 1)


def test_sign_flips_by_hand():
    """One query that differs can keep or change its sign: a sum as large always comes out, so p is 1."""
    assert randomisation_test(np.array([[0.5]]), QUICK) == [1.0]
    assert randomisation_test(np.zeros((9, 2)), QUICK).tolist() == [1.0, 1.0]
    always = randomisation_test(np.full((60, 1), 0.1), QUICK)  # all 60 coins alike: 2 in 2**60
    assert always == pytest.approx([1 / 501])


def test_first_stage_recall_and_ceiling_by_hand():
    first = small_report().system("ranker").first_stage
    assert (first.name, first.depth, first.recall_measure) == ("bm25", 3, "R@3")
    assert first.recall == pytest.approx(2 / 3)
    assert first.ceiling == pytest.approx({"MRR@10": 2 / 3, "R@2": 2 / 3})
    shallow = small_report(depths={"ranker": 1}).system("ranker").first_stage
    assert (shallow.depth, shallow.recall) == (1, pytest.approx(1 / 3))


def test_a_list_that_was_cut_after_its_reranking_is_measured_by_how_deep_it_reached():
    qrels = {"q": {"z": 1}}
    runs = [Run({"q": ranked("a", "b", "z", "c")}, "first"), Run({"q": ranked("z")}, "ranker")]
    report = evaluate(qrels, runs, ["MRR@10"], first_stages={"ranker": "first"}, settings=QUICK)
    first = report.system("ranker").first_stage
    assert (first.depth, first.recall, first.ceiling["MRR@10"]) == (3, 1.0, report.means["MRR@10"]["ranker"])


def test_first_stage_recall_counts_from_a_grade():
    qrels = {"q": {"a": 1, "b": 2, "z": 2}}
    runs = [Run({"q": ranked("a", "b")}, "first"), Run({"q": ranked("b", "a")}, "ranker")]
    report = evaluate(qrels, runs, ["nDCG@10"], first_stages={"ranker": "first"}, recall_grade=2, settings=QUICK)
    first = report.system("ranker").first_stage
    assert (first.recall_measure, first.recall) == ("R(rel=2)@2", 0.5)


def test_unjudged_queries_do_not_stop_the_first_stage():
    qrels, first, ranker = small_case()
    qrels.pop("q3")
    with pytest.warns(UserWarning, match="1 queries are not judged"):
        report = evaluate(qrels, [first, ranker], ["R@2"], first_stages={"ranker": "bm25"}, settings=QUICK)
    assert report.system("ranker").first_stage.recall == 1.0


def test_facts_about_runs():
    run = Run({"q1": [("a", 1.0), ("b", 1.00000001), ("c", 0.5), ("d", 0.25)], "q2": [("a", 1.0)]}, "tied")
    with pytest.warns(UserWarning) as caught:
        report = evaluate({"q1": {"a": 1}, "q3": {"a": 0}}, [run], ["R@5"], settings=QUICK)
    messages = " / ".join(str(warning.message) for warning in caught)
    assert "1 queries are not judged" in messages and "lacks 1 of 2 judged queries" in messages
    assert "1 of 2 judged queries have no relevant document" in messages
    system = report.systems[0]
    assert (system.queries, system.depth, system.tied) == (1, 4, 2 / 5)
    assert report.queries_without_relevant == 1
    assert (report.comparisons, report.examples) == ((), None)


def test_examples_by_hand():
    examples = small_report().examples
    assert (examples.measure, examples.baseline, examples.system) == ("MRR@10", "bm25", "ranker")
    assert examples.gains == (
        QueryCase("q1", 0.5, 1.0, 1, (RelevantDocument("b", 1, 2, 1),), TopDocument("a", None), TopDocument("b", 1)),
    )
    loss = examples.losses[0]
    assert (loss.query_id, loss.baseline_top, loss.system_top) == ("q2", TopDocument("a", 1), TopDocument("c", 0))
    assert loss.relevant == (RelevantDocument("a", 1, 1, 3),)


def test_examples_show_listed_documents_first_and_the_largest_change_first():
    qrels = {"q1": {"absent": 3, "a": 1, "b": 2}, "q2": {"a": 1}, "q3": {"b": 1}}
    runs = [
        Run({q: ranked("x", "y", "b", "a") for q in qrels}, "one"),
        Run({"q1": ranked("b", "a"), "q2": ranked("x", "a"), "q3": []}, "two"),
    ]
    examples = evaluate(qrels, runs, ["MRR@10"], settings=QUICK, examples=1).examples
    assert [case.query_id for case in examples.gains] == ["q1"]
    assert [document.doc_id for document in examples.gains[0].relevant] == ["b", "a", "absent"]
    assert examples.losses[0].system_top is None
    assert examples.losses[0].relevant[0].system_rank is None


# Properties


@pytest.mark.parametrize("test", TESTS)
def test_compare_is_antisymmetric(test):
    values = random_values(seed=3)
    settings = Settings(test=test, resamples=500)
    there = compare(values, "m", [("s0", "s1"), ("s1", "s2")], settings)
    back = compare(values, "m", [("s1", "s0"), ("s2", "s1")], settings)
    for one, other in zip(there, back, strict=True):
        assert one.difference == -other.difference
        assert (one.p_value, one.p_corrected) == pytest.approx((other.p_value, other.p_corrected))
        assert (one.wins, one.ties, one.losses) == (other.losses, other.ties, other.wins)
        assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


@pytest.mark.parametrize("test", TESTS)
def test_a_system_against_its_copy(test):
    values = random_values(seed=4, systems=1)
    copy = compare({"a": values["s0"], "b": dict(values["s0"])}, "m", settings=Settings(test=test, resamples=500))[0]
    assert (copy.difference, copy.low, copy.high, copy.p_value, copy.ties) == (0, 0, 0, 1, 25)


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("queries", [1, 2, 30])
def test_p_values_and_intervals_are_in_range(test, queries):
    for seed in range(5):
        for comparison in compare(random_values(seed, 4, queries), "m", settings=Settings(test=test, resamples=300)):
            assert 0 < comparison.p_value <= comparison.p_corrected <= 1
            assert comparison.low <= comparison.difference <= comparison.high
            assert comparison.wins + comparison.ties + comparison.losses == queries


def test_compare_does_not_depend_on_the_order_of_queries_or_of_other_pairs():
    values = random_values(seed=5, systems=3)
    backwards = {name: dict(reversed(column.items())) for name, column in reversed(values.items())}
    pairs = [("s0", "s1"), ("s0", "s2")]
    assert compare(values, "m", pairs, QUICK) == compare(backwards, "m", pairs, QUICK)
    alone = compare(values, "m", pairs[:1], QUICK)[0]
    assert alone.p_value == compare(values, "m", pairs, QUICK)[0].p_value


def test_report_does_not_depend_on_the_order_of_queries():
    qrels, first, ranker = small_case()
    backwards = [Run(dict(reversed(dict(run).items())), run.name) for run in (first, ranker)]
    report = evaluate(dict(reversed(qrels.items())), backwards, ["MRR@10", "R@2"], settings=QUICK)
    assert report == evaluate(qrels, [first, ranker], ["MRR@10", "R@2"], settings=QUICK)


def test_intervals_contain_the_mean_and_stay_between_the_values():
    rng = np.random.default_rng(0)
    values = rng.choice([0.0, 0.1, 1.0], size=(40, 6))
    low, high = bootstrap_intervals(values, QUICK)
    assert (low <= values.mean(axis=0)).all() and (values.mean(axis=0) <= high).all()
    assert low.min() >= 0 and high.max() <= 1
    wide = bootstrap_intervals(values, Settings(resamples=500, confidence=0.99))
    assert (wide[0] <= low).all() and (wide[1] >= high).all()
    for system in small_report().systems:
        assert all(e.low <= e.mean <= e.high for e in system.scores.values())


def test_batches_of_resamples_give_what_one_batch_gives(monkeypatch):
    differences = np.random.default_rng(1).normal(size=(30, 2))
    whole = randomisation_test(differences, QUICK), bootstrap_intervals(differences, QUICK)
    monkeypatch.setattr("r2anker_hf.evaluation.evaluation._CELLS", 30 * 16)  # the generator fills words of eight signs
    assert np.allclose(randomisation_test(differences, QUICK), whole[0], atol=0.05)
    assert np.allclose(bootstrap_intervals(differences, QUICK), whole[1], atol=0.05)


def test_seed_decides():
    values = random_values(seed=6)
    assert compare(values, "m", settings=QUICK) == compare(values, "m", settings=QUICK)
    assert compare(values, "m", settings=QUICK) != compare(values, "m", settings=Settings(resamples=500, seed=7))


# Oracles


def test_oracle_exact_randomisation():
    """All 2**10 sign flips of ten queries, one by one."""
    differences = np.random.default_rng(2).normal(0.3, 1, size=10)
    flips = np.array(list(itertools.product([-1, 1], repeat=10))) @ differences
    exact = (np.abs(flips) >= abs(differences.sum()) - 1e-12).mean()
    assert randomisation_test(differences[:, None], Settings(resamples=20_000))[0] == pytest.approx(exact, abs=0.01)


def test_oracle_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(3)
    one, other = rng.random((2, 40))
    theirs = stats.ttest_rel(other, one)
    assert t_test((other - one)[:, None], QUICK)[0] == pytest.approx(theirs.pvalue)
    drawn = stats.permutation_test(
        (other - one,), np.mean, permutation_type="samples", n_resamples=5000, vectorized=True, rng=0
    )
    assert randomisation_test((other - one)[:, None], Settings())[0] == pytest.approx(drawn.pvalue, abs=0.03)
    interval = stats.bootstrap((one,), np.mean, method="percentile", rng=0).confidence_interval
    assert bootstrap_intervals(one[:, None], Settings())[:, 0] == pytest.approx(interval, abs=0.01)


# The report as a file


def test_json_round_trip_is_exact(tmp_path):
    (tmp_path / "run.trec").write_text("q Q0 a 1 1.0 x\n")
    facts = CollectionFacts("apidocs", "abc", "test", 3000, True)
    report = small_report(collection=facts, run_files={"bm25": tmp_path / "run.trec"})
    text = report.to_json()
    again = EvaluationReport.from_json(text)
    assert again == report and again.to_json() == text
    assert report.system("bm25").run_sha256 == hashlib.sha256(b"q Q0 a 1 1.0 x\n").hexdigest()
    assert small_report() == EvaluationReport.from_json(small_report().to_json())


def test_no_folder_of_this_machine_is_recorded(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "run.trec"
    path.write_text("")
    assert small_report(run_files={"bm25": path}, qrels_file=path).system("bm25").run_file == "run.trec"
    monkeypatch.chdir(tmp_path)
    assert small_report(run_files={"bm25": "out/run.trec"}).system("bm25").run_file == "out/run.trec"


@pytest.mark.parametrize(
    "text,message",
    [
        ("{", "is no report"),
        ("[]", "is no report"),
        ('{"format": "other/2"}', "the format is 'other/2', but this version reads 'r2anker_hf.report/1'"),
        ('{"format": "r2anker_hf.report/1"}', "is no complete report"),
    ],
)
def test_what_is_no_report_is_named(text, message):
    with pytest.raises(InputError, match=f"x/report.json: {message}"):
        EvaluationReport.from_json(text, "x/report.json")


def test_wrong_values_in_a_report_are_named():
    tree = json.loads(small_report().to_json())
    tree["systems"][0]["depth"] = "deep"
    with pytest.raises(InputError, match="is no complete report"):
        EvaluationReport.from_json(json.dumps(tree))


def test_report_is_frozen_and_looks_up_by_name():
    report = small_report()
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.measures = ()
    with pytest.raises(InputError, match="no system is called 'x'; there are bm25, ranker"):
        report.system("x")
    back = report.comparison("MRR@10", "ranker", "bm25")
    assert back.difference == -report.comparison("MRR@10", "bm25", "ranker").difference
    assert report.comparison("MRR@10", "bm25", "bm25") is None


# Bad input


def test_bad_input_is_named(tmp_path):
    qrels, first, ranker = small_case()
    with pytest.raises(InputError, match="no run is given"):
        evaluate(qrels, [], ["R@2"])
    with pytest.raises(InputError, match="two runs are called 'bm25'"):
        evaluate(qrels, [first, first], ["R@2"])
    with pytest.raises(InputError, match="a name needs printable characters on one line"):
        evaluate(qrels, [Run(first, "a\tb")], ["R@2"])
    with pytest.raises(InputError, match="first_stages: no system is called 'x'; there are bm25, ranker"):
        small_report(first_stages={"ranker": "x"})
    with pytest.raises(InputError, match="depths: no system is called 'bm25'; there are ranker"):
        small_report(depths={"bm25": 10})
    with pytest.raises(InputError, match="run_files: no system is called 'x'"):
        small_report(run_files={"x": tmp_path / "run.trec"})
    with pytest.raises(InputError, match=r"run\.trec: no such file"):
        small_report(run_files={"bm25": tmp_path / "run.trec"})
    with pytest.raises(InputError, match="pairs: no system is called 'x'"):
        small_report(pairs=[("bm25", "x")])
    with pytest.raises(InputError, match="examples_pair: no system is called 'x'"):
        small_report(examples_pair=("bm25", "x"))
    with pytest.raises(InputError, match="no test is called 'wilcoxon'; choose among randomisation, t-test"):
        Settings(test="wilcoxon")
    with pytest.raises(InputError, match="different queries"):
        compare({"a": {"q1": 1.0}, "b": {"q2": 1.0}}, "m")


def test_a_reranking_may_not_hold_what_its_first_stage_lacks():
    qrels, first, ranker = small_case()
    stranger = Run(dict(ranker) | {"q1": ranked("z", "a")}, "ranker")
    with pytest.raises(InputError, match="run 'ranker' is said to rerank 'bm25', but its document 'z' of query 'q1'"):
        evaluate(qrels, [first, stranger], ["R@2"], first_stages={"ranker": "bm25"}, settings=QUICK)
