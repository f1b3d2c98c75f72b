"""Divergences are those written out by hand, and the recipe reports them with the figures' signs."""

import json
import math

import numpy as np
import pytest
from scipy.stats import entropy, pearsonr
from scripts import script

from r2anker_hf.collection.collection import Collection, Corpus
from r2anker_hf.negatives.analysis import Divergence, discrete_kl, distribution, divergences, pearson
from r2anker_hf.negatives.candidates import Mining, write_corpus, write_manifest, write_shards
from r2anker_hf.negatives.sampling import RankedList
from r2anker_hf.records import Document, InputError
from r2anker_hf.run import Run


def row(query_id="q", **rankings):
    return {
        "query_id": query_id,
        "positive_ids": ["p"],
        "candidates": [
            {"retriever": "bm25", "doc_ids": ["a", "b", "p"], "scores": [3.0, 2.0, 1.0]},
            {"retriever": "dense", "doc_ids": ["b", "c"], "scores": [0.9, 0.3]},
        ],
        "rankings": [{"ranker": name, "doc_ids": list("abcp"), "scores": scores} for name, scores in rankings.items()],
    }


def test_kl_by_hand():
    """S = {a, b, c}, smoothing .3: .1 everywhere, and .7 of each probability."""
    p, q = {"a": 1.0}, {"a": 0.5, "b": 0.5}
    expected = 0.8 * math.log(0.8 / 0.45) + 0.1 * math.log(0.1 / 0.45) + 0.1 * math.log(0.1 / 0.1)
    assert discrete_kl(p, {**q, "c": 0.0}, smoothing=0.3) == pytest.approx(expected)


def test_disjoint_lists_by_hand():
    """S = {a, b}, smoothing 2 * .01: P' = (.99, .01) and Q' = (.01, .99), so KL = .98 ln 99."""
    assert discrete_kl({"a": 1.0}, {"b": 1.0}, smoothing=0.02) == pytest.approx(0.98 * math.log(99))


def test_kl_is_scipy_s_on_smoothed_distributions():
    generator = np.random.default_rng(0)
    for _ in range(20):
        p, q = generator.dirichlet(np.ones(12), 2)
        mixed = [(1 - 0.05) * values + 0.05 / 12 for values in (p, q)]
        ids = [f"d{index}" for index in range(12)]
        found = discrete_kl(dict(zip(ids, p, strict=True)), dict(zip(ids, q, strict=True)), smoothing=0.05)
        assert found == pytest.approx(entropy(*mixed))
        assert found > 0 and discrete_kl(dict(zip(ids, p, strict=True)), dict(zip(ids, p, strict=True))) == 0


def test_distributions_by_rank_and_by_score():
    lists = {"bm25": RankedList(["a", "b", "p"], [3.0, 2.0, 1.0]), "dense": RankedList(["b", "c"], [0.9, 0.3])}
    assert distribution(lists, ["p"]) == {"a": 0.25, "b": 0.5, "c": 0.25}
    assert distribution(lists, ["p"], depth=1) == {"a": 0.5, "b": 0.5}
    by_score = distribution(lists, ["p"], by="score")  # two left in each list: standardised to 1 and -1
    high, low = math.e / (math.e + 1 / math.e) / 2, 1 / math.e / (math.e + 1 / math.e) / 2
    assert by_score == pytest.approx({"a": high, "b": low + high, "c": low})
    warm = distribution({"ranker": RankedList(["p", "a", "b"], [9.0, 2.0, 1.0])}, ["p"], by="score", temperature=2.0)
    assert warm == pytest.approx({"a": math.e / (math.e + 1), "b": 1 / (math.e + 1)})  # 1 and -1, halved
    assert distribution({"bm25": RankedList(["p"], [1.0])}, ["p"]) == {}


def test_figures_2_and_3_by_hand():
    """BM25 is {a: 1/2, b: 1/2}, the joint {a: 1/4, b: 1/2, c: 1/4}, the ranker even over a, b, c; smoothing .3."""
    found = divergences(
        [row(trained=[0.0, 0.0, 0.0, 5.0])],
        {"bm25": ["bm25"], "both": ["bm25", "dense"]},
        rankers={"both": "trained"},
        smoothing=0.3,
    )
    base = {"a": 0.45, "b": 0.45, "c": 0.1}
    joint = {"a": 0.275, "b": 0.45, "c": 0.275}
    even = 0.7 / 3 + 0.1
    kl = sum(joint[d] * math.log(joint[d] / base[d]) for d in "abc")
    ranker_kl = sum(even * math.log(even / base[d]) for d in "abc")
    assert found["bm25"]["kl"].mean == 0
    assert found["both"]["kl"].mean == pytest.approx(kl)
    assert found["both"]["ranker_kl"].mean == pytest.approx(ranker_kl)
    assert found["both"]["delta"].mean == pytest.approx(kl - ranker_kl)


INCREASING = {
    "same": lambda scores: scores,
    "small logits": lambda scores: 0.01 * scores,
    "large logits": lambda scores: 100 * scores + 7,
    "cube": lambda scores: scores**3,
    "rank": lambda scores: np.searchsorted(np.sort(scores), scores).astype(float),
}
# By score, distances count, so that scale and offset alone are free.
FREE = [("rank", name) for name in INCREASING] + [("score", n) for n in ("same", "small logits", "large logits")]


