"""The candidates dataset: every retriever's ranked list for each training query, mined once and sampled later."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

from ..collection.collection import Collection, Corpus
from ..collection.hub import as_corpus_table, split_of
from ..draws import evenly_spaced
from ..files import read_json, read_yaml, sha256_file
from ..names import checked_id, checked_ids, checked_name
from ..records import Document, InputError, ScoredDocument
from ..revisions import reads_hub, resolved
from .card import write_card

ROWS_A_BATCH = 100  # rows held as Python objects while writing or streaming: some 10 MB at 3 x 200 candidates
ROWS_A_GROUP = 1000  # rows of a Parquet row group, what a streaming reader loads at once
ROWS_A_SHARD = 20_000  # rows of a file; fixed, so that the files do not depend on who wrote them
DOCUMENTS_A_SHARD = 1_000_000
MANIFEST_FILE = "manifest.json"
PACKAGES = ("r2anker_hf", "datasets", "pyarrow", "numpy")
_COUNTS = b"r2anker_hf.counts"  # key of a shard's counts among the metadata of its Parquet file
_SHARD = re.compile(r"(?P<split>.+?)(-\d{5}-of-\d{5})?$")

# Of a stage's config: where things lie, and what stands in the manifest anyway.
_NOT_SETTINGS = {
    "output_dir",
    "index",
    "collection",
    "collection_options",
    "revision",
    "split",
    "model_revision",
    "first_stage",
    "run",  # what first_stage was called before
    "runs",
    "dev_runs",
    "dev_qrels",
    "reuse",
    "scored",
    "dry_run",
    "queries_a_part",
    "shard_size",
}
# Options that retrieve.py writes with their defaults, though this retriever does not read them.
_OF_OTHER_RETRIEVERS = {"bm25": {"model", "batch_size", "dtype", "search"}, "dense": {"preset", "k1", "b", "language"}}
_OF_OTHER_RETRIEVERS["stored"] = _OF_OTHER_RETRIEVERS["bm25"] | _OF_OTHER_RETRIEVERS["dense"]
_OF_OTHER_RETRIEVERS["splade"] = {*_OF_OTHER_RETRIEVERS["dense"], "search"}

RankedLists = Mapping[str, Sequence[ScoredDocument]]
"""Ranked documents by query id: a `Run`, or a `RunFile` that stays on disk."""


@dataclass(frozen=True)
class Candidates:
    """Mined candidates with the corpus that their ids point into.

    Attributes:
        rows: one row a query: `query_id`, `query`, `positive_ids`, and `candidates`, a list of
            `{retriever, doc_ids, scores}` in which position is rank. Relevant documents stay in the lists, where the
            retriever ranked them; a sampling policy leaves them out. Where they were mined, also `constraints`, a list
            of `{run, doc_ids}`, and `rankings`, a list of `{ranker, doc_ids, scores}`.
        corpus: the passages.
        manifest: where all of it came from, and counts.
    """

    rows: Any
    corpus: Corpus
    manifest: Mapping[str, Any]

    def some(self, queries: int | None) -> Candidates:
        """The candidates of so many queries, evenly spaced; None: of all."""
        if queries is None:
            return self
        return replace(self, rows=self.rows.select(evenly_spaced(len(self.rows), queries)))


@dataclass(frozen=True)
class Mining:
    """What one split of the dataset is mined from.

    Attributes:
        collection: queries, judgements and corpus of the split.
        runs: first-stage runs by the retriever's name.
        depth: documents kept of each list (R2ANKER caps at the top 200, appendix B).
        constraints: runs of which the ids alone are kept, deeper, for the policy `constrained` (Table 6).
        constraint_depth: documents kept of those; the paper has BM25's top 1000.
        rankings: a ranker's list over the pooled documents, for `redistributed` (Table 7); kept whole.
        facts: what the manifest says of a run (see `run_facts`), by its use (retrievers, constraints or rankings) and
            its name.

    Raises:
        InputError: no run, a run's name that is not safe in a file's name, or a depth below 1.
    """

    collection: Collection
    runs: Mapping[str, RankedLists]
    depth: int = 200
    constraints: Mapping[str, RankedLists] = field(default_factory=dict)
    constraint_depth: int = 1000
    rankings: Mapping[str, RankedLists] = field(default_factory=dict)
    facts: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self):
        if not self.runs:
            raise InputError("mining needs one run at least: name=path/run.trec")
        for name in ("depth", "constraint_depth"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, but must be at least 1")
        for name in (*self.runs, *self.constraints, *self.rankings):
            checked_name(name, "run")

    def query_ids(self) -> list[str]:
        """The queries that get a row, in the collection's order: those with a relevant document."""
        return [query_id for query_id in self.collection.queries if self.collection.positives(query_id)]

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[dict[str, Any]]:
        """Rows of `Candidates.rows` for the queries `start` to `stop` of `query_ids`.

        A query that a run lacks has an empty list for it.

        Raises:
            InputError: a run names a document that the corpus lacks, or an id is one that run files cannot hold.
        """
        for query_id in self.query_ids()[start:stop]:
            yield self._row(query_id)

    def _row(self, query_id: str) -> dict[str, Any]:
        row = {
            "query_id": checked_id(query_id, "query id"),
            "query": self.collection.queries[query_id],
            "positive_ids": checked_ids(self.collection.positives(query_id), "document id"),
            "candidates": [
                {"retriever": name, **self._ranked(name, run, query_id, self.depth)} for name, run in self.runs.items()
            ],
        }
        if self.constraints:
            row["constraints"] = [
                {"run": name, "doc_ids": self._ranked(name, run, query_id, self.constraint_depth)["doc_ids"]}
                for name, run in self.constraints.items()
            ]
        if self.rankings:
            row["rankings"] = [
                {"ranker": name, **self._ranked(name, run, query_id, None)} for name, run in self.rankings.items()
            ]
        return row

    def _ranked(self, name: str, run: RankedLists, query_id: str, depth: int | None) -> dict[str, Any]:
        documents = run.get(query_id, ())[:depth]
        doc_ids = checked_ids((document.doc_id for document in documents), "document id")
        if not all(map(self.collection.corpus.__contains__, doc_ids)):
            missing = next(doc_id for doc_id in doc_ids if doc_id not in self.collection.corpus)
            raise InputError(f"run {name!r}, query {query_id!r}: document {missing!r} is not in the corpus")
        return {"doc_ids": doc_ids, "scores": [document.score for document in documents]}


