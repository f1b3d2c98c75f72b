"""MRR@k, nDCG@k and R@k of a Run, per query, by ir_measures over pytrec_eval; `RankingMetric` is for `evaluate`.

What is decided here, once:

- A run's own order is final. pytrec_eval would sort again and break ties by doc_id descending. So it is given
  scores made from ranks, which have no ties.
- A judged query that the run lacks scores 0; a query of the run that is not judged is left out (both are counted in
  a warning). An unjudged document is not relevant.
- A query without any relevant document scores 0 under every measure and stays in the mean, as in trec_eval.
- MRR@k looks at the first k documents, as the MS MARCO script does: 1 / rank of the first relevant one, else 0.
- nDCG@k has linear gain (the grade itself) and log2(rank + 1) discount, as in trec_eval; its ideal list is made of all
  judgements of the query. A negative grade is worth nothing.
- R@k is the share of the query's relevant documents that stand in the first k.

Relevant means grade >= 1, or >= n where a measure is written with `(rel=n)`.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

from ..records import InputError
from ..run import Run

Qrels = Mapping[str, Mapping[str, int]]  # query_id -> doc_id -> grade
PerQuery = dict[str, dict[str, float]]  # measure -> query_id -> value

_FAMILIES = {family.lower(): family for family in ("MRR", "nDCG", "R")}
_FORM = re.compile(r"(?P<family>[a-z]+)(?:\(rel=(?P<grade>[0-9]+)\))?@(?P<cutoff>[0-9]+)", re.IGNORECASE)


class Measure(NamedTuple):
    """One measure at one cutoff; `str` gives its name.

    >>> str(Measure("R", 50, min_grade=2))
    'R(rel=2)@50'
    """

    family: str
    cutoff: int
    min_grade: int = 1

    def __str__(self) -> str:
        return f"{self.family}{f'(rel={self.min_grade})' if self.min_grade != 1 else ''}@{self.cutoff}"


def parse_measure(name: str) -> Measure:
    """`MRR@k`, `nDCG@k` or `R@k`, for any k >= 1; MRR and R take a minimum grade. Upper and lower case are alike.

    Raises:
        InputError: another name or form.

    >>> parse_measure("ndcg@10")
    Measure(family='nDCG', cutoff=10, min_grade=1)
    """
    match = _FORM.fullmatch(name.strip())
    family = _FAMILIES.get(match["family"].lower()) if match else None
    if match is None or family is None or int(match["cutoff"]) < 1:
        raise InputError(f"no measure is called {name!r}; choose among {_forms()}, with k a whole number from 1")
    if match["grade"] is None:
        return Measure(family, int(match["cutoff"]))
    if family == "nDCG" or int(match["grade"]) < 1:
        raise InputError(f"measure {name!r}: (rel=n) is the least relevant grade, n >= 1, of MRR and R; nDCG uses all")
    return Measure(family, int(match["cutoff"]), int(match["grade"]))


def parse_measures(names: Iterable[str]) -> tuple[Measure, ...]:
    """All of `names`, in their order, each once; at least one is needed."""
    measures = tuple(dict.fromkeys(parse_measure(name) for name in names))
    if not measures:
        raise InputError(f"no measure is given; choose among {_forms()}")
    return measures


def evaluate_run(qrels: Qrels, run: Run, measures: Sequence[str]) -> PerQuery:
    """Values of every measure for every judged query.

    Args:
        qrels: query_id -> doc_id -> grade.
        run: ranked lists; their order is taken as it is.
        measures: names such as "MRR@10", "nDCG@10", "R(rel=2)@50".

    Returns:
        measure name -> query_id -> value in [0, 1]; query ids in ascending order, all those of `qrels`.

    Raises:
        InputError: no judgements, a grade that is no whole number, a run of which no query is judged.

    >>> evaluate_run({"q": {"a": 1}}, Run({"q": [("b", 2.0), ("a", 1.0)]}), ["MRR@10", "R@1"])
    {'MRR@10': {'q': 0.5}, 'R@1': {'q': 0.0}}
    """
    parsed = parse_measures(measures)
    _check_grades(qrels)
    _check_queries(qrels, run)
    query_ids = sorted(qrels)
    depth = max(measure.cutoff for measure in parsed)
    rankings = [[document.doc_id for document in run.get(query_id, ())[:depth]] for query_id in query_ids]
    values = measure_rankings(rankings, [qrels[query_id] for query_id in query_ids], parsed)
    return {name: dict(zip(query_ids, column, strict=True)) for name, column in values.items()}


def means(per_query: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Mean over queries of each measure, the same to the last bit in any order of queries.

    >>> means({"MRR@10": {"q1": 1.0, "q2": 0.5}})
    {'MRR@10': 0.75}
    """
    return {name: math.fsum(values.values()) / len(values) for name, values in per_query.items()}


