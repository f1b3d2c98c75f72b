"""A study as files: study.json for programs, study.md for readers, study.html to sort, look and compare in.

The page loads nothing from elsewhere: tables, values and texts lie in it. It opens from a folder as from a server.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..run import Run
from ..templates import breakable, environment, shorten
from .measures import Qrels
from .report import axis_ticks
from .study import ALL, Row, Spread, Table

ALPHA = 0.05
TOP = 3  # documents shown per query and system
ONLY = "first stage only"
"""The row of the first stages without a ranker, which every table shows; it may be the reference of the tests."""


class Measured(NamedTuple):
    """One split of a study's collections.

    Attributes:
        name: in the study.
        title: what the page says of it.
        tables: one per measure.
        free: measure -> first stage -> its own mean, without a ranker.
        runs: row -> first stage -> one run per seed.
        values: measure -> row -> first stage -> query id -> mean over the seeds.
        qrels: the judgements.
        texts: has `query` and `document`, each a function of an id, as `report.Texts`.
        unseen: of training queries, the name of the split that no ranker learned from.
    """

    name: str
    title: str
    tables: Sequence[Table]
    free: Mapping[str, Mapping[str, float]]
    runs: Mapping[str, Mapping[str, Sequence[Run]]]
    values: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]
    qrels: Qrels
    texts: Any
    unseen: str | None = None


def write_study(
    folder: Path, collections: Sequence[Measured], published: Mapping[str, Mapping[str, float]] | None = None
) -> None:
    """Write study.json, study.md and study.html.

    Args:
        folder: where to.
        collections: what was measured.
        published: row -> first stage -> a figure published elsewhere, on other data; it gets a column of its own.
    """
    view = {
        "collections": [_view(one) for one in collections],
        "published": published or {},
        "gaps": gaps(collections),
        "alpha": ALPHA,
        "ALL": ALL,
    }
    whole: dict[str, Any] = {
        "tables": {one.name: [dataclasses.asdict(table) for table in one.tables] for one in collections}
    }
    whole |= {"free": {one.name: one.free for one in collections}, "published": published or {}, "gaps": view["gaps"]}
    data = {one.name: _data(one) for one in collections}
    templates = _templates()
    written = {
        "study.json": json.dumps(whole, ensure_ascii=False, indent=1, allow_nan=False, default=str) + "\n",
        "study.md": templates.get_template("study.md.jinja").render(view),
        "study.html": templates.get_template("study.html.jinja").render(view, data=data),
    }
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


def gaps(collections: Sequence[Measured]) -> list[dict[str, Any]]:
    """What each ranker loses from the queries that it learned from to others (R2ANKER, Table 6)."""
    by_name = {one.name: {table.measure: table for table in one.tables} for one in collections}
    found = []
    for one in collections:
        for table in one.tables if one.unseen else ():
            others = {row.name: row for row in by_name[str(one.unseen)][table.measure].rows}
            rows = [(row.name, _spreads(row), _spreads(others[row.name])) for row in table.rows if row.name in others]
            columns = [*table.first_stages, ALL]
            values = {
                name: {column: (seen[column].mean, unseen[column].mean) for column in columns}
                for name, seen, unseen in rows
            }
            found.append({"collection": one.unseen, "measure": table.measure, "rows": values})
    return found


def _templates() -> Any:
    return environment(value=_value, deviation=_deviation, breaks=breakable, at=lambda x: f"{x:.2f}%")


def _value(number: float | None) -> str:
    return "–" if number is None else f"{number:.4f}"


def _deviation(spread: Spread) -> str:
    """
    >>> _deviation(Spread(0.5, 0.0123)), _deviation(Spread(0.5, None))
    ('± 0.0123', '')
    """
    return "" if spread.deviation is None else f"± {spread.deviation:.4f}"


def _view(one: Measured) -> dict[str, Any]:
    return {
        "name": one.name,
        "title": one.title,
        "tables": [_table_view(table, one.free[table.measure]) for table in one.tables],
        "systems": list(one.runs),
    }


def _table_view(table: Table, free: Mapping[str, float]) -> dict[str, Any]:
    columns = [*table.first_stages, *([ALL, "worst", "distance"] if len(table.first_stages) > 1 else [])]
    table = dataclasses.replace(table, rows=tuple(row for row in table.rows if row.name != ONLY))
    of = {row.name: _spreads(row) for row in table.rows}
    best = {column: max(spreads[column].mean for spreads in of.values()) for column in columns}
    best["distance"] = min(spreads["distance"].mean for spreads in of.values())
    return {
        "table": table,
        "columns": columns,
        "spreads": of,
        "best": best,
        "free": {**free, **_together(list(free.values()))},
        "against": {row.name: table.comparisons.get(row.name, {}) for row in table.rows},
        "detectable": table.detectable,
        "plot": _plot(table, free),
    }


def _spreads(row: Row) -> dict[str, Spread]:
    return {**row.columns, ALL: row.mean, "worst": row.worst, "distance": row.distance}


def _together(means: Sequence[float]) -> dict[str, float]:
    return {ALL: statistics.mean(means), "worst": min(means), "distance": max(means) - min(means)}


def _plot(table: Table, free: Mapping[str, float]) -> dict[str, Any]:
    """Each row's first stages as dots on one axis, in percent of its width."""
    every = [*free.values(), *(spread.mean for row in table.rows for spread in row.columns.values())]
    ticks = axis_ticks(min(every), max(every))
    low, high = ticks[0], ticks[-1]

    def place(value: float) -> float:
        return 100 * (value - low) / (high - low)

    rows = {ONLY: free, **{row.name: {k: v.mean for k, v in row.columns.items()} for row in table.rows}}
    return {
        "ticks": [{"label": f"{tick:g}", "at": place(tick)} for tick in ticks],
        "rows": [
            {"name": name, "dots": [{"name": k, "value": v, "at": place(v)} for k, v in means.items()]}
            for name, means in rows.items()
        ],
    }


def _data(one: Measured) -> dict[str, Any]:
    """What the page needs to compare two systems query by query: values, first documents, and texts."""
    query_ids = sorted(one.qrels)
    tops = {
        row: {column: [_top(seeds[0], query_id) for query_id in query_ids] for column, seeds in columns.items()}
        for row, columns in one.runs.items()
    }
    shown = {doc_id for columns in tops.values() for lists in columns.values() for top in lists for doc_id in top}
    return {
        "queries": [[query_id, _text(one.texts.query, query_id)] for query_id in query_ids],
        "values": {
            measure: {
                row: {column: [round(of[query_id], 6) for query_id in query_ids] for column, of in columns.items()}
                for row, columns in rows.items()
            }
            for measure, rows in one.values.items()
        },
        "tops": tops,
        "documents": {doc_id: _text(one.texts.document, doc_id) for doc_id in sorted(shown)},
        "relevant": [[d for d, grade in one.qrels[query_id].items() if grade > 0] for query_id in query_ids],
    }


def _top(run: Run, query_id: str) -> list[str]:
    return [document.doc_id for document in run.get(query_id, ())[:TOP]]


def _text(lookup: Any, record_id: str) -> str:
    return shorten(lookup(record_id) if callable(lookup) else lookup[record_id], 240)