def mine(collection: Collection, runs: Mapping[str, RankedLists], depth: int = 200) -> Iterator[dict[str, Any]]:
    """`Mining.rows` of a collection and its runs."""
    return Mining(collection, runs, depth).rows()


def write_candidates(
    folder: str | os.PathLike, collection: Collection, runs: Mapping[str, RankedLists], depth: int = 200
) -> dict[str, Any]:
    """Mine one split in one process, and return the manifest; candidates that stood in the folder are replaced.

    Raises:
        InputError: nothing was mined, or as in `Mining`.
    """
    mining = Mining(collection, runs, depth)
    for part in ("candidates", "corpus"):  # finished shards would be taken for this mining's own
        shutil.rmtree(Path(folder) / part, ignore_errors=True)
    write_shards(folder, mining)
    write_corpus(folder, collection.corpus)
    return write_manifest(folder, [mining])


def write_shards(
    folder: str | os.PathLike, mining: Mining, process: int = 0, processes: int = 1, rows_a_shard: int = ROWS_A_SHARD
) -> None:
    """Write this process's part of `candidates/<split>-XXXXX-of-XXXXX.parquet`.

    A shard is a fixed range of queries, whoever writes it, and shards that are there already are left alone: any
    number of processes, and any number of breaks between, give the same bytes. Memory does not grow with the queries.

    Args:
        folder: the dataset's folder.
        mining: what to mine.
        process: index of this process.
        processes: how many share the work.
        rows_a_shard: queries of a file.

    Raises:
        InputError: nothing to mine, or as in `Mining.rows`.
    """
    collection = mining.collection
    total = len(mining.query_ids())
    if not total:
        raise InputError(f"{collection.name}: no query of split {collection.split!r} has a relevant document")
    schema = candidates_schema(bool(mining.constraints), bool(mining.rankings))
    write_rows(folder, collection.split, total, mining.rows, schema, process, processes, rows_a_shard)


