"""Who may open a WebSocket, and what the others are told."""

from __future__ import annotations

import json
import os
import re
from itertools import cycle
from pathlib import Path
from time import process_time
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tests.support.browser import Browser, BrowserEvent, NotOpened
from tests.support.logged_errors import Logged
from tests.support.reactor import until
from tests.websocket.consoles import ORIGIN, ConsoleNode, reactor
from tests.websocket.tokens import UUID
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL, ApiConfig
from wingsd.errors import Conflict
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.websocket import protocol
from wingsd.websocket.resource import ALL_MAX, SOCKETS_MAX

USER = "6f1f2fd4-8f43-4a92-b1a7-9ddc6f1ba0d5"
OTHER = "0c4c5e1c-6e2b-4c43-9d57-8d2f5a147f10"
UUID_TEXT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.mark.parametrize("origin", ["https://evil.example.com", "http://panel.example.com", None])
async def test_a_foreign_origin_is_refused_with_403(node: ConsoleNode, origin: str | None) -> None:
    with pytest.raises(NotOpened, match="403"):
        await node.open(origin=origin)
    assert node.sockets.count(UUID) == 0


async def test_connections_above_the_limit_are_refused_with_400(node: ConsoleNode) -> None:
    node.listen()
    browsers = [await node.watch() for _ in range(SOCKETS_MAX)]
    with pytest.raises(NotOpened, match="400"):
        await node.open()
    status, _, body = await answer_to(node, handshake(Connection="Upgrade, close"))
    assert (status, json.loads(body)["code"]) == (400, "too-many-websockets")
    assert json.loads(body)["error"].startswith("Too many open websocket connections.")
    await browsers[0].close()
    await node.open()
    assert node.sockets.count(UUID) == SOCKETS_MAX


ATTACKER = ("203.0.113.5",)
NETWORK = tuple(f"2001:db8:0:1::{number:x}" for number in range(1, 9))
PROXIES = ApiConfig(trusted_proxies=("127.0.0.1",))


@pytest.mark.promise("websocket-floods-are-closed")
@pytest.mark.parametrize("addresses", [ATTACKER, NETWORK])
async def test_the_address_that_opens_most_makes_way_first(
    node: ConsoleNode, addresses: tuple[str, ...]
) -> None:
    node.listen(api=PROXIES)
    user = await node.open(X_Forwarded_For="198.51.100.7")
    attackers = cycle(addresses)
    opened = [await node.open(X_Forwarded_For=next(attackers)) for _ in range(2 * SOCKETS_MAX)]
    for browser in opened[: SOCKETS_MAX + 1]:
        assert await browser.wait_closed() == (1013, "too many WebSockets wait for a token")
    await user.auth()
    await user.wait_for("status")
    assert (await node.open(X_Forwarded_For="198.51.100.8")).closed is None
    assert node.sockets.count(UUID) == SOCKETS_MAX


@pytest.mark.promise("websocket-floods-are-closed")
async def test_an_address_without_a_token_does_not_take_the_last_place_again(
    node: ConsoleNode,
) -> None:
    node.listen(api=PROXIES)
    watching = [await node.watch() for _ in range(SOCKETS_MAX - 1)]
    attacker = await node.open(X_Forwarded_For="203.0.113.5")
    user = await node.open(X_Forwarded_For="198.51.100.7")
    assert (await attacker.wait_closed())[0] == 1013
    for _ in range(3):
        with pytest.raises(NotOpened, match="400"):
            await node.open(X_Forwarded_For="203.0.113.5")
    await user.auth()
    await user.wait_for("status")
    assert [browser.closed for browser in watching] == [None] * len(watching)


