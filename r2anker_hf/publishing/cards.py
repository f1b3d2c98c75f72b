"""Model cards out of `eval/report.json` and `provenance.json` of a folder: nothing else, and nothing by hand."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..evaluation.evaluation import Comparison, EvaluationReport, System
from ..evaluation.report import axis_ticks
from ..files import read_json, sha256_file
from ..negatives.card import card_templates, draw_plots
from ..stage import PROVENANCE_FILE
from ..templates import markdown_cell, p_value, signed, template_folder
from .evidence import Measured, int8_in, measured_in
from .mixtures import sets_of
from .provenance import COMMIT, PINNED

TEMPLATES = {"ranker": "ranker.md.jinja", "retriever": "retriever.md.jinja", "negatives": "negatives.md.jinja"}
CARD_FILE = "README.md"
RESULTS_PLOT = "plots/results{suffix}.png"  # of the first report, _2 of the second, and so on
NEGATIVES_PLOTS = ("agreement", "suspects")  # of the audit's pictures, those that a model's card shows
TASKS = {"ranker": ("text-ranking", "Text Ranking"), "retriever": ("information-retrieval", "Information Retrieval")}
TAGS = {
    "ranker": ["sentence-transformers", "cross-encoder", "reranker", "r2anker"],
    "dense": ["sentence-transformers", "sentence-similarity", "feature-extraction", "dense", "r2anker"],
    "splade": ["sentence-transformers", "sparse-encoder", "sparse", "splade", "r2anker"],
}
PIPELINES = {"ranker": "text-ranking", "dense": "sentence-similarity", "splade": "feature-extraction"}
EXAMPLE = {
    "example_title": "Tides",
    "source_sentence": "how do tides work",
    "sentences": ["The moon pulls the oceans.", "Yeast makes bread rise."],
}
_FAMILIES = {"nDCG": "ndcg", "MRR": "mrr", "R": "recall"}


class Table(NamedTuple):
    """A table of a card: the texts of its cells, and how many of its first columns are words."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1

    def markdown(self) -> str:
        """The table as Markdown; columns of numbers are set to the right."""
        rule = "|".join(":--" if column < self.words else "--:" for column in range(len(self.header)))
        lines = ["| " + " | ".join(self.header) + " |", f"|{rule}|"]
        return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in self.rows])


def write_card(folder: Path, kind: str) -> None:
    """Write README.md and its plots into a folder that has evidence and provenance."""
    provenance, measured, int8 = read(folder)
    for one, path in zip(measured, _results_plots(measured), strict=True):
        _draw_results(one.report, one.systems, folder / path)
    for mined, prefix in _prefixed(sets_of(provenance)):
        if mined["audit"]:
            _draw_audit(mined["audit"], folder, prefix)
    (folder / CARD_FILE).write_text(render(kind, provenance, measured, int8), encoding="utf-8")


def _results_plots(measured: Sequence[Measured]) -> list[str]:
    """The plot of each report."""
    return [RESULTS_PLOT.format(suffix=f"_{n}" if n > 1 else "") for n in range(1, len(measured) + 1)]


def _prefixed(sets: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], str]]:
    """Each set of candidates with what the names of its plots begin with."""
    return [
        (one, f"plots/negatives_{number}_" if len(sets) > 1 else "plots/negatives_")
        for number, one in enumerate(sets, start=1)
    ]


