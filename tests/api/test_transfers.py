"""`/api/transfers`, but for the uploads themselves."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.node import TOKEN, UUID, ApiNode
from tests.support import Node, Panel
from wingsd.auth.tokens import direct_token, transfer_token
from wingsd.config import PTERODACTYL
from wingsd.errors import StorageError

OTHER = "11111111-6e2b-4c43-9d57-0c4c5e1c7f10"
#: The token of another node.
ANOTHERS = "the-token-of-some-other-node-as-long"
DESCRIPTION = {"settings": {"uuid": UUID}, "process_configuration": {"stop": {"type": "stop"}}}


def direct_auth(uuid: str = UUID, *, age: float = 0) -> str:
    """Return the header of a direct transfer's token, valid for an hour."""
    now = time.time() - age
    return f"Bearer {direct_token(uuid, TOKEN, now, now + 3600)}"


def panel_auth(key: str = TOKEN) -> str:
    """Return the header of a transfer's token that a Panel makes."""
    return f"Bearer {Panel().transfer_token(UUID, Node('https://node.invalid', token=key))}"


async def test_options_lists_the_features(node: ApiNode) -> None:
    reply = await node.call("OPTIONS", "transfers", Authorization=None)
    assert reply.status == 200
    assert json.loads(reply.text) == {"features": FEATURES.split(", ")}
    assert reply.headers["allow"] == "OPTIONS, POST"
    assert reply.headers["transfer-features"] == FEATURES
    assert node.calls == []


FEATURES = "symlinks, hard-links, streams, attributes, move-1, move-2, follow-1, backup-points"
POOL = {"X-Storage-Pool": "attic", "X-Storage-Pool-Mark": "0" * 32}


@pytest.mark.parametrize(
    ("headers", "marks"),
    [(POOL, ("attic", "0" * 32, "")), ({"X-Backup-Directory-Mark": "1" * 32}, ("", "", "1" * 32))],
)
async def test_what_nodes_share_is_announced_to_a_sender(
    node: ApiNode, headers: dict[str, str], marks: tuple[str, ...]
) -> None:
    reply = await node.call("OPTIONS", "transfers", Authorization=panel_auth(), **headers)
    assert reply.headers["transfer-features"] == f"{FEATURES}, shared-volume"
    assert node.calls[1:] == [("pool_features", UUID, *marks)]


@pytest.mark.promise("next-transfer-is-not-ended")
@pytest.mark.parametrize("way", ["by the Panel", "direct", "by nobody"])
async def test_a_sender_with_a_token_of_the_panel_is_expected(node: ApiNode, way: str) -> None:
    header = (
        direct_auth() if way == "direct" else panel_auth(ANOTHERS if way == "by nobody" else TOKEN)
    )
    reply = await node.call("OPTIONS", "transfers", Authorization=header)
    assert reply.status == 200
    assert node.calls == ([("expect", UUID)] if way == "by the Panel" else [])


@pytest.mark.parametrize("fault", ["no token", "another's token", "no mark", "the disk"])
async def test_a_sender_without_a_valid_token_is_not_expected(node: ApiNode, fault: str) -> None:
    header = panel_auth(ANOTHERS if fault == "another's token" else TOKEN)
    headers: dict[str, str | None] = {"Authorization": header, **POOL}
    if fault == "no token":
        headers["Authorization"] = None
    elif fault == "no mark":
        del headers["X-Storage-Pool-Mark"]
    elif fault == "the disk":
        node.calls.faults["pool_features"] = StorageError("it hangs")
    reply = await node.call("OPTIONS", "transfers", **headers)
    assert reply.headers["transfer-features"] == FEATURES


@pytest.mark.parametrize(
    ("path", "direction"),
    [(f"servers/{UUID}/transfer", "out"), (f"transfers/{UUID.upper()}", "in")],
)
async def test_a_transfer_is_cancelled_once(node: ApiNode, path: str, direction: str) -> None:
    node.sender.servers = node.receiver.servers = (UUID,)
    reply = await node.call("DELETE", path)
    assert (reply.status, reply.text) == (202, "")
    reply = await node.call("DELETE", path)
    assert (reply.status, reply.json["code"]) == (409, "transfer-not-active")
    assert reply.json["error"] == "Server is not currently being transferred."
    assert node.calls == [("cancel", direction, UUID), ("cancel", direction, UUID)]


async def test_a_cancel_by_pelican_is_answered_alike_when_the_transfer_has_ended(
    node: ApiNode,
) -> None:
    node.receiver.servers = (UUID,)
    body = {"server_id": UUID.upper(), "server": {"uuid": UUID}}
    for _ in range(2):
        reply = await node.call("DELETE", "transfer", body)
        assert (reply.status, reply.text) == (204, "")
    assert node.calls == [("cancel", "in", UUID), ("cancel", "in", UUID)]
    reply = await node.call("DELETE", "transfer", {"server_id": "../x"})
    assert (reply.status, len(node.calls)) == (400, 2)
    assert "server_id: expected the UUID of a server" in reply.text


async def put(node: ApiNode, content: Any = DESCRIPTION, **headers: str | None) -> tuple[int, str]:
    usual: dict[str, str | None] = {"Authorization": direct_auth()}
    reply = await node.call("PUT", f"transfers/{UUID}/by-hand", content, **usual | headers)
    return reply.status, str(reply.json)


async def test_put_describes_the_server(node: ApiNode) -> None:
    assert await put(node) == (204, "None")
    assert node.calls == [("describe", UUID, DESCRIPTION)]


@pytest.mark.promise("direct-token-is-for-one-server")
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: None, "required authorization heads"),
        (lambda: f"Bearer {TOKEN}", "cannot be read"),
        (lambda: direct_auth(OTHER), "not for a direct transfer of this server"),
        (lambda: direct_auth(age=7200), "it has expired"),
        (panel_auth, "direct transfer"),
    ],
    ids=["none", "the node's", "another server's", "expired", "a Panel's"],
)
async def test_put_without_a_token_of_the_server_is_refused(
    node: ApiNode, make: Callable[[], str | None], says: str
) -> None:
    status, words = await put(node, Authorization=make())
    assert status == 401
    assert says in words
    assert node.calls == []


@pytest.mark.parametrize("content", [b"x", [], {}, {"settings": 5}, b"\xff"])
async def test_put_with_an_invalid_description_is_refused(node: ApiNode, content: Any) -> None:
    assert (await put(node, content))[0] == 400
    assert node.calls == []


async def test_put_with_a_used_token_is_refused(node: ApiNode) -> None:
    header = direct_auth()
    node.database.used.add(transfer_token(header, TOKEN, PTERODACTYL).digest)
    status, words = await put(node, Authorization=header)
    assert status == 401
    assert "used for a transfer before" in words


@pytest.mark.parametrize("age", [0, 7200])
@pytest.mark.parametrize("moved", [True, False])
async def test_delete_answers_whether_the_server_has_moved(
    node: ApiNode, moved: bool, age: float
) -> None:
    node.direct_transfers.moved = moved
    reply = await node.call(
        "DELETE", f"transfers/{UUID}/by-hand", Authorization=direct_auth(age=age)
    )
    assert (reply.status, reply.json) == (200, {"moved": moved})
    assert node.calls == [("conclude", UUID)]


async def test_delete_with_a_token_of_another_server_is_refused(node: ApiNode) -> None:
    reply = await node.call(
        "DELETE", f"transfers/{UUID}/by-hand", Authorization=direct_auth(OTHER)
    )
    assert reply.status == 401
    assert node.calls == []
