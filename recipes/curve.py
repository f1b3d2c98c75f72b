"""Curve: what a ranker's training buys, as dev quality over the pairs that it had seen. Writes a table and a plot.

    python recipes/train_ranker.py ... --keep_at 10000 40000 160000 --output_dir R
    python recipes/curve.py --ranker R --collection C --first_stage DEV.trec --teacher_run FUSED.trec --output_dir D

It reranks the dev queries with each ranker that R kept, and with R. --rankers PAIRS=FOLDER names others. With
--teacher_run the table also says how far each ranker agrees with that run over the reranked documents. --runs adds
horizontal lines, such as the teacher of another kind. It costs a reranking per ranker: with MiniLM some 100 pairs a
second on two CPU cores. A killed curve goes on with the same command.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from r2anker_hf.collection.collection import Collection
from r2anker_hf.collection.options import CollectionOptions, is_test
from r2anker_hf.collection.subset import only
from r2anker_hf.config import run_recipe
from r2anker_hf.draws import evenly_spaced
from r2anker_hf.evaluation.measures import evaluate_run, means, parse_measure
from r2anker_hf.files import write_whole
from r2anker_hf.records import InputError
from r2anker_hf.run import Run, check_run
from r2anker_hf.stage import run_stage

if TYPE_CHECKING:
    from r2anker_hf.rankers.milestones import Seen

FIRST_STAGE, TEACHER = "first stage", "teacher"
COLOURS = ("#0072B2", "#777777", "#D55E00", "#009E73", "#CC79A7", "#E69F00")  # of the curve, then of the lines


@dataclass
class CurveConfig(CollectionOptions):
    first_stage: str = field(metadata={"help": "What is reranked, over this split: path/run.trec."})
    output_dir: str = field(metadata={"help": "New folder for the table, the plot and the rerankings."})
    ranker: str | None = field(
        default=None, metadata={"help": "Folder that train_ranker.py wrote: what it kept (--keep_at), and itself."}
    )
    rankers: dict[str, str] = field(
        default_factory=dict, metadata={"help": "Other rankers by the pairs that they have seen: PAIRS=FOLDER ..."}
    )
    teacher_run: str | None = field(
        default=None,
        metadata={
            "help": "Run over the same queries that the rankers learnt from: path/run.trec.",
            "formerly": "teacher",
        },
    )
    teacher_temperature: float = field(
        default=0.5, metadata={"help": "Of the teacher's scores: the training's --teacher_temperature."}
    )
    runs: dict[str, str] = field(
        default_factory=dict, metadata={"help": "Further runs to compare with: name=path/run.trec ..."}
    )
    split: str = field(default="dev", metadata={"help": "dev, or train where a collection has no dev split."})
    measure: str = field(default="nDCG@10", metadata={"help": "Form: MRR@k, nDCG@k or R@k."})
    depth: int = field(default=100, metadata={"help": "Documents reranked per query."})
    max_queries: int | None = field(
        default=None, metadata={"help": "So many of the queries, evenly spaced, where time is short; default all."}
    )
    batch_size: int | None = field(
        default=None, metadata={"help": "Pairs of full length scored at once (more short ones); default by device."}
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto", metadata={"help": "float32, or half precision; auto: float32 on a CPU. As in rerank.py."}
    )

    def __post_init__(self):
        from r2anker_hf.models.precision import scoring_dtype

        self.measure, self.dtype = str(parse_measure(self.measure)), scoring_dtype(self.dtype)
        if not (self.ranker or self.rankers):
            raise InputError("give --ranker FOLDER, --rankers PAIRS=FOLDER ..., or both: without rankers is no curve")
        if is_test(self.split):
            raise InputError(f"split is {self.split!r}, but test queries may not choose; take dev or train")
        for pairs in self.rankers:
            if not (pairs.isdecimal() and int(pairs)):
                raise InputError(f"rankers: {pairs!r} is no number of pairs; write PAIRS=FOLDER, such as 40000=FOLDER")
        for name in {FIRST_STAGE, TEACHER} & self.runs.keys():
            raise InputError(f"runs: the name {name!r} is taken; choose another")


def main(config: CurveConfig) -> None:
    rankers = found_rankers(config)
    collection = config.load(config.split)
    if config.max_queries:
        collection = some_queries(collection, config.max_queries)
    paths = lines_of(config)
    inputs: dict[str, str | Path] = {f"ranker {pairs}": Path(path) for pairs, path in config.rankers.items()}
    inputs |= {"ranker": Path(config.ranker)} if config.ranker else {}
    inputs |= {"collection": f"{collection.name}@{collection.revision}"}
    inputs |= {f"run {name}": Path(path) for name, path in paths.items()}
    work = partial(make, config, collection, rankers, paths)
    run_stage(config, config.output_dir, inputs, work, free=("batch_size",), scratch=("work",))


def some_queries(collection: Collection, count: int) -> Collection:
    """The collection with so many of its judged queries, evenly spaced."""
    judged = list(collection.qrels)
    return only(collection, [judged[place] for place in evenly_spaced(len(judged), count)])


def found_rankers(config: CurveConfig) -> list[Seen]:
    """The rankers of the curve, by pairs."""
    from r2anker_hf.rankers.milestones import Seen, rankers_of

    found = [Seen(Path(folder), int(pairs), None) for pairs, folder in config.rankers.items()]
    found += rankers_of(config.ranker) if config.ranker else []
    pairs = [one.pairs for one in found]
    if twice := [number for number in pairs if pairs.count(number) > 1]:
        raise InputError(f"rankers: two rankers have seen {twice[0]} pairs; give one of them")
    return sorted(found, key=lambda one: one.pairs)


def lines_of(config: CurveConfig) -> dict[str, str]:
    """The runs that are horizontal lines, by name."""
    teacher = {TEACHER: config.teacher_run} if config.teacher_run else {}
    return {FIRST_STAGE: config.first_stage, **teacher, **config.runs}


def make(
    config: CurveConfig, collection: Collection, rankers: Sequence[Seen], paths: Mapping[str, str], folder: Path
) -> None:
    """Rerank with each ranker, then measure and plot; on several processes the main one writes."""
    from accelerate import PartialState

    state = PartialState()
    runs = {name: Run.read_trec(path, name) for name, path in paths.items()}
    for name, run in runs.items():
        reranked = {"corpus": collection.corpus, "depth": config.depth} if name == FIRST_STAGE else {}
        check_run(run, collection.queries, paths[name], config.split, **reranked)
        lists = {query_id: run[query_id] for query_id in run if query_id in collection.queries}
        runs[name] = Run(lists, name)
    points = []
    for one in rankers:
        path = folder / f"pairs-{one.pairs}.trec"
        if not path.exists():
            reranked = rerank(config, collection, runs[FIRST_STAGE], one, folder / "work")
            if state.is_main_process:
                write_whole(path, reranked.write_trec)
            state.wait_for_everyone()
        points.append((one, Run.read_trec(path, f"{one.pairs} pairs")))
    if state.is_main_process:
        table = measured(config, collection, points, runs)
        (folder / "curve.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
        (folder / "curve.tsv").write_text(tsv(table), encoding="utf-8")
        plot(table, folder / "curve.png")
        print(tsv(table), end="")
        print("".join(f"{name}: {value:.4f}\n" for name, value in table["lines"].items()), end="")


def rerank(config: CurveConfig, collection: Collection, first_stage: Run, one: Seen, work: Path) -> Run:
    """The first stage as this ranker orders it."""
    import torch
    from accelerate import PartialState

    from r2anker_hf.rankers.ranker import CrossEncoderRanker

    options = {"batch_size": config.batch_size, "dtype": getattr(torch, config.dtype), "device": PartialState().device}
    ranker = CrossEncoderRanker.from_pretrained(one.folder, **options)
    return ranker.rerank(first_stage, collection, config.depth, progress=True, folder=work)


def measured(
    config: CurveConfig, collection: Collection, points: Sequence[tuple[Seen, Run]], lines: Mapping[str, Run]
) -> dict[str, Any]:
    """What curve.json holds."""
    from r2anker_hf.rankers.agreement import agreement

    def value(run: Run) -> float:
        return means(evaluate_run(collection.qrels, run, [config.measure]))[config.measure]

    told = []
    for one, run in points:
        point: dict[str, Any] = {"pairs": one.pairs, "value": value(run), "seconds": one.seconds}
        if config.teacher_run:
            agreed = agreement(run, lines[TEACHER], config.teacher_temperature)
            point |= {"kl": agreed.kl, "tau": agreed.tau}
        told.append(point)
    keys = ("measure", "split", "depth", *(("teacher_temperature",) if config.teacher_run else ()))
    return {
        "collection": f"{collection.name}@{collection.revision}",
        **{key: getattr(config, key) for key in keys},
        "queries": len(collection.qrels),
        "points": told,
        "lines": {name: value(run) for name, run in lines.items()},
    }


def tsv(table: Mapping[str, Any]) -> str:
    """The points as a table: pairs, the measure, seconds of training, and agreement with the teacher."""
    names = list(table["points"][0])
    rows = [[table["measure"] if name == "value" else name for name in names]]
    for point in table["points"]:
        values = [point[name] for name in names]
        rows.append(["" if v is None else f"{v:.4f}" if isinstance(v, float) else str(v) for v in values])
    return "".join("\t".join(row) + "\n" for row in rows)


def plot(table: Mapping[str, Any], path: Path) -> None:
    """Quality over pairs with the runs as horizontal lines; with a teacher, the agreement beside it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    taught = "tau" in table["points"][0]
    size = (11.5 if taught else 7.2, 4.2)
    figure, panels = pyplot.subplots(1, 2 if taught else 1, squeeze=False, figsize=size, layout="constrained")
    draw_quality(panels[0][0], table)
    if taught:
        draw_agreement(panels[0][1], table)
    for axes in panels[0]:
        axes.set_xlabel("training pairs seen")
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#DDDDDD", linewidth=0.7)
        axes.set_axisbelow(True)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    pyplot.close(figure)


