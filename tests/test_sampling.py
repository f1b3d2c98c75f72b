"""Draws follow the policy's distribution, never contain a positive, and depend on (seed, epoch, query_id) alone."""

import json
import math
import random
import subprocess
import sys
import warnings
from collections import Counter
from dataclasses import asdict, fields
from pathlib import Path

import pytest
from draws_toy import groups, identity, rows
from scipy.stats import chisquare, zscore
from torch.utils.data import DataLoader

from r2anker_hf.draws import permutation
from r2anker_hf.models.trainers import EpochSampler
from r2anker_hf.negatives.sampling import (
    POLICIES,
    QueryCandidates,
    RankedList,
    Sampling,
    draw,
    draw_group,
    draw_positive,
    draw_scored,
    fused_scores,
)
from r2anker_hf.rankers.listwise import ListwiseConfig
from r2anker_hf.records import InputError

LISTS = {"bm25": ["a", "b", "p", "c"], "dense": ["b", "d", "p", "e"], "splade": ["b", "a", "f", "g"]}
SCORES = {"bm25": [9.0, 7.0, 6.0, 2.0], "dense": [0.9, 0.8, 0.5, 0.1], "splade": [3.0, 2.5, 1.0, -1.0]}
SCORED = QueryCandidates(
    "q",
    ["p"],
    {name: RankedList(LISTS[name], SCORES[name]) for name in LISTS},
    {"bm25@1000": ["c", "d", "g", "p"]},
    {"ranker": RankedList(["b", "p", "g", "a"], [2.0, 1.5, 1.0, 0.0])},
)
# What each policy needs beside its name.
OPTIONS = {
    "quota": {"shares": {"bm25": 2.0, "dense": 1.0, "splade": 1.0}},
    "single": {"retrievers": ["dense"]},
    "constrained": {"within": "bm25@1000"},
    "redistributed": {"negatives_ranking": "ranker"},
    "redistributed_softmax": {"negatives_ranking": "ranker"},
}


def sampling(policy, **options):
    return Sampling(policy, **OPTIONS.get(policy, {}) | options)


def exponentials(*scores):
    powers = [math.exp(score) for score in scores]
    return [power / sum(powers) for power in powers]


def standard(name, kept):
    """exp of standardised scores, of the documents that are no positives."""
    return exponentials(*zscore([SCORES[name][index] for index in kept]))


def softmax_expected(temperature=1.0):
    expected = Counter()
    for name, kept in {"bm25": (0, 1, 3), "dense": (0, 1, 3), "splade": (0, 1, 2, 3)}.items():
        values = zscore([SCORES[name][index] for index in kept]) / temperature
        for index, chance in zip(kept, exponentials(*values), strict=True):
            expected[LISTS[name][index]] += chance / 3
    return expected


def ranker_expected():
    return dict(zip("bga", exponentials(2.0, 1.0, 0.0), strict=True))


