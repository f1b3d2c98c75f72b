"""The dataset card of a candidates folder: README.md out of manifest and audit, and the audit's plots."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import read_json
from ..templates import environment

TEMPLATE = "negatives.md.jinja"
AUDIT_FILE = "audit.json"
PLOTS = "plots"
PREVIEW = "preview"  # folder and configuration of the few groups that are published as texts
_TEXT_LIMIT = 360  # characters of a passage in the card
_SHOWN = 10  # suspicious negatives of each kind in the card; audit.json holds more
# Okabe and Ito's palette, which people with any colour vision can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_HASH = re.compile(r"(@(?:sha256:)?)([0-9a-f]{40,64})$")
_INK, _GRID = "#333333", "#DDDDDD"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def write_card(folder: str | os.PathLike, repo_id: str = "OWNER/NAME") -> Path:
    """Write `README.md` from `manifest.json` and, where it is there, `audit.json`; returns its path.

    Args:
        folder: the dataset's folder.
        repo_id: what the snippets of the card load; publishing knows it.

    The header tells `datasets` which files each configuration has. Texts of passages are shown only if the dataset
    holds the corpus itself: where a licence forbids a copy, the card stays with ids. What a published folder's
    `provenance.json` adds (languages, cost) is said too.
    """
    folder = Path(folder)
    manifest = read_json(folder / "manifest.json")
    audit = read_json(folder / AUDIT_FILE) if (folder / AUDIT_FILE).exists() else None
    if audit:
        draw_plots(audit, folder / PLOTS)
    path = folder / "provenance.json"
    provenance = read_json(path) if path.exists() else {}
    text = (
        card_templates()
        .get_template(TEMPLATE)
        .render(
            header=_header(manifest, provenance.get("language")),
            manifest=manifest,
            splits=manifest["splits"],
            audit=audit,
            shown=_shown(audit),
            repo_id=repo_id,
            preview=bool(preview_files(manifest)),
            provenance=provenance,
        )
    )
    path = folder / "README.md"
    path.write_text(text, encoding="utf-8")
    return path


def draw_plots(audit: Mapping[str, Any], folder: str | os.PathLike) -> list[Path]:
    """The audit as pictures: where positives stand, overlap, agreement and suspected false negatives by rank.

    Returns:
        Paths of the PNG files; the same audit gives the same bytes.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, plot in (
        ("positives", _plot_positives),
        ("overlap", _plot_overlap),
        ("agreement", _plot_agreement),
        ("suspects", _plot_suspects),
    ):
        figure, axes = pyplot.subplots(figsize=(7.2, 3.6), layout="constrained")
        plot(axes, audit)
        _style(axes)
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=130, metadata={"Software": None})
        pyplot.close(figure)
    return paths


def _plot_positives(axes: Any, audit: Mapping[str, Any]) -> None:
    for colour, (name, facts) in zip(_cycle(audit["retrievers"]), audit["retrievers"].items(), strict=True):
        cuts = [int(cut) for cut in facts["positive_within"]]
        axes.plot(cuts, [100 * share for share in facts["positive_within"].values()], "o-", color=colour, label=name)
    axes.set(xscale="log", xlabel="rank", ylabel="queries (%)", ylim=(0, 102))
    axes.set_xticks(cuts, [str(cut) for cut in cuts])
    axes.minorticks_off()
    axes.set_title("Queries with a relevant document down to this rank")
    axes.legend(loc="lower right", frameon=False)


def _plot_overlap(axes: Any, audit: Mapping[str, Any]) -> None:
    cuts = audit["overlap_cuts"]
    groups = {f"top {cut}": [100 * pair["overlap"][str(cut)] for pair in audit["pairs"]] for cut in cuts}
    _grouped_bars(axes, [f"{pair['a']} / {pair['b']}" for pair in audit["pairs"]], groups, "shared documents (%)")
    axes.set_title("Documents that two retrievers share" if audit["pairs"] else "One retriever: nothing to compare")


def _plot_agreement(axes: Any, audit: Mapping[str, Any]) -> None:
    labels = [_bucket(bucket) for bucket in audit["by_rank"]]
    many = len(audit["retrievers"])
    below = [0.0] * len(labels)
    for number in range(1, many + 1):
        values = [100 * bucket["found_by"][str(number)] for bucket in audit["by_rank"]]
        label = "one retriever alone" if number == 1 else f"{number} of {many} retrievers"
        axes.bar(labels, values, bottom=below, color=_COLOURS[number - 1], label=label, width=0.65)
        below = [low + value for low, value in zip(below, values, strict=True)]
    axes.set(xlabel="best rank in any list", ylabel="negatives (%)", ylim=(0, 100))
    axes.set_title("How many retrievers found a negative")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _plot_suspects(axes: Any, audit: Mapping[str, Any]) -> None:
    labels = [_bucket(bucket) for bucket in audit["by_rank"]]
    groups = {
        name: [100 * bucket["retrievers"][name]["suspected_share"] for bucket in audit["by_rank"]]
        for name in audit["retrievers"]
    }
    _grouped_bars(axes, labels, groups, "negatives of the list (%)")
    axes.set_xlabel("rank in the retriever's list")
    axes.set_title("Suspected false negatives")


