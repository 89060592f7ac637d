"""A sender with real files, threads and sockets, and the destination that it sends to."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import attrs
import pytest_twisted
from twisted.internet.defer import Deferred, DeferredSemaphore, succeed
from twisted.internet.task import deferLater
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from tests.support.harness import CallRecorder, Harness, TransferEvents, node_config
from tests.support.reactor import reactor, until
from tests.support.sample_server import UUID
from tests.support.scripted_panel import ScriptedPanel
from wingsd.config import LiveMovesConfig, MovesConfig, StoragePool, TransfersConfig
from wingsd.errors import StorageError
from wingsd.filesystem.walk import measure
from wingsd.panel.schemas import Configuration, Settings
from wingsd.servers.operations import Hold, Operation, Operations
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.threadio import TokenBucket, Workers
from wingsd.transfers.outgoing.source import TransferRequest
from wingsd.transfers.upload_form import Checksums, UploadForm
from wingsd.util.retry import Budget


class KnownBudget(Budget[Any]):
    """The budget of a stopped server's last round, which a test can have be given up at once."""

    last: Budget[Any]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        KnownBudget.last = self

    @classmethod
    def give_up(cls) -> None:
        cls.last.seconds = 0.05


BACKUPS = [f"5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c1{number}" for number in range(3)]


class _Server:
    """The server that is sent; also what is known of its files."""

    def __init__(self, directory: Path, recorder: CallRecorder) -> None:
        self.uuid = UUID
        self.configuration = Configuration(Settings(UUID))
        self.operations = Operations()
        self.disk_bytes: int | None = 0
        self.files = self
        self.state = PowerState.RUNNING
        self.power_actions, self.starts_if_it_stays = 0, False
        self.restart_seconds = 0.0
        self._directory = directory
        self._recorder = recorder

    @property
    def hold(self) -> str:
        hold = self.operations.hold
        return hold.why if hold and hold.operation is not Operation.FOLLOW else ""

    def place_hold(self, operation: Operation, why: str) -> None:
        self.operations.place_hold(operation, why)

    def release(self) -> None:
        self.operations.hold = None

    def disown(self, why: str) -> None:
        self.operations.hold = Hold(Operation.MOVED, why)

    def measure_if_stale(self) -> None:
        with suppress(StorageError):  # The node measures in the background, and only logs it.
            self.disk_bytes = measure(str(self._directory))

    @property
    def suspended(self) -> bool:
        return self.configuration.settings.suspended

    async def adopt(self) -> None:
        self._recorder.record("adopt")

    async def power(self, action: PowerAction) -> None:
        self.operations.check(Operation.START)
        self.power_actions += 1
        self.starts_if_it_stays = False
        await self._recorder.call(action.value)
        self.state = PowerState.RUNNING

    async def command(self, line: str) -> None:
        self._recorder.record(line)

    async def stop_within(self, grace: float) -> None:
        await self._recorder.call("stop")
        self.state = PowerState.OFFLINE

    async def restore_environment(self) -> None:
        await self._recorder.call("restore")


class _Servers:
    """The servers of the node, of which there is one."""

    def __init__(self, server: _Server, directory: Path, recorder: CallRecorder) -> None:
        #: The server that the node has now; another one than is sent where a test says so.
        self.current: object = server
        self._server = server
        #: The pool by which other nodes may have the server; "" for none.
        self.shared = ""
        self._directory = directory
        self._recorder = recorder

    def discard(self, uuid: str) -> None:
        self._recorder.record("discard")

    def share(self, uuid: str, pool: str) -> None:
        self.shared = pool

    def unshare(self, uuid: str) -> None:
        self.shared = ""

    def get(self, uuid: str) -> object:
        return self.current

    def reserve(self, uuid: str, why: str) -> None:
        if why:
            self._server.operations.hold = Hold(Operation.TRANSFER_OUT, why)

    def directory(self, uuid: str) -> str:
        return str(self._directory)