def draw_quality(axes: Any, table: Mapping[str, Any]) -> None:
    """The measure of each ranker, with its training time where that is known."""
    points = table["points"]
    axes.semilogx([p["pairs"] for p in points], [p["value"] for p in points], "o-", color=COLOURS[0], label="ranker")
    for number, (name, value) in enumerate(table["lines"].items()):
        colour = COLOURS[1 + number % (len(COLOURS) - 1)]
        axes.axhline(value, color=colour, linestyle="--", linewidth=1.2, label=f"{name} {value:.3f}")
    for point in points:
        if point["seconds"] is not None:
            place = (point["pairs"], point["value"])
            axes.annotate(duration(point["seconds"]), place, (0, 7), textcoords="offset points", ha="center", size=8)
    axes.margins(x=0.08, y=0.12)
    axes.set_title(f"{table['measure']}, {table['split']}, {table['queries']} queries", fontsize=11)
    axes.legend(frameon=False, fontsize=9)


def draw_agreement(axes: Any, table: Mapping[str, Any]) -> None:
    """Order and divergence, each with its own scale."""
    points = table["points"]
    pairs = [point["pairs"] for point in points]
    (order,) = axes.semilogx(pairs, [p["tau"] for p in points], "o-", color=COLOURS[0], label="Kendall's tau")
    axes.set_ylabel("Kendall's tau", color=COLOURS[0])
    other = axes.twinx()
    (divergence,) = other.semilogx(pairs, [p["kl"] for p in points], "s--", color=COLOURS[2], label="KL")
    other.set_ylabel("KL(teacher | ranker), nats", color=COLOURS[2])
    other.spines["top"].set_visible(False)
    axes.margins(x=0.08, y=0.12)
    axes.set_title("agreement with the teacher", fontsize=11)
    axes.legend(handles=[order, divergence], frameon=False, fontsize=9)


def duration(seconds: float) -> str:
    """Seconds as one reads them.

    >>> duration(42), duration(720), duration(5400)
    ('42 s', '12 min', '1.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    run_recipe(main)
