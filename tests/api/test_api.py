"""The table of paths: what is served, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.node import UUID, ApiNode
from wingsd import __version__
from wingsd.api.resource import Endpoint
from wingsd.api.routes import CALLS, ROUTES, interface
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


def test_every_operation_id_is_unique() -> None:
    names = [made.name for made in MADE]
    assert sorted(names) == sorted(set(names))


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


@pytest.mark.parametrize(
    "path", ["/", "/openapi.json/", "/openapi", "/apis/system", "/api//system"]
)
async def test_paths_are_documented_literally(node: ApiNode, path: str) -> None:
    reply = await node.call("GET", path)
    assert reply.status == 404
    assert reply.json["code"] == "path-not-found"


def kinds(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield schema["$ref"]
        for value in schema.values():
            yield from kinds(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from kinds(value)


def test_every_component_is_referred_to() -> None:
    document = interface()
    there = {
        f"#/components/{kind}/{name}"
        for kind, named in document["components"].items()
        if kind != "securitySchemes"
        for name in named
    }
    assert set(kinds(document)) == there
