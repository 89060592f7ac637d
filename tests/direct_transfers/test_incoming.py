"""Which servers a destination expects, and what it knows of those that have come."""

from __future__ import annotations

import time
from typing import Any

import pytest
import pytest_twisted

from tests.direct_transfers.harness import UUID, Station, description, until
from tests.direct_transfers.scenarios import Ends
from wingsd.auth.tokens import TransferToken, transfer_token
from wingsd.direct_transfers.incoming import Invitation
from wingsd.errors import BadRequest, ServerAlreadyExists, ServersNotLoaded, Unauthorized
from wingsd.panel.schemas import configuration_from_panel
from wingsd.servers import PowerAction, PowerState


def token_of(station: Station, invitation: Invitation) -> TransferToken:
    return transfer_token(f"Bearer {invitation.token}", station.config.token)


async def move(ends: Ends) -> Station:
    """Move the server; return its destination."""
    await ends.send(await ends.destination.invite())
    await ends.over()
    assert ends.arrived()
    return ends.destination


# Expecting


@pytest_twisted.ensureDeferred
async def test_it_is_expected_until_its_time_is_over(ends: Ends) -> None:
    arrivals = ends.destination.direct_transfers.incoming
    invitation = await ends.destination.invite(seconds=60)
    assert abs(invitation.expires - time.time() - 60) < 5
    assert arrivals.expected == {UUID: invitation.expires}
    assert "secret" not in repr(invitation)
    assert invitation.token not in repr(invitation)
    past = await ends.destination.invite(seconds=-60)
    assert arrivals.expected == {}
    await ends.send(past)
    await ends.over()
    assert "it has expired" in ends.source.store.ended(1)[0].reason


@pytest_twisted.ensureDeferred
async def test_a_second_invitation_makes_the_first_void(ends: Ends) -> None:
    first, second = await ends.destination.invite(), await ends.destination.invite()
    arrivals = ends.destination.direct_transfers.incoming
    with pytest.raises(Unauthorized, match="does not expect the server by it any more"):
        arrivals.coordinator(token_of(ends.destination, first))
    arrivals.coordinator(token_of(ends.destination, second))


@pytest_twisted.ensureDeferred
async def test_what_is_cancelled_is_not_expected(ends: Ends) -> None:
    await ends.destination.invite()
    assert ends.destination.direct_transfers.cancel(UUID)
    assert not ends.destination.direct_transfers.cancel(UUID)


@pytest.mark.parametrize(
    "options",
    [
        {"addresses": ["here"]},
        {"description": {"settings": {"uuid": UUID, "build": 5}}},
        {"description": description(), "addresses": ["here"]},
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_makes_no_sense_is_not_expected(ends: Ends, options: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        await ends.destination.invite(**options)
    assert ends.destination.direct_transfers.incoming.expected == {}


@pytest_twisted.ensureDeferred
async def test_what_comes_just_now_is_not_expected_once_more(ends: Ends) -> None:
    await ends.destination.slots.acquire()
    await ends.send(await ends.destination.invite())
    await until(lambda: bool(ends.destination.receiver.servers))
    with pytest.raises(ServerAlreadyExists, match=r"being received|already on this node"):
        await ends.destination.invite()
    assert ends.destination.direct_transfers.incoming.expected == {}
    ends.source.sender.cancel(UUID)
    await ends.over()


@pytest_twisted.ensureDeferred
async def test_a_client_that_tells_no_settings_needs_them_given_here(ends: Ends) -> None:
    arrivals = ends.destination.direct_transfers.incoming
    unknown = arrivals.coordinator(token_of(ends.destination, await ends.destination.invite()))
    with pytest.raises(BadRequest, match="wingsctl receive with --settings FILE"):
        await unknown.admit()
    invitation = await ends.destination.invite(description=description(name="Given"))
    known = await arrivals.coordinator(token_of(ends.destination, invitation)).admit()
    assert known.settings.meta.name == "Given"


# Those that have come


@pytest_twisted.ensureDeferred
async def test_it_is_known_after_a_restart_and_taken_up_where_it_runs(ends: Ends) -> None:
    await move(ends)
    running = configuration_from_panel(description()).settings
    again = await ends.restart("destination")
    again.environment.run(running)
    await again.recover()
    server = again.servers.get(UUID)
    assert server.configuration.settings.meta.name == "Lobby"
    await until(lambda: server.state is PowerState.RUNNING)
    with pytest.raises(ServersNotLoaded):
        again.servers.all()


@pytest_twisted.ensureDeferred
async def test_it_can_be_started_and_no_panel_is_asked(ends: Ends) -> None:
    station = await move(ends)
    await station.servers.get(UUID).power(PowerAction.START)
    assert UUID in station.environment.running
    assert station.panel.calls == []


@pytest_twisted.ensureDeferred
async def test_a_panel_that_has_it_here_has_the_say_from_then_on(ends: Ends) -> None:
    station = await move(ends)
    server = station.servers.get(UUID)
    # The Panel is asked when it calls; until then it may say what it likes.
    await server.sync()
    assert (server.by_hand, server.configuration.settings.meta.name) == (True, "Lobby")
    station.panel.known[UUID] = configuration_from_panel(description(name="The Panel's"))
    await server.sync()
    assert (server.by_hand, server.configuration.settings.meta.name) == (False, "The Panel's")


@pytest_twisted.ensureDeferred
async def test_a_panel_that_lists_it_has_the_say_after_a_start(ends: Ends) -> None:
    ends.destination.lose = lambda request: request.method == b"POST"
    invitation = await ends.destination.invite()
    await ends.send(invitation)
    await ends.over()
    again = await ends.restart("destination")
    again.panel.known[UUID] = configuration_from_panel(description(name="The Panel's"))
    await again.recover()
    await again.servers.boot()
    await again.direct_transfers.release_to_panel()
    server = again.servers.get(UUID)
    assert (server.by_hand, server.configuration.settings.meta.name) == (False, "The Panel's")
    (row,) = again.store.descriptions()
    assert row.description == ""
    # A source that asks late still learns that it has moved.
    assert await again.direct_transfers.incoming.conclude(token_of(again, invitation))
    third = await ends.restart("destination")
    await third.recover()
    with pytest.raises(ServersNotLoaded):
        third.servers.get(UUID)
    assert await third.direct_transfers.incoming.conclude(token_of(third, invitation))


@pytest_twisted.ensureDeferred
async def test_what_is_deleted_is_forgotten(ends: Ends) -> None:
    station = await move(ends)
    await station.servers.delete(UUID)
    # The files too: a daemon that has gone removes nothing any more while the next one begins.
    await until(lambda: station.store.descriptions() == [] and station.left() == [])
    again = await ends.restart("destination")
    await again.recover()
    with pytest.raises(ServersNotLoaded):
        again.servers.get(UUID)


@pytest_twisted.ensureDeferred
async def test_so_it_is_after_a_restart(ends: Ends) -> None:
    await move(ends)
    again = await ends.restart("destination")
    await again.recover()
    await again.servers.delete(UUID)
    await until(lambda: again.store.descriptions() == [])


@pytest_twisted.ensureDeferred
async def test_files_that_somebody_took_away_are_no_server(ends: Ends) -> None:
    await move(ends)
    again = await ends.restart("destination")
    (again.data / UUID).rename(again.data / "elsewhere")
    await again.recover()
    assert again.store.descriptions() == []
    with pytest.raises(ServersNotLoaded):
        again.servers.get(UUID)
