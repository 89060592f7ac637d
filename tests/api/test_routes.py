"""All of the Panel's calls: the table of paths, and what its calls have in common."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.api.node import TOKEN, UUID, ApiNode
from tests.support.logged_errors import Logged
from tests.support.reactor import until
from wingsd import __version__
from wingsd.api.resource import Endpoint
from wingsd.api.routes import CALLS, ROUTES, interface
from wingsd.errors import PanelUnreachable
from wingsd.http.operations import Access, Call

MADE = [made for calls in CALLS.values() for made in calls.values()]


def declared(kind: type[Endpoint] = Endpoint) -> Iterator[Call]:
    for each in kind.__subclasses__():
        yield from declared(each)
        if each.__module__.startswith("wingsd.api."):
            yield from (made for made in vars(each).values() if isinstance(made, Call))


def test_every_route_is_in_the_document_once() -> None:
    """Each call that is declared has one row, and those of a path are of one class."""
    assert {route.call.name for route in ROUTES} == {made.name for made in declared()}
    assert len(ROUTES) == len({route.call.name for route in ROUTES}) == len(MADE)
    for calls in CALLS.values():
        assert len({made.endpoint for made in calls.values()}) == 1


def test_every_operation_has_a_summary() -> None:
    assert [made.name for made in MADE if not made.summary.endswith(".")] == []


MOVE = "/api/transfers/{uuid}/move"


@pytest.mark.promise("node-token-is-needed")
def test_all_other_operations_need_the_panels_token() -> None:
    others = {
        (method, path): made.access
        for path, calls in CALLS.items()
        for method, made in calls.items()
        if made.access is not Access.PANEL
    }
    assert others == {
        ("GET", "/api/servers/{uuid}/ws"): Access.PUBLIC,  # Who shows his token there.
        ("POST", "/api/pair"): Access.PAIR,
        ("PUT", "/api/pair/seeds/{uuid}"): Access.PAIR,
        ("POST", "/api/transfers"): Access.TRANSFER,
        ("OPTIONS", "/api/transfers"): Access.PUBLIC,
        ("PUT", "/api/transfers/{uuid}/by-hand"): Access.DIRECT_TRANSFER,
        ("POST", MOVE): Access.TRANSFER,
        ("GET", f"{MOVE}/{{move}}"): Access.MOVE,
        ("DELETE", f"{MOVE}/{{move}}"): Access.MOVE,
        ("POST", f"{MOVE}/{{move}}/resume"): Access.MOVE,
        ("GET", f"{MOVE}/{{move}}/tree"): Access.MOVE,
        ("PUT", f"{MOVE}/{{move}}/batches/{{number}}"): Access.MOVE,
        ("POST", f"{MOVE}/{{move}}/rounds/{{number}}"): Access.MOVE,
        ("GET", f"{MOVE}/{{move}}/attachments/{{name}}"): Access.MOVE,
        ("PATCH", f"{MOVE}/{{move}}/attachments/{{name}}"): Access.MOVE,
        ("POST", f"{MOVE}/{{move}}/prepare"): Access.MOVE,
        ("POST", f"{MOVE}/{{move}}/room"): Access.MOVE,
        ("POST", f"{MOVE}/{{move}}/commit"): Access.MOVE,
        ("GET", f"{MOVE}/{{move}}/backups/{{backup}}"): Access.MOVE,
        ("PATCH", f"{MOVE}/{{move}}/backups/{{backup}}"): Access.MOVE,
        ("DELETE", f"{MOVE}/{{move}}/backups/{{backup}}"): Access.MOVE,
        ("PUT", f"{MOVE}/{{move}}/backups/{{backup}}/point"): Access.MOVE,
        ("GET", f"{MOVE}/{{move}}/history"): Access.MOVE,
        ("PATCH", f"{MOVE}/{{move}}/history"): Access.MOVE,
        ("DELETE", f"{MOVE}/{{move}}/history"): Access.MOVE,
        ("GET", f"{MOVE}/{{move}}/history/base"): Access.MOVE,
        ("POST", f"{MOVE}/{{move}}/history/blocks"): Access.MOVE,
        ("DELETE", "/api/transfers/{uuid}/by-hand"): Access.DIRECT_TRANSFER,
        ("GET", "/download/backup"): Access.BACKUP_DOWNLOAD,
        ("GET", "/download/directory"): Access.FILE_DOWNLOAD,
        ("GET", "/download/file"): Access.FILE_DOWNLOAD,
        ("GET", "/download/files"): Access.FILES_DOWNLOAD,
        ("POST", "/upload/file"): Access.FILE_UPLOAD,
        ("HEAD", "/upload/file"): Access.FILE_UPLOAD,
        ("PATCH", "/upload/file"): Access.FILE_UPLOAD,
        ("DELETE", "/upload/file"): Access.FILE_UPLOAD,
        ("GET", "/openapi.json"): Access.PUBLIC,
    }


async def test_the_document_is_public(node: ApiNode) -> None:
    reply = await node.call("GET", "/openapi.json", Authorization=None)
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert reply.json == interface()


@pytest.mark.promise("openapi-reveals-nothing")
async def test_the_document_says_nothing_of_the_node(node: ApiNode) -> None:
    text = (await node.call("GET", "/openapi.json")).text
    for word in ("the-token-of", "panel.example", UUID, __version__):
        assert word not in text


def kinds(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield schema["$ref"]
        for value in schema.values():
            yield from kinds(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from kinds(value)


UUID_TEXT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


PARTS = {"file": "a.log", **dict.fromkeys(("uuid", "operation", "identifier", "backup"), UUID)}
CALLS_OF_PANELS = [
    (method, path.format_map(PARTS))
    for path, calls in CALLS.items()
    for method, made in calls.items()
    if made.access is Access.PANEL
]


@pytest.mark.promise("node-token-is-needed")
async def test_every_route_needs_the_panels_token(node: ApiNode) -> None:
    for method, path in CALLS_OF_PANELS:
        reply = await node.call(method, path, {}, Authorization=None)
        found = (reply.status, reply.headers["www-authenticate"], reply.json["code"])
        assert found == (401, "Bearer", "token-missing"), (method, path)
        assert UUID_TEXT.fullmatch(reply.headers["x-request-id"])
        assert reply.json["error"].startswith("The required authorization heads were not present")
        reply = await node.call(method, path, {}, Authorization=f"Bearer {TOKEN}x")
        assert reply.status == 403, (method, path)
        assert reply.json["error"] == "You are not authorized to access this endpoint."
        assert UUID_TEXT.fullmatch(reply.headers["x-request-id"])
        assert node.calls == [], (method, path)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("system", "GET, OPTIONS"),
        (f"servers/{UUID}", "DELETE, GET, OPTIONS"),
        (f"servers/{UUID}/ws", "GET, OPTIONS"),
        ("transfers", "OPTIONS, POST"),
        (f"transfers/{UUID}/by-hand", "DELETE, OPTIONS, PUT"),
    ],
)
async def test_other_methods_are_a_405_with_allow(node: ApiNode, path: str, allowed: str) -> None:
    for method in {"PUT", "HEAD", "BREW"}.difference(allowed.split(", ")):
        reply = await node.call(method, path, Authorization=None)
        assert (reply.status, reply.headers["allow"]) == (405, allowed)
        assert method == "HEAD" or reply.json["detail"] == f"use {allowed}"
    reply = await node.call("OPTIONS", path, Authorization=None)
    assert reply.headers["allow"] == allowed
    if path != "transfers":  # of which there are features to tell
        assert (reply.status, reply.text) == (204, "")
        assert "content-length" not in reply.headers


@pytest.mark.promise("node-token-is-needed")
async def test_a_body_of_another_method_needs_the_token_of_its_path(node: ApiNode) -> None:
    for method in ("PUT", "OPTIONS"):
        reply = await node.call(method, "servers", {}, Authorization=None)
        assert (reply.status, reply.json["code"]) == (401, "token-missing")
    assert (await node.call("PUT", "servers", {})).status == 405
    # Of this path no body is stored.
    for method, status in (("PUT", 405), ("OPTIONS", 200)):
        assert (await node.call(method, "transfers", {}, Authorization=None)).status == status


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/openapi.json/",
        "/api//system",
        "",
        "server",
        "servers/",
        f"servers/{UUID}/files",
    ],
)
async def test_other_paths_are_a_404(node: ApiNode, path: str) -> None:
    reply = await node.call("GET", path)
    assert (reply.status, reply.headers["content-type"]) == (404, "application/json")
    code = "server-not-found" if path == "servers/" else "path-not-found"
    assert reply.json["code"] == code
    assert UUID_TEXT.fullmatch(reply.headers["x-request-id"])


@pytest.mark.parametrize("part", ["8d2f5a14", UUID.replace("-", ""), "%2e%2e", "%FF", "x" * 5000])
async def test_an_invalid_uuid_is_a_404(node: ApiNode, part: str) -> None:
    for method, path in (("GET", f"servers/{part}"), ("DELETE", f"transfers/{part}")):
        reply = await node.call(method, path)
        assert reply.status == 404
        assert reply.json["error"] == "The requested resource does not exist on this instance."


@pytest.mark.parametrize("origin", ["https://panel.example.com", "https://status.example.com"])
async def test_the_panels_origin_may_read_the_system(node: ApiNode, origin: str) -> None:
    asked = await node.call("OPTIONS", "system", Authorization=None, Origin=origin)
    assert asked.headers["access-control-allow-origin"] == origin
    assert asked.status == 204
    for token, status in ((TOKEN, 200), ("another", 403)):
        reply = await node.call("GET", "system", Origin=origin, Authorization=f"Bearer {token}")
        assert (reply.status, reply.headers["access-control-allow-origin"]) == (status, origin)
        assert "Origin" in reply.headers["vary"]


async def test_an_error_is_logged_under_its_request_id(node: ApiNode, logged: Logged) -> None:
    node.calls.faults["sync"] = PanelUnreachable("the Panel is down", "try again")
    reply = await node.call("POST", f"servers/{UUID}/sync")
    assert (reply.status, reply.json["code"]) == (503, "panel-unreachable")
    (line,) = [line for line in logged.lines if "failed" in line]
    assert f"POST /api/servers/{UUID}/sync failed" in line
    assert f"(request {reply.headers['x-request-id']}): the Panel is" in line


@pytest.mark.promise("secrets-are-not-shown")
async def test_a_request_is_logged_without_its_secrets(node: ApiNode, logged: Logged) -> None:
    reply = await node.call("GET", "servers?v=secret")
    number = reply.headers["x-request-id"]
    assert f"127.0.0.1: GET /api/servers: 200 (request {number})" in logged.lines
    assert not [line for line in logged.lines if "secret" in line or TOKEN in line]


async def test_a_call_continues_when_its_client_disconnects(node: ApiNode) -> None:
    node.servers.may_delete = Deferred()
    with socket.create_connection(("127.0.0.1", node.port)) as caller:
        caller.sendall(
            f"DELETE /api/servers/{UUID} HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {TOKEN}\r\n\r\n".encode()
        )
        await until(lambda: ("delete", UUID) in node.calls)
    await until(lambda: not node.site.connections)
    node.servers.may_delete.callback(None)
    assert node.servers.known == {}
