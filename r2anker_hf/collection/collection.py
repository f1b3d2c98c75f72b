"""Collection: a corpus, the queries of one split, and their judgements, from a BEIR folder, the Hub, or `apidocs`."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import read_lines, sha256_file
from ..names import checked_id
from ..records import Document, InputError, Qrel, Query
from ..revisions import reads_hub
from ..run import Run
from .apidocs import apidocs
from .hub import HubCollection, newest_commit
from .pseudo_queries import is_pseudo, pseudo_queries

if TYPE_CHECKING:
    import datasets

Qrels = Mapping[str, Mapping[str, int]]


class Corpus:
    """Documents by position and by id, memory-mapped: what is held in memory is the list of ids.

    Args:
        table: columns `doc_id`, `title`, `text` (strings), one row a document.
        use_titles: whether a passage's text is its title and text joined by a space, or its text alone. Published
            MS MARCO figures differ by it, so every stage records it.
    """

    def __init__(self, table: datasets.Dataset, use_titles: bool = True):
        self._table = table
        self.use_titles = use_titles

    @classmethod
    def from_documents(cls, documents: Iterable[Document], use_titles: bool = True) -> Corpus:
        """A corpus held in memory, for small collections and tests."""
        from datasets import Dataset

        rows = [document._asdict() for document in documents]
        columns = {name: [row[name] for row in rows] for name in Document._fields}
        return cls(Dataset.from_dict(columns), use_titles)

    def __len__(self) -> int:
        return len(self._table)

    @cached_property
    def ids(self) -> list[str]:
        """Document ids in corpus order."""
        return list(self._table["doc_id"])

    @cached_property
    def _position(self) -> dict[str, int]:
        return {doc_id: index for index, doc_id in enumerate(self.ids)}

    def __contains__(self, doc_id: object) -> bool:
        return doc_id in self._position

    def texts(self, start: int = 0, stop: int | None = None) -> list[str]:
        """Passages `start` to `stop` (default: the end) in corpus order, as retrievers and rankers read them."""
        return [self._join(*row) for row in zip(*self._columns(slice(start, stop)), strict=True)]

    def text(self, doc_id: str) -> str:
        """One passage, as retrievers and rankers read it.

        Raises:
            InputError: no document has that id.
        """
        row = self._table[self.position(doc_id)]
        return self._join(row["title"], row["text"])

    def texts_of(self, doc_ids: Sequence[str], at_once: int = 10_000) -> Iterator[str]:
        """Passages by their ids, read many at a time, which takes a quarter of the time of `text` for each.

        Raises:
            InputError: as `text`.
        """
        for start in range(0, len(doc_ids), at_once):
            rows = self._table[[self.position(doc_id) for doc_id in doc_ids[start : start + at_once]]]
            yield from map(self._join, rows["title"], rows["text"])

    def position(self, doc_id: str) -> int:
        """Place of a document in the corpus.

        Raises:
            InputError: no document has that id.
        """
        if doc_id not in self._position:
            raise InputError(f"document {doc_id!r} is not in the corpus of {len(self)} documents")
        return self._position[doc_id]

    def document(self, position: int) -> Document:
        """The document at that place of the corpus, with its title apart."""
        row = self._table[position]
        return Document(row["doc_id"], row["title"], row["text"])

    def documents(self) -> Iterator[Document]:
        """All documents, with their titles apart."""
        for row in self._table:
            yield Document(row["doc_id"], row["title"], row["text"])

    def _columns(self, rows: slice) -> tuple[list[str], list[str]]:
        part = self._table[rows]
        return part["title"], part["text"]

    def _join(self, title: str, text: str) -> str:
        return f"{title} {text}".strip() if self.use_titles else text


@dataclass(frozen=True)
class Collection:
    """What one split of a test collection consists of.

    Attributes:
        name: the folder or repository it came from.
        revision: commit of the repository, or `sha256:` of the files or texts, so that a figure names its data.
        split: "train", "dev" or "test".
        corpus: all documents.
        queries: text by query id, the judged queries of this split alone.
        qrels: grade by query id and document id.
        corpus_place: of a Hub repository, the configuration of the corpus, and its split if there are several.
    """

    name: str
    revision: str
    split: str
    corpus: Corpus
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    corpus_place: Mapping[str, str] | None = None

    def positives(self, query_id: str) -> list[str]:
        """Ids of the documents judged relevant (grade 1 or higher), in the order of the judgements."""
        return [doc_id for doc_id, grade in self.qrels.get(query_id, {}).items() if grade > 0]

    def write_beir(self, folder: str | os.PathLike) -> None:
        """Write `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv`; other splits already there stay."""
        folder = Path(folder)
        (folder / "qrels").mkdir(parents=True, exist_ok=True)
        documents = ({"_id": d, "title": title, "text": text} for d, title, text in self.corpus.documents())
        _write_jsonl(folder / "corpus.jsonl", documents)
        known = dict(_read_queries(folder / "queries.jsonl")) if (folder / "queries.jsonl").exists() else {}
        _write_jsonl(folder / "queries.jsonl", ({"_id": q, "text": x} for q, x in {**known, **self.queries}.items()))
        with open(folder / "qrels" / f"{self.split}.tsv", "w", encoding="utf-8", newline="\n") as file:
            file.write("query-id\tcorpus-id\tscore\n")
            for query_id, grades in self.qrels.items():
                file.writelines(f"{query_id}\t{doc_id}\t{grade}\n" for doc_id, grade in grades.items())


def load_collection(
    source: str | os.PathLike, split: str, revision: str | None = None, use_titles: bool = True, **options: int
) -> Collection:
    """Load one split of a collection and check it.

    Args:
        source: a BEIR folder (`corpus.jsonl`, `queries.jsonl`, `qrels/<split>.tsv`), a folder of the MS MARCO
            passages as released (`collection.tsv`, `queries.<split>.tsv`, `qrels.<split>.tsv`), a dataset repository
            of the Hub in the layout of MTEB, BEIR or NanoBEIR (see `collection.hub`), or `apidocs`.
        split: "train", "dev", "dev.small" or "test", as the collection names them. Of a multilingual repository it is
            `<subset>.<split>`, such as `de.test`; of `sentence-transformers/NanoBEIR-en`, `NanoNFCorpus`. `pseudo` or
            `pseudo.<count>` is none of its own: titles and first sentences of the passages, each with the passage it
            came from as the one relevant document.
        revision: commit of the repository; a Hub repository without one is read at its newest commit, with a warning.
        use_titles: whether titles are a part of the passages.
        options: for `apidocs` alone, its sizes (`passages`, `test`, `dev`, `seed`).

    Raises:
        InputError: a file is missing or malformed; the message names file, line and value. Empty passages and
            queries that nobody judged are warned of and counted, and loading goes on.
    """
    if str(source) == "apidocs":
        return _load_apidocs(split, use_titles, options)
    if options:
        raise InputError(f"{source}: {', '.join(options)} can be given for the collection 'apidocs' alone")
    if Path(source).is_dir():
        return _load_folder(Path(source), split, use_titles)
    if Path(source).is_absolute() or str(source).count("/") != 1 or str(source).startswith("."):
        raise InputError(
            f"{source}: no such folder (give a BEIR or MS MARCO folder, a Hub repository 'owner/name', or 'apidocs')"
        )
    return _load_hub(str(source), split, revision, use_titles)


def load_ranking(collection: Collection, ranking: str, depth: int) -> Run:
    """A first stage that a collection's repository holds itself: MTEB's `top_ranked`, or NanoBEIR's `bm25`.

    Args:
        collection: of a Hub repository.
        ranking: its configuration, with columns `query-id` and `corpus-ids`; `top_ranked` of a subset `de` is
            `de-top_ranked`.
        depth: documents kept per query.

    Returns:
        The collection's queries, documents in the order of the repository. Scores only keep it: -1, -2, …

    Raises:
        InputError: no Hub repository, or no such configuration; no query has a list, or a document is not in the
            corpus. Queries without a list are counted in a warning.
    """
    if collection.corpus_place is None:
        raise InputError(f"{collection.name}: rankings are read from Hub repositories only; this is none")
    return _load_hub_ranking(collection.name, collection, ranking, depth)


def read_qrels(path: str | os.PathLike) -> dict[str, dict[str, int]]:
    """Read judgements: BEIR (query, document, grade, with a header) or TREC (query, iteration, document, grade).

    Raises:
        InputError: another number of columns, a grade that is no integer, or two grades for one document.
    """
    qrels: dict[str, dict[str, int]] = {}
    for number, line in read_lines(path):
        columns = line.split()
        if not columns or (number == 1 and columns[0].lower() in ("query-id", "query_id", "qid")):
            continue
        if len(columns) not in (3, 4):
            raise InputError(
                f"{path}, line {number}: {len(columns)} columns, but judgements have 3 (query document grade) "
                f"or 4 (query 0 document grade): {line.strip()[:80]!r}"
            )
        query_id, doc_id, grade = columns[0], columns[-2], columns[-1]
        try:
            value = int(grade[:10])
        except ValueError:
            raise InputError(f"{path}, line {number}: the grade {grade[:80]!r} is not an integer") from None
        if len(grade) > 9:
            raise InputError(f"{path}, line {number}: the grade {grade[:80]!r} has more than 9 digits")
        if qrels.setdefault(query_id, {}).setdefault(doc_id, value) != value:
            raise InputError(f"{path}, line {number}: a second grade for query {query_id!r}, document {doc_id!r}")
    if not qrels:
        raise InputError(f"{path}: holds no judgements")
    return qrels


def _load_folder(folder: Path, split: str, use_titles: bool) -> Collection:
    if is_pseudo(split):
        path = next((p for name in ("collection.tsv", "corpus.jsonl") if (p := folder / name).exists()), None)
        if path is None:
            raise InputError(f"{folder / 'corpus.jsonl'}: no such file")
        corpus = Corpus(_mapped_corpus(path), use_titles)
        return _with_pseudo_queries(str(folder), f"sha256:{sha256_file(path)}", split, corpus)
    files = _files_of(folder, split)
    qrels_path = files[2]
    corpus = Corpus(_mapped_corpus(files[0]), use_titles)
    all_queries = dict(_read_queries(files[1]))
    qrels = read_qrels(qrels_path)
    _check_known(qrels, all_queries, corpus, qrels_path)
    if len(list(qrels_path.parent.glob("*.tsv"))) == 1:  # with several splits, a query may be another split's
        _warn_count(len(all_queries.keys() - qrels.keys()), "queries have no judgement and are left out", files[1])
    return _collection(str(folder), _digest(map(sha256_file, files)), split, corpus, all_queries, qrels, qrels_path)


def _files_of(folder: Path, split: str) -> list[Path]:
    """Corpus, queries and judgements of a split, in BEIR's layout, or in that of the MS MARCO passages as released."""
    if (folder / "collection.tsv").exists():
        qrels = sorted(folder.glob("qrels.*.tsv"))
        names, prefix = [path.name[len("qrels.") : -len(".tsv")] for path in qrels], "qrels."
        files = [folder / "collection.tsv", folder / f"queries.{split}.tsv"]
        if not files[1].exists():  # the queries of dev.small are also among those of dev
            files[1] = folder / f"queries.{split.split('.')[0]}.tsv"
    else:
        prefix, files = "qrels/", [folder / "corpus.jsonl", folder / "queries.jsonl"]
        names = sorted(path.stem for path in (folder / "qrels").glob("*.tsv"))
    if split not in names:
        raise InputError(
            f"{folder / f'{prefix}{split}.tsv'}: no such file; splits there: {', '.join(names) or 'none'}"
        )
    return [*files, folder / f"{prefix}{split}.tsv"]


