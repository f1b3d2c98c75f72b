"""Pairs that a ranker has scored before: several first stages share documents, and none needs to be scored twice."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ..run import Ranked, Run, RunFile, ranked

Scores = Mapping[str, Mapping[str, float]]
"""Query id -> document id -> the ranker's score."""


def scores_of(runs: Sequence[Run]) -> Scores:
    """What reranked runs of one ranker say of each pair; the first run that holds a pair decides.

    >>> scores_of([Run({"q": [("a", 1.0)]}), Run({"q": [("a", 1.0), ("b", 0.5)]})])
    {'q': {'a': 1.0, 'b': 0.5}}
    """
    scores: dict[str, dict[str, float]] = {}
    for run in runs:
        for query_id, documents in run.items():
            known = scores.setdefault(query_id, {})
            for document in documents:
                known.setdefault(document.doc_id, document.score)
    return scores


def unscored(first_stage: Run | RunFile, queries: Collection[str], depth: int, scores: Scores) -> Run:
    """The documents down to `depth` that no score is known of, in the first stage's order.

    >>> unscored(Run({"q": [("a", 3.0), ("b", 2.0), ("c", 1.0)]}), ["q"], 2, {"q": {"a": 9.0}})["q"]
    (ScoredDocument(doc_id='b', score=2.0),)
    """
    lists = {}
    for query_id in (query_id for query_id in first_stage if query_id in queries):
        known = scores.get(query_id, {})
        left = [one for one in first_stage[query_id][:depth] if one.doc_id not in known]
        if left:
            lists[query_id] = Ranked(tuple(one.doc_id for one in left), tuple(one.score for one in left))
    return Run.of_ranked(lists, name=first_stage.name)


def reordered(first_stage: Run | RunFile, queries: Collection[str], depth: int, scores: Scores) -> Run:
    """The first stage's documents down to `depth` in the order of their scores; every pair has one.

    >>> reordered(Run({"q": [("a", 3.0), ("b", 2.0), ("c", 1.0)]}), ["q"], 2, {"q": {"a": 0.0, "b": 9.0}})["q"][0]
    ScoredDocument(doc_id='b', score=9.0)
    """
    lists = {}
    for query_id in (query_id for query_id in first_stage if query_id in queries):
        of_query = scores[query_id]
        documents = first_stage[query_id][:depth]
        lists[query_id] = ranked(query_id, [(one.doc_id, of_query[one.doc_id]) for one in documents])
    return Run.of_ranked(lists, name=f"{first_stage.name}+ranker")
