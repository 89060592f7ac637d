"""One browser: between its connection, its session and the server that it watches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from wingsd.errors import WingsdError
from wingsd.eventnames import (
    CONSOLE_OUTPUT,
    DAEMON_MESSAGE,
    INSTALL_OUTPUT,
    STATS,
    TRANSFER_LOGS,
)
from wingsd.events import Event, EventBus
from wingsd.servers.server import Server
from wingsd.servers.states import PowerAction
from wingsd.web.websocket.messages import DAEMON_ERROR, Message
from wingsd.web.websocket.outbox import Fate, Outbox
from wingsd.web.websocket.recent import RecentTransfers
from wingsd.web.websocket.session import (
    LOOK_EVERY,
    Close,
    Command,
    Logs,
    Power,
    Session,
    Step,
)
from wingsd.web.websocket.wire import Wire

__all__ = ["Client", "Surroundings"]

TRY_AGAIN_LATER = 1013

_LINES = (CONSOLE_OUTPUT, INSTALL_OUTPUT)
_UNFORESEEN = "an unexpected error was encountered while handling this request"


@attrs.frozen
class Surroundings:
    """What every client has around it.

    `now` tells the seconds since the epoch, `log_count` is the number of lines for `send logs`.
    """

    reactor: Any
    now: Callable[[], float]
    bus: EventBus
    transfers: RecentTransfers
    log_count: int


@implementer(IPushProducer)
class Client:
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
        surroundings: Surroundings,
        leave: Callable[[Client], None],
    ) -> None:
        self._uuid = uuid
        self._server = server
        self._session = session
        self._around = surroundings
        self._leave = leave
        self._outbox = Outbox()
        self._wire: Wire | None = None
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

    def opened(self, wire: Wire) -> None:
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
        if fate is Fate.SEND:
            self._wire.send(payload)
        elif fate is Fate.GIVE_UP:
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

    async def _serve(self, step: Power | Command | Logs) -> None:
        if self._server is None:
            return  # Its session asks for nothing.
        try:
            await self._ask(self._server, step)
        except WingsdError as error:
            self._send(self._session.failure(error))
        except Exception:
            self._log.failure("{server}: {step} failed", server=self._uuid, step=step)
            self._send(Message(DAEMON_ERROR, (_UNFORESEEN,)))

    async def _ask(self, server: Server, step: Power | Command | Logs) -> None:
        match step:
            case Power(action, user):
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
            case Logs(transfer):
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
