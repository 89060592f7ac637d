"""What a chain of steps leaves behind to be undone when a later one fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.logger import Logger

from wingsd.errors import WingsdError

__all__ = ["UndoList"]


class UndoList:
    """Undoes what was done to the server with the UUID `server`, the last thing first."""

    _log = Logger()

    def __init__(self, server: str) -> None:
        self._server = server
        self._steps: list[Callable[[], Awaitable[object]]] = []

    def add(self, step: Callable[[], Awaitable[object]]) -> None:
        """Note how the step now to come, or just done, is undone."""
        self._steps.append(step)

    def clear(self) -> None:
        """Undo nothing of what was noted."""
        self._steps.clear()

    async def run(self) -> None:
        """Undo everything. What cannot be undone is logged, and the rest goes on."""
        while self._steps:
            undo = self._steps.pop()
            try:
                await undo()
            except WingsdError as stuck:
                self._log.error("{server}: not undone: {error}", server=self._server, error=stuck)
            except Exception:
                self._log.failure("{server}: not undone", server=self._server)
