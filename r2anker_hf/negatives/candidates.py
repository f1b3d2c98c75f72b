"""The candidates dataset: every retriever's ranked list for each training query, mined once and sampled later."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..collection import Collection, Corpus
from ..files import sha256_file
from ..records import Document, InputError
from ..run import Run

ROWS_A_GROUP = 1000  # rows of a Parquet row group: what writing and streaming hold in memory


@dataclass(frozen=True)
class Candidates:
    """Mined candidates with the corpus that their ids point into.

    Attributes:
        rows: one row a query: `query_id`, `query`, `positive_ids`, and `candidates`, a list of
            `{retriever, doc_ids, scores}` in which position is rank. Relevant documents stay in the lists, where the
            retriever ranked them; a sampling policy leaves them out.
        corpus: the passages.
        manifest: where all of it came from, and counts.
    """

    rows: Any
    corpus: Corpus
    manifest: Mapping[str, Any]


def mine(collection: Collection, runs: Mapping[str, Run], depth: int = 200) -> Iterator[dict[str, Any]]:
    """Each query's relevant documents and what every retriever ranked for it.

    Args:
        collection: queries, judgements and corpus of the training split.
        runs: first-stage runs by the retriever's name.
        depth: documents kept of each list (R2ANKER caps at the top 200, appendix B).

    Returns:
        Rows of `Candidates.rows`, in the order of the queries. A query without a relevant document has no row; one
        that a run lacks has an empty list for that retriever.

    Raises:
        InputError: no run, a depth below 1, or a run that names a document which the corpus lacks.
    """
    if not runs:
        raise InputError("mining needs one run at least: name=path/run.trec")
    if depth < 1:
        raise InputError(f"depth is {depth}, but must be at least 1")
    for query_id, text in collection.queries.items():
        positives = collection.positives(query_id)
        if positives:
            lists = [_ranked_list(name, run, query_id, depth, collection.corpus) for name, run in runs.items()]
            yield {"query_id": query_id, "query": text, "positive_ids": positives, "candidates": lists}


def _ranked_list(name: str, run: Run, query_id: str, depth: int, corpus: Corpus) -> dict[str, Any]:
    documents = run.get(query_id, ())[:depth]
    for doc_id, _ in documents:
        if doc_id not in corpus:
            raise InputError(f"run {name!r}, query {query_id!r}: document {doc_id!r} is not in the corpus")
    return {"retriever": name, "doc_ids": [d for d, _ in documents], "scores": [score for _, score in documents]}


def write_candidates(
    folder: str | os.PathLike, collection: Collection, runs: Mapping[str, Run], depth: int = 200
) -> dict[str, Any]:
    """Mine into a folder that `datasets.load_dataset(folder, "candidates")` reads, and return its manifest.

    The folder holds `candidates/<split>.parquet`, `corpus/corpus.parquet`, `manifest.json` and a `README.md` whose
    header names both configurations. Rows are written as they are mined, so memory does not grow with the queries.

    Raises:
        InputError: nothing was mined, or as in `mine`.
    """
    import pyarrow as pa

    folder = Path(folder)
    ranked = pa.struct([("retriever", pa.string()), ("doc_ids", _strings()), ("scores", pa.list_(pa.float64()))])
    fields = [("query_id", pa.string()), ("query", pa.string()), ("positive_ids", _strings())]
    schema = pa.schema([*fields, ("candidates", pa.list_(ranked))])
    counts = _Counts(len(collection.queries))
    rows = counts.watch(mine(collection, runs, depth))
    _write_parquet(folder / "candidates" / f"{collection.split}.parquet", schema, rows)
    if not counts.rows:
        raise InputError(f"{collection.name}: no query of split {collection.split!r} has a relevant document")
    corpus_schema = pa.schema([(name, pa.string()) for name in Document._fields])
    documents = (document._asdict() for document in collection.corpus.documents())
    _write_parquet(folder / "corpus" / "corpus.parquet", corpus_schema, documents)
    manifest = {
        "collection": {"name": collection.name, "revision": collection.revision, "split": collection.split},
        "use_titles": collection.corpus.use_titles,
        "depth": depth,
        "documents": len(collection.corpus),
        **counts.summary(),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_card(manifest), encoding="utf-8")
    return manifest


def load_candidates(source: str | os.PathLike, split: str = "train", revision: str | None = None) -> Candidates:
    """Read candidates from a folder that `write_candidates` made, or from a Hub repository of that form.

    Raises:
        InputError: the folder holds no candidates, or none of that split.
    """
    folder = Path(source)
    if folder.is_dir():
        return _load_folder(folder, split)
    if folder.is_absolute() or str(source).count("/") != 1:
        raise InputError(f"{source}: no such folder (give one that mine.py wrote, or a Hub repository 'owner/name')")
    if revision is None:
        warnings.warn(f"{source} is read at its newest commit; pin it with a revision", stacklevel=2)
    return _load_hub(str(source), split, revision)


def _load_folder(folder: Path, split: str) -> Candidates:
    files = sorted(path.stem for path in (folder / "candidates").glob("*.parquet"))
    if split not in files:
        raise InputError(f"{folder}: holds no candidates of split {split!r}; there are: {', '.join(files) or 'none'}")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    rows = _mapped(folder / "candidates" / f"{split}.parquet")
    return Candidates(rows, Corpus(_mapped(folder / "corpus" / "corpus.parquet"), manifest["use_titles"]), manifest)


def _load_hub(repo: str, split: str, revision: str | None) -> Candidates:
    from datasets import load_dataset
    from huggingface_hub import hf_hub_download

    manifest_path = hf_hub_download(repo, "manifest.json", repo_type="dataset", revision=revision)
    manifest = json.loads(Path(manifest_path).read_text(encoding="utf-8"))
    rows = load_dataset(repo, "candidates", split=split, revision=revision)
    corpus = load_dataset(repo, "corpus", split="corpus", revision=revision)
    return Candidates(rows, Corpus(corpus, manifest["use_titles"]), manifest)


def _mapped(path: Path) -> Any:
    """A Parquet file, memory-mapped. `load_dataset` of a folder caches by the folder's name, and would return the rows
    that stood there before it was mined again; a cache named by the content's hash cannot."""
    from datasets import Dataset
    from huggingface_hub.constants import HF_HOME

    cache = Path(HF_HOME) / "r2anker_hf" / "parquet" / sha256_file(path)
    return Dataset.from_parquet(str(path), cache_dir=str(cache))