@pytest.mark.promise("websocket-floods-are-closed")
async def test_only_so_many_of_a_node_wait_for_a_token(
    node: ConsoleNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wingsd.websocket.resource.WAITING_MAX", 4)
    node.listen(api=PROXIES)
    watching = [await node.watch() for _ in range(5)]
    user = await node.open(X_Forwarded_For="198.51.100.7")
    many = [await node.open(X_Forwarded_For=f"203.0.113.{number % 2}") for number in range(8)]
    assert node.sockets.count(UUID) == len(watching) + 4
    assert (await many[0].wait_closed())[0] == 1013
    assert user.closed is None


@pytest.mark.promise("suspended-page-per-family")
@pytest.mark.parametrize("family", [PTERODACTYL, CALAGOPUS])
async def test_a_page_of_a_suspended_server_keeps_its_websocket(
    node: ConsoleNode, family: str
) -> None:
    node.listen(family=family)
    watching = await node.watch()
    node.server.suspended = True
    node.publish("suspended")
    late = await node.watch()
    node.publish("status", "stopping")
    for browser in (watching, late):
        await browser.wait_for("status", "stopping")
        assert (browser.closed, browser.count("suspended")) == (None, 0)


@pytest.mark.promise("suspended-page-per-family")
async def test_pelicans_websocket_of_a_suspended_server_is_closed_at_once(
    node: ConsoleNode,
) -> None:
    node.listen(family=PELICAN)
    watching, waiting = await node.watch(), await node.open()
    node.server.suspended = True
    node.publish("suspended")
    late = await node.open()
    for browser in (watching, waiting, late):
        assert await browser.wait_closed() == (4409, "server is suspended")
        assert browser.count("suspended") == 0
    await until(lambda: node.sockets.count(UUID) == 0)
    node.server.suspended = False
    await node.watch()


async def test_only_the_websockets_of_the_user_are_closed(node: ConsoleNode) -> None:
    theirs, other, waiting = await node.watch(), await node.watch(), await node.open()
    await theirs.auth(node.token("websocket.connect", user_uuid=USER.upper()))
    assert node.sockets.close_user(USER, (OTHER,)) == 0
    assert node.sockets.close_user(USER, (UUID, OTHER)) == 1
    assert (await theirs.wait_closed())[0] == 1008
    assert (other.closed, waiting.closed) == (None, None)
    assert node.sockets.close_user(USER, ()) == 0
    assert node.sockets.count(UUID) == 2


async def answer_to(node: ConsoleNode, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Return the answer's status, its headers by their names in lower case, and its body."""
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
            if b" 101 " in self.received and self.received.endswith(b"\r\n\r\n"):
                assert self.transport is not None
                self.transport.loseConnection()

        def connectionLost(self, reason: Any = None) -> None:
            done.callback(self.received)

    endpoint = HostnameEndpoint(reactor, "localhost", node.port.getHost().port)
    await endpoint.connect(Factory.forProtocol(Raw))
    head, _, body = (await done.addTimeout(60, reactor)).partition(b"\r\n\r\n")
    lines = [line.partition(": ") for line in head.decode().split("\r\n")[1:]]
    return int(head.split()[1]), {name.lower(): value for name, _, value in lines}, body


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
        (handshake(Connection="keep-alive"), 400),
        (handshake(Host=None), 400),
        (handshake(Sec_WebSocket_Key="short"), 400),
        (handshake(Sec_WebSocket_Version="12"), 400),
        (handshake().replace(b"HTTP/1.1", b"HTTP/1.0"), 505),
    ],
)
async def test_what_is_no_handshake_is_answered_in_json(
    node: ConsoleNode, request_bytes: bytes, status: int
) -> None:
    node.listen()
    code, headers, body = await answer_to(node, request_bytes)
    assert (code, headers["user-agent"][-7:]) == (status, "(id:id)")
    assert json.loads(body)["request_id"] == headers["x-request-id"]


# WebSockets on real connections: a browser, the site, and what it watches and does


LOGS = "transfer logs"


@pytest.mark.parametrize("secure", [False, True])
async def test_a_browser_watches_a_server(node: ConsoleNode, secure: bool) -> None:
    node.listen(secure=secure)
    browser = await node.watch()
    node.publish("console output", "héllo")
    node.publish("status", "stopping")
    node.publish("transfer logs", "not for all")
    node.publish("transfer status", "processing")
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


async def test_a_browser_drives_a_server(node: ConsoleNode) -> None:
    browser = await node.watch("*")
    browser.send("set state", "restart")
    browser.send("send command", "say hello")
    browser.send("send stats")
    await browser.wait_for("stats", '{"state": "running"}')
    # A person need not wait for another's action.
    assert node.server.done == [(PowerAction.RESTART, 0), ("say hello",)]


async def test_what_a_user_does_is_activity(node: ConsoleNode) -> None:
    browser = await node.watch("*")
    browser.send("set state", "restart")
    browser.send("send command", "say ", "hello")
    browser.send("set state", "kill")
    browser.send("send stats")
    await browser.wait_for("stats", '{"state": "running"}')
    assert node.activity.entries == [
        ("server:power.restart", {}, "user", "127.0.0.1"),
        ("server:console.command", {"command": "say hello"}, "user", "127.0.0.1"),
        ("server:power.kill", {}, "user", "127.0.0.1"),
    ]


