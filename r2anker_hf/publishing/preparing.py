"""From a finished folder to one that may be published as it is: everything in it is sent, and nothing else."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from .. import __version__
from ..files import read_json, sha256_file
from ..negatives.candidates import MANIFEST_FILE, read_manifest
from ..negatives.card import AUDIT_FILE
from ..negatives.card import write_card as write_negatives_card
from ..negatives.preview import write_preview
from ..rankers.calibration import PRECISION
from ..records import InputError
from ..stage import PROVENANCE_FILE, ROUND_FILE
from .cards import enumerated, template_sha256, write_card, write_eval_results
from .evidence import Evidence, gather_all, write
from .golden import is_sparse, load_retriever, write_golden
from .licences import carried
from .lint import findings, refuse, refuse_pickles, this_machine
from .provenance import (
    FIXED,
    PUBLICATION_FILE,
    base_model,
    check_maker,
    collection_of,
    cost,
    is_distilled,
    lineage,
    negatives_of,
    read_stage,
    teachers_of,
)
from .provenance import FORMAT as PROVENANCE_FORMAT

KINDS = {"ranker": "model", "negatives": "dataset", "retriever": "model"}
"""What can be published, and the Hub's type of its repository."""
FORMAT = "r2anker_hf.publication/1"
MODEL_FILES = (
    *("config.json", "model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt"),
    *("vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model"),
    *("config_sentence_transformers.json", "modules.json", "sentence_bert_config.json"),
    *("[0-9]_*/config.json", "[0-9]_*/model.safetensors"),
)
"""What is taken from a model's folder: nothing else is copied, whatever lies there."""
QUOTING = {"negatives": ("README.md", AUDIT_FILE)}
"""Files that show passages of the collection."""
SPLIT = re.compile(r"\w+(\.\w+)*", re.ASCII)
"""The names of splits that `datasets` loads; mining takes more."""


@dataclass
class StatedOfAll:
    """What the publisher says of all parts of a story, because no file knows it; the options of a recipe."""

    licence: str | None = field(
        default=None,
        metadata={"help": "Licence of what is published, as the Hub names it; default that of the training data."},
    )
    language: list[str] = field(default_factory=list, metadata={"help": "Languages of the texts: en ..."})
    base_model: str | None = field(
        default=None,
        metadata={"help": "owner/name@commit of the encoder that training started from, if it was local."},
    )
    collection: list[str] = field(
        default_factory=list,
        metadata={
            "help": "owner/name@commit of the collection measured on, if it was a local copy; of several reports one "
            "each, - for one as it is."
        },
    )
    runs: dict[str, str] = field(
        default_factory=dict, metadata={"help": "Run files behind the report, if they were moved: name=path ..."}
    )
    systems: list[str] = field(
        default_factory=list, metadata={"help": "Systems of the report that are this model; default by its hash."}
    )
    judgements: Literal["copy", "reference"] = field(
        default="copy", metadata={"help": "Publish the evaluated judgements, or refer to their Hub repository."}
    )
    calibration: str | None = field(
        default=None,
        metadata={"help": "Folder of rerank.py over dev queries, by which a ranker's scores become probabilities."},
    )
    precision: float = field(
        default=PRECISION, metadata={"help": "Share of relevant documents that --calibration finds a threshold for."}
    )
    onnx: bool = field(
        default=False,
        metadata={"help": "Also publish a ranker as onnx/model.onnx, and as an int8 file."},
    )
    onnx_queries: int = field(
        default=100, metadata={"help": "Queries of the report that the int8 ranker reranks, for its card; 0: none."}
    )
    latency: bool = field(
        default=False,
        metadata={"help": "Measure a ranker's seconds per 100 passages on this CPU, once, and keep them beside it."},
    )
    benchmark: str | None = field(
        default=None,
        metadata={"help": "owner/name#task_id of a Hub benchmark, for a file in .eval_results with the first report."},
    )
    purpose: str | None = field(default=None, metadata={"help": "What it is for and for whom, one sentence or two."})
    watts: float | None = field(default=None, metadata={"help": "Power of a device in training, for its carbon."})
    grams_per_kwh: float | None = field(
        default=None, metadata={"help": "Grams of CO2 a kilowatt-hour where it was trained."}
    )

    def __post_init__(self):
        self.collection = listed(self.collection)
        if self.benchmark and not re.fullmatch(r"[\w.-]+/[\w.-]+#[\w.-]+", self.benchmark):
            raise InputError(f"benchmark is {self.benchmark!r}, but is written owner/name#task_id")


