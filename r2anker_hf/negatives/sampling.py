"""Sampling policies: which of the mined candidates a query is trained against (R2ANKER, 3.2, 4.3, 4.4, appendix B).

A policy says from which documents a query's negatives are drawn and with which chances; `draw_group` draws. The table
`POLICIES` names them all, and every one takes (candidates, sampling) and returns strata.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np

from ..draws import generator as generator_of
from ..ranges import check_all
from ..records import InputError


class RankedList(NamedTuple):
    """One ranker's documents for a query, best first.

    `scores` is as long as `doc_ids`, or empty where nothing but the order is known.
    """

    doc_ids: Sequence[str]
    scores: Sequence[float] = ()


@dataclass(frozen=True)
class QueryCandidates:
    """All that was mined for one query: what a policy may read.

    Attributes:
        query_id: the query.
        positives: ids of its relevant documents; none of them is ever a negative.
        lists: each retriever's ranked list.
        constraints: document ids of further runs, deeper than the lists, for `constrained`.
        rankings: lists over the pooled candidates, a ranker's or a fused run's, for `redistributed` and
            `redistributed_softmax`.
        suspects: ids of suspected false negatives (see `suspects`); None where nobody looked for them.
    """

    query_id: str
    positives: Sequence[str]
    lists: Mapping[str, RankedList]
    constraints: Mapping[str, Sequence[str]] = field(default_factory=dict)
    rankings: Mapping[str, RankedList] = field(default_factory=dict)
    suspects: Collection[str] | None = None

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> QueryCandidates:
        """A row of the candidates dataset."""
        return cls(
            row["query_id"],
            row["positive_ids"],
            {one["retriever"]: RankedList(one["doc_ids"], one["scores"]) for one in row["candidates"]},
            {one["run"]: one["doc_ids"] for one in row.get("constraints") or ()},
            {one["ranker"]: RankedList(one["doc_ids"], one["scores"]) for one in row.get("rankings") or ()},
            row.get("suspects"),
        )


class Stratum(NamedTuple):
    """A pool to draw from without replacement.

    Attributes:
        doc_ids: the pool; an id that stands in it twice is drawn with twice the chance, and may be drawn twice.
        weights: chances of the pool's entries, up to a factor; None: all alike.
        share: part of the negatives that this pool gives; the shares of a query's strata sum to 1.
    """

    doc_ids: list[str]
    weights: np.ndarray | None = None
    share: float = 1.0


Policy = Callable[[QueryCandidates, "Sampling"], list[Stratum]]


def union(candidates: QueryCandidates, sampling: Sampling) -> list[Stratum]:
    """The paper's joint distribution (3.2, appendix B): all lists put together WITHOUT removing duplicates.

    A document that two retrievers agree on stands in the pool twice, so it is drawn with twice the chance.

    >>> lists = {"bm25": RankedList(["a", "b"]), "dense": RankedList(["b", "c"])}
    >>> union(QueryCandidates("q", ["c"], lists), Sampling())
    [Stratum(doc_ids=['a', 'b', 'b'], weights=None, share=1.0)]
    """
    return [Stratum([d for ranked in _lists(candidates, sampling).values() for d in ranked.doc_ids])]


def union_dedup(candidates: QueryCandidates, sampling: Sampling) -> list[Stratum]:
    """All lists put together, each document once: agreement does not weigh, no negative stands twice in a group."""
    (pool,) = union(candidates, sampling)
    return [Stratum(list(dict.fromkeys(pool.doc_ids)))]


def quota(candidates: QueryCandidates, sampling: Sampling) -> list[Stratum]:
    """Given shares of the negatives from each retriever, uniformly within its list.

    A document of two lists can be drawn from both. A list shorter than its share leaves the rest to the others.
    """
    lists = _lists(candidates, sampling)
    _known(sampling.shares, lists, "shares", "retriever")
    total = sum(sampling.shares.values())
    return [Stratum(list(lists[name].doc_ids), None, share / total) for name, share in sampling.shares.items()]


def single(candidates: QueryCandidates, sampling: Sampling) -> list[Stratum]:
    """The list of one retriever, uniformly: the one that `retrievers` names."""
    return union(candidates, sampling)


def softmax(candidates: QueryCandidates, sampling: Sampling) -> list[Stratum]:
    """By score: each list's softmax, averaged over the retrievers (Eq. 3 with a retriever's distribution).

    .. math:: P(d) = \\frac{1}{M} \\sum_{j=1}^{M} \\frac{\\exp(s_j(d) / T)}{\\sum_{d'} \\exp(s_j(d') / T)}

    The scores s_j are standardised over what is left of the list, unless `standardise` is off. A document of several
    lists stands in the pool once for each, so its chances add up, as they do in `union`. The paper prefers uniform
    draws from a capped list, because this one inclines to the very top (appendix B).
    """
    lists = [ranked for ranked in _lists(candidates, sampling).values() if len(ranked.doc_ids)]
    parts = [softmax_of(_standardised(one.scores, sampling), sampling.sampling_temperature) for one in lists]
    weights = np.concatenate(parts) / len(parts) if parts else np.zeros(0)
    return [Stratum([doc_id for ranked in lists for doc_id in ranked.doc_ids], weights)]


def constrained(candidates: QueryCandidates, sampling: Sampling) -> list[Stratum]:
    """The union of the other retrievers, where a document stays only if the run `within` ranks it too (Table 6).

    The run is one of the stored constraints. Where there is none of that name, a list is taken, with a warning: it was
    cut when it was mined, and the paper looks a thousand deep. Its own list is no generator.
    """
    name = cast(str, sampling.within)  # `Sampling` refuses this policy without it
    runs = {**{key: ranked.doc_ids for key, ranked in candidates.lists.items()}, **candidates.constraints}
    _known([name], runs, "within", "run")
    if name not in candidates.constraints:
        warnings.warn(
            f"within: the candidates hold no deeper run {name!r}, so its mined list decides; the paper takes the top "
            f"1000 (Table 6); mine them with --constraints {name}=path/run.trec",
            stacklevel=2,
        )
    allowed = set(runs[name])
    others = {key: ranked for key, ranked in _lists(candidates, sampling).items() if key != name}
    return [Stratum([d for ranked in others.values() for d in ranked.doc_ids if d in allowed])]


def redistributed(candidates: QueryCandidates, sampling: Sampling) -> list[Stratum]:
    """The top of a ranker's own list over the pooled candidates of all retrievers, evenly (Table 7, appendix B).

    A stored fused run serves as well: its top is the pool that a ranker will rerank. Rank window, margins and score
    limits are those of this list; the retrievers' lists are not read.

    >>> rankings = {"r": RankedList(["b", "a", "c"], [9.0, 2.0, 1.0])}
    >>> sampling = Sampling("redistributed", depth=2, negatives_ranking="r")
    >>> redistributed(QueryCandidates("q", [], {}, {}, rankings), sampling)
    [Stratum(doc_ids=['b', 'a'], weights=None, share=1.0)]
    """
    return [Stratum(list(_ranking(candidates, sampling, sampling.depth).doc_ids))]


def redistributed_softmax(candidates: QueryCandidates, sampling: Sampling) -> list[Stratum]:
    """By a ranker's own distribution over the whole pool, which inclines to the very top (Eq. 4, Eq. 6).

    .. math:: P(d) = \\frac{\\exp(K(q, d) / T)}{\\sum_{d'} \\exp(K(q, d') / T)}

    Not the paper's draw, which is `redistributed`: a ranker's logits leave some nine documents that are drawn at all.
    """
    ranked = _ranking(candidates, sampling, None)
    return [Stratum(list(ranked.doc_ids), softmax_of(ranked.scores, sampling.sampling_temperature))]


def _ranking(candidates: QueryCandidates, sampling: Sampling, last: int | None) -> RankedList:
    """The list of the sampling's ranker, cut to the window, without positives and without what the filters refuse."""
    name = cast(str, sampling.negatives_ranking)  # `Sampling` refuses these policies without it
    _known([name], candidates.rankings, "negatives_ranking", "ranking")
    ranked = candidates.rankings[name]
    last = sampling.rank_to or last or len(ranked.doc_ids)
    return _filtered(name, ranked, candidates, sampling, last)


