"""Protects the measures' arithmetic and the rules for ties, missing queries and unjudged documents."""

import csv
import math
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest

from r2anker_hf.evaluation.measures import Measure, evaluate_run, means, parse_measure, parse_measures
from r2anker_hf.records import InputError
from r2anker_hf.run import Run

DL19 = Path(__file__).parents[2] / "shared" / "data" / "msmarco-dl19-pool"
ALL = ("MRR@10", "MRR(rel=2)@3", "nDCG@10", "nDCG@3", "R@1", "R@5", "R(rel=2)@5")


def ranked(*doc_ids):
    return [(doc_id, float(-rank)) for rank, doc_id in enumerate(doc_ids)]


def value(qrels, doc_ids, measure):
    return evaluate_run({"q": qrels}, Run({"q": ranked(*doc_ids)}), [measure])[measure]["q"]


def random_case(seed, queries=12, documents=30, tied=False):
    rng = random.Random(seed)
    score = (lambda: float(rng.randrange(5))) if tied else rng.random
    run = {
        f"q{q}": {f"d{d}": score() for d in rng.sample(range(documents), rng.randrange(1, 25))} for q in range(queries)
    }
    qrels = {
        f"q{q}": {f"d{d}": rng.randrange(-1, 4) for d in rng.sample(range(documents), rng.randrange(1, 12))}
        for q in range(queries)
    }
    return qrels, run


@pytest.mark.parametrize(
    "measure,expected",
    [
        ("MRR@10", 1 / 2),
        ("MRR@2", 1 / 2),
        ("MRR@1", 0),
        ("MRR(rel=2)@10", 1 / 4),
        ("MRR(rel=2)@3", 0),
        ("R@2", 1 / 3),
        ("R@4", 2 / 3),
        ("R@1000", 2 / 3),
        ("R(rel=2)@4", 1 / 1),
        # linear gain, ideal list 2, 1, 1 although one of them is not retrieved
        ("nDCG@10", (1 / math.log2(3) + 2 / math.log2(5)) / (2 + 1 / math.log2(3) + 1 / math.log2(4))),
        ("nDCG@3", (1 / math.log2(3)) / (2 + 1 / math.log2(3) + 1 / math.log2(4))),
        ("nDCG@1", 0),
    ],
)
def test_values_by_hand(measure, expected):
    qrels = {"b": 1, "d": 2, "absent": 1, "c": 0}
    assert value(qrels, ["a", "b", "c", "d"], measure) == pytest.approx(expected, abs=1e-12)


def test_negative_grade_is_worth_nothing():
    assert value({"a": -2, "b": 1}, ["a", "b"], "nDCG@10") == pytest.approx(1 / math.log2(3))
    assert value({"a": -2, "b": 1}, ["a", "b"], "MRR@10") == 0.5


def test_order_of_the_run_is_final():
    """With equal scores nothing but the run's own order counts, whichever it is."""
    run = Run({"q": [("a", 1.0), ("b", 1.0), ("c", 1.0)]})
    for rank, document in enumerate(run["q"], start=1):
        assert evaluate_run({"q": {document.doc_id: 1}}, run, ["MRR@10"])["MRR@10"]["q"] == pytest.approx(1 / rank)


def test_missing_query_scores_zero_and_counts():
    with pytest.warns(UserWarning, match="run 'run' lacks 1 of 2 judged queries; they score 0"):
        values = evaluate_run({"q1": {"a": 1}, "q2": {"a": 1}}, Run({"q1": ranked("a")}), ALL[:1])
    assert values == {"MRR@10": {"q1": 1.0, "q2": 0.0}}
    assert means(values) == {"MRR@10": 0.5}


def test_empty_list_scores_zero_even_as_the_first():
    values = evaluate_run({"q1": {"a": 1}, "q2": {"a": 1}}, Run({"q1": [], "q2": ranked("a")}), ["R@5"])
    assert values == {"R@5": {"q1": 0.0, "q2": 1.0}}