class _Quarantine:
    """A quarantine of which only the calls are recorded."""

    def __init__(self, recorder: CallRecorder) -> None:
        self._recorder = recorder
        #: Of the directory that was put away.
        self.inode: int | None = None

    keeps_moved = True

    async def keep_moved(self, uuid: str, inode: int | None, url: str) -> None:
        self.inode = inode
        self._recorder.record("keep moved")

    async def store_away(
        self, uuid: str, *, pooled: bool = False, inode: int | None = None
    ) -> None:
        self.inode = inode
        self._recorder.record("store away backups" if pooled else "store away")


class _Environment:
    """Containers of which only the removal is recorded."""

    def __init__(self, recorder: CallRecorder) -> None:
        self._recorder = recorder

    async def remove(self, uuid: str) -> None:
        await self._recorder.call("remove")


Kind = TypeVar("Kind", bound="Sender")


def read_form(content_type: str, data: bytes) -> tuple[dict[Any, bytes], Checksums]:
    """Return the data of each part of an upload, of the archive under None, and the checksums."""
    form = UploadForm(content_type)
    parts: dict[Any, bytes] = {None: b""}
    for piece in form.receive(data):
        if isinstance(piece, bytes):
            parts[[*parts][-1]] += piece
        else:
            parts[piece] = b""
    return parts, form.close()


class Destination(Resource):
    """A node that answers as a test says, and keeps what it was sent."""

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
        data = request.content.read()
        self.log_name = b"".join(re.findall(rb'name="(install[_-]logs)"', data))
        self.filenames += re.findall(rb'filename="(.*?)"', data)
        self.attachments, self.checksums = read_form(request.getHeader("Content-Type"), data)
        self.archives.append(self.attachments.pop(None))
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


class Sender(Harness):
    """A node that sends a server to a `destination`; `transfers` are its outgoing ones."""

    def __init__(
        self,
        directory: Path,
        workers: Workers,
        bucket: TokenBucket | None = None,
        storage_pool: str = "",
        answer_grace: int = 0,
        answer_timeout: float = 0,
        destination: Destination | None = None,
        moves: MovesConfig | None = None,
        **options: Any,
    ) -> None:
        """`options` are of `node_config`."""
        self.tree, self.scratch = directory / "server", directory / "scratch"
        self.scratch.mkdir()
        (self.tree / "world").mkdir(parents=True)
        (self.tree / "world" / "level.dat").write_bytes(bytes(range(256)) * 500)
        (self.tree / "link").symlink_to("world/level.dat")
        self._recorder = recorder = CallRecorder()
        self.calls, self.faults, self.waits = recorder.calls, recorder.faults, recorder.waits
        self.panel: Any
        self.servers: Any
        timeout: Any = answer_timeout
        limits = TransfersConfig(
            durable=False,
            answer_grace=answer_grace,
            answer_timeout=timeout,
            moves=moves or MovesConfig(),
            live=LiveMovesConfig(enabled=False),
            storage_pool=StoragePool(enabled=bool(storage_pool), pool_name=storage_pool),
        )
        self.server = _Server(self.tree, recorder)
        panel = ScriptedPanel([self.server.configuration])
        panel.owned = True
        super().__init__(
            node_config(directory, limits, data=str(directory), **options),
            workers,
            panel,
            _Environment(recorder),
            _Servers(self.server, self.tree, recorder),
        )
        quarantine: Any = _Quarantine(recorder)
        self.send_with(
            quarantine=quarantine,
            scratch=lambda: str(self.scratch),
            slots=DeferredSemaphore(2),
            max_streams=0,
            bucket=bucket,
        )
        self.transfers = self.sender
        self.disk = workers
        events = TransferEvents(self.bus, UUID)
        self.states, self.lines = events.states, events.lines
        self.destination = destination or Destination()
        self._site: Any = Site(self.destination)
        self._site.displayTracebacks = False
        self._port = _listen(self._site)

    def send_with(self, **changes: Any) -> None:
        """Replace fields of the `OutgoingParts` that later transfers get."""
        self.sender.parts = attrs.evolve(self.sender.parts, **changes)

    def use(self) -> None:
        """Record an activity of a user, and send recorded activity when the move asks for it."""
        Deferred.fromCoroutine(self.activity.start())
        self.activity.record(UUID, "server:power.restart", {})

    def follow(self, config: LiveMovesConfig) -> None:
        """Send servers while they run."""
        self.send_with(config=attrs.evolve(self.sender.parts.config, live=config))

    def start(
        self, port: int = 0, authorization: str = "Bearer token", **asked: Any
    ) -> Deferred[None]:
        """Begin a transfer; the Deferred fires when it is over."""
        url = f"http://127.0.0.1:{port or self._port.getHost().port}/api/transfers"
        server: Any = self.server
        self.transfers.start(server, TransferRequest(url, authorization, **asked))
        return Deferred.fromCoroutine(self._over())

    async def start_until(
        self, moment: Callable[[Sender], Deferred[None]], **asked: Any
    ) -> Deferred[None]:
        """Begin a transfer; return what fires when it is over, once it has come to a step."""
        there = moment(self)
        over = self.start(**asked)
        await there
        return over

    def next_daemon(self) -> None:
        """Take up what is unfinished, as the next daemon does."""
        self.transfers._stopping = False
        recovery = self.make_recovery(self.store.unfinished())
        recovery.begin()
        recovery.resume_outgoing()

    async def delete(self) -> None:
        """Have the Panel delete the server that was sent."""
        await self.transfers.release(UUID)
        put_away = self.transfers.put_away(UUID)
        if put_away is not None:
            await put_away()
        self.transfers.deleted(UUID)

    async def _over(self) -> None:
        while self.transfers.servers:
            await deferLater(reactor, 0.005)

    @property
    def quarantined_inode(self) -> int | None:
        quarantine: Any = self.sender.parts.quarantine
        inode: int | None = quarantine.inode
        return inode

    def said(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    def keep(self, path: str, data: bytes) -> None:
        file = self.backup_directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)

    async def close(self) -> None:
        await self._port.stopListening()
        self._recorder.release()
        self.panel.recorder.release()
        for waiting in self.destination.waits.values():
            if not waiting.called:
                waiting.callback(None)
        await deferLater(reactor, 0)
        self.transfers.stop()
        await self.activity.stop_sending(0)
        self.cut_off()
        self.store.close()