def _draw_audit(audit: Mapping[str, Any], folder: Path, prefix: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for path in draw_plots(audit, scratch):
            if path.stem in NEGATIVES_PLOTS:
                target = folder / f"{prefix}{path.name}"
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(path.read_bytes())


def render(
    kind: str, provenance: Mapping[str, Any], measured: Sequence[Measured], int8: Measured | None = None
) -> str:
    """The text of README.md."""
    sets = sets_of(provenance)
    return (
        card_templates()
        .get_template(TEMPLATES[kind])
        .render(
            metadata=metadata(kind, provenance, measured).to_yaml(),
            p=provenance,
            measured=[_shown(*one) for one in zip(measured, _results_plots(measured), strict=True)],
            measured_on=enumerated(list(dict.fromkeys(markdown_cell(one.report.collection.name) for one in measured))),
            sets=_prefixed(sets),
            retrievers=max((len(split["retrievers"]) for one in sets for split in one["splits"].values()), default=0),
            mixture=mixture_table(sets).markdown() if len(sets) > 1 else "",
            origins=_origins(provenance).markdown(),
            calibration=calibration_table(provenance).markdown() if "calibration" in provenance else "",
            quality=[_quality(one) for one in measured],
            int8=int8_table(int8).markdown() if int8 else "",
            int8_queries=len(int8.report.query_ids) if int8 else 0,
            settings=_settings(provenance["stages"]),
            short=_short,
            count=_count,
            megabytes=lambda size: f"{size / 1e6:.3g} MB",
        )
    )


def _shown(measured: Measured, plot: str) -> dict[str, Any]:
    """What the template shows of a report."""
    report, own, fusions = measured.report, measured.systems, free_fusions(measured.runs)
    return {
        "report": report,
        "runs": measured.runs,
        "tables": {name: table.markdown() for name, table in tables(report, own, fusions).items()},
        "significant": _significant(report, own, fusions),
        "fusions": fusions,
        "plot": plot,
    }


def template_sha256(kind: str) -> str:
    """Hash of the templates that a card is rendered from: others give another card of the same figures."""
    paths = [template_folder() / TEMPLATES[kind], *sorted(template_folder().glob("part_*.jinja"))]
    return hashlib.sha256("".join(map(sha256_file, paths)).encode()).hexdigest()


def free_fusions(runs: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """The report's systems that are first stages fused by `fuse.py`: the strongest ranking without a ranker."""
    return tuple(name for name, facts in runs.items() if facts.get("fusion", {}).get("free_of_rankers"))


def tables(report: EvaluationReport, own: Sequence[str], fusions: Sequence[str] = ()) -> dict[str, Table]:
    """The figures of a card, as texts: means, what a first stage allowed, and paired tests of the model's systems.

    `fusions` are the report's fused runs that a ranker is tested against beside its first stage.
    """
    found = {"means": _means(report, own)}
    reranked = [system for system in report.systems if system.first_stage and system.name in own]
    if reranked:
        found["first_stages"] = _first_stages(report, reranked)
    pairs = [c for name in own for c in _comparisons(report, report.system(name), fusions)]
    if pairs:
        found["pairs"] = Table(
            ("system", "against", "measure", "difference, interval", "Holm p", "wins / ties / losses"),
            tuple(map(_pair, pairs)),
            words=3,
        )
    return found


def metadata(kind: str, provenance: Mapping[str, Any], measured: Sequence[Measured]) -> Any:
    """`ModelCardData`, model-index included, as the Hub's widgets read it."""
    from huggingface_hub import ModelCardData

    form = provenance["model"]["form"]
    base, licence = provenance["base_model"], provenance["licence"]
    options: dict[str, Any] = {
        "language": provenance["language"] or None,
        "license": licence,
        "library_name": "sentence-transformers",
        "tags": TAGS[form],
        "pipeline_tag": PIPELINES[form],
        "datasets": list(dict.fromkeys(one["name"] for one in training_data(provenance) if _on_hub(one))) or None,
    }
    if form != "splade":
        options["widget"] = [EXAMPLE]
    bases = [one["name"] for one in (base, *_rankers(provenance)) if _on_hub(one)]
    if bases:
        options |= {"base_model": bases if bases[1:] else bases[0], "base_model_relation": "finetune"}
    if "grams_co2" in provenance["cost"]:
        options["co2_eq_emissions"] = {
            "emissions": provenance["cost"]["grams_co2"],
            "source": "device hours x stated power x stated grams of CO2 a kilowatt-hour",
            "training_type": "fine-tuning",
            "hardware_used": ", ".join(provenance["cost"]["devices"]),
        }
    if measured:
        options["metrics"] = sorted({_metric_type(measure) for one in measured for measure in one.report.measures})
        options["model_name"] = provenance["repo_id"].partition("/")[2]
        options["eval_results"] = [
            result for one in measured for result in eval_results(kind, one.report, one.systems)
        ]
    return ModelCardData(**options)


def eval_results(kind: str, report: EvaluationReport, own: Sequence[str]) -> list[Any]:
    """One `EvalResult` for each system of the model and measure, with interval, queries and first stage."""
    from huggingface_hub import EvalResult

    task, task_name = TASKS[kind]
    facts = report.collection
    pinned = bool(facts.revision and COMMIT.fullmatch(facts.revision))
    return [
        EvalResult(
            task_type=task,
            task_name=task_name,
            dataset_type=facts.name,
            dataset_name=f"{facts.name}, {facts.split}",
            dataset_split=facts.split,
            dataset_revision=facts.revision if pinned else None,
            metric_type=_metric_type(measure),
            metric_name=f"{measure} of {name}",
            metric_value=round(report.system(name).scores[measure].mean, 4),
            metric_args=_metric_args(report, report.system(name), measure),
        )
        for name in own
        for measure in report.measures
    ]


def write_eval_results(folder: Path, report: EvaluationReport, own: Sequence[str], benchmark: str) -> None:
    """Write `.eval_results/<system>.yaml` with the first measure of each system, for the benchmark's leaderboard.

    The format has no field for measure, interval or first stage, so that they stand in its notes.
    """
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    dataset, _, task = benchmark.partition("#")
    revision = report.collection.revision if report.collection.name == dataset else None
    (folder / ".eval_results").mkdir()
    for name in own:
        system, measure = report.system(name), report.measures[0]
        estimate, first = system.scores[measure], system.first_stage
        reranking = f", reranking {first.name} top {first.depth}" if first else ""
        notes = f"{measure}{reranking}; 95 % interval [{estimate.low:.4f}, {estimate.high:.4f}]"
        entry = EvalResultEntry(
            dataset_id=dataset,
            task_id=task,
            value=round(estimate.mean, 4),
            dataset_revision=revision,
            notes=f"{notes}, {len(report.query_ids)} queries",
        )
        path = folder / ".eval_results" / f"{Path(str(system.run_file)).name.partition('.')[0]}.yaml"
        path.write_text(yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False), encoding="utf-8")


def _means(report: EvaluationReport, own: Sequence[str]) -> Table:
    best = {measure: max(s.scores[measure].mean for s in report.systems) for measure in report.measures}
    rows = []
    for system in report.systems:
        name = markdown_cell(system.name)
        cells = [f"{name} (this model)" if system.name in own else name]
        for measure in report.measures:
            one = system.scores[measure]
            mark = "**" if one.mean >= best[measure] else ""
            cells.append(f"{mark}{one.mean:.4f}{mark} [{one.low:.3f}, {one.high:.3f}]")
        rows.append((*cells, f"{system.queries:,}"))
    return Table(("system", *report.measures, "queries answered"), tuple(rows))


def _first_stages(report: EvaluationReport, systems: Sequence[System]) -> Table:
    header = ["reranker", "first stage", "depth", "first-stage recall"]
    header += [f"ceiling of {measure}" for measure in report.measures]
    rows = []
    for system in systems:
        first = system.first_stage
        assert first is not None
        cells = [markdown_cell(system.name), markdown_cell(first.name), f"{first.depth:,}"]
        cells += [f"{first.recall_measure} {first.recall:.4f}"]
        rows.append((*cells, *(f"{first.ceiling[measure]:.4f}" for measure in report.measures)))
    return Table(tuple(header), tuple(rows), words=2)


def _comparisons(report: EvaluationReport, system: System, fusions: Sequence[str] = ()) -> list[Comparison]:
    """The model's system against its first stage and fusions, or against every other system where it is one itself."""
    if system.first_stage:
        others = list(dict.fromkeys([system.first_stage.name, *fusions]))
    else:
        others = [s.name for s in report.systems if s is not system]
    found = [report.comparison(measure, other, system.name) for other in others for measure in report.measures]
    return [comparison for comparison in found if comparison]


def _pair(one: Comparison) -> tuple[str, ...]:
    difference = f"{signed(one.difference)} [{signed(one.low, 3)}, {signed(one.high, 3)}]"
    outcome = f"{one.wins} / {one.ties} / {one.losses}"
    names = markdown_cell(one.system), markdown_cell(one.baseline)
    return (*names, one.measure, difference, p_value(one.p_corrected), outcome)


def _significant(report: EvaluationReport, own: Sequence[str], fusions: Sequence[str]) -> list[dict[str, Any]]:
    """One sentence's facts for each comparison in the first measure."""
    alpha = 1 - report.settings.confidence
    found = []
    for name in own:
        for one in _comparisons(report, report.system(name), fusions):
            if one.measure == report.measures[0]:
                better = "better" if one.difference > 0 else "worse"
                verdict = (
                    f"significantly {better} than" if one.p_corrected < alpha else "not significantly different from"
                )
                found.append({"system": one.system, "baseline": one.baseline, "verdict": verdict})
    return found


def _metric_type(measure: str) -> str:
    family, _, cutoff = measure.partition("@")
    name, _, grade = family.partition("(")
    return f"{_FAMILIES[name]}_at_{cutoff}" + (f"_{grade.rstrip(')').replace('=', '')}" if grade else "")


def _metric_args(report: EvaluationReport, system: System, measure: str) -> dict[str, Any]:
    one = system.scores[measure]
    found: dict[str, Any] = {
        "system": system.name,
        "measure": measure,
        "confidence": report.settings.confidence,
        "interval": [round(one.low, 4), round(one.high, 4)],
        "queries": len(report.query_ids),
    }
    if first := system.first_stage:
        found |= {"first_stage": first.name, "depth": first.depth, first.recall_measure: round(first.recall, 4)}
    return found


def training_data(provenance: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The data that a model was trained on: candidates with their collection, or a collection."""
    if sets := sets_of(provenance):
        return [source for one in sets for source in (one, one["collection"])]
    return [provenance["collection"]]


def _rankers(provenance: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rankers whose scores a model learned."""
    return [one for one in provenance.get("teachers", ()) if "name" in one]


def _on_hub(source: Mapping[str, Any]) -> bool:
    return bool(PINNED.fullmatch(f"{source['name']}@{source['revision']}"))


def _origins(provenance: Mapping[str, Any]) -> Table:
    """What went in: name, revision, licence."""
    sources: list[tuple[str, Mapping[str, Any]]] = [("encoder", {**provenance["base_model"], "path": ""})]
    sets = sets_of(provenance)
    for number, one in enumerate(sets, start=1):
        what = f"candidates {number}" if len(sets) > 1 else "candidates"
        sources += [(what, one), ("their collection", {**one["collection"], "licence": None})]
    if collection := provenance.get("collection"):
        sources.append(("collection", collection))
    sources += [("ranker that taught", {**one, "licence": None}) for one in _rankers(provenance)]
    header = ("what", "name", "revision", "licence")
    rows = [
        (what, _linked(one), f"`{_short(one['revision'])}`", one.get("licence") or "not stated")
        for what, one in sources
    ]
    return Table(header, tuple(rows), words=4)


def mixture_table(sets: Sequence[Mapping[str, Any]]) -> Table:
    """What each collection of a mixture gave to the training."""
    header = (
        "set",
        "trained on",
        "split",
        "licence",
        "training queries",
        "queries per epoch",
        "share of the training",
    )
    rows = [
        (
            *(str(number), markdown_cell(one["collection"]["name"]), f"`{one['split']}`"),
            *(one["licence"] or "not stated", f"{one['training_queries']:,}", f"{one['epoch_queries']:,}"),
            f"{one['share']:.2%}",
        )
        for number, one in enumerate(sets, start=1)
    ]
    return Table(header, tuple(rows), words=4)


def calibration_table(provenance: Mapping[str, Any]) -> Table:
    """What turns a ranker's scores into probabilities, and how good these are."""
    fit = provenance["calibration"]["fit"]
    threshold, recall = (fit[name] for name in ("threshold", "recall"))
    header = (
        "temperature",
        "bias",
        "error",
        "error of the plain sigmoid",
        f"threshold of precision {fit['precision']}",
    )
    numbers = ("temperature", "bias", "expected_calibration_error", "uncalibrated_error")
    cells = [f"{fit[name]:.4f}" for name in numbers] + ["none" if threshold is None else f"{threshold:.4f}"]
    return Table((*header, "recall there"), ((*cells, "none" if recall is None else f"{recall:.4f}"),), words=0)


def int8_table(measured: Measured) -> Table:
    """What the int8 file gives in place of the float32 weights, over the same queries."""
    report, (own, int8) = measured.report, measured.systems
    rows = []
    for measure in report.measures:
        one = report.comparison(measure, own, int8)
        assert one is not None
        means = (f"{report.system(name).scores[measure].mean:.4f}" for name in (own, int8))
        change = f"{signed(one.difference)} [{signed(one.low, 3)}, {signed(one.high, 3)}]"
        rows.append((measure, *means, change, f"{one.wins} / {one.ties} / {one.losses}"))
    header = ("measure", "float32", "int8", "difference, interval", "wins / ties / losses of int8")
    return Table(header, tuple(rows))


def enumerated(names: Sequence[str]) -> str:
    """Names in a sentence.

    >>> enumerated(["a"]), enumerated(["a", "b"]), enumerated(["a", "b", "c"]), enumerated([])
    ('a', 'a and b', 'a, b and c', '')
    """
    *others, last = names or [""]
    return f"{', '.join(others)} and {last}" if others else last


def _linked(source: Mapping[str, Any]) -> str:
    name = markdown_cell(source["name"])
    if not _on_hub(source):
        return f"{name}, not on the Hub"
    return f"[{name}](https://huggingface.co/{source.get('path', 'datasets/')}{source['name']})"


def _short(revision: str | None) -> str:
    """A commit or a hash as far as people compare it; the whole of it stands in provenance.json."""
    if not revision:
        return "not stated"
    scheme, colon, digest = revision.rpartition(":")
    return f"{scheme}{colon}{digest[:12]}" if len(digest) > 12 else revision


def _quality(measured: Measured) -> str:
    """The model's first system in one sentence, beside what it has to beat."""
    report, system = measured.report, measured.report.system(measured.systems[0])
    measure = "nDCG@10" if "nDCG@10" in report.measures else report.measures[0]
    rivals = [*free_fusions(measured.runs), *([system.first_stage.name] if system.first_stage else [])]
    rivals = rivals or [one.name for one in report.systems if one is not system]
    others = [f"{markdown_cell(one)} {report.system(one).scores[measure].mean:.4f}" for one in dict.fromkeys(rivals)]
    where = f"{markdown_cell(report.collection.name)}, split {report.collection.split}"
    beside = f" ({enumerated(others)})" if others else ""
    return f"{measure} {system.scores[measure].mean:.4f} on {where}{beside}."


def _count(number: int) -> str:
    """A number of parameters as people say it.

    >>> _count(29_000), _count(22_713_601)
    ('29 thousand', '22.7 million')
    """
    return f"{number / 1e6:.1f} million" if number >= 1e6 else f"{number / 1e3:.0f} thousand"


def _settings(stages: Sequence[Mapping[str, Any]]) -> str:
    """Settings as a table with one column a training; what all of them lack is left out."""
    names = list(dict.fromkeys(key for stage in stages for key in stage["settings"]))
    header = ["setting", *(f"training {n}" if len(stages) > 1 else "value" for n in range(1, len(stages) + 1))]
    rows = [(name, *(markdown_cell(stage["settings"].get(name, "")) for stage in stages)) for name in names]
    return Table(tuple(header), tuple(rows)).markdown()


def _draw_results(report: EvaluationReport, own: Sequence[str], path: Path) -> None:
    """Means with their intervals, one panel a measure; the model's systems are filled."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    path.parent.mkdir(exist_ok=True)
    many = len(report.systems)
    size = (2.7 * len(report.measures) + 1.6, 0.42 * many + 1.1)
    figure, panels = pyplot.subplots(
        1, len(report.measures), sharey=True, squeeze=False, figsize=size, layout="constrained"
    )
    for axes, measure in zip(panels[0], report.measures, strict=True):
        for place, system in enumerate(report.systems):
            one, colour = system.scores[measure], "#0072B2" if system.name in own else "#777777"
            axes.plot([one.low, one.high], [place, place], color=colour, linewidth=2, clip_on=False)
            axes.plot(one.mean, place, "o", color=colour, markersize=7, clip_on=False)
        ends = [getattr(s.scores[measure], end) for s in report.systems for end in ("low", "high")]
        ticks = axis_ticks(min(ends), max(ends))
        shown = ticks[:: 2 if len(ticks) > 4 else 1]
        axes.set(yticks=range(many), yticklabels=[s.name for s in report.systems], xlim=(ticks[0], ticks[-1]))
        axes.set_xticks(shown, [f"{tick:g}" for tick in shown])
        axes.set_ylim(-0.5, many - 0.5)
        axes.set_title(measure, fontsize=11, color="#333333")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="x", color="#DDDDDD", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(left=False)
    panels[0][0].invert_yaxis()
    figure.savefig(path, dpi=130, metadata={"Software": None})
    pyplot.close(figure)


def read(folder: Path) -> tuple[dict[str, Any], list[Measured], Measured | None]:
    """Provenance and reports of a folder, and what int8 was measured to do; no report where nothing was measured."""
    provenance = read_json(folder / PROVENANCE_FILE)
    return provenance, measured_in(folder, provenance), int8_in(folder, provenance)
