"""A server with the files of a directory of the disk, and a node that answers for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import attrs
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.api.node import UUID, ApiNode, FakeServer, Reply, reactor
from wingsd.files.tasks import FileWork, Lane
from wingsd.filesystem.openers import directory_opener
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.usage import UsageCounter
from wingsd.panel.schemas import Egg
from wingsd.servers.operations import Operations
from wingsd.threadio import Workers

T = TypeVar("T")


FILES = f"servers/{UUID}/files"


class DiskFiles:
    """What `Server.files` offers, of a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = str(directory)
        self._opener = directory_opener("auto")
        self.usage = UsageCounter()

    async def run(
        self, work: Callable[[ServerRoot], T], *, writes: bool = False, workers: Workers
    ) -> T:
        return await workers.run(self._with_root, work)

    def _with_root(self, work: Callable[[ServerRoot], T]) -> T:
        with ServerRoot(self._directory, self._opener, None, self.usage) as root:
            return work(root)


class FileServer(FakeServer):
    """A server with files, and with what is done to it."""

    def __init__(self, node: ApiNode, directory: Path) -> None:
        super().__init__(UUID, node.calls)
        self.files = DiskFiles(directory)
        self.operations = Operations()

    def deny(self, *lines: str) -> None:
        settings = attrs.evolve(self.configuration.settings, egg=Egg(file_denylist=list(lines)))
        self.configuration = attrs.evolve(self.configuration, settings=settings)


@contextmanager
def serving_files(home: Path) -> Iterator[ApiNode]:
    """Answer for a server with the files of `home`, until the end of the context."""
    made = ApiNode()
    workers = Workers(reactor, "files", 2)
    workers.start()
    made.servers.known[UUID] = FileServer(made, home)
    lane = Lane(workers, each=2, waiting=8)
    made.file_work = FileWork(lane, lane, lane, lane, lane, lane, lane, workers)
    made.start()
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))
    workers.stop()


async def get(node: ApiNode, path: str, **headers: str | None) -> Reply:
    return await node.call("GET", f"{FILES}/{path}", **headers)
