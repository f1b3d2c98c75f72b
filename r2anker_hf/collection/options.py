"""Which collection a recipe reads: the options that every configuration with a collection has."""

from __future__ import annotations

from dataclasses import dataclass, field

from .collection import Collection, load_collection


def is_test(split: str) -> bool:
    """Whether a split is one to report, by its name; such queries may choose nothing.

    NanoBEIR's splits are named after collections, and each is a test set.

    >>> [is_test(split) for split in ("test", "test.pseudo", "de.test", "NanoSciFact", "dev", "latest")]
    [True, True, True, True, False, False]
    """
    return "test" in split.split(".") or split.startswith(("test", "Nano"))


@dataclass(kw_only=True)
class CollectionOptions:
    """A collection, without the split: recipes read one or two of them, and call them differently."""

    collection: str = field(metadata={"help": "BEIR or MS MARCO folder, Hub repository, or 'apidocs'."})
    revision: str | None = field(default=None, metadata={"help": "Commit of a Hub collection."})
    use_titles: bool = field(
        default=True, metadata={"help": "A passage is its title and text. --no_use_titles: only its text."}
    )
    collection_options: dict[str, int] = field(
        default_factory=dict, metadata={"help": "Sizes of 'apidocs', such as passages=300 test=20 dev=20."}
    )

    def load(self, split: str) -> Collection:
        """A split of it.

        Raises:
            InputError: as `load_collection`.
        """
        return load_collection(self.collection, split, self.revision, self.use_titles, **self.collection_options)
