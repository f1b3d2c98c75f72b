"""How a model came about, in a form that may be published: stages, data, licences and cost, without a local path."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any

from ..collection.collection import load_collection
from ..config import CONFIG_FILE, with_names_of_today
from ..files import read_json, read_yaml, sha256_file
from ..negatives.candidates import MANIFEST_FILE, load_candidates, public_name, read_manifest
from ..negatives.card import AUDIT_FILE, PREVIEW
from ..negatives.sampling import Sampling
from ..rankers.options import ListwiseOptions
from ..records import InputError
from ..retrievers.options import DistillationTraining, RetrieverTraining, Rounds
from ..stage import PROVENANCE_FILE, digest_of
from .mixtures import is_recorded, recorded_sets, sets_of, splits_of, with_shares

FORMAT = "r2anker_hf.provenance/1"
COMMIT = re.compile(r"[0-9a-f]{40}")
FIXED = re.compile(r"(?P<name>.+)@(?P<revision>[0-9a-f]{40}|sha256:[0-9a-f]{64})")
"""A model by its commit, or a local one by its files' hash."""
PINNED = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)@(?P<revision>[0-9a-f]{40})")
PUBLICATION_FILE = "publication.json"
_LOCAL = "sha256:"
AS_RECORDED = "-"  # of a set of candidates, among several that moved
_OF_SAMPLING = {field.name: field for field in fields(Sampling) if "published" in field.metadata}
# Of a stage's configuration: what decides the numbers. The rest is places, logging and the machine.
SETTINGS = (
    *("objective", "loss", "num_negatives", *_OF_SAMPLING),
    *("negatives_split", "retriever", "rounds", "split", "max_queries", "head_steps", "query_flops", "document_flops"),
    *(
        "max_length",
        "max_query_length",
        "max_windows",
        "use_titles",
        "freeze_embeddings",
        "temperature",
        "label_weight",
        "dropout",
        "lora_rank",
    ),
    *("label_weight", "lora_alpha", "learning_rate", "lr_scheduler_type", "warmup_steps", "warmup_share", "optim"),
    *(
        "weight_decay",
        "max_grad_norm",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "num_train_epochs",
        "max_steps",
    ),
    *("mixed_precision", "bf16", "held_out", "dev_split", "dev_measure", "dev_depth", "seed", "round2_from"),
    *("teacher_ranking", "teacher_dtype", "teacher_temperature", "contrastive_weight"),
    *("whole_words", "mixture_weights", "mixture_temperature"),
)
_OF_SPLADE = ("head_steps", "query_flops", "document_flops")
# Not worth a line of a card: they say that an option was not used.
_UNUSED: dict[str, Any] = {
    name: field.default for name, field in _OF_SAMPLING.items() if field.metadata["published"] == "if_set"
}
_UNUSED |= {"max_steps": -1, "lora_rank": 0, "negatives_split": ["train"]}
_UNUSED |= {"contrastive_weight": 0.0, "round2_from": "round1", "mixture_temperature": 1.0, "max_windows": 1}


@dataclass(frozen=True)
class Stage:
    """A finished stage: its folder, what it was asked and what it recorded."""

    folder: Path
    config: Mapping[str, Any]
    record: Mapping[str, Any]

    def public(self) -> dict[str, Any]:
        """What may be published of it."""
        kept = ("recipe", "git_commit", "packages", "python", "hardware", "seconds_of_last_launch")
        used = [key for key in SETTINGS if self.config.get(key) not in (None, {}, [], "", _UNUSED.get(key))]
        hidden: tuple[str, ...] = _OF_SPLADE if self.config.get("retriever") == "dense" else ()
        hidden += ("bf16",) if "mixed_precision" in used else ()
        hidden += ("dev_split",) if "held_out" in used else ()
        hidden += _unread_of_teachers(self.config)
        settings = {key: self.config[key] for key in used if key not in hidden}
        return {
            **{key: self.record[key] for key in kept if key in self.record},
            "inputs": {name: _public_input(value) for name, value in self.record["inputs"].items()},
            "settings": {key: public_name(value) for key, value in settings.items()},
        }


