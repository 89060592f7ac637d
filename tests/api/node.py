"""A node's site on loopback, for tests of the Panel's calls: real HTTP, and fakes that record."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection
from typing import Any
from urllib.parse import urljoin

import attrs
from treq.client import HTTPClient
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, execute, succeed
from twisted.web.client import Agent
from twisted.web.http_headers import Headers

from tests.support.workers import SynchronousWorkers
from wingsd.api.context import NodeContext
from wingsd.api.routes import root
from wingsd.auth.tokens import TransferToken
from wingsd.backups.store import BackupStore
from wingsd.config import Config, LiveConfig, MovesConfig
from wingsd.errors import (
    NodeInMaintenance,
    ServerNotFound,
    ServerNotRunning,
    ServersNotLoaded,
    TransferInProgress,
    TransferNotActive,
)
from wingsd.http.site import NodeSite, NotFound
from wingsd.node.diagnostics import Diagnostics, OwnLog
from wingsd.node.figures import NodeFigures
from wingsd.panel.schemas import Configuration, Process, Settings, Stop
from wingsd.servers.installations import InstallOptions
from wingsd.servers.power_states import PowerAction
from wingsd.transfers.outgoing.source import TransferRequest

UUID = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"
TOKEN = "the-token-of-this-node-in-all-its-length"
NOW = 1_700_000_000.0
TIMEOUT = 60
reactor: Any = installed_reactor


class Calls(list[tuple[Any, ...]]):
    """What was called, in order; a name in `faults` raises that instead of doing anything."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: dict[str, Exception] = {}

    def note(self, *call: Any) -> None:
        self.append(call)
        if call[0] in self.faults:
            raise self.faults[call[0]]


class FakeServer:
    """A server whose power and console are only written down."""

    def __init__(self, uuid: str, calls: Calls) -> None:
        self.uuid = uuid
        self.online = True
        self.suspended = self.disowned = False
        self.lines = [f"line {number}" for number in range(500)]
        self.powered: Deferred[None] = Deferred()
        self.configuration = Configuration(Settings(uuid), Process(stop=Stop("signal", "C")))
        self._calls = calls

    def details(self) -> dict[str, Any]:
        return {"state": "offline", "configuration": {"uuid": self.uuid}}

    def check_power(self, action: PowerAction) -> None:
        self._calls.note("check_power", action)

    async def power(self, action: PowerAction, wait_seconds: float = 30) -> None:
        self._calls.note("power", action, wait_seconds)
        await self.powered

    async def command(self, line: str) -> None:
        self._calls.note("command", line)
        if not self.online:
            raise ServerNotRunning("Cannot send commands to a stopped server instance.")

    async def logs(self, lines: int) -> list[str]:
        return self.lines[-lines:]

    async def sync(self, given: Configuration | None = None) -> None:
        self._calls.note("sync", *([] if given is None else [given]))


