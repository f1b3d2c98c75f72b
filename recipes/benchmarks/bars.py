"""Rows of RESULTS out of what gpu.sh left: a table with each bar, its figure, and whether it was met.

    python recipes/benchmarks/bars.py --results out/gpu

Each part of gpu.sh left its output in PART.log, which begins with its command and ends with exit code, seconds, device
and commit, and its figures in PART.json, or PART.xml where it is tests. A row without a figure says why.
"""

from __future__ import annotations

import json
import platform
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from r2anker_hf.config import run_recipe
from r2anker_hf.records import InputError

PACKAGES = ("torch", "transformers", "sentence-transformers")


class Bar(NamedTuple):
    """What a part must show, and how its figures show it."""

    part: str
    what: str
    met: Callable[[Any], bool]
    shown: Callable[[Any], str]


def only(figures: dict[str, dict[str, float]]) -> dict[str, float]:
    """Those of the one precision that gpu.sh measures."""
    return next(iter(figures.values()))


def shown_ratio(figures: dict[str, dict[str, float]]) -> str:
    """Our rate over the other side's, and both."""
    found = only(figures)
    return f"{found['ratio']:.2f} ({found['ours']:,.0f} and {found['theirs']:,.0f} pairs per second)"


def shown_memory(figures: dict[str, Any]) -> str:
    """Peak memory of large groups over that of small ones, and both."""
    gib = " and ".join(f"{value:.2f}" for value in figures["peak_memory_gib"].values())
    return f"{figures['ratio']:.2f} ({gib} GiB)"


BARS = (
    Bar(
        "kernels",
        "CUDA kernels give the logits and gradients of the padded model",
        lambda tests: tests["failed"] == 0,
        lambda tests: ", ".join(f"{count} {ending}" for ending, count in tests.items()),
    ),
    Bar(
        "training",
        "training, bfloat16: at least 2 times sentence-transformers",
        lambda figures: only(figures)["ratio"] >= 2,
        shown_ratio,
    ),
    Bar(
        "training",
        "training: at least 45 % of the device's peak, real tokens only",
        lambda figures: only(figures)["utilisation"] >= 0.45,
        lambda figures: f"{100 * only(figures)['utilisation']:.1f} %",
    ),
    Bar(
        "reranking",
        "reranking, bfloat16: at least 2 times sentence-transformers",
        lambda figures: only(figures)["ratio"] >= 2,
        shown_ratio,
    ),
    Bar(
        "memory",
        "memory of a training step: groups of 401 hold at most 1.1 times what groups of 41 hold",
        lambda figures: figures["ratio"] <= 1.1,
        shown_memory,
    ),
)


@dataclass
class BarsConfig:
    results: str = field(metadata={"help": "Folder that gpu.sh wrote."})


def main(config: BarsConfig) -> None:
    folder = Path(config.results)
    table = ["| bar | figure | |", "|---|---|---|", *(row(folder, bar) for bar in BARS)]
    logs = [folder / f"{part}.log" for part in dict.fromkeys(bar.part for bar in BARS)]
    commands = [f"* {command(log)}" for log in logs if log.exists()]
    title = "### Bars on a GPU: `bash recipes/benchmarks/gpu.sh`"
    text = "\n".join([title, "", f"{versions()}.", "", *table, "", *commands, ""])
    (folder / "rows.md").write_text(text, encoding="utf-8")
    print(text, end="")


def row(folder: Path, bar: Bar) -> str:
    """The bar's line; where its figure is missing, why."""
    try:
        found = figures(folder, bar.part)
        return f"| {bar.what} | {bar.shown(found)} | {'met' if bar.met(found) else '**missed**'} |"
    except FileNotFoundError:
        why = f"no {bar.part}.json"
    except KeyError as missing:
        why = f"no {missing.args[0]}"
    except InputError as error:
        why = str(error)
    log = folder / f"{bar.part}.log"
    return f"| {bar.what} | not measured: {why}{', ' + ending(log) if log.exists() else ''} | |"


def figures(folder: Path, part: str) -> dict[str, Any]:
    """What a part measured: its JSON, or how many of its tests passed, failed and were skipped.

    Raises:
        FileNotFoundError: it left nothing.
        InputError: all of its tests were skipped.
    """
    tests = folder / f"{part}.xml"
    if not tests.exists():
        return json.loads((folder / f"{part}.json").read_text())
    suite = next(ElementTree.parse(tests).iter("testsuite"))
    total, skipped, *bad = (int(suite.attrib[name]) for name in ("tests", "skipped", "failures", "errors"))
    if total == skipped:
        raise InputError("all tests were skipped")
    return {"passed": total - skipped - sum(bad), "failed": sum(bad), "skipped": skipped}


def command(log: Path) -> str:
    """A part's command and how it ended."""
    return f"`{log.read_text().splitlines()[0].removeprefix('$ ')}`: {ending(log)}"


def ending(log: Path) -> str:
    """The last line: exit code, seconds, device and commit."""
    return log.read_text().splitlines()[-1]


def versions() -> str:
    """Python and the packages that the figures depend on."""
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join(found)


if __name__ == "__main__":
    run_recipe(main)
