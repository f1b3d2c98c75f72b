"""Over seeds: what several reports of the same systems, one report per seed, say together.

    python recipes/over_seeds.py --reports D/42/report.json D/43/report.json D/44/report.json

Prints each system's mean and its standard deviation over the seeds, and tests the systems against each other on each
query's mean over the seeds, with the tests of a report.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from r2anker_hf.config import run_recipe
from r2anker_hf.evaluation.evaluation import compare
from r2anker_hf.files import read_json
from r2anker_hf.records import InputError


@dataclass
class SeedsConfig:
    reports: list[str] = field(metadata={"help": "report.json of score.py, one per seed, of equally named systems."})


def main(config: SeedsConfig) -> None:
    reports = [read(path) for path in config.reports]
    if len({Path(path).resolve() for path in config.reports}) < len(config.reports):
        raise InputError("reports: one is given twice; give one for each seed")
    for path, report in zip(config.reports, reports, strict=True):
        if _judged(report) != _judged(reports[0]):
            raise InputError(
                f"{path}: was measured on another collection, split or judgements than {config.reports[0]}"
            )
        if _compared(report) != _compared(reports[0]):
            raise InputError(f"{path}: has other measures, queries or systems than {config.reports[0]}")
    for measure in reports[0]["measures"]:
        tell(measure, reports)


def read(path: str) -> dict[str, Any]:
    """A report, or one line that says what is wrong with the file."""
    try:
        report = read_json(path, "measures", "query_ids", "per_query")
        columns = [column for name in report["measures"] for column in report["per_query"][name].values()]
        if not columns or any(len(column) != len(report["query_ids"]) for column in columns):
            raise ValueError("not one value per query, measure and system")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: is no report of score.py: {str(error).removeprefix(f'{path}: ')}") from None
    return report


def _judged(report: dict[str, Any]) -> tuple[Any, ...]:
    """What was measured on: the collection by its content, since its folder may have moved."""
    facts = dict(report.get("collection") or {})
    if facts.get("revision"):
        facts.pop("name", None)
    return facts, report.get("qrels_sha256")


def _compared(report: dict[str, Any]) -> tuple[Any, ...]:
    return report["measures"], report["query_ids"], [set(columns) for columns in report["per_query"].values()]


def tell(measure: str, reports: list[dict[str, Any]]) -> None:
    """Print means, deviations and paired tests of one measure."""
    values = {}
    for system in reports[0]["per_query"][measure]:
        columns = [report["per_query"][measure][system] for report in reports]
        means = [statistics.mean(column) for column in columns]
        deviation = statistics.stdev(means) if len(means) > 1 else 0.0
        print(f"{measure:8} {system:14} {statistics.mean(means):.4f} ± {deviation:.4f} over {len(means)} seed(s)")
        over_seeds = map(statistics.mean, zip(*columns, strict=True))
        values[system] = dict(zip(reports[0]["query_ids"], over_seeds, strict=True))
    for one in compare(values, measure):
        interval = f"{one.difference:+.4f} [{one.low:+.3f}, {one.high:+.3f}]"
        told = f"p {one.p_value:.3f}, corrected {one.p_corrected:.3f}; {one.wins} wins, {one.losses} losses"
        print(f"{measure:8} {one.system} against {one.baseline}: {interval}, {told}")


if __name__ == "__main__":
    run_recipe(main)
