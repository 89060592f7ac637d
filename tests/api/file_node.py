"""A node's site with the files of one server on the disk, in the dialect of any family."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs
import msgpack

from tests.api.node import UUID, ApiNode, FakeServer, Reply, reactor
from tests.support.owner import OWNER
from wingsd.config import PTERODACTYL, user_agent_of
from wingsd.events import EventBus
from wingsd.files.pulls import Pulls
from wingsd.files.tasks import FileTasks, FileWork, Lane
from wingsd.filesystem.openers import directory_opener
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.usage import UsageCounter
from wingsd.http.site import NodeSite, NotFound
from wingsd.http_client.download import (
    AddressPolicy,
    FetchLimits,
    GuardedClient,
    Resolve,
    host_resolver,
)
from wingsd.panel.schemas import Egg
from wingsd.servers.operations import Operations
from wingsd.threadio import Workers

__all__ = ["FILES", "FileNode", "FileServer", "Make"]

T = TypeVar("T")
FILES = f"servers/{UUID}/files"


class CountedFiles:
    """What `Server.files` offers, of a directory whose files count against a limit."""

    def __init__(self, directory: Path) -> None:
        self.usage = UsageCounter(used=0)
        self._directory = str(directory)
        self._opener = directory_opener("auto")

    @property
    def disk_bytes(self) -> int | None:
        return self.usage.used

    @property
    def limit(self) -> int | None:
        return self.usage.limit

    async def run(
        self, work: Callable[[ServerRoot], T], *, writes: bool = False, workers: Workers
    ) -> T:
        return await workers.run(self._with_root, work)

    def _with_root(self, work: Callable[[ServerRoot], T]) -> T:
        with ServerRoot(self._directory, self._opener, OWNER, self.usage) as root:
            return work(root)


class FileServer(FakeServer):
    """A server with files; what is done to it, and said in its console, is written down."""

    def __init__(self, node: ApiNode, directory: Path) -> None:
        super().__init__(UUID, node.calls)
        self.files = CountedFiles(directory)
        self.operations = Operations()
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


class FileNode(ApiNode):
    """The node: `home` is the server's directory, `patience` how long a change is waited for."""

    def __init__(
        self,
        home: Path,
        family: str = PTERODACTYL,
        *,
        patience: float = 60,
        threads: int = 2,
        names: Resolve | None = None,
        limits: FetchLimits | None = None,
        clock: Any = reactor,
    ) -> None:
        """Downloads from a URL may be from 127.0.0.1; `names` has the addresses of names.

        `clock` is their reactor.
        """
        super().__init__()
        self.config = attrs.evolve(self.config, family=family)
        self.site = NodeSite(NotFound(), reactor=reactor, timeout=60, config=self.config)
        self.home = home
        self.workers = Workers(reactor, "files", threads)
        self.workers.start()
        lane = Lane(self.workers, each=threads, waiting=64)
        self.file_work: FileWork = FileWork(lane, lane, lane, lane, lane, lane, lane, self.workers)
        self.file_tasks: FileTasks = FileTasks(reactor, lambda: 0.0, patience)
        self.bus = EventBus()
        agent, policy = user_agent_of(family), AddressPolicy.of(["127.0.0.1"])
        client = GuardedClient(clock, policy, agent, names or host_resolver(self.workers))
        self.pulls: Pulls = Pulls(
            self.file_work,
            self.file_tasks,
            self.bus,
            client,
            lambda: 0.0,
            3,
            limits or FetchLimits(),
        )
        self.files = FileServer(self, home)
        self.servers.known[UUID] = self.files

    async def close(self) -> None:
        await self.pulls.stop()
        await super().close()
        self.workers.stop()

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
