"""Both ends of a move by hand: two stations, each of which another can take the place of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.direct_transfers.harness import UUID, Station, description, reactor, until
from wingsd.direct_transfers.incoming import Invitation
from wingsd.panel.schemas import configuration_from_panel
from wingsd.threadio import Workers

__all__ = ["Ends", "ends"]


class Ends:
    """A source that has the server, a destination that has not, and what runs their threads."""

    def __init__(self, directory: Path) -> None:
        self.pool = Workers(reactor, "test", 8)
        self.pool.start()
        for name in ("source", "destination"):
            (directory / name).mkdir()
        self.source = Station(directory / "source", self.pool)
        self.destination = Station(directory / "destination", self.pool)
        world = self.source.data / UUID / "world"
        world.mkdir(parents=True)
        (world / "level.dat").write_bytes(bytes(range(256)) * 500)
        self.source.servers.get_or_add(configuration_from_panel(description(name="Lobby")))

    async def send(self, invitation: Invitation, **options: Any) -> None:
        """Begin to send the server."""
        await self.source.direct_transfers.outgoing.send(
            UUID, self.destination.url, invitation.token, **options
        )

    async def over(self) -> None:
        """Return when nothing is under way at either end, and all of it is written down."""
        for station in (self.source, self.destination):
            await until(station.is_at_rest)

    def arrived(self) -> bool:
        """Whether the destination has the server whole."""
        level = self.destination.data / UUID / "world" / "level.dat"
        return level.exists() and level.read_bytes() == bytes(range(256)) * 500

    async def restart(self, end: str) -> Station:
        """Have another daemon in the place of one that has just gone; return it."""
        before: Station = getattr(self, end)
        port = before.port
        await before.close()
        again = Station(before.directory, self.pool, port)
        setattr(self, end, again)
        return again

    async def close(self) -> None:
        """End both."""
        await self.source.close()
        await self.destination.close()
        self.pool.stop()


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    """A source with the server, and a destination."""
    made = Ends(tmp_path)
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))
