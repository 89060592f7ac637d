"""Direct transfers between two nodes: successes and refusals."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.logged_errors import Logged
from tests.support.node_in_process import NodePair, description
from tests.support.sample_server import UUID
from wingsd.errors import BadRequest, ServerAlreadyExists, ServerNotFound
from wingsd.panel.schemas import configuration_from_panel
from wingsd.transfers.outgoing.source import MOVED


async def test_a_server_moves_with_files_and_configuration(nodes: NodePair) -> None:
    await nodes.send(await nodes.destination.invite())
    await nodes.assert_moved()
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
    await nodes.send(await nodes.destination.invite(description=given))
    await nodes.assert_moved()
    assert nodes.destination.environment.containers[UUID].mounts == ()
    assert any("1 mounts of its settings are left out" in line for line in logged.lines)
    destination = await nodes.restart("destination")
    await destination.recover()
    assert destination.servers.get(UUID).configuration.settings.mounts == ()


async def test_a_direct_transfer_is_counted_at_both_nodes(nodes: NodePair) -> None:
    await nodes.send(await nodes.destination.invite())
    await nodes.assert_moved()
    for node, way in ((nodes.source, "out"), (nodes.destination, "in")):
        ((direction, error, size),) = node.heard.over
        assert (direction, error) == (way, None)
        assert size


async def test_backups_stay_at_the_source(nodes: NodePair) -> None:
    backup = nodes.source.directory / "backups" / "6c1f1f0e-8a3e-4f5d-9a86-3a4f9d0c2b11.tar.gz"
    backup.parent.mkdir()
    backup.write_bytes(b"a backup")
    await nodes.send(await nodes.destination.invite(), remove=True)
    await nodes.assert_moved_and_deleted()
    assert backup.read_bytes() == b"a backup"


async def test_the_destination_can_override_description_and_addresses(nodes: NodePair) -> None:
    given = description(name="another name")
    addresses = ("203.0.113.5:25599", "203.0.113.5:25600", "[2001:db8::5]:1")
    await nodes.send(await nodes.destination.invite(description=given, addresses=addresses))
    await nodes.assert_moved()
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
        await nodes.send(await nodes.destination.invite())
    await nodes.send(await nodes.destination.invite(), description=description(name="Given"))
    await nodes.assert_moved()
    assert nodes.destination.servers.get(UUID).configuration.settings.meta.name == "Given"


async def test_a_server_can_move_there_and_back(nodes: NodePair) -> None:
    await nodes.send(await nodes.destination.invite(), remove=True)
    await nodes.assert_moved_and_deleted()
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


@pytest.mark.parametrize("url", ["ftp://x", "https://", "https://x:port", "https://x y"])
async def test_an_invalid_url_is_refused_at_once(nodes: NodePair, url: str) -> None:
    with pytest.raises(BadRequest):
        await nodes.source.direct_transfers.send(UUID, url, "a-token")
    assert nodes.source.entries() == []


async def test_the_url_may_have_the_path_of_uploads(nodes: NodePair) -> None:
    invitation = await nodes.destination.invite()
    url = f"{nodes.destination.url}/api/transfers/"
    await nodes.source.direct_transfers.send(UUID, url, invitation.token)
    await nodes.assert_moved()
