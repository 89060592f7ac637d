"""What all of the Panel's calls have in common."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.web.client import Agent
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from tests.api.node import TOKEN, UUID, House, reactor, until
from tests.support.logged_errors import LoggedErrors
from wingsd.api.routes import PATHS
from wingsd.errors import EnvironmentFailed
from wingsd.http.operations import Access
from wingsd.panel.http_client import PanelUnreachable

UUID_TEXT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@implementer(IAgentEndpointFactory)
class _OnUnixSocket:
    """Finds everything on one socket."""

    def __init__(self, path: str) -> None:
        self._path = path

    def endpointForURI(self, uri: object) -> UNIXClientEndpoint:
        return UNIXClientEndpoint(reactor, self._path)


CALLS = [
    (method, path.format(uuid=UUID))
    for path, endpoint in PATHS.items()
    for method, made in endpoint.calls.items()
    if made.access is Access.PANEL
]


@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_none_of_them_is_for_anybody_but_the_panel(
    house: House, method: str, path: str
) -> None:
    reply = await house.call(method, path, {}, Authorization=None)
    assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
    assert UUID_TEXT.fullmatch(reply.headers["x-request-id"])
    assert reply.json["error"].startswith("The required authorization heads were not present")
    assert reply.json["code"] == "token-missing"
    reply = await house.call(method, path, {}, Authorization=f"Bearer {TOKEN}x")
    assert reply.status == 403
    assert reply.json["error"] == "You are not authorized to access this endpoint."
    assert UUID_TEXT.fullmatch(reply.headers["x-request-id"])
    assert house.calls == []


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("system", "GET, OPTIONS"),
        ("servers", "GET, OPTIONS, POST"),
        (f"servers/{UUID}", "DELETE, GET, OPTIONS"),
        (f"servers/{UUID}/power", "OPTIONS, POST"),
        (f"servers/{UUID}/transfer", "DELETE, OPTIONS, POST"),
        (f"servers/{UUID}/ws", "GET, OPTIONS"),
        ("transfers", "OPTIONS, POST"),
        (f"transfers/{UUID}", "DELETE, OPTIONS"),
        (f"transfers/{UUID}/by-hand", "DELETE, OPTIONS, PUT"),
    ],
)
async def test_other_methods_are_told_which_ones_there_are(
    house: House, path: str, allowed: str
) -> None:
    for method in {"PUT", "HEAD", "BREW"}.difference(allowed.split(", ")):
        reply = await house.call(method, path, Authorization=None)
        assert (reply.status, reply.headers["allow"]) == (405, allowed)
        assert method == "HEAD" or reply.json["detail"] == f"use {allowed}"
    reply = await house.call("OPTIONS", path, Authorization=None)
    assert (reply.status, reply.headers["allow"], reply.text) == (204, allowed, "")
    assert "content-length" not in reply.headers


@pytest.mark.parametrize(
    "path",
    [
        "",
        "server",
        "servers/",
        f"servers/{UUID}/files",
        f"servers/{UUID}/power/now",
        f"servers/{UUID}/ws/allow",
        f"transfers/{UUID}/x",
        "system/x",
    ],
)
async def test_other_paths_lead_nowhere(house: House, path: str) -> None:
    reply = await house.call("GET", path)
    assert (reply.status, reply.headers["content-type"]) == (404, "application/json")
    assert UUID_TEXT.fullmatch(reply.headers["x-request-id"])


@pytest.mark.parametrize("part", ["8d2f5a14", UUID.replace("-", ""), "%2e%2e", "%FF", "x" * 5000])
async def test_what_is_no_uuid_names_no_server(house: House, part: str) -> None:
    for method, path in (("GET", f"servers/{part}"), ("DELETE", f"transfers/{part}")):
        reply = await house.call(method, path)
        assert reply.status == 404
        assert reply.json["error"] == "The requested resource was not found on this instance."


@pytest.mark.parametrize("origin", ["https://panel.example.com", "https://status.example.com"])
async def test_the_panels_pages_may_ask_how_the_node_is(house: House, origin: str) -> None:
    asked = await house.call("OPTIONS", "system", Authorization=None, Origin=origin)
    assert asked.headers["access-control-allow-origin"] == origin
    assert "Authorization" in asked.headers["access-control-allow-headers"]
    assert asked.headers["access-control-allow-methods"] == "GET, OPTIONS"
    for token, status in ((TOKEN, 200), ("another", 403)):
        reply = await house.call("GET", "system", Origin=origin, Authorization=f"Bearer {token}")
        assert (reply.status, reply.headers["access-control-allow-origin"]) == (status, origin)
        assert reply.headers["vary"] == "Origin"


async def test_other_pages_may_not(house: House) -> None:
    for method in ("OPTIONS", "GET"):
        reply = await house.call(method, "system", Origin="https://evil.example.com")
        assert not [name for name in reply.headers if name.startswith("access-control")]
        assert reply.headers["vary"] == "Origin"


async def test_a_body_that_is_too_large_is_not_taken(house: House) -> None:
    reply = await house.call("POST", f"servers/{UUID}/commands", b" " * (1024 * 1024 + 1))
    assert reply.status == 413
    reply = await house.call("POST", f"servers/{UUID}/commands", b" " * (1024 * 1024))
    assert reply.status == 400


async def test_a_failure_of_the_nodes_own_is_logged_under_the_number_that_is_told(
    house: House, logged_errors: LoggedErrors
) -> None:
    house.calls.faults["sync"] = PanelUnreachable("the Panel is down", "try again")
    reply = await house.call("POST", f"servers/{UUID}/sync")
    assert (reply.status, reply.json["code"]) == (503, "panel-unreachable")
    (line,) = [line for line in logged_errors.lines if "failed" in line]
    assert f"POST /api/servers/{UUID}/sync failed" in line
    assert f"(request {reply.headers['x-request-id']}): panel-unreachable: the Panel is" in line


async def test_an_unforeseen_one_is_logged_whole_and_tells_nothing(
    house: House, logged_errors: LoggedErrors
) -> None:
    house.calls.faults["sync"] = RuntimeError("secret")
    reply = await house.call("POST", f"servers/{UUID}/sync")
    assert (reply.status, reply.json["code"]) == (500, "internal-error")
    assert "secret" not in reply.text
    assert logged_errors.take(RuntimeError)
    assert [line for line in logged_errors.lines if reply.headers["x-request-id"] in line]


async def test_a_request_is_noted_without_its_secrets(
    house: House, logged_errors: LoggedErrors
) -> None:
    reply = await house.call("GET", "servers?v=secret")
    number = reply.headers["x-request-id"]
    assert f"127.0.0.1: GET /api/servers: 200 (request {number})" in logged_errors.lines
    assert not [line for line in logged_errors.lines if "secret" in line or TOKEN in line]


async def test_a_proxy_may_come_over_a_unix_socket(house: House, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    port = reactor.listenUNIX(path, house.site)
    house.client = HTTPClient(Agent.usingEndpointFactory(reactor, _OnUnixSocket(path)))
    assert (await house.call("GET", "system")).status == 200
    assert (await house.call("POST", "transfers", Authorization=None)).status == 401
    await port.stopListening()


async def test_what_a_caller_asked_for_is_done_though_it_leaves(house: House) -> None:
    house.servers.may_delete = Deferred()
    with socket.create_connection(("127.0.0.1", house.port)) as caller:
        caller.sendall(
            f"DELETE /api/servers/{UUID} HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {TOKEN}\r\n\r\n".encode()
        )
        await until(lambda: ("delete", UUID) in house.calls)
    await until(lambda: not house.site.connections)
    house.servers.may_delete.callback(None)
    assert house.servers.known == {}


async def test_calls_that_wait_do_not_hinder_others(house: House) -> None:
    house.servers.may_delete = Deferred()
    deleting = Deferred.fromCoroutine(house.call("DELETE", f"servers/{UUID}"))
    assert (await house.call("GET", "servers")).status == 200
    assert not deleting.called
    house.servers.may_delete.callback(None)
    assert (await deleting).status == 204


async def test_an_engine_that_fails_is_told_in_its_words(house: House) -> None:
    house.calls.faults["delete"] = EnvironmentFailed("Docker refuses: no")
    reply = await house.call("DELETE", f"servers/{UUID}")
    assert (reply.status, reply.json["detail"]) == (500, "Docker refuses: no")
    assert UUID in house.servers.known
