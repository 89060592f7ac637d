"""A node on loopback with one server, its files, and signed URLs for them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.api.file_server import FileServer
from tests.api.node import TOKEN, UUID, ApiNode, Reply, reactor
from tests.support.recording_observer import RecordedActivity
from tests.support.tokens import signed_url_token
from tests.support.workers import SynchronousWorkers
from wingsd.auth.tokens import DenyList
from wingsd.files.tasks import FileWork, Lane
from wingsd.statedb import StateDatabase, Store
from wingsd.threadio import Workers

SCOPES = {"upload": "file-upload", "backup": "backup-download"}


class CountingLane(Lane):
    """A lane that counts the works under way."""

    running = 0

    @asynccontextmanager
    async def turn(self, server: str) -> AsyncIterator[None]:
        async with super().turn(server):
            self.running += 1
            try:
                yield
            finally:
                self.running -= 1


@attrs.define
class SignedSite:
    """A node with one server and its files, backups and used tokens."""

    node: ApiNode
    home: Path
    backups: Path
    denied: DenyList
    family: str
    activity: RecordedActivity
    archives: CountingLane

    @property
    def server(self) -> FileServer:
        found = self.node.server
        assert isinstance(found, FileServer)
        return found

    def url(self, what: str, server: str | None = UUID, /, **claims: Any) -> str:
        """Return a signed URL for an `upload`, or for `file`, `backup` and other downloads."""
        scope = SCOPES.get(what, "file-download")
        token = signed_url_token(TOKEN, server, scope, self.family, **claims)
        path = "/upload/file" if what == "upload" else f"/download/{what}"
        return f"{path}?token={token}"

    async def get(self, url: str, method: str = "GET", **headers: str) -> Reply:
        return await self.node.call(method, url, Authorization=None, **headers)


@contextmanager
def signed_site(directory: Path, family: str, **api: Any) -> Iterator[SignedSite]:
    """Serve a site of a family until the end of the context; `api` are keys of that section."""
    home, backups = directory / "server", directory / "backups"
    home.mkdir()
    backups.mkdir()
    node = ApiNode()
    config = node.config
    node.use(
        attrs.evolve(
            config,
            system=attrs.evolve(config.system, backup_directory=str(backups)),
            api=attrs.evolve(config.api, **api),
            family=family,
        )
    )
    store = Store(str(directory))
    store.open()
    database: Any = SynchronousWorkers()
    denied = DenyList(booted=time.time())
    node.denied, node.database = denied, StateDatabase(store, database, time.time)
    node.activity = activity = RecordedActivity(UUID)
    workers = Workers(reactor, "files", 2)
    workers.start()
    node.servers.known[UUID] = FileServer(node, home)
    lane = Lane(workers, each=2, waiting=64)
    node.archives = archives = CountingLane(workers, each=2, waiting=64)
    node.file_work = FileWork(lane, lane, lane, lane, lane, lane, lane, workers)
    node.start()
    yield SignedSite(node, home, backups, denied, family, activity, archives)
    pytest_twisted.blockon(Deferred.fromCoroutine(node.close()))
    workers.stop()
    store.close()
