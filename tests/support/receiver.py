"""A receiver with real files and threads, between a fake Panel and fake containers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed

from tests.support.backups import without_catalogues
from tests.support.harness import CallRecorder, Harness, TransferEvents, node_config
from tests.support.reactor import reactor, until
from tests.support.sample_server import UUID, sha256
from tests.support.sample_server import archive as packed
from tests.support.scripted_panel import ScriptedPanel
from wingsd.backups.store import Attachment, Backup
from wingsd.config import PELICAN, PTERODACTYL, TransfersConfig
from wingsd.errors import WingsdError
from wingsd.panel.schemas import Configuration, Settings
from wingsd.servers.operations import Operations
from wingsd.statedb import TransferRecord
from wingsd.threadio import Feed, Workers
from wingsd.transfers.cancellation import SharedSlots
from wingsd.transfers.incoming.transfer import IncomingParts, IncomingUpload
from wingsd.transfers.incoming.uploads import UploadTransfer
from wingsd.transfers.recovery import clear_leftovers
from wingsd.transfers.upload_form import FormFrame

DATA = packed()
FRAME = FormFrame(boundary="x")
#: The steps that are recorded in the state database before they are taken.
RECORDED = {"RECEIVE", "VERIFY", "DURABLE", "SWAP", "ENVIRONMENT", "REPORT"}


class _Environment:
    """Containers of which only the calls are recorded."""

    def __init__(self, recorder: CallRecorder) -> None:
        self._recorder = recorder
        #: Whose container has the server's name.
        self.conflict = ""

    async def name_conflict(self, uuid: str) -> str:
        if "conflict" in self._recorder.faults:
            raise self._recorder.faults["conflict"]
        return self.conflict

    async def rehearse(self, server: Settings) -> float:
        self._recorder.record("rehearse")
        return 0.75

    async def end_rehearsal(self, uuid: str) -> None:
        self._recorder.record("end_rehearsal")

    async def create(self, server: Settings) -> bool:
        await self._recorder.call("create")
        return True

    async def remove(self, uuid: str) -> None:
        await self._recorder.call("remove")


class _Server:
    """The server that is received; also what is known of its files."""

    def __init__(self, servers: _Servers) -> None:
        self._servers = servers
        self.files = self
        self.operations = Operations()

    def received(self, size: int | None) -> None:
        self._servers.sizes.append(size)

    def release(self) -> None:
        self._servers.holds[UUID] = ""

    def disown(self, why: str) -> None:
        self._servers.holds[UUID] = why

    async def sync(self) -> None:
        self._servers.recorder.record("sync")


class _Servers:
    #: The Panel has not listed the servers: nothing is removed of those it does not have.
    loaded = False

    def __init__(self, recorder: CallRecorder) -> None:
        self.recorder = recorder
        self._server = _Server(self)
        #: Each server that the node knows, and why it is held.
        self.holds: dict[str, str] = {}
        #: The pools by which other nodes may have the server, in turn; "" for none.
        self.pools: list[str] = []
        #: The sizes of servers whose directory has come into place.
        self.sizes: list[int | None] = []

    def admit(self, configuration: Configuration, hold: str) -> _Server:
        self.holds[configuration.settings.uuid] = hold
        return self._server

    def discard(self, uuid: str) -> None:
        self.holds.pop(uuid, None)

    def get_or_add(self, configuration: Configuration) -> _Server:
        return self._server

    def get(self, uuid: str) -> _Server:
        return self._server

    def share(self, uuid: str, pool: str) -> None:
        self.pools.append(pool)

    def unshare(self, uuid: str) -> None:
        self.pools.append("")

    async def stop(self) -> None:
        """Nothing runs."""

    def directory(self, uuid: str) -> str:
        raise AssertionError("this node sends nothing")


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
        self.consumer: Feed | None = None
        #: The form's parts after the archive and its checksum.
        self.attachments = b""

    def bring(self, attachment: Attachment, data: bytes, checksum: str = "") -> Source:
        """Add an attachment; a backup's checksum is right by default."""
        if isinstance(attachment, Backup):
            self.attachments += FRAME.before_backup(attachment) + data
            self.attachments += FRAME.after_backup(attachment, checksum or sha256(data))
        else:
            self.attachments += FRAME.before_log(PELICAN) + data
        return self

    def deliver(self, consumer: Feed) -> None:
        if self.stopped:
            raise self.stopped[0]
        self.consumer = consumer
        consumer.write(FRAME.before() + self.data)
        if self.error:
            self.fail(self.error)
        else:
            self.complete()

    def complete(self) -> None:
        assert self.consumer is not None
        try:
            rest = FRAME.after(self.checksum) + self.attachments + FRAME.end()
            self.consumer.write(rest)
            self.consumer.finish()
        except WingsdError as error:
            self.fail(error)
        self.consumer = None

    def fail(self, error: WingsdError) -> None:
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