def _load_apidocs(split: str, use_titles: bool, options: Mapping[str, Any]) -> Collection:
    unknown = options.keys() - {"passages", "test", "dev", "seed"}
    if unknown:
        raise InputError(f"apidocs: unknown option {sorted(unknown)[0]!r}; choices: passages, test, dev, seed")
    documents, queries, qrels = apidocs(**options)
    if is_pseudo(split):
        revision = _digest("\t".join(document) for document in documents)
        return _with_pseudo_queries("apidocs", revision, split, Corpus.from_documents(documents, use_titles))
    if split not in queries:
        raise InputError(f"apidocs: no split {split!r}; choices: {', '.join(queries)}")
    if not queries[split]:
        raise InputError(f"apidocs: split {split!r} has no queries; give collection_options another number of them")
    texts = [*("\t".join(document) for document in documents), *("\t".join(query) for query in queries[split])]
    corpus = Corpus.from_documents(documents, use_titles)
    grades = _by_query(qrels[split])
    return _collection("apidocs", _digest(texts), split, corpus, dict(queries[split]), grades, "apidocs")


@reads_hub
def _load_hub(repo: str, split: str, revision: str | None, use_titles: bool) -> Collection:
    found = HubCollection.find(repo, revision or newest_commit(repo), split)
    table, place = found.corpus()
    corpus = Corpus(table, use_titles)
    if is_pseudo(found.split):
        collection = _with_pseudo_queries(repo, found.revision, found.split, corpus)
    else:
        queries, qrels = found.queries(), _by_query(found.qrels())
        _check_known(qrels, queries, corpus, f"{repo}@{found.revision[:12]}, judgements of {split}")
        collection = _collection(repo, found.revision, split, corpus, queries, qrels, repo)
    return replace(collection, split=split, corpus_place=place)


