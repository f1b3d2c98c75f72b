"""Training groups out of a plain dataset: which columns are taken, and what a row of each form becomes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

from torch.utils.data import Dataset, IterableDataset
from transformers.trainer_utils import has_length

from ..draws import permutation
from ..negatives.sampling import Sampling, draw_group
from ..records import InputError

Row = Mapping[str, Any]
_NEGATIVE = re.compile(r"negative(_\d+)?")
_KNOWN = ("order", "by_epoch")  # what datasets have that yield groups already: by index, or as a stream


def as_groups(dataset: Any, config: Any, name: str, whole: bool = False) -> Any:
    """Groups of a dataset whose rows have one of the `FORMS`, in memory or as a stream.

    Args:
        dataset: a `datasets.Dataset` or `IterableDataset`, or a list of rows. None, the name of a dataset, and what
            yields groups already come back as they are; of several datasets by name, each is read.
        config: a `ListwiseConfig`, for `num_negatives`, `seed` and the objective.
        name: what errors call the dataset.
        whole: take all negatives of a row, in their order, and allow rows without labels: for evaluation.

    Raises:
        InputError: other columns, no row, or options that such rows cannot heed.
    """
    if dataset is None or isinstance(dataset, str) or any(hasattr(dataset, member) for member in _KNOWN):
        return dataset
    if isinstance(dataset, Mapping):
        if not whole:
            raise InputError(f"{name} has the splits {', '.join(map(str, dataset))}: give one of them")
        return {key: as_groups(part, config, f"{name}[{key!r}]", whole) for key, part in dataset.items()}
    kind = RowGroups if has_length(dataset) else StreamedGroups
    return kind(dataset, _reader(_columns(dataset, name), config, name, whole))


class RowGroups(Dataset):
    """Rows as groups: item (epoch, index) is a feature of `GroupedListwiseCollator`.

    Args:
        rows: a sequence of rows.
        read: (row, epoch) -> feature.
    """

    retrievers: Sequence[str] = ()

    def __init__(self, rows: Any, read: Callable[[Row, int], dict[str, Any]]):
        self.rows, self.read = rows, read

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        epoch, index = item
        return self.read(self.rows[int(index)], epoch)

    def order(self, seed: int, epoch: int) -> list[tuple[int, int]]:
        """The items of an epoch, shuffled; depends on (seed, epoch) only."""
        return [(epoch, int(row)) for row in permutation(len(self), seed, epoch)]


class StreamedGroups(IterableDataset):
    """As `RowGroups`, of rows that come one after the other, in the stream's own order."""

    retrievers: Sequence[str] = ()
    by_epoch = True

    def __init__(self, rows: Any, read: Callable[[Row, int], dict[str, Any]]):
        self.rows, self.read, self.epoch = rows, read, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each pass; a shuffled stream comes in another order then."""
        self.epoch = epoch
        if hasattr(self.rows, "set_epoch"):
            self.rows.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self.rows:
            yield self.read(row, self.epoch)


def of_positive(row: Row, epoch: int, negatives: Callable[[Row], list[str]], config: Any, whole: bool) -> dict:
    """A positive and its negatives; of more than `num_negatives`, each epoch draws other ones.

    The draw depends on (seed, epoch, query). So it is the same in memory, in a stream and in a loader's workers.
    """
    given = negatives(row)
    if not whole and len(given) > config.num_negatives:
        given = _drawn(row["query"], given, config, epoch)
    return {
        "query": row["query"],
        "documents": [row["positive"], *given],
        "labels": [1.0, *[0.0] * len(given)],
    }


def of_documents(row: Row, epoch: int) -> dict[str, Any]:
    """All documents of the row with their labels; 0 where the row has none."""
    documents, labels = row["documents"], row.get("labels")
    labels = [0.0] * len(documents) if labels is None else [float(label) for label in labels]
    return {"query": row["query"], "documents": documents, "labels": labels}


def _drawn(query: str, negatives: Sequence[str], config: Any, epoch: int) -> list[str]:
    places = [str(place) for place in range(len(negatives))]
    listed = {"retriever": "given", "doc_ids": places, "scores": [0.0] * len(places)}
    row = {"query_id": query, "positive_ids": [""], "candidates": [listed]}
    _, chosen = draw_group(row, config.num_negatives, config.seed, epoch, Sampling(depth=len(places)))
    return [negatives[int(place)] for place in chosen]


def _listed(row: Row) -> list[str]:
    return list(row["negatives"])


def _in_columns(row: Row, columns: Sequence[str]) -> list[str]:
    """Rows with fewer negatives than others have None in the last columns."""
    return [row[column] for column in columns if row[column] is not None]


def _reader(columns: Sequence[str], config: Any, name: str, whole: bool) -> Callable[[Row, int], dict[str, Any]]:
    """How rows of these columns become groups; columns beyond a form's are passed over."""
    if not whole:
        _refuse_policies(config, name)
    given, numbered = set(columns), sorted(filter(_NEGATIVE.fullmatch, columns), key=_number)
    if {"query", "positive", "negatives"} <= given or {"query", "positive"} <= given and numbered:
        if config.objective != "labels":
            raise InputError(f"objective is {config.objective!r}, but {name} has no scores: give documents and labels")
        negatives = _listed if "negatives" in given else partial(_in_columns, columns=numbered)
        read: Callable[[Row, int], dict[str, Any]] = partial(
            of_positive, negatives=negatives, config=config, whole=whole
        )
    elif {"query", "documents"} <= given and ("labels" in given or whole):
        read = of_documents
    else:
        raise InputError(f"{name} has the columns {', '.join(columns) or 'none'}, but a row has {FORMS}")
    return partial(_checked, read=read, name=name)


FORMS = (
    "query, positive and negatives (a list); or query, positive and negative, negative_1, ...; "
    "or query, documents and labels (two lists)"
)


def _checked(row: Row, epoch: int, read: Callable[[Row, int], dict[str, Any]], name: str) -> dict[str, Any]:
    """The group of a row, unless its values are no texts, or not as many labels as documents."""
    try:
        group = read(row, epoch)
        texts = [group["query"], *group["documents"]]
        fits = all(isinstance(text, str) for text in texts) and 1 < len(texts) == len(group["labels"]) + 1
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise InputError(f"{name}, query {row['query']!r}: a row must hold texts only, and a number per document")
    return group


def _columns(dataset: Any, name: str) -> list[str]:
    """Column names; of a stream that does not know them, those of its first row."""
    if getattr(dataset, "column_names", None):
        return list(dataset.column_names)
    first = next(iter(dataset), None)
    if first is None:
        raise InputError(f"{name} has no row")
    if not isinstance(first, Mapping):
        raise InputError(f"{name} has rows of {type(first).__name__}, but a row has {FORMS}")
    return list(first)


def _refuse_policies(config: Any, name: str) -> None:
    """Options that choose among retrievers' lists mean nothing here, and must not be passed over in silence."""
    plain = Sampling()
    given = [one.name for one in fields(Sampling) if getattr(config, one.name) != getattr(plain, one.name)]
    given += [option for option in ("label_weight", "leave_out_positives") if getattr(config, option)]
    given += ["objective"] if config.objective == "retrievers" else []
    if given:
        options = ", ".join(f"{option} {getattr(config, option)!r}" for option in given)
        raise InputError(f"{options}: needs candidates with lists of retrievers, but {name} has plain rows")


def _number(column: str) -> int:
    return int(column.rpartition("_")[2]) if "_" in column else 0