# Chance of each document to be the one that a group of one negative gets.
DISTRIBUTIONS = [
    ("union", {}, {"a": 2 / 10, "b": 3 / 10, **dict.fromkeys("cdefg", 1 / 10)}),
    ("union", {"retrievers": ["bm25", "dense"]}, {"a": 1 / 6, "b": 2 / 6, "c": 1 / 6, "d": 1 / 6, "e": 1 / 6}),
    ("union", {"rank_from": 2, "rank_to": 3}, {"b": 1 / 4, "d": 1 / 4, "a": 1 / 4, "f": 1 / 4}),
    ("union_dedup", {}, dict.fromkeys("abcdefg", 1 / 7)),
    (
        "quota",
        {},
        {
            "a": 1 / 6 + 1 / 16,
            "b": 1 / 6 + 1 / 12 + 1 / 16,
            "c": 1 / 6,
            "d": 1 / 12,
            "e": 1 / 12,
            "f": 1 / 16,
            "g": 1 / 16,
        },
    ),
    ("single", {}, dict.fromkeys("bde", 1 / 3)),
    ("softmax", {}, softmax_expected()),
    ("softmax", {"sampling_temperature": 0.5}, softmax_expected(0.5)),
    (
        "softmax",
        {"retrievers": ["splade"], "standardise": False},
        dict(zip("bafg", exponentials(3, 2.5, 1, -1), strict=True)),
    ),
    ("constrained", {}, {"c": 1 / 3, "d": 1 / 3, "g": 1 / 3}),
    ("constrained", {"within": "bm25"}, {"b": 2 / 3, "a": 1 / 3}),
    ("redistributed", {}, dict.fromkeys("bga", 1 / 3)),
    ("redistributed", {"depth": 3}, {"b": 1 / 2, "g": 1 / 2}),
    ("redistributed", {"rank_from": 2, "rank_to": 3}, {"g": 1.0}),
    ("redistributed", {"rank_from": 3}, {"g": 1 / 2, "a": 1 / 2}),
    ("redistributed", {"max_score": {"ranker": 1.0}}, {"g": 1 / 2, "a": 1 / 2}),
    ("redistributed_softmax", {}, ranker_expected()),
    ("redistributed_softmax", {"depth": 1}, ranker_expected()),
    ("redistributed_softmax", {"rank_from": 3}, dict(zip("ga", exponentials(1.0, 0.0), strict=True))),
    # margins: what stands above the positive is refused, list by list; splade ranks no positive
    ("union", {"absolute_margin": 0.0}, {"c": 1 / 2, "e": 1 / 2}),
    ("union", {"absolute_margin": 0.45}, {"c": 1.0}),
    ("union", {"relative_margin": 0.5, "retrievers": ["bm25", "dense"]}, {"c": 1 / 2, "e": 1 / 2}),
    ("union", {"max_score": {"splade": 2.0}, "retrievers": ["splade"]}, {"f": 1 / 2, "g": 1 / 2}),
    ("union", {"min_score": {"splade": 2.5}, "retrievers": ["splade"]}, {"a": 1 / 2, "b": 1 / 2}),
]


@pytest.mark.parametrize(("policy", "options", "expected"), DISTRIBUTIONS)
def test_draws_follow_the_distribution_of_the_policy(policy, options, expected):
    options = sampling(policy, **options)
    counts = Counter(draw_group(SCORED, 1, seed=1, epoch=epoch, sampling=options)[1][0] for epoch in range(4000))
    assert counts.keys() == expected.keys() and sum(expected.values()) == pytest.approx(1)
    if len(expected) > 1:
        observed = [counts[document] for document in expected]
        assert chisquare(observed, [4000 * chance for chance in expected.values()]).pvalue > 1e-3


def test_weighted_draws_go_on_by_what_is_left():
    """The second of two draws from (b, g, a): its chance sums over what the first one took."""
    chance = ranker_expected()
    expected = {d: sum(chance[e] * chance[d] / (1 - chance[e]) for e in chance if e != d) for d in chance}
    options = sampling("redistributed_softmax")
    counts = Counter(draw_group(SCORED, 2, seed=1, epoch=epoch, sampling=options)[1][1] for epoch in range(4000))
    assert chisquare([counts[d] for d in expected], [4000 * expected[d] for d in expected]).pvalue > 1e-3


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_redistribution_spreads_over_the_capped_list_whatever_the_logits(scale):
    """Appendix B: cap, then uniform. 300 documents, depth 200: each of the top 200 is drawn alike."""
    pool = RankedList([f"d{i}" for i in range(300)], [scale * (20.0 - i / 10) for i in range(300)])
    candidates = QueryCandidates("q", ["d0"], {"bm25": RankedList(["d1"])}, {}, {"ranker": pool})
    options = sampling("redistributed", depth=200)
    counts = Counter(d for e in range(400) for d in draw_group(candidates, 40, 1, e, options)[1])
    assert counts.keys() == {f"d{i}" for i in range(1, 200)}
    assert chisquare(list(counts.values())).pvalue > 1e-3


def test_a_constraint_that_was_not_mined_deep_is_said():
    """Once: Python shows a warning with the same words one time."""
    with pytest.warns(
        UserWarning, match="no deeper run 'bm25', so its mined list decides.*--constraints bm25="
    ) as said:
        for epoch in range(3):
            draw_group(SCORED, 1, 1, epoch, sampling("constrained", within="bm25"))
    assert len({str(one.message) for one in said}) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_group(SCORED, 1, 1, 0, sampling("constrained"))


