r"""Values in files: dotted paths to them, their types, and why one is refused.

A dot that belongs to a name is written `\.` or `~1` (and `~` is `~0`): both are found in eggs,
after the libraries that Wings' two families use.
"""

from __future__ import annotations

import math
import re
from enum import Enum
from typing import Final

__all__ = ["ALL", "Refused", "Scalar", "Step", "like", "steps", "text_of"]


class Refused(Exception):
    """A replacement or a file that is left as it was; the text tells a person why."""


class _All(Enum):
    ALL = "*"


ALL: Final = _All.ALL
"""The step to every child of a map or list."""

Step = str | int | _All
"""A key, an index, or ALL."""

_DOT = re.compile(r"(?<!\\)\.")
_PART = re.compile(r"(?P<name>.*?)(?P<indexes>(?:\[[0-9]{1,6}\])*)", re.ASCII | re.DOTALL)


def steps(match: str) -> list[Step]:
    """Return the steps of a path. Raises Refused where one of them is empty."""
    found: list[Step] = []
    for part in _DOT.split(match):
        parsed = _PART.fullmatch(part)
        if not part or parsed is None:
            raise Refused("the path has an empty part between two dots")
        if name := parsed["name"]:
            found.append(ALL if name == "*" else _unescaped(name))
        found += [int(index) for index in re.findall("[0-9]+", parsed["indexes"])]
    return found


def _unescaped(name: str) -> str:
    return name.replace("\\.", ".").replace("~1", ".").replace("~0", "~")


Scalar = str | bool | int | float

_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]{0,18})", re.ASCII)
_NUMBER = re.compile(
    r"-?(?:0|[1-9][0-9]{0,18})(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,3})?", re.ASCII
)
_INT64 = range(-(2**63), 2**63)
#: What Go's strconv.ParseBool takes, which is what eggs were tried with.
_BOOLEANS = {
    **dict.fromkeys(("1", "t", "T", "true", "True", "TRUE"), True),
    **dict.fromkeys(("0", "f", "F", "false", "False", "FALSE"), False),
}


def text_of(value: object) -> str | None:
    """Return the text of a scalar as JSON would write it; None for what is no scalar."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int | float):
        return repr(value)
    return None


def like(value: Scalar, found: object) -> Scalar:
    """Return `value` with the type of `found`, which stands in the file now (None: nothing does).

    The Panel fills placeholders in as text, so "25565" has to become a number where the file has
    one, and where it has nothing yet; a text stays a text, be it a password of digits. A value
    that was no text in the egg keeps its type.
    """
    if not isinstance(value, str):
        return value
    if isinstance(found, bool):
        return _BOOLEANS.get(value, value)
    if isinstance(found, float):
        return _float(value)
    if isinstance(found, int):
        whole = _whole(value)
        return _float(value) if whole == value else whole
    return value if isinstance(found, str) else _whole(value)


def _whole(text: str) -> str | int:
    if _WHOLE.fullmatch(text) and int(text) in _INT64:
        return int(text)
    return text


def _float(text: str) -> str | float:
    if _NUMBER.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return text
