"""What a card's figures rest on: the report, the run files behind it, and the judgements, checked and made public."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..collection.collection import Collection, load_collection, read_qrels
from ..config import CONFIG_FILE
from ..evaluation.evaluation import CollectionFacts, EvaluationReport, FirstStage, evaluate
from ..evaluation.measures import Qrels
from ..evaluation.report import read_report
from ..files import read_json, read_yaml, sha256_file
from ..negatives.candidates import public_name, run_facts
from ..records import InputError
from ..run import Run
from ..stage import PROVENANCE_FILE, digest_of
from .lint import UNPACKED
from .provenance import AS_RECORDED, PINNED, pinned

FIRST = "eval"
INT8 = "eval/int8"  # what the int8 file makes of some of the first report's queries
REPORT_FILE = "report.json"
JUDGEMENTS_FILE = "judgements.json"
QRELS_FILE = "qrels.txt.gz"
RUNS = "runs"
EQUAL = 1e-9  # two evaluations of one run differ by rounding alone


@dataclass(frozen=True)
class Evidence:
    """A report with what it was made from.

    Attributes:
        report: as published, without a local path.
        systems: those of its systems that are the published model.
        runs: run file by system.
        facts: how each run was made.
        qrels: the judgements.
        judgements: what `judgements.json` says of them.
        place: folder of the published model that all of it goes into.
    """

    report: EvaluationReport
    systems: tuple[str, ...]
    runs: Mapping[str, Path]
    facts: Mapping[str, Mapping[str, Any]]
    qrels: Qrels
    judgements: Mapping[str, Any]
    place: str = FIRST


@dataclass(frozen=True)
class Measured:
    """A report of a published model, as its files say.

    Attributes:
        report: what was measured.
        systems: those of its systems that are the model.
        runs: how each run was made.
        place: folder of the report: `eval`, of further reports `eval/2` and so on.
    """

    report: EvaluationReport
    systems: tuple[str, ...]
    runs: Mapping[str, Mapping[str, Any]]
    place: str


def place_of(number: int) -> str:
    """Where the report of this number goes, counted from 1.

    >>> place_of(1), place_of(2)
    ('eval', 'eval/2')
    """
    return FIRST if number == 1 else f"{FIRST}/{number}"


def places_in(folder: Path, provenance: Mapping[str, Any]) -> list[str]:
    """The folders of the reports; none where nothing was measured."""
    if not (folder / FIRST / REPORT_FILE).exists():
        return []
    return [place_of(number) for number in range(1, 2 + len(provenance.get("further_reports", ())))]


def measured_in(folder: Path, provenance: Mapping[str, Any]) -> list[Measured]:
    """The reports of a folder, in order; none where nothing was measured."""
    places, parts = places_in(folder, provenance), [provenance, *provenance.get("further_reports", ())]
    return [
        Measured(read_report(folder / place / REPORT_FILE), tuple(part["systems"]), part.get("runs", {}), place)
        for part, place in zip(parts, places, strict=False)
    ]


def int8_in(folder: Path, provenance: Mapping[str, Any]) -> Measured | None:
    """What the int8 file of a folder was measured to do; None where it was not."""
    if not (folder / INT8 / REPORT_FILE).exists():
        return None
    return Measured(read_report(folder / INT8 / REPORT_FILE), tuple(provenance["onnx"]["systems"]), {}, INT8)


def gather(
    report_folder: str | Path,
    model: str | Path,
    *,
    runs: Mapping[str, str],
    systems: Sequence[str],
    collection: str | None,
    judgements: str,
    place: str = FIRST,
) -> Evidence:
    """Find what a report was made from, and make it again: every figure must come out.

    Args:
        report_folder: what score.py wrote.
        model: folder of the published model; its own systems are known by its hash.
        runs: run files that have moved.
        systems: the model's systems, where no hash says so.
        collection: "owner/name@commit" that a local copy of the collection was made from.
        judgements: "copy" or "reference".
        place: folder of the published model that it is for.

    Raises:
        InputError: a run is missing, is another than was measured or was made by another model; a figure of the
            report does not come out.
    """
    folder = Path(report_folder)
    report = read_report(folder)
    config = _config(folder)
    for name in runs:
        report.system(name)  # refuses a name that the report has not
    paths = {
        s.name: Path(runs.get(s.name) or config["runs"].get(s.name, f"no run of {s.name}")) for s in report.systems
    }
    for system in report.systems:
        _check_run(folder, paths[system.name], system.run_sha256)
    qrels = _qrels(folder)
    recomputed = again(report, qrels, paths)
    if wrong := differences(report, recomputed):
        raise InputError(f"{folder / 'report.json'}: {wrong[0]}")
    identity = identity_of(report.collection, collection)
    own = _own_systems(report, paths, Path(model), systems)
    facts = {name: run_facts(path) for name, path in paths.items()}
    return published(report, own, paths, facts, qrels, place, identity, judgements)


def published(
    report: EvaluationReport,
    systems: tuple[str, ...],
    runs: Mapping[str, Path],
    facts: Mapping[str, Mapping[str, Any]],
    qrels: Qrels,
    place: str,
    identity: str,
    judgements: str = "copy",
) -> Evidence:
    """A report as it may be published at a place: of the collection `identity`, without a local path."""
    stated = _judgement_facts(place, qrels, identity, report.collection.split, judgements)
    public = _public(report, identity, judgements, stated["sha256"], place)
    return Evidence(public, systems, runs, facts, qrels, stated, place)


def gather_all(
    report_folders: Sequence[Path],
    model: Path,
    *,
    runs: Mapping[str, str],
    systems: Sequence[str],
    collections: Sequence[str],
    judgements: str,
) -> list[Evidence]:
    """`gather` for each report; a run or system belongs to every report that has a system of this name.

    Raises:
        InputError: two reports are of one collection and split, no report has a name that is given, or as in `gather`.
    """
    if len(collections) not in (0, len(report_folders)):
        raise InputError(f"collection: {len(collections)} are given for {len(report_folders)} reports")
    names = [[system.name for system in read_report(folder).systems] for folder in report_folders]
    for name in (*runs, *systems):
        if report_folders and not any(name in one for one in names):
            read_report(report_folders[0]).system(name)  # refuses it, with the choices
    found: list[Evidence] = []
    for number, (folder, own) in enumerate(zip(report_folders, names, strict=True), start=1):
        collection = collections[number - 1] if collections else AS_RECORDED
        one = gather(
            folder,
            model,
            runs={name: path for name, path in runs.items() if name in own},
            systems=[name for name in systems if name in own],
            collection=None if collection == AS_RECORDED else collection,
            judgements=judgements,
            place=place_of(number),
        )
        facts = one.report.collection
        if any((facts.name, facts.split) == (o.report.collection.name, o.report.collection.split) for o in found):
            raise InputError(f"{folder}: is a second report of {facts.name}, split {facts.split}; give one of them")
        found.append(one)
    return found


def write(evidence: Evidence, folder: Path) -> None:
    """Write report, runs and judgements into their place below `eval/`; equal evidence gives equal bytes."""
    target = folder / evidence.place
    (target / RUNS).mkdir(parents=True)
    (target / REPORT_FILE).write_text(evidence.report.to_json(), encoding="utf-8")
    for system in evidence.report.systems:
        pack_run(evidence.runs[system.name], folder / str(system.run_file))
    _write_judgements(folder, evidence.place, evidence.qrels, evidence.judgements)


def pack_run(run: Path, target: Path) -> None:
    """Compress a run file; equal runs give equal bytes."""
    with open(run, "rb") as source:
        _compress(target, source)


def write_judgements(folder: Path, place: str, qrels: Qrels, identity: str, split: str, judgements: str) -> None:
    """Write judgements into a place of a published folder, or where on the Hub they are ("reference").

    Raises:
        InputError: a reference to what is not on the Hub at a commit.
    """
    facts = _judgement_facts(place, qrels, identity, split, judgements)
    (folder / place).mkdir(parents=True)
    _write_judgements(folder, place, qrels, facts)


def _judgement_facts(place: str, qrels: Qrels, identity: str, split: str, judgements: str) -> dict[str, Any]:
    if judgements == "reference" and not PINNED.fullmatch(identity):
        raise InputError(f"judgements: reference needs a collection on the Hub at a commit, but it is {identity}")
    return {
        "collection": identity,
        "split": split,
        "file": f"{place}/{QRELS_FILE}" if judgements == "copy" else None,
        "sha256": _lines_sha256(qrels),
        "queries": len(qrels),
        "judgements": sum(map(len, qrels.values())),
    }


def _write_judgements(folder: Path, place: str, qrels: Qrels, facts: Mapping[str, Any]) -> None:
    if facts["file"]:
        _compress(folder / place / QRELS_FILE, _lines(qrels))
    (folder / place / JUDGEMENTS_FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def read_judgements(folder: Path, place: str, scratch: Path) -> Qrels:
    """Judgements of a place of a published folder; from the Hub where it refers to them.

    Args:
        folder: the published folder.
        place: of judgements.json in it.
        scratch: a folder, where they are unpacked.

    Raises:
        InputError: a file is missing, or they are not those of judgements.json.
    """
    stated = read_json(folder / place / JUDGEMENTS_FILE, "file", "sha256", "collection", "split")
    if stated["file"]:
        qrels = read_qrels(unpack(inside(folder, stated["file"]), scratch / "qrels"))
    else:
        name, revision = pinned(stated["collection"], folder / place / JUDGEMENTS_FILE, "--collection")
        qrels = load_collection(name, stated["split"], revision).qrels
    if _lines_sha256(qrels) != stated["sha256"]:
        raise InputError(f"{place}/{JUDGEMENTS_FILE}: the judgements are others than those that were used")
    return qrels


def read_published(folder: Path, scratch: Path, place: str = FIRST) -> tuple[EvaluationReport, Qrels, dict[str, Path]]:
    """Report, judgements and run files of a published folder; the judgements from the Hub where it refers to them.

    Args:
        folder: the published folder.
        scratch: an empty folder, where the runs are unpacked.
        place: of the report in the published folder.

    Raises:
        InputError: a file is missing, or its content is not what report or judgements.json say.
    """
    report = read_report(folder / place / REPORT_FILE)
    qrels = read_judgements(folder, place, scratch)
    packed = {system.name: inside(folder, str(system.run_file)) for system in report.systems}
    paths = {name: unpack(path, scratch / f"{n}.trec") for n, (name, path) in enumerate(packed.items())}
    for system in report.systems:
        if sha256_file(paths[system.name]) != system.run_sha256:
            raise InputError(f"{system.run_file}: is not the run that {place}/{REPORT_FILE} measured")
    return report, qrels, paths


def again(report: EvaluationReport, qrels: Qrels, runs: Mapping[str, Path]) -> EvaluationReport:
    """The report that these runs and judgements give, with the same measures and settings."""
    reranked = {s.name: s.first_stage for s in report.systems if s.first_stage}
    pairs = [(c.baseline, c.system) for c in report.comparisons if c.measure == report.measures[0]]
    return evaluate(
        qrels,
        [Run.read_trec(runs[system.name], system.name) for system in report.systems],
        report.measures,
        collection=report.collection,
        settings=report.settings,
        first_stages={name: first.name for name, first in reranked.items()},
        depths={name: first.depth for name, first in reranked.items()},
        recall_grade=_recall_grade(reranked.values()),
        pairs=pairs,
        examples=0,
    )


def differences(stated: EvaluationReport, found: EvaluationReport) -> list[str]:
    """A line for each figure of `stated` that does not come out."""
    wrong = []
    for ours, theirs in zip(stated.systems, found.systems, strict=True):
        first = ours.first_stage
        figures: list[tuple[str, float, float]] = [
            (part, getattr(ours, part), getattr(theirs, part)) for part in ("queries", "depth", "tied")
        ]
        for measure in stated.measures:
            for part in ("mean", "low", "high"):
                pair = getattr(ours.scores[measure], part), getattr(theirs.scores[measure], part)
                figures.append((f"{measure} ({part})", *pair))
            if first and theirs.first_stage:
                ceilings = first.ceiling[measure], theirs.first_stage.ceiling[measure]
                figures.append((f"ceiling of {measure}", *ceilings))
        if first and theirs.first_stage:
            figures.append((first.recall_measure, first.recall, theirs.first_stage.recall))
        wrong += [f"{ours.name}: {_differs(*figure)}" for figure in figures if abs(figure[1] - figure[2]) > EQUAL]
    for one in stated.comparisons:
        other = found.comparison(one.measure, one.baseline, one.system)
        for part in ("difference", "low", "high", "p_value", "p_corrected", "wins", "ties", "losses"):
            pair = getattr(one, part), getattr(other, part)
            if abs(pair[0] - pair[1]) > EQUAL:
                wrong.append(f"{one.system} against {one.baseline}: {_differs(f'{one.measure} ({part})', *pair)}")
    empty = stated.queries_without_relevant, found.queries_without_relevant
    if empty[0] != empty[1]:
        wrong.append(_differs("queries_without_relevant", *empty))
    if tuple(stated.query_ids) != tuple(found.query_ids):
        wrong.append(f"{len(stated.query_ids)} queries are stated, but {len(found.query_ids)} were judged")
    elif stated.per_query != found.per_query:
        wrong.append("per_query: values of single queries differ from those of the runs")
    return wrong


def _differs(what: str, stated: float, found: float) -> str:
    return f"{what} is stated as {stated:.6g}, but runs and judgements give {found:.6g}"


def _config(folder: Path) -> dict[str, Any]:
    try:
        return read_yaml(folder / CONFIG_FILE, "runs", "qrels", "collection", "split", "revision", "use_titles")
    except InputError as error:
        raise InputError(f"{error}; give the folder that score.py wrote") from None


def _check_run(folder: Path, path: Path, sha256: str | None) -> None:
    if not path.is_file():
        raise InputError(f"{path}: no such run file, but {folder} measured it; say where it is with --runs")
    if sha256_file(path) != sha256:
        raise InputError(f"{path}: has changed since {folder / 'report.json'} measured it; score again")


def load_measured(report_folder: Path) -> Collection:
    """The collection that a report measured on, texts included.

    Raises:
        InputError: it measured judgements only.
    """
    config = _config(report_folder)
    if not config["collection"]:
        raise InputError(f"{report_folder}: was measured without a collection's texts")
    options = config.get("collection_options") or {}
    return load_collection(config["collection"], config["split"], config["revision"], config["use_titles"], **options)


def _qrels(report_folder: Path) -> Qrels:
    config = _config(report_folder)
    if chosen := config.get("query_ids"):
        raise InputError(f"{report_folder}: measures only the queries of {chosen}; publish a report of a whole split")
    if judgements := config["qrels"]:
        return read_qrels(judgements)
    return load_measured(report_folder).qrels


def identity_of(facts: CollectionFacts, stated: str | None = None) -> str:
    """name@revision as it may be published."""
    if stated:
        return "@".join(pinned(stated, "collection", "--collection"))
    return f"{public_name(facts.name)}@{facts.revision}" if facts.revision else public_name(facts.name)


def _public(
    report: EvaluationReport, identity: str, judgements: str, qrels_sha256: str, place: str
) -> EvaluationReport:
    name, _, revision = identity.partition("@")
    taken: dict[str, str] = {}
    for system in report.systems:
        stem = re.sub(r"[^\w.-]+", "_", system.name).strip(".") or "run"
        taken[system.name] = f"{stem}_{len(taken)}" if stem in taken.values() else stem
    return dataclasses.replace(
        report,
        collection=dataclasses.replace(report.collection, name=name, revision=revision or None),
        qrels_file=f"{place}/{QRELS_FILE}" if judgements == "copy" else None,
        qrels_sha256=qrels_sha256,
        systems=tuple(
            dataclasses.replace(system, run_file=f"{place}/{RUNS}/{taken[system.name]}.trec.gz")
            for system in report.systems
        ),
    )


def _own_systems(
    report: EvaluationReport, runs: Mapping[str, Path], model: Path, stated: Sequence[str]
) -> tuple[str, ...]:
    """The systems whose runs this model made, as their provenance says."""
    digest = digest_of(model)
    makers = {name: _maker(path) for name, path in runs.items()}
    for name in stated:
        report.system(name)
        if makers[name] not in (None, digest):
            raise InputError(f"{runs[name]}: was made by another model than {model}, or files there changed since")
    found = tuple(stated) or tuple(name for name, maker in makers.items() if maker == digest)
    if not found:
        names = ", ".join(makers)
        raise InputError(f"{model}: made none of the report's runs ({names}); score it, or name them with --systems")
    return found


def _maker(run: Path) -> str | None:
    """What provenance records of the model that made a run; None where nothing is recorded."""
    path = run.parent / PROVENANCE_FILE
    if not path.is_file():
        return None
    inputs = read_json(path, "inputs")["inputs"]
    return inputs.get("ranker") or inputs.get("model")


def _recall_grade(first_stages: Iterable[FirstStage]) -> int:
    grades = {int(match[1]) for s in first_stages if (match := re.match(r"R\(rel=(\d+)\)", s.recall_measure))}
    return grades.pop() if grades else 1


def _lines(qrels: Qrels) -> Iterator[bytes]:
    """Judgements in TREC's form and one order."""
    for query_id in sorted(qrels):
        for doc_id in sorted(qrels[query_id]):
            yield f"{query_id} 0 {doc_id} {qrels[query_id][doc_id]}\n".encode()


def _lines_sha256(qrels: Qrels) -> str:
    digest = hashlib.sha256()
    for line in _lines(qrels):
        digest.update(line)
    return digest.hexdigest()


def _compress(path: Path, lines: Any) -> None:
    with open(path, "wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as file:
        for line in lines:
            file.write(line)


def inside(folder: Path, name: str) -> Path:
    """A file that a repository names; whoever wrote the name may not lead a reader to other files."""
    if Path(name).is_absolute() or ".." in re.split(r"[\\/]", name):
        raise InputError(f"{name}: leads out of the repository")
    return folder / name


def unpack(path: Path, target: Path) -> Path:
    """Decompress a published file to at most `UNPACKED` times its size: a small file must not fill a disk."""
    try:
        left = UNPACKED * path.stat().st_size
        with gzip.open(path) as source, open(target, "wb") as file:
            while piece := source.read(1 << 20):
                left -= len(piece)
                if left < 0:
                    raise InputError(f"{path}: unpacks to more than {UNPACKED} times its size")
                file.write(piece)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: is no gzip file ({error})") from None
    return target
