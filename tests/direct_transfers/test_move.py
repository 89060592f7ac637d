"""Direct transfers between two nodes: successes, refusals, and within storage pools."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.support.logged_errors import Logged
from tests.support.node_in_process import LEVEL, NodeInProcess, NodePair, description
from tests.support.reactor import until
from tests.support.sample_server import UUID
from wingsd.auth.tokens import TransferToken, transfer_token
from wingsd.config import StoragePool, TransfersConfig
from wingsd.direct_transfers import initiator
from wingsd.direct_transfers.initiator import DirectReceiving, DirectTransfers, Invitation
from wingsd.errors import (
    BadRequest,
    Conflict,
    ServerAlreadyExists,
    ServerNotFound,
    ServersNotLoaded,
    TryAgain,
    Unauthorized,
)
from wingsd.panel.schemas import configuration_from_panel
from wingsd.servers import PowerAction, PowerState
from wingsd.transfers.incoming.transfer import IncomingTransfer
from wingsd.transfers.outgoing.source import MOVED


async def test_a_server_moves_with_files_and_configuration(nodes: NodePair) -> None:
    await nodes.move()
    server = nodes.destination.servers.get(UUID)
    assert server.configuration.settings.meta.name == "Lobby"
    assert server.configuration.process.stop.value == "SIGTERM"
    made = nodes.destination.environment.containers[UUID]
    assert made.allocations.default.port == 25565
    # Its container is gone from its source, its files are not.
    assert nodes.source.environment.containers == {}
    assert (nodes.source.hold, nodes.source.left()) == (MOVED, [UUID])
    assert nodes.source.panel.calls == nodes.destination.panel.calls == []
    assert nodes.source.store.reports() == nodes.destination.store.reports() == []


MOUNTS = [{"source": "/srv/maps", "target": "/maps", "read_only": True}]


@pytest.mark.promise("container-mounts-are-allowed-ones")
@pytest.mark.parametrize("given", [None, description(mounts=MOUNTS)])
async def test_mounts_are_not_transferred(
    nodes: NodePair, given: dict[str, Any] | None, logged: Logged
) -> None:
    server = nodes.source.servers.get_or_add(configuration_from_panel(description()))
    server.configuration = configuration_from_panel(description(mounts=MOUNTS))
    await nodes.move(description=given)
    assert nodes.destination.environment.containers[UUID].mounts == ()
    assert any("1 mounts of its settings are left out" in line for line in logged.lines)
    destination = await nodes.next("destination")
    assert destination.servers.get(UUID).configuration.settings.mounts == ()


async def test_backups_stay_at_the_source(nodes: NodePair) -> None:
    backup = nodes.source.directory / "backups" / "6c1f1f0e-8a3e-4f5d-9a86-3a4f9d0c2b11.tar.gz"
    backup.parent.mkdir()
    backup.write_bytes(b"a backup")
    await nodes.move(remove=True)
    assert backup.read_bytes() == b"a backup"


async def test_the_destination_can_override_description_and_addresses(nodes: NodePair) -> None:
    given = description(name="another name")
    addresses = ("203.0.113.5:25599", "203.0.113.5:25600", "[2001:db8::5]:1")
    await nodes.move(description=given, addresses=addresses)
    settings = nodes.destination.environment.containers[UUID]
    assert settings.meta.name == "another name"
    assert (settings.allocations.default.ip, settings.allocations.default.port) == (
        "203.0.113.5",
        25599,
    )
    assert settings.allocations.mappings == {"203.0.113.5": (25599, 25600), "2001:db8::5": (1,)}


async def test_a_source_with_files_only_needs_a_description(nodes: NodePair) -> None:
    nodes.source.servers.discard(UUID)
    with pytest.raises(BadRequest):
        await nodes.send_now()
    await nodes.send_now(description=description(name="Given"))
    await nodes.assert_moved()
    assert nodes.destination.servers.get(UUID).configuration.settings.meta.name == "Given"


async def test_a_server_can_move_there_and_back(nodes: NodePair) -> None:
    await nodes.move(remove=True)
    back = await nodes.source.invite()
    await nodes.destination.direct_transfers.send(UUID, nodes.source.url, back.token)
    await nodes.settled()
    assert nodes.source.entries() == [("out", "success"), ("in", "success")]
    assert nodes.source.servers.get(UUID).moved_directly
    # What was known of it there is known no more, though its files stay.
    assert nodes.destination.store.descriptions() == []
    assert nodes.destination.left() == [UUID]


@pytest.mark.promise("doubtful-direct-transfer-is-refused")
async def test_a_server_that_is_present_is_not_expected(nodes: NodePair) -> None:
    with pytest.raises(ServerAlreadyExists):
        await nodes.source.invite()
    (nodes.destination.data / UUID).mkdir()
    with pytest.raises(ServerAlreadyExists):
        await nodes.destination.invite()


@pytest.mark.promise("doubtful-direct-transfer-is-refused")
async def test_a_directory_that_appears_meanwhile_is_left_alone(nodes: NodePair) -> None:
    invitation = await nodes.destination.invite()
    (nodes.destination.data / UUID).mkdir()
    await nodes.send(invitation)
    await nodes.settled()
    assert "files of this server already exist" in nodes.source.reason
    assert nodes.destination.left() == [UUID]
    assert nodes.source.hold == ""


async def test_an_unknown_server_is_not_sent(nodes: NodePair) -> None:
    invitation = await nodes.destination.invite()
    other = "11111111-6e2b-4c43-9d57-0c4c5e1c7f10"
    nodes.source.servers.loaded = True
    with pytest.raises(ServerNotFound):
        await nodes.source.direct_transfers.send(other, nodes.destination.url, invitation.token)


async def test_another_servers_token_is_refused_before_the_stop(nodes: NodePair) -> None:
    await nodes.destination.invite()
    other = "11111111-6e2b-4c43-9d57-0c4c5e1c7f10"
    token = (await nodes.destination.direct_transfers.expect(other, seconds=60)).token
    await nodes.source.direct_transfers.send(UUID, nodes.destination.url, token)
    await nodes.assert_stayed()
    assert "it is not for a direct transfer of this server" in nodes.source.reason
    assert nodes.source.environment.calls == []


async def test_an_invalid_url_is_refused_at_once(nodes: NodePair) -> None:
    with pytest.raises(BadRequest):
        await nodes.source.direct_transfers.send(UUID, "ftp://x", "a-token")
    assert nodes.source.entries() == []


# Direct transfers of nodes with storage pools: within a pool they are refused


POOL = TransfersConfig(storage_pool=StoragePool(enabled=True, pool_name="attic"))


async def give_pools(nodes: NodePair, *, one_volume: bool) -> None:
    """Have both nodes in one pool by name, on one volume or each on its own."""
    for name in ("source", "destination"):
        data = nodes.source.data if one_volume else getattr(nodes, name).data
        await nodes.restart(name, POOL, data=str(data))
    nodes.source.servers.get_or_add(configuration_from_panel(description(name="Lobby")))


def files(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*"))


@pytest.mark.promise("doubtful-direct-transfer-is-refused")
async def test_a_direct_transfer_within_a_pool_is_refused(nodes: NodePair) -> None:
    await give_pools(nodes, one_volume=True)
    before = files(nodes.source.data)
    with pytest.raises(ServerAlreadyExists) as refused:
        await nodes.destination.invite()
    assert "is in the storage pool attic" in refused.value.detail
    assert files(nodes.source.data) == before


@pytest.mark.promise("doubtful-direct-transfer-is-refused")
async def test_a_direct_transfer_fails_if_the_volume_is_mounted_later(nodes: NodePair) -> None:
    await give_pools(nodes, one_volume=True)
    place = nodes.source.data / UUID
    place.rename(nodes.source.directory / "elsewhere")
    invitation = await nodes.destination.invite()
    (nodes.source.directory / "elsewhere").rename(place)
    before = files(place)
    await nodes.send(invitation, remove=True)
    await nodes.settled()
    assert nodes.source.entries() == [("out", "failure")]
    assert files(place) == before
    assert nodes.source.servers.get(UUID).hold == ""


@pytest.mark.parametrize("remove", [True, False])
async def test_a_transfer_to_another_volume_is_a_copy(nodes: NodePair, remove: bool) -> None:
    """Also where that is a pool of the same name: a direct transfer shares nothing."""
    await give_pools(nodes, one_volume=False)
    await nodes.send_now(remove=remove)
    await nodes.settled()
    assert nodes.arrived()
    await until(lambda: nodes.source.left() == ([] if remove else [UUID]))
    (sent,), (came,) = nodes.source.store.transfers(), nodes.destination.store.transfers()
    assert (sent.pool, came.pool, came.bytes) == ("", "", len(LEVEL))


@pytest.mark.promise("doubtful-direct-transfer-is-refused")
async def test_a_node_of_a_pool_does_not_send_an_unknown_server(nodes: NodePair) -> None:
    """The files are in sight of all its nodes, and may be in use at another."""
    await give_pools(nodes, one_volume=False)
    nodes.source.servers.discard(UUID)
    nodes.source.servers.loaded = True
    invitation = await nodes.destination.invite()
    before = files(nodes.source.data)
    with pytest.raises(Conflict):
        await nodes.send(invitation, description=description(), remove=True)
    assert (files(nodes.source.data), nodes.source.entries()) == (before, [])


# Which servers a destination expects, and what it knows of those that have come


def token_of(node: NodeInProcess, invitation: Invitation) -> TransferToken:
    return transfer_token(f"Bearer {invitation.token}", node.config.token, node.config.family)


async def move(nodes: NodePair) -> NodeInProcess:
    await nodes.send_now()
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
    third = await nodes.next("destination")
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
    again = await nodes.next("destination")
    with pytest.raises(ServersNotLoaded):
        again.servers.get(UUID)


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
