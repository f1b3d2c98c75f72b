"""Candidates as the training files of other libraries, and their files as runs to mine from.

Exports hold groups drawn by a sampling policy, one epoch's, as `draw_group` gives them to our own trainer.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from ..files import read_lines
from ..names import checked_id, checked_ids, checked_name
from ..records import InputError
from ..run import Run
from .candidates import Candidates
from .sampling import QueryCandidates, Sampling, draw_group, fused_scores
from .suspects import with_suspects

ROWS_A_GROUP = 1000
Text = Callable[[str], str]


class Group(NamedTuple):
    """What one query is trained on."""

    query_id: str
    query: str
    positives: Sequence[str]
    positive: str
    negatives: Sequence[str]


def groups(candidates: Candidates, num_negatives: int, seed: int, epoch: int, sampling: Sampling) -> Iterator[Group]:
    """The training groups of an epoch, in the order of the rows; the same draws as the trainer's."""
    rows = candidates.rows
    if sampling.leave_out_suspects:
        rows = with_suspects(rows, candidates.corpus.text, sampling.judged_by)
    for row in rows:
        positive, negatives = draw_group(row, num_negatives, seed, epoch, sampling)
        yield Group(row["query_id"], row["query"], row["positive_ids"], positive, negatives)


def labeled_list(group: Group, text: Text, num_negatives: int) -> Iterator[dict[str, Any]]:
    """sentence-transformers, list losses: `query`, `docs`, `labels`, the positive first; lists of uneven length."""
    documents = [text(doc_id) for doc_id in (group.positive, *group.negatives)]
    yield {"query": group.query, "docs": documents, "labels": [1.0, *[0.0] * len(group.negatives)]}


def n_tuple(group: Group, text: Text, num_negatives: int) -> Iterator[dict[str, Any]]:
    """sentence-transformers: `query`, `positive`, `negative_1` … `negative_n`; a group with fewer is left out."""
    if len(group.negatives) == num_negatives:
        negatives = {f"negative_{number}": text(doc_id) for number, doc_id in enumerate(group.negatives, start=1)}
        yield {"query": group.query, "positive": text(group.positive), **negatives}


def triplet(group: Group, text: Text, num_negatives: int) -> Iterator[dict[str, Any]]:
    """sentence-transformers: `query`, `positive`, `negative`, one row a negative."""
    for doc_id in group.negatives:
        yield {"query": group.query, "positive": text(group.positive), "negative": text(doc_id)}


def tevatron(group: Group, text: Text, num_negatives: int) -> Iterator[dict[str, Any]]:
    """Tevatron's rerankers and Tevatron/msmarco-passage: passages with `docid`, `title`, `text`; all positives.

    `text` is the passage as rankers read it, so that `title` is empty: Tevatron would join the two otherwise.
    """

    def passages(doc_ids: Iterable[str]) -> list[dict[str, str]]:
        return [{"docid": doc_id, "title": "", "text": text(doc_id)} for doc_id in doc_ids]

    positives = [group.positive, *(doc_id for doc_id in group.positives if doc_id != group.positive)]
    yield {
        "query_id": group.query_id,
        "query": group.query,
        "positive_passages": passages(positives),
        "negative_passages": passages(group.negatives),
    }


def flag_embedding(group: Group, text: Text, num_negatives: int) -> Iterator[dict[str, Any]]:
    """FlagEmbedding: `query`, `pos`, `neg`, lists of texts."""
    yield {"query": group.query, "pos": [text(group.positive)], "neg": [text(doc_id) for doc_id in group.negatives]}


class Form(NamedTuple):
    """A library's file: how a group is written, and whether as JSON lines or Parquet."""

    rows: Callable[[Group, Text, int], Iterator[dict[str, Any]]]
    suffix: str


FORMS: dict[str, Form] = {
    "labeled_list": Form(labeled_list, "parquet"),
    "n_tuple": Form(n_tuple, "parquet"),
    "triplet": Form(triplet, "parquet"),
    "tevatron": Form(tevatron, "jsonl"),
    "flag_embedding": Form(flag_embedding, "jsonl"),
}
"""Exports of drawn groups by name."""