@dataclass
class Stated(StatedOfAll):
    """What the publisher says of one part, with where those are now that it came from; the options of a recipe."""

    negatives: list[str] = field(
        default_factory=list,
        metadata={
            "help": "owner/name@commit, or folder, of a ranker's candidates, if they were moved; of several sets "
            "one each, - for one that was not moved."
        },
    )
    teacher: str | None = field(
        default=None,
        metadata={"help": "owner/name@commit of the ranker that taught a retriever, if it was local."},
    )

    def __post_init__(self):
        super().__post_init__()
        self.negatives = listed(self.negatives)


@dataclass(frozen=True)
class Prepared:
    """A folder that may be published as it is.

    Attributes:
        kind: one of KINDS.
        repo_id: where it is meant for; the snippets of its card name it.
        repo_type: the Hub's type of repository, "model" or "dataset".
        folder: everything in it is published, and nothing else.
        files: sha256 by path, of every file, `publication.json` among them. Equal inputs give equal bytes.
    """

    kind: str
    repo_id: str
    repo_type: str
    folder: Path
    files: Mapping[str, str]


def prepare(
    kind: str,
    folder: str | os.PathLike,
    repo_id: str,
    *,
    into: str | os.PathLike,
    report: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
    stated: Stated | None = None,
) -> Prepared:
    """Prepare a finished folder for the Hub: only allowed files, which load everywhere, with card and evidence.

    Nothing is sent, and the source folder is only read.

    Args:
        kind: ranker, negatives or retriever.
        folder: what train_ranker.py, mine.py or train_retriever.py (D/D2, say) wrote.
        repo_id: "owner/name" of the repository to be.
        into: the prepared folder, made anew; one that was prepared there before is replaced, other files never.
        report: folder that score.py wrote, or several of them, each of another collection or split; without one the
            card of a model says that nothing was measured.
        stated: what no file knows.

    Returns:
        The prepared folder and the sha256 of its files.

    Raises:
        InputError: one line that names file and finding: a pickle, a token, a path of this machine or a training row
            in any byte, a base model or dataset without commit, a licence that clashes with the data's, a report that
            is not of this model or not of these runs, a model that other loaders would score differently. `into` is
            left as it was then.
    """
    stated = stated or Stated()
    if kind not in KINDS:
        raise InputError(f"kind is {kind!r}; choices: {', '.join(KINDS)}")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise InputError(f"repo_id is {repo_id!r}, but a repository is called owner/name")
    folder, into = Path(folder), Path(into)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    if into.is_dir() and any(into.iterdir()) and not (into / PUBLICATION_FILE).exists():
        raise InputError(f"{into}: holds other files; give a new folder")
    refuse_pickles(folder)
    partial = into.with_name(f".{into.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        if kind == "negatives":
            training = _prepare_negatives(folder, partial, repo_id, stated)
        else:
            training = _prepare_model(kind, folder, partial, repo_id, [Path(one) for one in listed(report)], stated)
        refuse(findings(partial, this_machine(folder), training, QUOTING.get(kind, ())))
        _close(kind, repo_id, partial)
        shutil.rmtree(into, ignore_errors=True)
        os.replace(partial, into)
    except InputError as error:  # the publisher knows the file by its place in the source
        raise InputError(str(error).replace(str(partial), str(folder))) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Prepared(kind, repo_id, KINDS[kind], into, files_of(into))


def listed(value: str | os.PathLike | Sequence[str | os.PathLike] | None) -> list[Any]:
    """Values of an option that takes several, of which one may stand without a list.

    >>> listed(None), listed("a"), listed(["a", "b"])
    ([], ['a'], ['a', 'b'])
    """
    return [] if value is None else [value] if isinstance(value, str | os.PathLike) else list(value)


def files_of(folder: str | os.PathLike) -> dict[str, str]:
    """sha256 by path of all files below a folder."""
    folder = Path(folder)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in paths}


def _close(kind: str, repo_id: str, into: Path) -> None:
    """Close the folder with `publication.json`, which lists all other files."""
    content = {
        "format": FORMAT,
        "kind": kind,
        "repo_id": repo_id,
        "r2anker_hf": __version__,
        "template_sha256": template_sha256(kind),
        "files": {
            name: {"bytes": (into / name).stat().st_size, "sha256": hash_} for name, hash_ in files_of(into).items()
        },
    }
    _write_json(into / PUBLICATION_FILE, content)


