"""Which servers a destination expects, and what it knows of those that have come."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.support.node_in_process import NodeInProcess, NodePair, description
from tests.support.reactor import until
from tests.support.sample_server import UUID
from wingsd.auth.tokens import TransferToken, transfer_token
from wingsd.backups.store import Backup
from wingsd.callbacks import PendingReport
from wingsd.direct_transfers import initiator
from wingsd.direct_transfers.initiator import DirectReceiving, DirectTransfers, Invitation
from wingsd.errors import BadRequest, ServersNotLoaded, TryAgain, Unauthorized
from wingsd.panel.schemas import configuration_from_panel
from wingsd.servers import PowerAction, PowerState
from wingsd.transfers.incoming.transfer import IncomingTransfer


def token_of(node: NodeInProcess, invitation: Invitation) -> TransferToken:
    return transfer_token(f"Bearer {invitation.token}", node.config.token, node.config.family)


async def move(nodes: NodePair) -> NodeInProcess:
    await nodes.send(await nodes.destination.invite())
    await nodes.settled()
    assert nodes.arrived()
    return nodes.destination


async def test_an_invitation_expires(nodes: NodePair) -> None:
    arrivals = nodes.destination.direct_transfers
    invitation = await nodes.destination.invite(seconds=60)
    assert abs(invitation.expires - time.time() - 60) < 5
    assert arrivals.expected == {UUID: invitation.expires}
    assert "secret" not in repr(invitation)
    assert invitation.token not in repr(invitation)
    past = await nodes.destination.invite(seconds=-60)
    assert arrivals.expected == {}
    await nodes.send(past)
    await nodes.settled()
    assert "it has expired" in nodes.source.store.ended(1)[0].reason


@pytest.mark.promise("direct-token-is-for-one-server")
async def test_a_second_invitation_revokes_the_first(nodes: NodePair) -> None:
    first, second = await nodes.destination.invite(), await nodes.destination.invite()
    arrivals = nodes.destination.direct_transfers
    with pytest.raises(Unauthorized):
        arrivals.coordinator(token_of(nodes.destination, first))
    arrivals.coordinator(token_of(nodes.destination, second))


async def test_a_cancelled_invitation_is_revoked(nodes: NodePair) -> None:
    await nodes.destination.invite()
    assert nodes.destination.direct_transfers.cancel(UUID)
    assert not nodes.destination.direct_transfers.cancel(UUID)


@pytest.mark.parametrize(
    "options",
    [
        {"addresses": ["here"]},
        {"description": {"settings": {"uuid": UUID, "build": 5}}},
        {"description": description(), "addresses": ["here"]},
    ],
)
async def test_bad_descriptions_are_refused(nodes: NodePair, options: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        await nodes.destination.invite(**options)
    assert nodes.destination.direct_transfers.expected == {}


async def test_a_client_without_settings_needs_them_in_the_invitation(nodes: NodePair) -> None:
    arrivals = nodes.destination.direct_transfers
    unknown = arrivals.coordinator(token_of(nodes.destination, await nodes.destination.invite()))
    with pytest.raises(BadRequest):
        await unknown.admit()
    invitation = await nodes.destination.invite(description=description(name="Given"))
    known = await arrivals.coordinator(token_of(nodes.destination, invitation)).admit()
    assert known.settings.meta.name == "Given"


@pytest.mark.promise("server-without-a-panel-is-known")
async def test_a_direct_server_is_known_and_adopted_after_a_restart(nodes: NodePair) -> None:
    await move(nodes)
    running = configuration_from_panel(description()).settings
    again = await nodes.restart("destination")
    again.environment.run(running)
    await again.recover()
    server = again.servers.get(UUID)
    assert server.configuration.settings.meta.name == "Lobby"
    await until(lambda: server.state is PowerState.RUNNING)
    with pytest.raises(ServersNotLoaded):
        again.servers.all()


@pytest.mark.promise("server-without-a-panel-is-known")
async def test_a_server_that_arrives_while_its_node_starts_is_not_left_to_the_panel(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = DirectReceiving.report_success

    async def release(self: DirectReceiving, backups: Sequence[Backup]) -> PendingReport:
        reported = await report(self, backups)
        await nodes.destination.direct_transfers.release_to_panel()
        return reported

    monkeypatch.setattr(DirectReceiving, "report_success", release)
    await move(nodes)
    again = await nodes.restart("destination")
    await again.recover()
    assert again.servers.get(UUID).moved_directly


@pytest.mark.promise("server-without-a-panel-is-known")
async def test_a_direct_server_starts_without_the_panel(nodes: NodePair) -> None:
    node = await move(nodes)
    await node.servers.get(UUID).power(PowerAction.START)
    assert UUID in node.environment.running
    assert node.panel.calls == []


async def test_a_panel_that_describes_the_server_takes_it_over(nodes: NodePair) -> None:
    node = await move(nodes)
    server = node.servers.get(UUID)
    # The Panel is asked when it calls; until then it may say what it likes.
    await server.sync()
    assert (server.moved_directly, server.configuration.settings.meta.name) == (True, "Lobby")
    node.panel.known[UUID] = configuration_from_panel(description(name="The Panel's"))
    await server.sync()
    assert (server.moved_directly, server.configuration.settings.meta.name) == (
        False,
        "The Panel's",
    )


async def test_a_panel_that_lists_the_server_takes_it_over_at_a_start(nodes: NodePair) -> None:
    invitation = await nodes.destination.invite()
    await nodes.send(invitation)
    await nodes.assert_moved()
    again = await nodes.restart("destination")
    again.panel.known[UUID] = configuration_from_panel(description(name="The Panel's"))
    await again.recover()
    await again.servers.boot()
    await again.direct_transfers.release_to_panel()
    server = again.servers.get(UUID)
    assert (server.moved_directly, server.configuration.settings.meta.name) == (
        False,
        "The Panel's",
    )
    (row,) = again.store.descriptions()
    assert row.description == ""
    # A source that asks late still learns that it has moved.
    assert await again.direct_transfers.conclude(token_of(again, invitation))
    third = await nodes.restart("destination")
    await third.recover()
    with pytest.raises(ServersNotLoaded):
        third.servers.get(UUID)
    assert await third.direct_transfers.conclude(token_of(third, invitation))


async def test_it_is_told_that_a_server_has_not_come_when_no_later_daemon_can_change_that(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = nodes.destination
    incoming, invitation = node.direct_transfers, await node.invite()
    made, failing, going_on = Deferred[None](), Deferred[None](), Deferred[None]()
    report_failure = DirectReceiving.report_failure

    async def wait(*_: object) -> None:
        made.callback(None)
        await Deferred()

    async def report(coordinator: DirectReceiving, *, is_known: bool) -> None:
        failing.callback(None)
        await going_on
        await report_failure(coordinator, is_known=is_known)

    monkeypatch.setattr(IncomingTransfer, "_try_or_create", wait)
    monkeypatch.setattr(DirectReceiving, "report_failure", report)
    await nodes.send(invitation)
    await made
    # it is in its place, and a later daemon would complete that
    with pytest.raises(TryAgain):
        await incoming.conclude(token_of(node, invitation))
    await failing
    going_on.callback(None)
    await until(lambda: node.store.descriptions() == [])
    assert not await incoming.conclude(token_of(node, invitation))
    await nodes.assert_stayed()


@pytest.mark.promise("destination-decides")
async def test_a_server_that_a_start_finds_without_files_meanwhile_has_not_moved(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    invitation = await nodes.destination.invite()
    await nodes.send(invitation)
    await nodes.assert_moved()
    node = nodes.destination
    directory = node.data / UUID
    directory.rename(directory.with_name("lost"))
    has_files = DirectTransfers.has_files

    async def load_meanwhile(servers: DirectTransfers, server: str) -> bool:
        found = await has_files(servers, server)
        monkeypatch.undo()
        await servers.load(())
        return found

    monkeypatch.setattr(DirectTransfers, "has_files", load_meanwhile)
    assert not await node.direct_transfers.conclude(token_of(node, invitation))


async def test_a_deleted_direct_server_is_forgotten(nodes: NodePair) -> None:
    node = await move(nodes)
    await node.servers.delete(UUID)
    # The files too: a daemon that has gone removes nothing any more while the next one begins.
    await until(lambda: node.store.descriptions() == [] and node.left() == [])
    again = await nodes.restart("destination")
    await again.recover()
    with pytest.raises(ServersNotLoaded):
        again.servers.get(UUID)


async def test_a_direct_server_can_be_deleted_after_a_restart(nodes: NodePair) -> None:
    await move(nodes)
    again = await nodes.restart("destination")
    await again.recover()
    await again.servers.delete(UUID)
    await until(lambda: again.store.descriptions() == [])


async def test_a_direct_server_without_files_is_forgotten(nodes: NodePair) -> None:
    await move(nodes)
    again = await nodes.restart("destination")
    (again.data / UUID).rename(again.data / "elsewhere")
    await again.recover()
    assert again.store.descriptions() == []
    with pytest.raises(ServersNotLoaded):
        again.servers.get(UUID)


@pytest.mark.promise("direct-token-is-for-one-server")
async def test_invitations_that_have_expired_are_forgotten(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrivals = nodes.destination.direct_transfers
    for number in range(3):
        await arrivals.expect(f"{number}{UUID[1:]}", seconds=60)
    for each in arrivals._expected.values():
        each.expires -= 3600
    arrivals._issued = {digest: end - 3600 for digest, end in arrivals._issued.items()}
    await arrivals.expect(UUID, seconds=60)
    assert list(arrivals._expected) == [UUID]
    assert len(arrivals._issued) == 4  # their sources may ask for longer
    monkeypatch.setattr(initiator, "ASKED_FOR", 0.0)
    await arrivals.expect(UUID, seconds=60)
    assert len(arrivals._issued) == 2
