"""Expected figures: what a report must show within a tolerance, such as the published ones of a reproduction."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from ..files import read_yaml
from ..records import InputError
from .measures import parse_measure


@dataclass(frozen=True)
class Expected:
    """One figure: the mean of a measure over the queries, for one system."""

    measure: str
    system: str
    figure: float
    tolerance: float

    def missed_by(self, found: float) -> str | None:
        """One line where the figure found is farther away than the tolerance; it may be as far.

        >>> Expected("nDCG@10", "bm25", 0.5, 0.01).missed_by(0.52)
        'nDCG@10 of bm25 is 0.5200, expected 0.5000 ± 0.0100: 0.0200 too high'
        """
        away = found - self.figure
        if abs(away) <= self.tolerance + 1e-12:  # .51 is within .01 of .5, whatever binary fractions make of them
            return None
        return (
            f"{self.measure} of {self.system} is {found:.4f}, expected {self.figure:.4f} ± {self.tolerance:.4f}: "
            f"{abs(away):.4f} too {'high' if away > 0 else 'low'}"
        )


def read_expected(path: str | os.PathLike, split: str) -> list[Expected]:
    """The figures of a split, from YAML: split -> measure -> system -> [figure, tolerance].

    Raises:
        InputError: no such file, a split that it lacks, no measure, or a value of another form.
    """
    whole = read_yaml(path)
    if split not in whole:
        raise InputError(f"{path}: expects nothing of split {split!r}; there are {', '.join(whole) or 'none'}")
    return [
        Expected(str(parse_measure(str(measure))), str(system), *_pair(pair, f"{path}, {split}, {measure}, {system}"))
        for measure, systems in _mapping(whole[split], f"{path}, {split}").items()
        for system, pair in _mapping(systems, f"{path}, {split}, {measure}").items()
    ]


def misses(expected: list[Expected], means: Mapping[str, Mapping[str, float]], where: object) -> list[str]:
    """One line for each figure that is missed; figures that were not measured are left out.

    Args:
        expected: of one split.
        means: measure -> system -> mean over the queries.
        where: what the message calls `expected`.

    Raises:
        InputError: none of them was measured.
    """
    known = [one for one in expected if one.system in means.get(one.measure, {})]
    if not known:
        asked = ", ".join(dict.fromkeys(f"{one.measure} of {one.system}" for one in expected))
        raise InputError(f"{where}: the report has none of its figures ({asked})")
    lines = (one.missed_by(means[one.measure][one.system]) for one in known)
    return [line for line in lines if line]


def _mapping(value: object, where: str) -> Mapping:
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: is {value!r}, but must be a mapping")
    return value


def _pair(value: object, where: str) -> tuple[float, float]:
    numbers = [one for one in value if isinstance(one, int | float)] if isinstance(value, list) else []
    if len(numbers) != 2 or value != numbers or not 0 <= numbers[1] < float("inf"):
        raise InputError(f"{where}: is {value!r}, but must be [figure, tolerance]")
    return float(numbers[0]), float(numbers[1])
