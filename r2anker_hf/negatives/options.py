"""Which candidates a recipe reads: the options that every configuration with one set of candidates has."""

from __future__ import annotations

from dataclasses import dataclass, field

from .candidates import Candidates, load_candidates


@dataclass(kw_only=True)
class CandidatesOptions:
    """One split of a set of candidates."""

    negatives: str = field(
        metadata={"help": "Candidates: a folder that mine.py or teach.py wrote, or a Hub repository."}
    )
    negatives_revision: str | None = field(default=None, metadata={"help": "Commit of a Hub dataset."})
    split: str = field(default="train", metadata={"help": "Split of the candidates."})

    def load(self) -> Candidates:
        """The split.

        Raises:
            InputError: as `load_candidates`.
        """
        return load_candidates(self.negatives, self.split, self.negatives_revision)