def write_rows(
    folder: str | os.PathLike,
    split: str,
    total: int,
    rows: Callable[[int, int], Iterable[dict[str, Any]]],
    schema: Any,
    process: int = 0,
    processes: int = 1,
    rows_a_shard: int = ROWS_A_SHARD,
) -> None:
    """This process's shards of a split, as `write_shards` writes them, out of any rows.

    Args:
        folder: the dataset's folder.
        split: its name.
        total: rows of the split.
        rows: (start, stop) -> those rows.
        schema: see `candidates_schema`.
        process: index of this process.
        processes: how many share the work.
        rows_a_shard: rows of a file.

    Raises:
        InputError: the split's name is not safe in a file's name.
    """
    checked_name(split, "split")
    paths = _shard_paths(Path(folder) / "candidates", split, total, rows_a_shard)
    for index in range(process, len(paths), processes):
        if not paths[index].exists():
            part = rows(index * rows_a_shard, min(total, (index + 1) * rows_a_shard))
            _write_parquet(paths[index], schema, part, _Counts())


def write_corpus(folder: str | os.PathLike, corpus: Corpus, documents_a_shard: int = DOCUMENTS_A_SHARD) -> None:
    """Write `corpus/corpus-XXXXX-of-XXXXX.parquet`; shards that are there already are left alone."""
    import pyarrow as pa

    schema = pa.schema([(name, pa.string()) for name in Document._fields])
    documents = (document._asdict() for document in corpus.documents())
    for path in _shard_paths(Path(folder) / "corpus", "corpus", len(corpus), documents_a_shard):
        part = islice(documents, documents_a_shard)
        if path.exists():
            for _ in part:  # a break came later; only what follows is missing
                pass
        else:
            _write_parquet(path, schema, part)


def write_manifest(
    folder: str | os.PathLike,
    minings: Sequence[Mining],
    seed: int = 42,
    licence: str | None = None,
    name: str | None = None,
) -> dict[str, Any]:
    """Write `manifest.json` and the card `README.md` over finished shards, and return the manifest.

    Nothing in it names a place on this machine: collections and models stand by repository and commit, or by the
    folder's own name and a hash.

    Args:
        folder: the dataset's folder; leftovers of killed processes are removed from it.
        minings: its splits; the first one gives collection and settings.
        seed: of the audit that follows; mining itself draws nothing.
        licence: licence of the data, as the Hub abbreviates it, for the card.
        name: what the card calls the collection; default its own name.

    Raises:
        InputError: the corpus was not written and is no Hub repository at a commit either.
    """
    folder, first = Path(folder), minings[0]
    remove_leftovers(folder)
    splits = {mining.collection.split: _split_facts(folder, mining) for mining in minings}
    manifest: dict[str, Any] = {
        "collection": {"name": name or public_name(first.collection.name), "revision": first.collection.revision},
        "use_titles": first.collection.corpus.use_titles,
        "documents": len(first.collection.corpus),
        "corpus": _corpus_source(folder, first.collection),
        "depth": first.depth,
        "constraint_depth": first.constraint_depth if first.constraints else None,
        "splits": splits,
        "seed": seed,
        "licence": licence,
    }
    return finish_manifest(folder, manifest)