def _prepare_model(
    kind: str, folder: Path, into: Path, repo_id: str, reports: Sequence[Path], stated: Stated
) -> Iterable[str]:
    """Model, evidence, provenance and card; returns the training texts that may not stand in them."""
    from ..rankers.onnx_files import FILES, export
    from .calibration import add_calibration
    from .compat import check, rewrite
    from .latency import latency

    stages = lineage(folder)
    if kind == "retriever":
        check_maker(stages[-1], "retriever")
    last = stages[-1]
    mined = kind == "ranker" or is_distilled(last)
    data = negatives_of(last, stated.negatives) if mined else collection_of(last)
    base = base_model(stages, stated.base_model)
    licence = carried(stated.licence, data_licences(data.facts), derived=False, base=base["licence"])
    _copy_model(folder, into)
    rewrite(kind, into)
    check(kind, into)
    with_onnx = kind == "ranker" and stated.onnx
    if with_onnx:
        export(into)
    write_golden(into, kind)
    measured = gather_all(
        reports,
        folder,
        runs=stated.runs,
        systems=stated.systems,
        collections=stated.collection,
        judgements=stated.judgements,
    )
    int8 = _measured_int8(measured, reports, into, stated) if with_onnx else None
    for one in [*measured, *([int8] if int8 else [])]:
        write(one, into)
    facts = [{"systems": one.systems, "runs": one.facts} for one in measured]
    record: dict[str, Any] = {
        "format": PROVENANCE_FORMAT,
        "kind": kind,
        "repo_id": repo_id,
        "purpose": stated.purpose or _purpose(kind, data.facts),
        "licence": licence,
        "language": stated.language,
        "model": model_facts(kind, into),
        "base_model": base,
        "negatives" if mined else "collection": data.facts,
        "stages": [stage.public() for stage in stages],
        **(facts[0] if facts else {"systems": (), "runs": {}}),
        "cost": cost(stages, stated.watts, stated.grams_per_kwh),
    }
    if kind == "ranker" and stated.calibration:
        record["calibration"] = add_calibration(
            Path(stated.calibration), folder, into, stated.precision, stated.judgements
        )
    if with_onnx:
        record["onnx"] = {"systems": int8.systems if int8 else (), "runs": int8.facts if int8 else {}}
        record["onnx"]["bytes"] = {name: (into / name).stat().st_size for name in FILES.values()}
    if kind == "ranker" and stated.latency:
        record["latency"] = latency(into, into.with_name("latency.json"))
    if facts[1:]:
        record["further_reports"] = facts[1:]
    if mined and (teachers := teachers_of(last, data.facts, stated.teacher)):
        record["teachers"] = teachers
    if not mined:
        record["trained_on"] = _negatives_of_retriever(last.config, folder)
    _write_json(into / PROVENANCE_FILE, record)
    write_card(into, kind)
    if stated.benchmark and measured:
        write_eval_results(into, measured[0].report, measured[0].systems, stated.benchmark)
    return data.texts


def _measured_int8(
    measured: Sequence[Evidence], reports: Sequence[Path], into: Path, stated: Stated
) -> Evidence | None:
    """What the int8 file makes of queries of the first report; its scores lie beside `into` and outlast a kill."""
    from .int8 import measure_int8

    if not measured or not stated.onnx_queries:
        return None
    work = into.with_name("int8")
    work.mkdir(exist_ok=True)
    return measure_int8(measured[0], reports[0], into, stated.onnx_queries, work)


def data_licences(facts: Mapping[str, Any]) -> dict[str, str | None]:
    """Licence of each set of training data, by what an error calls it."""
    if "mixture" not in facts:
        return {"the training data": facts["licence"]}
    return {f"training data {number}, {one['name']}": one["licence"] for number, one in enumerate(facts["mixture"], 1)}


def _copy_model(folder: Path, into: Path) -> None:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder)
        if any(fnmatch(name.as_posix(), pattern) for pattern in MODEL_FILES) and len(name.parts) <= 2:
            (into / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, into / name)
    if not any(into.glob("*.safetensors")):
        raise InputError(f"{folder}: holds no model.safetensors; only safetensors are published")


def model_facts(kind: str, folder: Path) -> dict[str, Any]:
    """What the card says of the model itself."""
    from ..rankers.ranker import CrossEncoderRanker

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    facts: dict[str, Any] = {"architecture": config["architectures"][0], "parameters": _parameters(folder)}
    facts["bytes"] = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    if kind == "ranker":
        ranker = CrossEncoderRanker.from_pretrained(folder, device="cpu")
        names = ("max_length", "max_query_length", "max_windows")
        return {"form": "ranker", **facts, **{name: getattr(ranker.encoder, name) for name in names}}
    model = load_retriever(folder)
    form = "splade" if is_sparse(folder) else "dense"
    size = {"dimension": model.get_embedding_dimension(), "similarity": model.similarity_fn_name}
    return {"form": form, **facts, "max_length": model.max_seq_length, **size}


