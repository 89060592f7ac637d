"""WebSockets on real connections: a browser, the site, and what it watches."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
import pytest_twisted
import trustme
from twisted.internet import reactor as installed_reactor
from twisted.internet import ssl
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource

from tests.logs import LoggedErrors
from wingsd.config import Config
from wingsd.errors import Conflict, NotRunning
from wingsd.events import Event, EventBus
from wingsd.servers.states import PowerAction, PowerState
from wingsd.testing.browser import Browser, BrowserEvent, NotOpened
from wingsd.tokens import DenyList
from wingsd.web.site import NodeSite, NotFound
from wingsd.web.websocket import ConsoleSockets
from wingsd.web.websocket import wire as wire_module
from wingsd.web.websocket.outbox import ALL_MAX
from wingsd.web.websocket.resource import SOCKETS_MAX

UUID = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"
KEY = "k" * 64
ORIGIN = "https://panel.example.com"
reactor: Any = installed_reactor


class FakeServer:
    """A server of which only a console is there."""

    uuid = UUID

    def __init__(self) -> None:
        self.state = PowerState.RUNNING
        self.lines = [f"line {number}" for number in range(200)]
        self.done: list[tuple[Any, ...]] = []
        self.fault: Exception | None = None

    def stats(self) -> str:
        return '{"state": "running"}'

    async def power(self, action: PowerAction, wait_seconds: float = 30) -> None:
        self.done.append((action, wait_seconds))
        if self.fault is not None:
            raise self.fault

    async def command(self, line: str) -> None:
        if self.state is PowerState.OFFLINE:
            raise NotRunning("Cannot send commands to a stopped server instance.")
        self.done.append((line,))

    async def logs(self, lines: int) -> list[str]:
        return self.lines[-lines:]


class _At(Resource):
    """Finds the WebSocket as the Panel's calls do: anew for each look at the path."""

    def __init__(self, house: House) -> None:
        super().__init__()
        self._house = house

    def getChild(self, path: bytes, request: IRequest) -> Resource:
        return self._house.sockets.resource(self._house.server)  # type: ignore[arg-type]


class House:
    """A site with one server's WebSocket, and the browsers that a test opens."""

    def __init__(self) -> None:
        self.server = FakeServer()
        self.bus = EventBus()
        self.denied = DenyList(booted=time.time() - 1000)
        self.authority = trustme.CA()
        self.browsers: list[Browser] = []
        self.url = ""

    def listen(self, *, secure: bool = False, timeout: float = 60, **changes: Any) -> None:
        config = Config(token_id="id", token=KEY, remote=f"{ORIGIN}/", **changes)
        self.sockets = ConsoleSockets(config, self.bus, self.denied, reactor)
        root = NotFound()
        root.putChild(b"servers", _At(self))
        self.site = NodeSite(root, reactor=reactor, timeout=timeout)
        factory: Any = self.site
        if secure:
            issued = self.authority.issue_cert("localhost")
            pem = issued.private_key_and_cert_chain_pem.bytes()
            certificate = ssl.PrivateCertificate.loadPEM(pem)
            factory = TLSMemoryBIOFactory(certificate.options(), False, factory)
        self.port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        scheme = "wss" if secure else "ws"
        self.url = f"{scheme}://localhost:{self.port.getHost().port}/servers/ws"

    def token(self, *permissions: str, **claims: Any) -> str:
        now = int(time.time())
        usual = {
            "iat": now,
            "exp": now + 600,
            "jti": "j",
            "user_uuid": "user",
            "server_uuid": UUID,
            "permissions": ["websocket.connect", *permissions],
        }
        return jwt.encode(usual | claims, KEY, "HS256")

    async def open(self, *permissions: str, origin: str | None = ORIGIN) -> Browser:
        """Return a browser that is connected and has shown no token."""
        ca = ssl.Certificate.loadPEM(self.authority.cert_pem.bytes())
        browser = Browser(self.url, self.token(*permissions), origin, ca)
        self.browsers.append(browser)
        return await browser.connect(reactor)

    async def watch(self, *permissions: str) -> Browser:
        """Return a browser that watches the server."""
        browser = await self.open(*permissions)
        await browser.auth()
        await browser.wait_for("status")
        return browser

    def publish(self, name: str, *args: str) -> None:
        self.bus.publish(Event(UUID, name, args))

    @property
    def clients(self) -> list[Any]:
        return list(self.sockets._clients.get(UUID, ()))

    async def gone(self) -> None:
        """Return when the site has no connection any more."""
        while self.site.connections:
            await deferLater(reactor, 0.001)

    async def close(self) -> None:
        for browser in self.browsers:
            if browser.closed is None and browser._wire is not None:
                browser.wire.transport.abortConnection()
        await self.port.stopListening()
        await self.gone()
        assert self.sockets.count(UUID) == 0
        assert self.bus._subscribers == {}


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))