def finish_manifest(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Write a manifest with the package versions and the hashes of the files as they are, and the card; return it."""
    whole: dict[str, Any] = {
        **manifest,
        "packages": {package: _version(package) for package in PACKAGES},
        "files": {
            path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            for path in sorted(folder.glob("c*/*.parquet"))
        },
    }
    (folder / MANIFEST_FILE).write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    write_card(folder)
    return whole


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half written."""
    for leftover in folder.rglob("*.writing"):
        leftover.unlink()


def run_facts(path: str | os.PathLike) -> dict[str, Any]:
    """What is known of a run file: its sha256, and how it was made if a stage's folder holds it.

    The stage's `config.yaml` and `provenance.json` are read. Of local folders the last part of the name and the hash
    remain, so that the facts may be published.

    Raises:
        InputError: no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    facts: dict[str, Any] = {"run_sha256": sha256_file(path)}
    config, provenance = path.parent / "config.yaml", path.parent / "provenance.json"
    if not (config.is_file() and provenance.is_file()):
        return facts
    if not config.read_bytes().endswith(b"\n"):  # what is left of it may be YAML all the same
        raise InputError(f"{config}: is cut off")
    settings, origin = read_yaml(config), read_json(provenance)
    left_out = {*_NOT_SETTINGS, *_OF_OTHER_RETRIEVERS.get(settings.get("retriever", ""), ())}
    facts["settings"] = {
        key: public_name(value)
        for key, value in settings.items()
        if key not in left_out and value is not None and value != {}
    }
    for what in ("model", "ranker"):
        stated = origin.get("inputs", {}).get(what)
        if stated and what in facts["settings"]:
            local = str(stated).startswith("sha256:")
            facts["settings"][what] = f"{facts['settings'][what]}@{stated}" if local else stated
    facts["git_commit"] = origin.get("git_commit")
    fusion = path.parent / "fusion.json"
    return facts | {"fusion": _fusion_facts(fusion, settings["runs"])} if fusion.is_file() else facts


def _fusion_facts(path: Path, runs: Mapping[str, str]) -> dict[str, Any]:
    """How a fused run was made, and whether it is free of rankers: none of its runs is a reranking."""
    fusion = read_json(path, "method", "weights")
    free = all(Path(run).is_file() and _is_free(run_facts(run)) for run in runs.values())
    return {"method": fusion["method"], "weights": fusion["weights"], "free_of_rankers": free}


def _is_free(facts: Mapping[str, Any]) -> bool:
    return "ranker" not in facts.get("settings", {}) and facts.get("fusion", {}).get("free_of_rankers", True)


def load_candidates(source: str | os.PathLike, split: str = "train", revision: str | None = None) -> Candidates:
    """Read candidates from a folder that `mine.py` made, or from a Hub repository of that form.

    Where the manifest names another repository for the corpus, it is read there, at the commit that is named.

    Args:
        source: folder or Hub id.
        split: "train", or "dev" where one was mined.
        revision: commit, tag or branch on the Hub; without one the newest commit is read, with a warning that names
            it.

    Raises:
        InputError: the folder holds no candidates, or none of that split.
    """
    folder = Path(source)
    if folder.is_dir():
        files = split_files(folder, split)
        manifest = read_manifest(folder)
        own = sorted((folder / "corpus").glob("*.parquet"))
        table = _mapped(own, Document._fields) if own else _referenced_corpus(manifest, folder)
        rows = _mapped(files, ("query_id", "query", "positive_ids", "candidates"))
        return Candidates(rows, Corpus(table, manifest["use_titles"]), manifest)
    if folder.is_absolute() or str(source).count("/") != 1:
        raise InputError(f"{source}: no such folder (give one that mine.py wrote, or a Hub repository 'owner/name')")
    return _load_hub(str(source), split, resolved(str(source), revision, "dataset"))


def read_manifest(folder: str | os.PathLike, *keys: str) -> dict[str, Any]:
    """`manifest.json` of a folder of candidates, which has at least `use_titles` and these keys.

    Raises:
        InputError: there is none, or not a whole one.
    """
    return read_json(Path(folder) / MANIFEST_FILE, "use_titles", *keys)


def split_files(folder: Path, split: str) -> list[Path]:
    """The Parquet files of a split, in order.

    Raises:
        InputError: there are none.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted((folder / "candidates").glob("*.parquet")):
        if shard := _SHARD.fullmatch(path.stem):
            found.setdefault(shard["split"], []).append(path)
    if split not in found:
        raise InputError(f"{folder}: holds no candidates of split {split!r}; there are: {', '.join(found) or 'none'}")
    return found[split]


def stream_rows(folder: str | os.PathLike, split: str = "train") -> Iterator[dict[str, Any]]:
    """Rows of a folder's split one by one, a few megabytes held at a time."""
    import pyarrow.parquet as pq

    for path in split_files(Path(folder), split):
        for batch in pq.ParquetFile(path).iter_batches(ROWS_A_BATCH):
            yield from batch.to_pylist()


@reads_hub
def _load_hub(repo: str, split: str, revision: str | None) -> Candidates:
    from datasets import load_dataset
    from huggingface_hub import hf_hub_download

    manifest = read_manifest(Path(hf_hub_download(repo, MANIFEST_FILE, repo_type="dataset", revision=revision)).parent)
    rows = load_dataset(repo, "candidates", split=split, revision=revision)
    if (manifest.get("corpus") or {}).get("repo"):
        corpus = _referenced_corpus(manifest, repo)
    else:
        corpus = load_dataset(repo, "corpus", split="corpus", revision=revision)
    return Candidates(rows, Corpus(corpus, manifest["use_titles"]), manifest)


def _referenced_corpus(manifest: Mapping[str, Any], where: object) -> Any:
    """The corpus of another Hub repository, in the layout of BEIR, MTEB or NanoBEIR, or in ours."""
    source = manifest.get("corpus") or {}
    if not source.get("repo"):
        raise InputError(f"{where}: holds no corpus, and {MANIFEST_FILE} names no repository that does")
    place = (source["repo"], source.get("config", "corpus"), source.get("revision"), source.get("split"))
    table, _ = reads_hub(split_of)(*place)
    return as_corpus_table(table, source["repo"])


def _corpus_source(folder: Path, collection: Collection) -> dict[str, Any]:
    if any((folder / "corpus").glob("*.parquet")):
        return {"config": "corpus"}
    if not re.fullmatch(r"[0-9a-f]{40}", collection.revision):
        raise InputError(
            f"{collection.name}: a corpus can be referred to only in a Hub repository at a commit; "
            "leave it in the dataset (corpus: copy)"
        )
    place = collection.corpus_place or {"config": "corpus"}
    return {"repo": collection.name, **place, "revision": collection.revision}


def _split_facts(folder: Path, mining: Mining) -> dict[str, Any]:
    rows, summary = counted(folder, mining.collection.split, mining.facts)
    return {"queries": rows, "queries_without_positive": len(mining.collection.queries) - rows, **summary}


def counted(
    folder: Path, split: str, facts: Mapping[tuple[str, str], Mapping[str, Any]]
) -> tuple[int, dict[str, dict[str, Any]]]:
    """A split's number of rows, and what the manifest says of its runs: counts beside the facts that are given."""
    import pyarrow.parquet as pq

    total = _Counts()
    for path in split_files(folder, split):
        total.add(json.loads(pq.ParquetFile(path).metadata.metadata[_COUNTS]))
    return total.rows, total.summary(facts)


def public_name(value: Any) -> Any:
    """Text as it may be published: of a path on this machine, the last part; also in lists and mappings.

    >>> public_name(["owner/name", {"bm25": "/data/ann/runs/bm25"}])
    ['owner/name', {'bm25': 'bm25'}]
    """
    if isinstance(value, Mapping):
        return {key: public_name(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [public_name(one) for one in value]
    if not isinstance(value, str):
        return value
    here = Path(value).expanduser()
    on_disk = value.startswith((".", "~", os.sep)) or value.count("/") > 1 or here.exists()
    return here.resolve().name if on_disk else value


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _mapped(paths: Sequence[Path], columns: Sequence[str]) -> Any:
    """Parquet files, memory-mapped. `load_dataset` of a folder caches by the folder's name. It would return the
    rows that stood there before it was mined again; a cache named by the content's hash cannot."""
    import hashlib

    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError
    from huggingface_hub.constants import HF_HOME

    if not sum(_rows_of(path, columns) for path in paths):
        raise InputError(f"{paths[0].parent}: its Parquet files hold no rows")
    content = hashlib.sha256("".join(map(sha256_file, paths)).encode()).hexdigest()
    cache = Path(HF_HOME) / "r2anker_hf" / "parquet" / content
    try:
        return Dataset.from_parquet([str(path) for path in paths], cache_dir=str(cache))
    except DatasetGenerationError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise InputError(f"{paths[0].parent}: its Parquet files cannot be read together ({reason})") from error


def _rows_of(path: Path, columns: Sequence[str]) -> int:
    """How many rows a file has with these columns, by its end, which half a file lacks."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        facts = pq.read_metadata(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: is not a whole Parquet file ({str(error).splitlines()[0]})") from None
    names = facts.schema.to_arrow_schema().names
    if missing := [name for name in columns if name not in names]:
        raise InputError(f"{path}: has no column {', '.join(missing)}; there are: {', '.join(names)}")
    return facts.num_rows


class _Counts:
    """What passes through, counted on the way, so that mining stays one pass."""

    # column of a row -> the key of a name in it, and what the manifest calls such runs
    KINDS = {
        "candidates": ("retriever", "retrievers"),
        "constraints": ("run", "constraints"),
        "rankings": ("ranker", "rankings"),
    }

    def __init__(self):
        self.rows = 0
        self.kinds: dict[str, dict[str, dict[str, int]]] = {}

    def watch(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for row in rows:
            self.rows += 1
            positives = set(row["positive_ids"])
            for kind, (key, _) in self.KINDS.items():
                for ranked in row.get(kind, ()):
                    found = not positives.isdisjoint(ranked["doc_ids"])
                    self._count(kind, ranked[key], len(ranked["doc_ids"]), found)
            yield row

    def _count(self, kind: str, name: str, documents: int, found: int) -> None:
        counts = self.kinds.setdefault(kind, {}).setdefault(
            name, {"candidates": 0, "queries_whose_positive_is_found": 0}
        )
        counts["candidates"] += documents
        counts["queries_whose_positive_is_found"] += found

    def to_json(self) -> str:
        return json.dumps({"rows": self.rows, "kinds": self.kinds})

    def add(self, other: Mapping[str, Any]) -> None:
        self.rows += other["rows"]
        for kind, names in other["kinds"].items():
            for name, counts in names.items():
                self._count(kind, name, counts["candidates"], counts["queries_whose_positive_is_found"])

    def summary(self, facts: Mapping[tuple[str, str], Mapping[str, Any]]) -> dict[str, Any]:
        return {
            use: {name: {**count, **facts.get((use, name), {})} for name, count in self.kinds[kind].items()}
            for kind, (_, use) in self.KINDS.items()
            if kind in self.kinds
        }


def _shard_paths(folder: Path, name: str, rows: int, rows_a_shard: int) -> list[Path]:
    count = max(1, -(-rows // rows_a_shard))
    return [folder / f"{name}-{index:05}-of-{count:05}.parquet" for index in range(count)]


def candidates_schema(constraints: bool, rankings: bool, ranking_scores: str = "float64") -> Any:
    """The Arrow schema of a row.

    Args:
        constraints: whether rows hold `constraints`.
        rankings: whether they hold `rankings`.
        ranking_scores: Arrow type of a ranking's scores: float64 for runs of any origin, float32 for logits.
    """
    import pyarrow as pa

    ids, scores = pa.list_(pa.string()), pa.list_(pa.float64())
    ranked = pa.struct([("retriever", pa.string()), ("doc_ids", ids), ("scores", scores)])
    fields = [
        ("query_id", pa.string()),
        ("query", pa.string()),
        ("positive_ids", ids),
        ("candidates", pa.list_(ranked)),
    ]
    if constraints:
        fields.append(("constraints", pa.list_(pa.struct([("run", pa.string()), ("doc_ids", ids)]))))
    if rankings:
        logits = pa.list_(pa.type_for_alias(ranking_scores))
        scored = pa.struct([("ranker", pa.string()), ("doc_ids", ids), ("scores", logits)])
        fields.append(("rankings", pa.list_(scored)))
    return pa.schema(fields)


def _leaves(schema: Any) -> list[str]:
    """Names of the columns as Parquet stores them."""
    import io

    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(schema.empty_table(), sink)
    stored = pq.ParquetFile(sink).schema
    return [stored.column(index).path for index in range(len(stored))]


def _write_parquet(path: Path, schema: Any, rows: Iterable[dict[str, Any]], counts: _Counts | None = None) -> None:
    """A whole file or none: written beside its place, then renamed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    writing = path.with_name(f"{path.name}.{os.getpid()}.writing")
    rows = iter(counts.watch(rows) if counts else rows)
    # Scores byte plane by byte plane: most are float32, whose last bytes are zero as float64. A quarter is saved.
    leaves = _leaves(schema)
    scores = [leaf for leaf in leaves if leaf.endswith("scores.list.element")]
    others = [leaf for leaf in leaves if leaf not in scores]
    options = {"compression": "zstd", "use_dictionary": others, "use_byte_stream_split": scores or False}
    with pq.ParquetWriter(writing, schema, **options) as writer:
        batches: list[Any] = []
        while group := list(islice(rows, ROWS_A_BATCH)):
            batches.append(pa.RecordBatch.from_pylist(group, schema=schema))
            if len(batches) * ROWS_A_BATCH == ROWS_A_GROUP:
                writer.write_table(pa.Table.from_batches(batches, schema))
                batches = []
        if batches:
            writer.write_table(pa.Table.from_batches(batches, schema))
        if counts:
            writer.add_key_value_metadata({_COUNTS.decode(): counts.to_json()})
    os.replace(writing, path)
