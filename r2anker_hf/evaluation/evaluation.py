"""From runs and judgements to an EvaluationReport: means, intervals, paired tests, and what a first stage allows.

Every figure of a report or a card is read from the EvaluationReport, which is `report.json` and nothing else.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np

from ..files import sha256_file
from ..records import InputError
from ..run import Run
from .measures import Measure, PerQuery, Qrels, evaluate_run, means, parse_measures

FORMAT = "r2anker_hf.report/1"
_CELLS = 4_000_000  # numbers drawn at a time: resampling holds about 64 MB however many queries there are
_EQUAL = 1e-9  # differences below this are rounding: measures are quotients of small whole numbers and logarithms


@dataclass(frozen=True)
class CollectionFacts:
    """What was searched. `documents` and `use_titles` are None where unknown, as for runs made elsewhere."""

    name: str = "unnamed"
    revision: str | None = None
    split: str = "test"
    documents: int | None = None
    use_titles: bool | None = None


class Judged(typing.Protocol):
    """What `evaluate` reads of a `Collection`."""

    @property
    def name(self) -> str: ...

    @property
    def revision(self) -> str: ...

    @property
    def split(self) -> str: ...

    @property
    def corpus(self) -> typing.Any: ...

    @property
    def qrels(self) -> dict[str, dict[str, int]]: ...


@dataclass(frozen=True)
class Settings:
    """How intervals and tests are made; the same settings on the same runs give the same report, byte for byte."""

    test: str = "randomisation"
    resamples: int = 10_000
    seed: int = 42
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if self.test not in _TESTS:
            raise InputError(f"no test is called {self.test!r}; choose among {', '.join(_TESTS)}")
        if self.resamples < 1:
            raise InputError(f"resamples is {self.resamples}, but at least 1 is needed")
        if not 0 < self.confidence < 1:
            raise InputError(f"confidence is {self.confidence}, but it lies between 0 and 1, such as 0.95")


@dataclass(frozen=True)
class Estimate:
    """A mean over queries and its interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class FirstStage:
    """What a reranker was given: it cannot find what is not among the first `depth` documents.

    `recall` is the first stage's `recall_measure` (R@depth); `ceiling` holds, for each measure, the value that the
    best possible order of those documents would have.
    """

    name: str
    depth: int
    recall_measure: str
    recall: float
    ceiling: dict[str, float]


@dataclass(frozen=True)
class System:
    """One run, measured.

    `queries` counts the judged queries that it answers. `depth` is its longest list. `tied` is the share of its
    documents whose score equals a neighbour's as float32: their order says nothing.
    """

    name: str
    run_file: str | None
    run_sha256: str | None
    queries: int
    depth: int
    tied: float
    scores: dict[str, Estimate]
    first_stage: FirstStage | None = None


@dataclass(frozen=True)
class Comparison:
    """`system` against `baseline` on the same queries.

    `difference` is system minus baseline, with its interval; `p_value` is two-sided; `p_corrected` is Holm's over all
    pairs compared within the measure; wins, ties and losses count queries from the system's side.
    """

    measure: str
    baseline: str
    system: str
    difference: float
    low: float
    high: float
    p_value: float
    p_corrected: float
    wins: int
    ties: int
    losses: int

    def reversed(self) -> Comparison:
        """The same comparison from the other side."""
        return dataclasses.replace(
            self,
            baseline=self.system,
            system=self.baseline,
            difference=-self.difference,
            low=-self.high,
            high=-self.low,
            wins=self.losses,
            losses=self.wins,
        )


@dataclass(frozen=True)
class RelevantDocument:
    """A relevant document and where it stands in two runs; ranks count from 1, None where it is not listed."""

    doc_id: str
    grade: int
    baseline_rank: int | None
    system_rank: int | None


@dataclass(frozen=True)
class TopDocument:
    """The first document of a list; its grade is None where nobody judged it, which is not the same as 0."""

    doc_id: str
    grade: int | None