@pytest.mark.parametrize("secure", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_browser_watches_a_server(house: House, secure: bool) -> None:
    house.listen(secure=secure)
    browser = await house.watch()
    house.publish("console output", "héllo")
    house.publish("status", "stopping")
    house.publish("transfer logs", "not for all")
    house.publish("transfer status", "processing")
    await browser.wait_for("transfer status", "processing")
    assert [(entry.event, entry.args) for entry in browser.events] == [
        ("auth success", ()),
        ("status", ("running",)),
        ("console output", ("héllo",)),
        ("status", ("stopping",)),
        ("transfer status", ("processing",)),
    ]
    await browser.close()
    assert browser.closed is not None
    assert browser.closed[0] == 1000


@pytest_twisted.ensureDeferred
async def test_a_browser_drives_a_server(house: House) -> None:
    house.listen()
    browser = await house.watch("*")
    browser.send("set state", "restart")
    browser.send("send command", "say hello")
    browser.send("send stats")
    await browser.wait_for("stats", '{"state": "running"}')
    # A person need not wait for another's action.
    assert house.server.done == [(PowerAction.RESTART, 0), ("say hello",)]


@pytest_twisted.ensureDeferred
async def test_the_lines_of_before_are_sent_when_they_are_asked_for(house: House) -> None:
    house.listen()
    # More than a transport likes to take at once, and all of it at once.
    house.server.lines = [f"{number} {'x' * 2000}" for number in range(200)]
    browser = await house.watch()
    browser.send_raw(b'{"event": "send logs", "args": [null]}')
    await browser.wait_for("console output", "199 ")
    numbers = [entry.args[0].split()[0] for entry in browser.events[2:]]
    assert numbers == [str(number) for number in range(50, 200)]


@pytest_twisted.ensureDeferred
async def test_what_cannot_be_done_is_told_in_words(house: House) -> None:
    house.listen()
    browser = await house.watch("control.start")
    house.server.state = PowerState.OFFLINE
    house.server.fault = Conflict("another power action is under way", "try again")
    browser.send("set state", "start")
    await browser.wait_for("daemon error", "another power action is under way: try again")
    browser.send("send command", "x")
    await browser.wait_for("daemon error", "you do not have the permission control.console")
    browser.send_raw(b"nonsense")
    await browser.wait_for("daemon error", "this message cannot be read")
    browser.send_raw(b'{"event": "send stats"}', binary=True)
    browser.send("dance")
    await browser.wait_for("daemon error", "this node knows no message 'dance'")
    assert browser.count("daemon error") == 5
    assert browser.count("stats") == 0


@pytest_twisted.ensureDeferred
async def test_a_command_to_a_stopped_server_is_answered(house: House) -> None:
    house.listen()
    house.server.state = PowerState.OFFLINE
    browser = await house.watch("control.console")
    await browser.wait_for("stats")
    browser.send("send command", "x")
    await browser.wait_for("daemon error", "Cannot send commands to a stopped server")


@pytest_twisted.ensureDeferred
async def test_a_mistake_of_ours_is_logged_and_not_shown(
    house: House, logged_errors: LoggedErrors
) -> None:
    house.listen()
    house.server.fault = RuntimeError("secret")
    browser = await house.watch("*")
    browser.send("set state", "start")
    found = await browser.wait_for("daemon error", "an unexpected error")
    assert "secret" not in found.args[0]
    assert logged_errors.take(RuntimeError)


@pytest.mark.parametrize("origin", ["https://evil.example.com", "http://panel.example.com", None])
@pytest_twisted.ensureDeferred
async def test_a_page_of_elsewhere_is_refused_before_the_upgrade(
    house: House, origin: str | None
) -> None:
    house.listen()
    with pytest.raises(NotOpened, match="403"):
        await house.open(origin=origin)
    assert house.sockets.count(UUID) == 0


@pytest.mark.parametrize("origin", ["https://other.example.com", "https://any.example.com", None])
@pytest_twisted.ensureDeferred
async def test_pages_that_are_allowed_are_not(house: House, origin: str | None) -> None:
    allowed = ("*",) if origin != "https://other.example.com" else (origin,)
    house.listen(allowed_origins=allowed)
    await house.open(origin=origin)
    assert house.sockets.count(UUID) == 1


@pytest_twisted.ensureDeferred
async def test_there_are_only_so_many_for_a_server(house: House) -> None:
    house.listen()
    browsers = [await house.watch() for _ in range(SOCKETS_MAX)]
    with pytest.raises(NotOpened, match="400"):
        await house.open()
    await browsers[0].close()
    await house.open()
    assert house.sockets.count(UUID) == SOCKETS_MAX


@pytest_twisted.ensureDeferred
async def test_those_without_a_token_take_nobodys_place(house: House) -> None:
    house.listen()
    watching = await house.watch()
    waiting = [await house.open() for _ in range(SOCKETS_MAX - 1)]
    late = [await house.watch() for _ in range(2)]
    for browser in waiting[:2]:
        assert await browser.wait_closed() == (1013, "too many WebSockets wait for a token")
    assert house.sockets.count(UUID) == SOCKETS_MAX
    assert [b.closed for b in (watching, *waiting[2:], *late)] == [None] * SOCKETS_MAX


@pytest_twisted.ensureDeferred
async def test_nothing_is_shown_without_a_token(house: House) -> None:
    house.listen()
    browser = await house.open()
    house.publish("console output", "secret")
    browser.send("send logs")
    await browser.wait_for("jwt error", "jwt: no jwt present")
    assert len(browser.events) == 1


@pytest_twisted.ensureDeferred
async def test_a_token_taken_back_is_told_of_and_shows_nothing_more(house: House) -> None:
    house.listen()
    browser = await house.watch()
    house.denied.deny(["j"], time.time() + 1)
    for _ in range(3):
        house.publish("console output", "secret")
    await browser.wait_for("jwt error", "jwt: created too far in past (denylist)")
    browser.send("send logs")
    await deferLater(reactor, 0)
    assert browser.count("console output") == 0


@pytest_twisted.ensureDeferred
async def test_a_deleted_server_closes_its_sockets_for_good(house: House) -> None:
    house.listen()
    browser = await house.watch()
    house.publish("deleted")
    assert await browser.wait_closed() == (1001, "the server is not on this node any more")
    assert browser.count("deleted") == 1


@pytest.mark.parametrize("secure", [False, True])
@pytest_twisted.ensureDeferred
async def test_the_end_of_the_daemon_closes_them_so_that_pages_come_back(
    house: House, secure: bool
) -> None:
    house.listen(secure=secure)
    watching, silent = await house.watch(), await house.open()
    await house.site.drain(5)
    assert await watching.wait_closed() == (1012, "this node is shutting down")
    assert await silent.wait_closed() == (1012, "this node is shutting down")


@pytest_twisted.ensureDeferred
async def test_one_that_does_not_take_part_in_that_is_cut_off(house: House) -> None:
    house.listen()
    browser = await house.watch()
    browser.pause()
    await house.site.drain(0.05)
    assert not house.site.connections


@pytest_twisted.ensureDeferred
async def test_the_sites_timeout_does_not_cut_an_idle_socket(house: House) -> None:
    house.listen(timeout=0.05)
    browser = await house.watch()
    await deferLater(reactor, 0.2)
    house.publish("status", "offline")
    await browser.wait_for("status", "offline")


@pytest_twisted.ensureDeferred
async def test_a_flood_of_messages_is_thrown_away_and_one_of_frames_ends_it(house: House) -> None:
    house.listen()
    browser = await house.watch("*")
    for _ in range(100):
        browser.send("send command", "x")
    await browser.wait_for("throttled", "global")
    assert len(house.server.done) <= 10
    for _ in range(300):
        browser.send("send command", "x")
    assert await browser.wait_closed() == (1008, "too many messages")
    assert browser.count("throttled") == 1


@pytest_twisted.ensureDeferred
async def test_a_flood_of_pings_or_of_pieces_ends_it_too(house: House) -> None:
    house.listen()
    pinging, piecing = await house.watch(), await house.watch()
    piecing.wire.beginMessage()
    for _ in range(300):
        pinging.wire.sendPing(b"x" * 125)
        piecing.wire.sendMessageFrame(b"x")
    assert (await pinging.wait_closed())[0] == 1008
    assert (await piecing.wait_closed())[0] == 1008


@pytest_twisted.ensureDeferred
async def test_a_message_too_long_ends_it(house: House) -> None:
    house.listen()
    browser = await house.watch("*")
    browser.send("send command", "x" * 4000)
    browser.send("send stats")
    await browser.wait_for("stats")
    assert len(house.server.done) == 1
    browser.send("send command", "x" * 5000)
    assert (await browser.wait_closed())[0] == 1009
    assert len(house.server.done) == 1


@pytest.mark.parametrize("secure", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_slow_reader_costs_so_much_memory_and_no_more(house: House, secure: bool) -> None:
    house.listen(secure=secure)
    slow = await house.watch()
    client = nodes_end(house, slow)
    slow.pause()
    # 100 MB, in pieces that a browser that reads would take.
    for turn in range(1000):
        for number in range(10):
            house.publish("console output", f"{turn * 10 + number} {'x' * 10_000}")
        house.publish("stats", "{}")
        house.publish("status", f"turn {turn}")
        assert held_for(client) < ALL_MAX + 200_000
        await deferLater(reactor, 0)
    assert client.paused
    slow.resume()
    await slow.wait_for("daemon message")
    house.publish("console output", "10000 and on")
    await slow.wait_for("console output", "10000 ")
    lines = [int(entry.args[0].split()[0]) for entry in slow.events if is_line(entry)]
    assert len(lines) > 50
    assert lines == sorted(set(lines))
    notices = [entry.args[0] for entry in slow.events if entry.event == "daemon message"]
    assert sum(int(notice.split()[0]) for notice in notices) == 10_001 - len(lines) > 5_000
    states = [entry.args[0] for entry in slow.events if entry.event == "status"]
    assert states == ["running", *(f"turn {turn}" for turn in range(1000))]


def is_line(entry: BrowserEvent) -> bool:
    return entry.event == "console output"


def nodes_end(house: House, browser: Browser) -> Any:
    """Return the node's end of a browser's connection."""
    port = browser.wire.transport.getHost().port
    return next(one for one in house.clients if one._wire.transport.getPeer().port == port)


def held_for(client: Any) -> int:
    """Return the bytes that the transport, TLS or not, holds for a client."""
    transport = client._wire.transport.transport
    held = 0
    if hasattr(transport, "_tlsConnection"):
        held += sum(map(len, transport._appSendBuffer))
        transport = transport.transport
    return held + len(transport.dataBuffer) + int(transport._tempDataLen)


@pytest_twisted.ensureDeferred
async def test_a_reader_that_never_reads_is_given_up(house: House) -> None:
    house.listen()
    browser = await house.watch()
    browser.pause()
    client = nodes_end(house, browser)
    transport = client._wire.transport.transport
    message = "x" * 10_000
    for turn in range(10_000):
        house.publish("transfer status", message)
        if not house.bus._subscribers:
            break
        if turn % 50 == 0:
            await deferLater(reactor, 0)
        assert len(transport.dataBuffer) + transport._tempDataLen < ALL_MAX + 200_000
    assert not house.bus._subscribers
    browser.resume()
    assert await browser.wait_closed() == (1013, "this browser reads too slowly")


@pytest_twisted.ensureDeferred
async def test_one_that_is_gone_without_a_word_is_found_by_pings(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Autobahn cuts its times down to whole seconds.
    monkeypatch.setattr(wire_module, "PING_EVERY", 1)
    monkeypatch.setattr(wire_module, "PONG_WITHIN", 2)
    house.listen()
    alive, gone = await house.watch(), await house.watch()
    gone.pause()
    while house.sockets.count(UUID) > 1:
        await deferLater(reactor, 0.01)
    house.publish("status", "offline")
    await alive.wait_for("status", "offline")


def test_nobody_who_is_gone_is_kept_for_longer_than_a_minute_and_a_half() -> None:
    assert wire_module.PING_EVERY + wire_module.PONG_WITHIN <= 90


async def answer_to(house: House, request: bytes) -> tuple[int, Any]:
    """Return status and JSON of the answer to what is no browser's request."""
    from twisted.internet.endpoints import HostnameEndpoint  # noqa: PLC0415
    from twisted.internet.protocol import Factory, Protocol  # noqa: PLC0415

    done: Deferred[bytes] = Deferred()

    class Raw(Protocol):
        received = b""

        def connectionMade(self) -> None:
            assert self.transport is not None
            self.transport.write(request)

        def dataReceived(self, data: bytes) -> None:
            self.received += data

        def connectionLost(self, reason: Any = None) -> None:
            done.callback(self.received)

    endpoint = HostnameEndpoint(reactor, "localhost", house.port.getHost().port)
    await endpoint.connect(Factory.forProtocol(Raw))
    head, _, body = (await done.addTimeout(10, reactor)).partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def handshake(**headers: str | None) -> bytes:
    usual = {
        "Host": "localhost",
        "Origin": ORIGIN,
        "Upgrade": "WebSocket",
        "Connection": "keep-alive, Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    changed = usual | {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{name}: {value}" for name, value in changed.items() if value is not None]
    return "\r\n".join(["GET /servers/ws HTTP/1.1", *lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (handshake(Upgrade=None, Connection="close"), 426),
        (handshake(Connection="close").replace(b"GET", b"POST"), 405),
        (handshake(Connection="keep-alive"), 400),
        (handshake(Host=None), 400),
        (handshake(Sec_WebSocket_Key="short"), 400),
        (handshake(Sec_WebSocket_Version="12"), 400),
        (handshake().replace(b"HTTP/1.1", b"HTTP/1.0"), 505),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_is_no_handshake_is_answered_in_json(
    house: House, request_bytes: bytes, status: int
) -> None:
    house.listen()
    code, body = await answer_to(house, request_bytes)
    assert code == status
    assert body["error"]
