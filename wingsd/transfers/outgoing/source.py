"""A request to send a server, and this node's side of it: its files, and its end when it moved."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence

import attrs
from twisted.internet.defer import DeferredLock, DeferredSemaphore

from wingsd.activity import ActivityLog
from wingsd.archive.compress import Compression
from wingsd.backups.local import LocalBackup, Removal
from wingsd.backups.store import BackupStore
from wingsd.config import CALAGOPUS, PELICAN, TransfersConfig
from wingsd.docker.runtime import ContainerRuntime
from wingsd.errors import StorageError, WingsdError
from wingsd.filesystem.open_directories import FILE_FLAGS
from wingsd.filesystem.walk import survey
from wingsd.moves.source import MoveSource
from wingsd.moves.unchanged import MeasuredFileSystems
from wingsd.servers import Server, Servers
from wingsd.statedb import MoveRecord, StateDatabase, TransferRecord
from wingsd.threadio import TokenBucket, Workers
from wingsd.transfers.steps import ProgressMeter, SendStep, StepLog, StepLogs
from wingsd.transfers.storage.quarantine import Quarantine
from wingsd.transfers.storage.shared_volume import Volume
from wingsd.transfers.storage.staging import InstallLogs
from wingsd.util.deferreds import beside
from wingsd.util.reactor import Reactor

#: The feature of a destination that takes all requests of a server for one transfer.
JOINS_STREAMS = "streams"
#: That of one that keeps the extended attributes and ACLs in archives.
KEEPS_ATTRIBUTES = "attributes"
#: That of one that takes moves which resume.
MOVES = "move-1"
#: That of one that takes moves with extended attributes and ACLs.
MOVES_ATTRIBUTES = "move-2"
#: That of one that keeps the copy of a seed, and starts the server when it has moved.
FOLLOWS = "follow-1"

#: The key of a seed's order in the state of its move.
_SEED = "seed"


@attrs.frozen(repr=False)
class TransferRequest:
    """`token` is the whole `Authorization` header for the destination.

    The optional fields are in the words of Calagopus' Panel, and empty for other Panels.
    """

    url: str
    token: str = attrs.field(repr=False)
    archive_format: str = ""
    compression_level: str = ""
    #: The UUIDs of the local backups that are sent with the server.
    backups: tuple[str, ...] = ()
    #: Whether those are to be removed here once the server has moved.
    delete_backups: bool = False
    #: The number of HTTP requests beside the first.
    streams: int = 0

    @property
    def family(self) -> str:
        """The family of the destination: only Calagopus' Panel requests a format."""
        form = self.archive_format or self.compression_level or self.streams
        return CALAGOPUS if form or self.delete_backups else PELICAN


@attrs.frozen(repr=False)
class SeedOrder:
    """The order of a seed, kept across restarts.

    `stop_at` is when the server is moved, in seconds since the epoch; None if it is not.
    """

    stop_at: float | None = None

    def state(self) -> dict[str, object]:
        """Return what the state of its move has of it."""
        return {_SEED: attrs.asdict(self)}


def seed_of(record: MoveRecord) -> SeedOrder | None:
    """Return what a seed was ordered by; None for another move."""
    found = json.loads(record.state).get(_SEED)
    return None if found is None else SeedOrder(found.get("stop_at"))


def is_seed(entry: TransferRecord, record: MoveRecord) -> bool:
    """Return whether a transfer is a seed whose end was not due yet: its server is not held."""
    before = (SendStep.ASK.name, SendStep.SEED.name)
    return entry.step in before and seed_of(record) is not None


#: Seconds for which a transfer waits for a Panel that does not take activity.
ACTIVITY_WITHIN = 5.0
#: For how long the figures of a walk are used again: this many times as long as it took.
FIGURES_FACTOR = 20.0
#: Why the server cannot be started meanwhile.
HOLD = "the server is being transferred to another node"
#: Why nothing else can take a server that runs.
FOLLOWED = "the server is being transferred to another node while it runs"
#: Why a server is not started whose files still wait for the Panel to have them deleted.
MOVED = "the server has moved to another node"


@attrs.define(eq=False, repr=False)
class Subject:
    """A server that is sent as it was requested, with the log and the meter of its transfer."""

    server: Server
    request: TransferRequest
    steps: StepLog[SendStep]
    meter: ProgressMeter
    #: What it is ordered by, where it is a seed.
    seed: SeedOrder | None
    backups: tuple[LocalBackup, ...] = ()
    #: What a seed has read of the server's files, which is used once.
    kept: MoveSource | None = None
    #: What the destination supports, and the streams beside the first.
    features: frozenset[str] = frozenset()
    further: int = 0


_NOT_READ = "a file that is to be sent with the server could not be read"
_HASHED = 1 << 20


@attrs.frozen(repr=False)
class AttachedFile:
    """A file of `size` bytes at `path`, and the `name` that it is sent by.

    Of one that `may_grow` only so many bytes are sent.
    """

    name: str
    path: str
    size: int
    may_grow: bool = False


