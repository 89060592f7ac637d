"""A node's site with the files of one server on the disk, in the dialect of any family."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import msgpack

from tests.api.node import CONFIG, TOKEN, UUID, ApiNode, Calls, FakeServer, Reply, reactor
from tests.support import SynchronousWorkers
from tests.support.database import opened
from tests.support.game_server import FakeGameServer
from tests.support.owner import OWNER
from tests.support.recording_observer import RecordedActivity
from tests.support.tokens import signed_url_token
from wingsd.auth.tokens import DenyList
from wingsd.config import PTERODACTYL, user_agent_of
from wingsd.events import EventBus
from wingsd.files.pulls import Pulls
from wingsd.files.tasks import FileTasks, FileWork, Lane
from wingsd.http_client.download import (
    AddressPolicy,
    FetchLimits,
    GuardedClient,
    Resolve,
    host_resolver,
)
from wingsd.statedb import StateDatabase, Store
from wingsd.threadio import Workers

__all__ = ["FILES", "FileNode", "FileServer", "Make", "SignedSite"]

FILES = f"servers/{UUID}/files"
SCOPES = {"upload": "file-upload", "backup": "backup-download"}


class FileServer(FakeGameServer, FakeServer):
    """A server with files; what is done to it, and said in its console, is written down."""

    def __init__(self, calls: Calls, directory: Path) -> None:
        FakeServer.__init__(self, UUID, calls)
        FakeGameServer.__init__(self, directory, UUID, OWNER)


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


class FileNode(ApiNode):
    """The node: `home` is the server's directory, `patience` how long a change is waited for."""

    def __init__(
        self,
        home: Path,
        family: str = PTERODACTYL,
        *,
        patience: float = 60,
        threads: int = 2,
        waiting: int = 64,
        names: Resolve | None = None,
        limits: FetchLimits | None = None,
        clock: Any = reactor,
        **parts: Any,
    ) -> None:
        """Downloads from a URL may be from 127.0.0.1; `names` has the addresses of names.

        `clock` is their reactor. `waiting` is how much work on files may wait.
        """
        self.home = home
        self.workers = Workers(reactor, "files", threads)
        self.workers.start()
        lane = Lane(self.workers, each=threads, waiting=waiting)
        self.archives = CountingLane(self.workers, each=threads, waiting=waiting)
        self.file_work = FileWork(lane, lane, lane, lane, lane, lane, lane, lane, self.workers)
        self.file_tasks = FileTasks(reactor, lambda: 0.0, patience)
        self.bus = EventBus()
        agent, policy = user_agent_of(family), AddressPolicy.of(["127.0.0.1"])
        self.pulls = Pulls(
            self.file_work,
            self.file_tasks,
            self.bus,
            GuardedClient(clock, policy, agent, names or host_resolver(self.workers)),
            lambda: 0.0,
            3,
            limits or FetchLimits(),
        )
        super().__init__(
            attrs.evolve(parts.pop("config", CONFIG), family=family),
            files=self.file_work,
            file_tasks=self.file_tasks,
            pulls=self.pulls,
            archives=self.archives,
            **parts,
        )
        self.files = FileServer(self.calls, home)
        self.servers.known[UUID] = self.files

    async def close(self) -> None:
        await self.pulls.stop()
        await super().close()
        self.workers.stop()

    async def get(self, path: str, **headers: str | None) -> Reply:
        return await self.call("GET", f"{FILES}/{path}", **headers)

    async def post(self, call: str, body: Mapping[str, Any], method: str = "POST") -> Reply:
        return await self.call(method, f"{FILES}/{call}", body)

    async def packed(self, call: str, body: Mapping[str, Any], method: str = "POST") -> Any:
        """Do a call as Calagopus' Panel does, in MessagePack; return its status and its data."""
        kind = "application/msgpack"
        sent = bytes(msgpack.packb(body))
        reply = await self.call(method, f"{FILES}/{call}", sent, Content_Type=kind, Accept=kind)
        assert reply.headers["content-type"] == kind
        return reply.status, msgpack.unpackb(reply.content)

    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self.home)) for path in self.home.rglob("*"))

    def plant(self, *names: str) -> None:
        for name in names:
            path = self.home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)

    def event_names(self) -> list[str]:
        return [name for name, *_ in self.files.events]

    def progress(self) -> list[Any]:
        return [json.loads(args[1]) for name, *args in self.files.events if "progress" in name]


Make = Callable[..., FileNode]


class SignedSite(FileNode):
    """A node with signed URLs for one server's files and backups, and with used tokens."""

    def __init__(self, directory: Path, family: str) -> None:
        self.backups = directory / "backups"
        self.backups.mkdir()
        self.family = family
        self.denied = DenyList(booted=time.time())
        self.activity = RecordedActivity(UUID)
        self._store = opened(Store(str(directory)))
        workers: Any = SynchronousWorkers()
        super().__init__(
            directory / "server",
            family,
            config=attrs.evolve(
                CONFIG,
                system=attrs.evolve(CONFIG.system, backup_directory=str(self.backups)),
                api=attrs.evolve(CONFIG.api, upload_limit=1),
            ),
            denied=self.denied,
            database=StateDatabase(self._store, workers, time.time),
            activity=self.activity,
        )

    async def close(self) -> None:
        await super().close()
        self._store.close()

    def url(self, what: str, server: str | None = UUID, /, **claims: Any) -> str:
        """Return a signed URL for an `upload`, or for `file`, `backup` and other downloads."""
        scope = SCOPES.get(what, "file-download")
        token = signed_url_token(TOKEN, server, scope, self.family, **claims)
        path = "/upload/file" if what == "upload" else f"/download/{what}"
        return f"{path}?token={token}"

    async def fetch(self, url: str, method: str = "GET", **headers: str) -> Reply:
        """Send a request as a browser does, without the node's token."""
        return await self.call(method, url, Authorization=None, **headers)
