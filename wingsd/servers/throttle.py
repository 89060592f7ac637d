"""How much of a console is passed on: a server that floods it must not drown the node.

Time is handed in, in seconds.
"""

from __future__ import annotations

__all__ = ["WINDOW", "Throttle"]

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
