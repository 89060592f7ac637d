"""The source of a transfer: the request to send a server, the node's shared parts, and the upload.

`OutgoingParts` has the files of servers that are sent, and their end when they moved. An upload is
one request, or several at the same time. A destination that joins them, as wingsd does, answers
all of them when it has all. Calagopus' nodes answer each by itself, and some of them take the
server for complete when the first request is, although others are still coming: for them the first
is ended last, when the others have their answers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from enum import Enum
from functools import partial
from itertools import chain, repeat
from typing import TypeVar

import attrs
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredList,
    DeferredSemaphore,
)
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.activity import ActivityLog
from wingsd.archive.compress import ArchiveFormat, Compression
from wingsd.archive.pack import STEP, Packed, pack
from wingsd.archive.partition import Part, split
from wingsd.archive.pipeline import joined
from wingsd.archive.policy import Kind, attributes_line
from wingsd.archive.quota import ArchiveLimits
from wingsd.archive.regular_files import RegularFiles, has_only_files
from wingsd.backups.points import PointBackup, PointBackups, tar_gz
from wingsd.backups.store import Backup, LocalBackup, Removal
from wingsd.config import CALAGOPUS, PELICAN, TransfersConfig
from wingsd.docker.runtime import ContainerRuntime
from wingsd.errors import ArchiveError, DestinationTimeout, StorageError, WingsdError
from wingsd.filesystem.walk import survey
from wingsd.moves.source import MoveSource
from wingsd.moves.unchanged import MeasuredFileSystems
from wingsd.servers import Server, Servers
from wingsd.statedb import (
    POINT,
    LeavingBackup,
    LeftState,
    MoveRecord,
    StateDatabase,
    TransferRecord,
)
from wingsd.threadio import Outflow, OutflowClosed, TokenBucket, Workers
from wingsd.transfers.outgoing.left_backups import LeftBackups
from wingsd.transfers.outgoing.left_histories import LeftHistories
from wingsd.transfers.peer.client import PeerClient
from wingsd.transfers.peer.moves import MOST_BACKUPS
from wingsd.transfers.steps import ProgressMeter, SendStep, StepLog, StepLogs
from wingsd.transfers.storage.quarantine import Quarantine
from wingsd.transfers.storage.shared_volume import (
    BACKUPS_MARK,
    SHARED_BACKUPS,
    Sharing,
    Volume,
    pool_headers,
    sharing_of,
)
from wingsd.transfers.storage.staging import InstallLogs
from wingsd.transfers.upload_form import FormFrame
from wingsd.util.deferreds import beside, fires_within
from wingsd.util.reactor import Reactor
from wingsd.util.retry import Watch
from wingsd.util.text import readable_size

#: The feature of a destination that takes all requests of a server for one transfer.
JOINS_STREAMS = "streams"
#: That of one that keeps the extended attributes and ACLs in archives.
KEEPS_ATTRIBUTES = "attributes"
#: That of one that takes moves which resume.
MOVES = "move-1"
#: That of one that takes moves with extended attributes and ACLs.
MOVES_ATTRIBUTES = "move-2"
#: That of one that takes backups which are points, with the history of a server that moves.
TAKES_POINTS = "backup-points"
#: That of one that keeps the copy of a seed, and starts the server when it has moved.
FOLLOWS = "follow-1"

_log = Logger()
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

    `stop_at` is when the server is moved, in seconds since the epoch; None if it is not. `pair` is
    this node's name of the pair by which it goes; empty without one.
    """

    stop_at: float | None = None
    pair: str = ""

    def state(self) -> dict[str, object]:
        """Return what the state of its move has of it."""
        return {_SEED: {"stop_at": self.stop_at}}


def seed_of(record: MoveRecord) -> SeedOrder | None:
    """Return what a seed was ordered by; None for another move."""
    found = json.loads(record.state).get(_SEED)
    return None if found is None else SeedOrder(found.get("stop_at"), record.pair)


def is_seed(entry: TransferRecord, record: MoveRecord) -> bool:
    """Return whether a transfer is a seed whose end was not due yet: its server is not held."""
    before = (SendStep.ASK.name, SendStep.SEED.name)
    return entry.step in before and seed_of(record) is not None


