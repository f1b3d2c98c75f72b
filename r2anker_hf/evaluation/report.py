"""EvaluationReport -> report.json, report.md, report.html (one self-contained page) and per_query.tsv."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..records import InputError
from ..templates import breakable, environment, p_value, shorten, signed
from .evaluation import Comparison, Estimate, EvaluationReport, QueryCase, System, TopDocument

Lookup = Callable[[str], str] | Mapping[str, str]

_BARS = 400  # bars of the per-query chart; more would be thinner than a pixel


class Texts(NamedTuple):
    """Where the texts of a report come from: by query id and by document id, each a function or a mapping."""

    query: Lookup
    document: Lookup


def write_report(
    report: EvaluationReport, folder: str | os.PathLike, texts: Any = None, baseline: str | None = None
) -> Path:
    """Write report.json, report.md, report.html and per_query.tsv into `folder`, which is made if need be.

    Args:
        report: what to write; report.json holds all of it, the others only say it again.
        folder: a folder; files of these four names in it are replaced.
        texts: `Texts`, or any object with `query` and `document`; where it has no text, the id is shown alone.
        baseline: the system that the others are marked against; by default the first.

    Returns:
        Path of report.html, which loads nothing from elsewhere.

    Raises:
        InputError: `folder` is a file, or no system is called `baseline`.
    """
    view = _view(report, texts, baseline or report.systems[0].name)
    written = {
        "report.json": report.to_json(),
        "report.md": _templates().get_template("report.md.jinja").render(view),
        "per_query.tsv": "".join(per_query_lines(report)),
        "report.html": _templates().get_template("report.html.jinja").render(view),
    }
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{folder}: is a file, but the report needs a folder") from None
    for name, text in written.items():
        _replace(folder / name, text)
    return folder / "report.html"


def read_report(path: str | os.PathLike) -> EvaluationReport:
    """Read a report.json, given itself or by its folder.

    Raises:
        InputError: it is not there, or is no report of this version.
    """
    path = Path(path) / "report.json" if Path(path).is_dir() else Path(path)
    try:
        return EvaluationReport.from_json(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no report ({error})") from None


def text_table(report: EvaluationReport) -> str:
    """Means with intervals for a terminal.

    One row a system; below, one line a measure for each reranking against its first stage (any other system: against
    the first one) with difference and Holm-corrected p.
    """
    width = max(len(system.name) for system in report.systems)
    columns = [f"{measure:>9} {'[interval]':<15}" for measure in report.measures]
    lines = [f"{report.collection.name}, {report.collection.split}: {len(report.query_ids)} queries", ""]
    lines.append("  ".join([f"{'':{width}}", *columns]).rstrip())
    for system in report.systems:
        cells = [system.scores[measure] for measure in report.measures]
        texts = [f"{cell.mean:9.4f} [{cell.low:.3f}, {cell.high:.3f}] " for cell in cells]
        lines.append("  ".join([f"{system.name:{width}}", *texts]).rstrip())
    baseline = report.systems[0].name
    pairs = [(s.first_stage.name if s.first_stage else baseline, s.name) for s in report.systems[1:]]
    found = [report.comparison(measure, *pair) for pair in pairs for measure in report.measures]
    lines += ["", *(_comparison_line(comparison) for comparison in found if comparison)]
    return "\n".join(lines)


def _comparison_line(comparison: Comparison) -> str:
    return (
        f"{comparison.system} against {comparison.baseline}, {comparison.measure}: {signed(comparison.difference)}, "
        f"p {p_value(comparison.p_corrected)} ({comparison.wins} wins, {comparison.losses} losses)"
    )


def per_query_lines(report: EvaluationReport) -> Iterator[str]:
    """Lines of per_query.tsv: a header, then query_id, measure and one column of values a system."""
    names = [system.name for system in report.systems]
    yield "\t".join(["query_id", "measure", *names]) + "\n"
    for measure in report.measures:
        columns = [report.per_query[measure][name] for name in names]
        for query_id, *values in zip(report.query_ids, *columns, strict=True):
            yield "\t".join([query_id, measure, *(repr(value) for value in values)]) + "\n"


def _templates() -> Any:
    return environment(
        value=lambda x: f"{x:.4f}",
        short=lambda x: f"{x:.3f}",
        percent=lambda x: f"{x:.1%}",
        at=lambda x: f"{x:.2f}%",
        breaks=breakable,
        grade=lambda top: "not judged" if top.grade is None else f"grade {top.grade}",
    )


def _view(report: EvaluationReport, texts: Any, baseline: str) -> dict[str, Any]:
    """All that the templates print, so that they hold no arithmetic."""
    report.system(baseline)
    alpha = 1 - report.settings.confidence
    return {
        "report": report,
        "title": _title(report),
        "baseline": baseline,
        "alpha": f"{alpha:.2g}",
        "confidence": f"{report.settings.confidence * 100:.3g} %",
        "rows": [_row(report, system, baseline, alpha) for system in report.systems],
        "findings": _findings(report, alpha),
        "plots": [_plot(report, measure, baseline) for measure in report.measures],
        "comparisons": {m: [c for c in report.comparisons if c.measure == m] for m in report.measures},
        "significant": lambda comparison: comparison.p_corrected < alpha,
        "reranked": [system for system in report.systems if system.first_stage],
        "examples": _examples(report, texts),
    }


def _title(report: EvaluationReport) -> str:
    revision = report.collection.revision
    if revision:  # the whole of it stands in report.json and under "How this was measured"
        scheme, colon, digest = revision.rpartition(":")
        revision = f"{scheme}{colon}{digest[:12]}"
    return f"{report.collection.name}{f'@{revision}' if revision else ''} · {report.collection.split}"


def _row(report: EvaluationReport, system: System, baseline: str, alpha: float) -> dict[str, Any]:
    cells = []
    for measure in report.measures:
        best = max(other.scores[measure].mean for other in report.systems)
        estimate = system.scores[measure]
        comparison = report.comparison(measure, baseline, system.name) if system.name != baseline else None
        cells.append(
            {"estimate": estimate, "best": estimate.mean >= best, "mark": _mark(comparison, alpha), "measure": measure}
        )
    return {"system": system, "cells": cells, "is_baseline": system.name == baseline}


def _mark(comparison: Comparison | None, alpha: float) -> str:
    if comparison is None or comparison.p_corrected >= alpha:
        return ""
    return "▲" if comparison.difference > 0 else "▼"


def _findings(report: EvaluationReport, alpha: float) -> list[dict[str, Any]]:
    if report.examples is None:
        return []
    pair = report.examples.baseline, report.examples.system
    found = [report.comparison(measure, *pair) for measure in report.measures]
    return [
        {
            "comparison": comparison,
            "before": report.system(pair[0]).scores[comparison.measure].mean,
            "after": report.system(pair[1]).scores[comparison.measure].mean,
            "verdict": _verdict(comparison, alpha),
        }
        for comparison in found
        if comparison is not None
    ]


def _verdict(comparison: Comparison, alpha: float) -> str:
    if comparison.p_corrected >= alpha:
        return "no significant difference"
    return "significantly better" if comparison.difference > 0 else "significantly worse"


def _plot(report: EvaluationReport, measure: str, baseline: str) -> dict[str, Any]:
    """Positions in percent of the width: the page draws dots and whiskers that stretch while their text does not."""
    estimates = {system.name: system.scores[measure] for system in report.systems}
    ticks = axis_ticks(min(e.low for e in estimates.values()), max(e.high for e in estimates.values()))
    place = _scale(ticks[0], ticks[-1])
    digits = max(1, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    return {
        "measure": measure,
        "ticks": [{"at": place(tick), "label": f"{tick:.{digits}f}"} for tick in ticks],
        "baseline_at": place(estimates[baseline].mean),
        "rows": [_whisker(name, estimate, place, name == baseline) for name, estimate in estimates.items()],
    }


def _whisker(name: str, estimate: Estimate, place: Callable[[float], float], is_baseline: bool) -> dict[str, Any]:
    return {
        "name": name,
        "estimate": estimate,
        "is_baseline": is_baseline,
        "low": place(estimate.low),
        "mean": place(estimate.mean),
        "high": place(estimate.high),
    }


def _scale(low: float, high: float) -> Callable[[float], float]:
    """Value -> percent of the width, with room at both ends for half a dot and half a label."""
    return lambda value: 3 + 94 * (value - low) / (high - low)


def axis_ticks(low: float, high: float) -> list[float]:
    """Round ticks that enclose both ends, at most seven of them.

    >>> axis_ticks(0.42, 0.61)
    [0.4, 0.45, 0.5, 0.55, 0.6, 0.65]
    """
    for step in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2):
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last == first:
            first, last = (first - 1, last) if high >= 1 else (first, first + 1)
        if last - first <= 6:
            return [round(step * index, 10) for index in range(first, last + 1)]
    raise ValueError(f"measures lie in [0, 1], but an axis from {low} to {high} is asked for")


def _examples(report: EvaluationReport, texts: Any) -> dict[str, Any] | None:
    examples = report.examples
    if examples is None:
        return None
    columns = report.per_query[examples.measure]
    names = examples.baseline, examples.system
    pair = zip(columns[examples.baseline], columns[examples.system], strict=True)
    changes = [round(after - before, 9) for before, after in pair]
    return {
        "measure": examples.measure,
        "baseline": examples.baseline,
        "system": examples.system,
        "gains": [_case(case, names, texts) for case in examples.gains],
        "losses": [_case(case, names, texts) for case in examples.losses],
        "chart": _change_chart(changes),
    }


def _change_chart(changes: Sequence[float]) -> dict[str, Any]:
    """Differences by query, largest first, as bars in a box of width `count` and height 200."""
    step = max(1, math.ceil(len(changes) / _BARS))
    bars = sorted(changes, reverse=True)[step // 2 :: step]
    top, bottom = max(0.0, *changes), min(0.0, *changes)
    unit = 200 / ((top - bottom) or 1.0)
    return {
        "count": len(bars),
        "step": step,
        "top": top,
        "bottom": bottom,
        "zero": f"{top * unit:.2f}",
        "gains": _bars(((index, change * unit) for index, change in enumerate(bars) if change > 0), top * unit),
        "losses": _bars(((index, change * unit) for index, change in enumerate(bars) if change < 0), top * unit),
        "wins": sum(change > 0 for change in changes),
        "ties": sum(change == 0 for change in changes),
        "lost": sum(change < 0 for change in changes),
    }


def _bars(bars: Iterator[tuple[int, float]], zero: float) -> str:
    return "".join(f"M{index + 0.1:.1f} {zero:.2f}h.8v{-height:.2f}h-.8z" for index, height in bars)


def _case(case: QueryCase, names: Sequence[str], texts: Any) -> dict[str, Any]:
    return {
        "query_id": case.query_id,
        "text": _text(texts, "query", case.query_id),
        "before": case.baseline,
        "after": case.system,
        "relevant": [{"document": d, "text": _text(texts, "document", d.doc_id)} for d in case.relevant],
        "hidden": case.relevant_documents - len(case.relevant),
        "tops": _tops(case, names, texts),
    }


def _tops(case: QueryCase, names: Sequence[str], texts: Any) -> list[dict[str, Any]]:
    """The first document under each system, once where it is the same; left out where it stands among the relevant."""
    shown = {document.doc_id for document in case.relevant}
    found: dict[TopDocument | None, list[str]] = {}
    for top, name in zip((case.baseline_top, case.system_top), names, strict=True):
        if top is None or top.doc_id not in shown:
            found.setdefault(top, []).append(name)
    return [
        {"systems": systems, "document": top, "text": None if top is None else _text(texts, "document", top.doc_id)}
        for top, systems in found.items()
    ]


def _text(texts: Any, kind: str, record_id: str) -> str | None:
    """The text on one line, cut at a word; None where there is none."""
    if texts is None:
        return None
    lookup = getattr(texts, kind)
    try:
        text = lookup(record_id) if callable(lookup) else lookup[record_id]
    except (KeyError, InputError):
        return None
    return shorten(text) or None


def _replace(path: Path, text: str) -> None:
    """Write beside and rename, so that a killed process leaves no half report."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(text, encoding="utf-8", newline="\n")
    beside.replace(path)