def test_quota_gives_every_retriever_its_part():
    lists = {name: RankedList([f"{name}{i}" for i in range(30)]) for name in ("x", "y", "z")}
    candidates = QueryCandidates("q", ["p"], lists)
    shares = {"x": 0.5, "y": 0.25, "z": 0.25}
    for epoch in range(50):
        _, negatives = draw_group(candidates, 40, 1, epoch, Sampling("quota", shares=shares))
        assert Counter(doc_id[0] for doc_id in negatives) == {"x": 20, "y": 10, "z": 10}
    odd = Counter(
        d[0] for epoch in range(2000) for d in draw_group(candidates, 3, 1, epoch, Sampling("quota", shares=shares))[1]
    )
    assert sum(odd.values()) == 6000 and [odd[n] / 6000 for n in "xyz"] == pytest.approx([0.5, 0.25, 0.25], abs=0.02)
    short = {**lists, "x": RankedList(["x0", "x1"])}
    _, negatives = draw_group(QueryCandidates("q", ["p"], short), 40, 1, 0, Sampling("quota", shares=shares))
    assert len(set(negatives)) == 40 and {"x0", "x1"} < set(negatives)


def test_a_relative_margin_is_right_below_zero():
    """p = -2, margin .1: a negative needs -2.2 or less; p * (1 - .1) = -1.8 would let two above the positive pass."""
    lists = {"logit": RankedList(["a", "b", "p", "c", "d"], [-1.0, -1.9, -2.0, -2.1, -2.5])}
    candidates = QueryCandidates("q", ["p"], lists)
    assert draw_group(candidates, 9, 0, 0, Sampling(relative_margin=0.1))[1] == ["d"]
    assert sorted(draw_group(candidates, 9, 0, 0, Sampling(absolute_margin=0.0))[1]) == ["c", "d"]


def test_margins_read_the_lowest_listed_positive():
    lists = {"dense": RankedList(["p", "a", "r", "b"], [0.9, 0.8, 0.5, 0.2])}
    assert draw_group(QueryCandidates("q", ["p", "r", "unlisted"], lists), 9, 0, 0, Sampling(absolute_margin=0.0))[
        1
    ] == ["b"]


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
    for positives in (["p"], ["p", "b"], ["g", "p"]):
        candidates = QueryCandidates("q", positives, SCORED.lists, SCORED.constraints, SCORED.rankings)
        for epoch in range(50):
            positive, negatives = draw_group(candidates, 100, seed=0, epoch=epoch, sampling=sampling(policy))
            assert positive in positives and negatives and not set(positives) & set(negatives)


@pytest.mark.parametrize("policy", POLICIES)
def test_fewer_candidates_than_asked_are_all_drawn(policy):
    lists = {name: RankedList(["p", "x", "y"], [3.0, 2.0, 1.0]) for name in LISTS}
    extras = {"bm25@1000": ["y", "x"]}, {"ranker": RankedList(["x", "y"], [0.0, 0.0])}
    _, negatives = draw_group(QueryCandidates("q", ["p"], lists, *extras), 40, 0, 0, sampling(policy))
    assert set(negatives) == {"x", "y"}
    nothing = (
        {name: RankedList(["p"], [1.0]) for name in LISTS},
        {"bm25@1000": []},
        {"ranker": RankedList(["p"], [1.0])},
    )
    assert draw_group(QueryCandidates("q", ["p"], *nothing), 40, 0, 0, sampling(policy)) == ("p", [])
    empty = {name: RankedList([], []) for name in LISTS}, {"bm25@1000": []}, {"ranker": RankedList([], [])}
    assert draw_group(QueryCandidates("q", ["p"], *empty), 40, 0, 0, sampling(policy)) == ("p", [])


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_depends_on_seed_epoch_and_query_alone(policy):
    lists = {name: RankedList([f"{name}{i}" for i in range(60)], [float(-i) for i in range(60)]) for name in LISTS}
    ids = [d for ranked in lists.values() for d in ranked.doc_ids]
    extras = {"bm25@1000": ids}, {"ranker": RankedList(ids, [0.0] * len(ids))}

    def drawn(query_id="q", seed=1, epoch=2):
        return draw_group(QueryCandidates(query_id, ["p"], lists, *extras), 20, seed, epoch, sampling(policy))[1]

    assert drawn() == drawn()
    assert len({tuple(each) for each in (drawn(), drawn("r"), drawn(seed=2), drawn(epoch=3))}) == 4


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
    fused = fused_scores({"bm25": ([f"d{i:03}" for i in range(50)], [float(-i) for i in range(50)])})
    seen = []
    for epoch in range(200):
        doc_ids, scores = draw_scored("q", fused, 8, seed=1, epoch=epoch)
        assert len(set(doc_ids)) == 8 and scores == [fused[doc_id] for doc_id in doc_ids]
        assert all(doc_id < "d016" for doc_id in doc_ids[:4])
        seen += doc_ids
    assert set(seen) == {f"d{i:03}" for i in range(50)}
    first, again, later = (draw_scored("q", fused, 8, 1, epoch) for epoch in (3, 3, 4))
    assert first == again != later
    assert sorted(draw_scored("q", {"a": 2.0, "b": 1.0}, 8, 1, 0)[0]) == ["a", "b"]


