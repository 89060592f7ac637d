"""One power action on several servers, as Calagopus' Panel requests it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.node import UUID, ApiNode, FakeServer
from wingsd.errors import ServerBusy
from wingsd.servers.power_states import PowerAction

OTHER = "0c4c5e1c-6e2b-4c43-9d57-8d2f5a147f10"


@pytest.mark.parametrize(
    ("servers", "affected"),
    [
        ({"type": "all"}, [UUID, OTHER]),
        ({"type": "uuids", "uuids": [OTHER]}, [OTHER]),
        ({"type": "uuids", "uuids": []}, []),
        ([UUID.upper()], [UUID]),
        (["11111111-6e2b-4c43-9d57-8d2f5a147f10"], []),
    ],
)
async def test_the_action_is_begun_for_the_servers_that_are_meant(
    node: ApiNode, servers: Any, affected: list[str]
) -> None:
    calls = {uuid: type(node.calls)() for uuid in (UUID, OTHER)}
    node.servers.known = {uuid: FakeServer(uuid, calls[uuid]) for uuid in calls}
    content = {"servers": servers, "action": "restart", "wait_seconds": 5}
    reply = await node.call("POST", "servers/power", content)
    assert (reply.status, reply.json) == (202, {"affected": len(affected)})
    begun = ("power", PowerAction.RESTART, 5)
    assert [uuid for uuid in calls if begun in calls[uuid]] == affected


async def test_a_server_that_is_busy_is_left_out(node: ApiNode) -> None:
    node.calls.faults["check_power"] = ServerBusy("server is currently installing")
    content = {"servers": {"type": "all"}, "action": "start"}
    reply = await node.call("POST", "servers/power", content)
    assert (reply.status, reply.json) == (202, {"affected": 0})


@pytest.mark.parametrize(
    "content",
    [
        {"servers": {"type": "all"}, "action": "explode"},
        {"servers": {"type": "some"}, "action": "start"},
        {"servers": {"type": "uuids"}, "action": "start"},
        {"servers": {"type": "uuids", "uuids": ["x"]}, "action": "start"},
        {"servers": "all", "action": "start"},
        {"servers": [5], "action": "start"},
    ],
)
async def test_an_invalid_action_or_selection_is_refused(
    node: ApiNode, content: dict[str, Any]
) -> None:
    reply = await node.call("POST", "servers/power", content)
    assert (reply.status, node.calls) == (422, [])