def export_groups(
    candidates: Candidates,
    folder: str | os.PathLike,
    form: str,
    num_negatives: int = 40,
    seed: int = 42,
    epoch: int = 0,
    sampling: Sampling | None = None,
) -> tuple[Path, int]:
    """Write one epoch's groups as `<form>.parquet` or `<form>.jsonl`, a thousand rows in memory at a time.

    Args:
        candidates: what was mined, with its corpus.
        folder: made if need be.
        form: a name in `FORMS`.
        num_negatives: negatives a query; fewer where its candidates run out.
        seed: of the draw.
        epoch: of the draw; each has other negatives.
        sampling: policy and options; default the paper's.

    Returns:
        The file, and how many rows it has.

    Raises:
        InputError: no such form, or no row could be written.
    """
    if form not in FORMS:
        raise InputError(f"no export form {form!r}; choices: {', '.join([*FORMS, 'trec', 'pool'])}")
    if num_negatives < 1:
        raise InputError(f"num_negatives is {num_negatives}, but must be at least 1")
    drawn = groups(candidates, num_negatives, seed, epoch, sampling or Sampling())
    write = FORMS[form].rows
    rows = chain.from_iterable(write(group, candidates.corpus.text, num_negatives) for group in drawn)
    path = Path(folder) / f"{form}.{FORMS[form].suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    written = (_write_parquet if path.suffix == ".parquet" else _write_jsonl)(path, rows)
    if not written:
        path.unlink(missing_ok=True)
        raise InputError(f"{form}: no query has {num_negatives} negatives; ask for fewer")
    return path, written


def export_runs(candidates: Candidates, folder: str | os.PathLike) -> list[Path]:
    """Each retriever's lists as a TREC run, `<retriever>.trec`, ready to be measured, reranked or mined again.

    Raises:
        InputError: a retriever's name is not safe in a file's name, or an id is one that run files cannot hold.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        files: dict[str, Any] = {}
        for row in candidates.rows:
            for name, ranked in QueryCandidates.of_row(row).lists.items():
                path = folder / f"{checked_name(name, 'retriever')}.trec"
                if name not in files:
                    files[name] = stack.enter_context(open(path, "w", encoding="utf-8", newline="\n"))
                _write_list(files[name], row["query_id"], zip(ranked.doc_ids, ranked.scores, strict=True), name)
    return [folder / f"{name}.trec" for name in files]


def export_pool(candidates: Candidates, path: str | os.PathLike, depth: int | None = None) -> None:
    """All retrievers' documents of each query as one TREC run, each once, by fused score: what a ranker may rescore.

    Args:
        candidates: what was mined.
        path: the run file.
        depth: documents taken of each list; the paper pools the top 1000 (Table 7). None: all that were mined.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for row in candidates.rows:
            lists = QueryCandidates.of_row(row).lists
            cut = {name: (ranked.doc_ids[:depth], ranked.scores[:depth]) for name, ranked in lists.items()}
            (ranked,) = Run({row["query_id"]: fused_scores(cut).items()}).values()
            _write_list(file, row["query_id"], ranked, "pool")


Identified = tuple[str | None, str | None]
"""A document's id, or None where the form has none; its text, or None where the form has ids only."""


class Imported(NamedTuple):
    """A line of another library's file.

    Attributes:
        query_id: None where the form has none.
        query: text, or None where the form has ids alone.
        positives: (id or None, text or None) of each relevant document.
        lists: by system, (id or None, text or None) of its documents, best first.
        scores: a teacher's score by position, for positives and then negatives; empty without teacher.
    """

    query_id: str | None
    query: str | None
    positives: Sequence[Identified]
    lists: Mapping[str, Sequence[Identified]]
    scores: Sequence[float] = ()


def read_sentence_transformers(row: Mapping[str, Any]) -> Imported:
    """sentence-transformers/msmarco-hard-negatives: `qid`, `pos`, and `neg`, ids by system; no texts."""

    def ids(entries: Any, key: str) -> list[tuple[str, None]]:
        given = [entry["pid"] if isinstance(entry, Mapping) else entry for entry in _list(entries, key)]
        return [(doc_id, None) for doc_id in checked_ids(given, f"{key!r}: an id")]

    if not isinstance(row["neg"], Mapping):
        raise InputError(f"'neg' must be lists of ids by system, but is {_shown(row['neg'])}")
    lists = {checked_name(name, "system"): ids(found, f"neg.{name}") for name, found in row["neg"].items()}
    return Imported(checked_id(row["qid"], "'qid'"), None, ids(row["pos"], "pos"), lists)


