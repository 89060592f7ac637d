"""A sender with real files, threads and sockets, and those whom it has to do with."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest_twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, DeferredSemaphore, succeed
from twisted.internet.task import deferLater
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from tests.support import SynchronousWorkers
from tests.support.recording_observer import RecordingObserver
from tests.support.sample_server import UUID
from wingsd.archive import Compression, measure
from wingsd.backups.local import Removal
from wingsd.config import PTERODACTYL
from wingsd.errors import StorageError, WingsdError
from wingsd.events import Event, EventBus
from wingsd.panel.schemas import Configuration, Settings
from wingsd.statedb import StateDatabase
from wingsd.statedb.store import Store
from wingsd.threadio import TokenBucket, Workers
from wingsd.transfers.coordinator import PanelCoordinators
from wingsd.transfers.outgoing.manager import OutgoingTransfers
from wingsd.transfers.outgoing.payload import SourceStorage
from wingsd.transfers.outgoing.request import TransferRequest
from wingsd.transfers.outgoing.transfer import SourceServers
from wingsd.transfers.outgoing.upload import Uploader
from wingsd.transfers.panel_callbacks import CallbackQueue
from wingsd.transfers.peer.client import Peers
from wingsd.transfers.peer.tls import PeerTls
from wingsd.transfers.step_log import StepLogs
from wingsd.transfers.storage.install_log import InstallLogs
from wingsd.transfers.storage.shared_volume import Volume
from wingsd.transfers.storage.staging import Staging
from wingsd.transfers.upload_form import UploadForm

reactor: Any = installed_reactor


class World:
    """The server, the engine and the Panel: they note what they are asked."""

    def __init__(self, directory: Path) -> None:
        self.uuid = UUID
        self.configuration = Configuration(Settings(UUID))
        self.hold = ""
        self.calls: list[str] = []
        self.told: list[str] = []
        self.faults: dict[str, WingsdError] = {}
        self.waits: dict[str, Deferred[None]] = {}
        self.owned = True
        #: How often it denies the transfer.
        self.denials = 0
        self.shared = ""
        #: The server that the node has by now, None for the one that was sent.
        self.current: object = None
        #: Of the directory that was put away.
        self.inode: int | None = None
        self.disk_bytes: int | None = 0
        self._directory = directory

    async def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.faults:
            raise self.faults[name]
        await self.waits.get(name, succeed(None))

    # The server, and the node's servers

    @property
    def files(self) -> World:
        return self

    def place_hold(self, why: str) -> None:
        self.hold = why

    def release(self) -> None:
        self.hold = ""

    def disown(self, why: str) -> None:
        self.hold = why

    def measure_if_stale(self) -> None:
        with suppress(StorageError):  # The node measures in the background, and only logs it.
            self.disk_bytes = measure(str(self._directory))

    def forget(self, uuid: str) -> None:
        self.calls.append("forget")

    def share(self, uuid: str, pool: str) -> None:
        self.shared = pool

    def unshare(self, uuid: str) -> None:
        self.shared = ""

    def get(self, uuid: str) -> object:
        return self.current or self

    async def store_away(
        self, uuid: str, *, pooled: bool = False, inode: int | None = None
    ) -> None:
        self.inode = inode
        self.calls.append("store away backups" if pooled else "store away")

    async def stop_within(self, grace: float) -> None:
        await self._called("stop")

    async def restore_environment(self) -> None:
        await self._called("restore")

    def directory(self, uuid: str) -> str:
        return str(self._directory)

    # The engine

    async def remove(self, uuid: str) -> None:
        await self._called("remove")

    # The Panel

    async def owns(self, uuid: str) -> bool:
        self.told.append("owns")
        return self.owned

    async def transfer_failed(self, uuid: str) -> bool:
        self.told.append("failure")
        self.denials -= 1
        return self.denials < 0

    async def describe(self, uuid: str) -> Configuration:
        return self.configuration


class Destination(Resource):
    """A node that answers as it is told, and keeps what it was sent."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.features = "symlinks, hard-links"
        self.status, self.body = 200, b""
        self.drop = False
        self.waits: dict[str, Deferred[None]] = {}
        self.archives: list[bytes] = []
        self.filenames: list[bytes] = []
        self.log_name = b""
        self.came: dict[str, Deferred[None]] = {"OPTIONS": Deferred(), "POST": Deferred()}
        self.requests: list[Any] = []
        self.on_request: Callable[[], object] = lambda: None

    def render_OPTIONS(self, request: Any) -> bytes | int:
        self._note(request)
        request.setResponseCode(204)
        if self.features:
            request.setHeader("Transfer-Features", self.features)
        return self._answer("OPTIONS", request)

    def render_POST(self, request: Any) -> bytes | int:
        self._note(request)
        form = UploadForm(request.getHeader("Content-Type"))
        data = request.content.read()
        self.log_name = b"".join(re.findall(rb'name="(install[_-]logs)"', data))
        self.filenames += re.findall(rb'filename="(.*?)"', data)
        pieces = form.receive(data)
        self.came_along: dict[Any, bytes] = {None: b""}
        for piece in pieces:
            if isinstance(piece, bytes):
                self.came_along[[*self.came_along][-1]] += piece
            else:
                self.came_along[piece] = b""
        self.archives.append(self.came_along.pop(None))
        self.checksums = form.close()
        request.setResponseCode(self.status)
        request.write(self.body) if self.body else None
        return self._answer("POST", request)

    def _note(self, request: Any) -> None:
        self.requests.append(request)
        self.on_request()

    def _answer(self, method: str, request: Any) -> int:
        def finish(_: None) -> None:
            if self.drop and method == "POST":
                request.channel.forceAbortClient()
            elif not request._disconnected:
                request.finish()

        self.waits.get(method, succeed(None)).addCallback(finish)
        if not self.came[method].called:
            self.came[method].callback(None)
        return NOT_DONE_YET