def pooled(generator, order):
    """A row whose ranker orders the pool of two lists by `order` of BM25's scores, of which dense-only documents have
    the lowest."""
    ids = [f"d{index}" for index in range(40)]
    bm25, dense = generator.permutation(ids)[:20].tolist(), generator.permutation(ids)[:20].tolist()
    scores = np.sort(generator.normal(size=20))[::-1]
    pool = bm25 + [doc_id for doc_id in dense if doc_id not in bm25]
    extended = np.concatenate([scores, scores[-1] - 1.0 - np.arange(len(pool) - 20)])
    lists = {"bm25": (bm25, scores), "dense": (dense, np.sort(generator.normal(size=20))[::-1])}
    listed = [{"retriever": n, "doc_ids": i, "scores": s.tolist()} for n, (i, s) in lists.items()]
    ranking = {"ranker": "trained", "doc_ids": pool, "scores": order(extended).tolist()}
    return {"query_id": "q", "positive_ids": [bm25[3], dense[5]], "candidates": listed, "rankings": [ranking]}


@pytest.mark.parametrize(("by", "name"), FREE)
@pytest.mark.parametrize("depth", [20, 7])
def test_a_ranker_with_bm25_s_order_is_at_zero_from_it(by, name, depth):
    """Whatever its logits."""
    rows = [pooled(np.random.default_rng(seed), INCREASING[name]) for seed in range(10)]
    generators = {"bm25": ["bm25"], "both": ["bm25", "dense"]}
    options = {"rankers": {"bm25": "trained", "both": "trained"}, "depth": depth, "by": by}
    found = divergences(rows, generators, **options)
    assert found["bm25"]["delta"].mean == pytest.approx(0, abs=1e-9)
    assert found["bm25"]["ranker_kl"].mean == pytest.approx(0, abs=1e-9)
    assert found["both"]["delta"].mean == pytest.approx(found["both"]["kl"].mean) and found["both"]["kl"].mean > 0.1


def test_another_order_is_away_from_bm25():
    rows = [pooled(np.random.default_rng(seed), np.negative) for seed in range(10)]
    for one in rows:  # best first, as mined
        one["rankings"][0]["doc_ids"].reverse()
        one["rankings"][0]["scores"].reverse()
    found = divergences(rows, {"bm25": ["bm25"]}, rankers={"bm25": "trained"}, depth=10)
    assert found["bm25"]["delta"].mean < -0.5


def test_mean_and_error_are_over_queries():
    empty = {
        "query_id": "r",
        "positive_ids": ["p"],
        "candidates": [
            {"retriever": "bm25", "doc_ids": ["p"], "scores": [1.0]},
            {"retriever": "dense", "doc_ids": [], "scores": []},
        ],
    }
    found = divergences([row("q1"), empty, row("q2")], {"dense": ["dense"]})["dense"]["kl"]
    assert found.queries == 2 and found.standard_error == 0
    assert Divergence.over([1.0, 2.0, 6.0]) == Divergence(3.0, pytest.approx(math.sqrt(14 / 2 / 3)), 3)
    assert math.isnan(Divergence.over([]).mean) and math.isnan(Divergence.over([1.0]).standard_error)


def test_pearson_is_scipy_s():
    xs, ys = [0.1, 0.4, 0.5, 0.9], [39.8, 41.1, 40.5, 40.0]
    assert pearson(xs, ys) == pytest.approx(pearsonr(xs, ys).statistic)
    assert math.isnan(pearson([1.0], [1.0])) and math.isnan(pearson([1.0, 1.0], [1.0, 2.0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generators": {"x": ["splade"]}}, "no retriever 'splade'; choices: bm25, dense"),
        ({"reference": "splade"}, "no retriever 'splade'"),
        ({"rankers": {"x": "ranker"}}, "no generator 'x'; choices: bm25"),
        ({"rankers": {"bm25": "ranker"}}, "no ranker 'ranker'; choices: none"),
        ({"smoothing": 0.0}, "smoothing is 0.0"),
        ({"by": "luck"}, "by 'luck'; choices: rank, score"),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        divergences([row()], **{"generators": {"bm25": ["bm25"]}, **options})


def test_recipe_writes_numbers_table_and_plots(tmp_path):
    corpus = Corpus.from_documents(Document(f"d{i}", "", f"text {i}") for i in range(20))
    qrels = {f"q{i}": {f"d{i}": 1} for i in range(5)}
    collection = Collection("toy", "0", "train", corpus, {q: q for q in qrels}, qrels)
    runs = {
        name: Run({q: [(f"d{(i + step * j) % 20}", -float(j)) for j in range(6)] for i, q in enumerate(qrels)})
        for name, step in (("bm25", 1), ("dense", 3), ("splade", 7))
    }
    pool = {q: [(f"d{j}", float(j % 5)) for j in range(20)] for q in qrels}
    mining = Mining(collection, runs, rankings={"trained": Run(pool)})
    write_shards(tmp_path / "n", mining)
    write_corpus(tmp_path / "n", corpus)
    write_manifest(tmp_path / "n", [mining])
    values = ["bm25=0.39", "bm25,dense=0.40", "bm25,dense,splade=0.41"]
    options = ["--values", *values, "--rankers", "bm25,dense=trained", "--output_dir", tmp_path / "out"]
    done = script("recipes/analyse.py", "--negatives", tmp_path / "n", *options)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "out/analysis.json").read_text())
    assert len(found["generators"]) == 7 and found["generators"]["bm25"]["kl"]["mean"] == 0
    both = found["generators"]["bm25,dense"]
    assert both["delta"]["mean"] == pytest.approx(both["kl"]["mean"] - both["ranker_kl"]["mean"])
    assert -1 <= found["correlation_with_value"]["kl"] <= 1 and "| bm25,dense |" in done.stdout
    for name in ("kl.png", "delta.png", "analysis.md"):
        assert (tmp_path / "out" / name).stat().st_size > 100
