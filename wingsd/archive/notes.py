"""Notes on single members, for the person who moves a server, and not more of them than help."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["MAX_NOTES", "Notes"]

MAX_NOTES = 10_000
"""The most notes of one archive: it must not fill the disk with the node's log."""


class Notes:
    """Passes at most `MAX_NOTES` lines on to `note`, then counts."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._count = 0

    def tell(self, line: str) -> None:
        """Pass one line on."""
        self._count += 1
        if self._count <= MAX_NOTES:
            self._note(line)

    def finish(self) -> None:
        """Tell how many more there were."""
        if self._count > MAX_NOTES:
            self._note(f"and {self._count - MAX_NOTES} more notes")
