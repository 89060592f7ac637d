"""The operations on one server, and which of them exclude each other.

`EXCLUSIONS` is the table: for each operation under way, the answer to another that is requested.
Each server has `Operations`, which knows what is under way and applies the table. An operation
that prevents starts holds the server: it begins with `place_hold` and ends with `release`. Any
other calls `check`, and runs within `with operations.during(...)` where it excludes something.
`ServerBusy`, which `check` and `place_hold` raise, is the 409 of the HTTP interface and the
`daemon error` of the WebSocket.

A new operation is a member of `Operation`, a row and a column of the table, and the text of
`_REFUSALS`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from enum import Enum

import attrs
from twisted.internet.defer import Deferred

from wingsd.errors import ServerBusy


class Operation(Enum):
    """An operation on a server. A restart is a start; a reinstallation is an installation."""

    START = "start"
    STOP = "stop"
    KILL = "kill"
    SYNC = "sync"
    INSTALL = "install"
    #: A backup is restored: read and verified beside the server's files, which it then replaces.
    RESTORE = "restore"
    TRANSFER_OUT = "transfer out"
    #: It is being sent while it runs: it may be used as ever until it is stopped for that, but not
    #: be taken by another operation.
    FOLLOW = "follow"
    #: Its transfer is ordered, and waits for the end of another operation. It is never requested.
    ORDERED = "wait to be transferred"
    TRANSFER_IN = "transfer in"
    #: What remains of a server that a transfer has moved away: it is never requested.
    MOVED = "moved away"
    DELETE = "delete"
    #: Over within seconds or harmless to others, so it is only requested and never under way.
    READ_FILES = "read files"
    #: What takes the server cancels a change; an upload ends by itself when it is checked again.
    CHANGE_FILES = "change files"
    #: A backup is made; the server's program goes on.
    BACKUP = "make a backup"
    #: A point of its history is made. It is never requested: where it may not be made, it waits.
    POINT = "make a point of its history"


class Exclusion(Enum):
    """The answer to a requested operation while another is under way."""

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
    each for each in Operation if each not in (Operation.MOVED, Operation.ORDERED, Operation.POINT)
)
# In the order of `_REQUESTED`: start, stop, kill, sync, install, restore, transfer out, follow,
# transfer in, delete, read and change files, make a backup.
_ROWS = {
    Operation.START: (_W, _C, _C, _A, _R, _A, _C, _A, _R, _C, _A, _A, _A),
    Operation.STOP: (_W, _W, _A, _A, _R, _A, _W, _A, _R, _C, _A, _A, _A),
    Operation.KILL: (_A, _A, _A, _A, _R, _A, _A, _A, _R, _C, _A, _A, _A),
    Operation.INSTALL: (_R, _E, _E, _A, _R, _R, _R, _R, _R, _C, _A, _R, _R),
    Operation.RESTORE: (_R, _E, _E, _A, _R, _R, _R, _R, _R, _C, _A, _R, _R),
    Operation.TRANSFER_OUT: (_R, _E, _E, _A, _R, _R, _R, _R, _R, _C, _A, _R, _R),
    Operation.FOLLOW: (_A, _A, _A, _A, _R, _R, _R, _R, _R, _C, _A, _A, _R),
    Operation.ORDERED: (_A, _A, _A, _A, _R, _R, _R, _R, _R, _C, _A, _A, _R),
    Operation.TRANSFER_IN: (_R, _E, _E, _A, _R, _R, _R, _R, _R, _C, _R, _R, _R),
    Operation.MOVED: (_R, _E, _E, _A, _R, _R, _R, _R, _A, _A, _R, _R, _R),
    Operation.DELETE: (_R, _E, _E, _A, _R, _R, _R, _R, _R, _R, _R, _R, _R),
    Operation.CHANGE_FILES: (_A, _A, _A, _A, _C, _C, _C, _A, _R, _C, _A, _A, _A),
    Operation.BACKUP: (_A, _A, _A, _A, _R, _R, _R, _R, _R, _C, _A, _A, _A),
    Operation.POINT: (_A, _A, _A, _A, _C, _C, _C, _A, _C, _C, _A, _A, _A),
}
#: By the operation under way, then by the requested one. A sync is over at once and excludes none.
EXCLUSIONS = {running: dict(zip(_REQUESTED, row, strict=True)) for running, row in _ROWS.items()}

#: The message of a refusal, by the operation under way. Those of an installation, a restore
#: and a transfer are Wings'.
_REFUSALS = {
    Operation.INSTALL: "server is currently installing",
    Operation.RESTORE: "server is currently being restored",
    Operation.TRANSFER_OUT: "server is currently being transferred",
    Operation.FOLLOW: "server is currently being transferred",
    Operation.ORDERED: "server is currently being transferred",
    Operation.TRANSFER_IN: "server is currently being transferred",
    Operation.MOVED: "server has moved to another node",
    Operation.DELETE: "server is currently being deleted",
    Operation.CHANGE_FILES: "the server's files are being changed",
    Operation.BACKUP: "a backup of the server is being made",
}
#: The operations whose end a transfer waits for that the Panel orders.
AWAITED = (Operation.INSTALL, Operation.RESTORE, Operation.BACKUP)
#: What an installation is refused with during a power action; Wings' text.
_NOT_REINSTALLED = "Cannot execute server reinstall event while another power action is running."
_POWER_ACTION = "another power action is under way for this server"


def refusal(running: Operation, requested: Operation) -> str:
    """Return the message with which `requested` is refused while `running` is under way."""
    if running in _REFUSALS:
        return _REFUSALS[running]
    return _NOT_REINSTALLED if requested is Operation.INSTALL else _POWER_ACTION


@attrs.frozen(eq=False)
class Hold:
    """An operation that holds the server, and why: a text for people."""

    operation: Operation
    why: str


@attrs.define(eq=False)
class _Other:
    """An operation that does not hold the server, and the function that cancels it, if any."""

    operation: Operation
    cancel: Callable[[], object] | None


class Operations:
    """The operations on one server that are under way: one that holds it at most, and others."""

    def __init__(self) -> None:
        self._hold: Hold | None = None
        self._others: list[_Other] = []
        #: What waits for the end of operations of a kind.
        self._waiting: list[tuple[Operation, Deferred[None]]] = []

    @property
    def hold(self) -> Hold | None:
        """The operation that holds the server; None when none does.

        One that is set cancels what the table says, as far as that has a way to be cancelled.
        """
        return self._hold

    @hold.setter
    def hold(self, hold: Hold | None) -> None:
        self._hold = hold
        if hold is not None:
            self.cancel(hold.operation)
        self._note_ended()

    def cancel(self, requested: Operation) -> None:
        """Cancel the operations under way that `requested` cancels; those that hold excepted."""
        for other in tuple(self._others):
            answer = EXCLUSIONS[other.operation].get(requested)
            if answer is _C and other.cancel is not None:
                other.cancel()

    @property
    def starts(self) -> bool:
        """True while it is being started or restarted; a start may wait for a stop."""
        return self.runs(Operation.START)

    def ended(self, operation: Operation) -> Deferred[None]:
        """Return a Deferred that fires when no operation of this kind is under way."""
        waiting: Deferred[None] = Deferred()
        if self.runs(operation):
            self._waiting.append((operation, waiting))
        else:
            waiting.callback(None)
        return waiting

    def runs(self, *operations: Operation) -> bool:
        """Return whether one of these is under way."""
        return any(each in operations for each in self._under_way())

    def check(
        self,
        requested: Operation,
        *,
        program_runs: bool = False,
        awaited: Collection[Operation] = (),
    ) -> None:
        """Raise `ServerBusy` where what is under way excludes `requested`, but what is `awaited`.

        `program_runs` is whether the server's program does.
        """
        for running in self._under_way():
            if running in awaited:
                continue
            answer = EXCLUSIONS[running][requested]
            if answer is _R or (answer is _E and not program_runs):
                raise ServerBusy(refusal(running, requested), self._advice(running))

    def place_hold(self, operation: Operation, why: str) -> None:
        """Let an operation hold the server. Raises `ServerBusy` where another excludes it."""
        self.check(operation)
        self.hold = Hold(operation, why)

    def release(self, operation: Operation) -> None:
        """End the hold, if it is that of this operation."""
        if self.hold is not None and self.hold.operation is operation:
            self.hold = None

    @contextmanager
    def during(
        self, operation: Operation, cancel: Callable[[], object] | None = None
    ) -> Iterator[None]:
        """Note an operation that does not hold the server within the `with` statement.

        It is not checked here, so that one which waits for another is seen while it waits.
        `cancel` is called when a hold cancels it: it is to end soon.
        """
        other = _Other(operation, cancel)
        self._others.append(other)
        try:
            yield
        finally:
            self._others.remove(other)
            self._note_ended()

    def _note_ended(self) -> None:
        """Let go on what waits for the end of an operation that is not under way any more."""
        for each in [each for each in self._waiting if not self.runs(each[0])]:
            self._waiting.remove(each)
            if not each[1].called:  # not cancelled
                each[1].callback(None)

    def _under_way(self) -> list[Operation]:
        held = [self.hold.operation] if self.hold else []
        return [*held, *(other.operation for other in self._others)]

    def _advice(self, running: Operation) -> str:
        if self.hold is None or running is not self.hold.operation:
            if running is Operation.BACKUP:
                return "wait for it to end, or delete the backup"
            if running is Operation.ORDERED:
                return "wait for the transfer to end, or cancel it"
            return "wait for it to end, or kill the server"
        if running is Operation.MOVED:
            return f"{self.hold.why}: use it there"
        return f"{self.hold.why}; try again when that is over"