def _unread_of_teachers(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Options of teachers that a training did not read: those of judgements only, and of fused first stages."""
    if config.get("loss", "contrastive") != "contrastive" or config.get("objective") == "ranker":
        return ()
    fused = config.get("objective") == "retrievers"
    return ("teacher_ranking",) if fused else ("teacher_ranking", "teacher_temperature")


def read_stage(folder: str | Path) -> Stage:
    """The stage that wrote a folder; its record may stand one level up, as for the rounds of a retriever.

    Raises:
        InputError: there is none.
    """
    folder = Path(folder)
    for place in (folder, folder.resolve().parent):
        if (place / PROVENANCE_FILE).is_file() and (place / CONFIG_FILE).is_file():
            config = _of_today(read_yaml(place / CONFIG_FILE))
            return Stage(place, config, read_json(place / PROVENANCE_FILE, "inputs"))
    raise InputError(f"{folder / PROVENANCE_FILE}: no such file; give the folder that a recipe finished")


def _of_today(config: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's options under the names of today; which they were before depends on the training."""
    training: type = RetrieverTraining
    if "contrastive_weight" in config:
        training = DistillationTraining
    elif "freeze_embeddings" in config:
        training = ListwiseOptions
    return with_names_of_today(config, training, Rounds)


def lineage(folder: str | Path) -> list[Stage]:
    """The trainings that lead to a model, the first one first: a warm start is a stage of its own.

    Raises:
        InputError: a model that it was trained from has changed since.
    """
    stages = [read_stage(folder)]
    check_maker(stages[0], "model")
    while (start := Path(stages[0].config["model"])) and (start / PROVENANCE_FILE).is_file():
        if digest_of(start) != stages[0].record["inputs"]["model"]:
            raise InputError(f"{start}: has changed since {stages[0].folder} was trained from it")
        stages.insert(0, read_stage(start))
    return stages


def base_model(stages: list[Stage], stated: str | None) -> dict[str, Any]:
    """The encoder that training started from: name, revision (a commit or a local folder's hash) and licence.

    Args:
        stages: the trainings that lead to a model (see `lineage`).
        stated: owner/name@commit, where the record names no commit.

    Raises:
        InputError: it stands on the Hub without a commit, or another one is recorded than what is stated.
    """
    config, recorded = stages[0].config, stages[0].record["inputs"]["model"]
    licence = _card_licence(Path(config["model"]) / "README.md")
    if stated or not recorded.startswith(_LOCAL):
        where = "base_model" if stated else stages[0].folder / PROVENANCE_FILE
        name, revision = pinned(stated or recorded, where, "--base_model")
        # a few old repositories are recorded without an owner
        if FIXED.fullmatch(recorded) and not f"/{name}@{revision}".endswith(f"/{recorded}"):
            raise InputError(f"base_model: {stated} is stated, but {stages[0].folder} was trained from {recorded}")
        return {"name": name, "revision": revision, "licence": licence or _hub_licence(name, revision, "model")}
    return {"name": public_name(config["model"]), "revision": recorded, "licence": licence}


def pinned(reference: str, where: object, option: str) -> tuple[str, str]:
    """Name and commit of "owner/name@commit".

    Raises:
        InputError: it names no commit.
    """
    match = PINNED.fullmatch(reference)
    if not match:
        raise InputError(f"{where}: {reference} is not pinned to a commit; give {option} owner/name@<40 hex digits>")
    return match["name"], match["revision"]


@dataclass(frozen=True)
class TrainingData:
    """What a model was trained on: facts for the card, and the texts that must not be published with it."""

    facts: Mapping[str, Any]
    texts: Iterator[str]


def negatives_of(stage: Stage, stated: Sequence[str] = ()) -> TrainingData:
    """The candidates that a ranker, or a retriever that a ranker taught, learned from: their manifests and audits.

    Args:
        stage: the training.
        stated: of each set of candidates where it is now, `AS_RECORDED` where it was not moved; empty: none was.

    Returns:
        The facts of the only set, or `{"mixture": [facts of each set]}`, and the texts of all.

    Raises:
        InputError: they are not there any more, have changed, or stand on the Hub without a commit.
    """
    check_maker(stage, "negatives", "num_negatives", "policy", "depth")
    given = _values(stage, "negatives")
    if len(stated) not in (0, len(given)):
        raise InputError(f"negatives: {len(stated)} are given, but {stage.folder} was trained on {len(given)}")
    places: Sequence[str | None] = stated or [None] * len(given)
    moved = [None if place == AS_RECORDED else place for place in places]
    recorded, splits = recorded_sets(stage.record["inputs"]), _splits(stage, len(given))
    sets = [_one_set(stage, *one) for one in zip(given, recorded, moved, splits, strict=True)]
    texts = chain.from_iterable(one.texts for one in sets)
    facts = [one.facts for one in sets]
    return TrainingData(facts[0] if len(sets) == 1 else {"mixture": with_shares(facts, stage.config)}, texts)


def _splits(stage: Stage, count: int) -> list[str]:
    """The split of each set of candidates; a distillation has one set, and calls it `split`."""
    return [stage.config["split"]] if is_distilled(stage) else splits_of(stage.config, count)


def is_distilled(stage: Stage) -> bool:
    """Whether it is a distillation: distil.py, and no other recipe, has this option."""
    return "contrastive_weight" in stage.config


def _one_set(stage: Stage, given: str, recorded: str, stated: str | None, split: str) -> TrainingData:
    name = revision = stated or (given if recorded.startswith(_LOCAL) else recorded)
    if Path(name).is_dir():
        revision = digest_of(Path(name))
        if revision != recorded:
            raise InputError(f"{name}: has changed since {stage.folder} was trained on it")
    else:
        name, revision = pinned(name, stage.folder / PROVENANCE_FILE, "--negatives")
    if Path(given).is_dir() and name != given:
        if _files(given, "") != _files(name, revision):
            raise InputError(f"negatives: {stated} are others than {given}, which {stage.folder} was trained on")
    if not is_recorded(revision, recorded):
        raise InputError(f"negatives: {stated} is another commit than {recorded}, which {stage.folder} was trained on")
    source = given if Path(given).is_dir() else name  # the same rows, without a download
    texts = _candidate_texts(source, split, None if Path(source).is_dir() else revision)
    return TrainingData(negatives_facts(name, revision), texts)


def _values(stage: Stage, option: str) -> list[str]:
    """The values of an option that takes several; configurations before 0.1.0 hold one without a list."""
    value = stage.config[option]
    return value if isinstance(value, list) else [value]


def negatives_facts(name: str, revision: str) -> dict[str, Any]:
    """What a card says of candidates, out of their manifest and audit.

    Raises:
        InputError: they cannot be read there.
    """
    folder = _facts_folder(name, revision)
    manifest = read_manifest(folder, "collection")
    audit = folder / AUDIT_FILE
    return {
        "name": f"candidates mined from {manifest['collection']['name']}" if revision.startswith(_LOCAL) else name,
        "revision": revision,
        **{key: manifest.get(key) for key in ("licence", "collection", "use_titles", "depth", "splits")},
        "audit": _without_cases(read_json(audit)) if audit.exists() else None,
    }


def teachers_of(stage: Stage, negatives: Mapping[str, Any], stated: str | None = None) -> list[dict[str, Any]]:
    """Whose scores a training learned, each once; nothing where it learned none.

    Args:
        stage: the training.
        negatives: facts of the candidates that hold the scores (see `negatives_of`).
        stated: owner/name@commit where the ranker is that a distillation was given as a folder.

    Returns:
        Ranking with name and revision of a ranker, or with method and weights of fused first stages.

    Raises:
        InputError: a ranker is pinned neither to a commit nor by its files' hash.
    """
    ranking = _ranking_learned(stage)
    if ranking is None:
        return []
    if is_distilled(stage) and stage.config["teacher"]:
        return [_ranker_given(stage, ranking, stated)]
    sets = sets_of({"negatives": negatives})
    splits = _splits(stage, len(sets))
    rankings = [one["splits"][split].get("rankings", {}) for one, split in zip(sets, splits, strict=True)]
    found = [_teacher(stage, ranking, one.get(ranking, {})) for one in rankings]
    return [one for place, one in enumerate(found) if one not in found[:place]]


def _ranking_learned(stage: Stage) -> str | None:
    """What the learned scores are called in the candidates; None where judgements or first stages taught."""
    if is_distilled(stage):
        return None if stage.config["loss"] == "contrastive" else str(stage.config["teacher_ranking"])
    return str(stage.config["teacher_ranking"]) if stage.config.get("objective") == "ranker" else None


def _ranker_given(stage: Stage, ranking: str, stated: str | None) -> dict[str, Any]:
    """The ranker that scored what a distillation drew."""
    recorded, given = stage.record["inputs"]["teacher"], stage.config["teacher"]
    if not recorded.startswith(_LOCAL):
        name, revision = pinned(stated or recorded, stage.folder / PROVENANCE_FILE, "--teacher")
        if f"{name}@{revision}" != recorded:
            raise InputError(f"teacher: {stated} is stated, but {stage.folder} learned from {recorded}")
    elif stated:
        name, revision = pinned(stated, "teacher", "--teacher")
        if Path(given).is_dir() and _weights(Path(given)) != _weights_published(name, revision):
            raise InputError(f"teacher: the weights of {stated} are others than those of {given}")
    else:
        name, revision = public_name(given), recorded
    return {"ranking": ranking, "name": name, "revision": revision}


def _weights(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(folder.glob("*.safetensors"))}


def _weights_published(name: str, revision: str) -> dict[str, str]:
    """sha256 of the weights of a model that was published from here, as its `publication.json` lists them."""
    from huggingface_hub import hf_hub_download

    try:
        listed = read_json(hf_hub_download(name, PUBLICATION_FILE, revision=revision), "files")["files"]
    except (OSError, ValueError) as error:
        raise InputError(
            f"{name}@{revision}: {PUBLICATION_FILE} cannot be read: {str(error).splitlines()[0]}"
        ) from error
    return {
        path: facts["sha256"] for path, facts in sorted(listed.items()) if re.fullmatch(r"[^/]+\.safetensors", path)
    }


def _teacher(stage: Stage, ranking: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    if "fusion" in facts:
        return {"ranking": ranking, "method": facts["fusion"]["method"], "weights": facts["fusion"].get("weights", {})}
    ranker = facts.get("settings", {}).get("ranker", "")
    match = FIXED.fullmatch(ranker)
    if not match:
        raise InputError(
            f"{stage.folder}: learned the scores {ranking!r} of a ranker that is not pinned ({ranker or 'unknown'}); "
            "teach with --ranker_revision"
        )
    return {"ranking": ranking, "name": match["name"], "revision": match["revision"]}


def check_maker(stage: Stage, *options: str) -> None:
    """Refuse a folder of another kind: its stage had other options."""
    if missing := [name for name in options if name not in stage.config]:
        raise InputError(f"{stage.folder / CONFIG_FILE}: lacks {', '.join(missing)}; is the folder of another --kind?")


def collection_of(stage: Stage) -> TrainingData:
    """The collection that a retriever learned from.

    Raises:
        InputError: it is not there any more.
    """
    config = stage.config
    check_maker(stage, "collection", "split", "revision", "use_titles", "collection_options")
    collection = load_collection(
        config["collection"], config["split"], config["revision"], config["use_titles"], **config["collection_options"]
    )
    facts = {
        "name": public_name(collection.name),
        "revision": collection.revision,
        "licence": _hub_licence(collection.name, collection.revision, "dataset"),
        "split": collection.split,
        "queries": len(collection.queries),
    }
    positives = (collection.corpus.text(doc_id) for q in collection.queries for doc_id in collection.positives(q)[:1])
    return TrainingData(facts, chain(collection.queries.values(), positives))


def cost(stages: list[Stage], watts: float | None, grams_per_kwh: float | None) -> dict[str, Any]:
    """Hours of the trainings on their machines, and the carbon under stated assumptions.

    Only the last launch of each stage is counted, which is all of it unless it was resumed.
    """
    hardware = stages[-1].record["hardware"]
    devices = hardware["gpus"] or [f"{hardware['cpus']} {hardware['machine']} CPU cores"]
    hours = sum(stage.record["seconds_of_last_launch"] * _devices(stage) for stage in stages) / 3600
    found = {"device_hours": round(hours, 3), "devices": devices}
    if watts and grams_per_kwh:
        grams = hours * watts / 1000 * grams_per_kwh
        found |= {"watts": watts, "grams_per_kwh": grams_per_kwh, "grams_co2": round(grams, 1)}
    return found


def _devices(stage: Stage) -> int:
    return len(stage.record["hardware"]["gpus"]) or 1


def _public_input(value: str) -> str:
    name, at, revision = value.rpartition("@")
    return f"{public_name(name)}@{revision}" if at else value


def _facts_folder(name: str, revision: str) -> Path:
    """A folder with manifest and audit: the local one, or what the Hub has of them at the commit."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        files = [MANIFEST_FILE, AUDIT_FILE]
        folder = snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=files)
    except (OSError, ValueError) as error:
        raise InputError(f"{name}@{revision}: cannot be read: {str(error).splitlines()[0]}") from error
    if not (Path(folder) / MANIFEST_FILE).is_file():
        raise InputError(f"{name}@{revision}: holds no {MANIFEST_FILE}")
    return Path(folder)


def _files(name: str, revision: str) -> Mapping[str, Any]:
    """The files of candidates by the manifest; without the preview, which only published ones have."""
    listed = read_manifest(_facts_folder(name, revision), "files")["files"]
    return {path: facts for path, facts in listed.items() if not path.startswith(f"{PREVIEW}/")}


def _candidate_texts(source: str, split: str, revision: str | None) -> Iterator[str]:
    """Each query, and its first relevant passage."""
    candidates = load_candidates(source, split, revision)
    for row in candidates.rows.select_columns(["query", "positive_ids"]):
        yield row["query"]
        yield candidates.corpus.text(row["positive_ids"][0])


def _without_cases(audit: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in audit.items() if key != "suspicious"}


def _card_licence(path: Path) -> str | None:
    """The licence in a card's metadata; None where there is no card, or none in it."""
    from huggingface_hub import RepoCard

    if not path.is_file():
        return None
    licence = RepoCard.load(path, ignore_metadata_errors=True).data.to_dict().get("license")
    return licence if isinstance(licence, str) else None


def _hub_licence(name: str, revision: str, repo_type: str) -> str | None:
    """The licence that a Hub repository states at a commit; None where it cannot be reached or states none."""
    from huggingface_hub import hf_hub_download

    if not PINNED.fullmatch(f"{name}@{revision}"):
        return None
    try:
        return _card_licence(Path(hf_hub_download(name, "README.md", repo_type=repo_type, revision=revision)))
    except (OSError, ValueError):
        return None
