"""What names and ids may be: names become parts of file names, ids columns of TREC runs and judgements."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from .records import InputError

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,99}")


def checked_name(name: object, what: str) -> str:
    """The name of a retriever, ranking or split, which is safe as a part of a file's name.

    Args:
        name: 1 to 100 ASCII letters, digits and `._+-`, of which the first is a letter, a digit or `_`.
        what: it names, for the message.

    Raises:
        InputError: another name.

    >>> checked_name("tas-b", "retriever")
    'tas-b'
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InputError(f"{what} {name!r} is no name of 1 to 100 ASCII letters, digits and ._+-, none of .+- first")
    return name


def checked_id(value: object, what: str) -> str:
    """The id of a query or document, as every file that we write gives it back.

    Args:
        value: a string without whitespace, which separates the columns of runs and judgements; or an integer.
        what: it identifies, for the message.

    Raises:
        InputError: another value.

    >>> checked_id(7, "query_id")
    '7'
    """
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _can_be_read_back(text):
        raise InputError(f"{what} must be a string without spaces, or an integer, but is {value!r}")
    return text


def checked_ids(values: Iterable[Any], what: str) -> list[str]:
    """`checked_id` of each; a list of good strings, as mining meets by the million, takes a tenth of the time."""
    ids = list(values)
    try:
        joined = " ".join(ids)
        if joined.split() == ids and "\ufeff" not in joined and joined.encode():
            return ids
    except (TypeError, UnicodeEncodeError):
        pass
    return [checked_id(value, what) for value in ids]


def _can_be_read_back(text: str) -> bool:
    if text.split() != [text] or text[0] == "\ufeff":  # a byte order mark vanishes at the beginning of a file
        return False
    try:
        text.encode()  # half of a surrogate pair, which JSON may hold, is no UTF-8
    except UnicodeEncodeError:
        return False
    return True
