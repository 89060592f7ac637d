"""Seeds that are due when something is not as it was, or cannot be done."""

from __future__ import annotations

import time
from typing import Any

import attrs
import pytest

from tests.direct_transfers.seeding import (
    END,
    begin,
    come,
    is_used_as_ever,
    kept,
    nodes,
    quick,
)
from tests.support.node_in_process import NodePair
from tests.support.reactor import until
from tests.support.sample_server import UUID
from wingsd.errors import StorageError
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.transfers.outgoing.source import SeedOrder

__all__ = ["nodes", "quick"]


async def run(nodes: NodePair) -> None:
    """Have the server run at the source."""
    server = nodes.source.servers.get(UUID)
    nodes.source.panel.known[UUID] = nodes.configuration
    await server.power(PowerAction.START)
    nodes.source.environment.running[UUID].say(b"listening on\n")
    await until(lambda: server.state is PowerState.RUNNING)


async def test_one_whose_time_is_over_moves_the_server_after_its_first_round(
    nodes: NodePair,
) -> None:
    nodes.source.panel.known[UUID] = nodes.configuration
    invitation = await nodes.destination.invite(follow=True)
    await nodes.send(invitation, seed=SeedOrder(time.time() - 3600))
    await nodes.assert_moved()


@pytest.mark.promise("seed-switch-waits")
async def test_a_server_that_was_suspended_since_is_moved_and_stays_off(nodes: NodePair) -> None:
    await run(nodes)
    await begin(nodes, END)
    server = nodes.source.servers.get(UUID)
    suspended = attrs.evolve(server.configuration.settings, suspended=True)
    server.configuration = attrs.evolve(server.configuration, settings=suspended)
    come(nodes.source)
    await nodes.assert_moved()
    assert nodes.destination.servers.get(UUID).state is PowerState.OFFLINE


@pytest.mark.promise("seed-is-kept")
async def test_a_server_whose_move_cannot_be_recorded_runs_on_where_it_is(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run(nodes)
    await begin(nodes, END)

    async def fail(*_: Any) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(nodes.source.database, "change_move_state", fail)
    come(nodes.source)
    await nodes.settled()
    assert "the disk is full" in nodes.source.reason
    assert nodes.source.servers.get(UUID).state is PowerState.RUNNING
    assert is_used_as_ever(nodes)
    assert kept(nodes) == [UUID]
