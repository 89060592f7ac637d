"""Which console line says that a server is up: `process_configuration.startup`.

An entry of `done` is a part of the line or, after `regex:`, an expression in Go's syntax, since
eggs are written for Wings. RE2 has that syntax, and its time grows with the line only: whatever
an egg says, it cannot hang the node.
"""

from __future__ import annotations

import re

import re2

from wingsd.model import Startup

__all__ = ["LONGEST", "DoneLines"]

#: Characters of a line that are looked at.
LONGEST = 4096

_REGEX = "regex:"
#: Control sequences of terminals (ECMA-48): commands to the terminal such as its title, then
#: colours, cursor movements and the like.
_ANSI = re.compile(
    "(?:\x1b\\]|\x9d)[^\x07\x1b\x9c\x9d]*(?:\x07|\x1b\\\\|\x9c)"
    "|(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]"
    "|\x1b[ -/]*[0-Z\\\\^-~]"
)


class DoneLines:
    """The lines of one server.

    `faults` has a text for every expression that cannot be used; it matches nothing.
    """

    def __init__(self, startup: Startup) -> None:
        self.faults: list[str] = []
        self._strip = startup.strip_ansi
        self._parts: list[str] = []
        self._expressions: list[re2._Regexp] = []
        for entry in startup.done:
            if entry.startswith(_REGEX) and entry != _REGEX:
                self._compile(entry.removeprefix(_REGEX))
            elif entry:
                self._parts.append(entry)

    def __bool__(self) -> bool:
        """Whether there is anything to wait for, if only what can never match."""
        return bool(self._parts or self._expressions or self.faults)

    def match(self, line: str) -> bool:
        """Return whether the line says that the server is up."""
        line = line[:LONGEST]
        if self._strip:
            line = _ANSI.sub("", line)
        return any(part in line for part in self._parts) or any(
            expression.search(line) for expression in self._expressions
        )

    def _compile(self, expression: str) -> None:
        options = re2.Options()
        options.log_errors = False
        try:
            self._expressions.append(re2.compile(expression, options))
        except re2.error as error:
            (why,) = error.args
            text = why.decode(errors="replace") if isinstance(why, bytes) else str(why)
            self.faults.append(f"the done line {_REGEX}{expression} is no expression: {text}")
