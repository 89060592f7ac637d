"""Regular expressions as eggs have them: in Go's syntax, for values that players' admins write.

RE2 is the engine that Go's own is a port of: the same syntax, and time linear in the text, so a
value made to be slow cannot hold up the node.
"""

from __future__ import annotations

import re
from typing import Any

import re2

from wingsd.eggfiles.refused import Refused

__all__ = ["Pattern"]

_MAX_MEMORY = 8 << 20
_REFERENCE = re.compile(r"\$(?:(\$)|(\w+)|\{(\w+)\})", re.ASCII)


class Pattern:
    """The regular expression `text`. Raises Refused where it is not one."""

    def __init__(self, text: str) -> None:
        self.text = text
        options = re2.Options()
        options.log_errors = False
        options.max_mem = _MAX_MEMORY
        try:
            self._compiled: Any = re2.compile(text, options)
        except re2.error as error:
            why = error.args[0] if error.args else ""
            why = why.decode(errors="replace") if isinstance(why, bytes) else str(why)
            raise Refused(f"if_value is no regular expression: {why}") from error

    def substituted(self, template: str, text: str) -> str | None:
        """Return `text` with every match replaced by `template`; None where nothing matches.

        As Go's ReplaceAllString: `$1`, `$name` and `${name}` are groups (empty where there is no
        such group), `$$` is a dollar, and an empty match right behind another one does not count.
        """
        pieces: list[str] = []
        end = -1
        for match in self._compiled.finditer(text):
            if match.start() == match.end() == end:
                continue
            pieces += text[max(end, 0) : match.start()], _expanded(template, match)
            end = match.end()
        return None if end < 0 else "".join([*pieces, text[end:]])


def _expanded(template: str, match: Any) -> str:
    def group(reference: re.Match[str]) -> str:
        dollar, bare, braced = reference.groups()
        if dollar:
            return "$"
        name = bare or braced
        try:
            return match.group(int(name) if name.isdigit() else name) or ""
        except (IndexError, KeyError):
            return ""

    return _REFERENCE.sub(group, template)
