"""The calls of Calagopus' Panel, which sends MessagePack and decodes every answer as such."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from tests.api.node import UUID, ApiNode

pytestmark = pytest.mark.promise("request-bodies-are-bounded")

HOME = f"servers/{UUID}"
TYPE = "application/msgpack"


async def ask(node: ApiNode, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Return status and content of the answer to a call as the Panel makes it."""
    sent = None if body is None else msgpack.packb(body)
    reply = await node.call(method, path, sent, Accept=TYPE, **{"Content-Type": TYPE})
    assert reply.headers["content-type"] == TYPE
    assert "Accept" in reply.headers["vary"]
    return reply.status, msgpack.unpackb(reply.content)


async def test_a_body_is_read_and_an_empty_success_is_a_map(node: ApiNode) -> None:
    assert await ask(node, "POST", f"{HOME}/commands", {"commands": ["say ü"]}) == (200, {})
    assert node.calls == [("command", "say ü")]
    assert (await ask(node, "POST", f"{HOME}/power", {"action": "stop"})) == (202, {})
    assert (await ask(node, "DELETE", HOME)) == (200, {})


@pytest.mark.parametrize(
    ("path", "changes", "status"),
    [
        (HOME, {"Authorization": None}, 401),
        (HOME, {"Authorization": "Bearer x"}, 403),
        ("servers/8d2f5a14-0000-4c43-9d57-0c4c5e1c7f10", {}, 404),
        ("nowhere", {}, 404),
        (f"{HOME}/power", {}, 405),
    ],
)
async def test_every_refusal_is_a_map_with_the_error(
    node: ApiNode, path: str, changes: dict[str, str | None], status: int
) -> None:
    reply = await node.call("GET", path, Accept=TYPE, **changes)
    assert (reply.status, reply.headers["content-type"]) == (status, TYPE)
    error = msgpack.unpackb(reply.content)
    assert error["error"]
    assert error["request_id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize(
    "sent", [b"", b"\xdd\xff\xff\xff\xff", b"\x81\xa8commands\xc4\x01x", b"\xc0\xc0", b"{}"]
)
async def test_a_body_that_lies_is_a_400_with_the_reason(node: ApiNode, sent: bytes) -> None:
    path = f"{HOME}/commands"
    reply = await node.call("POST", path, sent, Accept=TYPE, **{"Content-Type": TYPE})
    error = msgpack.unpackb(reply.content)
    assert (reply.status, error["code"]) == (400, "bad-request")
    assert error["error"].startswith("The data passed in the request was not in a parsable format")
    assert error["detail"].startswith("send a map in MessagePack: ")
    assert node.calls == []


async def test_a_panel_that_speaks_json_gets_json_and_an_empty_body(node: ApiNode) -> None:
    reply = await node.call("POST", f"{HOME}/commands", {"commands": ["x"]})
    assert (reply.status, reply.text) == (204, "")