@reads_hub
def _load_hub_ranking(repo: str, collection: Collection, ranking: str, depth: int) -> Run:
    found = HubCollection.find(repo, collection.revision, collection.split)
    lists = {query_id: doc_ids[:depth] for query_id, doc_ids in found.ranking(ranking)}
    where, listed = f"{repo}, ranking {ranking!r}", [query_id for query_id in collection.queries if query_id in lists]
    if not listed:
        raise InputError(f"{where}: no list for any of the {len(collection.queries)} queries")
    _warn_count(len(collection.queries) - len(listed), "queries have no list", where)
    for doc_id in (doc_id for query_id in listed for doc_id in lists[query_id]):
        if doc_id not in collection.corpus:
            raise InputError(
                f"{where}: document {doc_id!r} is not in the corpus of {len(collection.corpus)} documents"
            )
    ranks = {q: [(doc_id, -float(rank)) for rank, doc_id in enumerate(lists[q], 1)] for q in listed}
    return Run({query_id: ranks.get(query_id, ()) for query_id in collection.queries}, ranking)


def _collection(
    name: str,
    revision: str,
    split: str,
    corpus: Corpus,
    all_queries: Mapping[str, str],
    qrels: dict[str, dict[str, int]],
    where: object,
) -> Collection:
    without = sum(not any(grade > 0 for grade in grades.values()) for grades in qrels.values())
    _warn_count(without, "queries have no relevant document", where)
    return Collection(name, revision, split, corpus, {q: all_queries[q] for q in qrels}, qrels)