@dataclass(frozen=True)
class QueryCase:
    """One query under two systems: values, a few of the `relevant_documents` relevant ones, the first documents."""

    query_id: str
    baseline: float
    system: float
    relevant_documents: int
    relevant: tuple[RelevantDocument, ...]
    baseline_top: TopDocument | None
    system_top: TopDocument | None


@dataclass(frozen=True)
class Examples:
    """The queries that gain and lose most between two systems, largest change first."""

    measure: str
    baseline: str
    system: str
    gains: tuple[QueryCase, ...]
    losses: tuple[QueryCase, ...]


@dataclass(frozen=True)
class EvaluationReport:
    """All that was measured. `per_query` is measure -> system -> values in the order of `query_ids`."""

    collection: CollectionFacts
    qrels_file: str | None
    qrels_sha256: str | None
    queries_without_relevant: int
    measures: tuple[str, ...]
    settings: Settings
    systems: tuple[System, ...]
    comparisons: tuple[Comparison, ...]
    examples: Examples | None
    query_ids: tuple[str, ...]
    per_query: dict[str, dict[str, tuple[float, ...]]]
    correction: str = "holm"
    format: str = field(default=FORMAT)

    @property
    def means(self) -> dict[str, dict[str, float]]:
        """Measure -> system -> mean over queries; `per_query` has what it is the mean of."""
        return {name: {one.name: one.scores[name].mean for one in self.systems} for name in self.measures}

    def system(self, name: str) -> System:
        """The system of that name."""
        found = [system for system in self.systems if system.name == name]
        if not found:
            raise InputError(f"no system is called {name!r}; there are {', '.join(s.name for s in self.systems)}")
        return found[0]

    def comparison(self, measure: str, baseline: str, system: str) -> Comparison | None:
        """`system` against `baseline`, from whichever side it was stored; None where the pair was not compared."""
        for found in self.comparisons:
            if found.measure == measure and (found.baseline, found.system) == (baseline, system):
                return found
            if found.measure == measure and (found.system, found.baseline) == (baseline, system):
                return found.reversed()
        return None

    def to_json(self) -> str:
        """The text of report.json; floats keep all their digits, so `from_json` gives an equal report."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, allow_nan=False, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str | os.PathLike = "report.json") -> EvaluationReport:
        """Read what `to_json` wrote; `where` is named if it cannot be read."""
        try:
            tree = json.loads(text)
            found = tree.get("format")
        except (json.JSONDecodeError, AttributeError) as error:
            raise InputError(f"{where}: is no report ({error})") from None
        if found != FORMAT:
            raise InputError(f"{where}: the format is {found!r}, but this version reads {FORMAT!r}")
        try:
            return _decode(cls, tree)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{where}: is no complete report ({type(error).__name__}: {error})") from None


def evaluate(
    qrels: Qrels | Judged,
    runs: Run | Sequence[Run],
    measures: Sequence[str] = ("MRR@10", "nDCG@10", "R@50"),
    *,
    collection: CollectionFacts | None = None,
    settings: Settings | None = None,
    first_stages: Mapping[str, str] | None = None,
    depths: Mapping[str, int] | None = None,
    recall_grade: int = 1,
    run_files: Mapping[str, str | os.PathLike] | None = None,
    qrels_file: str | os.PathLike | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    examples: int = 5,
    examples_pair: tuple[str, str] | None = None,
) -> EvaluationReport:
    """Measure every run, compare every pair, and keep what a reader needs to check it.

    Args:
        qrels: query_id -> doc_id -> grade; or a `Collection`, which has them and gives the report its facts.
        runs: with distinct names; the first is the baseline of the tables. One run needs no list.
        measures: names as in `measures.parse_measure`; the first one chooses the examples.
        collection: facts for the title of the report.
        settings: test, resamples, seed and confidence.
        first_stages: reranked system -> the run that it reorders, which must be among `runs`.
        depths: reranked system -> documents a query that it was given; by default its longest list.
        recall_grade: least grade that counts for the first stage's recall (TREC DL counts from 2).
        run_files: system -> run file, recorded with its sha256.
        qrels_file: recorded likewise.
        pairs: (baseline, system) to compare; by default every run with every later one.
        examples: gains, and losses, to keep.
        examples_pair: (baseline, system) of the examples; by default the last run and its first stage, or else the
            first run.

    Raises:
        InputError: no run, names that repeat, an unknown name, a file that is not there, or a "reranking" that holds a
            document which its first stage does not.
    """
    if not isinstance(qrels, Mapping):
        collection, qrels = collection or facts_of(qrels), qrels.qrels
    parsed = parse_measures(measures)
    by_name = _named([runs] if isinstance(runs, Run) else runs)
    names, settings = [str(measure) for measure in parsed], settings or Settings()
    values = {name: evaluate_run(qrels, run, names) for name, run in by_name.items()}
    estimates = _estimates(values, settings)
    reranked = _first_stages(qrels, by_name, names, dict(first_stages or {}), dict(depths or {}), recall_grade)
    files = _checked_keys(run_files or {}, by_name, "run_files")
    query_ids = sorted(qrels)
    by_measure = {name: {system: values[system][name] for system in by_name} for name in names}
    pair = examples_pair or _default_pair(list(by_name), reranked)
    return EvaluationReport(
        collection=collection or CollectionFacts(),
        qrels_file=_shown(qrels_file),
        qrels_sha256=_sha256(qrels_file),
        queries_without_relevant=_count_without_relevant(qrels),
        measures=tuple(names),
        settings=settings,
        systems=tuple(
            _system(run, qrels, estimates[name], files.get(name), reranked.get(name)) for name, run in by_name.items()
        ),
        comparisons=tuple(c for name in names for c in compare(by_measure[name], name, pairs, settings)),
        examples=_examples(qrels, by_name, by_measure[names[0]], parsed[0], pair, examples) if pair else None,
        query_ids=tuple(query_ids),
        per_query={
            name: {system: tuple(column[q] for q in query_ids) for system, column in columns.items()}
            for name, columns in by_measure.items()
        },
    )


def facts_of(collection: Judged) -> CollectionFacts:
    """What a report says of a collection."""
    size, use_titles = len(collection.corpus), collection.corpus.use_titles
    return CollectionFacts(collection.name, collection.revision, collection.split, size, use_titles)


def compare(
    values: Mapping[str, Mapping[str, float]],
    measure: str,
    pairs: Sequence[tuple[str, str]] | None = None,
    settings: Settings | None = None,
) -> tuple[Comparison, ...]:
    """Paired tests between systems on one measure, p-values corrected by Holm over all `pairs`.

    Args:
        values: system -> query_id -> value; the same queries for every system.
        measure: its name, for the record.
        pairs: (baseline, system); by default every system with every later one.
        settings: test, resamples, seed and confidence of the interval of the difference.

    Returns:
        One comparison a pair, in their order.

    Raises:
        InputError: systems with other queries, or an unknown name.
    """
    settings = settings or Settings()
    pairs = list(combinations(values, 2)) if pairs is None else list(pairs)
    matrix = _matrix(values)
    position = {name: column for column, name in enumerate(values)}
    for name in (name for pair in pairs for name in pair if name not in position):
        raise InputError(f"pairs: no system is called {name!r}; there are {', '.join(position)}")
    if not pairs:
        return ()
    differences = np.stack([matrix[:, position[b]] - matrix[:, position[a]] for a, b in pairs], axis=1)
    differences[np.abs(differences) < _EQUAL] = 0.0
    raw = _TESTS[settings.test](differences, settings)
    intervals = bootstrap_intervals(differences, settings)
    return tuple(
        _comparison(measure, pair, differences[:, column], intervals[:, column], raw[column], corrected)
        for column, (pair, corrected) in enumerate(zip(pairs, holm(raw), strict=True))
    )


def holm(p_values: Iterable[float]) -> list[float]:
    """Holm's step-down correction, in the order given: the i-th smallest of m times m - i + 1, never falling.

    Holm 1979, Scandinavian Journal of Statistics 6. It holds the chance of any false difference at the level,
    whatever the dependence between the tests. It rejects no less than Bonferroni.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    p_values = [float(p) for p in p_values]
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def randomisation_test(differences: np.ndarray, settings: Settings) -> np.ndarray:
    """Two-sided paired randomisation test of mean difference 0, by random sign flips.

    If two systems were alike, either could have had either value of a query: every sign is a coin. p is
    (1 + flips with a sum as large) / (1 + resamples), so never 0 and exact on average (Phipson & Smyth 2010, eq. 2).
    It assumes nothing about the distribution of values, which for MRR is far from normal. All pairs share the flips.

    Args:
        differences: [queries, pairs].
        settings: resamples and seed.

    Returns:
        [pairs] p-values, at least 1 / (1 + resamples).
    """
    observed = np.abs(differences.sum(axis=0)) - _EQUAL
    as_large = np.zeros(differences.shape[1])
    rng = np.random.default_rng([settings.seed, 0])
    for rows in _batches(settings.resamples, len(differences)):
        signs = rng.integers(0, 2, size=(rows, len(differences)), dtype=np.int8) * 2.0 - 1.0
        as_large += (np.abs(signs @ differences) >= observed).sum(axis=0)
    return (1 + as_large) / (1 + settings.resamples)