class SingleUpload:
    """A group of one upload, whose token is good."""

    async def admit(self) -> None:
        pass

    def gathered(self) -> Deferred[Sequence[IncomingUpload]]:
        return succeed(())

    def stop(self, error: WingsdError) -> None:
        pass

    def when_failed(self, callback: Callable[[WingsdError], object]) -> None:
        pass


SINGLE: Any = SingleUpload()


class Receiver(Harness):
    """A node that receives; `transfers` are its incoming ones."""

    def __init__(
        self, directory: Path, workers: Workers, *, durable: bool = True, family: str = PTERODACTYL
    ) -> None:
        recorder = CallRecorder()
        self.calls, self.faults = recorder.calls, recorder.faults
        self.before, self.waits = recorder.before, recorder.waits
        self.panel: Any
        self.servers: Any
        limits = TransfersConfig(concurrent=2, waiting=1, durable=durable)
        config = node_config(directory, limits, family=family)
        self.environment = _Environment(recorder)
        panel = ScriptedPanel([Configuration(Settings(UUID))], recorder)
        panel.owned = [False]
        super().__init__(config, workers, panel, self.environment, _Servers(recorder))
        self.staging.prepare()
        self.transfers = self.receiver
        events = TransferEvents(self.bus, UUID)
        self.states, self.lines = events.states, events.lines

    @property
    def storage(self) -> IncomingParts:
        return self.receiver.parts

    @property
    def slots(self) -> SharedSlots:
        return self.receiver.parts.slots

    def resume(self, entry: TransferRecord) -> None:
        """Go on with an upload of an earlier daemon."""
        self.transfers.resume(UploadTransfer, entry, self.coordinators.receiving(entry.server))

    async def take_up(self, *, clear: bool = False) -> None:
        """Go on with the one upload that is unfinished, as the next daemon does, to its end."""
        entries = self.store.unfinished()
        if clear:
            clear_leftovers(entries, self.staging, self.received_backups)
            self.staging.delete_cleared()
        (entry,) = entries
        self.resume(entry)
        await until(lambda: not self.transfers.servers)

    async def receive(self, source: Source | None = None) -> None:
        """Receive an upload; return when its sender has its answer."""
        await self.transfers.open(UploadTransfer, UUID).run(source or Source(), SINGLE)

    async def fails(self, kind: type[WingsdError], source: Source | None = None) -> WingsdError:
        """Receive an upload that fails with an error of `kind`; return that."""
        transfer = self.transfers.open(UploadTransfer, UUID)
        with pytest.raises(kind) as caught:
            await transfer.run(source or Source(), SINGLE)
        await transfer.over
        assert list(self.transfers.servers) == []
        return caught.value

    def kept(self) -> dict[str, bytes]:
        """Return the data of each file in the directories of backups and logs, by its path.

        Without the catalogues of these backups.
        """
        found: dict[str, bytes] = {}
        for place in (self.backup_directory, self.logs):
            paths = [path for path in place.rglob("*") if path.is_file()]
            found |= {str(path.relative_to(place)): path.read_bytes() for path in paths}
        return without_catalogues(found)

    def close(self) -> None:
        self.cut_off()
        self.staging.close()
        self.store.close()


@contextmanager
def _running(workers: Workers) -> Iterator[Workers]:
    workers.start()
    yield workers
    workers.stop()


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with _running(Workers(reactor, "test", 4)) as workers:
        harness = Receiver(tmp_path, workers)
        yield harness
    harness.close()