class House:
    """A sender with real files, threads and sockets."""

    def __init__(
        self,
        directory: Path,
        pool: Workers,
        bucket: TokenBucket | None = None,
        storage_pool: str = "",
        answer_grace: float = 0,
        answer_timeout: float = 0,
    ) -> None:
        self.tree = directory / "server"
        (self.tree / "world").mkdir(parents=True)
        (self.tree / "world" / "level.dat").write_bytes(bytes(range(256)) * 500)
        (self.tree / "link").symlink_to("world/level.dat")
        self.world = World(self.tree)
        self.destination = Destination()
        self._site: Any = Site(self.destination)
        self._site.displayTracebacks = False
        self._port = reactor.listenTCP(0, self._site, interface="127.0.0.1")
        self.heard = RecordingObserver()
        self.states: list[str] = []
        self.lines: list[str] = []
        bus = EventBus()
        bus.subscribe(UUID, self._note)
        world: Any = self.world
        self.store = Store(str(directory))
        self.store.open()
        workers: Any = SynchronousWorkers()
        database = StateDatabase(self.store, workers, reactor.seconds)
        self.backup_directory, self.logs = directory / "backups", directory / "logs"
        staging = Staging(str(directory / "volumes"), (os.getuid(), os.getgid()), durable=False)
        callbacks = CallbackQueue(world, database, reactor)
        owner = (os.getuid(), os.getgid())
        self.servers = SourceServers(
            servers=world,
            environment=world,
            quarantine=world,
            backups=Removal(str(self.backup_directory), pool),
            database=database,
        )
        self.uploader = Uploader(
            reactor=reactor,
            packers=pool,
            slots=DeferredSemaphore(2),
            stall_timeout=120,
            answer_timeout=answer_timeout,
            bucket=bucket,
        )
        self.disk = pool
        self.sender = OutgoingTransfers(
            reactor=reactor,
            coordinators=PanelCoordinators(world, callbacks, reactor, PTERODACTYL, answer_grace),
            step_logs=StepLogs(database, bus, self.heard, reactor),
            peers=Peers(reactor, PeerTls()),
            servers=self.servers,
            storage=SourceStorage(
                directory=world.directory,
                backup_directory=str(self.backup_directory),
                logs=InstallLogs(str(self.logs), staging, reserve=0),
                volume=Volume(str(directory), owner, storage_pool, str(self.backup_directory)),
                disk=pool,
                compression=Compression.BEST_SPEED,
            ),
            uploader=self.uploader,
            stop_grace=60,
        )

    def _note(self, event: Event) -> None:
        where = self.states if event.name == "transfer status" else self.lines
        where += event.args

    def start(self, port: int = 0, **asked: Any) -> Deferred[None]:
        """Begin; the Deferred fires when it is over, and nothing waits any more."""
        url = f"http://127.0.0.1:{port or self._port.getHost().port}/api/transfers"
        server: Any = self.world
        self.sender.start(server, TransferRequest(url, "Bearer token", **asked))
        return Deferred.fromCoroutine(self._over())

    async def _over(self) -> None:
        while self.sender.servers:
            await deferLater(reactor, 0.005)

    def said(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    async def close(self) -> None:
        await self._port.stopListening()
        for waiting in (*self.world.waits.values(), *self.destination.waits.values()):
            if not waiting.called:
                waiting.callback(None)
        await deferLater(reactor, 0)
        self.store.close()


def sending(
    tmp_path: Path, storage_pool: str = "", answer_grace: float = 0, answer_timeout: float = 0
) -> Iterator[House]:
    """Yield a house, for a fixture; its volume may be a storage pool."""
    pool = Workers(reactor, "test", 4)
    pool.start()
    made = House(
        tmp_path,
        pool,
        storage_pool=storage_pool,
        answer_grace=answer_grace,
        answer_timeout=answer_timeout,
    )
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))
    pool.stop()


# Backups that the node has

BACKUPS = [f"5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c1{number}" for number in range(3)]


def keep(house: House, path: str, data: bytes) -> None:
    file = house.tree.parent / "backups" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


# How far a transfer is


def ask(house: House) -> Deferred[None]:
    house.destination.waits["OPTIONS"] = Deferred()
    return house.destination.came["OPTIONS"]


def stop(house: House) -> Deferred[None]:
    house.world.waits["stop"] = Deferred()
    return until(lambda: "stop" in house.world.calls)


def retire(house: House) -> Deferred[None]:
    house.world.waits["remove"] = Deferred()
    return until(lambda: "remove" in house.world.calls)


def send(house: House) -> Deferred[None]:
    # Larger than all buffers on the way, to a node that reads nothing of it.
    with (house.tree / "large").open("wb") as file:
        for _ in range(24):
            file.write(os.urandom(1 << 20))
    house._site.buildProtocol = lambda address: deaf(Site.buildProtocol(house._site, address))
    return until(lambda: house.said("sending the archive"))


def deaf(protocol: Any) -> Any:
    heard = protocol.dataReceived

    def data_received(data: bytes) -> None:
        heard(data)
        if data.startswith(b"POST"):
            protocol._channel.transport.pauseProducing()

    protocol.dataReceived = data_received
    return protocol


def answer(house: House) -> Deferred[None]:
    house.destination.waits["POST"] = Deferred()
    return house.destination.came["POST"]


def until(holds: Callable[[], bool]) -> Deferred[None]:
    async def look() -> None:
        while not holds():
            await deferLater(reactor, 0.005)

    return Deferred.fromCoroutine(look())