def read_tevatron(row: Mapping[str, Any]) -> Imported:
    """Tevatron/msmarco-passage and what our own export writes."""

    def passages(key: str) -> list[tuple[str, str]]:
        return [(checked_id(entry["docid"], f"{key!r}: 'docid'"), passage(entry)) for entry in _list(row[key], key)]

    def passage(entry: Mapping[str, Any]) -> str:
        title = "" if entry.get("title") is None else _text(entry["title"], "title")
        return f"{title} {_text(entry['text'], 'text')}".strip()

    lists = {"negatives": passages("negative_passages")}
    return Imported(checked_id(row["query_id"], "'query_id'"), _query(row), passages("positive_passages"), lists)


def read_flag_embedding(row: Mapping[str, Any]) -> Imported:
    """FlagEmbedding: `query`, `pos`, `neg`, and a teacher's `pos_scores`, `neg_scores` where it has them."""
    positives, negatives = (_texts(row[key], key) for key in ("pos", "neg"))
    given = {key: row[key] for key in ("pos_scores", "neg_scores") if row.get(key) is not None}
    scores = [_number(score, key) for key, values in given.items() for score in _list(values, key)]
    if scores and len(scores) != len(positives) + len(negatives):
        texts = len(positives) + len(negatives)
        raise InputError(f"'pos_scores' and 'neg_scores' hold {len(scores)} scores for {texts} texts")
    return Imported(None, _query(row), positives, {"negatives": negatives}, scores)


def read_labeled_list(row: Mapping[str, Any]) -> Imported:
    """sentence-transformers: `query`, `docs`, `labels`; a label above 0 is relevant."""
    texts, labels = _texts(row["docs"], "docs"), _list(row["labels"], "labels")
    if len(texts) != len(labels):
        raise InputError(f"'labels' holds {len(labels)} labels for {len(texts)} 'docs'")
    positives: list[Identified] = []
    negatives: list[Identified] = []
    for text, label in zip(texts, labels, strict=True):
        (positives if _number(label, "labels") > 0 else negatives).append(text)
    return Imported(None, _query(row), positives, {"negatives": negatives})


def read_tuple(row: Mapping[str, Any]) -> Imported:
    """sentence-transformers: `query` (or `anchor`), `positive`, `negative` or `negative_1` …"""
    names = [name for name in row if name == "negative" or name.startswith("negative_")]
    negatives = [(None, _text(row[name], name)) for name in names]
    query = _query(row, "query" if "query" in row else "anchor")
    return Imported(None, query, [(None, _text(row["positive"], "positive"))], {"negatives": negatives})


READERS: dict[str, Callable[[Mapping[str, Any]], Imported]] = {
    "sentence_transformers": read_sentence_transformers,
    "tevatron": read_tevatron,
    "flag_embedding": read_flag_embedding,
    "labeled_list": read_labeled_list,
    "n_tuple": read_tuple,
    "triplet": read_tuple,
}
"""Imports by name: a row of the file -> what it says."""


