"""Any text file (the parser `file`): whole lines, known by how they begin."""

from __future__ import annotations

from wingsd.eggfiles.changes import Change

__all__ = ["LineFile"]


class LineFile:
    """Lines of text. A line that begins with `match` becomes `replace_with`.

    Where several changes match a line, the longest match counts (`port2=` over `port`), and of
    equal ones the last. `if_value` has no meaning here, as in Wings: a line has no value.
    """

    def __init__(self, source: str) -> None:
        self._found = source.split("\n")
        self._lines = list(self._found)
        self._matched = [0] * len(self._found)

    def apply(self, change: Change) -> None:
        """Replace every line that begins with `change.match`."""
        new = change.text.split("\n")
        for number, line in enumerate(self._found):
            if line.startswith(change.match) and len(change.match) >= self._matched[number]:
                self._matched[number] = len(change.match)
                # several lines that are there already must not grow with every start
                there = self._found[number : number + len(new)] == new
                self._lines[number] = line if there else change.text

    def text(self) -> str:
        """Return the lines."""
        return "\n".join(self._lines)
