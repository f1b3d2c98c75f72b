"""A model's sets of candidates, one or several: which they were, and the share that each had of the training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..records import InputError

_SET = re.compile(r"negatives(?: (?P<number>\d+))?")


def sets_of(provenance: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a provenance states of each set of candidates; nothing where it is not a ranker's.

    >>> sets_of({"negatives": {"name": "a"}}), sets_of({"negatives": {"mixture": [{"name": "a"}, {"name": "b"}]}})
    ([{'name': 'a'}], [{'name': 'a'}, {'name': 'b'}])
    """
    stated = provenance.get("negatives")
    return stated.get("mixture", [stated]) if stated else []


def recorded_sets(inputs: Mapping[str, str]) -> list[str]:
    """Digest or commit of each set of candidates, as a training recorded its inputs.

    >>> recorded_sets({"negatives 2": "b", "negatives 10": "c", "negatives 1": "a", "model": "m"})
    ['a', 'b', 'c']
    """
    found = {int(match["number"] or 1): value for name, value in inputs.items() if (match := _SET.fullmatch(name))}
    return [found[number] for number in sorted(found)]


def is_recorded(revision: str, recorded: str) -> bool:
    """Whether candidates of this digest or commit can be those that a training recorded.

    Candidates that were a local folder then have a commit only since they were published.

    >>> is_recorded("0123", "me/a@0123"), is_recorded("4567", "me/a@0123"), is_recorded("0123", "sha256:89ab")
    (True, False, True)
    """
    if recorded.startswith("sha256:"):
        return revision == recorded or not revision.startswith("sha256:")
    return revision == recorded.rpartition("@")[2]


def splits_of(settings: Mapping[str, Any], count: int) -> list[str]:
    """The split of each set that a training read.

    >>> splits_of({}, 2), splits_of({"negatives_split": ["pseudo", "train"]}, 2)
    (['train', 'train'], ['pseudo', 'train'])
    """
    stated = settings.get("negatives_split") or ["train"]
    stated = stated if isinstance(stated, list) else [stated]
    return stated * count if len(stated) == 1 else stated


def with_shares(sets: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Facts of the sets of a mixture, each with its split, training queries, queries per epoch and share.

    What the training did is done again with the counts of the manifests: held-out queries leave the first set,
    `max_queries` limits each, and `epoch_counts` mixes them.

    Args:
        sets: [sets] facts with `name` and `splits`.
        settings: of the training; what is absent was left at its default.

    Raises:
        InputError: a set has no such split.
    """
    from ..rankers.mixture import epoch_counts  # loads torch

    splits = splits_of(settings, len(sets))
    for one, split in zip(sets, splits, strict=True):
        if split not in one["splits"]:
            raise InputError(f"{one['name']}: holds no split {split!r}; there are: {', '.join(one['splits'])}")
    sizes = [one["splits"][split]["queries"] for one, split in zip(sets, splits, strict=True)]
    sizes[0] -= settings.get("held_out") or 0
    sizes = [min(size, settings.get("max_queries") or size) for size in sizes]
    counts = epoch_counts(sizes, settings.get("mixture_weights") or (), settings.get("mixture_temperature") or 1.0)
    return [
        {
            **one,
            "split": split,
            "training_queries": size,
            "epoch_queries": count,
            "share": round(count / sum(counts), 6),
        }
        for one, split, size, count in zip(sets, splits, sizes, counts, strict=True)
    ]


def differences(provenance: Mapping[str, Any]) -> list[str]:
    """A line for each set of candidates, share or teacher that the training's record does not give."""
    sets, last = sets_of(provenance), provenance["stages"][-1]
    recorded = recorded_sets(last["inputs"])
    if "collection" in provenance:  # a retriever's own training reads its collection, whatever negatives it was given
        return _collection_differences(provenance["collection"], last["inputs"].get("collection", ""))
    if len(sets) != len(recorded):
        return [f"negatives: {len(sets)} are stated, but the training recorded {len(recorded)}"]
    wrong = [
        f"negatives: {one['name']} at {one['revision']} is stated, but the training recorded {input_}"
        for one, input_ in zip(sets, recorded, strict=True)
        if not is_recorded(one["revision"], input_)
    ]
    if (recorded_teacher := last["inputs"].get("teacher")) is not None:
        wrong += [
            f"teacher: {one['name']} at {one['revision']} is stated, but the training recorded {recorded_teacher}"
            for one in provenance.get("teachers", ())
            if not is_recorded(one["revision"], recorded_teacher)
        ]
    if len(sets) > 1:
        for one, derived in zip(sets, with_shares(sets, last["settings"]), strict=True):
            wrong += [
                f"negatives: {one['name']}: {key} is stated as {one.get(key)}, but the settings give {value}"
                for key, value in derived.items()
                if one.get(key) != value
            ]
    return wrong


def base_differences(provenance: Mapping[str, Any]) -> list[str]:
    """A line where the base model is another than the first training recorded.

    >>> stages = [{"inputs": {"model": "a/c@01"}}]
    >>> base_differences({"base_model": {"name": "a/b", "revision": "01"}, "stages": stages})
    ['base model: a/b at 01 is stated, but the training recorded a/c@01']
    """
    base, recorded = provenance["base_model"], provenance["stages"][0]["inputs"]["model"]
    name = recorded.rpartition("@")[0]
    if is_recorded(base["revision"], recorded) and ("/" not in name or name == base["name"]):
        return []
    return [f"base model: {base['name']} at {base['revision']} is stated, but the training recorded {recorded}"]


def _collection_differences(stated: Mapping[str, Any], recorded: str) -> list[str]:
    if recorded.rpartition("@")[2] == str(stated["revision"]):
        return []
    return [f"collection: {stated['name']} at {stated['revision']} is stated, but the training recorded {recorded}"]