def import_negatives(
    path: str | os.PathLike | Sequence[str | os.PathLike], form: str, folder: str | os.PathLike, split: str = "train"
) -> Path:
    """Turn another library's training files into a BEIR folder and TREC runs, which `mine.py` takes.

    `folder` gets `qrels/<split>.tsv` and `runs/<system>.trec`, in the order of the file, with scores that only keep
    that order (-1, -2, …); with texts also `corpus.jsonl` and `queries.jsonl`, where the same text is one document
    or query; with a teacher's scores also `runs/teacher.trec`, a ranking for `redistributed`. Files are read line
    by line; what is held is the ids of queries and texts.

    Args:
        path: JSON lines, plain or gzipped, or Parquet; or several of them, which are read one after the other.
        form: a name in `READERS`.
        folder: a new folder.
        split: of the judgements.

    Returns:
        `folder`. Forms without texts need a collection beside it, whose ids are those of the file.

    Raises:
        InputError: no such form, a split's or system's name that is not safe in a file's name, or a row that lacks
            what the form has or holds anything else; the message names file and row.
    """
    checked_name(split, "split")
    if form not in READERS:
        raise InputError(f"no import form {form!r}; choices: {', '.join(READERS)}")
    paths = [path] if isinstance(path, str | os.PathLike) else path
    with _Folder(Path(folder), split) as made:
        for one in map(Path, paths):
            for number, row in _read_rows(one):
                try:
                    made.add(_imported(row, form))
                except InputError as error:
                    raise InputError(f"{one}, row {number}: {error}") from None
        if not made.queries:
            raise InputError(f"{', '.join(map(str, paths))}: holds no rows")
    return Path(folder)


def _imported(row: Any, form: str) -> Imported:
    try:
        return READERS[form](row)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        keys = ", ".join(row) if isinstance(row, Mapping) else type(row).__name__
        raise InputError(f"no {form} row ({error!r}); it has: {keys}") from None


class _Lines:
    """Files that are written one line at a time, and opened when they get their first."""

    def __init__(self, folder: Path):
        self.folder, self.stack = folder, ExitStack()
        self.files: dict[str, TextIO] = {}

    def write(self, name: str, line: str) -> None:
        if name not in self.files:
            path = self.folder / name
            self.files[name] = self.stack.enter_context(open(path, "w", encoding="utf-8", newline="\n"))
        self.files[name].write(line)

    def write_json(self, name: str, record: Mapping[str, str]) -> None:
        self.write(name, json.dumps(record, ensure_ascii=False) + "\n")


class _Folder:
    """The import being written. It remembers ids, so that nothing stands in a file twice."""

    def __init__(self, folder: Path, split: str):
        self.folder, self.qrels = folder, f"qrels/{split}.tsv"
        self.lines = _Lines(folder)
        self.queries: dict[str, dict[str, int]] = {}  # by query, how many documents of each run were written
        self.documents: set[str] = set()
        self.judged: set[tuple[str, str]] = set()
        self.listed: set[tuple[str, str, str]] = set()

    def __enter__(self) -> _Folder:
        (self.folder / "qrels").mkdir(parents=True)
        (self.folder / "runs").mkdir()
        self.lines.write(self.qrels, "query-id\tcorpus-id\tscore\n")
        return self

    def __exit__(self, *error: Any) -> None:
        self.lines.stack.close()

    def add(self, row: Imported) -> None:
        """Write what a row adds to the files."""
        query_id = self._begin(row.query_id) if row.query_id is not None else _id_of(str(row.query))
        self._write_query(query_id, row.query)
        positives = [self._write_document(*document) for document in row.positives]
        lists = {name: [self._write_document(*one) for one in found] for name, found in row.lists.items()}
        self._write_judgements(query_id, positives)
        for name, doc_ids in lists.items():
            self._write_list(name, query_id, doc_ids)
        self._write_scores(query_id, [*positives, *chain.from_iterable(lists.values())], row.scores)

    def _begin(self, query_id: str) -> str:
        """A query with an id has one row, so that nothing of the rows before need be remembered."""
        if query_id in self.queries:
            raise InputError(f"a second row for query {query_id!r}")
        self.judged.clear()
        self.listed.clear()
        return query_id

    def _write_query(self, query_id: str, text: str | None) -> None:
        if text is not None and query_id not in self.queries:
            self.lines.write_json("queries.jsonl", {"_id": query_id, "text": text})
        self.queries.setdefault(query_id, {})

    def _write_document(self, doc_id: str | None, text: str | None) -> str:
        """Its id; the same text is one document."""
        doc_id = doc_id or _id_of(str(text))
        if text is not None and doc_id not in self.documents:
            self.documents.add(doc_id)
            self.lines.write_json("corpus.jsonl", {"_id": doc_id, "title": "", "text": text})
        return doc_id

    def _write_judgements(self, query_id: str, positives: Sequence[str]) -> None:
        for doc_id in positives:
            if (query_id, doc_id) not in self.judged:
                self.judged.add((query_id, doc_id))
                self.lines.write(self.qrels, f"{query_id}\t{doc_id}\t1\n")

    def _write_list(self, name: str, query_id: str, doc_ids: Sequence[str]) -> None:
        """The next documents of a run, with scores that only keep the order."""
        for doc_id in doc_ids:
            if self._is_new(name, query_id, doc_id):
                rank = self._next_rank(name, query_id)
                self._write_rank(name, query_id, doc_id, rank, -float(rank))

    def _write_scores(self, query_id: str, doc_ids: Sequence[str], scores: Sequence[float]) -> None:
        """A teacher's ranking; of a text that stands twice, its first score."""
        first: dict[str, float] = {}
        for doc_id, score in zip(doc_ids, scores, strict=bool(scores)):
            first.setdefault(doc_id, score)
        for doc_id, score in sorted(first.items(), key=lambda pair: -pair[1]):
            if self._is_new("teacher", query_id, doc_id):
                self._write_rank("teacher", query_id, doc_id, self._next_rank("teacher", query_id), score)

    def _is_new(self, name: str, query_id: str, doc_id: str) -> bool:
        """Whether a run lacks the document yet: a group may hold it twice, a run may not."""
        place = (name, query_id, doc_id)
        new = place not in self.listed
        self.listed.add(place)
        return new

    def _next_rank(self, name: str, query_id: str) -> int:
        ranks = self.queries[query_id]
        ranks[name] = ranks.get(name, 0) + 1
        return ranks[name]

    def _write_rank(self, name: str, query_id: str, doc_id: str, rank: int, score: float) -> None:
        self.lines.write(f"runs/{name}.trec", f"{query_id} Q0 {doc_id} {rank} {score!r} {name}\n")