def t_test(differences: np.ndarray, settings: Settings) -> np.ndarray:
    """Two-sided paired t-test, by scipy; 1 where all differences are 0 or there is one query.

    Args:
        differences: [queries, pairs].
        settings: not used.

    Returns:
        [pairs] p-values; 0 < p, also where all differences are one constant.
    """
    from scipy import stats

    if len(differences) < 2:
        return np.ones(differences.shape[1])
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # scipy warns of equal differences, which are answered below
        p_values = stats.ttest_1samp(differences, 0.0, axis=0).pvalue
    no_difference = ~np.any(differences, axis=0)
    return np.where(no_difference | np.isnan(p_values), 1.0, np.maximum(p_values, np.finfo(float).tiny))


_TESTS: dict[str, Callable[[np.ndarray, Settings], np.ndarray]] = {
    "randomisation": randomisation_test,
    "t-test": t_test,
}


def bootstrap_intervals(values: np.ndarray, settings: Settings) -> np.ndarray:
    """Percentile bootstrap interval of each column's mean, queries drawn with replacement.

    Chosen before Student's t because values lie in [0, 1] and pile up at its ends: these intervals stay inside and may
    be lopsided as the values are. Below some 30 queries they are a little too narrow, as percentile intervals are.
    All columns share the draws.

    Args:
        values: [queries, columns].
        settings: resamples, seed, confidence.

    Returns:
        [2, columns]: low and high ends, around the mean.
    """
    rng = np.random.default_rng([settings.seed, 1])
    queries, resampled = len(values), []
    for rows in _batches(settings.resamples, queries):
        drawn = rng.integers(0, queries, size=(rows, queries)) + np.arange(rows)[:, None] * queries
        counts = np.bincount(drawn.ravel(), minlength=rows * queries).reshape(rows, queries)
        resampled.append(counts @ values / queries)
    tail = (1 - settings.confidence) / 2
    low, high = np.quantile(np.concatenate(resampled), [tail, 1 - tail], axis=0)
    mean = values.mean(axis=0)
    return np.stack([np.minimum(low, mean), np.maximum(high, mean)])


