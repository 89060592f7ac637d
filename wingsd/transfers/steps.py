"""The steps of a transfer, their order, and what is rolled back when one fails.

The states are those of the document. A node receives by `ReceiveStep` and sends by `SendStep`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from enum import Enum
from typing import Generic, TypeVar

from twisted.logger import Logger

from wingsd.errors import WingsdError


class State(Enum):
    """The states of a transfer, each with the words of its event.

    The document knows one word for each; a Panel's page prints `failure`, but only `failed` and
    `completed` end its waiting. It leaves this node's WebSocket at the first word of a failure and
    receives no other, so `failed` comes first; what failed is in the transfer's log.
    """

    PENDING = ("pending",)
    PROCESSING = ("processing",)
    SUCCESS = ("success", "completed")
    FAILURE = ("failed", "failure")

    @property
    def is_end(self) -> bool:
        """True if no other state follows."""
        return self in (State.SUCCESS, State.FAILURE)


class _Step(Enum):
    """The steps of a transfer in their order, each with its text and state."""

    def __init__(self, text: str, state: State) -> None:
        self.text = text
        self.state = state
        self._place = len(type(self).__members__)

    def __lt__(self, other: _Step) -> bool:
        return self._place < other._place

    def __le__(self, other: _Step) -> bool:
        return self._place <= other._place


class ReceiveStep(_Step):
    """The steps of an incoming transfer, each with its text and state.

    Up to and including `VERIFY` it can be aborted without loss; after it the server's data is
    whole here, and from `REPORT` on the Panel may know. When it has `FAILED`, what is left of it
    still has to be removed.
    """

    ADMIT = ("waiting for the archive", State.PENDING)
    RECEIVE = ("receiving the archive", State.PROCESSING)
    VERIFY = ("verifying the checksum", State.PROCESSING)
    DURABLE = ("writing to stable storage", State.PROCESSING)
    SWAP = ("moving the files into place", State.PROCESSING)
    ENVIRONMENT = ("configuring the environment", State.PROCESSING)
    REPORT = ("reporting to the Panel", State.PROCESSING)
    DONE = ("done, the server is here", State.SUCCESS)
    FAILED = ("rolled back", State.FAILURE)


class SendStep(_Step):
    """The steps of an outgoing transfer, none of which changes the server's files.

    From `AWAIT` on the destination has everything, and only the Panel knows whose the server is.
    """

    ASK = ("asking the destination for its features", State.PENDING)
    SEED = ("keeping a copy at the destination up to date", State.PENDING)
    FOLLOW = ("sending what changes while the server runs", State.PENDING)
    STOP = ("stopping the server", State.PENDING)
    RETIRE = ("removing its container", State.PENDING)
    SEND = ("sending the archive", State.PROCESSING)
    AWAIT = ("waiting for the destination to finish", State.PROCESSING)
    SETTLE = ("asking the Panel which node has the server", State.PROCESSING)
    DONE = ("done, the server has moved", State.SUCCESS)
    FAILED = ("the server stays here", State.FAILURE)


S = TypeVar("S", bound=ReceiveStep | SendStep)


class Lifecycle(Generic[S]):
    """The current step of a transfer. Steps are entered in order; some may be skipped.

    Only `go_back` enters an earlier one: a move that resumes receives again what is not right.
    """

    def __init__(self, steps: Iterable[S]) -> None:
        self.step = next(iter(steps))

    def advance(self, to: S) -> None:
        """Enter the step `to`. Raises `ValueError` when it is not a later one, or the last was."""
        if self.over or to <= self.step:
            raise ValueError(f"a transfer cannot go from {self.step.name} to {to.name}")
        self.step = to

    def go_back(self, to: S) -> None:
        """Enter an earlier step again. Raises `ValueError` when it is not one, or the last was."""
        if self.over or self.step <= to:
            raise ValueError(f"a transfer cannot go back from {self.step.name} to {to.name}")
        self.step = to

    def before(self, step: S) -> bool:
        """Return whether `step` has not been reached."""
        return self.step < step

    @property
    def over(self) -> bool:
        """True when nothing more can happen."""
        return self.step.state.is_end


class RollbackList:
    """The steps that undo what was done to the server with the UUID `server`, last one first."""

    _log = Logger()

    def __init__(self, server: str) -> None:
        self._server = server
        self._steps: list[Callable[[], Awaitable[object]]] = []

    def add(self, step: Callable[[], Awaitable[object]]) -> None:
        """Add how the next step, or the last one, is undone."""
        self._steps.append(step)

    def clear(self) -> None:
        """Undo nothing that was added."""
        self._steps.clear()

    async def run(self) -> None:
        """Undo everything. What cannot be undone is logged, and the rest is undone."""
        while self._steps:
            undo = self._steps.pop()
            try:
                await undo()
            except WingsdError as error:
                self._log.error(
                    "{server}: rollback failed: {error}", server=self._server, error=error
                )
            except Exception:
                self._log.failure("{server}: rollback failed", server=self._server)
