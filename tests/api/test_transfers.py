"""`/api/transfers`, but for the uploads themselves."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.api.node import TOKEN, UUID, House
from tests.support import Node, Panel
from wingsd.auth.tokens import direct_token, transfer_token
from wingsd.errors import StorageError

OTHER = "11111111-6e2b-4c43-9d57-0c4c5e1c7f10"
DESCRIPTION = {"settings": {"uuid": UUID}, "process_configuration": {"stop": {"type": "stop"}}}


def by_hand(uuid: str = UUID, *, age: float = 0) -> str:
    """Return the header of a token for moving a server by hand, which was good for an hour."""
    now = time.time() - age
    return f"Bearer {direct_token(uuid, TOKEN, now, now + 3600)}"


async def test_senders_may_ask_what_may_be_in_an_archive(house: House) -> None:
    reply = await house.call("OPTIONS", "transfers", Authorization=None)
    assert (reply.status, reply.text) == (204, "")
    assert reply.headers["allow"] == "OPTIONS, POST"
    assert reply.headers["transfer-features"] == "symlinks, hard-links, streams"
    assert house.calls == []


POOL = {"X-Storage-Pool": "attic", "X-Storage-Pool-Mark": "0" * 32}


async def test_a_sender_with_a_token_is_told_of_the_storage_pool(house: House) -> None:
    token = Panel().transfer_token(UUID, Node("https://node.invalid", token=TOKEN))
    reply = await house.call("OPTIONS", "transfers", Authorization=f"Bearer {token}", **POOL)
    assert reply.headers["transfer-features"] == "symlinks, hard-links, streams, shared-volume"
    assert house.calls[1:] == [("pool_features", UUID, "attic", "0" * 32, "")]


async def test_so_it_is_of_the_directory_of_backups(house: House) -> None:
    token = Panel().transfer_token(UUID, Node("https://node.invalid", token=TOKEN))
    mark = {"X-Backup-Directory-Mark": "1" * 32}
    await house.call("OPTIONS", "transfers", Authorization=f"Bearer {token}", **mark)
    assert house.calls[1:] == [("pool_features", UUID, "", "", "1" * 32)]


@pytest.mark.parametrize("way", ["by the Panel", "by hand", "by nobody"])
async def test_a_sender_with_a_token_of_the_panel_is_expected(house: House, way: str) -> None:
    key = "the-token-of-some-other-node-as-long" if way == "by nobody" else TOKEN
    token = Panel().transfer_token(UUID, Node("https://node.invalid", token=key))
    header = by_hand() if way == "by hand" else f"Bearer {token}"
    reply = await house.call("OPTIONS", "transfers", Authorization=header)
    assert reply.status == 204
    assert house.calls == ([("expect", UUID)] if way == "by the Panel" else [])


@pytest.mark.parametrize("fault", ["no token", "another's token", "no mark", "the disk"])
async def test_nobody_else_is(house: House, fault: str) -> None:
    key = "the-token-of-some-other-node-as-long" if fault == "another's token" else TOKEN
    token = Panel().transfer_token(UUID, Node("https://node.invalid", token=key))
    headers: dict[str, str | None] = {"Authorization": f"Bearer {token}", **POOL}
    if fault == "no token":
        headers["Authorization"] = None
    elif fault == "no mark":
        del headers["X-Storage-Pool-Mark"]
    elif fault == "the disk":
        house.calls.faults["pool_features"] = StorageError("it hangs")
    reply = await house.call("OPTIONS", "transfers", **headers)
    assert reply.headers["transfer-features"] == "symlinks, hard-links, streams"


async def test_a_transfer_to_this_node_is_cancelled_once(house: House) -> None:
    house.receiver.servers = (UUID,)
    reply = await house.call("DELETE", f"transfers/{UUID.upper()}")
    assert (reply.status, reply.text) == (202, "")
    reply = await house.call("DELETE", f"transfers/{UUID}")
    assert reply.status == 409
    assert reply.json["code"] == "transfer-not-active"
    assert house.calls == [("cancel", "in", UUID), ("cancel", "in", UUID)]


# By hand


async def put(house: House, content: Any = DESCRIPTION, **headers: str | None) -> tuple[int, str]:
    usual: dict[str, str | None] = {"Authorization": by_hand()}
    reply = await house.call("PUT", f"transfers/{UUID}/by-hand", content, **usual | headers)
    return reply.status, str(reply.json)


async def test_a_source_tells_what_it_will_send(house: House) -> None:
    assert await put(house) == (204, "None")
    assert house.calls == [("describe", UUID, DESCRIPTION)]


@pytest.mark.parametrize(
    ("authorization", "status", "says"),
    [
        (None, 401, "required authorization heads"),
        (f"Bearer {TOKEN}", 401, "cannot be read"),
        (by_hand(OTHER), 401, "not for a direct transfer of this server"),
        (by_hand(age=7200), 401, "it has expired"),
        (
            f"Bearer {Panel().transfer_token(UUID, Node('https://x', token=TOKEN))}",
            401,
            "direct transfer",
        ),
    ],
    ids=["none", "the node's", "another server's", "expired", "a Panel's"],
)
async def test_who_has_no_token_for_it_tells_nothing(
    house: House, authorization: str | None, status: int, says: str
) -> None:
    answered, words = await put(house, Authorization=authorization)
    assert answered == status
    assert says in words
    assert house.calls == []


@pytest.mark.parametrize("content", [b"x", [], {}, {"settings": 5}, b"\xff"])
async def test_what_is_no_description_is_refused(house: House, content: Any) -> None:
    assert (await put(house, content))[0] == 400
    assert house.calls == []


async def test_nothing_is_told_with_a_token_that_was_used(house: House) -> None:
    header = by_hand()
    house.journal.used.add(transfer_token(header, TOKEN).digest)
    status, words = await put(house, Authorization=header)
    assert status == 401
    assert "used for a transfer before" in words


@pytest.mark.parametrize("age", [0, 7200])
@pytest.mark.parametrize("moved", [True, False])
async def test_a_source_asks_whether_it_has_moved_however_late(
    house: House, moved: bool, age: float
) -> None:
    house.direct_transfers.moved = moved
    reply = await house.call("DELETE", f"transfers/{UUID}/by-hand", Authorization=by_hand(age=age))
    assert (reply.status, reply.json) == (200, {"moved": moved})
    assert house.calls == [("conclude", UUID)]


async def test_nobody_asks_about_another_server(house: House) -> None:
    reply = await house.call("DELETE", f"transfers/{UUID}/by-hand", Authorization=by_hand(OTHER))
    assert reply.status == 401
    assert house.calls == []
