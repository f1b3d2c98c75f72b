"""Analyse: how far each joint of retrievers lies from BM25, and from the ranker trained on it (Figures 2 and 3).

    python recipes/analyse.py --negatives FOLDER_OR_REPO --reference bm25 --output_dir D
    python recipes/analyse.py --negatives N --rankers bm25,dense=X --values bm25=.398 bm25,dense=.407 --output_dir D

By default all combinations of the mined retrievers are generators. --rankers names, for a generator, the ranker that
was trained on it, among the rankings that mine.py kept; --values gives each generator's measured quality, such as
MRR@10 of reranking BM25, for the plots. Some hundred queries a second. Writes analysis.json, analysis.md and plots.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from r2anker_hf.config import run_recipe
from r2anker_hf.negatives.analysis import SMOOTHING, all_joints, divergences, pearson
from r2anker_hf.negatives.candidates import Candidates
from r2anker_hf.negatives.options import CandidatesOptions
from r2anker_hf.records import InputError
from r2anker_hf.stage import pinned, run_stage


@dataclass
class AnalysisConfig(CandidatesOptions):
    output_dir: str = field(metadata={"help": "New folder for the analysis."})
    reference: str = field(
        default="bm25",
        metadata={"help": "Retriever from which distances are measured; the paper's is the one that is reranked."},
    )
    generators: list[str] = field(
        default_factory=list, metadata={"help": "Joints such as bm25 bm25,dense; default all combinations."}
    )
    rankers: dict[str, str] = field(
        default_factory=dict, metadata={"help": "For a generator, its trained ranker: bm25,dense=NAME (Figure 3)."}
    )
    values: dict[str, float] = field(default_factory=dict, metadata={"help": "For a generator, its measured quality."})
    value_name: str = field(default="MRR@10", metadata={"help": "What the values are."})
    depth: int = field(default=200, metadata={"help": "Top-N of every list, the ranker's too (appendix B)."})
    smoothing: float = field(
        default=SMOOTHING,
        metadata={"help": "Share of a uniform distribution mixed into both sides, so that none is 0."},
    )
    sampling_temperature: float = field(
        default=1.0,
        metadata={
            "help": "With --by score: every list's scores are divided by it before the softmax.",
            "formerly": "temperature",
        },
    )
    by: Literal["rank", "score"] = field(default="rank", metadata={"help": "A distribution reads: rank or score."})


def main(config: AnalysisConfig) -> None:
    config, inputs = pinned(config, negatives="dataset")
    run_stage(config, config.output_dir, inputs, partial(analyse, config))


def analyse(config: AnalysisConfig, folder: Path) -> None:
    """Compute, write and plot; on several processes the main one works."""
    from accelerate import PartialState

    if not PartialState().is_main_process:
        return
    candidates = config.load()
    found = computed(config, candidates)
    (folder / "analysis.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text = table(found)
    (folder / "analysis.md").write_text(text, encoding="utf-8")
    print(text)
    for quantity, title in (("kl", "Figure 2"), ("delta", "Figure 3")):
        plot(found, quantity, title, folder)


def computed(config: AnalysisConfig, candidates: Candidates) -> dict[str, Any]:
    """What analysis.json holds."""
    generators = generators_of(config, candidates)
    for name in config.values.keys() - generators.keys():
        raise InputError(f"values: no generator {name!r}; choices: {', '.join(generators)}")
    results = divergences(
        candidates.rows,
        generators,
        config.reference,
        config.rankers,
        depth=config.depth,
        smoothing=config.smoothing,
        temperature=config.sampling_temperature,
        by=config.by,
    )
    told = {
        name: {**{key: asdict(value) for key, value in quantities.items()}, "value": config.values.get(name)}
        for name, quantities in results.items()
    }
    kept = ("reference", "depth", "smoothing", "sampling_temperature", "by", "split")
    settings = {key: getattr(config, key) for key in kept}
    correlations = {
        quantity: pearson(*zip(*points, strict=True))
        for quantity in ("kl", "delta")
        if len(points := points_of(told, quantity)) > 2
    }
    return {**settings, "value_name": config.value_name, "generators": told, "correlation_with_value": correlations}


def generators_of(config: AnalysisConfig, candidates: Candidates) -> dict[str, list[str]]:
    """Retrievers by the joint's name."""
    if config.generators:
        return {name: name.split(",") for name in config.generators}
    return all_joints([ranked["retriever"] for ranked in candidates.rows[0]["candidates"]])


