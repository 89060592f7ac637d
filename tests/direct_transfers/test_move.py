"""A server is moved by hand between two nodes, and whatever may happen meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from tests.direct_transfers.harness import UUID, description
from tests.direct_transfers.outcomes import hold, moved, moved_and_gone, reason, stays
from tests.direct_transfers.scenarios import Ends
from tests.support.logged_errors import LoggedErrors
from wingsd.errors import BadRequest, ServerAlreadyExists, ServerNotFound
from wingsd.panel.schemas import configuration_from_panel
from wingsd.transfers.outgoing.transfer import MOVED

# The way


@pytest_twisted.ensureDeferred
async def test_it_moves_with_all_that_it_is(ends: Ends) -> None:
    await ends.send(await ends.destination.invite())
    await moved(ends)
    server = ends.destination.servers.get(UUID)
    assert server.configuration.settings.meta.name == "Lobby"
    assert server.configuration.process.stop.value == "SIGTERM"
    made = ends.destination.environment.containers[UUID]
    assert made.allocations.default.port == 25565
    # Its container is gone from its source, its files are not.
    assert ends.source.environment.containers == {}
    assert (hold(ends.source), ends.source.left()) == (MOVED, [UUID])
    assert ends.source.panel.calls == ends.destination.panel.calls == []
    assert ends.source.store.reports() == ends.destination.store.reports() == []


MOUNTS = [{"source": "/srv/maps", "target": "/maps", "read_only": True}]


@pytest.mark.parametrize("given", [None, description(mounts=MOUNTS)])
@pytest_twisted.ensureDeferred
async def test_no_mounts_come_with_it(
    ends: Ends, given: dict[str, Any] | None, logged_errors: LoggedErrors
) -> None:
    server = ends.source.servers.get_or_add(configuration_from_panel(description()))
    server.configuration = configuration_from_panel(description(mounts=MOUNTS))
    await ends.send(await ends.destination.invite(description=given))
    await moved(ends)
    assert ends.destination.environment.containers[UUID].mounts == ()
    assert any("1 mounts of its settings are left out" in line for line in logged_errors.lines)
    destination = await ends.restart("destination")
    await destination.recover()
    assert destination.servers.get(UUID).configuration.settings.mounts == ()


@pytest_twisted.ensureDeferred
async def test_a_variable_that_no_container_can_have_is_refused(ends: Ends) -> None:
    told = configuration_from_panel(description(environment={"STARTUP=sh": "x"}))
    ends.source.servers.get_or_add(told).configuration = told
    await ends.send(await ends.destination.invite())
    await stays(ends)
    assert "'STARTUP=sh' cannot be the name" in reason(ends.source)


@pytest_twisted.ensureDeferred
async def test_it_is_counted_at_both_ends_as_any_transfer(ends: Ends) -> None:
    await ends.send(await ends.destination.invite())
    await moved(ends)
    for station, way in ((ends.source, "out"), (ends.destination, "in")):
        ((direction, error, size),) = station.heard.over
        assert (direction, error) == (way, None)
        assert size


@pytest_twisted.ensureDeferred
async def test_backups_stay_at_its_source(ends: Ends) -> None:
    backup = ends.source.directory / "backups" / "6c1f1f0e-8a3e-4f5d-9a86-3a4f9d0c2b11.tar.gz"
    backup.parent.mkdir()
    backup.write_bytes(b"a backup")
    await ends.send(await ends.destination.invite(), remove=True)
    await moved_and_gone(ends)
    assert backup.read_bytes() == b"a backup"


@pytest_twisted.ensureDeferred
async def test_its_source_deletes_it_when_that_was_asked_for(ends: Ends) -> None:
    await ends.send(await ends.destination.invite(), remove=True)
    await moved_and_gone(ends)


@pytest_twisted.ensureDeferred
async def test_its_destination_can_say_better_what_it_is(ends: Ends) -> None:
    given = description(name="another name")
    addresses = ("203.0.113.5:25599", "203.0.113.5:25600", "[2001:db8::5]:1")
    await ends.send(await ends.destination.invite(description=given, addresses=addresses))
    await moved(ends)
    settings = ends.destination.environment.containers[UUID]
    assert settings.meta.name == "another name"
    assert (settings.allocations.default.ip, settings.allocations.default.port) == (
        "203.0.113.5",
        25599,
    )
    assert settings.allocations.mappings == {"203.0.113.5": (25599, 25600), "2001:db8::5": (1,)}


@pytest_twisted.ensureDeferred
async def test_a_source_that_has_only_the_files_is_told_what_it_is(ends: Ends) -> None:
    ends.source.servers.forget(UUID)
    with pytest.raises(BadRequest, match="does not know what it is"):
        await ends.send(await ends.destination.invite())
    await ends.send(await ends.destination.invite(), description=description(name="Given"))
    await moved(ends)
    assert ends.destination.servers.get(UUID).configuration.settings.meta.name == "Given"


@pytest_twisted.ensureDeferred
async def test_it_can_move_there_and_back(ends: Ends) -> None:
    await ends.send(await ends.destination.invite(), remove=True)
    await moved_and_gone(ends)
    back = await ends.source.invite()
    await ends.destination.direct_transfers.outgoing.send(UUID, ends.source.url, back.token)
    await ends.over()
    assert ends.source.entries() == [("out", "success"), ("in", "success")]
    assert ends.source.servers.get(UUID).by_hand
    # What was known of it there is known no more, though its files stay.
    assert ends.destination.store.descriptions() == []
    assert ends.destination.left() == [UUID]


# Refusals


@pytest_twisted.ensureDeferred
async def test_what_is_there_already_is_never_expected(ends: Ends) -> None:
    with pytest.raises(ServerAlreadyExists, match="already on this node"):
        await ends.source.invite()
    (ends.destination.data / UUID).mkdir()
    with pytest.raises(ServerAlreadyExists, match="there are files of a server of that name"):
        await ends.destination.invite()


@pytest_twisted.ensureDeferred
async def test_what_has_come_meanwhile_is_left_alone(ends: Ends) -> None:
    invitation = await ends.destination.invite()
    (ends.destination.data / UUID).mkdir()
    await ends.send(invitation)
    await ends.over()
    assert "there are files of a server of that name already" in reason(ends.source)
    assert ends.destination.left() == [UUID]
    assert hold(ends.source) == ""


@pytest_twisted.ensureDeferred
async def test_what_there_is_not_is_not_sent(ends: Ends) -> None:
    invitation = await ends.destination.invite()
    other = "11111111-6e2b-4c43-9d57-0c4c5e1c7f10"
    ends.source.servers.loaded = True
    with pytest.raises(ServerNotFound):
        await ends.source.direct_transfers.outgoing.send(
            other, ends.destination.url, invitation.token
        )


@pytest_twisted.ensureDeferred
async def test_a_token_for_another_server_is_refused_before_anything_stops(ends: Ends) -> None:
    await ends.destination.invite()
    other = "11111111-6e2b-4c43-9d57-0c4c5e1c7f10"
    token = (await ends.destination.direct_transfers.incoming.expect(other, seconds=60)).token
    await ends.source.direct_transfers.outgoing.send(UUID, ends.destination.url, token)
    await stays(ends)
    assert "it is not for a direct transfer of this server" in reason(ends.source)
    assert ends.source.environment.calls == []


@pytest.mark.parametrize("url", ["ftp://x", "https://", "https://x:port", "https://x y"])
@pytest_twisted.ensureDeferred
async def test_an_address_that_is_none_is_refused_at_once(ends: Ends, url: str) -> None:
    with pytest.raises(BadRequest, match="destination's URL is not valid"):
        await ends.source.direct_transfers.outgoing.send(UUID, url, "a-token")
    assert ends.source.entries() == []


@pytest_twisted.ensureDeferred
async def test_the_address_may_name_where_uploads_go(ends: Ends) -> None:
    invitation = await ends.destination.invite()
    url = f"{ends.destination.url}/api/transfers/"
    await ends.source.direct_transfers.outgoing.send(UUID, url, invitation.token)
    await moved(ends)
