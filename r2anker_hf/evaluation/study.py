"""A study's tables: rankers by first stages, over seeds, with the worst first stage and tests on query means.

A robust ranker is good over every first stage, so a single column hides what is asked. Each row therefore has, beside
its columns, the mean over the first stages, the worst of them, and the distance between worst and best.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..records import InputError
from .evaluation import Comparison, Settings, compare

ALL = "mean"
"""The column that is the mean over the first stages."""

QueryValues = Mapping[str, float]
Seeds = Sequence[QueryValues]
"""Query id -> value, once per seed."""


@dataclass(frozen=True)
class Spread:
    """A mean over seeds and its standard deviation; None where there is one seed."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """
        >>> Spread.of([0.25, 0.75])
        Spread(mean=0.5, deviation=0.3535533905932738)
        """
        return cls(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class Row:
    """One ranker: `columns` by first stage, then what they say together."""

    name: str
    seeds: int
    columns: dict[str, Spread]
    mean: Spread
    worst: Spread
    distance: Spread


@dataclass(frozen=True)
class Table:
    """One measure over one collection's queries.

    `comparisons` hold each row against `reference`, by column: first stage, or `ALL` where there are several. Their
    p-values are corrected together. `detectable` is, for each of these pairs, the smallest difference that the queries
    could show.
    """

    measure: str
    queries: int
    first_stages: tuple[str, ...]
    reference: str
    rows: tuple[Row, ...]
    comparisons: dict[str, dict[str, Comparison]]
    detectable: dict[str, dict[str, float | None]]


def make_table(
    values: Mapping[str, Mapping[str, Seeds]], reference: str, measure: str, settings: Settings | None = None
) -> Table:
    """The table of one measure.

    Args:
        values: row -> first stage -> one mapping of query values per seed; the same first stages in every row.
        reference: the row that the others are tested against.
        measure: its name, for the record.
        settings: of the paired tests; each compares query means over the seeds.

    Raises:
        InputError: an unknown reference, other first stages in one row, or seeds that differ within a row.
    """
    if reference not in values:
        raise InputError(f"reference: no row is called {reference!r}; there are {', '.join(values)}")
    first_stages = tuple(values[reference])
    for name, columns in values.items():
        if tuple(columns) != first_stages:
            raise InputError(
                f"row {name!r} has first stages {', '.join(columns)}, but {reference!r} {', '.join(first_stages)}"
            )
        if len({len(seeds) for seeds in columns.values()}) > 1:
            raise InputError(f"row {name!r} has not the same number of seeds over every first stage")
    means = {name: query_means(of_row) for name, of_row in values.items()}
    comparisons, detectable = _against(means, reference, measure, settings or Settings())
    return Table(
        measure=measure,
        queries=len(means[reference][ALL]),
        first_stages=first_stages,
        reference=reference,
        rows=tuple(_row(name, of_row) for name, of_row in values.items()),
        comparisons=comparisons,
        detectable=detectable,
    )


def query_means(columns: Mapping[str, Seeds]) -> dict[str, dict[str, float]]:
    """Column -> query id -> mean over the seeds; `ALL` is the mean over the first stages.

    >>> query_means({"bm25": [{"q": 0.0}, {"q": 1.0}], "dense": [{"q": 1.0}, {"q": 1.0}]})
    {'bm25': {'q': 0.5}, 'dense': {'q': 1.0}, 'mean': {'q': 0.75}}
    """
    means = {column: _mean_of(seeds) for column, seeds in columns.items()}
    return {**means, ALL: _mean_of(list(means.values()))}


def _mean_of(several: Seeds) -> dict[str, float]:
    if len({frozenset(one) for one in several}) > 1:
        raise InputError("seeds or first stages were measured on other queries")
    return {query_id: statistics.mean(one[query_id] for one in several) for query_id in several[0]}


def _row(name: str, columns: Mapping[str, Seeds]) -> Row:
    by_column = {column: [statistics.mean(one.values()) for one in seeds] for column, seeds in columns.items()}
    by_seed = list(zip(*by_column.values(), strict=True))
    return Row(
        name=name,
        seeds=len(by_seed),
        columns={column: Spread.of(means) for column, means in by_column.items()},
        mean=Spread.of([statistics.mean(means) for means in by_seed]),
        worst=Spread.of([min(means) for means in by_seed]),
        distance=Spread.of([max(means) - min(means) for means in by_seed]),
    )


def _against(
    columns: Mapping[str, Mapping[str, Mapping[str, float]]], reference: str, measure: str, settings: Settings
) -> tuple[dict[str, dict[str, Comparison]], dict[str, dict[str, float | None]]]:
    """Row -> column -> its comparison with the reference, and row -> column -> what could have been seen."""
    flat = {_cell(row, column): queries for row, named in columns.items() for column, queries in named.items()}
    several = len(columns[reference]) > 2  # the mean over one first stage is that first stage again
    others = [(row, one) for row in columns if row != reference for one in columns[row] if several or one != ALL]
    pairs = [(_cell(reference, column), _cell(row, column)) for row, column in others]
    found = compare(flat, measure, pairs, settings)
    comparisons: dict[str, dict[str, Comparison]] = {}
    detectable: dict[str, dict[str, float | None]] = {}
    for (row, column), one in zip(others, found, strict=True):
        comparisons.setdefault(row, {})[column] = one
        here, there = columns[row][column], columns[reference][column]
        differences = [here[q] - there[q] for q in here]
        detectable.setdefault(row, {})[column] = detectable_difference(differences, tests=len(others))
    return comparisons, detectable


def _cell(row: str, column: str) -> str:
    return f"{row} over {column}"


def detectable_difference(
    differences: Sequence[float], queries: int | None = None, power: float = 0.8, tests: int = 1
) -> float | None:
    """The smallest true mean difference that a two-sided paired test at .05 finds with probability `power`.

    (z(1 - .025 / tests) + z(power)) · s / √n, the normal approximation (Cohen 1988, Statistical Power Analysis,
    chapter 2). The level is Bonferroni's, so Holm's correction of as many tests finds it at least as often.

    Args:
        differences: one per query, from which the deviation s is taken; dev queries, say.
        queries: n, if other queries will be tested; by default as many.
        power: between 0 and 1.
        tests: whose p-values are corrected together.

    Returns:
        In units of the measure; None for a single query, which shows nothing.

    >>> round(detectable_difference([0.0, 1.0, 0.0, -1.0], queries=200), 4)
    0.1617
    """
    from scipy.stats import norm

    if len(differences) < 2:
        return None
    return (
        float(norm.ppf(1 - 0.025 / tests) + norm.ppf(power))
        * statistics.stdev(differences)
        / math.sqrt(queries or len(differences))
    )
