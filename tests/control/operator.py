"""A node with its control socket, and an operator at it: real sockets, in one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.direct_transfers.harness import Station
from tests.direct_transfers.scenarios import Ends
from wingsd.cli.client import ControlClient, CtlError
from wingsd.config import Control

__all__ = ["Desk", "desk"]


class Desk:
    """Where an operator sits: a source that has a server, and a destination, each with a door."""

    def __init__(self, directory: Path) -> None:
        self.ends = Ends(directory)
        self._doors = {
            name: station.control(Control(socket=self.path(station)))
            for name, station in (
                ("source", self.ends.source),
                ("destination", self.ends.destination),
            )
        }
        for door in self._doors.values():
            door.open()

    @staticmethod
    def path(station: Station) -> str:
        return str(station.directory / "control.sock")

    async def ask(
        self, method: str, path: str, content: object = None, end: str = "source"
    ) -> Any:
        """Return what the daemon at that end answers."""
        client = ControlClient(self.path(getattr(self.ends, end)))
        return await deferToThread(client.ask, method, path, content)

    async def refusal(self, *request: Any, **options: Any) -> CtlError:
        """Return how the daemon refuses a request."""
        with pytest.raises(CtlError) as caught:
            await self.ask(*request, **options)
        return caught.value

    async def close(self) -> None:
        """Leave."""
        for door in self._doors.values():
            await door.close()
        await self.ends.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A source that has the server, and a destination, and an operator for both."""
    made = Desk(tmp_path)
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))