#: Rounds of seeds at a time, beside their first ones and those that take long.
SEED_ROUNDS = 2
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
    #: Those that are points: in streams they are archives, which are made on the way.
    points: tuple[PointBackup, ...] = ()
    #: What a seed has read of the server's files, which is used once.
    kept: MoveSource | None = None
    #: What the destination supports, and the streams beside the first.
    features: frozenset[str] = frozenset()
    further: int = 0


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
    points: PointBackups
    database: StateDatabase
    activity: ActivityLog
    scratch: Callable[[], str]
    logs: InstallLogs
    volume: Volume
    #: The compression of archives for which none is requested.
    compression: Compression
    #: Those that servers leave here, and whether the Panel is Pelican's and has its nodes delete
    #: the backups of deleted servers.
    left_backups: LeftBackups
    left_histories: LeftHistories
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
    #: How many rounds of seeds begin at a time, beside their first ones.
    turns: DeferredSemaphore = attrs.field(factory=lambda: DeferredSemaphore(SEED_ROUNDS))
    #: The senders of the rounds that are sent now.
    senders: set[object] = attrs.field(factory=set, init=False)
    #: By server, until when the figures of its last walk are used again, and these.
    _figures: dict[str, tuple[float, dict[str, int]]] = attrs.field(factory=dict, init=False)

    @property
    def may_follow(self) -> bool:
        """True if servers may be sent while they run."""
        return self.config.moves.enabled and self.config.live.enabled

    async def measure_file_system(self) -> None:
        """Find out whether the file system shows changes of files."""
        await self.packers.run(self.file_systems.measure_in, self.scratch())

    def is_replaced(self, server: Server) -> bool:
        """Return whether another transfer has brought, or brings, the server here again."""
        try:
            return self.servers.get(server.uuid) is not server
        except WingsdError:
            return False

    async def find_left(
        self,
        server: str,
        request: TransferRequest,
        *,
        takes_backups: bool,
        takes_points: bool,
    ) -> list[LeavingBackup]:
        """Return the local backups that the server leaves, and what becomes of them.

        All follow it where the destination `takes_backups`, those that are points also only where
        it `takes_points`. Else those are deleted here that the Panel drops: only Pelican's page
        names backups in its order; it then deletes its records of all others that are local. Its
        API names none, and keeps all records. Raises `StorageError`.
        """
        is_listed = request.family == CALAGOPUS  # its order names all that move
        if takes_backups and self.config.backups_follow and not is_listed:
            found = await self.left_backups.leaving(server, LeftState.FOLLOWS, points=takes_points)
            return found[:MOST_BACKUPS]
        if not (self.deletes_dropped and request.family == PELICAN and request.backups):
            return []
        return await self.left_backups.leaving(server, LeftState.DROPPED, request.backups)

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
        points = [each for each in removals if each.endswith(f".{POINT}")]
        await self.backups.remove(server, [each for each in removals if each not in points])
        for each in points:
            await self._remove_point(server, each.removesuffix(f".{POINT}"))
        if pool:
            # Its files stay visible: they do not make it a server without a Panel.
            await self.database.delete_description(server)

    async def _remove_point(self, server: str, backup: str) -> None:
        try:
            found = await self.points.find(server, backup)
            if found is not None:
                await self.points.delete(found)
        except StorageError as error:
            _log.error("{server}: backup not removed: {error}", server=server, error=error)
        else:
            line = "{server}: backup {backup} removed, it has moved"
            _log.info(line, server=server, backup=backup)


#: The features of a destination that keeps symlinks and hard links.
KEEPS_LINKS = frozenset({"symlinks", "hard-links"})
T = TypeVar("T")
_Choice = TypeVar("_Choice", bound=Enum)