@pytest.mark.parametrize("header", ["X_Forwarded_For", "X_Real_IP"])
@pytest.mark.parametrize(("proxy", "known"), [("127.0.0.0/8", "198.51.100.7"), ("", "127.0.0.1")])
async def test_activity_has_the_address_of_a_user_behind_a_trusted_proxy(
    node: ConsoleNode, header: str, proxy: str, known: str
) -> None:
    node.listen(api=ApiConfig(trusted_proxies=(proxy,) if proxy else ()))
    browser = await node.open("*", **{header: "198.51.100.7"})
    await browser.auth()
    browser.send("set state", "kill")
    browser.send("send stats")
    await browser.wait_for("stats")
    assert node.activity.entries == [("server:power.kill", {}, "user", known)]


async def test_previous_lines_are_sent_on_request(node: ConsoleNode) -> None:
    # More than a transport likes to take at once, and all of it at once.
    node.server.lines = [f"{number} {'x' * 2000}" for number in range(200)]
    browser = await node.watch()
    browser.send_raw(b'{"event": "send logs", "args": [null]}')
    await browser.wait_for("console output", "199 ")
    numbers = [entry.args[0].split()[0] for entry in browser.events[2:]]
    assert numbers == [str(number) for number in range(50, 200)]


async def test_a_page_that_asks_for_it_gets_binary_messages(node: ConsoleNode) -> None:
    node.listen(secure=True)
    browser, other = await node.watch("*"), await node.watch()
    browser.send("configure socket", "transmission mode", "binary")
    browser.send_binary("send logs", "")
    assert (await browser.wait_for("console output", "line 199")).binary
    # As a page sends its next token.
    browser.send_binary("auth", node.token("*"))
    node.publish("status", "stöpping")
    assert (await browser.wait_for("status", "stöpping")).binary
    assert not (await other.wait_for("status", "stöpping")).binary
    browser.send("configure socket", "transmission mode", "text")
    browser.send_binary("ping", "17")
    assert not (await browser.wait_for("pong", "17")).binary
    assert [entry.binary for entry in browser.events if entry.event == "auth success"] == [
        False,
        True,
    ]


async def test_failures_are_explained(node: ConsoleNode) -> None:
    browser = await node.watch("control.start")
    node.server.state = PowerState.OFFLINE
    node.server.fault = Conflict("another power action is under way", "try again")
    browser.send("set state", "start")
    await browser.wait_for("daemon error", "another power action is under way: try again")
    browser.send("send command", "x")
    await browser.wait_for("daemon error", "you do not have the permission control.console")
    browser.send_raw(b"nonsense")
    await browser.wait_for("daemon error", "this message cannot be read")
    browser.send_raw(b'{"event": "send stats"}', binary=True)
    browser.send("dance")
    await browser.wait_for("daemon error", "unknown message 'dance'")
    assert browser.count("daemon error") == 5
    assert browser.count("stats") == 0


async def test_an_internal_error_is_logged_and_not_shown(
    node: ConsoleNode, logged: Logged
) -> None:
    node.server.fault = RuntimeError("secret")
    browser = await node.watch("*")
    browser.send("set state", "start")
    found = await browser.wait_for("daemon error", "an unexpected error")
    assert "secret" not in found.args[0]
    assert logged.take(RuntimeError)
    assert f"{UUID}: ChangePower for a browser failed" in logged.lines


@pytest.mark.parametrize("secure", [False, True])
async def test_a_shutdown_closes_connections_with_1012(node: ConsoleNode, secure: bool) -> None:
    node.listen(secure=secure)
    watching, silent = await node.watch(), await node.open()
    await node.site.drain(5)
    assert await watching.wait_closed() == (1012, "this node is shutting down")
    assert await silent.wait_closed() == (1012, "this node is shutting down")


def transfer(node: ConsoleNode, *states: str) -> None:
    for state in states:
        node.publish("transfer status", state)


def console(browser: Browser) -> list[str]:
    """Return the lines of a server and of its transfer that a browser has, in order."""
    events = [entry for entry in browser.events if entry.event in ("console output", LOGS)]
    return [entry.args[0] for entry in events]


@pytest.mark.promise("pages-follow-a-transfer")
async def test_a_transfers_lines_are_sent_and_not_the_console(node: ConsoleNode) -> None:
    node.listen(family="pterodactyl")
    before = await node.watch("admin.websocket.transfer")
    transfer(node, "pending", "processing")
    await before.wait_for("transfer status", "processing")
    node.publish(LOGS, "one")
    browser = await node.watch("admin.websocket.transfer")
    node.publish(LOGS, "two")
    browser.send("send logs")
    await browser.wait_for("transfer logs", "one")
    node.publish(LOGS, "three")
    await browser.wait_for("transfer logs", "three")
    assert console(browser) == ["two", "one", "two", "three"]


