"""How repositories of the Hub keep a collection: the layouts of MTEB, BEIR and NanoBEIR.

| part | its configuration, the first that is there | its columns |
|---|---|---|
| corpus | `<subset>-corpus`, `corpus` | `_id` or `id`, `text`, perhaps `title` |
| queries | `<subset>-queries`, `queries` | `_id` or `id`, `text` |
| judgements | `<subset>-qrels`, `<subset>`; else `default`, `qrels` | `query-id`, `corpus-id`, perhaps `score` |
| rankings | any other, such as `bm25` or `<subset>-top_ranked` | `query-id`, `corpus-ids` |

BEIR keeps judgements in a repository of their own, `<name>-qrels`. NanoBEIR leaves `score` out: what is judged is
relevant. `sentence-transformers/NanoBEIR-en` holds 13 collections, each one a split of every configuration.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..records import Document, InputError, Qrel

if TYPE_CHECKING:
    import datasets

_OF_A_COLLECTION = ("corpus", "queries", "qrels", "default")


@dataclass(frozen=True)
class HubCollection:
    """A split of a repository at a commit.

    Attributes:
        repo: "owner/name".
        revision: commit.
        configs: the repository's configurations.
        subset: of a multilingual repository, such as "de"; None of any other.
        split: without the subset.
    """

    repo: str
    revision: str
    configs: Sequence[str]
    subset: str | None
    split: str

    @classmethod
    def find(cls, repo: str, revision: str, split: str) -> HubCollection:
        """A split, which is `<subset>.<split>` in a repository of several subsets."""
        from datasets import get_dataset_config_names

        configs = get_dataset_config_names(repo, revision=revision)
        subset, _, rest = split.partition(".")
        if rest and subset in _subsets(configs):
            return cls(repo, revision, configs, subset, rest)
        return cls(repo, revision, configs, None, split)

    def corpus(self) -> tuple[datasets.Dataset, dict[str, str]]:
        """The documents (see `corpus_table`), and the configuration and split that they were read from.

        The split is not named where the configuration has only one.

        Raises:
            InputError: no such configuration, split or column.
        """
        table, place = self._table(self._config("corpus"))
        return as_corpus_table(table, f"{self.repo}, configuration {place['config']!r}"), place

    def queries(self) -> dict[str, str]:
        """Text by query id.

        Raises:
            InputError: no such configuration, split or column, or a text that is none.
        """
        table, place = self._table(self._config("queries"))
        where = f"{self.repo}, configuration {place['config']!r}"
        key = _id_column(table, where)
        _check_columns(table, where, "text")
        queries = {str(row[key]): row["text"] for row in table}
        for query_id, text in queries.items():
            if not isinstance(text, str):
                raise InputError(f"{where}: query {query_id!r} has no text, but {text!r:.60}")
        return queries

    def qrels(self) -> Iterator[Qrel]:
        """Judgements; without a column `score` each of them is of grade 1.

        Raises:
            InputError: no such split or column.
        """
        table, where = self._judgements()
        _check_columns(table, where, "query-id", "corpus-id")
        for row in table:
            doc_ids = row["corpus-id"] if isinstance(row["corpus-id"], list) else [row["corpus-id"]]
            for doc_id in doc_ids:
                yield Qrel(str(row["query-id"]), str(doc_id), int(row.get("score", 1)))

    def ranking(self, config: str) -> Iterator[tuple[str, list[str]]]:
        """Query ids with the ids of their documents, best first, as a configuration stores them.

        Raises:
            InputError: no such configuration, split or column; the message names the configurations that are there.
        """
        names = [f"{self.subset}-{config}", config] if self.subset else [config]
        found = next((name for name in names if name in self.configs), None)
        if found is None:
            parts = tuple(f"-{part}" for part in _OF_A_COLLECTION)
            others = [name for name in self.configs if name not in _OF_A_COLLECTION and not name.endswith(parts)]
            raise InputError(
                f"{self.repo}: no ranking {config!r}; configurations there: {', '.join(others) or 'none'}"
            )
        table, _ = self._table(found)
        _check_columns(table, f"{self.repo}, configuration {found!r}", "query-id", "corpus-ids")
        for row in table:
            yield str(row["query-id"]), [str(doc_id) for doc_id in row["corpus-ids"]]

    def _config(self, part: str) -> str:
        names = [f"{self.subset}-{part}", part] if self.subset else [part]
        for name in names:
            if name in self.configs:
                return name
        if subsets := _subsets(self.configs):
            raise InputError(
                f"{self.repo}: holds several subsets; give the split as SUBSET.{self.split}, "
                f"with SUBSET one of: {', '.join(subsets)}"
            )
        raise InputError(f"{self.repo}: no configuration {part!r}; configurations there: {', '.join(self.configs)}")

    def _judgements(self) -> tuple[datasets.Dataset, str]:
        from datasets import load_dataset

        subset = self.subset
        names = [f"{subset}-qrels", subset] if subset else ["default", "qrels"]
        config = next((name for name in names if name in self.configs), None)
        if config:
            where = f"{self.repo}, configuration {config!r}"
            splits = load_dataset(self.repo, config, revision=self.revision)
        elif subset:
            raise InputError(
                f"{self.repo}: no judgements of {subset!r}; configurations there: {', '.join(self.configs)}"
            )
        else:
            where = f"{self.repo}-qrels"
            splits = load_dataset(where, revision=newest_commit(where))
        if self.split not in splits:
            raise InputError(f"{where}: no split {self.split!r}; splits there: {', '.join(splits)}")
        return splits[self.split], where

    def _table(self, config: str) -> tuple[datasets.Dataset, dict[str, str]]:
        """The split of a configuration, or its only one, which may be called `corpus`, `train` or anything."""
        return split_of(self.repo, config, self.revision, self.split)


def split_of(repo: str, config: str, revision: str, split: str | None) -> tuple[datasets.Dataset, dict[str, str]]:
    """A split of a configuration, or its only one whatever its name, and where that lies. None is its first one.

    Raises:
        InputError: it has several splits, and none of that name.
    """
    from datasets import load_dataset

    splits = load_dataset(repo, config, revision=revision)
    if len(splits) == 1 or split is None:
        return splits[next(iter(splits))], {"config": config}
    if split not in splits:
        raise InputError(f"{repo}: configuration {config!r} has no split {split!r}; splits there: {', '.join(splits)}")
    return splits[split], {"config": config, "split": split}


def as_corpus_table(table: datasets.Dataset, where: str) -> datasets.Dataset:
    """A repository's documents as columns `doc_id`, `title` and `text`; a text that is missing is empty.

    Args:
        table: with `_id`, `id` or `doc_id`, `text`, and perhaps `title`.
        where: names it in messages.

    Raises:
        InputError: a column is missing.
    """
    key = _id_column(table, where)
    _check_columns(table, where, "text")
    if "title" not in table.column_names:
        table = table.add_column("title", [""] * len(table))
    if key != "doc_id":
        table = table.rename_column(key, "doc_id")
    table = _as_strings(table.select_columns(list(Document._fields)))
    if any(table.data.column(name).null_count for name in Document._fields):
        table = table.map(_filled, batched=True)
    return table


def newest_commit(repo: str) -> str:
    """The commit that a repository is at, with a warning that names it."""
    from huggingface_hub import HfApi

    commit = HfApi().dataset_info(repo).sha
    assert commit is not None  # the Hub always answers with one
    warnings.warn(f"{repo} is read at its newest commit; pin it with revision: {commit}", stacklevel=4)
    return commit


def _subsets(configs: Sequence[str]) -> list[str]:
    """What stands before `-corpus` or `-queries`: languages, or pairs of them.

    >>> _subsets(["corpus", "de-corpus", "de-queries", "fr-queries"])
    ['de', 'fr']
    """
    ends = ("-corpus", "-queries")
    return sorted({name.removesuffix(end) for name in configs for end in ends if name.endswith(end)})


def _id_column(table: datasets.Dataset, where: str) -> str:
    key = next((name for name in ("_id", "id", "doc_id") if name in table.column_names), None)
    if key is None:
        raise InputError(f"{where}: no column '_id' or 'id'; columns there: {', '.join(table.column_names)}")
    return key


def _check_columns(table: datasets.Dataset, where: str, *names: str) -> None:
    for name in names:
        if name not in table.column_names:
            raise InputError(f"{where}: no column {name!r}; columns there: {', '.join(table.column_names)}")


def _as_strings(table: datasets.Dataset) -> datasets.Dataset:
    from datasets import Value

    text = Value("string")
    if all(feature == text for feature in table.features.values()):  # a cast would copy the whole corpus
        return table
    return table.cast(type(table.features)(dict.fromkeys(table.column_names, text)))


def _filled(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {name: [value or "" for value in batch[name]] for name in ("title", "text")}