POLICIES: dict[str, Policy] = {
    "union": union,
    "union_dedup": union_dedup,
    "quota": quota,
    "single": single,
    "softmax": softmax,
    "constrained": constrained,
    "redistributed": redistributed,
    "redistributed_softmax": redistributed_softmax,
}
"""Policy by name: (candidates, sampling) -> the strata that negatives are drawn from."""

BEST_OF_FUSED = 2
"""A warm start's first half is drawn from the best `BEST_OF_FUSED * count` documents by the scores that it learns."""


def _option(default: Any, told: str, published: str = "if_set", **metadata: Any) -> Any:
    """A field of `Sampling`."""
    metadata |= {"help": told, "published": published}
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class Sampling:
    """How negatives are drawn from a query's candidates; the configurations of trainings inherit these options.

    Ranks start at 1 and count relevant documents too, which are left out after the window has been cut.

    Margins read the positive's score in the same list: of several listed positives the lowest, to be on the safe side
    as in sentence-transformers. A list that ranks no positive puts all its documents above it, so none of them passes.
    `standardise` is there because the scales of retrievers have nothing in common (BM25 some tens, cosines below 1).

    Of a field's metadata, `published` says when a card states the option: "always", or "if_set", which is where it
    is not at its default.

    Raises:
        InputError: an unknown policy, or an option that is out of range or missing for this policy.
    """

    policy: str = _option(
        "union",
        f"Sampling policy; union is the paper's. One of: {', '.join(POLICIES)}. To draw from the pool that will be "
        "reranked: redistributed, with negatives_ranking.",
        published="always",
    )
    depth: int = _option(
        200, "Top-N of each list, or of negatives_ranking's, that negatives are drawn from.", published="always"
    )
    retrievers: list[str] = _option([], "The retrievers whose lists are drawn from (Table 4); default all.")
    rank_from: int = _option(1, "First rank of a list that is drawn from.")
    rank_to: int | None = _option(None, "Last rank; default depth, for redistributed_softmax the whole pool.")
    max_score: dict[str, float] = _option(
        {}, "Highest score of a negative, by retriever or stored ranking: dense=0.8 ..."
    )
    min_score: dict[str, float] = _option({}, "Lowest score, by retriever or stored ranking.")
    absolute_margin: float | None = _option(None, "Negatives score at least so much below the positive, in each list.")
    relative_margin: float | None = _option(
        None, "The same as a share of the positive score's magnitude: at most p - margin * |p|."
    )
    sampling_temperature: float = _option(
        1.0,
        "Of softmax and redistributed_softmax: small ones draw the very top, large ones draw evenly.",
        formerly="temperature",
    )
    standardise: bool = _option(
        True, "Policy softmax: give each list's scores mean 0 and deviation 1 first. --no_standardise: not."
    )
    shares: dict[str, float] = _option(
        {}, "Policy quota: each retriever's part, bm25=0.5 dense=0.25 splade=0.25; brought to sum 1."
    )
    within: str | None = _option(None, "Policy constrained: the run in which every negative must stand (Table 6).")
    negatives_ranking: str | None = _option(
        None,
        "Policy redistributed: the stored ranking whose top depth is drawn from. It is a ranker's (Table 7) or a "
        "first stage's: mine.py --rankings fused=FUSED/run.trec, then --negatives_ranking fused.",
        formerly=("negatives_ranker", "ranker"),
    )
    leave_out_suspects: bool = _option(
        False,
        "Draw no suspected false negatives: those that mine.py's audit counts as suspected, by the same rule. Copies "
        "of a relevant document, and what every retriever ranks above it.",
    )
    judged_by: str | None = _option(
        None, "leave_out_suspects: the stored ranking that judges instead of all retrievers."
    )

    def __post_init__(self):
        policy_named(self.policy)
        check_all(self)
        last = self.rank_to or (math.inf if self.policy == "redistributed_softmax" else self.depth)
        if self.rank_from > last:
            raise InputError(f"ranks from {self.rank_from} to {self.rank_to or last} are an empty window")
        self._check_policy()

    def _check_policy(self):
        if self.policy == "single" and len(self.retrievers) != 1:
            named = ", ".join(self.retrievers) or "none"
            raise InputError(f"policy single draws from one list: name one of the retrievers, not {named}")
        if self.policy == "quota":
            if not self.shares or not sum(self.shares.values()) > 0:
                raise InputError("policy quota needs shares, such as bm25=0.5 dense=0.25 splade=0.25")
        if self.policy == "constrained" and not self.within:
            raise InputError("policy constrained needs within: the run in which every negative must stand")
        if self.policy in ("redistributed", "redistributed_softmax") and not self.negatives_ranking:
            raise InputError(f"policy {self.policy} needs negatives_ranking: whose list over the pool is drawn from")
        for name, policies in _READ_BY.items():
            if getattr(self, name) and self.policy not in policies:
                raise InputError(
                    f"{name} is given, but policy {self.policy} does not read it; choices: "
                    f"--policy {' or '.join(policies)}"
                )
        if self.judged_by and not self.leave_out_suspects:
            raise InputError(f"judged_by is {self.judged_by!r}, but nothing is judged; add --leave_out_suspects true")


