"""Direct transfers that are cancelled before it is known whether the server has moved."""

from __future__ import annotations

import json

import pytest

from tests.direct_transfers.seeding import END, begin, come, nodes, quick
from tests.support.logged_errors import Logged
from tests.support.node_in_process import NodePair
from tests.support.reactor import until
from tests.support.sample_server import UUID
from wingsd.http.request import StreamingRequest
from wingsd.servers.power_states import PowerAction, PowerState

__all__ = ["nodes", "quick"]


@pytest.mark.promise("cancelled-direct-server-stays-off")
async def test_a_server_whose_transfer_is_cancelled_before_its_outcome_is_known_stays_off(
    nodes: NodePair, logged: Logged
) -> None:
    source, destination = nodes.source, nodes.destination
    server = source.servers.get(UUID)
    source.panel.known[UUID] = nodes.configuration
    await server.power(PowerAction.START)
    source.environment.running[UUID].say(b"listening on\n")
    await until(lambda: server.state is PowerState.RUNNING)
    await begin(nodes, END)

    def lose(request: StreamingRequest) -> bool:
        if b"/commit" in request.path:
            destination.lose = lambda _: True
        return False

    destination.lose = lose
    come(source)
    await until(lambda: UUID in destination.environment.running)
    source.sender.cancel(UUID)
    await until(lambda: any(each.step.name == "SETTLE" for each in source.sender.progress))
    source.sender.cancel(UUID)
    await until(lambda: not source.sender.servers)
    # As a later daemon would find it, from here on.
    (entry,) = source.store.transfers()
    assert (entry.step, source.hold) == ("FAILED", "")
    record = source.store.move(entry.id)
    assert record is not None
    assert json.loads(record.state)["stopped"] is False
    destination.lose = lambda _: False
    await until(lambda: source.entries() == [("out", "failure")])
    assert (server.state, UUID in source.environment.running) == (PowerState.OFFLINE, False)
    assert any("is not started, since its transfer was cancelled" in each for each in logged.lines)
