"""A Panel commits a transfer only after it has the source's 202: outcomes may come before."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tests.archives import seen
from tests.daemon.daemon import TIMEOUT, reactor
from tests.daemon.harness import UUID
from tests.daemon.pair import Pair, Peer
from tests.support import Hang

BACKUP = "5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c19"
MIB = 1 << 20


def quarantined(peer: Peer) -> list[str]:
    return [name for name in peer.left() if ".quarantine" in name]


def called(pair: Pair, match: str, times: int = 1) -> Deferred[None]:
    """Return when the Panel was asked so often; it fails when that is not soon."""
    return pair.panel.called(match, times).addTimeout(TIMEOUT, reactor)


async def until_closed(pair: Pair) -> None:
    """Return when the Panel's transfer is over; it fails when that is not soon."""

    async def look() -> None:
        while pair.panel.in_transfer(UUID):
            await deferLater(reactor, 0.02)

    await Deferred.fromCoroutine(look()).addTimeout(TIMEOUT, reactor)


async def is_free(pair: Pair) -> None:
    """See that the server is the source's own again: it can move right away."""
    pair.panel.slow_commit = None
    before = seen(pair.source.files())
    await pair.transfer()
    await pair.destination.wait_for_line("state success")
    assert seen(pair.destination.files()) == before
    assert not pair.panel.in_transfer(UUID)
    assert quarantined(pair.source) == quarantined(pair.destination) == []


@pytest_twisted.ensureDeferred
async def test_a_quick_failure_at_the_source_is_told_until_the_panel_has_the_transfer(
    pair: Pair,
) -> None:
    pair.add_server()
    await pair.start()
    pair.panel.slow_commit = hang = Hang()
    beginning = Deferred.fromCoroutine(pair.transfer(backups=[BACKUP]))
    await called(pair, "/transfer/failure", times=2)
    hang.release()
    await beginning
    await pair.source.wait_for_line("the Panel was told of the failure")
    assert not pair.panel.in_transfer(UUID)
    assert {outcome for _, outcome in pair.panel.reports()} == {"failure"}
    await is_free(pair)


@pytest_twisted.ensureDeferred
async def test_a_quick_failure_at_the_destination_is_told_until_the_panel_has_the_transfer(
    pair: Pair,
) -> None:
    pair.add_server()
    pair.destination.transfers = {"max_members": 1}
    await pair.start()
    pair.panel.slow_commit = hang = Hang()
    beginning = Deferred.fromCoroutine(pair.transfer())
    # Both nodes tell it, and both again.
    await called(pair, "/transfer/failure", times=4)
    await pair.source.wait_for_line("state failure")
    hang.release()
    await beginning
    await until_closed(pair)
    await pair.destination.wait_for_line("cleaned up")
    assert pair.destination.left() == []
    assert pair.panel.node_of(UUID) is pair.source.node
    pair.destination.signal("KILL")
    await pair.destination.ended()
    pair.destination.transfers = {}
    await pair.destination.start()
    await is_free(pair)


@pytest.mark.parametrize("strict", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_quick_success_is_told_until_the_panel_has_the_transfer(
    pair: Pair, strict: bool
) -> None:
    pair.add_server(MIB)
    before = seen(pair.source.files())
    await pair.start()
    pair.panel.strict = strict
    pair.panel.slow_commit = hang = Hang()
    beginning = Deferred.fromCoroutine(pair.transfer())
    # A strict Panel does not even describe the server to its destination before.
    await called(pair, f"/servers/{UUID}" if strict else "/transfer/success", times=2)
    hang.release()
    await beginning
    await pair.destination.wait_for_line("state success")
    await pair.source.wait_for_line("state success")
    assert seen(pair.destination.files()) == before
    assert pair.panel.node_of(UUID) is pair.destination.node
    assert not pair.panel.in_transfer(UUID)
    assert pair.panel.deletions == [(UUID, 204)]
    assert {outcome for _, outcome in pair.panel.reports()} == {"success"}
    assert quarantined(pair.source) == quarantined(pair.destination) == []


@pytest_twisted.ensureDeferred
async def test_a_failure_that_is_denied_is_told_again_after_a_restart(pair: Pair) -> None:
    pair.add_server()
    await pair.start()
    pair.panel.slow_commit = hang = Hang()
    beginning = Deferred.fromCoroutine(pair.transfer(backups=[BACKUP]))
    await called(pair, "/transfer/failure")
    await pair.source.wait_for_line("told its failure again")
    pair.source.signal("KILL")
    await pair.source.ended()
    hang.release()
    await beginning
    await pair.source.start()
    await pair.source.wait_for_line("the Panel was told of the failure")
    assert not pair.panel.in_transfer(UUID)