def _parameters(folder: Path) -> int:
    from safetensors import safe_open

    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="np") as weights:
            total += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return total


def _purpose(kind: str, facts: Mapping[str, Any]) -> str:
    sets = facts.get("mixture", [facts])
    names = dict.fromkeys(one.get("collection", one)["name"] for one in sets)
    source = enumerated(list(names))
    what = (
        "It orders the passages that a first stage found, so that those which answer the query come first"
        if kind == "ranker"
        else "It finds passages that answer a query"
    )
    return f"{what}: for search like that of {source}, which it was trained on."


def _negatives_of_retriever(config: Mapping[str, Any], folder: Path) -> str:
    first = "mined candidates" if config.get("negatives") else "BM25's top documents"
    if _round_of(folder) > 1:
        return f"{first} and those of the round before it, down to rank {config['depth']}"
    return f"{first}, down to rank {config['depth']}"


def _round_of(folder: Path) -> int:
    """Which round of its training a retriever comes from; finished folders may have it by its former name."""
    former = folder / "training_stage.json"
    if former.is_file():
        return read_json(former, "stage")["stage"]
    return read_json(folder / ROUND_FILE, "round")["round"]


def _prepare_negatives(folder: Path, into: Path, repo_id: str, stated: Stated) -> Iterable[str]:
    """What the manifest lists, and what is made from it; nothing is left to look for, the rows are the dataset."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the folder that mine.py finished")
    manifest = read_manifest(folder, "collection", "corpus", "splits", "files", "licence")
    _check_pins(manifest, path)
    _check_splits(manifest["splits"], path)
    for name, facts in manifest["files"].items():
        if not (folder / name).is_file() or sha256_file(folder / name) != facts["sha256"]:
            raise InputError(f"{folder / name}: is not the file that {MANIFEST_FILE} lists; mine again")
        (into / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(folder / name, into / name)
    manifest["licence"] = carried(stated.licence, {"the collection": manifest["licence"]}, derived=True)
    if "repo" not in manifest["corpus"]:  # texts are in the dataset anyway
        manifest["files"] |= _preview(folder, into, manifest["splits"])
    _write_json(into / MANIFEST_FILE, manifest)
    if (folder / AUDIT_FILE).is_file():
        shutil.copyfile(folder / AUDIT_FILE, into / AUDIT_FILE)
    stage = read_stage(folder)
    _write_json(
        into / PROVENANCE_FILE,
        {
            "format": PROVENANCE_FORMAT,
            "kind": "negatives",
            "repo_id": repo_id,
            "language": stated.language,
            "stages": [stage.public()],
            "cost": cost([stage], stated.watts, stated.grams_per_kwh),
        },
    )
    write_negatives_card(into, repo_id)
    return ()


def _preview(folder: Path, into: Path, splits: Iterable[str]) -> dict[str, Any]:
    """What the manifest says of the texts that the Hub's viewer shows."""
    paths = {name: into / name for name in (write_preview(folder, into, split) for split in splits)}
    return {name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)} for name, path in paths.items()}


def _check_splits(splits: Iterable[str], path: Path) -> None:
    """Nobody could load a split of another name, and that would show only after it was sent."""
    for split in splits:
        if not SPLIT.fullmatch(split):
            better = "_".join(re.findall(r"\w+", split, re.ASCII))
            raise InputError(
                f"{path}: datasets loads no split called {split!r}; in a copy of the collection, call its judgements "
                f"{better}, say, and mine again"
            )


def _check_pins(manifest: Mapping[str, Any], path: Path) -> None:
    """Collection, retrievers' models and rankers by commit or hash."""
    where = {"collection": manifest["collection"], "corpus": manifest["corpus"]}
    for what, facts in where.items():
        if "revision" in facts and not re.fullmatch(r"(sha256:)?[0-9a-f]{40,64}", str(facts["revision"])):
            raise InputError(
                f"{path}: {what} at {facts['revision']} is not pinned to a commit; load it with --revision"
            )
    for split in manifest["splits"].values():
        for name, run in split["retrievers"].items():
            model = (run.get("settings") or {}).get("model", "")
            if model and not FIXED.fullmatch(model):
                raise InputError(f"{path}: retriever {name}: {model} is not pinned; retrieve with --model_revision")
        for name, run in split.get("rankings", {}).items():
            ranker = (run.get("settings") or {}).get("ranker", "")
            if ranker and not FIXED.fullmatch(ranker):
                raise InputError(f"{path}: ranking {name}: {ranker} is not pinned; teach with --ranker_revision")


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
