"""Who may open a WebSocket, and what the others are told."""

from __future__ import annotations

import json
import re
from itertools import cycle
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.support.browser import NotOpened
from tests.support.reactor import until
from tests.websocket.consoles import ORIGIN, ConsoleNode, reactor
from tests.websocket.tokens import UUID
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL, ApiConfig
from wingsd.websocket.resource import SOCKETS_MAX

USER = "6f1f2fd4-8f43-4a92-b1a7-9ddc6f1ba0d5"
OTHER = "0c4c5e1c-6e2b-4c43-9d57-8d2f5a147f10"
UUID_TEXT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.mark.parametrize("origin", ["https://evil.example.com", "http://panel.example.com", None])
async def test_a_foreign_origin_is_refused_with_403(node: ConsoleNode, origin: str | None) -> None:
    node.listen()
    with pytest.raises(NotOpened, match="403"):
        await node.open(origin=origin)
    assert node.sockets.count(UUID) == 0


@pytest.mark.parametrize("origin", ["https://other.example.com", "https://any.example.com", None])
async def test_an_allowed_origin_is_accepted(node: ConsoleNode, origin: str | None) -> None:
    allowed = ("*",) if origin != "https://other.example.com" else (origin,)
    node.listen(allowed_origins=allowed)
    await node.open(origin=origin)
    assert node.sockets.count(UUID) == 1


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


async def test_the_connections_of_all_users_count_and_lost_ones_do_not(node: ConsoleNode) -> None:
    node.listen()
    browsers = [await node.watch() for _ in range(SOCKETS_MAX - 1)]
    other = await node.open()
    await other.auth(node.token(user_uuid=OTHER))
    with pytest.raises(NotOpened, match="400"):
        await node.open()
    for browser in browsers[:5]:
        browser.wire.transport.abortConnection()
    await until(lambda: node.sockets.count(UUID) == SOCKETS_MAX - 5)
    assert [await node.watch() for _ in range(5)]


async def test_connections_without_a_token_make_way_for_others(node: ConsoleNode) -> None:
    node.listen()
    watching = await node.watch()
    waiting = [await node.open() for _ in range(SOCKETS_MAX - 1)]
    late = [await node.watch() for _ in range(2)]
    for browser in waiting[:2]:
        assert await browser.wait_closed() == (1013, "too many WebSockets wait for a token")
    assert node.sockets.count(UUID) == SOCKETS_MAX
    assert [b.closed for b in (watching, *waiting[2:], *late)] == [None] * SOCKETS_MAX


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
    node.listen()
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


async def test_the_answer_that_opens_one_has_the_headers_of_every_answer(
    node: ConsoleNode,
) -> None:
    node.listen()
    code, headers, _ = await answer_to(node, handshake())
    assert (code, headers["user-agent"][-7:]) == (101, "(id:id)")
    assert headers["access-control-allow-origin"] == ORIGIN
    assert UUID_TEXT.fullmatch(headers["x-request-id"])