def _batches(resamples: int, queries: int) -> Iterator[int]:
    rows = max(1, _CELLS // queries)
    for start in range(0, resamples, rows):
        yield min(rows, resamples - start)


def _matrix(values: Mapping[str, Mapping[str, float]]) -> np.ndarray:
    first = next(iter(values))
    query_ids = sorted(values[first])  # one order, so that draws fall on the same query however a mapping is ordered
    for name, column in values.items():
        if column.keys() != values[first].keys():
            raise InputError(f"systems {first!r} and {name!r} are measured on different queries; use one set of qrels")
    return np.array([[column[query_id] for column in values.values()] for query_id in query_ids], dtype=float)


def _comparison(
    measure: str, pair: tuple[str, str], differences: np.ndarray, interval: np.ndarray, p: float, corrected: float
) -> Comparison:
    return Comparison(
        measure=measure,
        baseline=pair[0],
        system=pair[1],
        difference=math.fsum(differences) / len(differences),
        low=float(interval[0]),
        high=float(interval[1]),
        p_value=float(p),
        p_corrected=corrected,
        wins=int((differences > 0).sum()),
        ties=int((differences == 0).sum()),
        losses=int((differences < 0).sum()),
    )


def _named(runs: Sequence[Run]) -> dict[str, Run]:
    if not runs:
        raise InputError("no run is given, so there is nothing to measure")
    by_name: dict[str, Run] = {}
    for run in runs:
        if run.name in by_name:
            raise InputError(f"two runs are called {run.name!r}; give each its own name")
        if not run.name.strip() or not run.name.isprintable():
            raise InputError(f"a run is called {run.name!r}, but a name needs printable characters on one line")
        by_name[run.name] = run
    return by_name


def _estimates(values: Mapping[str, PerQuery], settings: Settings) -> dict[str, dict[str, Estimate]]:
    keys = [(system, measure) for system, columns in values.items() for measure in columns]
    matrix = np.array([list(values[system][measure].values()) for system, measure in keys]).T
    low, high = bootstrap_intervals(matrix, settings)
    estimates: dict[str, dict[str, Estimate]] = {system: {} for system in values}
    for column, (system, measure) in enumerate(keys):
        mean = means(values[system])[measure]
        ends = min(float(low[column]), mean), max(float(high[column]), mean)  # the two means may differ in a last bit
        estimates[system][measure] = Estimate(mean, *ends)
    return estimates


def _system(
    run: Run,
    qrels: Qrels,
    scores: dict[str, Estimate],
    path: str | os.PathLike | None,
    first_stage: FirstStage | None,
) -> System:
    return System(
        name=run.name,
        run_file=_shown(path),
        run_sha256=_sha256(path),
        queries=sum(query_id in run for query_id in qrels),
        depth=max(map(len, run.values()), default=0),
        tied=_tied(run),
        scores=scores,
        first_stage=first_stage,
    )


def _tied(run: Run) -> float:
    tied = total = 0
    for documents in run.values():
        scores = np.array([document.score for document in documents]).astype(np.float32)
        same = scores[1:] == scores[:-1]
        tied += int((np.append(same, False) | np.append(False, same)).sum()) if len(scores) else 0
        total += len(scores)
    return tied / total if total else 0.0


def _first_stages(
    qrels: Qrels,
    runs: Mapping[str, Run],
    measures: Sequence[str],
    first_stages: Mapping[str, str],
    depths: Mapping[str, int],
    recall_grade: int,
) -> dict[str, FirstStage]:
    _checked_keys(first_stages, runs, "first_stages")
    _checked_keys({name: None for name in first_stages.values()}, runs, "first_stages")
    _checked_keys(depths, first_stages, "depths")
    found = {}
    for name, first in first_stages.items():
        deepest = _deepest(runs[name], runs[first])
        longest = max(map(len, runs[name].values()), default=0)
        depth = depths.get(name) or max(longest, deepest, 1)  # a list may have been cut after its reranking
        found[name] = _first_stage(qrels, runs[first], depth, measures, recall_grade)
    return found


def _first_stage(qrels: Qrels, run: Run, depth: int, measures: Sequence[str], recall_grade: int) -> FirstStage:
    recall = str(Measure("R", depth, recall_grade))
    candidates = run.top(depth)
    grades = {q: [(d, float(qrels[q].get(d, 0))) for d, _ in candidates[q]] for q in candidates if q in qrels}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # said already when the run itself was measured
        return FirstStage(
            name=run.name,
            depth=depth,
            recall_measure=recall,
            recall=means(evaluate_run(qrels, candidates, [recall]))[recall],
            ceiling=means(evaluate_run(qrels, Run(grades, run.name), measures)),
        )


def _deepest(run: Run, first: Run) -> int:
    """The lowest place in the first stage of any document of a reranking, whose documents must all be there."""
    deepest = 0
    for query_id, documents in run.items():
        given = {document.doc_id: rank for rank, document in enumerate(first.get(query_id, ()), start=1)}
        deepest = max([deepest, *(given.get(doc_id, 0) for doc_id, _ in documents)])
        for doc_id, _ in documents:
            if doc_id not in given:
                raise InputError(
                    f"run {run.name!r} is said to rerank {first.name!r}, but its document {doc_id!r} of query "
                    f"{query_id!r} is not there; name the run that was reranked"
                )
    return deepest


def _default_pair(names: Sequence[str], reranked: Mapping[str, FirstStage]) -> tuple[str, str] | None:
    if len(names) < 2:
        return None
    last = names[-1]
    return (reranked[last].name if last in reranked else names[0]), last


def _examples(
    qrels: Qrels,
    runs: Mapping[str, Run],
    values: Mapping[str, Mapping[str, float]],
    measure: Measure,
    pair: tuple[str, str],
    number: int,
) -> Examples:
    baseline, system = pair
    _checked_keys({baseline: None, system: None}, runs, "examples_pair")
    change = {query_id: values[system][query_id] - values[baseline][query_id] for query_id in sorted(qrels)}
    gains = sorted((q for q in change if change[q] > _EQUAL), key=lambda q: -change[q])[:number]
    losses = sorted((q for q in change if change[q] < -_EQUAL), key=lambda q: change[q])[:number]

    def case(query_id: str) -> QueryCase:
        first, second = ([d.doc_id for d in runs[name].get(query_id, ())] for name in pair)
        relevant = _relevant(qrels[query_id], first, second, measure.min_grade)
        tops = [TopDocument(r[0], qrels[query_id].get(r[0])) if r else None for r in (first, second)]
        before, after = values[baseline][query_id], values[system][query_id]
        return QueryCase(query_id, before, after, len(relevant), relevant[:3], *tops)

    return Examples(str(measure), baseline, system, tuple(map(case, gains)), tuple(map(case, losses)))


def _relevant(
    judged: Mapping[str, int], baseline: Sequence[str], system: Sequence[str], min_grade: int
) -> tuple[RelevantDocument, ...]:
    """Relevant documents: those that a system lists come first, by grade, then by the better of their ranks."""
    ranks = [{doc_id: rank for rank, doc_id in enumerate(ranked, start=1)} for ranked in (baseline, system)]
    found = [
        RelevantDocument(doc_id, int(grade), ranks[0].get(doc_id), ranks[1].get(doc_id))
        for doc_id, grade in judged.items()
        if grade >= min_grade
    ]
    return tuple(sorted(found, key=_telling))


def _telling(document: RelevantDocument) -> tuple[bool, int, int, str]:
    ranks = [rank for rank in (document.baseline_rank, document.system_rank) if rank is not None]
    return not ranks, -document.grade, min(ranks, default=0), document.doc_id


def _count_without_relevant(qrels: Qrels) -> int:
    count = sum(all(grade < 1 for grade in judged.values()) for judged in qrels.values())
    if count:
        warnings.warn(f"{count} of {len(qrels)} judged queries have no relevant document; they score 0", stacklevel=3)
    return count


def _checked_keys(mapping: Mapping, known: Mapping, what: str) -> Mapping:
    for name in mapping:
        if name not in known:
            raise InputError(f"{what}: no system is called {name!r}; there are {', '.join(known) or 'none'}")
    return mapping


def _shown(path: str | os.PathLike | None) -> str | None:
    """A path fit for publishing: as given if it stays below the working folder, else the file's name alone."""
    if path is None:
        return None
    given = Path(path)
    return given.name if given.is_absolute() or ".." in given.parts else given.as_posix()


def _sha256(path: str | os.PathLike | None) -> str | None:
    if path is not None and not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    return None if path is None else sha256_file(path)


def _decode(kind: typing.Any, tree: typing.Any) -> typing.Any:
    """Rebuild a value of type `kind` from what json makes of it."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        return kind(**{f.name: _decode(hints[f.name], tree[f.name]) for f in dataclasses.fields(kind)})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return tuple(_decode(arguments[0], value) for value in tree)
    if origin is dict:
        return {key: _decode(arguments[1], value) for key, value in tree.items()}
    if origin in (typing.Union, types.UnionType):
        return None if tree is None else _decode(arguments[0], tree)
    return kind(tree)