def _with_pseudo_queries(name: str, revision: str, split: str, corpus: Corpus) -> Collection:
    drawn = list(pseudo_queries(split, corpus.document, len(corpus)))
    qrels = {query.query_id: {doc_id: 1} for query, doc_id in drawn}
    return Collection(name, revision, split, corpus, dict(query for query, _ in drawn), qrels)


def _mapped_corpus(path: Path) -> datasets.Dataset:
    """The corpus as an Arrow file in the cache, named by the content's hash, so that a change is never overlooked."""
    from datasets import Dataset
    from huggingface_hub.constants import HF_HOME

    if not path.exists():
        raise InputError(f"{path}: no such file")
    cached = Path(HF_HOME) / "r2anker_hf" / "corpora" / f"{sha256_file(path)}.arrow"
    if not cached.exists():
        _write_arrow(_read_corpus(path), cached)
    return Dataset.from_file(str(cached))


def _write_arrow(documents: Iterable[Document], path: Path, rows_a_batch: int = 10_000) -> None:
    import pyarrow as pa

    schema = pa.schema([(name, pa.string()) for name in Document._fields])
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=path.stem)
    os.close(handle)
    try:
        with pa.OSFile(partial, "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            rows: list[dict[str, str]] = []
            for document in documents:
                rows.append(document._asdict())
                if len(rows) == rows_a_batch:
                    writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
                    rows = []
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
        os.replace(partial, path)  # another process may have written the same content meanwhile
    finally:
        Path(partial).unlink(missing_ok=True)


def _read_corpus(path: Path) -> Iterator[Document]:
    seen: dict[str, int] = {}
    empty = 0
    for number, record in _read_records(path):
        title, text = (_text(record, key, path, number) for key in ("title", "text"))
        document = Document(_id(record, path, number), title, text)
        if document.doc_id in seen:
            raise InputError(
                f"{path}, line {number}: document {document.doc_id!r} was given on line "
                f"{seen[document.doc_id]} already"
            )
        seen[document.doc_id] = number
        empty += not (document.title + document.text).strip()
        yield document
    if not seen:
        raise InputError(f"{path}: holds no documents")
    _warn_count(empty, "passages are empty; no retriever can find them", path)


def _read_queries(path: Path) -> Iterator[Query]:
    seen: dict[str, int] = {}
    for number, record in _read_records(path):
        query = Query(_id(record, path, number), _text(record, "text", path, number).strip())
        if query.query_id in seen:
            raise InputError(
                f"{path}, line {number}: query {query.query_id!r} was given on line {seen[query.query_id]} already"
            )
        if not query.text:
            raise InputError(f"{path}, line {number}: query {query.query_id!r} has no text")
        seen[query.query_id] = number
        yield query


def _read_records(path: Path) -> Iterator[tuple[int, dict]]:
    """Line number, and a record of BEIR's form, from JSON lines or from tab-separated ids and texts."""
    return _read_tsv(path) if path.suffix == ".tsv" else _read_jsonl(path)


def _read_tsv(path: Path) -> Iterator[tuple[int, dict]]:
    for number, line in read_lines(path):
        columns = line.rstrip("\r\n").split("\t")
        if len(columns) != 2:
            raise InputError(
                f"{path}, line {number}: {len(columns)} columns, but here are 2 (id, text): {line[:80]!r}"
            )
        yield number, {"_id": columns[0], "title": "", "text": columns[1]}


def _read_jsonl(path: Path) -> Iterator[tuple[int, dict]]:
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if "\\u" in line:  # JSON may write half a character so, which no file can hold
                json.dumps(record, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", None) or str(error)
            raise InputError(f"{path}, line {number}: not JSON ({reason}): {line.strip()[:80]!r}") from None
        if not isinstance(record, dict):
            raise InputError(f"{path}, line {number}: not a JSON object: {line.strip()[:80]!r}")
        yield number, record


def _id(record: Mapping, path: Path, number: int) -> str:
    return checked_id(record.get("_id"), f"{path}, line {number}: '_id'")


def _text(record: Mapping, key: str, path: Path, number: int) -> str:
    value = record.get(key) or ("" if key == "title" or key in record else None)
    if not isinstance(value, str):
        raise InputError(f"{path}, line {number}: {key!r} must be a string, but is {record.get(key)!r}")
    return value


def _write_jsonl(path: Path, records: Iterable[dict]) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _check_known(qrels: Qrels, queries: Mapping[str, str], corpus: Corpus, where: object) -> None:
    for query_id, grades in qrels.items():
        if query_id not in queries:
            where = _line_of(where, query_id)
            raise InputError(f"{where}: query {query_id!r} is not among the {len(queries)} queries")
        for doc_id in grades:
            if doc_id not in corpus:
                raise InputError(
                    f"{_line_of(where, doc_id)}: document {doc_id!r} is not among the {len(corpus)} documents"
                )


def _line_of(where: object, value: str) -> str:
    """`file, line n` of the first line that holds the value as a column; looked up only once something is wrong."""
    if isinstance(where, Path):
        for number, line in read_lines(where):
            if value in line.split():
                return f"{where}, line {number}"
    return str(where)


def _by_query(qrels: Iterable[Qrel]) -> dict[str, dict[str, int]]:
    grades: dict[str, dict[str, int]] = {}
    for query_id, doc_id, grade in qrels:
        grades.setdefault(query_id, {})[doc_id] = grade
    return grades


def _warn_count(count: int, what: str, where: object) -> None:
    if count:
        warnings.warn(f"{where}: {count} {what}", stacklevel=5)


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\n")
    return f"sha256:{digest.hexdigest()}"
