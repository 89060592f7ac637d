r"""Java's properties files. Lines that are not changed stay as they are, comments among them.

Values are written with what is not ASCII as `\uXXXX`, which Java always understands, and without
the escapes of `=`, `:`, `#` and `!`, which it does not need: servers that are not Java's read such
files too.
"""

from __future__ import annotations

import re

from javaproperties import InvalidUEscapeError, KeyValue, PropertiesElement, escape, parse

from wingsd.eggfiles.changes import Change
from wingsd.eggfiles.refused import Refused

__all__ = ["PropertiesFile"]

#: The library takes time by the square of how many there are in a row.
_MAX_CONTINUED = 1000
_UP_TO_VALUE = re.compile(
    r"[ \t\f]*(?:\\[^\r\n]|[^\\ \t\f=:\r\n])*(?:[ \t\f]*[=:]|[ \t\f])[ \t\f]*"
)
_ESCAPED = re.compile(r"\\(.)")
_LINE_END = re.compile(r"(?:\r\n?|\n)?\Z")
_OPEN_END = re.compile(r"(?<!\\)(?:\\\\)*\\[\r\n]*\Z")


class PropertiesFile:
    r"""Keys and values. Raises Refused for a `\u` that no four hexadecimal digits follow."""

    def __init__(self, source: str) -> None:
        if source.count("\\\n") + source.count("\\\r") > _MAX_CONTINUED:
            raise Refused(f"more than {_MAX_CONTINUED} of its lines are continued on the next")
        try:
            self._elements = list(parse(source))
        except InvalidUEscapeError as error:
            raise Refused(f"it is not a properties file: {error}") from error

    def apply(self, change: Change) -> None:
        """Set the key `change.match`, wherever it stands, or add it at the end.

        Of a key that stands twice Java takes the last: that one tells if a condition holds.
        """
        found = [
            (number, element)
            for number, element in enumerate(self._elements)
            if isinstance(element, KeyValue) and element.key == change.match
        ]
        new = change.text_outcome(found[-1][1].value if found else None)
        if new is None:
            return
        for number, element in found:
            if element.value != new:
                self._elements[number] = _changed(element, new)
        if not found:
            self._append(change.match, new)

    def text(self) -> str:
        """Return the file's text."""
        return "".join(element.source for element in self._elements)

    def _append(self, key: str, value: str) -> None:
        if self._elements:
            last = self._elements[-1]
            if not last.source.endswith(("\n", "\r")):
                last.source += "\n"
            if not last.source.lstrip(" \t\f").startswith(("#", "!")) and _OPEN_END.search(
                last.source
            ):
                # the file ends in the middle of an entry, and the next line would belong to it
                last.source += "\n"
        self._elements.append(KeyValue(key, value, f"{escape(key)}={_escaped(value)}\n"))


def _changed(element: KeyValue, value: str) -> KeyValue:
    """Return the entry with another value, its key and separator as they were."""
    end = _LINE_END.search(element.source)
    ending = end[0] if end else ""
    head = _UP_TO_VALUE.match(element.source)
    source = f"{head[0] if head else ''}{_escaped(value)}{ending}"
    if not _reads(source, element.key, value):
        source = f"{escape(element.key)}={_escaped(value)}{ending}"
    return KeyValue(element.key, value, source)


def _reads(source: str, key: str, value: str) -> bool:
    elements: list[PropertiesElement] = list(parse(source))
    return [(kv.key, kv.value) for kv in elements if isinstance(kv, KeyValue)] == [(key, value)]


def _escaped(value: str) -> str:
    text = _ESCAPED.sub(lambda m: m[1] if m[1] in " =:#!" else m[0], escape(value))
    return "\\" + text if text.startswith(" ") else text