def test_unknown_policy_names_the_choices():
    with pytest.raises(InputError, match="no sampling policy 'onion'; choices: union"):
        draw("q", ["p"], LISTS, 1, 0, 0, policy="onion")


def test_a_draw_reads_a_row_of_the_dataset():
    (row, *_) = rows(1)
    as_candidates = QueryCandidates.of_row(row)
    for policy in POLICIES:
        assert draw_group(row, 5, 3, 1, sampling(policy)) == draw_group(as_candidates, 5, 3, 1, sampling(policy))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "single"}, "name one of the retrievers, not none"),
        ({"policy": "single", "retrievers": ["a", "b"]}, "name one of the retrievers, not a, b"),
        ({"policy": "quota"}, "policy quota needs shares"),
        (
            {"policy": "quota", "shares": {"bm25": -1.0, "dense": 2.0}},
            r"shares\[bm25\] is -1.0, but must be at least 0",
        ),
        ({"policy": "constrained"}, "policy constrained needs within"),
        ({"policy": "redistributed"}, "policy redistributed needs negatives_ranking"),
        ({"policy": "redistributed_softmax"}, "policy redistributed_softmax needs negatives_ranking"),
        (
            {"policy": "redistributed", "negatives_ranking": "r", "rank_from": 201},
            "ranks from 201 to 200 are an empty window",
        ),
        ({"negatives_ranking": "fused"}, "negatives_ranking is given, but policy union does not read it"),
        (
            {"policy": "redistributed", "negatives_ranking": "r", "retrievers": ["bm25"]},
            "retrievers is given, but policy redistributed does not read it",
        ),
        ({"within": "bm25"}, "within is given, but policy union does not read it; choices: --policy constrained"),
        ({"policy": "softmax", "shares": {"bm25": 1.0}}, "shares is given, but policy softmax does not read it"),
        ({"sampling_temperature": 0.0}, "sampling_temperature is 0.0, but must be at least 1e-06"),
        ({"rank_from": 0}, "rank_from is 0"),
        ({"rank_from": 5, "rank_to": 4}, "ranks from 5 to 4 are an empty window"),
        ({"rank_from": 201}, "ranks from 201 to 200 are an empty window"),
        ({"relative_margin": -0.1}, "relative_margin is -0.1"),
        ({"depth": 0}, "depth is 0"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(options, message):
    with pytest.raises(InputError, match=message) as raised:
        Sampling(**options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("policy", "options", "message"),
    [
        ("single", {"retrievers": ["onion"]}, "no retriever 'onion'; choices: bm25, dense, splade"),
        ("quota", {"shares": {"onion": 1.0}}, "shares: the candidates hold no retriever 'onion'; choices: bm25"),
        ("constrained", {"within": "onion"}, "no run 'onion'; choices: bm25, dense, splade, bm25@1000"),
        ("redistributed", {"negatives_ranking": "onion"}, "no ranking 'onion'; choices: ranker"),
        ("union", {"max_score": {"onion": 1.0}}, "max_score: the candidates hold no retriever 'onion'"),
    ],
)
def test_names_that_the_candidates_lack_are_refused_with_the_choices(policy, options, message):
    with pytest.raises(InputError, match=message):
        draw_group(SCORED, 3, 0, 0, sampling(policy, **options))


def test_scores_are_asked_for_only_where_they_are_read():
    bare = QueryCandidates("q", ["p"], {"bm25": RankedList(["a", "b"])})
    assert len(draw_group(bare, 5, 0, 0, Sampling())[1]) == 2
    for options in ({"policy": "softmax"}, {"absolute_margin": 0.1}, {"max_score": {"bm25": 1.0}}):
        with pytest.raises(InputError, match="reads scores, but 'bm25' has none"):
            draw_group(bare, 5, 0, 0, Sampling(**options))


def test_a_training_draws_by_the_options_that_it_was_given():
    options = {"policy": "quota", "shares": {"bm25": 1.0}, "rank_from": 3, "sampling_temperature": 2.0, "depth": 50}
    config = ListwiseConfig(output_dir="unused", use_cpu=True, mixed_precision="no", **options)
    expected = Sampling("quota", 50, rank_from=3, sampling_temperature=2.0, shares={"bm25": 1.0})
    assert {one.name: getattr(config, one.name) for one in fields(Sampling)} == asdict(expected)
    for epoch in range(9):
        assert draw_group(SCORED, 5, 0, epoch, config) == draw_group(SCORED, 5, 0, epoch, expected)
    assert draw_group(SCORED, 5, 0, 0, config) != draw_group(SCORED, 5, 0, 0)
    with pytest.raises(InputError, match="policy quota needs shares"):
        ListwiseConfig(output_dir="unused", use_cpu=True, mixed_precision="no", policy="quota")


@pytest.fixture(scope="module")
def drawn():
    """Every query's group in two epochs, drawn in this process without a loader."""
    made = groups("softmax", 24)
    return {f"{epoch}/q{index}": made[(epoch, index)]["documents"] for epoch in range(2) for index in range(24)}


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_workers_draw_the_same(drawn, workers):
    for epoch in range(2):
        sampler = EpochSampler(24, 4, seed=42)
        sampler.set_epoch(epoch)
        loader = DataLoader(groups("softmax", 24), 4, sampler=sampler, num_workers=workers, collate_fn=identity)
        seen = {f"{epoch}/{item['query']}": item["documents"] for batch in loader for item in batch}
        assert seen == {key: value for key, value in drawn.items() if key.startswith(f"{epoch}/")}


def test_shuffled_rows_draw_the_same(drawn):
    shuffled = random.Random(7).sample(rows(24), 24)
    made = groups("softmax", 24, shuffled)
    for epoch in range(2):
        for index, row in enumerate(shuffled):
            assert made[(epoch, index)]["documents"] == drawn[f"{epoch}/{row['query_id']}"]


def test_two_processes_and_a_break_in_mid_epoch_draw_the_same(drawn, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = str(Path(__file__).with_name("draws_toy.py"))
    done = subprocess.run([*launch, script, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("whole", "resumed"):
        parts = [json.loads(path.read_text()) for path in sorted(tmp_path.glob(f"{name}-*.json"))]
        assert len(parts) == 2
        seen = {key: documents for part in parts for key, documents in part.items()}
        expected = drawn if name == "whole" else {key: drawn[key] for key in seen}
        assert seen == expected and len(seen) == (48 if name == "whole" else 12)


def test_the_positives_of_a_query_take_turns():
    positives = ["a", "b", "c"]
    for start in (0, 3, 6):
        assert {draw_positive("q", positives, 42, start + turn) for turn in range(3)} == set(positives)
    orders = {tuple(draw_positive(f"q{n}", positives, 42, turn) for turn in range(3)) for n in range(60)}
    assert len(orders) == 6  # every order occurs
    candidates = QueryCandidates("q", positives, {"bm25": RankedList(["d", "e"])})
    assert {draw_group(candidates, 1, 42, epoch)[0] for epoch in range(3)} == set(positives)


def test_a_positive_is_drawn_beside_a_teacher_s_documents():
    scores = {f"d{number}": -float(number) for number in range(40)}
    for first, expected in (("d30", -30.0), ("unseen", -39.0)):
        doc_ids, values = draw_scored("q", scores, 8, 42, 0, first)
        assert doc_ids[0] == first and values[0] == expected
        assert len(set(doc_ids)) == 8 and values[1:] == [scores[doc_id] for doc_id in doc_ids[1:]]
    assert draw_scored("q", {}, 8, 42, 0, "p") == (["p"], [0.0])