@pytest.mark.promise("pages-follow-a-transfer")
@pytest.mark.parametrize("begin", ["pending", "starting"])
async def test_a_page_cleared_by_a_failure_gets_the_console_though_the_next_try_is_under_way(
    node: ConsoleNode, begin: str
) -> None:
    node.listen(family="pterodactyl")
    node.server.lines = ["line"]
    before = await node.watch("admin.websocket.transfer")
    transfer(node, begin, "processing")
    node.publish(LOGS, "failed since")
    transfer(node, "failed", "failure")
    await before.wait_for("transfer status", "failed")
    transfer(node, begin)
    node.publish(LOGS, "tried again")
    browser = await node.watch("admin.websocket.transfer")
    browser.send("send logs")
    await browser.wait_for(LOGS, "tried again")
    assert console(browser) == ["line", "failed since", "tried again"]


@pytest.mark.promise("pages-follow-a-transfer")
async def test_pelicans_page_is_sent_as_console_output_what_it_would_ignore(
    node: ConsoleNode,
) -> None:
    node.listen(family="pelican")
    node.server.lines = ["line"]
    browser = await node.watch("admin.websocket.transfer")
    transfer(node, "pending", "processing")
    node.publish(LOGS, "one")
    node.publish("daemon message", "pulling an image")
    node.publish("console output", "end")
    await browser.wait_for("console output", "end")
    first, second, _ = console(browser)
    assert first == "one"
    assert "Daemon]:" in second
    assert "pulling an image" in second
    # It does not connect again on its own: a page opened in a transfer has no line yet.
    late = await node.watch("admin.websocket.transfer")
    late.send("send logs")
    await late.wait_for("console output", "one")
    assert console(late) == ["line", "one"]
    for page in (browser, late):
        assert page.count(LOGS) == page.count("daemon message") == 0


async def test_a_moved_servers_socket_reports_the_move_alone(node: ConsoleNode) -> None:
    node.listen()
    transfer(node, "pending", "processing", "success", "completed")
    node.has_left = True
    browser = await node.open("*")
    await browser.auth()
    browser.send("set state", "start")
    await browser.wait_for("daemon error", "the server has moved to another node: reload")
    assert [(entry.event, entry.args) for entry in browser.events[:2]] == [
        ("auth success", ()),
        ("transfer status", ("completed",)),
    ]
    assert node.server.done == []


# What one connection may cost: floods, long messages, slow readers, and those who are gone


#: Each of ten long lines, figures and a status.
TURNS = 300
#: Browsers that flood at once.
FLOODS = 5


async def test_floods_of_messages_are_dropped_and_of_frames_end_it(
    node: ConsoleNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "CLOSE_TIMEOUT", 1)
    browser = await node.watch("*")
    for _ in range(100):
        browser.send("send command", "x")
    await browser.wait_for("throttled", "global")
    assert len(node.server.done) <= 10
    for _ in range(300):
        browser.send("send command", "x")
    assert await browser.wait_closed() == (1008, "too many messages")
    # Few, and more than one where this took so long that some more were let through.
    assert browser.count("throttled") < 20


@pytest.mark.promise("websocket-floods-are-closed")
async def test_browsers_that_flood_delay_nobody_and_cost_little(
    node: ConsoleNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "CLOSE_TIMEOUT", 1)
    # A loaded machine may read the frames more slowly than they are allowed to come.
    monkeypatch.setattr(protocol, "FRAMES", (protocol.FRAMES[0], 0.0))
    node.listen(secure=True)
    other = await node.watch("*")
    before, begun_at = resident_mib(), reactor.seconds()

    async def flood() -> None:
        browsers = [await node.watch("*") for _ in range(FLOODS)]
        for browser in browsers:
            for _ in range(300):
                browser.send("send logs")
                browser.send("send command", "x" * 1000)
            await deferLater(reactor, 0)
        for browser in browsers:
            assert (await browser.wait_closed())[0] == 1008

    flooding = Deferred.fromCoroutine(flood())
    #: Of CPU time: other processes may delay all.
    waits: list[float] = []
    while not flooding.called:
        begun = process_time()
        name = f"turn {len(waits)}"
        node.publish("status", name)
        await other.wait_for("status", name)
        waits.append(process_time() - begun)
        await deferLater(reactor, 0.01)
    await flooding
    assert len(waits) > FLOODS
    # Of the clients' own work, too: they share the reactor.
    assert max(waits) < 2
    # Of each not more than is taken at once, and then one a second.
    assert len(node.server.done) <= FLOODS * (11 + reactor.seconds() - begun_at)
    assert resident_mib() - before < 16


