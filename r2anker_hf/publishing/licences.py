"""Licences are carried over: what is published may not promise more than what it was made from allows."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..records import InputError

UNKNOWN = ("unknown", "other")
_BASE = "the base model"
_KEPT = "works made from it keep its licence"
# Licences under which a work made from another must be passed on under the same one.
_SHARE_ALIKE = re.compile(r"^(cc-by(-nc)?-sa-|gpl|agpl|lgpl|gfdl|odbl|osl-|eupl)")
_NON_COMMERCIAL = re.compile(r"^(cc-by-nc|.*non-?commercial)")
_NO_DERIVATIVES = re.compile(r"^cc-by(-nc)?-nd")
# Licences of models whose terms go along with weights made from theirs; `other` is one that the Hub has no name for.
_OF_WEIGHTS = re.compile(r"^(other$|gemma$|llama|.*rail)")


def carried(
    stated: str | None, sources: Mapping[str, str | None], derived: bool, base: str | None = None
) -> str | None:
    """The licence of what was made from sources.

    Args:
        stated: what the publisher says; None: as strict as the strictest source's.
        sources: licence by what it is of, as the Hub abbreviates licences; None where nobody knows it.
        derived: whether texts of the sources are in it (a dataset), so that share-alike binds it; what a model only
            learned from binds its weights by non-commercial terms alone.
        base: licence of the weights that a model started from; they bind it as texts bind a dataset.

    Returns:
        The licence; None where nobody knows any.

    Raises:
        InputError: a clash; the message names both sides.

    >>> carried(None, {"the negatives": "cc-by-nc-4.0"}, derived=False, base="apache-2.0")
    'cc-by-nc-4.0'
    >>> carried(None, {"the negatives": "cc-by-sa-4.0"}, derived=False, base="agpl-3.0")
    'agpl-3.0'
    """
    known = {name: licence.lower() for name, licence in {_BASE: base, **sources}.items() if licence}
    licence = stated.lower() if stated else max(known.values(), key=_strictness, default=None)
    for name, other in known.items():
        reason = _clash_of_base(licence, other) if name == _BASE else _clash(licence, other, derived)
        if reason:
            raise InputError(f"licence {licence}: clashes with {other}, that of {name}: {reason}")
    return licence


def _strictness(licence: str) -> tuple[bool, bool, bool]:
    return (
        bool(_NO_DERIVATIVES.match(licence)),
        bool(_NON_COMMERCIAL.match(licence)),
        bool(_SHARE_ALIKE.match(licence)),
    )


def _clash_of_base(licence: str | None, other: str) -> str | None:
    """Weights are made from the base model's, as a dataset is from texts."""
    if _OF_WEIGHTS.match(other) and licence != other:
        return _KEPT
    return _clash(licence, other, derived=True)


def _clash(licence: str | None, other: str, derived: bool) -> str | None:
    if derived and _NO_DERIVATIVES.match(other):
        return "works made from it may not be passed on"
    if _NON_COMMERCIAL.match(other) and not _NON_COMMERCIAL.match(licence or "") and licence not in UNKNOWN:
        return "it forbids commercial use, which this would allow"
    if derived and _SHARE_ALIKE.match(other) and licence != other:
        return _KEPT
    return None
