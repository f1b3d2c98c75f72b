r"""Fuse: one run out of several, such as BM25's and a dense retriever's, without any training. Writes run.trec.

    python recipes/fuse.py --runs bm25=A.trec dense=B.trec --output_dir D

Let dev queries choose method and weights, and use the choice for other runs of the same systems:

    python recipes/fuse.py --runs bm25=TEST_A.trec dense=TEST_B.trec --collection C --dev_split dev \
        --dev_runs bm25=DEV_A.trec dense=DEV_B.trec --output_dir D
    python recipes/fuse.py --runs bm25=OTHER_A.trec dense=OTHER_B.trec --reuse D --output_dir E

Interpolate a ranker with what it reranked, over the documents that it scored: --runs ranker=R.trec fused=F.trec
--within ranker. fusion.json says what was used and, where dev queries chose, the figure of every choice. Seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from r2anker_hf.collection.collection import read_qrels
from r2anker_hf.collection.options import CollectionOptions, is_test
from r2anker_hf.config import run_recipe
from r2anker_hf.evaluation.fusion import CHOICES, K, Point, choose, fuse
from r2anker_hf.evaluation.measures import Qrels
from r2anker_hf.processes import processes
from r2anker_hf.records import InputError
from r2anker_hf.run import Run, check_run
from r2anker_hf.stage import run_stage

FUSION_FILE = "fusion.json"


@dataclass
class FusionConfig(CollectionOptions):
    runs: dict[str, str] = field(metadata={"help": "Runs to fuse: name=path/run.trec ..."})
    output_dir: str = field(metadata={"help": "New folder for run.trec and fusion.json."})
    method: Literal["reciprocal_rank", "minmax", "standardise", "as_given"] | None = field(
        default=None, metadata={"help": "Default: reciprocal_rank, or what dev queries choose."}
    )
    weights: dict[str, float] = field(
        default_factory=dict, metadata={"help": "name=weight ... of every run; default equal, or what dev chooses."}
    )
    k: int = field(default=K, metadata={"help": "Of reciprocal_rank: 1 / (k + rank)."})
    within: str | None = field(
        default=None, metadata={"help": "Name of a run: fuse only the documents that it lists, such as a ranker's."}
    )
    depth: int = field(default=1000, metadata={"help": "Documents kept per query."})
    reuse: str | None = field(default=None, metadata={"help": "Folder of this recipe: take method and weights there."})
    dev_runs: dict[str, str] = field(
        default_factory=dict,
        metadata={"help": "The same systems on dev queries, which choose: name=path/run.trec ..."},
    )
    collection: str | None = field(
        default=None, kw_only=True, metadata={"help": "Has the judgements of the dev queries."}
    )
    dev_split: str = field(default="dev", metadata={"help": "dev, or train where a collection has no dev split."})
    dev_qrels: str | None = field(default=None, metadata={"help": "File of judgements, instead of a collection's."})
    dev_measure: str = field(default="nDCG@10", metadata={"help": "Measure that chooses."})
    step: float = field(default=0.1, metadata={"help": "Distance between two weights that are tried."})


def main(config: FusionConfig) -> None:
    _check(config)
    inputs: dict[str, str | Path] = {f"run {name}": Path(path) for name, path in config.runs.items()}
    inputs |= {f"dev run {name}": Path(path) for name, path in config.dev_runs.items()}
    if config.reuse:
        inputs["reuse"] = Path(config.reuse)
    qrels: Qrels = {}
    if config.dev_qrels:
        inputs["dev qrels"], qrels = Path(config.dev_qrels), read_qrels(config.dev_qrels)
    elif config.dev_runs:
        collection = config.load(config.dev_split)
        inputs["collection"], qrels = f"{collection.name}@{collection.revision}", collection.qrels
        for path in config.dev_runs.values():
            check_run(Run.read_trec(path), collection.queries, path, config.dev_split)
    run_stage(config, config.output_dir, inputs, partial(write, config, qrels))


def write(config: FusionConfig, qrels: Qrels, folder: Path) -> None:
    """Choose, if asked to, and fuse; on several processes the main one works."""
    if not processes().is_main_process:
        return
    if config.reuse:
        record = reused(config)
    elif config.dev_runs:
        record = chosen(config, qrels)
    else:
        weights = config.weights or dict.fromkeys(config.runs, 1 / len(config.runs))
        record = {**_record(config), "method": config.method or "reciprocal_rank", "weights": weights}
    print(f"{config.output_dir}: {record['method']}, " + ", ".join(f"{n} {w:g}" for n, w in record["weights"].items()))
    weights = [record["weights"][name] for name in config.runs]
    options = {"k": record["k"], "depth": config.depth, "name": Path(config.output_dir).name}
    runs = _read(config.runs)
    within = runs[record["within"]] if record["within"] else None
    fuse(list(runs.values()), record["method"], weights, within=within, **options).write_trec(folder / "run.trec")
    (folder / FUSION_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def chosen(config: FusionConfig, qrels: Qrels) -> dict[str, Any]:
    """What the dev queries choose, with the value of every choice."""
    runs = {name: _read(config.dev_runs)[name] for name in config.runs}
    within = runs[config.within] if config.within else None
    methods = [config.method] if config.method else list(CHOICES)
    options = {"step": config.step, "k": config.k, "within": within}
    best, points = choose(qrels, list(runs.values()), config.dev_measure, methods, **options)
    for name, value in _told(points, list(runs)).items():
        print(f"{config.dev_measure} on {len(qrels)} dev queries: {name:20} {value:.4f}")
    dev = {"measure": config.dev_measure, "queries": len(qrels), "value": best.value}
    dev["grid"] = [{**_point(point, list(runs)), "value": point.value} for point in points]
    return {**_record(config), **_point(best, list(runs)), "dev": dev}


def reused(config: FusionConfig) -> dict[str, Any]:
    """Method, weights, k and `within` of another folder of this recipe."""
    path = Path(str(config.reuse)) / FUSION_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        found = {key: record[key] for key in ("method", "weights", "k", "within")}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; --reuse takes a folder that fuse.py wrote") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: was not written by fuse.py ({type(error).__name__}: {error})") from None
    _same_names(config.runs, found["weights"], "--runs", str(path))
    return found


def _check(config: FusionConfig) -> None:
    given = [name for name in ("reuse", "dev_runs", "weights") if getattr(config, name)]
    if len(given) > 1:
        raise InputError(f"--{given[0]} and --{given[1]} both say the weights; give one of them")
    if config.reuse and (config.method or config.within):
        raise InputError("--reuse takes method and within from its folder; leave out --method and --within")
    if config.weights:
        _same_names(config.runs, config.weights, "--runs", "--weights")
    if config.dev_runs:
        _same_names(config.runs, config.dev_runs, "--runs", "--dev_runs")
        if not (config.collection or config.dev_qrels):
            raise InputError("--dev_runs choose by judgements: give --collection or --dev_qrels")
        if is_test(config.dev_split) and not config.dev_qrels:
            raise InputError(
                f"--dev_split is {config.dev_split!r}, but test queries may not choose; take dev or train"
            )
    if config.within and config.within not in config.runs:
        raise InputError(f"--within: no run is called {config.within!r}; there are {', '.join(config.runs)}")


def _same_names(runs: Mapping[str, Any], others: Mapping[str, Any], what: str, whose: str) -> None:
    if runs.keys() != others.keys():
        raise InputError(
            f"{what} names {', '.join(runs)}, but {whose} names {', '.join(others)}; they must be the same"
        )


def _record(config: FusionConfig) -> dict[str, Any]:
    return {"k": config.k, "within": config.within}


def _read(paths: Mapping[str, str]) -> dict[str, Run]:
    runs = {name: Run.read_trec(path, name) for name, path in paths.items()}
    for name, run in runs.items():
        if not run:
            raise InputError(f"{paths[name]}: holds no ranked list")
    return runs


def _point(point: Point, names: list[str]) -> dict[str, Any]:
    return {"method": point.method, "weights": dict(zip(names, point.weights, strict=True))}


def _told(points: list[Point], names: list[str]) -> dict[str, float]:
    """The values of each run without the others, and of each method at equal weights and at its best."""
    first = points[0].method
    found = {f"{n} only": p.value for n, p in zip(names, _singles(points, first, len(names)), strict=True)}
    for method in dict.fromkeys(point.method for point in points):
        values = [point for point in points if point.method == method]
        found[f"{method}, equal"] = next(p.value for p in values if len(set(p.weights)) == 1)
        found[f"{method}, best"] = max(point.value for point in values)
    return found


def _singles(points: list[Point], method: str, runs: int) -> list[Point]:
    wanted = [tuple(float(place == only) for place in range(runs)) for only in range(runs)]
    return [next(p for p in points if p.method == method and p.weights == one) for one in wanted]


if __name__ == "__main__":
    run_recipe(main)