def resident_mib() -> float:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def test_a_message_too_long_is_closed_with_1009(node: ConsoleNode, logged: Logged) -> None:
    browser = await node.watch("*")
    browser.send("send command", "x" * 4000)
    browser.send("send stats")
    await browser.wait_for("stats")
    assert len(node.server.done) == 1
    for _ in range(3):
        browser.send("send command", "x" * 5000)
    code, reason = await browser.wait_closed()
    assert code == 1009
    assert "limit of 4096" in str(reason)
    assert len(node.server.done) == 1
    assert sum("a message has 50" in line for line in logged.lines) == 1


async def test_a_long_token_of_calagopus_is_taken(node: ConsoleNode) -> None:
    node.listen(family="calagopus")
    ignored = [f"world/{number}/secret" for number in range(500)]
    browser = await node.open()
    await browser.auth(node.token(scope="websocket", ignored_files=ignored))
    browser.send("ping", "x" * (64 << 10))
    code, reason = await browser.wait_closed()
    assert code == 1009
    assert "limit of 65536" in str(reason)


@pytest.mark.parametrize("secure", [False, True])
async def test_a_slow_reader_costs_bounded_memory(node: ConsoleNode, secure: bool) -> None:
    node.listen(secure=secure)
    slow = await node.watch()
    client = nodes_end(node, slow)
    slow.pause()
    # 30 MB, in pieces that a browser that reads would take.
    for turn in range(TURNS):
        for number in range(10):
            node.publish("console output", f"{turn * 10 + number} {'x' * 10_000}")
        node.publish("stats", "{}")
        node.publish("status", f"turn {turn}")
        assert held_for(client) < ALL_MAX + 200_000
        await deferLater(reactor, 0)
    assert client.buffer.paused
    slow.resume()
    await slow.wait_for("daemon message")
    node.publish("console output", f"{10 * TURNS} and on")
    await slow.wait_for("console output", f"{10 * TURNS} ")
    lines = [int(entry.args[0].split()[0]) for entry in slow.events if is_line(entry)]
    assert len(lines) > 50
    assert lines == sorted(set(lines))
    notices = [entry.args[0] for entry in slow.events if entry.event == "daemon message"]
    assert sum(int(notice.split()[0]) for notice in notices) == 10 * TURNS + 1 - len(lines) > 1_000
    states = [entry.args[0] for entry in slow.events if entry.event == "status"]
    assert states == ["running", *(f"turn {turn}" for turn in range(TURNS))]


def is_line(entry: BrowserEvent) -> bool:
    return entry.event == "console output"


def nodes_end(node: ConsoleNode, browser: Browser) -> Any:
    """Return the node's end of a browser's connection."""
    port = browser.wire.transport.getHost().port
    return next(one for one in node.clients if one._protocol.transport.getPeer().port == port)


def held_for(client: Any) -> int:
    """Return the bytes that the transport, TLS or not, holds for a client."""
    transport = client._protocol.transport.transport
    held = 0
    if hasattr(transport, "_tlsConnection"):
        held += sum(map(len, transport._appSendBuffer))
        transport = transport.transport
    return held + len(transport.dataBuffer) + int(transport._tempDataLen)


async def test_a_reader_that_never_reads_is_closed_with_1013(node: ConsoleNode) -> None:
    browser = await node.watch()
    browser.pause()
    client = nodes_end(node, browser)
    # until what was sent before is read
    client._protocol.closeHandshakeTimeout = 600
    transport = client._protocol.transport.transport
    message = "x" * 10_000
    for turn in range(10_000):
        node.publish("transfer status", message)
        if not node.bus._subscribers:
            break
        if turn % 50 == 0:
            await deferLater(reactor, 0)
        assert len(transport.dataBuffer) + transport._tempDataLen < ALL_MAX + 200_000
    assert not node.bus._subscribers
    browser.resume()
    assert await browser.wait_closed() == (1013, "this browser reads too slowly")


async def test_pings_find_dead_peers(node: ConsoleNode, monkeypatch: pytest.MonkeyPatch) -> None:
    # Autobahn cuts its times down to whole seconds.
    monkeypatch.setattr(protocol, "PING_INTERVAL", 1)
    monkeypatch.setattr(protocol, "PONG_TIMEOUT", 1)
    alive, gone = await node.watch(), await node.watch()
    gone.pause()
    while node.sockets.count(UUID) > 1:
        await deferLater(reactor, 0.01)
    node.publish("status", "offline")
    await alive.wait_for("status", "offline")