class SourcePool:
    """The storage pool of the source, as it is used in the transfer of one `server`.

    The state database has it before anything is sent. From then on the server's files are not
    deleted with the server, whichever node dies.
    """

    def __init__(
        self, server: str, request: TransferRequest, parts: OutgoingParts, *, is_direct: bool
    ) -> None:
        self.sharing = Sharing.COPIED
        #: Whether both nodes have the same directory of backups, so that none may be removed.
        self.shares_backups = False
        self._server = server
        self._disk, self._volume = parts.disk, parts.volume
        self._mark = ""
        # The header is Pelican's, and so are all nodes that read it. In a direct transfer no
        # Panel would decide whose the files are.
        is_pelican = request.family == PELICAN
        self._is_used = self._volume.pool != "" and is_pelican and not is_direct
        self._removes_backups = request.delete_backups and bool(request.backups)

    async def query(
        self, features: Callable[[Sequence[tuple[str, str]]], Awaitable[frozenset[str]]]
    ) -> frozenset[str]:
        """Query the destination's `features`, and learn from them how the files are shared.

        Raises what that raises, `StorageError`, and `Conflict` where a transfer would do harm.
        """
        headers: list[tuple[str, str]] = []
        if self._is_used:
            self._mark = await self._disk.run(self._volume.marks.leave, self._server)
            headers += pool_headers(self._volume.pool, self._mark)
        if self._removes_backups:
            mark = await self._disk.run(self._volume.backup_marks.leave, self._server)
            headers.append((BACKUPS_MARK, mark))
        found = await features(headers)
        if self._is_used:
            self.sharing = sharing_of(found, self._volume.pool)
        self.shares_backups = SHARED_BACKUPS in found
        return found

    @property
    def name(self) -> str:
        """The pool in which the destination may have the files; empty where it gets a copy."""
        return "" if self.sharing is Sharing.COPIED else self._volume.pool

    @property
    def has_files(self) -> bool:
        """True if the destination is known to have the files, so that none are sent."""
        return self.sharing is Sharing.POOLED

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The headers of an upload."""
        return pool_headers(self.name, self._mark if self.has_files else "")

    async def remove_marks(self) -> None:
        """Remove the marks of this transfer from the volume."""
        if self._mark:
            await self._disk.run(self._volume.marks.remove, self._server, self._mark)
        if self._removes_backups:
            await self._disk.run(self._volume.backup_marks.remove, self._server)


#: Seconds between two looks, and in which nothing was taken before each line.
LOOK_EVERY, EVERY = 5.0, 300.0


@attrs.define(eq=False, repr=False, slots=False)
class StandstillNotice(Watch):
    """Reports that the destination accepts no data, and that it does again, until `stop`.

    `sent` are the bytes that were handed over; `is_full` is whether there is more than was taken.
    It is waited for: nodes slow an upload down while it waits for a slot there, for hours.
    """

    _clock: IReactorTime
    _sent: Callable[[], int]
    _is_full: Callable[[], bool]
    _say: Callable[[str], None]

    def __attrs_post_init__(self) -> None:
        self._last = self._sent()
        self._since = self._told = self._clock.seconds()
        super().__init__(self._clock, LOOK_EVERY, self._look, "watching an upload failed")

    def _look(self) -> None:
        now, sent = self._clock.seconds(), self._sent()
        if sent != self._last or not self._is_full():
            if self._told > self._since:
                self._say(f"the upload goes on, after {now - self._since:.0f} s")
            self._last, self._since, self._told = sent, now, now
        elif now - self._told >= EVERY:
            self._told = now
            self._say(
                f"the destination has taken nothing for {now - self._since:.0f} s: it has no slot "
                "for the upload yet, or it hangs; see its log. The upload goes on when it reads on"
            )


#: Seconds that the first request waits for the answers to the others, when all of them are sent: a
#: node that joins them without saying so gives none before it has the first.
HOLD_BACK = 60.0


@attrs.define(eq=False, repr=False, slots=False)
class SentStream:
    """One request of an upload, by its `number`; number 0 also has the backups and the log.

    `source` is the server's directory, or a part of one; without one the archive is empty, since
    the destination has the files. `warn` gets a line for each thing that cannot be sent as it is.
    Its methods are called in a worker thread.
    """

    _subject: Subject
    _parts: OutgoingParts
    _source: Part | None
    _number: int
    _form: ArchiveFormat
    _compression: Compression
    _warn: Callable[[str], None]

    def __attrs_post_init__(self) -> None:
        self._family = self._subject.request.family
        self._keeps_links = self._subject.features >= KEEPS_LINKS
        self.frame = FormFrame(f"archive.{self._form.suffix}")
        self.body = Outflow(self._parts.reactor, bucket=self._parts.bucket)
        self._write = self.body.write
        #: Bytes of the server's files that have been read, and how many files; the reactor only
        #: looks at these numbers.
        self.read = self.files = 0

    def start(self, destination: PeerClient, others: int, pool: Sequence[tuple[str, str]]) -> None:
        """Begin the request; `others` are beside the first, and `pool` are further headers."""
        headers: list[tuple[str, str]] = []
        if self._number:
            headers = [("Multiplex-Stream", str(self._number - 1))]
        elif others:
            headers = [("Multiplex-Stream-Count", str(others))]
        self.request = destination.upload(
            self.frame.content_type,
            self.body,
            self._parts.config.stall_timeout,
            [*headers, *pool],
            may_be_early=bool(pool),
        )

    def write(self, *, ends: bool) -> Packed | None:
        """Write the body, and its end if it `ends`; return what the archive was, None if empty.

        Raises `StorageError`, and `OutflowClosed`.
        """
        self._write(self.frame.before())
        packed = self._write_files()
        self._write(self.frame.after(packed.sha256 if packed else hashlib.sha256().hexdigest()))
        if self._number == 0:
            # In the order in which the family's own nodes send them.
            if self._family == CALAGOPUS:
                self._write_log()
            self._write_backups(packed)
            if self._family != CALAGOPUS:
                self._write_log()
        if ends:
            self.end()
        return packed

    def end(self) -> None:
        """Write the end of the body."""
        self._write(self.frame.end())
        self.body.finish()

    def _write_files(self) -> Packed | None:
        if self._source is None:
            return None
        return pack(
            attrs.evolve(self._source, attributes=KEEPS_ATTRIBUTES in self._subject.features),
            self._write,
            links=self._keeps_links,
            form=self._form,
            compression=self._compression,
            warn=self._warn,
            progress=self._note,
        )

    def _note(self, read: int, files: int) -> None:
        self.read, self.files = read, files

    def _write_backups(self, packed: Packed | None) -> None:
        before, files = (packed.packed_bytes, packed.counts[Kind.FILE]) if packed else (0, 0)
        for local in self._subject.backups:
            self._write(self.frame.before_backup(local.backup))
            digest = hashlib.sha256()
            noted = self._noted(local, before, files)
            with closing(self._backup_blocks(local, noted)) as blocks:
                for block in blocks:
                    digest.update(block)
                    self._write(block)
            before += local.size
            self._write(self.frame.after_backup(local.backup, digest.hexdigest()))
        for point in self._subject.points:
            self._write_point(point, before, files)
            before += point.name.size

    def _write_point(self, point: PointBackup, before: int, files: int) -> None:
        backup = Backup(point.name.name, ArchiveFormat.TAR_GZ.suffix, self._family)
        self._write(self.frame.before_backup(backup))
        digest = hashlib.sha256()
        with self._point_blocks(point, before, files) as blocks:
            for block in blocks:
                digest.update(block)
                self._write(block)
        self._write(self.frame.after_backup(backup, digest.hexdigest()))

    @contextmanager
    def _point_blocks(
        self, point: PointBackup, before: int, files: int
    ) -> Iterator[Iterator[bytes]]:
        """Yield the blocks of a tar.gz of a point, as the destination restores it."""

        def read() -> Generator[bytes, None, None]:
            done = 0
            with closing(self._parts.points.blocks(point, self._parts.long)) as blocks:
                for block in joined(blocks, STEP):
                    done += len(block)
                    # Of hard links, it is read again.
                    self._note(max(self.read, before + min(done, point.name.size)), files)
                    yield block

        if self._family != PELICAN or self._keeps_links:
            with tar_gz(read(), self._compression) as packed:
                yield packed
            return
        regular = RegularFiles(read, self._source.limit if self._source is not None else None)
        with regular.packed(self._compression) as packed:
            yield packed
        if told := str(regular.not_kept):
            self._warn(
                f"the backup {point.name.name} is sent as the destination's node can restore it: "
                f"{told}"
            )

    def _noted(self, local: LocalBackup, read: int, files: int) -> Generator[bytes, None, None]:
        """Yield the archive of a backup as it is; note the bytes and files that are read."""
        with closing(local.blocks()) as blocks:
            for block in blocks:
                read += len(block)
                self._note(read, files)
                yield block

    def _backup_blocks(
        self, local: LocalBackup, noted: Generator[bytes, None, None]
    ) -> Generator[bytes, None, None]:
        """Yield the archive of a backup as the destination restores it.

        Nodes in Go get regular files alone. `noted` yields it as it is, and counts as progress.
        """
        if self._family != PELICAN or self._keeps_links or self._goes_as_it_is(local):
            yield from noted
            return
        # Only the first reading is progress.
        readings = chain((noted,), (local.blocks() for _ in repeat(None)))
        limit = self._source.limit if self._source is not None else None
        files = RegularFiles(lambda: next(readings), limit)
        try:
            with files.packed(self._compression) as blocks:
                yield from blocks
        except ArchiveError as error:
            raise StorageError(
                f"{local.path}: {error.detail}; delete the backup in the Panel, or leave it out "
                "of the transfer",
                "a backup that is to be sent with the server is damaged",
            ) from error
        if told := str(files.not_kept):
            self._warn(
                f"the backup {local.backup.uuid} is sent as the destination's node can restore "
                f"it: {told}"
            )

    def _goes_as_it_is(self, local: LocalBackup) -> bool:
        """Return whether a node in Go restores a backup as it is, or it has no other form."""
        try:
            with closing(local.blocks()) as blocks:
                return has_only_files(blocks)
        except ArchiveError as error:
            self._warn(
                f"the backup {local.backup.uuid} cannot be read and is sent as it is: "
                f"{error.detail}"
            )
            return True

    def _write_log(self) -> None:
        """Write the log as far as it can be read: no transfer fails because of it."""
        try:
            log = self._parts.logs.open(self._subject.server.uuid)
            if log is None:
                return
            with closing(log):
                self._write(self.frame.before_log(self._family))
                for block in log.blocks():
                    self._write(block)
        except StorageError as error:
            self._warn(error.detail)


def _choice(asked: str, default: _Choice, what: str, warn: Callable[[str], None]) -> _Choice:
    """Return the choice that is `asked` for, or `default` where this node does not know it.

    The latter is not refused, since every node reads a tar.gz: `warn` gets a line about it.
    """
    if not asked:
        return default
    try:
        return type(default)(asked)
    except ValueError:
        warn(f"{what} {asked[:40]!r} is not one that this node writes: it sends {default.value}")
        return default


def size_limit(server: Server) -> int | None:
    """Return the bytes that the server's files may have, None without a limit."""
    return ArchiveLimits.disk_bytes(server.configuration.settings.build.disk_space)


