r"""Dotted paths, as eggs write them: `listeners[0].host`, `servers.*.address`.

A dot that belongs to a name is written `\.` or `~1` (and `~` is `~0`): both are found in eggs,
after the libraries that Wings' two families use.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from wingsd.eggfiles.refused import Refused

__all__ = ["ALL", "Step", "steps"]


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
