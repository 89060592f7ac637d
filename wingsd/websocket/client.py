"""One browser: between its connection, its session and the server that it watches.

The transport takes what it is given and says when that is too much (`pause`) and when all of it is
gone (`resume`). In between, only so much more is given to it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from wingsd.errors import WingsdError
from wingsd.events import (
    CONSOLE_OUTPUT,
    DAEMON_MESSAGE,
    INSTALL_OUTPUT,
    STATS,
    TRANSFER_LOGS,
    Event,
    EventBus,
)
from wingsd.servers.power_states import PowerAction
from wingsd.servers.server import Server
from wingsd.websocket.messages import DAEMON_ERROR, Message
from wingsd.websocket.recent_transfers import RecentTransfers
from wingsd.websocket.session import (
    LOOK_EVERY,
    ChangePower,
    Close,
    Command,
    SendLogs,
    Session,
    Step,
)

if TYPE_CHECKING:
    from wingsd.websocket.protocol import ConsoleProtocol

__all__ = ["ClientContext", "ConsoleClient", "SendBuffer", "SendDecision"]

#: Bytes that may wait beyond what the transport likes to hold. There is room for all the lines
#: of `send logs`, which come at once.
LINES_MAX = 512 * 1024
#: ... and with the messages that must not be dropped. A browser that leaves more is given up.
ALL_MAX = 1024 * 1024


class SendDecision(Enum):
    """What is to be done with a message."""

    SEND = auto()
    DROP = auto()
    GIVE_UP = auto()


class SendBuffer:
    """Counts what waits for one browser."""

    def __init__(self) -> None:
        self.paused = False
        #: Bytes given to the transport since it paused, and the most there ever were.
        self.waiting = 0
        self.waiting_most = 0
        self._dropping = False
        self._lines = 0

    def fate(self, size: int, *, droppable: bool, line: bool = False) -> SendDecision:
        """Return what is to be done with a message of `size` bytes, and count it.

        A `line` is one that people miss when it is dropped.
        """
        if not self.paused:
            return SendDecision.SEND
        if droppable and (self._dropping or self.waiting + size > LINES_MAX):
            self._dropping = True
            self._lines += line
            return SendDecision.DROP
        if self.waiting + size > ALL_MAX:
            return SendDecision.GIVE_UP
        self.waiting += size
        self.waiting_most = max(self.waiting_most, self.waiting)
        return SendDecision.SEND

    def pause(self) -> None:
        """The transport has more than it likes. It may say so many times."""
        self.paused = True

    def resume(self) -> int:
        """The transport has nothing left. Returns how many lines were dropped since `pause`."""
        lines, self._lines = self._lines, 0
        self.paused = self._dropping = False
        self.waiting = 0
        return lines


TRY_AGAIN_LATER = 1013

_LINES = (CONSOLE_OUTPUT, INSTALL_OUTPUT)
_UNFORESEEN = "an unexpected error was encountered while handling this request"


@attrs.frozen
class ClientContext:
    """What every client has around it.

    `now` tells the seconds since the epoch, `log_count` is the number of lines for `send logs`.
    """

    reactor: Any
    now: Callable[[], float]
    bus: EventBus
    transfers: RecentTransfers
    log_count: int


@implementer(IPushProducer)
class ConsoleClient:
    """A browser that watches the server with the UUID `uuid`.

    `server` is None when that has left this node. `leave` is called when the browser is gone, or
    is to go.
    """

    _log = Logger()

    def __init__(
        self,
        uuid: str,
        server: Server | None,
        session: Session,
        surroundings: ClientContext,
        leave: Callable[[ConsoleClient], None],
    ) -> None:
        self._uuid = uuid
        self._server = server
        self._session = session
        self._around = surroundings
        self._leave = leave
        self._outbox = SendBuffer()
        self._wire: ConsoleProtocol | None = None
        self._looks = LoopingCall(self._look)
        self._looks.clock = surroundings.reactor
        self._unsubscribe: Callable[[], None] | None = None

    @property
    def admitted(self) -> bool:
        """Whether it has shown a good token."""
        return self._session.admitted

    def make_way(self) -> None:
        """Go, since others want its place; that is free at once."""
        self._close(TRY_AGAIN_LATER, "too many WebSockets wait for a token")
        self._leave(self)

    # What its connection calls

    @property
    def paused(self) -> bool:
        """Whether it reads too slowly right now."""
        return self._outbox.paused

    def opened(self, wire: ConsoleProtocol) -> None:
        """It is there."""
        self._wire = wire
        wire.transport.registerProducer(self, True)
        self._unsubscribe = self._around.bus.subscribe(self._uuid, self._happened)
        self._looks.start(LOOK_EVERY, now=False)

    def message(self, payload: bytes) -> None:
        """It sent something; what comes after its connection was closed here is not obeyed."""
        if self._wire is not None:
            self._take(self._session.receive(payload, self._now()))

    def closed(self) -> None:
        """It is gone. What it asked for goes on."""
        self._stop_watching()
        self._leave(self)

    # What its transport calls

    def pauseProducing(self) -> None:
        """It reads too slowly."""
        self._outbox.pause()

    def resumeProducing(self) -> None:
        """It has read everything."""
        lines = self._outbox.resume()
        if lines:
            text = f"{lines} lines are missing here: they came faster than this browser read them."
            self._send(Message(DAEMON_MESSAGE, (text,)))

    def stopProducing(self) -> None:
        """Part of the interface; `closed` is called as well."""

    # What it comes down to

    def _now(self) -> float:
        return self._around.now()

    def _look(self) -> None:
        self._take(self._session.look(self._now()))

    def _happened(self, event: Event) -> None:
        self._take(self._session.event(event.name, event.args, self._now()))

    def _take(self, steps: list[Step]) -> None:
        for step in steps:
            if isinstance(step, Message):
                self._send(step)
            elif isinstance(step, Close):
                self._close(step.code, step.reason)
            else:
                Deferred.fromCoroutine(self._serve(step))

    def _send(self, message: Message) -> None:
        if self._wire is None:
            return
        payload = message.encode()
        line = message.event in _LINES
        droppable = line or message.event == STATS
        fate = self._outbox.fate(len(payload), droppable=droppable, line=line)
        if fate is SendDecision.SEND:
            self._wire.send(payload)
        elif fate is SendDecision.GIVE_UP:
            self._log.warn(
                "{server}: a browser that reads nothing is sent away", server=self._uuid
            )
            self._close(TRY_AGAIN_LATER, "this browser reads too slowly")

    def _close(self, code: int, reason: str) -> None:
        wire = self._wire
        self._stop_watching()
        if wire is not None:
            wire.end(code, reason)

    def _stop_watching(self) -> None:
        self._wire = None
        if self._looks.running:
            self._looks.stop()
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    async def _serve(self, step: ChangePower | Command | SendLogs) -> None:
        if self._server is None:
            return  # Its session asks for nothing.
        try:
            await self._ask(self._server, step)
        except WingsdError as error:
            self._send(self._session.failure(error))
        except Exception:
            self._log.failure("{server}: {step} failed", server=self._uuid, step=step)
            self._send(Message(DAEMON_ERROR, (_UNFORESEEN, WingsdError.code)))

    async def _ask(self, server: Server, step: ChangePower | Command | SendLogs) -> None:
        match step:
            case ChangePower(action, user):
                self._log.info(
                    "{server}: {action}, asked for by user {user}",
                    server=self._uuid,
                    action=action,
                    user=user,
                )
                # A person sees that another action is under way, and need not wait for it.
                await server.power(PowerAction(action), wait_seconds=0)
            case Command(line):
                await server.command(line)
            case SendLogs(transfer):
                await self._send_lines(server, transfer=transfer)

    async def _send_lines(self, server: Server, *, transfer: bool) -> None:
        transfers = self._around.transfers
        # What is told from here on is sent as it comes.
        told = transfers.lines(self._uuid) if transfer else []
        # The Panel's page connects again in the middle of a transfer, and has the console still.
        if not (transfer and transfers.is_under_way(self._uuid)):
            for line in await server.logs(self._around.log_count):
                self._send(Message(CONSOLE_OUTPUT, (line,)))
        for line in told:
            self._send(Message(TRANSFER_LOGS, (line,)))