_REDISTRIBUTED = ["redistributed", "redistributed_softmax"]
_READ_BY = {
    "retrievers": [name for name in POLICIES if name not in _REDISTRIBUTED],
    "shares": ["quota"],
    "within": ["constrained"],
    "negatives_ranking": _REDISTRIBUTED,
}
"""Options of some policies only; with another they would be passed over."""


def policy_named(name: str) -> Policy:
    """The policy of that name.

    Raises:
        InputError: there is none.
    """
    if name not in POLICIES:
        raise InputError(f"no sampling policy {name!r}; choices: {', '.join(POLICIES)}")
    return POLICIES[name]


def draw_group(
    candidates: QueryCandidates | Mapping[str, Any],
    count: int,
    seed: int,
    epoch: int,
    sampling: Sampling | None = None,
) -> tuple[str, list[str]]:
    """One training group: a positive and `count` negatives, drawn by the policy without replacement.

    The draw depends on (seed, epoch, query_id) alone: not on workers, processes, batch or row order. Weighted entries
    are drawn one after the other, each by its share of what is left.

    Args:
        candidates: a query's candidates, or a row of the dataset; at least one positive.
        count: negatives wanted.
        seed: of the training.
        epoch: other negatives are drawn in every epoch.
        sampling: policy and its options; default `union` over the top 200.

    Returns:
        The positive's id and the negatives' ids. Where fewer candidates remain than were asked for, they are all
        drawn, down to none: no policy fills up from elsewhere.

    Raises:
        InputError: the sampling names a retriever, run or ranker that the candidates lack, or leaves out suspects
            where nobody looked for them.
    """
    sampling = sampling or Sampling()
    if not isinstance(candidates, QueryCandidates):
        candidates = QueryCandidates.of_row(candidates)
    for option in ("max_score", "min_score"):
        _known(getattr(sampling, option), {**candidates.lists, **candidates.rankings}, option, "retriever")
    generator = generator_of(seed, epoch, candidates.query_id)
    positive = draw_positive(candidates.query_id, candidates.positives, seed, epoch)
    strata = policy_named(sampling.policy)(candidates, sampling)
    orders = [_order(stratum, generator) for stratum in strata]
    if len(strata) == 1:
        return positive, orders[0][:count]
    numbers = _apportion([stratum.share for stratum in strata], count, generator)
    chosen = [doc_id for order, number in zip(orders, numbers, strict=True) for doc_id in order[:number]]
    rest = [doc_id for order, number in zip(orders, numbers, strict=True) for doc_id in order[number:]]
    short = count - len(chosen)
    return positive, chosen + [rest[index] for index in generator.permutation(len(rest))[:short]]


