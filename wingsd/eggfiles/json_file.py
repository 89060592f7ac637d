"""JSON files: the order of keys is kept, and the indentation that the file has."""

from __future__ import annotations

import json
import math
import re

from wingsd.eggfiles.nested import NestedFile
from wingsd.eggfiles.refused import Refused

__all__ = ["JsonFile"]

_INDENT = re.compile(r"[\[{][ \t]*\n([ \t]+)")
_DEFAULT_INDENT = "  "


class JsonFile(NestedFile):
    """A JSON file; an empty one is an empty map. Raises Refused for what is no JSON."""

    def __init__(self, source: str) -> None:
        try:
            root = json.loads(source, parse_float=_finite) if source.strip() else {}
        except ValueError as error:
            raise Refused(f"it is not JSON: {error}") from error
        super().__init__(root, source)

    def text(self) -> str:
        """Return the text; that of an empty file is an empty map."""
        return super().text() if self.source.strip() else self.dump()

    def dump(self) -> str:
        """Return the data as the file wrote it: on one line, or with its own indentation."""
        found = _INDENT.search(self.source)
        one_line = self.source.strip() and "\n" not in self.source.strip()
        indent = None if one_line else found[1] if found else _DEFAULT_INDENT
        end = "" if self.source.strip() and not self.source.endswith("\n") else "\n"
        return json.dumps(self.root, ensure_ascii=False, indent=indent) + end


def _finite(literal: str) -> float:
    number = float(literal)
    if not math.isfinite(number):
        raise ValueError(f"the number {literal[:20]} is too large")
    return number