class _Counts:
    """What passes through, counted on the way, so that mining stays one pass."""

    def __init__(self, queries: int):
        self.queries, self.rows = queries, 0
        self.candidates: dict[str, int] = {}
        self.found: dict[str, int] = {}

    def watch(self, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for row in rows:
            self.rows += 1
            positives = set(row["positive_ids"])
            for ranked in row["candidates"]:
                name = ranked["retriever"]
                self.candidates[name] = self.candidates.get(name, 0) + len(ranked["doc_ids"])
                self.found[name] = self.found.get(name, 0) + bool(positives & set(ranked["doc_ids"]))
            yield row

    def summary(self) -> dict[str, Any]:
        return {
            "queries": self.rows,
            "queries_without_positive": self.queries - self.rows,
            "retrievers": {
                name: {"candidates": count, "queries_whose_positive_is_found": self.found[name]}
                for name, count in self.candidates.items()
            },
        }


def _strings():
    import pyarrow as pa

    return pa.list_(pa.string())


def _write_parquet(path: Path, schema: Any, rows: Iterator[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        group: list[dict[str, Any]] = []
        for row in rows:
            group.append(row)
            if len(group) == ROWS_A_GROUP:
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                group = []
        writer.write_table(pa.Table.from_pylist(group, schema=schema))


def _card(manifest: Mapping[str, Any]) -> str:
    split = manifest["collection"]["split"]
    retrievers = ", ".join(manifest["retrievers"])
    return f"""---
configs:
- config_name: candidates
  data_files:
  - split: {split}
    path: candidates/{split}.parquet
- config_name: corpus
  data_files:
  - split: corpus
    path: corpus/corpus.parquet
task_categories:
- text-ranking
- text-retrieval
---

# Candidates mined from {manifest["collection"]["name"]}

For each of {manifest["queries"]} queries the top {manifest["depth"]} documents of {retrievers}, with scores.
Position in a list is rank. Relevant documents stay where the retriever ranked them: leave `positive_ids` out when
you draw negatives. Ids point into the configuration `corpus`. Counts and origin are in `manifest.json`.
"""
