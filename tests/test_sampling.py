"""Draws follow the policy's distribution, never contain a positive, and depend on (seed, epoch, query_id) alone."""

from collections import Counter

import pytest
from scipy.stats import chisquare, zscore

from r2anker_hf.negatives.sampling import POLICIES, draw, draw_ranked, fused_scores, permutation
from r2anker_hf.records import InputError

LISTS = {"bm25": ["a", "b", "p", "c"], "dense": ["b", "d", "p", "e"], "splade": ["b", "a", "f", "g"]}


def draws(count, **options):
    return [
        document
        for epoch in range(3000)
        for document in draw("q", ["p"], LISTS, count, seed=1, epoch=epoch, **options)[1]
    ]


def test_union_keeps_duplicates_so_agreement_weighs():
    counts = Counter(draws(1))
    pool = Counter(["a", "b", "c", "b", "d", "e", "b", "a", "f", "g"])
    assert counts.keys() == pool.keys()
    expected = [3000 * pool[document] / 10 for document in pool]
    assert chisquare([counts[document] for document in pool], expected).pvalue > 1e-3


def test_depth_caps_every_list():
    assert set(draws(4, depth=1)) == {"a", "b"}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_positive_is_never_a_negative(policy):
    positive, negatives = draw("q", ["p", "b"], LISTS, 100, seed=0, epoch=0, policy=policy)
    assert positive in ("p", "b") and not {"p", "b"} & set(negatives)


@pytest.mark.parametrize("policy", POLICIES)
def test_fewer_candidates_than_asked_are_all_drawn(policy):
    _, negatives = draw("q", ["p"], {"bm25": ["p", "x", "y"]}, 40, seed=0, epoch=0, policy=policy)
    assert sorted(negatives) == ["x", "y"]
    assert draw("q", ["p"], {"bm25": ["p"]}, 40, seed=0, epoch=0, policy=policy)[1] == []


def test_every_positive_gets_its_turn():
    chosen = Counter(draw("q", ["p", "r"], LISTS, 1, seed=3, epoch=epoch)[0] for epoch in range(2000))
    assert chisquare(list(chosen.values())).pvalue > 1e-3


def test_a_draw_depends_on_seed_epoch_and_query_alone():
    base = draw("q", ["p"], LISTS, 5, seed=1, epoch=2)
    assert draw("q", ["p"], LISTS, 5, seed=1, epoch=2) == base
    others = [draw("q", ["p"], LISTS, 5, 2, 2), draw("q", ["p"], LISTS, 5, 1, 3), draw("r", ["p"], LISTS, 5, 1, 2)]
    assert all(other != base for other in others)


def test_draws_are_the_same_on_every_machine():
    """Pinned: a change here changes everybody's training."""
    assert draw("q", ["p"], LISTS, 5, seed=42, epoch=0) == ("p", ["d", "g", "a", "c", "f"])
    assert permutation(6, seed=42, epoch=1).tolist() == [4, 0, 2, 3, 1, 5]


def test_an_order_is_a_permutation_and_changes_with_the_epoch():
    orders = [permutation(50, seed=42, epoch=epoch).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert orders[0] != orders[1] != orders[2]


def test_fused_scores_by_scipy_and_by_hand():
    lists = {"bm25": (["a", "b", "c"], [9.0, 5.0, 1.0]), "dense": (["c", "d"], [0.7, 0.2])}
    bm25, dense = zscore([9.0, 5.0, 1.0]), zscore([0.7, 0.2])
    low = dense.min()
    expected = {"a": bm25[0] + low, "b": bm25[1] + low, "c": bm25[2] + dense[0], "d": bm25.min() + dense[1]}
    assert fused_scores(lists) == pytest.approx({doc_id: total / 2 for doc_id, total in expected.items()})
    assert fused_scores({"bm25": (["a"], [3.0]), "dense": ([], [])}) == {"a": 0.0}


def test_a_warm_start_draws_from_the_head_and_the_tail_without_repeats():
    lists = {"bm25": ([f"d{i:03}" for i in range(100)], [float(-i) for i in range(100)])}
    fused = fused_scores({"bm25": (lists["bm25"][0][:50], lists["bm25"][1][:50])})
    seen = []
    for epoch in range(200):
        doc_ids, scores = draw_ranked("q", lists, 8, seed=1, epoch=epoch, depth=50)
        assert len(set(doc_ids)) == 8 and scores == [fused[doc_id] for doc_id in doc_ids]
        assert all(doc_id < "d016" for doc_id in doc_ids[:4])
        seen += doc_ids
    assert set(seen) == {f"d{i:03}" for i in range(50)}
    first, again, later = (draw_ranked("q", lists, 8, 1, epoch, 50) for epoch in (3, 3, 4))
    assert first == again != later
    assert sorted(draw_ranked("q", {"bm25": (["a", "b"], [2.0, 1.0])}, 8, 1, 0, 50)[0]) == ["a", "b"]


def test_unknown_policy_names_the_choices():
    with pytest.raises(InputError, match="no sampling policy 'onion'; choices: union"):
        draw("q", ["p"], LISTS, 1, 0, 0, policy="onion")