def points_of(told: Mapping[str, Any], quantity: str) -> list[tuple[float, float]]:
    """(divergence, value) of the generators that have both; Figure 3 goes by the distance |delta|."""
    return [
        (abs(one[quantity]["mean"]) if quantity == "delta" else one[quantity]["mean"], one["value"])
        for one in told.values()
        if quantity in one and one["value"] is not None
    ]


def table(found: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    quantities = [q for q in ("kl", "ranker_kl", "delta") if any(q in one for one in found["generators"].values())]
    heads = {"kl": "KL(generator ∣ reference)", "ranker_kl": "KL(ranker ∣ reference)", "delta": "Δ"}
    lines = [
        f"Reference {found['reference']}, top {found['depth']}, by {found['by']}, smoothing {found['smoothing']}; "
        "nats, mean over queries ± standard error.",
        "",
        f"| generator | {' | '.join(heads[q] for q in quantities)} | {found['value_name']} |",
        f"|:--|{'--:|' * (len(quantities) + 1)}",
    ]
    for name, one in found["generators"].items():
        cells = [f"{one[q]['mean']:.4f} ± {one[q]['standard_error']:.4f}" if q in one else "" for q in quantities]
        value = "" if one["value"] is None else f"{one['value']:.4f}"
        lines.append(f"| {name} | {' | '.join(cells)} | {value} |")
    for quantity, correlation in found["correlation_with_value"].items():
        what = "|Δ|" if quantity == "delta" else "KL"
        lines += ["", f"Pearson's correlation of {what} with {found['value_name']}: {correlation:.3f}."]
    return "\n".join(lines) + "\n"


def plot(found: Mapping[str, Any], quantity: str, title: str, folder: Path) -> None:
    """Value against divergence, one point a generator; without values, the divergences as bars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = {name: one for name, one in found["generators"].items() if quantity in one}
    if not shown:
        return
    figure, axes = pyplot.subplots(figsize=(7.2, 0.9 + 0.36 * len(shown) if not found_values(shown) else 4.2))
    label = "KL(generator | reference), nats" if quantity == "kl" else "Δ, nats"
    if found_values(shown):
        for name, one in shown.items():
            if one["value"] is not None:
                axes.plot(one[quantity]["mean"], one["value"], "o", color="#0072B2")
                axes.annotate(name, (one[quantity]["mean"], one["value"]), (6, 5), textcoords="offset points")
        axes.set(xlabel=label, ylabel=found["value_name"])
        axes.margins(x=0.18, y=0.15)
    else:
        means = [one[quantity]["mean"] for one in shown.values()]
        bars = axes.barh(list(shown), means, color="#0072B2", height=0.6)
        axes.bar_label(bars, fmt="%.3f", padding=3, fontsize=8)
        axes.set(xlabel=label)
        axes.margins(x=0.12)
        axes.invert_yaxis()
    axes.set_title(
        f"{title}: {'distance from the tested distribution' if quantity == 'kl' else 'generator to ranker'}"
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(folder / f"{quantity}.png", dpi=130, metadata={"Software": None})
    pyplot.close(figure)


def found_values(shown: Mapping[str, Any]) -> bool:
    """Whether any generator has a measured value."""
    return any(one["value"] is not None for one in shown.values())


if __name__ == "__main__":
    run_recipe(main)