def draw_positive(query_id: str, positives: Sequence[str], seed: int, epoch: int) -> str:
    """The positive of an epoch. A query's positives take turns, so that Eq. 5 sums over all of them.

    Args:
        query_id: the query.
        positives: at least one.
        seed: of the training.
        epoch: each run of `len(positives)` epochs goes through all of them once, in an order of its own.
    """
    round_, turn = divmod(epoch, len(positives))
    return positives[generator_of(seed, round_, f"positives of {query_id}").permutation(len(positives))[turn]]


def draw(
    query_id: str,
    positives: Sequence[str],
    lists: Mapping[str, Sequence[str]],
    count: int,
    seed: int,
    epoch: int,
    policy: str = "union",
    depth: int = 200,
) -> tuple[str, list[str]]:
    """`draw_group` for lists of ids without scores."""
    candidates = QueryCandidates(query_id, positives, {name: RankedList(ids) for name, ids in lists.items()})
    return draw_group(candidates, count, seed, epoch, Sampling(policy, depth))


def softmax_of(scores: Sequence[float] | np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """exp(score / temperature), normalised to sum 1; empty for no scores.

    >>> softmax_of([0.0, math.log(3.0)]).round(6).tolist()
    [0.25, 0.75]
    """
    values = np.asarray(scores, dtype=float) / temperature
    if not len(values):
        return values
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def _standardised(scores: Sequence[float], sampling: Sampling) -> np.ndarray:
    values = np.asarray(scores, dtype=float)
    deviation = values.std()
    if not sampling.standardise or deviation == 0:
        return values
    return (values - values.mean()) / deviation


def _lists(candidates: QueryCandidates, sampling: Sampling) -> dict[str, RankedList]:
    """The lists that take part, cut to the window, without positives and without what the filters refuse."""
    _known(sampling.retrievers, candidates.lists, "retrievers", "retriever")
    names = sampling.retrievers or candidates.lists
    last = sampling.rank_to or sampling.depth
    return {n: _filtered(n, candidates.lists[n], candidates, sampling, last) for n in names}


def left_out(candidates: QueryCandidates, sampling: Sampling) -> set[str]:
    """Documents that are never drawn as a negative: the positives, and suspects where they are to be left out.

    Raises:
        InputError: nobody looked for suspects.
    """
    positives = set(candidates.positives)
    return positives | suspects_of({"suspects": candidates.suspects}) if sampling.leave_out_suspects else positives


def suspects_of(row: Mapping[str, Any]) -> set[str]:
    """Ids of a row's suspected false negatives.

    Raises:
        InputError: nobody looked for them.
    """
    if row.get("suspects") is None:
        raise InputError("leave_out_suspects: these candidates do not say who is suspected; see negatives.suspects")
    return set(row["suspects"])


def _filtered(name: str, ranked: RankedList, candidates: QueryCandidates, sampling: Sampling, last: int) -> RankedList:
    positives, excluded = set(candidates.positives), left_out(candidates, sampling)
    if not _needs_scores(name, sampling):
        listed = ranked.doc_ids[sampling.rank_from - 1 : last]
        return RankedList([doc_id for doc_id in listed if doc_id not in excluded])
    if len(ranked.scores) != len(ranked.doc_ids):
        raise InputError(f"policy {sampling.policy} with these options reads scores, but {name!r} has none")
    lowest, highest = _limits(name, ranked, positives, sampling)
    window = slice(sampling.rank_from - 1, last)
    kept = [
        (doc_id, score)
        for doc_id, score in zip(ranked.doc_ids[window], ranked.scores[window], strict=True)
        if doc_id not in excluded and lowest <= score <= highest
    ]
    return RankedList([doc_id for doc_id, _ in kept], [score for _, score in kept])


def _needs_scores(name: str, sampling: Sampling) -> bool:
    by_score = sampling.policy in ("softmax", "redistributed_softmax")
    margins = sampling.absolute_margin is not None or sampling.relative_margin is not None
    return by_score or margins or name in sampling.max_score or name in sampling.min_score


def _limits(name: str, ranked: RankedList, positives: set[str], sampling: Sampling) -> tuple[float, float]:
    """Lowest and highest score that a negative of this list may have."""
    highest = sampling.max_score.get(name, math.inf)
    if sampling.absolute_margin is not None or sampling.relative_margin is not None:
        listed = [score for doc_id, score in zip(ranked.doc_ids, ranked.scores, strict=True) if doc_id in positives]
        positive = min(listed, default=-math.inf)
        if sampling.absolute_margin is not None:
            highest = min(highest, positive - sampling.absolute_margin)
        if sampling.relative_margin is not None:
            highest = min(highest, positive - sampling.relative_margin * abs(positive) if listed else positive)
    return sampling.min_score.get(name, -math.inf), highest


def _known(names: Iterable[str], table: Mapping[str, Any], option: str, noun: str) -> None:
    for name in names:
        if name not in table:
            raise InputError(
                f"{option}: the candidates hold no {noun} {name!r}; choices: {', '.join(table) or 'none'}"
            )


def _order(stratum: Stratum, generator: np.random.Generator) -> list[str]:
    """The whole pool in the order in which it is drawn."""
    if stratum.weights is None:
        return [stratum.doc_ids[index] for index in generator.permutation(len(stratum.doc_ids))]
    # The largest of log w + Gumbel noise is entry i with chance w_i / sum(w), and so on without i: successive draws.
    with np.errstate(divide="ignore"):
        keys = np.log(stratum.weights) + generator.gumbel(size=len(stratum.doc_ids))
    order = np.argsort(-keys, kind="stable")
    return [stratum.doc_ids[index] for index in order]


def _apportion(shares: Sequence[float], count: int, generator: np.random.Generator) -> list[int]:
    """Whole numbers that sum to `count`, each share * count on average and less than 1 away from it."""
    bounds = np.floor(np.cumsum([0.0, *shares]) / sum(shares) * count + generator.random() + 1e-9)
    return np.diff(bounds).astype(int).tolist()


def draw_scored(
    query_id: str, scores: Mapping[str, float], count: int, seed: int, epoch: int, first: str | None = None
) -> tuple[list[str], list[float]]:
    """Documents for a warm start: half from the best, half from the rest, with the scores that it learns.

    No judgement is read. Like `draw`, it depends on (seed, epoch, query_id) only.

    Args:
        query_id: the query.
        scores: by document id, any real: `fused_scores`, or a ranker's.
        count: documents wanted.
        seed: of the training.
        epoch: other documents are drawn in every epoch.
        first: a document that is always among them, as the first; one without a score has the lowest of all.

    Returns:
        Ids and their scores, `count` of them or all there are.
    """
    if first is not None:
        others = {doc_id: score for doc_id, score in scores.items() if doc_id != first}
        doc_ids, values = draw_scored(query_id, others, count - 1, seed, epoch)
        return [first, *doc_ids], [scores.get(first, min(scores.values(), default=0.0)), *values]
    ranked = sorted(scores, key=lambda doc_id: (-scores[doc_id], doc_id))
    generator = generator_of(seed, epoch, query_id)
    best = BEST_OF_FUSED * count
    head = [ranked[index] for index in generator.permutation(min(best, len(ranked)))[: count // 2]]
    chosen = set(head)
    rest = [doc_id for doc_id in ranked if doc_id not in chosen]
    tail = [rest[index] for index in generator.permutation(len(rest))[: count - len(head)]]
    return head + tail, [scores[doc_id] for doc_id in head + tail]


def fused_scores(lists: Mapping[str, tuple[Sequence[str], Sequence[float]]]) -> dict[str, float]:
    """Mean over retrievers of standardised scores: each list's mean becomes 0 and its deviation 1.

    A document that a retriever did not list gets that list's lowest value. Lists of fewer than two documents, or of
    equal scores, say nothing and count 0.

    >>> fused_scores({"bm25": (["a", "b"], [9.0, 5.0]), "dense": (["b", "c"], [0.5, 0.25])})
    {'a': 0.0, 'b': 0.0, 'c': -1.0}
    """
    pool = dict.fromkeys(doc_id for ids, _ in lists.values() for doc_id in ids)
    total = dict.fromkeys(pool, 0.0)
    for ids, values in lists.values():
        deviation = float(np.std(values)) if len(values) else 0.0
        if deviation > 0:
            standard = dict(zip(ids, (np.asarray(values, dtype=float) - np.mean(values)) / deviation, strict=True))
            lowest = min(standard.values())
            for doc_id in pool:
                total[doc_id] += float(standard.get(doc_id, lowest)) / len(lists)
    return total
