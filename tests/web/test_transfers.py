"""`/api/transfers`, but for the uploads themselves."""

from __future__ import annotations

import pytest_twisted

from tests.web.node import UUID, House


@pytest_twisted.ensureDeferred
async def test_senders_may_ask_what_may_be_in_an_archive(house: House) -> None:
    reply = await house.call("OPTIONS", "transfers", Authorization=None)
    assert (reply.status, reply.text) == (204, "")
    assert reply.headers["allow"] == "OPTIONS, POST"
    assert reply.headers["transfer-features"] == "symlinks, hard-links"
    assert house.calls == []


@pytest_twisted.ensureDeferred
async def test_a_transfer_to_this_node_is_cancelled_once(house: House) -> None:
    house.receiver.servers = (UUID,)
    reply = await house.call("DELETE", f"transfers/{UUID.upper()}")
    assert (reply.status, reply.text) == (202, "")
    reply = await house.call("DELETE", f"transfers/{UUID}")
    assert reply.status == 409
    assert reply.json["error"] == "Server is not currently being transferred."
    assert house.calls == [("cancel", "in", UUID), ("cancel", "in", UUID)]