class FakeServers:
    """The registry, of servers that are only names."""

    def __init__(self, calls: Calls) -> None:
        self.loaded = True
        self.known = {UUID: FakeServer(UUID, calls)}
        self.may_delete: Deferred[None] | None = None
        self._calls = calls

    def get(self, uuid: str) -> FakeServer:
        if uuid not in self.known:
            if not self.loaded:
                raise ServersNotLoaded
            raise ServerNotFound("The requested resource does not exist on this instance.")
        return self.known[uuid]

    def all(self) -> list[FakeServer]:
        if not self.loaded:
            raise ServersNotLoaded
        return list(self.known.values())

    async def create(
        self, uuid: str, *, start_on_completion: bool, options: InstallOptions
    ) -> None:
        self._calls.note("create", uuid, start_on_completion, options)

    async def delete(
        self, uuid: str, put_away: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self._calls.note("delete", uuid)
        self.get(uuid)
        if put_away is not None:
            await put_away()
        if self.may_delete is not None:
            await self.may_delete
        del self.known[uuid]


class FakeTransfers:
    def __init__(self, direction: str, calls: Calls) -> None:
        self._direction = direction
        #: Whether files of servers that have moved are kept.
        self.keeps = False
        self.servers: tuple[str, ...] = ()
        #: Why none may arrive, or be created; None where they may.
        self.refusal: NodeInMaintenance | None = None
        #: Fires when a transfer that was started is recorded.
        self.recorded: Deferred[None] = succeed(None)
        self._calls = calls

    def start(self, server: FakeServer, order: TransferRequest) -> Deferred[None]:
        self._calls.note("start", server.uuid, order)
        if server.uuid in self.servers:
            raise TransferInProgress("A transfer is already in progress for this server.")
        self.servers = (server.uuid,)
        return self.recorded

    def require_open(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    def cancel(self, uuid: str) -> None:
        self._calls.note("cancel", self._direction, uuid)
        if uuid not in self.servers:
            raise TransferNotActive("Server is not currently being transferred.")
        self.servers = ()

    def expect(self, server: str) -> None:
        self._calls.note("expect", server)

    async def pool_features(
        self, server: str, pool: str, mark: str, backups_mark: str
    ) -> list[str]:
        self._calls.note("pool_features", server, pool, mark, backups_mark)
        return ["shared-volume"]

    async def release(self, uuid: str, *, keeps: bool = False) -> None:
        self._calls.note("release", self._direction, uuid)
        self.servers = ()

    def put_away(self, uuid: str) -> Callable[[], Awaitable[None]] | None:
        return self._put_away if self.keeps else None

    async def _put_away(self) -> None:
        self._calls.note("put away")

    def deleted(self, uuid: str) -> None:
        self._calls.note("deleted", self._direction, uuid)


class FakeMoves:
    """Moves that are enabled; none is begun here."""

    settings = MovesConfig()


class FakeDirectTransfers:
    def __init__(self, calls: Calls) -> None:
        self.moved = True
        self._calls = calls

    def describe(self, token: TransferToken, description: object) -> None:
        self._calls.note("describe", token.server, description)

    async def conclude(self, token: TransferToken) -> bool:
        self._calls.note("conclude", token.server)
        return self.moved


class FakeDenyList:
    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def deny(self, jtis: tuple[str, ...], now: float) -> None:
        self._calls.note("deny", jtis, now)


class FakeDatabase:
    """What must outlive the node, kept in memory."""

    def __init__(self, calls: Calls) -> None:
        self.used: set[str] = set()
        self._calls = calls

    def deny(self, jtis: tuple[str, ...]) -> Deferred[None]:
        return execute(self._calls.note, "note denied", jtis)

    def was_used(self, digest: str, expires: float) -> Deferred[bool]:
        return succeed(digest in self.used)


@attrs.frozen
class Reply:
    """An answer as it came; `json` is None without a body."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace")

    @property
    def json(self) -> Any:
        return json.loads(self.text) if self.text else None


class NoSessions:
    """An SFTP service without connections."""

    def __init__(self) -> None:
        self.sessions = self
        #: The servers whose sessions the Panel is to be asked about.
        self.checked: list[str] = []

    def check_server(self, server: str) -> None:
        self.checked.append(server)

    def close_user(self, user: str, servers: Collection[str]) -> int:
        return 0


class NoPointBackups:
    """The backups that are points of a node that has none."""

    async def find(self, server: str, backup: str) -> None:
        return None

    async def readable(self, server: str = "") -> list[Any]:
        return []


def context(live: LiveConfig, **collaborators: Any) -> NodeContext:
    """Return a context of these collaborators, None for the others, with real figures."""
    workers: Any = SynchronousWorkers()
    log = OwnLog(workers, reactor)
    log.source = collaborators.pop("log_source", None)
    system = live.current.system
    usual: dict[str, Any] = {
        "disk": workers,
        "workers": workers,
        "moves": FakeMoves(),
        "point_backups": NoPointBackups(),
        "backup_store": BackupStore(system.backup_directory, live.current.family),
        "figures": NodeFigures(live.current, workers, workers, reactor),
        "diagnostics": Diagnostics(lambda: live.current, collaborators.get("engine"), log),
        "own_log": log,
    }
    made = NodeContext(live, reactor)
    known = vars(made).copy()
    vars(made).update({**dict.fromkeys(NodeContext.__annotations__), **usual, **known})
    vars(made).update(collaborators)
    return made


CONFIG = Config(
    token_id="id",
    token=TOKEN,
    remote="https://panel.example.com",
    allowed_origins=("https://status.example.com",),
)


class ApiNode:
    """A node that listens, with a configuration and the path of its file.

    `live` is the configuration in force in place of both. `parts` are collaborators in place of
    the fakes, by their names in the context.
    """

    def __init__(
        self,
        config: Config = CONFIG,
        path: str = "",
        live: LiveConfig | None = None,
        **parts: Any,
    ) -> None:
        self.calls = Calls()
        self.servers = FakeServers(self.calls)
        self.sftp = NoSessions()
        self.sender = FakeTransfers("out", self.calls)
        self.receiver = FakeTransfers("in", self.calls)
        self.direct_transfers = FakeDirectTransfers(self.calls)
        self.database = FakeDatabase(self.calls)
        #: The UUIDs of servers that have moved away lately.
        self.moved: set[str] = set()
        self.client = HTTPClient(Agent(reactor))
        self.live = live or LiveConfig(config, path)
        self.site = NodeSite(NotFound(), reactor=reactor, timeout=60, config=self.live.current)
        usual: dict[str, Any] = {
            "now": lambda: NOW,
            "servers": self.servers,
            "receiver": self.receiver,
            "sender": self.sender,
            "restores": FakeTransfers("restore", self.calls),
            "rewinds": FakeTransfers("rewind", self.calls),
            "sockets": self,
            "sftp": self.sftp,
            "denied": FakeDenyList(self.calls),
            "direct_transfers": self.direct_transfers,
            "database": self.database,
        }
        self.site.resource = root(context(self.live, **usual | parts))
        self._listening = reactor.listenTCP(0, self.site, interface="127.0.0.1")
        self.port = self._listening.getHost().port

    @property
    def config(self) -> Config:
        return self.live.current

    @property
    def server(self) -> FakeServer:
        return self.servers.known[UUID]

    @property
    def transfers(self) -> ApiNode:
        return self

    def open(self, uuid: str, server: FakeServer | None, request: Any) -> None:
        assert server is None or server.uuid == uuid
        request.answer(200, f"the socket of {uuid}".encode())

    def close_user(self, user: str, servers: Collection[str]) -> int:
        self.calls.note("close user", user, servers)
        return 1

    def has_moved(self, server: str) -> bool:
        return server in self.moved

    async def close(self) -> None:
        await self._listening.stopListening()
        await self.site.drain(0)

    async def call(
        self, method: str, path: str, content: object = None, **headers: str | None
    ) -> Reply:
        """Send a request as the Panel does; `content` is bytes as they are, or what JSON says.

        `path` is below `/api/`. `headers` replace the usual ones; None leaves one out.
        """
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        usual = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = Headers()
        for name, value in (usual | named).items():
            if value is not None:
                sent.addRawHeader(name, value)
        response = await self.client.request(
            method,
            urljoin(f"http://127.0.0.1:{self.port}/api/", path),
            headers=sent,
            data=None if content is None else body,
            timeout=TIMEOUT,
        )
        content = await response.content()
        found = {
            name.decode().lower(): values[-1].decode()
            for name, values in response.headers.getAllRawHeaders()
        }
        return Reply(response.code, found, content)