@attrs.define(eq=False, repr=False, slots=False)
class StreamSending:
    """Sends a server as one stream, or with further ones.

    Its storage pool may have the files: then the destination need not read the body.
    """

    _log = Logger()
    is_asked = False

    _subject: Subject
    _parts: OutgoingParts
    _destination: PeerClient
    _pool: SourcePool

    def __attrs_post_init__(self) -> None:
        self._error: BaseException | None = None
        self._streams: list[SentStream] = []
        self._packed: list[Packed] = []

    async def send(self, warn: Callable[[str], None], patience: float) -> None:
        """Send all; return when the last bytes are on their way, however long that takes.

        `warn` gets a line for each member that is left out or sent otherwise, from any thread.
        Raises the error of the first request to fail; all others have then ended as well.
        """
        subject, parts = self._subject, self._parts
        asked, say = subject.request, subject.steps.warn
        form = _choice(asked.archive_format, ArchiveFormat.TAR_GZ, "the archive format", say)
        level = _choice(asked.compression_level, parts.compression, "the compression level", say)
        sources = await self._sources()
        subject.steps.cancel_scope.check()
        subject.meter.start()  # again, without the seconds that dividing the server took
        streams = [
            SentStream(subject, parts, source, number, form, level, warn)
            for number, source in enumerate(sources)
        ]
        for stream in streams:
            stream.start(self._destination, len(streams) - 1, self._pool.headers)
        self._streams = streams
        for stream in streams:
            stream.request.answer.addErrback(self._fail)
        notice = StandstillNotice(
            parts.reactor,
            lambda: self.bytes_out,
            lambda: any(stream.body.is_paused for stream in streams),
            warn,
        )
        with notice:
            await self._send()

    async def _sources(self) -> Sequence[Part | None]:
        """Return what each stream has of the server's files; None where they are there already."""
        server, further = self._subject.server, self._subject.further
        directory, limit = self._parts.servers.directory(server.uuid), size_limit(server)
        if not further:
            return [None if self._pool.has_files else Part(directory, limit=limit)]
        splitting = self._parts.packers.run(split, directory, 1 + further, limit)
        return await self._subject.steps.cancel_scope.wait(splitting)

    async def _send(self) -> None:
        first, *others = self._streams
        is_joined = JOINS_STREAMS in self._subject.features or not others
        jobs = [
            self._work(each, partial(each.write, ends=is_joined or each is not first))
            for each in self._streams
        ]
        done = await DeferredList([Deferred.fromCoroutine(job) for job in jobs])
        if not is_joined and self._error is None:
            answers = DeferredList([stream.request.answer for stream in others])
            await fires_within(answers, HOLD_BACK, self._parts.reactor)
            if self._error is None:
                await self._work(first, first.end)
        if self._error is not None:
            raise self._error
        self._packed = [packed for _, packed in done if packed is not None]

    async def answered(self, has_moved: Callable[[], Awaitable[bool]], patience: float) -> None:
        """Return when the destination has accepted all; raise the reason why it has not.

        That is `DestinationTimeout` when it does not answer in `answer_timeout`. Nothing else is
        asked, and all of that time is given.
        """
        limit, clock = self._parts.config.answer_timeout, self._parts.reactor
        answers = DeferredList([stream.request.answer for stream in self._streams])
        if limit and not await fires_within(answers, limit, clock):
            self._fail(Failure(DestinationTimeout(limit)))
        await answers
        if self._error is not None:
            raise self._error

    def log_sent(self) -> None:
        """Log how much was sent, and record it; nothing where the destination had the files."""
        packed, subject = self._packed, self._subject
        if not packed:
            return
        size = sum(each.archive_bytes for each in packed)
        files = sum(each.counts[Kind.FILE] + each.counts[Kind.HARD_LINK] for each in packed)
        subject.steps.set_figures(size, files)
        # The seconds include those of the backups.
        size += sum(backup.size for backup in subject.backups)
        size += sum(point.name.size for point in subject.points)
        self._log.info(
            "{server}: sent {bytes} bytes, {files} files, {seconds:.1f} s, {rate}/s",
            server=subject.server.uuid,
            bytes=size,
            files=files,
            seconds=subject.meter.seconds,
            rate=readable_size(size / max(subject.meter.seconds, 0.001)),
        )
        if left_out := sum(each.without_attributes for each in packed):
            is_kept = KEEPS_ATTRIBUTES in self._subject.features
            reason = "they have too many" if is_kept else "the destination does not keep them"
            subject.steps.warn(attributes_line(left_out, reason))

    async def close(self) -> None:
        """Close what a seed has read, which only a move goes on with."""
        if self._subject.kept is not None:
            await self._parts.packers.run(self._subject.kept.close)

    def abort(self) -> None:
        """Close all connections at once."""
        for stream in self._streams:
            stream.request.abort(CancelledError())

    @property
    def begun(self) -> bool:
        """True if the destination may have the headers of any."""
        return any(stream.request.begun for stream in self._streams)

    @property
    def body_sent(self) -> bool:
        """True if the last byte of each was handed over: only now can the node have it all."""
        streams = self._streams
        return bool(streams) and all(stream.request.request_sent for stream in streams)

    @property
    def bytes_out(self) -> int:
        """The number of bytes sent so far."""
        return sum(stream.body.bytes_out for stream in self._streams)

    @property
    def read(self) -> int:
        """The number of bytes read of the server's files."""
        return sum(stream.read for stream in self._streams)

    @property
    def files(self) -> int:
        """The number of the server's files that have been read."""
        return sum(stream.files for stream in self._streams)

    async def _work(self, stream: SentStream, work: Callable[[], T]) -> T | None:
        """Write for a stream in a thread; where that fails, all fail, and None is returned."""
        try:
            return await self._parts.packers.run(work)
        except OutflowClosed as closed:
            await stream.request.answer  # which has the reason
            if not self._pool.headers:
                self._fail(Failure(closed))
        except Exception:
            self._fail(Failure())
        return None

    def _fail(self, failure: Failure) -> None:
        if self._error is None:
            self._error = failure.value
            self.abort()
