"""A server's console: lines of a terminal, throttled and kept, and the one that says it is up.

`StartupDetector`: an entry of the egg's `done` is a part of the line or, after `regex:`, an
expression in Go's syntax, since eggs are written for Wings. RE2 has that syntax, and its time
grows with the line only: whatever an egg says, it cannot hang the node.

`Throttle` gets the time as an argument, in seconds.

A run's output is not trusted: no line is longer than `LONGEST`, and what is kept is bounded in
lines and in bytes.
"""

from __future__ import annotations

import codecs
import re
from collections import deque

import re2

from wingsd.panel.schemas import Startup

__all__ = [
    "CUT",
    "LONGEST",
    "LONGEST_MATCHED_LINE",
    "WINDOW",
    "Console",
    "LineSplitter",
    "StartupDetector",
    "Throttle",
    "text",
]

#: Characters of a line that are looked at.
LONGEST_MATCHED_LINE = 4096

_REGEX = "regex:"
#: Control sequences of terminals (ECMA-48): commands to the terminal such as its title, then
#: colours, cursor movements and the like.
_ANSI = re.compile(
    "(?:\x1b\\]|\x9d)[^\x07\x1b\x9c\x9d]*(?:\x07|\x1b\\\\|\x9c)"
    "|(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]"
    "|\x1b[ -/]*[0-Z\\\\^-~]"
)


class StartupDetector:
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
        line = line[:LONGEST_MATCHED_LINE]
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


#: Seconds; and what is passed on in each window: 2,000 lines and 1 MiB a second.
WINDOW = 0.125
LINES = 250
BYTES = 128 * 1024
#: Seconds after which a flood that does not end is told of all the same.
LONGEST_EPISODE = 10.0


class Throttle:
    """Counts lines by windows.

    An episode begins with the first line left out, and is over when a whole window has passed
    without one, or when it has become too long to say nothing of it.
    """

    def __init__(self) -> None:
        self._window = float("-inf")
        self._lines = 0
        self._bytes = 0
        self._left_out = 0
        self._began = 0.0
        self._last = 0.0

    def admit(self, lines: list[bytes], now: float) -> int:
        """Return how many of `lines`, from the first, are passed on."""
        if now - self._window >= WINDOW:
            self._window, self._lines, self._bytes = now, 0, 0
        admitted = 0
        for line in lines[: LINES - self._lines]:
            if self._bytes >= BYTES:
                break
            self._bytes += len(line)
            admitted += 1
        self._lines += admitted
        if admitted < len(lines):
            if not self._left_out:
                self._began = now
            self._left_out += len(lines) - admitted
            self._last = now
        return admitted

    def ended(self, now: float) -> int:
        """Return how many lines the episode that is over left out; 0 when none is over."""
        if not self._left_out:
            return 0
        quiet = now - self._last >= 2 * WINDOW
        return self.flush() if quiet or now - self._began >= LONGEST_EPISODE else 0

    def flush(self) -> int:
        """End the episode, if there is one; return how many lines it left out."""
        left_out, self._left_out = self._left_out, 0
        return left_out

    @property
    def on(self) -> bool:
        """Whether an episode is under way."""
        return self._left_out > 0


#: Bytes of a line that are kept; what `CUT` stands for is left out.
LONGEST = 8 * 1024
CUT = " [...]"
#: Bytes of lines kept for those who come later.
KEPT_BYTES = 512 * 1024


class LineSplitter:
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
