"""The line by which the players of a running server hear that it is about to move."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import attrs

from wingsd.errors import WingsdError

__all__ = ["SECONDS", "MoveAnnouncement"]

#: Stands for the predicted downtime in a command: whole seconds, rounded up.
SECONDS = "{seconds}"


class Console(Protocol):
    """The console of a server."""

    async def command(self, line: str) -> None:
        """Type a line into it."""


@attrs.frozen(eq=False, repr=False)
class MoveAnnouncement:
    """Types `command` into the `console`, empty for none. `say` gets why that has failed."""

    command: str
    console: Console
    say: Callable[[str], None]

    async def announce(self, downtime: float) -> None:
        """Tell the players that the server will be down for so many seconds.

        A console that does not take the line does not stop the move.
        """
        if not self.command:
            return
        line = self.command.replace(SECONDS, str(max(math.ceil(downtime), 1)))
        try:
            await self.console.command(line)
        except WingsdError as error:
            self.say(f"its players were not told that it moves: {error}")
