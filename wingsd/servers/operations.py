"""The operations on one server, and which of them exclude each other.

`EXCLUSIONS` is the table: for each operation under way, what another one that is requested gets.
Each server has `Operations`, which knows what is under way and applies the table. An operation
that prevents starts holds the server: it begins with `place_hold` and ends with `release`. Any
other calls `check`, and runs within `with operations.during(...)` where it excludes something.
`ServerBusy`, which `check` and `place_hold` raise, is the 409 of the HTTP interface and the
`daemon error` of the WebSocket.

A new operation is a member of `Operation`, a row and a column of the table, and the text of
`_REFUSALS`: `server is currently being restored` is the fixed one for a restore.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

import attrs

from wingsd.errors import ServerBusy

__all__ = ["EXCLUSIONS", "Exclusion", "Hold", "Operation", "Operations", "refusal"]


class Operation(Enum):
    """What is done with a server. A restart is a start; a reinstallation is an installation."""

    START = "start"
    STOP = "stop"
    KILL = "kill"
    SYNC = "sync"
    INSTALL = "install"
    TRANSFER_OUT = "transfer out"
    TRANSFER_IN = "transfer in"
    #: What remains of a server that a transfer has moved away: it is never requested.
    MOVED = "moved away"
    DELETE = "delete"
    #: Over within seconds or harmless to others, so it is only requested and never under way.
    READ_FILES = "read files"
    #: What was begun goes on; it is checked again as long as it lasts.
    WRITE_FILES = "change files"


class Exclusion(Enum):
    """What a requested operation gets while another one is under way."""

    ALLOWED = "allowed"
    #: It waits for the other, within a limit of its own.
    WAITS = "waits"
    #: It cancels the other.
    CANCELS = "cancels it"
    #: It is allowed as long as the server's program runs, and refused after.
    ENDS = "while it runs"
    REFUSED = "409"


_A, _W, _C = Exclusion.ALLOWED, Exclusion.WAITS, Exclusion.CANCELS
_E, _R = Exclusion.ENDS, Exclusion.REFUSED

_REQUESTED: tuple[Operation, ...] = tuple(
    each for each in Operation if each is not Operation.MOVED
)
# In the order of `_REQUESTED`: start, stop, kill, sync, install, transfer out and in, delete, read
# and write files.
_ROWS = {
    Operation.START: (_W, _C, _C, _A, _R, _C, _R, _C, _A, _A),
    Operation.STOP: (_W, _W, _A, _A, _R, _W, _R, _C, _A, _A),
    Operation.KILL: (_A, _A, _A, _A, _R, _A, _R, _C, _A, _A),
    Operation.INSTALL: (_R, _E, _E, _A, _R, _R, _R, _C, _A, _R),
    Operation.TRANSFER_OUT: (_R, _E, _E, _A, _R, _R, _R, _C, _A, _R),
    Operation.TRANSFER_IN: (_R, _E, _E, _A, _R, _R, _R, _C, _R, _R),
    Operation.MOVED: (_R, _E, _E, _A, _R, _R, _A, _A, _R, _R),
    Operation.DELETE: (_R, _E, _E, _A, _R, _R, _R, _R, _R, _R),
}
#: By the operation under way, then by the requested one. A sync is over at once and excludes none.
EXCLUSIONS = {running: dict(zip(_REQUESTED, row, strict=True)) for running, row in _ROWS.items()}

#: The message of a refusal, by the operation under way. That of an installation and that of a
#: transfer are Wings'.
_REFUSALS = {
    Operation.INSTALL: "server is currently installing",
    Operation.TRANSFER_OUT: "server is currently being transferred",
    Operation.TRANSFER_IN: "server is currently being transferred",
    Operation.MOVED: "server has moved to another node",
    Operation.DELETE: "server is currently being deleted",
}
#: What an installation is refused with during a power action; Wings' text.
_NOT_REINSTALLED = "Cannot execute server reinstall event while another power action is running."
_POWER_ACTION = "another power action is under way for this server"


def refusal(running: Operation, requested: Operation) -> str:
    """Return the message with which `requested` is refused while `running` is under way."""
    if running in _REFUSALS:
        return _REFUSALS[running]
    return _NOT_REINSTALLED if requested is Operation.INSTALL else _POWER_ACTION


@attrs.frozen
class Hold:
    """An operation that holds the server, and why: a text for people."""

    operation: Operation
    why: str


class Operations:
    """The operations on one server that are under way: one that holds it at most, and others."""

    def __init__(self) -> None:
        self.hold: Hold | None = None
        self._others: list[Operation] = []

    def runs(self, *operations: Operation) -> bool:
        """Return whether one of these is under way."""
        return any(each in operations for each in self._under_way())

    def check(self, requested: Operation, *, program_runs: bool = False) -> None:
        """Raise `ServerBusy` where what is under way excludes `requested`.

        `program_runs` is whether the server's program does.
        """
        for running in self._under_way():
            answer = EXCLUSIONS[running][requested]
            if answer is _R or (answer is _E and not program_runs):
                raise ServerBusy(refusal(running, requested), self._advice(running))

    def place_hold(self, operation: Operation, why: str) -> None:
        """Have an operation hold the server. Raises `ServerBusy` where another one excludes it."""
        self.check(operation)
        self.hold = Hold(operation, why)

    def release(self, operation: Operation) -> None:
        """End the hold, if it is that of this operation."""
        if self.hold is not None and self.hold.operation is operation:
            self.hold = None

    @contextmanager
    def during(self, operation: Operation) -> Iterator[None]:
        """Have an operation that does not hold the server under way within the `with` statement.

        It is not checked here, so that one which waits for another is seen while it waits.
        """
        self._others.append(operation)
        try:
            yield
        finally:
            self._others.remove(operation)

    def _under_way(self) -> list[Operation]:
        return [*([self.hold.operation] if self.hold else []), *self._others]

    def _advice(self, running: Operation) -> str:
        if self.hold is None or running is not self.hold.operation:
            return "wait for it to end, or kill the server"
        if running is Operation.MOVED:
            return self.hold.why
        return f"{self.hold.why}; try again when that is over"