def test_unjudged_query_is_left_out():
    with pytest.warns(UserWarning, match="1 queries are not judged and are left out"):
        values = evaluate_run({"q1": {"a": 1}}, Run({"q1": ranked("a"), "q2": ranked("a")}), ["R@5"])
    assert values == {"R@5": {"q1": 1.0}}


def test_query_without_relevant_document_scores_zero():
    for measure in ALL:
        assert value({"a": 0}, ["a", "b"], measure) == 0
        assert value({}, ["a", "b"], measure) == 0


@pytest.mark.parametrize("measure", ALL)
def test_measures_do_not_depend_on_the_order_of_queries_and_judgements(measure):
    qrels, run = random_case(seed=1)
    backwards = {q: dict(reversed(judged.items())) for q, judged in reversed(qrels.items())}
    one = evaluate_run(qrels, Run({q: s.items() for q, s in run.items()}), [measure])
    other = evaluate_run(backwards, Run({q: s.items() for q, s in reversed(run.items())}), [measure])
    assert one == other and list(one[measure]) == list(other[measure]) == sorted(qrels)
    assert means(one) == means(other)


@pytest.mark.parametrize("measure", ALL)
def test_a_relevant_document_moved_up_never_hurts(measure):
    rng = random.Random(7)
    for _ in range(20):
        doc_ids = rng.sample([f"d{d}" for d in range(15)], 15)
        qrels = {"d3": 2}
        place = doc_ids.index("d3")
        better = doc_ids[: place // 2] + ["d3"] + [d for d in doc_ids[place // 2 :] if d != "d3"]
        assert value(qrels, better, measure) >= value(qrels, doc_ids, measure)


@pytest.mark.parametrize("tied", [False, True], ids=["tie-free", "tied"])
@pytest.mark.parametrize("seed", range(3))
def test_oracle_pytrec_eval(seed, tied):
    """trec_eval's own values, ties included, for the measures that it has."""
    pytrec_eval = pytest.importorskip("pytrec_eval")
    qrels, run = random_case(seed, tied=tied)
    ours = evaluate_run(qrels, Run({q: s.items() for q, s in run.items()}), ["MRR@1000", "nDCG@10", "nDCG@3", "R@5"])
    names = {"MRR@1000": "recip_rank", "nDCG@10": "ndcg_cut_10", "nDCG@3": "ndcg_cut_3", "R@5": "recall_5"}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, set(names.values())).evaluate(run)
    for measure, name in names.items():
        for query_id in qrels:
            assert ours[measure][query_id] == pytest.approx(theirs[query_id][name], abs=1e-12)


def test_names_are_parsed_in_any_case_and_written_in_one():
    assert parse_measure(" mrr@10 ") == Measure("MRR", 10)
    assert [str(m) for m in parse_measures(["NDCG@5", "r(rel=2)@50", "nDCG@5", "R(rel=1)@7"])] == [
        "nDCG@5",
        "R(rel=2)@50",
        "R@7",
    ]


@pytest.mark.parametrize("name", ["MAP@10", "MRR", "R@0", "R@-1", "nDCG@ten", "R@1.5", "", "MRR@10@10", "R(2)@10"])
def test_unknown_name_lists_the_forms(name):
    with pytest.raises(InputError, match=r"no measure is called .* choose among MRR@k, nDCG@k, R@k, MRR\(rel=n\)@k"):
        parse_measure(name)


@pytest.mark.parametrize("name", ["nDCG(rel=2)@10", "R(rel=0)@10"])
def test_minimum_grade_where_it_has_no_meaning(name):
    with pytest.raises(InputError, match=r"least relevant grade, n >= 1, of MRR and R"):
        parse_measure(name)