class AttachmentReader:
    """Reads a file in pieces, and hashes it. Methods raise `StorageError`."""

    def __init__(self, file: AttachedFile) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        #: How many bytes were hashed: the next piece begins there.
        self.position = 0

    def piece(self, offset: int, size: int) -> tuple[bytes, str]:
        """Return the bytes from `offset` on, and with the last ones the SHA-256 of the whole."""
        file = self._file
        if offset < self.position:
            self._digest, self.position = hashlib.sha256(), 0
        try:
            with open(os.open(file.path, FILE_FLAGS), "rb") as opened:
                opened.seek(self.position)
                # what is before it; where the file is shorter, the piece is, too
                while data := opened.read(min(_HASHED, offset - self.position)):
                    self._hash(data)
                opened.seek(offset)
                data = opened.read(min(size, file.size - offset))
                is_longer = not file.may_grow and opened.seek(0, os.SEEK_END) > file.size
        except OSError as error:
            raise StorageError(f"{file.path}: {error.strerror}", _NOT_READ) from error
        if len(data) < min(size, file.size - offset) or is_longer:
            raise StorageError(f"{file.path} was changed while it was sent", _NOT_READ)
        self._hash(data)
        return data, self._digest.hexdigest() if self.position == file.size else ""

    def _hash(self, data: bytes) -> None:
        self._digest.update(data)
        self.position += len(data)


@attrs.frozen(eq=False, repr=False)
class OutgoingParts:
    """The parts that transfers from this node share.

    `scratch` returns the directory of temporary files. `disk` are threads for short work on the
    disk, `long` for long work. `packers` are the threads that write bodies, with as many `slots`:
    a transfer without one does not connect yet. `followers` read servers that run. At most
    `max_streams` are sent beside the first. `file_systems` are where files prove to be unchanged.
    """

    config: TransfersConfig
    reactor: Reactor
    step_logs: StepLogs
    servers: Servers
    environment: ContainerRuntime
    quarantine: Quarantine
    backups: Removal
    database: StateDatabase
    activity: ActivityLog
    scratch: Callable[[], str]
    logs: InstallLogs
    volume: Volume
    #: The compression of archives for which none is requested.
    compression: Compression
    #: Whether the Panel is Pelican's and has its nodes delete the backups of deleted servers.
    deletes_dropped: bool
    disk: Workers
    long: Workers
    packers: Workers
    followers: Workers
    slots: DeferredSemaphore
    max_streams: int
    #: The rate limit of all uploads together; None without one.
    bucket: TokenBucket | None
    file_systems: MeasuredFileSystems
    #: Held while a file system is measured, by a file of which there is one at a time.
    measuring: DeferredLock = attrs.field(factory=DeferredLock)
    #: By server, until when the figures of its last walk are used again, and these.
    _figures: dict[str, tuple[float, dict[str, int]]] = attrs.field(factory=dict, init=False)

    @property
    def may_follow(self) -> bool:
        """True if servers may be sent while they run."""
        return self.config.moves.enabled and self.config.live.enabled

    async def measure_file_system(self) -> None:
        """Find out whether the file system shows changes of files."""
        async with self.measuring:
            await self.packers.run(self.file_systems.measure_in, self.scratch())

    def is_replaced(self, server: Server) -> bool:
        """Return whether another transfer has brought, or brings, the server here again."""
        try:
            return self.servers.get(server.uuid) is not server
        except WingsdError:
            return False

    async def find_dropped(self, server: str, request: TransferRequest) -> list[str]:
        """Return where the local backups are that the Panel drops when the server moves.

        Only Pelican's page names backups in its order; it then deletes its records of all others
        that are local. Its API names none, and keeps all records. Raises `StorageError`.
        """
        if not (self.deletes_dropped and request.family == PELICAN and request.backups):
            return []
        store = BackupStore(self.backups.directory, PELICAN)
        found = await self.disk.run(store.all, server)
        return [each.place for each in found if each.uuid not in request.backups]

    async def figures(self, server: str, *, may_be_known: bool = False) -> dict[str, int]:
        """Return what a copy of the server's files takes, as the requests of a move have it.

        With `may_be_known` the figures of its last walk do while they are young: a server of many
        files is not walked through again and again. Raises `StorageError`.
        """
        if may_be_known and (known := self.known_figures(server)) is not None:
            return known
        began: float = self.reactor.seconds()
        found = await self.followers.run(survey, self.servers.directory(server))
        figures = {"disk_bytes": found.on_disk, "files": found.files}
        now: float = self.reactor.seconds()
        self._figures[server] = (now + (now - began) * FIGURES_FACTOR, figures)
        return figures

    def known_figures(self, server: str) -> dict[str, int] | None:
        """Return the figures of the last walk while they are young, else None."""
        now: float = self.reactor.seconds()
        for each in [each for each, (end, _) in self._figures.items() if end <= now]:
            del self._figures[each]
        return self._figures[server][1] if server in self._figures else None

    async def remove_marks(self, server: str) -> None:
        """Remove the marks that an earlier daemon has left for a transfer of the server."""
        await self.disk.run(self.volume.marks.remove, server)
        await self.disk.run(self.volume.backup_marks.remove, server)

    async def retire(self, server: str) -> None:
        """Remove a stopped server's container, and send the Panel what its users have done.

        From the commit on the Panel drops that. Raises `EnvironmentFailed`.
        """
        async with beside(self.activity.send_now(ACTIVITY_WITHIN)) as sending:
            await self.environment.remove(server)
        await sending

    async def store_away(self, server: str, pool: str, inode: int | None) -> None:
        """Put a server that has moved into quarantine: the Panel has not had it deleted."""
        self.servers.discard(server)
        await self.quarantine.store_away(server, pooled=pool != "", inode=inode)

    async def remove_attachments(self, server: str, pool: str, removals: Sequence[str]) -> None:
        """Remove the backups at the paths `removals` of a server that has moved."""
        await self.backups.remove(server, removals)
        if pool:
            # Its files stay visible: they do not make it a server without a Panel.
            await self.database.delete_description(server)
