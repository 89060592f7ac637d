"""`GET /api/servers/{uuid}/ws`: the console WebSockets of servers.

A browser's client connects a session and a server with the protocol of its connection. The
transport is a push consumer: between its `pause` and `resume`, only a bounded amount is sent.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from zope.interface import implementer

from wingsd import events
from wingsd.activity import ActivityLog
from wingsd.auth.tokens import DenyList
from wingsd.config import PELICAN, PTERODACTYL, Config
from wingsd.errors import (
    Forbidden,
    TooManyWebSockets,
    UpgradeRequired,
    WingsdError,
)
from wingsd.events import Event, EventBus
from wingsd.http.request import StreamingRequest
from wingsd.servers.console import daemon_line
from wingsd.servers.power_states import PowerAction
from wingsd.servers.server import Server
from wingsd.util.addresses import address_block
from wingsd.util.reactor import Periodic, Reactor
from wingsd.websocket.messages import Message
from wingsd.websocket.recent_transfers import RecentTransfers
from wingsd.websocket.session import (
    CHECK_INTERVAL,
    POLICY_VIOLATION,
    ChangePower,
    Close,
    Command,
    MessageRateLimits,
    SendLogs,
    Session,
    SetTransmission,
    Step,
    suspension,
)

if TYPE_CHECKING:
    from autobahn.twisted.websocket import WebSocketServerFactory

    from wingsd.websocket.protocol import ConsoleProtocol

#: Bytes that may be sent while the transport is paused; enough for all the lines of `send logs`,
#: which are sent at once.
LINES_MAX = 512 * 1024
#: The same with messages that must not be dropped. A browser that leaves more unread is closed.
ALL_MAX = 1024 * 1024


class SendDecision(Enum):
    """The decision on a message for a browser that may read slowly."""

    SEND = auto()
    DROP = auto()
    CLOSE = auto()


class SendBuffer:
    """Counts the bytes that wait for one browser."""

    def __init__(self) -> None:
        self.paused = False
        #: Bytes sent since the transport paused.
        self.waiting = 0
        self._dropping = False
        self._lines = 0

    def decide(self, size: int, *, droppable: bool, line: bool = False) -> SendDecision:
        """Decide on a message of `size` bytes, and count it.

        Dropped messages that are a `line` are counted for `resume`.
        """
        if not self.paused:
            return SendDecision.SEND
        if droppable and (self._dropping or self.waiting + size > LINES_MAX):
            self._dropping = True
            self._lines += line
            return SendDecision.DROP
        if self.waiting + size > ALL_MAX:
            return SendDecision.CLOSE
        self.waiting += size
        return SendDecision.SEND

    def pause(self) -> None:
        """Note that the transport is full. May be called repeatedly."""
        self.paused = True

    def resume(self) -> int:
        """Note that the transport is empty. Returns the lines dropped since `pause`."""
        lines, self._lines = self._lines, 0
        self.paused = self._dropping = False
        self.waiting = 0
        return lines


TRY_AGAIN_LATER = 1013

_LINES = (events.CONSOLE_OUTPUT, events.INSTALL_OUTPUT)
#: Of these a later one has what a dropped one had, or the console has it.
_DROPPABLE = (
    events.STATS,
    events.FEATURE_MATCH,
    events.IMAGE_PULL_PROGRESS,
    events.OPERATION_PROGRESS,
    events.TRANSFER_PROGRESS,
)


@implementer(IPushProducer)
@attrs.define(eq=False, repr=False)
class ConsoleClient:
    """A browser at `address` that watches the server with the UUID `uuid`.

    `server` is None when that has left this node. It leaves `sockets` when the connection is lost,
    or evicted.
    """

    _log = Logger()

    uuid: str
    _server: Server | None
    session: Session
    _sockets: ConsoleSockets
    _address: str
    buffer: SendBuffer = attrs.field(factory=SendBuffer, init=False)
    _protocol: ConsoleProtocol | None = attrs.field(default=None, init=False)
    _sends_binary: bool = attrs.field(default=False, init=False)
    _checks: Periodic = attrs.field(init=False)
    _unsubscribe: Callable[[], None] | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._checks = Periodic(self._sockets.reactor, self._check)

    def expel(self, code: int, reason: str) -> None:
        """Close the connection, which does not count from now on."""
        self._close(code, reason)
        self._sockets.leave(self)

    # Called by the protocol

    def opened(self, protocol: ConsoleProtocol) -> None:
        """Start watching the server."""
        self._protocol = protocol
        protocol.transport.registerProducer(self, True)
        if self._server is not None and self._server.suspended:
            self._perform(suspension(self._sockets.config.family))
        if self._protocol is None:
            return  # It is closed.
        self._unsubscribe = self._sockets.bus.subscribe(self.uuid, self._on_event)
        self._checks.start(CHECK_INTERVAL, now=False)

    def message(self, payload: bytes, *, binary: bool) -> None:
        """Handle a message, unless the connection has been closed here."""
        if self._protocol is not None:
            self._perform(self.session.receive(payload, self._sockets.now(), binary=binary))

    def too_long(self, size: int) -> None:
        """Log a message of at least `size` bytes, for which the connection is closed."""
        self._log.warn(
            "{server}: closing the WebSocket of {user}: a message has {size} bytes or more",
            server=self.uuid,
            user=f"user {self.session.user}" if self.session.user else "a client without a token",
            size=size,
        )

    def closed(self) -> None:
        """Stop watching the server. Requests of the browser continue."""
        self._stop_watching()
        self._sockets.leave(self)

    # Called by the transport

    def pauseProducing(self) -> None:
        """Note that the browser reads too slowly."""
        self.buffer.pause()

    def resumeProducing(self) -> None:
        """Note that the browser has read everything; tell it the number of dropped lines."""
        lines = self.buffer.resume()
        if lines:
            text = f"{lines} lines are missing here: they came faster than this browser read them."
            self._send(Message(events.DAEMON_MESSAGE, (text,)))

    def stopProducing(self) -> None:
        """Do nothing: `closed` is called as well."""

    # Steps of the session

    def _check(self) -> None:
        self._perform(self.session.check(self._sockets.now()))

    def _on_event(self, event: Event) -> None:
        self._perform(self.session.event(event.name, event.args, self._sockets.now()))

    def _perform(self, steps: list[Step]) -> None:
        for step in steps:
            if isinstance(step, Message):
                self._send(step)
            elif isinstance(step, Close):
                self._close(step.code, step.reason)
            elif isinstance(step, SetTransmission):
                self._sends_binary = step.binary
            else:
                Deferred.fromCoroutine(self._serve(step))

    def _send(self, message: Message) -> None:
        if self._protocol is None:
            return
        if self._sockets.config.family == PELICAN:
            message = self._for_pelican(message)
        payload = message.encode(binary=self._sends_binary)
        line = message.event in _LINES
        droppable = line or message.event in _DROPPABLE
        decision = self.buffer.decide(len(payload), droppable=droppable, line=line)
        if decision is SendDecision.SEND:
            self._protocol.send(payload, binary=self._sends_binary)
        elif decision is SendDecision.CLOSE:
            self._log.warn("{server}: closing the WebSocket of a slow browser", server=self.uuid)
            self._close(TRY_AGAIN_LATER, "this browser reads too slowly")

    def _for_pelican(self, message: Message) -> Message:
        """Return the message in the form that Pelican's page shows; it ignores some events."""
        if message.event == events.DAEMON_MESSAGE:
            app_name = self._sockets.config.app_name
            lines = tuple(daemon_line(app_name, text) for text in message.args)
            return Message(events.CONSOLE_OUTPUT, lines)
        if message.event == events.TRANSFER_LOGS:
            return Message(events.CONSOLE_OUTPUT, message.args)
        return message

    def _close(self, code: int, reason: str) -> None:
        protocol = self._protocol
        self._stop_watching()
        if protocol is not None:
            protocol.close_with(code, reason)

    def _stop_watching(self) -> None:
        self._protocol = None
        self._checks.stop()
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    async def _serve(self, step: ChangePower | Command | SendLogs) -> None:
        if self._server is None:
            return  # Its session requests nothing.
        try:
            await self._request(self._server, step)
        except WingsdError as error:
            self._send(self.session.failure(error))
        except Exception as error:
            what = "{server}: {step} for a browser failed"
            self._log.failure(what, server=self.uuid, step=type(step).__name__)
            self._send(self.session.failure(error))

    async def _request(self, server: Server, step: ChangePower | Command | SendLogs) -> None:
        at = self._sockets.now()
        match step:
            case ChangePower(action, user):
                self._log.info(
                    "{server}: {action} requested by user {user}",
                    server=self.uuid,
                    action=action,
                    user=user,
                )
                # The browser shows that another action is under way, and does not wait for it.
                await server.power(PowerAction(action), wait_seconds=0)
                self._record(f"server:power.{action}", {}, user, at)
            case Command(line, user):
                await server.command(line)
                self._record("server:console.command", {"command": line}, user, at)
            case SendLogs(transfer):
                await self._send_lines(server, transfer=transfer)

    def _record(self, event: str, metadata: dict[str, str], user: str, at: float) -> None:
        # As Wings, when it is done: what has failed is no activity.
        self._sockets.activity.record(self.uuid, event, metadata, user, self._address, at)

    async def _send_lines(self, server: Server, *, transfer: bool) -> None:
        transfers = self._sockets.transfers
        # Later lines are sent as events.
        sent_earlier = transfers.lines(self.uuid) if transfer else []
        config = self._sockets.config
        # Pterodactyl's page connects again during a transfer, and has the console's lines already.
        if not (
            transfer
            and config.family == PTERODACTYL
            and transfers.is_under_way(self.uuid)
            and self.session.user in transfers.heard(self.uuid)
        ):
            for line in await server.logs(config.system.websocket_log_count):
                self._send(Message(events.CONSOLE_OUTPUT, (line,)))
        for line in sent_earlier:
            self._send(Message(events.TRANSFER_LOGS, (line,)))