def _id_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _query(row: Mapping[str, Any], key: str = "query") -> str:
    if not _text(row[key], key).strip():
        raise InputError(f"{key!r} must be a text that is not empty, but is {row[key]!r}")
    return row[key]


def _text(value: Any, key: str) -> str:
    if isinstance(value, str):
        try:
            value.encode()  # half of a surrogate pair, which JSON may hold, is no UTF-8
            return value
        except UnicodeEncodeError:
            pass
    raise InputError(f"{key!r} must be a text, but is {_shown(value)}")


def _list(value: Any, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{key!r} must be a list, but is {_shown(value)}")
    return value


def _number(value: Any, key: str) -> float:
    if not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise InputError(f"{key!r} must be finite numbers, but one is {_shown(value)}")
    return float(value)


def _texts(values: Any, key: str) -> list[Identified]:
    return [(None, _text(value, key)) for value in _list(values, key)]


def _shown(value: Any) -> str:
    return f"{value!r:.60}"


def _read_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Rows with their numbers, from 1."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        if not path.is_file():
            raise InputError(f"{path}: no such file")
        numbers = count(1)
        for batch in pq.ParquetFile(path).iter_batches(ROWS_A_GROUP):
            yield from zip(numbers, batch.to_pylist(), strict=False)
        return
    for number, line in _gzip_lines(path) if path.suffix == ".gz" else read_lines(path):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{path}, line {number}: not JSON ({error.msg}): {line.strip()[:80]!r}") from None


def _gzip_lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            yield from enumerate(file, start=1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as gzipped text ({error})") from None


def _write_list(file: Any, query_id: str, documents: Iterable[tuple[str, float]], tag: str) -> None:
    query_id = checked_id(query_id, "query id")
    for rank, (doc_id, score) in enumerate(documents, start=1):
        file.write(f"{query_id} Q0 {checked_id(doc_id, 'document id')} {rank} {score!r} {tag}\n")


def _write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    written = 0
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            written += 1
    return written


def _write_parquet(path: Path, rows: Iterator[Mapping[str, Any]]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    written, writer = 0, None
    try:
        while part := list(islice(rows, ROWS_A_GROUP)):
            table = pa.Table.from_pylist(part, schema=writer.schema if writer else None)
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
            written += len(part)
    finally:
        if writer:
            writer.close()
    return written
