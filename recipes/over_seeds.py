"""Over seeds: what several reports of the same systems, one report a seed, say together.

    python recipes/over_seeds.py D/42/report.json D/43/report.json D/44/report.json

Prints each system's mean and its standard deviation over the seeds, and tests the systems against each other on each
query's mean over the seeds, with the tests of a report.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from r2anker_hf.evaluation import compare
from r2anker_hf.records import InputError


def main(paths: list[str]) -> None:
    reports = [json.loads(Path(path).read_text(encoding="utf-8")) for path in paths]
    for path, report in zip(paths, reports, strict=True):
        if any(report[name] != reports[0][name] for name in ("measures", "query_ids")):
            raise InputError(f"{path}: has other measures or queries than {paths[0]}")
    for measure in reports[0]["measures"]:
        tell(measure, reports)


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
    if not sys.argv[1:] or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    try:
        main(sys.argv[1:])
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")