def sending(tmp_path: Path, **options: Any) -> Iterator[Sender]:
    """Yield a node that sends, for a fixture; `options` are of `Sender`."""
    yield from running_sender(Sender, tmp_path, **options)


def running_sender(kind: type[Kind], directory: Path, **options: Any) -> Iterator[Kind]:
    """Yield a sender of a kind, and close it."""
    workers = Workers(reactor, "test", 4)
    workers.start()
    harness = kind(directory, workers, **options)
    yield harness
    pytest_twisted.blockon(Deferred.fromCoroutine(harness.close()))
    workers.stop()


# Steps of a transfer: each function has it stop there, and returns what fires when it is there.


def at_question(sender: Sender) -> Deferred[None]:
    """Have the destination not answer yet what it keeps."""
    sender.destination.waits["OPTIONS"] = Deferred()
    return sender.destination.came["OPTIONS"]


def at_stop(sender: Sender) -> Deferred[None]:
    """Have the server not stop yet."""
    sender.waits["stop"] = Deferred()
    return until(lambda: "stop" in sender.calls)


def at_removal(sender: Sender) -> Deferred[None]:
    """Have the container not removed yet."""
    sender.waits["remove"] = Deferred()
    return until(lambda: "remove" in sender.calls)


def at_upload(sender: Sender) -> Deferred[None]:
    """Have more to send than all buffers hold, to a destination that reads nothing of it."""
    with (sender.tree / "large").open("wb") as file:
        for _ in range(24):
            file.write(os.urandom(1 << 20))
    sender._site.buildProtocol = lambda address: _deaf(Site.buildProtocol(sender._site, address))
    return until(lambda: sender.said("sending the archive"))


def at_answer(sender: Sender) -> Deferred[None]:
    """Have the destination not answer the upload yet."""
    sender.destination.waits["POST"] = Deferred()
    return sender.destination.came["POST"]


def _listen(site: Any) -> Any:
    return reactor.listenTCP(0, site, interface="127.0.0.1")


def _deaf(protocol: Any) -> Any:
    received = protocol.dataReceived

    def data_received(data: bytes) -> None:
        received(data)
        if data.startswith(b"POST"):
            protocol._channel.transport.pauseProducing()

    protocol.dataReceived = data_received
    return protocol