# The headers of the handshake, which autobahn parses again; path and origin are checked already.
_HANDSHAKE = (b"Host", b"Upgrade", b"Connection", b"Sec-WebSocket-Key", b"Sec-WebSocket-Version")
#: WebSockets of one server at a time; the figure of Pelican's Wings.
SOCKETS_MAX = 30
#: WebSockets of the whole node that have shown no token.
WAITING_MAX = 256
#: Addresses whose WebSockets have shown no token, and the seconds for which that is remembered.
REMEMBERED, REMEMBERED_FOR = 1024, 60.0


@attrs.define(eq=False, repr=False)
class ConsoleSockets:
    """The WebSockets of all servers of this node.

    `denied` are the revoked tokens, `now` returns the seconds since the epoch. `activity` records
    what users do.
    """

    _log = Logger()

    config: Config
    bus: EventBus
    _denied: DenyList
    activity: ActivityLog
    reactor: Reactor
    now: Callable[[], float] = time.time
    transfers: RecentTransfers = attrs.field(init=False)
    _factory: WebSocketServerFactory | None = attrs.field(default=None, init=False)
    # In the order of their connections.
    _clients: dict[str, dict[ConsoleClient, None]] = attrs.field(factory=dict, init=False)
    #: Those without a token: the UUIDs of their servers, and the blocks of their addresses.
    _waiting: dict[ConsoleClient, tuple[str, str]] = attrs.field(factory=dict, init=False)
    #: How many of a block have gone without a token, lately.
    _gone: Counter[str] = attrs.field(factory=Counter, init=False)
    _remembered_since: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        lines_max = self.config.system.websocket_log_count
        self.transfers = RecentTransfers(self.bus, self.reactor, self.now, lines_max)
        self._remembered_since = self.reactor.seconds()

    def use(self, config: Config) -> None:
        """Check origins and tokens by another configuration, also in open WebSockets."""
        self.config = config
        for clients in self._clients.values():
            for client in clients:
                client.session.key = config.token

    def count(self, server: str) -> int:
        """Return the number of open WebSockets of the server with this UUID."""
        return len(self._clients.get(server, ()))

    def close_user(self, user: str, servers: Collection[str]) -> int:
        """Close a user's WebSockets of these servers, of all when there are none; return how many.

        UUIDs are in lower case.
        """
        closing = [
            client
            for server in servers or tuple(self._clients)
            for client in self._clients.get(server, ())
            if client.session.user == user
        ]
        for client in closing:
            client.expel(POLICY_VIOLATION, "your access to this server has ended or changed")
        return len(closing)

    def open(self, uuid: str, server: Server | None, request: StreamingRequest) -> None:
        """Open a WebSocket, or answer with the reason of a refusal.

        `server` is None when it has left this node: then pages that missed the final state of the
        transfer are sent that.
        """
        if request.header("Upgrade").lower() != "websocket":
            request.refuse(UpgradeRequired(), {"Upgrade": "websocket"})
            return
        try:
            self._admit(uuid, server, request)
        except WingsdError as error:
            request.refuse(error)

    def leave(self, client: ConsoleClient) -> None:
        """Forget a browser that is gone. May be called twice."""
        clients = self._clients.get(client.uuid, {})
        clients.pop(client, None)
        waiting = self._waiting.pop(client, None)
        if waiting is not None and not client.session.admitted:
            self._gone[waiting[1]] += 1
        if not clients:
            self._clients.pop(client.uuid, None)

    def _admit(self, uuid: str, server: Server | None, request: StreamingRequest) -> None:
        origin = request.header("Origin")
        if not self.config.allows_origin(origin):
            self._log.warn(
                "{server}: WebSocket from {peer} refused: origin {origin!r} is not allowed",
                server=uuid,
                peer=request.peer,
                origin=origin,
            )
            raise Forbidden(
                "this page may not open a WebSocket here",
                "its origin is neither the Panel's nor one of `allowed_origins`",
            )
        from wingsd.websocket import protocol  # noqa: PLC0415 (with autobahn, 5 MiB)

        if self._factory is None:
            self._factory = protocol.protocol_factory(self.reactor, self.config.family)
        address = request.client_behind(self.config.api.trusted_proxies)
        block = address_block(address)
        self._make_place(uuid, block)
        session = Session(
            uuid,
            self.config.token,
            self.config.family,
            self._denied,
            MessageRateLimits(self.reactor.seconds),
            server,
            self.transfers,
        )
        client = ConsoleClient(uuid, server, session, self, address)
        self._clients.setdefault(uuid, {})[client] = None
        self._waiting[client] = (uuid, block)
        connection = protocol.ConsoleProtocol(client, self._factory, request.common_headers)
        request.channel.upgrade(connection, _opening(request))

    def _make_place(self, server: str, block: str) -> None:
        """Evict unauthenticated browsers where there are too many. Raises `TooManyWebSockets`."""
        now = self.reactor.seconds()
        if len(self._gone) > REMEMBERED or now - self._remembered_since > REMEMBERED_FOR:
            self._gone.clear()
            self._remembered_since = now
        for client in tuple(self._waiting):
            if client.session.admitted:
                del self._waiting[client]
        if self.count(server) >= SOCKETS_MAX:
            limit = f"there are {SOCKETS_MAX} for this server; close some of its consoles"
            self._evict_one(
                [c for c, (of, _) in self._waiting.items() if of == server], block, limit
            )
        if len(self._waiting) >= WAITING_MAX:
            limit = f"{WAITING_MAX} of this node wait for a token; try again"
            self._evict_one(list(self._waiting), block, limit)

    def _evict_one(self, clients: Sequence[ConsoleClient], block: str, limit: str) -> None:
        """Evict the oldest of the block that has most of these, in favour of one from `block`.

        Those that have gone without a token count as well. Raises `TooManyWebSockets` where there
        are none, or the new one would be of the block that has most.
        """
        open_now = Counter(self._waiting[client][1] for client in clients)
        most = self._gone + open_now
        victim = max(clients, key=lambda client: most[self._waiting[client][1]], default=None)
        if victim is None or (
            not open_now[block] and most[block] >= most[self._waiting[victim][1]]
        ):
            raise TooManyWebSockets("Too many open websocket connections.", limit)
        victim.expel(TRY_AGAIN_LATER, "too many WebSockets wait for a token")


def _opening(request: StreamingRequest) -> bytes:
    lines = [b"GET / " + request.clientproto]
    for name in _HANDSHAKE:
        values = request.requestHeaders.getRawHeaders(name, [])
        lines += [name + b": " + value for value in values]
    return b"\r\n".join([*lines, b"", b""])
