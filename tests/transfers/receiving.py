"""A receiver with real files and threads, between a Panel and an engine that note everything."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, DeferredSemaphore, succeed
from twisted.internet.task import deferLater

from tests.support import SynchronousWorkers
from tests.support.recording_observer import RecordingObserver
from tests.support.sample_server import UUID, sha256
from tests.support.sample_server import archive as packed
from wingsd.archive import ArchiveLimits
from wingsd.backups.attachments import Attachment, Backup
from wingsd.backups.received import ReceivedBackups
from wingsd.config import PELICAN, PTERODACTYL, FormConfig, TransfersConfig
from wingsd.errors import WingsdError
from wingsd.events import Event, EventBus
from wingsd.panel.errors import PanelRefused, ServerNotAssigned
from wingsd.panel.schemas import Configuration, Settings
from wingsd.statedb import StateDatabase
from wingsd.statedb.store import Store
from wingsd.threadio import Workers
from wingsd.transfers.coordinator import PanelCoordinators
from wingsd.transfers.incoming.manager import IncomingTransfers
from wingsd.transfers.incoming.uploads import Extraction, IncomingUpload, UploadConsumer
from wingsd.transfers.panel_callbacks import CallbackQueue
from wingsd.transfers.step_log import StepLogs
from wingsd.transfers.storage.incoming import IncomingStorage
from wingsd.transfers.storage.install_log import InstallLogs
from wingsd.transfers.storage.quarantine import Quarantine
from wingsd.transfers.storage.shared_volume import Volume
from wingsd.transfers.storage.staging import Staging
from wingsd.transfers.upload_form import FormFrame

reactor: Any = installed_reactor
DATA = packed()
OWNER = (os.getuid(), os.getgid())
#: The steps that are written down before they are taken.
JOURNALED = {"RECEIVE", "VERIFY", "DURABLE", "SWAP", "ENVIRONMENT", "REPORT"}


class World:
    """A Panel and an engine that note what they are asked, and fail where they are told to."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.faults: dict[str, Exception] = {}
        self.owned = [False]
        self.before: dict[str, Callable[[], object]] = {}
        self.waits: dict[str, Deferred[None]] = {}
        #: Each server that the node knows, and why it is held.
        self.registered: dict[str, str] = {}
        #: By which pools others may have the server, one after the other; none is empty.
        self.shared: list[str] = []
        #: The variables of the server, as the Panel describes it.
        self.variables: dict[str, Any] = {}
        #: Whether it describes a server of which it denies the transfer.
        self.describes_all = False
        #: The backups that were told with each success.
        self.told: list[tuple[str, ...] | None] = []
        #: The sizes of servers whose directory has come into place.
        self.sizes: list[int | None] = []
        #: Whose container has the server's name.
        self.conflict = ""

    # The node's servers

    def admit(self, configuration: Configuration, hold: str) -> World:
        self.registered[configuration.settings.uuid] = hold
        return self

    def forget(self, uuid: str) -> None:
        self.registered.pop(uuid, None)

    def get_or_add(self, configuration: Configuration) -> World:
        return self

    def get(self, uuid: str) -> World:
        return self

    def share(self, uuid: str, pool: str) -> None:
        self.shared.append(pool)

    def unshare(self, uuid: str) -> None:
        self.shared.append("")

    @property
    def files(self) -> World:
        return self

    def received(self, size: int | None) -> None:
        self.sizes.append(size)

    def release(self) -> None:
        self.registered[UUID] = ""

    def disown(self, why: str) -> None:
        self.registered[UUID] = why

    async def sync(self) -> None:
        self._called("sync")

    # The Panel and the engine

    def _called(self, name: str) -> None:
        self.calls.append(name)
        self.before.get(name, lambda: None)()
        if name in self.faults:
            raise self.faults[name]

    async def owns(self, uuid: str) -> bool:
        self._called("owns")
        return self.owned.pop(0)

    async def describe(self, uuid: str) -> Configuration:
        is_denied = self.told and isinstance(self.faults.get("success"), PanelRefused)
        if is_denied and not self.describes_all:
            raise ServerNotAssigned("not for this node")
        self._called("server")
        return Configuration(Settings(uuid, environment=self.variables))

    async def transfer_succeeded(self, uuid: str, backups: Any = None) -> None:
        self.told.append(backups)
        await self.waits.get("success", succeed(None))
        self._called("success")

    async def transfer_failed(self, uuid: str) -> bool:
        self._called("failure")
        await self.waits.get("failure", succeed(None))
        return True

    async def name_conflict(self, uuid: str) -> str:
        if "conflict" in self.faults:
            raise self.faults["conflict"]
        return self.conflict

    async def create(self, server: Settings) -> bool:
        self._called("create")
        await self.waits.get("create", succeed(None))
        return True

    async def remove(self, uuid: str) -> None:
        self._called("remove")
        await self.waits.get("remove", succeed(None))


FRAME = FormFrame(boundary="x")