def _grouped_bars(axes: Any, labels: Sequence[str], groups: Mapping[str, Sequence[float]], unit: str) -> None:
    width = 0.8 / max(1, len(groups))
    for number, (colour, (name, values)) in enumerate(zip(_cycle(groups), groups.items(), strict=True)):
        places = [index - 0.4 + width * (number + 0.5) for index in range(len(labels))]
        bars = axes.bar(places, values, width * 0.92, color=colour, label=name)
        axes.bar_label(bars, fmt="%.2g", fontsize=7, color=_INK, padding=1)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_ylabel(unit)
    axes.margins(y=0.12)
    axes.set_ylim(0, None if any(map(any, groups.values())) else 1)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _style(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.title.set(fontsize=11, color=_INK)


def _cycle(names: Any) -> list[str]:
    return [_COLOURS[index % len(_COLOURS)] for index, _ in enumerate(names)]


def _bucket(bucket: Mapping[str, Any]) -> str:
    return f"{bucket['from']}–{bucket['to']}"


def _shown(audit: Mapping[str, Any] | None) -> dict[str, list[Any]]:
    found = audit["suspicious"] if audit else {}
    return {kind: [_cut(case) for case in cases[:_SHOWN]] for kind, cases in found.items()}


def _cut(case: Mapping[str, Any]) -> dict[str, Any]:
    def short(text: str | None) -> str | None:
        return text if text is None or len(text) <= _TEXT_LIMIT else text[:_TEXT_LIMIT].rsplit(" ", 1)[0] + " …"

    return {**case, "text": short(case.get("text")), "positive_text": short(case.get("positive_text"))}


def _header(manifest: Mapping[str, Any], language: list[str] | None = None) -> str:
    import yaml

    rows = sum(split["queries"] for split in manifest["splits"].values())
    files = [{"split": split, "path": _pattern(manifest, "candidates", split)} for split in manifest["splits"]]
    configs = [{"config_name": "candidates", "default": True, "data_files": files}]
    if "repo" not in manifest["corpus"]:
        files = [{"split": "corpus", "path": _pattern(manifest, "corpus", "corpus")}]
        configs.append({"config_name": "corpus", "data_files": files})
    if drawn := preview_files(manifest):
        files = [{"split": split, "path": path} for split, path in drawn.items()]
        configs.append({"config_name": "preview", "data_files": files})
    head: dict[str, Any] = {"pretty_name": f"Candidates mined from {manifest['collection']['name']}"}
    if language:
        head["language"] = language
    if manifest.get("licence"):
        head["license"] = manifest["licence"]
    if "/" in manifest["collection"]["name"]:
        head["source_datasets"] = [manifest["collection"]["name"]]
    head |= {
        "task_categories": ["text-ranking", "text-retrieval"],
        "task_ids": ["document-retrieval"],
        "tags": ["hard-negatives", "reranking", "r2anker"],
        "size_categories": [next((name for top, name in _SIZES if rows < top), "n>1M")],
        "configs": configs,
    }
    return yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=1000)


def preview_files(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The preview's file by split; none where the dataset has no copy of the passages."""
    return {
        name.removeprefix(f"{PREVIEW}/").rpartition("-00000-")[0]: name
        for name in manifest["files"]
        if name.startswith(f"{PREVIEW}/")
    }


def _pattern(manifest: Mapping[str, Any], folder: str, split: str) -> str:
    """The one file of a split, or the pattern of its shards."""
    names = [name for name in manifest["files"] if name.startswith(f"{folder}/{split}-")]
    return names[0] if len(names) == 1 else f"{folder}/{split}-*.parquet"


def card_templates() -> Any:
    """Jinja with the filters of the cards in Markdown."""
    return environment(percent=_percent, settings=_settings, bucket=_bucket)


def _percent(share: float) -> str:
    """Tenths of a percent; below one percent, hundredths."""
    return f"{share:.1%}" if share >= 0.01 or not share else f"{share:.2%}" if share >= 0.0001 else "<0.01%"


def _settings(facts: Mapping[str, Any]) -> str:
    """How a run was made, in one line."""
    settings = facts.get("settings")
    if not settings:
        return "external TREC run"
    hidden = {"retriever", "use_titles", "batch_size", "dtype"}
    parts = [str(settings.get("retriever", ""))]
    parts += [f"{key} {_HASH.sub(_short_hash, str(value))}" for key, value in settings.items() if key not in hidden]
    return ", ".join(part for part in parts if part)


def _short_hash(match: re.Match) -> str:
    return match[1] + match[2][:12]