def measure_rankings(
    rankings: Sequence[Sequence[str]], judgements: Sequence[Mapping[str, int]], measures: Sequence[Measure]
) -> dict[str, list[float]]:
    """The arithmetic alone: ir_measures over pytrec_eval, one value a ranking.

    Args:
        rankings: [queries], doc_ids from the best down; a list may be empty.
        judgements: [queries], doc_id -> grade.
        measures: as parsed.

    Returns:
        measure name -> [queries] values in [0, 1].
    """
    values = {str(measure): [0.0] * len(rankings) for measure in measures}
    # pytrec_eval takes Python's own integers alone
    qrels = {str(index): {d: int(grade) for d, grade in judged.items()} for index, judged in enumerate(judgements)}
    by_cutoff = sorted(measures, key=lambda measure: measure.cutoff)
    for cutoff, group in itertools.groupby(by_cutoff, key=lambda measure: measure.cutoff):
        named = {_of_ir_measures(measure): str(measure) for measure in group}
        for value in _pytrec_eval().iter_calc(list(named), qrels, _without_ties(rankings, cutoff)):
            values[named[value.measure]][int(value.query_id)] = value.value
    return values


def _without_ties(rankings: Sequence[Sequence[str]], cutoff: int) -> dict[str, dict[str, float]]:
    run = {}
    for index, ranking in enumerate(rankings):
        top = ranking[:cutoff]  # for MRR the cut is the definition; nDCG@k and R@k do not see below it anyhow
        run[str(index)] = {doc_id: float(len(top) - rank) for rank, doc_id in enumerate(top)}
        if len(run[str(index)]) != len(top):
            doc_id = next(doc_id for doc_id in top if list(top).count(doc_id) > 1)
            raise InputError(f"ranking {index}: document {doc_id!r} is listed twice")
    return run


def _of_ir_measures(measure: Measure) -> Any:
    import ir_measures

    return {
        "MRR": ir_measures.RR(rel=measure.min_grade),
        "nDCG": ir_measures.nDCG @ measure.cutoff,
        "R": ir_measures.R(rel=measure.min_grade) @ measure.cutoff,
    }[measure.family]


def _pytrec_eval() -> Any:
    import ir_measures

    return ir_measures.pytrec_eval  # by name: left to choose, ir_measures may take a provider with another tie rule


def _check_grades(qrels: Qrels) -> None:
    if not qrels:
        raise InputError("the qrels hold no query, so there is nothing to measure")
    for query_id, judged in qrels.items():
        for doc_id, grade in judged.items():
            if not isinstance(grade, Integral):
                raise InputError(f"qrels: grade {grade!r} of document {doc_id!r}, query {query_id!r}: no whole number")


def _check_queries(qrels: Qrels, run: Run) -> None:
    unjudged = [query_id for query_id in run if query_id not in qrels]
    if run and len(unjudged) == len(run):
        raise InputError(
            f"run {run.name!r}: none of its {len(run)} queries is judged (first {unjudged[0]!r}, while the qrels "
            f"have {next(iter(qrels))!r}); are both of one collection and split?"
        )
    if unjudged:
        warnings.warn(f"run {run.name!r}: {len(unjudged)} queries are not judged and are left out", stacklevel=3)
    missing = sum(query_id not in run for query_id in qrels)
    if missing:
        warnings.warn(f"run {run.name!r} lacks {missing} of {len(qrels)} judged queries; they score 0", stacklevel=3)


def _forms() -> str:
    return ", ".join(f"{family}@k" for family in _FAMILIES.values()) + ", MRR(rel=n)@k, R(rel=n)@k"


@functools.cache
def _metric_class() -> type:
    import datasets
    import evaluate

    class RankingMetric(evaluate.Metric):
        __doc__ = _METRIC_DESCRIPTION
        __module__ = __name__
        __qualname__ = "RankingMetric"  # so that pickle finds it through the module's __getattr__

        def _info(self) -> evaluate.MetricInfo:
            strings = datasets.Sequence(datasets.Value("string"))
            grades = datasets.Sequence(datasets.Value("int64"))
            return evaluate.MetricInfo(
                description=_METRIC_DESCRIPTION,
                citation="",
                inputs_description=_METRIC_INPUTS,
                features=datasets.Features(
                    {"predictions": strings, "references": {"doc_ids": strings, "grades": grades}}
                ),
                reference_urls=["https://ir-measur.es", "https://github.com/usnistgov/trec_eval"],
            )

        def _compute(
            self,
            predictions: Sequence[Sequence[str]],
            references: Sequence[Mapping[str, Any]],
            measures: Sequence[str] = ("MRR@10", "nDCG@10"),
            per_query: bool = False,
        ) -> dict[str, Any]:
            judgements = [dict(zip(row["doc_ids"], row["grades"], strict=True)) for row in references]
            values = measure_rankings(predictions, judgements, parse_measures(measures))
            return values if per_query else {name: math.fsum(column) / len(column) for name, column in values.items()}

    return RankingMetric


_METRIC_DESCRIPTION = """MRR@k, nDCG@k and R@k of ranked lists, by ir_measures over pytrec_eval.

Instantiate the class itself; nothing is fetched. It is made on first use, because `evaluate` takes seconds to import:
`from r2anker_hf.evaluation.measures import RankingMetric`.
"""
_METRIC_INPUTS = """
Args:
    predictions: [queries], each a list of doc_ids from the best down.
    references: [queries], each {"doc_ids": [...], "grades": [...]} of one query's judgements, both of one length.
    measures: names such as "MRR@10", "nDCG@10", "R@50", "R(rel=2)@50".
    per_query: give lists of values, in the order of `predictions`, in place of means.

Returns:
    measure name -> mean over queries, or [queries] values.
"""


def __getattr__(name: str) -> Any:
    if name == "RankingMetric":
        return _metric_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