class Source:
    """An upload that is there at once, whole or broken off with `error`."""

    content_type = FRAME.content_type
    user_agent = ""
    size = 0
    pool = mark = ""

    def __init__(
        self, data: bytes = DATA, checksum: str = "", error: WingsdError | None = None
    ) -> None:
        self.data, self.error = data, error
        self.checksum = checksum or sha256(data)
        self.stopped: list[WingsdError] = []
        self.consumer: UploadConsumer | None = None
        #: What comes with the server, and the checksums of its backups.
        self.attachments = b""

    def bring(self, attachment: Attachment, data: bytes, checksum: str = "") -> Source:
        """Bring something more with the server; a backup's checksum is right by default."""
        if isinstance(attachment, Backup):
            self.attachments += FRAME.before_backup(attachment) + data
            self.attachments += FRAME.after_backup(attachment, checksum or sha256(data))
        else:
            self.attachments += FRAME.before_log(PELICAN) + data
        return self

    def deliver(self, consumer: UploadConsumer) -> None:
        if self.stopped:
            raise self.stopped[0]
        self.consumer = consumer
        consumer.write(FRAME.before() + self.data)
        if self.error:
            self.fail(self.error)
        else:
            self.complete()

    def complete(self) -> None:
        """Send the rest of the body."""
        assert self.consumer is not None
        try:
            rest = FRAME.after(self.checksum) + self.attachments + FRAME.end()
            self.consumer.write(rest)
            self.consumer.finish()
        except WingsdError as error:
            self.fail(error)
        self.consumer = None

    def fail(self, error: WingsdError) -> None:
        """Break the body off."""
        if self.consumer is not None:
            self.consumer.fail(error)
            self.consumer = None

    def stop(self, error: WingsdError) -> None:
        self.stopped.append(error)
        self.fail(error)

    def when_gone(self, callback: Callable[[], None]) -> None:
        self._on_gone = callback

    def go(self) -> None:
        self._on_gone()


class Alone:
    """A group of one upload, whose token is good."""

    async def admit(self) -> None:
        pass

    def gathered(self) -> Deferred[Sequence[IncomingUpload]]:
        return succeed(())

    def stop(self, error: WingsdError) -> None:
        pass

    def when_failed(self, callback: Callable[[WingsdError], object]) -> None:
        pass


ALONE = Alone()


class House:
    """A receiver with real files and threads between a faked Panel and a faked engine."""

    def __init__(
        self,
        directory: Path,
        pool: Workers,
        *,
        durable: bool = True,
        family: str = PTERODACTYL,
    ) -> None:
        self.world, self.data = World(), directory / "volumes"
        self.staging = Staging(str(self.data), OWNER, durable=durable)
        self.staging.prepare()
        self.volume = Volume(str(self.data), OWNER, "")
        self.backup_directory = directory / "backups"
        self.backups = ReceivedBackups(
            str(self.backup_directory), str(self.data), durable=durable, reserve=0
        )
        self.logs = directory / "logs"
        self.store = Store(str(directory))
        self.store.open()
        if not durable and (connection := self.store._connection):
            connection.execute("PRAGMA synchronous = OFF")
        workers: Any = SynchronousWorkers()
        self.journal = StateDatabase(self.store, workers, reactor.seconds)
        self.heard = RecordingObserver()
        self.states: list[str] = []
        self.lines: list[str] = []
        bus = EventBus()
        bus.subscribe(UUID, self._note)
        self.slots = DeferredSemaphore(2)
        world: Any = self.world
        self.callbacks = CallbackQueue(world, self.journal, reactor)
        self.coordinators = PanelCoordinators(world, self.callbacks, reactor, family)
        self.step_logs = StepLogs(self.journal, bus, self.heard, reactor)
        self.storage = IncomingStorage(
            staging=self.staging,
            backups=self.backups,
            logs=InstallLogs(str(self.logs), self.staging, reserve=0),
            volume=self.volume,
            quarantine=Quarantine(self.staging, self.backups, pool, self.journal, days=30),
            disk=pool,
            reactor=reactor,
        )
        self.extraction = Extraction(
            workers=pool,
            slots=self.slots,
            owner=OWNER,
            limits=ArchiveLimits.configured(TransfersConfig()),
            form=FormConfig(),
            reactor=reactor,
        )
        self.receiver = IncomingTransfers(
            self.coordinators,
            self.step_logs,
            self.storage,
            self.extraction,
            world,
            world,
            reactor,
            TransfersConfig(concurrent=2, waiting=1, stall_timeout=120),
        )

    def _note(self, event: Event) -> None:
        if event.name == "transfer status":
            self.states += event.args
        else:
            assert event.name == "transfer logs"
            self.lines += event.args

    async def fails(self, kind: type[WingsdError], source: Source | None = None) -> WingsdError:
        transfer = self.receiver.open(UUID)
        with pytest.raises(kind) as caught:
            await transfer.run(source or Source(), ALONE)
        await transfer.over
        assert list(self.receiver.servers) == []
        return caught.value

    def kept(self) -> dict[str, bytes]:
        """Return what is in the directories of backups and logs: each path, and what it holds."""
        found: dict[str, bytes] = {}
        for place in (self.backup_directory, self.logs):
            paths = [path for path in place.rglob("*") if path.is_file()]
            found |= {str(path.relative_to(place)): path.read_bytes() for path in paths}
        return found

    async def passes(self) -> None:
        """Let a moment pass."""
        await deferLater(reactor, 0.005)

    def close(self) -> None:
        self.staging.close()
        self.store.close()

    def left(self) -> list[str]:
        places = (self.data, self.data.with_name(".volumes.staging"))
        names = [path.name for place in places for path in place.iterdir()]
        return sorted(name for name in names if name != ".lock")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    pool = Workers(reactor, "test", 4)
    pool.start()
    made = House(tmp_path, pool)
    yield made
    pool.stop()
    made.close()
