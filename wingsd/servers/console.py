"""A server's console: from the bytes of a terminal to lines, and the last of them kept.

A run's output is not trusted: no line is longer than `LONGEST`, and what is kept is bounded in
lines and in bytes.
"""

from __future__ import annotations

import codecs
from collections import deque

__all__ = ["CUT", "LONGEST", "Console", "Lines", "text"]

#: Bytes of a line that are kept; what `CUT` stands for is left out.
LONGEST = 8 * 1024
CUT = " [...]"
#: Bytes of lines kept for those who come later.
KEPT_BYTES = 512 * 1024


class Lines:
    """Cuts a stream of bytes into lines, which come without their end (LF or CR LF).

    They are given out as bytes, for most of a flood is never looked at; `text` reads them.
    """

    def __init__(self) -> None:
        self._partial = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that `data` completes."""
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = self._partial + lines[0]
            self._partial = b""
        # One byte more than a line may have tells that it was longer.
        self._partial = (self._partial + rest)[: LONGEST + 1]
        return lines

    def end(self) -> list[bytes]:
        """Return the line that was never completed, if there is one."""
        lines, self._partial = [self._partial] if self._partial else [], b""
        return lines


def text(line: bytes) -> str:
    """Return what a line says: cut where it is too long, with U+FFFD for what is not UTF-8."""
    line = line.removesuffix(b"\r")
    if len(line) <= LONGEST:
        return line.decode("utf-8", "replace")
    # Not final: a character that the cut goes through is left out.
    kept, _ = codecs.utf_8_decode(line[:LONGEST], "replace", False)
    return kept + CUT


class Console:
    """The last lines of one run, at most `count` of them."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._lines: deque[tuple[str, int]] = deque()
        self._size = 0

    def add(self, line: str) -> None:
        """Keep a line, and let go of the oldest where there are too many."""
        size = len(line.encode("utf-8", "replace"))
        self._lines.append((line, size))
        self._size += size
        while len(self._lines) > self._count or self._size > KEPT_BYTES:
            self._size -= self._lines.popleft()[1]

    def clear(self) -> None:
        """Forget everything: a new run begins."""
        self._lines.clear()
        self._size = 0

    def lines(self, count: int) -> list[str]:
        """Return the last `count` lines, or as many as there are."""
        first = max(0, len(self._lines) - max(0, count))
        return [line for line, _ in list(self._lines)[first:]]