def test_bad_input_is_named():
    run = Run({"q": ranked("a")}, name="bm25")
    with pytest.raises(InputError, match="no measure is given"):
        evaluate_run({"q": {"a": 1}}, run, [])
    with pytest.raises(InputError, match="the qrels hold no query"):
        evaluate_run({}, run, ["R@5"])
    with pytest.raises(InputError, match=r"grade 0\.5 of document 'a', query 'q'"):
        evaluate_run({"q": {"a": 0.5}}, run, ["R@5"])
    with pytest.raises(InputError, match="run 'bm25': none of its 1 queries is judged"):
        evaluate_run({"other": {"a": 1}}, run, ["R@5"])


def test_metric_is_an_evaluate_metric_that_gives_the_same_values(tmp_path):
    import evaluate

    from r2anker_hf.evaluation.measures import RankingMetric

    metric = RankingMetric(cache_dir=str(tmp_path))
    assert isinstance(metric, evaluate.Metric)
    assert pickle.loads(pickle.dumps(RankingMetric)) is RankingMetric
    references = [{"doc_ids": ["b", "c"], "grades": [1, 2]}, {"doc_ids": ["a"], "grades": [1]}]
    predictions = [["a", "b"], []]
    assert metric.compute(predictions=predictions, references=references, measures=["MRR@10", "R@2"]) == {
        "MRR@10": 0.25,
        "R@2": 0.25,
    }
    metric.add(prediction=["a", "b"], reference=references[0])
    metric.add_batch(predictions=[[]], references=references[1:])
    assert metric.compute(measures=["R@2"], per_query=True) == {"R@2": [0.5, 0.0]}
    with pytest.raises(InputError, match="ranking 0: document 'a' is listed twice"):
        metric.compute(predictions=[["a", "a"]], references=references[1:])


def test_importing_measures_loads_nothing_heavy():
    """And our figures are not made by `evaluate`, which keeps them in a dataset whose order is that library's."""
    code = (
        "import sys\nfrom r2anker_hf import records, run\nfrom r2anker_hf.evaluation import evaluation, measures\n"
        "print([m for m in ('torch', 'evaluate', 'datasets', 'transformers', 'ir_measures') if m in sys.modules])\n"
        "measures.evaluate_run({'q': {'a': 1}}, run.Run({'q': [('a', 1.0)]}), ['MRR@10'])\n"
        "print([m for m in ('torch', 'evaluate', 'datasets', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n[]\n"


def test_metric_and_figures_agree_query_by_query(tmp_path):
    from r2anker_hf.evaluation.measures import RankingMetric

    qrels, run = random_case(seed=3, queries=40)
    lists = Run({q: scores.items() for q, scores in run.items()})
    values = RankingMetric(cache_dir=str(tmp_path)).compute(
        predictions=[[document.doc_id for document in lists[q]] for q in sorted(qrels)],
        references=[{"doc_ids": list(qrels[q]), "grades": list(qrels[q].values())} for q in sorted(qrels)],
        measures=list(ALL),
        per_query=True,
    )
    assert {name: list(column.values()) for name, column in evaluate_run(qrels, lists, ALL).items()} == values


@pytest.mark.skipif(not DL19.is_dir(), reason="the shared collections are not here")
@pytest.mark.parametrize(
    "name,expected",
    [
        ("BM25", 0.5058),
        ("BM25_RM3", 0.5216),
        ("OPEN_AI_ADA2", 0.7035),
        ("D_BERT_KD_TASB", 0.7210),
        ("SPLADE_P_P_ENSEMBLE_DISTIL", 0.7308),
        ("REP_LLAMA", 0.7384),
    ],
)
def test_published_figures_of_dl19(name, expected):
    run = Run.read_trec(DL19 / "runs" / f"{name}.trec")
    assert round(means(evaluate_run(dl19_qrels(), run, ["nDCG@10"]))["nDCG@10"], 4) == expected


def dl19_qrels():
    qrels = {}
    with open(DL19 / "qrels" / "test.official-full.tsv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            qrels.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    return qrels
