"""A node in this process that restores backups of a server, which can run in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.support.backups import packed_backup
from tests.support.node_in_process import NodeInProcess, description
from tests.support.reactor import reactor, until
from tests.support.sample_server import UUID
from wingsd.errors import WingsdError
from wingsd.events import Event
from wingsd.filesystem.directory import open_regular
from wingsd.panel.schemas import configuration_from_panel
from wingsd.restores.content import LocalArchive, RestoreArchive
from wingsd.servers import Server
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.threadio import Workers

__all__ = ["BACKUP", "BEFORE", "BROKEN", "HeldArchive", "RestoreHarness", "archive", "restoring"]

BACKUP = "0d0fbd6f-6b3e-4f8e-a9a4-52a2d7d2f1c3"
#: What the backup has, and what the server has now.
BEFORE = {"server.properties": b"motd=old\n", "world/level.dat": b"level" * 1000}
BROKEN = {"world/level.dat": b"broken", "new": b"came later"}


class HeldArchive:
    """An archive whose blocks come when it is released."""

    kind = "S3 backup"
    sha256 = ""

    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self.is_closed = False
        self._data = data
        self._error: WingsdError | None = None
        self._read, self._write = os.pipe()

    def begin(self) -> None:
        pass

    def release(self) -> None:
        os.write(self._write, b"x")

    def blocks(self) -> Iterator[bytes]:
        os.read(self._read, 1)
        if self._error is not None:
            raise self._error
        yield self._data

    def abort(self, error: WingsdError) -> None:
        self._error = error
        self.release()

    def interrupt(self) -> None:
        self.release()

    def close(self) -> None:
        self.is_closed = True
        os.close(self._read)
        os.close(self._write)


def archive(directory: Path, data: bytes | None = None, sha256: str = "") -> LocalArchive:
    """Return a local archive, of what was before by default."""
    (directory / "archive").write_bytes(packed_backup(BEFORE) if data is None else data)
    parent = os.open(directory, os.O_RDONLY)
    try:
        return LocalArchive(open_regular(parent, b"archive"), sha256)
    finally:
        os.close(parent)


@attrs.define(eq=False)
class RestoreHarness:
    """The node; `reports` are what its Panel was told, and `events` those of the server."""

    directory: Path
    workers: Workers = attrs.field(init=False)
    node: NodeInProcess = attrs.field(init=False)
    server: Server = attrs.field(init=False)
    reports: list[bool] = attrs.field(factory=list, init=False)
    events: list[Event] = attrs.field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        self.workers = Workers(reactor, "test", 8)
        self.workers.start()
        self.open()
        for name, content in BROKEN.items():
            path = self.home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def open(self, **settings: Any) -> None:
        """Make the node; another one is to be closed before."""
        self.node = NodeInProcess(self.directory, self.workers)
        self.node.panel.restored = self._restored
        configuration = configuration_from_panel(description(**settings))
        self.node.panel.known[UUID] = configuration
        self.node.servers.loaded = True
        self.server = self.node.servers.get_or_add(configuration)
        self.node.bus.subscribe(UUID, self.events.append)

    async def reopen(self, **settings: Any) -> None:
        """Close the node, and make another one.

        What the first deletes in the background is waited for: the process that does so has the
        lock of the staging area until it has begun.
        """
        kept = {".lock", ".quarantine"}
        await until(lambda: {*os.listdir(self.node.staging.path)} <= kept)
        await self.node.close()
        self.open(**settings)

    async def _restored(self, backup: str, server: str, *, successful: bool) -> None:
        assert (backup, server) == (BACKUP, UUID)
        self.reports.append(successful)

    @property
    def home(self) -> Path:
        return self.node.data / UUID

    async def begin(self, given: Any = None, *, truncate: bool = False) -> None:
        """Begin to restore an archive, of what was before by default."""

        async def opened() -> RestoreArchive:
            return given or archive(self.directory)

        await self.node.restores.begin(self.server, BACKUP, opened, truncate=truncate)

    async def ended(self) -> None:
        """Return when the Panel has heard of it, and the page."""
        await until(lambda: self.reports and not self.node.restores.servers)
        await until(lambda: self.told("install completed", "backup restore completed"))

    async def settled(self) -> None:
        """Return when nothing is done any more for a restore, such as its server's start."""
        tasks = self.node.restores._tasks
        await until(lambda: not tasks._running)

    async def restore(self, given: Any = None, *, truncate: bool = False) -> bool:
        """Restore an archive; return what the Panel has heard."""
        await self.begin(given, truncate=truncate)
        await self.ended()
        return self.reports[-1]

    async def run(self, *, stubborn: bool = False) -> None:
        """Have the server running; a stubborn one ends by a kill only."""
        await self.server.power(PowerAction.START)
        self.node.environment.running[UUID].say(b"listening on\n")
        await until(lambda: self.server.state is PowerState.RUNNING)
        if stubborn:
            self.node.environment.stubborn.add(UUID)

    def told(self, *names: str) -> list[str]:
        """Return the first texts of the events with these names."""
        return ["".join(each.args[:1]) for each in self.events if each.name in names]

    def content(self) -> dict[str, bytes]:
        files = (path for path in self.home.rglob("*") if path.is_file())
        return {str(path.relative_to(self.home)): path.read_bytes() for path in files}

    async def close(self) -> None:
        await self.node.restores.stop()
        await self.node.close()
        self.workers.stop()


@pytest.fixture
def restoring(tmp_path: Path) -> Iterator[RestoreHarness]:
    made = RestoreHarness(tmp_path)
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))
