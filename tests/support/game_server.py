"""A server with files, for the tests of what is done with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import attrs

from tests.support.sample_server import UUID
from wingsd.filesystem.openers import directory_opener
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.usage import UsageCounter
from wingsd.panel.schemas import Configuration, Egg, Process, Settings, Stop
from wingsd.servers.operations import Operations
from wingsd.threadio import Workers

T = TypeVar("T")


class CountedFiles:
    """What `Server.files` offers, of a directory whose files count against a limit."""

    def __init__(self, directory: Path, owner: tuple[int, int] | None = None) -> None:
        self.usage = UsageCounter(used=0)
        self.has_past = False
        self._directory, self._owner = str(directory), owner
        self._opener = directory_opener("auto")

    @property
    def disk_bytes(self) -> int | None:
        return self.usage.used

    @property
    def limit(self) -> int | None:
        return self.usage.limit

    async def run(
        self,
        work: Callable[[ServerRoot], T],
        *,
        writes: bool = False,
        workers: Workers | None = None,
    ) -> T:
        if workers is None:
            return self.with_root(work)
        return await workers.run(self.with_root, work)

    def with_root(self, work: Callable[[ServerRoot], T]) -> T:
        with ServerRoot(self._directory, self._opener, self._owner, self.usage) as root:
            return work(root)


class FakeGameServer:
    """A server with files, that notes what it says."""

    def __init__(self, home: Path, uuid: str = UUID, owner: tuple[int, int] | None = None) -> None:
        home.mkdir(exist_ok=True)
        self.uuid, self.directory = uuid, str(home)
        self.files = CountedFiles(home, owner)
        self.operations = Operations()
        self.configuration = Configuration(Settings(uuid), Process(stop=Stop("signal", "C")))
        self.said: list[str] = []
        self.events: list[tuple[str, ...]] = []

    @property
    def disk_bytes(self) -> int | None:
        return self.files.disk_bytes

    def deny(self, *lines: str) -> None:
        settings = attrs.evolve(self.configuration.settings, egg=Egg(file_denylist=list(lines)))
        self.configuration = attrs.evolve(self.configuration, settings=settings)

    def say(self, message: str) -> None:
        self.said.append(message)

    def publish(self, event: str, *args: str) -> None:
        self.events.append((event, *args))
