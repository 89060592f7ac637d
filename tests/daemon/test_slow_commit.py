"""A Panel commits a transfer only after it has the source's 202: outcomes may come before."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tests.support import Hang
from tests.support.archives import seen
from tests.support.node_process import TIMEOUT, NodeProcess, reactor
from tests.support.sample_server import UUID
from tests.support.two_nodes import TwoNodes

BACKUP = "5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c19"
MIB = 1 << 20


def quarantined(peer: NodeProcess) -> list[str]:
    return [name for name in peer.paths_of_server() if ".quarantine" in name]


def called(nodes: TwoNodes, match: str, times: int = 1) -> Deferred[None]:
    """Return when the Panel was asked so often; it fails when that is not soon."""
    return nodes.panel.called(match, times).addTimeout(TIMEOUT, reactor)


async def until_closed(nodes: TwoNodes) -> None:
    """Return when the Panel's transfer is over; it fails when that is not soon."""

    async def look() -> None:
        while nodes.panel.in_transfer(UUID):
            await deferLater(reactor, 0.02)

    await Deferred.fromCoroutine(look()).addTimeout(TIMEOUT, reactor)


async def is_free(nodes: TwoNodes) -> None:
    """See that the server is the source's own again: it can move right away."""
    nodes.panel.slow_commit = None
    before = seen(nodes.source.files())
    await nodes.transfer()
    await nodes.destination.wait_for_line("state success")
    assert seen(nodes.destination.files()) == before
    assert not nodes.panel.in_transfer(UUID)
    assert quarantined(nodes.source) == quarantined(nodes.destination) == []


@pytest.mark.promise("late-commit-is-waited-for")
async def test_a_quick_failure_at_the_source_is_reported_until_the_panel_has_the_transfer(
    nodes: TwoNodes,
) -> None:
    await nodes.start()
    nodes.panel.slow_commit = hang = Hang()
    beginning = Deferred.fromCoroutine(nodes.transfer(backups=[BACKUP]))
    await called(nodes, "/transfer/failure", times=2)
    hang.release()
    await beginning
    await nodes.source.wait_for_line("the failure was reported to the Panel")
    assert not nodes.panel.in_transfer(UUID)
    assert {outcome for _, outcome in nodes.panel.reports()} == {"failure"}
    await is_free(nodes)


@pytest.mark.promise("late-commit-is-waited-for")
async def test_a_quick_failure_at_the_destination_is_reported_until_the_panel_has_the_transfer(
    nodes: TwoNodes,
) -> None:
    nodes.add_server()
    nodes.destination.transfers = {"max_members": 1, "moves": {"keep_days": 0}}
    await nodes.start()
    nodes.panel.slow_commit = hang = Hang()
    beginning = Deferred.fromCoroutine(nodes.transfer())
    await called(nodes, "/transfer/failure", times=2)
    await nodes.source.wait_for_line("state failure")
    hang.release()
    await beginning
    await until_closed(nodes)
    await nodes.destination.wait_for_line("cleaned up")
    assert nodes.destination.paths_of_server() == []
    assert nodes.panel.node_of(UUID) is nodes.source.node
    await nodes.destination.kill()
    nodes.destination.transfers = {}
    await nodes.destination.start_loaded()
    await is_free(nodes)


@pytest.mark.promise("late-commit-is-waited-for")
@pytest.mark.parametrize("strict", [False, True])
async def test_a_quick_success_is_reported_until_known(nodes: TwoNodes, strict: bool) -> None:
    nodes.add_server(MIB)
    before = seen(nodes.source.files())
    await nodes.start()
    nodes.panel.strict = strict
    nodes.panel.slow_commit = hang = Hang()
    beginning = Deferred.fromCoroutine(nodes.transfer())
    # A strict Panel does not even describe the server to its destination before.
    await called(nodes, f"/servers/{UUID}" if strict else "/transfer/success", times=2)
    hang.release()
    await beginning
    await nodes.destination.wait_for_line("state success")
    await nodes.source.wait_for_line("state success")
    assert seen(nodes.destination.files()) == before
    assert nodes.panel.node_of(UUID) is nodes.destination.node
    assert not nodes.panel.in_transfer(UUID)
    assert nodes.panel.deletions == [(UUID, 204)]
    assert {outcome for _, outcome in nodes.panel.reports()} == {"success"}
    assert quarantined(nodes.source) == quarantined(nodes.destination) == []
