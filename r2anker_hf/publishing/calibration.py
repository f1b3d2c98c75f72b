"""A published ranker's calibration: fitted on a reranked dev run, published with it, and derived again from it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..collection.collection import load_collection
from ..config import CONFIG_FILE
from ..evaluation.evaluation import facts_of
from ..files import read_json, read_yaml
from ..negatives.candidates import run_facts
from ..rankers.calibration import BINS, calibrate
from ..rankers.saving import edit_json
from ..records import InputError
from ..run import Run, check_run
from ..stage import PROVENANCE_FILE, digest_of
from .evidence import identity_of, pack_run, read_judgements, unpack, write_judgements

PLACE = "eval/calibration"
CONFIG = "config.json"
RUN_FILE = f"{PLACE}/run.trec.gz"
EQUAL = 1e-4  # relative, between fits on two machines


def add_calibration(reranking: Path, model: Path, into: Path, precision: float, judgements: str) -> dict[str, Any]:
    """Fit on what rerank.py made of dev queries; write the fit into config.json, and what it was made from beside it.

    Args:
        reranking: folder that rerank.py wrote.
        model: the ranker's own folder, whose hash the reranking recorded.
        into: the folder that is prepared.
        precision: that a threshold is looked for.
        judgements: "copy" or "reference".

    Returns:
        What provenance.json says of it: collection, split, how the run was made, and the fit.

    Raises:
        InputError: it is no such folder, another ranker's, or of other limits than the ranker's; or as in `calibrate`.
    """
    path = reranking / "run.trec"
    settings = read_yaml(reranking / CONFIG_FILE, "ranker", "collection", "split")
    if read_json(reranking / PROVENANCE_FILE, "inputs")["inputs"].get("ranker") != digest_of(model):
        raise InputError(f"{reranking}: was made by another ranker than {model}, or files there changed since")
    changed = [name for name in ("max_length", "max_windows", "prompt") if settings.get(name) is not None]
    if changed:
        raise InputError(f"{reranking}: was made with --{changed[0]}; rerank as the ranker was trained")
    collection: Any = load_collection(
        *(settings["collection"], settings["split"], settings.get("revision"), settings.get("use_titles", True)),
        **(settings.get("collection_options") or {}),
    )
    run = Run.read_trec(path)
    check_run(run, collection.qrels, path, collection.split)
    fit = asdict(calibrate(run, collection.qrels, precision))
    identity = identity_of(facts_of(collection))
    write_judgements(into, PLACE, collection.qrels, identity, collection.split, judgements)
    pack_run(path, into / RUN_FILE)
    _into_config(into, fit)
    facts = {"collection": identity.partition("@")[0], "split": collection.split, "bins": BINS}
    return {**facts, **run_facts(path), "fit": fit}


def differences(folder: Path) -> list[str]:
    """A line for each number of config.json and provenance.json that the published run and judgements do not give."""
    stated, recorded = _stated(folder)
    if stated is None or recorded is None:
        return [f"{PROVENANCE_FILE if stated else CONFIG}: states no calibration, but other files do"]
    with tempfile.TemporaryDirectory() as scratch:
        run = Run.read_trec(unpack(folder / RUN_FILE, Path(scratch) / "run.trec"))
        qrels = read_judgements(folder, PLACE, Path(scratch))
    derived = asdict(calibrate(run, qrels, stated["precision"]))
    return [
        f"{file}: calibration: {name} is stated as {found.get(name)}, but run and judgements give {value}"
        for file, found in ((CONFIG, stated), (PROVENANCE_FILE, recorded))
        for name, value in derived.items()
        if not _equal(found.get(name), value)
    ]


def is_calibrated(folder: Path) -> bool:
    """Whether any of a folder's files says so."""
    return any(_stated(folder)) or (folder / PLACE).exists()


def _stated(folder: Path) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The fit of config.json and that of provenance.json."""
    limits = read_json(folder / CONFIG).get("r2anker", {})
    return limits.get("calibration"), read_json(folder / PROVENANCE_FILE).get("calibration", {}).get("fit")


def _equal(stated: Any, derived: Any) -> bool:
    if stated is None or derived is None:
        return stated is derived
    return bool(np.isclose(stated, derived, rtol=EQUAL, atol=1e-6))


def _into_config(folder: Path, fit: Mapping[str, Any]) -> None:
    limits = read_json(folder / CONFIG).get("r2anker", {})
    edit_json(folder / CONFIG, {"r2anker": {**limits, "calibration": fit}})
