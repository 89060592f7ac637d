"""The requests of the source of one move: sessions, batches, rounds, attachments, the commit.

There is one session at a time; the requests of an earlier one are refused, and what is under way
of it ends before the next one begins. A batch holds a slot while it is read, in a thread.

Attachments, backups and the installation log, arrive in pieces. A piece is appended to a file
beside the staged ones, which gets its name when the whole has the SHA-256 that was sent. That is
blocking, for one thread at a time each.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeAlias, TypeVar

import attrs
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from wingsd.archive.quota import require_free_space
from wingsd.backups.received import FollowingFiles, ReceivedBackups, write_all
from wingsd.backups.store import Backup, backup_at
from wingsd.errors import (
    AttachmentMissing,
    AttachmentOffsetWrong,
    AttachmentsIncomplete,
    MoveBatchTooLarge,
    MoveBusy,
    MoveCommitted,
    MoveRequestInvalid,
    MoveResumeNeeded,
    WingsdError,
)
from wingsd.moves.batch import BatchReader
from wingsd.moves.tree import MoveLimits, Resumption
from wingsd.statedb import POINT, ArrivingBackup
from wingsd.threadio import Feed, Workers
from wingsd.transfers.coordinator import ReceivingCoordinator
from wingsd.transfers.incoming.moves.partial_copy import CopyUpkeep, PartialCopy, room_errors
from wingsd.transfers.incoming.transfer import IncomingParts, IncomingUpload
from wingsd.transfers.peer.moves import MOST_BACKUPS
from wingsd.transfers.storage.staging import LOG_LIMIT, InstallLogs
from wingsd.util.deferreds import Changes, fires_within, when_fired
from wingsd.util.durable import storage_errors
from wingsd.util.reactor import ThreadedReactor
from wingsd.util.serialization import Keywords
from wingsd.util.text import canonical_uuid

if TYPE_CHECKING:
    from wingsd.histories.following import DeltaFiles

#: Above the number of any point.
MOST_POINTS = 1 << 60
#: The name of the installation log.
LOG = "install.log"
#: The files of attachments.
_Store: TypeAlias = "ReceivedBackups | InstallLogs | FollowingFiles | DeltaFiles"


@attrs.frozen(repr=False)
class MovedBackup:
    """A local backup that comes with the server; `path` is its path among the backups.

    It was `made` then, in seconds since the epoch, where that is said.
    """

    uuid: Annotated[str, Keywords(format="uuid")]
    path: str
    bytes: Annotated[int, Keywords(minimum=0)]
    made: float = 0.0


@attrs.frozen(repr=False)
class MovedPoint:
    """A backup of a server that is the point `number` of its history.

    Its files have so many `bytes`; it was `made` then, in seconds since the epoch.
    """

    uuid: Annotated[str, Keywords(format="uuid")]
    number: Annotated[int, Keywords(minimum=1)]
    bytes: Annotated[int, Keywords(minimum=0)] = 0
    made: float = 0.0


@attrs.frozen(repr=False)
class MovedHistory:
    """The history of a server, which follows it: the highest number that a point of it may have.

    So many `bytes` of deltas belong to it. The `backups` are points of it.
    """

    newest: Annotated[int, Keywords(minimum=1)]
    bytes: Annotated[int, Keywords(minimum=0)] = 0
    backups: tuple[MovedPoint, ...] = ()


def check_announced(announced: Sequence[MovedBackup], log: int | None = None) -> None:
    """Raise `MoveRequestInvalid` for attachments that this node cannot take."""
    if len(announced) > MOST_BACKUPS:
        raise MoveRequestInvalid(f"it announces more than {MOST_BACKUPS} backups")
    known = set()
    for each in announced:
        uuid = announced_backup(each).uuid
        if uuid in known:
            raise MoveRequestInvalid(f"the backup {uuid} is announced twice")
        known.add(uuid)
    if log is not None and not 0 <= log <= LOG_LIMIT:
        raise MoveRequestInvalid(f"the log has {log} bytes, and at most {LOG_LIMIT} are taken")


class Attachment:
    """One attachment, of `size` bytes, which grows in a file until it is whole.

    The files are those that `store` has for `key`: a server's UUID, and one of its backups; or
    the record of a backup that follows its server.
    """

    def __init__(self, name: str, size: int, store: _Store, *key: Any) -> None:
        self.name = name
        self.size = size
        self.store = store
        self.key = key
        #: How many bytes of it have arrived here; other threads only look at it.
        self.arrived = 0
        #: The SHA-256 of the whole, empty before; and the hash of so many bytes, where all of
        #: these have arrived in order here.
        self._sha256 = ""
        self._hash: tuple[int, hashlib._Hash] | None = None

    def part(self) -> Path:
        """Return the file in which it grows."""
        return self.store.part(*self.key)

    def whole(self) -> Path | None:
        """Return the file that is whole, None before."""
        return self.store.whole(*self.key)

    @property
    def offset(self) -> int:
        """The number of bytes that are here."""
        if self.whole() is not None:
            return self.size
        try:
            return self.part().stat().st_size
        except FileNotFoundError:
            return 0

    def require_room(self, reserve: int) -> None:
        """Raise `MoveNoSpace` where the rest of it does not fit on the disk."""
        rest = self.size - self.offset
        if rest > 0:
            directory = self.part().parent
            with storage_errors(directory):
                found = os.statvfs(directory)
            _require_space(found, reserve, self.name, rest)

    def append(self, offset: int, sha256: str, blocks: Iterator[bytes], reserve: int) -> int:
        """Append a piece that begins at `offset`; return how many bytes are here.

        With `sha256` it is the last one, and the whole is compared. What has arrived of a piece
        that breaks off stays. Raises `AttachmentOffsetWrong`, and what `blocks` raises.
        """
        here = self.offset
        if offset != here:
            raise AttachmentOffsetWrong(here)
        if self.whole() is None:
            here = self._write(here, blocks, reserve)
        else:
            for _ in blocks:
                raise MoveRequestInvalid(f"{self.name} is complete, and the piece has more of it")
        if sha256:
            self._finish(here, sha256)
        return here

    def _write(self, at: int, blocks: Iterator[bytes], reserve: int) -> int:
        """Append a piece that begins `at` the end; return how many bytes are here."""
        known = self._hash if at else (0, hashlib.sha256())
        hasher = known[1] if known is not None and known[0] == at else None
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        path = self.part()
        with storage_errors(f"{path} cannot be written"):
            fd = os.open(path, flags, 0o600)
        try:
            for block in blocks:
                if at + len(block) > self.size:
                    raise MoveRequestInvalid(
                        f"{self.name} was announced with {self.size} bytes, and has more"
                    )
                if reserve:
                    _require_space(os.fstatvfs(fd), reserve, self.name, len(block))
                with storage_errors(f"{path} cannot be written"):
                    write_all(fd, block)
                at += len(block)
                self.arrived += len(block)
                if hasher is not None:
                    hasher.update(block)
                    self._hash = (at, hasher)
        finally:
            os.close(fd)
        return at

    def _finish(self, here: int, sha256: str) -> None:
        """Stage what is here, if it has that SHA-256, and delete it otherwise."""
        if here != self.size:
            raise MoveRequestInvalid(
                f"{self.name} was announced with {self.size} bytes, and ends at {here}"
            )
        part, whole = self.part(), self.whole()
        if (self._sha256 or self._read(whole or part)) != sha256:
            self.store.drop(*self.key)
            self._sha256 = ""
            raise AttachmentOffsetWrong(0, f"{self.name} does not fit its SHA-256; send it again")
        if whole is None:
            with storage_errors(f"{part} cannot be written"), open(part, "rb") as file:
                os.fsync(file.fileno())
            self.store.complete(*self.key, sha256=sha256)
        self._sha256 = sha256

    def _read(self, path: Path) -> str:
        """Return the SHA-256 of all that has arrived."""
        known, self._hash = self._hash, None
        with storage_errors(f"{path} cannot be read"):
            if known is not None and known[0] == path.stat().st_size:
                return known[1].hexdigest()
            with open(path, "rb", buffering=0) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()


@attrs.define(eq=False, repr=False, slots=False)
class Attachments:
    """The attachments of the move of `server`, as they were announced.

    Every method raises `StorageError`, `MoveNoSpace`, and `AttachmentMissing` for another name.
    """

    _server: str
    _beginning: MoveBeginning
    _parts: IncomingParts
    _reserve: int

    def __attrs_post_init__(self) -> None:
        """Raise `MoveRequestInvalid`; see `check_announced`."""
        server, parts, log = self._server, self._parts, self._beginning.log
        announced = self._beginning.backups
        check_announced(announced, log)
        #: The backups.
        self.backups = [announced_backup(each) for each in announced]
        every = [
            Attachment(backup.uuid, each.bytes, parts.backups, server, backup)
            for backup, each in zip(self.backups, announced, strict=True)
        ]
        if log is not None:
            every.append(Attachment(LOG, log, parts.logs, server))
        self._attachments = {each.name: each for each in every}
        #: The bytes of all.
        self.size = sum(each.size for each in every)

    @property
    def arrived(self) -> int:
        """The number of bytes that have arrived here."""
        return sum(each.arrived for each in self._attachments.values())

    def here(self) -> int:
        """Return how many bytes of all are here."""
        return sum(each.offset for each in self._attachments.values())

    def offset(self, name: str) -> int:
        """Return how many bytes of an attachment are here."""
        return self._attachment(name).offset

    def missing(self) -> list[str]:
        """Return the names of those that are not whole."""
        return [name for name, each in self._attachments.items() if each.whole() is None]

    def require_room(self) -> None:
        """Raise `MoveNoSpace` where what is still to come does not fit on the disk."""
        rest = self.size - self.here()
        if self._reserve and rest > 0:
            directory = next(iter(self._attachments.values())).part().parent
            with storage_errors(directory):
                found = os.statvfs(directory)
            _require_space(found, self._reserve, "the server's backups", rest)

    def append(self, name: str, offset: int, sha256: str, blocks: Iterator[bytes]) -> int:
        """Append a piece; see `Attachment.append`."""
        return self._attachment(name).append(offset, sha256, blocks, self._reserve)

    def _attachment(self, name: str) -> Attachment:
        try:
            return self._attachments[name]
        except KeyError:
            raise AttachmentMissing from None


def _require_space(found: os.statvfs_result, reserve: int, name: str, size: int) -> None:
    with room_errors():
        require_free_space(found, reserve, name, size)


def announced_backup(announced: MovedBackup) -> Backup:
    """Return the backup that is announced. Raises `MoveRequestInvalid`."""
    backup = backup_at(announced.path)
    if backup is None or canonical_uuid(announced.uuid) != backup.uuid or announced.bytes < 0:
        raise MoveRequestInvalid(
            f"the backup {announced.uuid[:80]!r} is not one that this node can store"
        )
    return backup


def check_history(announced: MovedHistory) -> None:
    """Raise `MoveRequestInvalid` for a history that this node cannot take."""
    if not 0 < announced.newest < MOST_POINTS:
        raise MoveRequestInvalid("the number of the history's newest point makes no sense")
    backups = announced.backups
    if len(backups) > MOST_BACKUPS or len({each.uuid for each in backups}) < len(backups):
        raise MoveRequestInvalid("the backups of the history are too many, or named twice")
    for each in backups:
        is_number = 0 < each.number <= announced.newest
        if canonical_uuid(each.uuid) != each.uuid or not is_number or each.bytes < 0:
            raise MoveRequestInvalid(f"{each.uuid[:80]!r} is no backup of the history")


def arriving_points(
    transfer: int, server: str, announced: Sequence[MovedPoint]
) -> list[ArrivingBackup]:
    """Return the records of backups that are points of a history that follows."""
    return [
        ArrivingBackup(
            each.uuid, transfer, server, POINT, each.bytes, each.made, newest=each.number
        )
        for each in announced
    ]


def arriving_backups(
    transfer: int, server: str, announced: Sequence[MovedBackup]
) -> list[ArrivingBackup]:
    """Return the records of backups that follow a server. Raises `MoveRequestInvalid`."""
    check_announced(announced)
    made = [(each, announced_backup(each)) for each in announced]
    return [
        ArrivingBackup(backup.uuid, transfer, server, backup.suffix, each.bytes, each.made)
        for each, backup in made
    ]


T = TypeVar("T")
#: Reads the blocks of a body in a thread; returns the number that its sender is answered.
_Work = Callable[[Iterator[bytes]], int]

#: Seconds that a batch waits for a slot, so that no proxy ends the request meanwhile.
TURN = 20.0
#: Seconds after which a request is answered that is still being worked for.
ANSWERED_WITHIN = 20.0
_MIB = 1 << 20
_UNLIMITED = 1 << 62


@attrs.frozen(eq=False, repr=False)
class MoveBeginning:
    """The source's announcement of the server; `log` may be None.

    `bytes` counts the holes of sparse files, `disk_bytes` does not; these and `files` may be 0.
    `running` is whether it runs there: its container is there until the commit. With `follow` it
    is a seed: the copy follows the server for as long as need be. Before `version` 2 nothing has
    extended attributes.
    """

    family: str = ""
    bytes: int = 0
    disk_bytes: int = 0
    files: int = 0
    backups: tuple[MovedBackup, ...] = ()
    log: int | None = None
    running: bool = False
    follow: bool = False
    version: int = 1


class Phase:
    """The phases of a move, as its `GET` has them."""

    OPEN = "open"
    COMMIT = "commit"
    OVER = "over"


@attrs.frozen(repr=False)
class Commit:
    """The round that a source wants committed; `running` is whether the server ran there.

    `backups` are local backups that follow the server when it has moved, as its `history` does.
    """

    round: int
    root: bytes
    running: bool
    backups: tuple[MovedBackup, ...] = ()
    history: MovedHistory | None = None


class ArrivingBody(Feed):
    """The body of a request, of bounded size, that waits for its turn or is being read."""

    def __init__(self, stream: IncomingUpload, most: int, reactor: ThreadedReactor) -> None:
        super().__init__(reactor)
        self.stream = stream
        #: The slot that it waits for.
        self.turn: Deferred[Any] | None = None
        self.over: Deferred[None] = Deferred()
        self._left = self._most = most
        self._clock = reactor
        #: Fires when all of it has arrived, or is not waited for.
        self._arrived: Deferred[None] = Deferred()

    def write(self, data: bytes) -> None:
        """Take a piece. Raises `MoveBatchTooLarge`."""
        self._left -= len(data)
        if self._left < 0:
            raise MoveBatchTooLarge(self._most)
        super().write(data)

    def finish(self) -> None:
        """Take the end."""
        self.unregisterProducer()
        super().finish()
        self._end(None)

    def fail(self, error: BaseException) -> None:
        """Raise `error` in the thread."""
        self.unregisterProducer()
        super().fail(error)

    async def read(self, workers: Workers, work: Callable[[Iterator[bytes]], T]) -> T:
        """Read it in a thread; what still arrives after an error is discarded."""
        self.stream.deliver(self)
        try:
            return await workers.run(work, self.blocks())
        except WingsdError as error:
            self.stream.stop(error)
            raise
        finally:
            self.close()

    async def answered(self, reading: Deferred[T]) -> T:
        """Return what reading it results in.

        Raises `MoveBusy` some seconds after all of it has arrived: reading it goes on then.
        """
        reading.addBoth(self._end)
        await self._arrived
        return (await _fired(_kept(reading), self._clock))()

    def _end(self, result: T) -> T:
        if not self._arrived.called:
            self._arrived.callback(None)
        return result

    def stop(self, error: WingsdError) -> None:
        """Read no further, nor wait for a slot."""
        self.stream.stop(error)
        if self.turn is not None and not self.turn.called:
            self.turn.cancel()


@attrs.define(eq=False, repr=False, slots=False)
class Inbox:
    """The requests of one move, between its admission and its end.

    `move` is its id. `disk_space` is the server's limit in MiB, as the Panel has it. The phase,
    session and round are among `changes`, and `on_session` is called when a session begins, with
    what is held. The `coordinator` may limit what a seed takes. Each method raises the
    `WingsdError` that its request is answered with. `open` is called first, in a thread.
    """

    _log = Logger()

    _server: str
    _move: str
    _beginning: MoveBeginning
    _disk_space: int
    _parts: IncomingParts
    _changes: Changes
    _on_session: Callable[[Resumption], object]
    _coordinator: ReceivingCoordinator

    def __attrs_post_init__(self) -> None:
        server, parts, beginning = self._server, self._parts, self._beginning
        settings = parts.config.moves
        limits = parts.limits.for_server(self._disk_space)
        size = limits.disk if limits.disk is not None else _UNLIMITED
        self.copy = PartialCopy(
            server,
            bytes.fromhex(self._move),
            parts.copies,
            MoveLimits(limits.members, size),
            parts.owner,
            attributes=beginning.version > 1,
            room=self._coordinator.room,
            pair=self._coordinator.pair_identity,
        )
        rereaders = parts.rereaders if settings.reread else None
        self.upkeep = CopyUpkeep(server, self.copy, parts.long, rereaders, parts.reactor)
        self.attachments = Attachments(server, beginning, parts, limits.reserve)
        #: Bytes that count as held beside those that have arrived.
        self._held = 0
        #: What the server's files take on the disk, and how many there are; 0 if not known.
        self.disk_bytes = beginning.disk_bytes
        self.disk_files = beginning.files if beginning.disk_bytes else 0
        self.phase = Phase.OPEN
        #: The present session; empty without.
        self.session = ""
        #: How many sessions there were in this daemon.
        self.sessions = 0
        #: Why the last commit came to nothing, until the next session.
        self.setback: WingsdError | None = None
        self._disk = parts.long
        #: How many bytes a batch may have, and how many bodies may be under way at once.
        self._most, self._streams = settings.batch * _MIB, settings.streams
        self._bodies: dict[str, ArrivingBody] = {}
        self._resuming: KeptWork[Resumption] = KeptWork(parts.reactor)
        #: The request that began a session last, or is about to.
        self._resumer = object()
        self._closing: KeptWork[None] = KeptWork(parts.reactor)
        self._commit: Deferred[Commit] | None = None
        #: What was asked to be committed, until another session begins.
        self._committed: Commit | None = None
        self._is_committing = False
        self._closed: WingsdError | None = None

    def open(self, *, is_new: bool) -> int:
        """Begin the copy, or open it again; return how many bytes it has. Blocking."""
        # All that is staged is put into place with the server: an earlier move may have left more.
        self._parts.backups.retain(self._server, self.attachments.backups)
        self._parts.logs.retain(self._server, self._beginning.log)
        self._held = self.copy.begin() if is_new else self.copy.reopen()
        return self._held

    @property
    def arrived(self) -> int:
        """Bytes of files and attachments that have arrived in this daemon."""
        return self.copy.arrived + self.attachments.arrived

    @property
    def held(self) -> int:
        """Bytes of files and attachments that are here; what was here before included.

        Blocks that come again in one session count again, up to the size of all files.
        """
        most = self.copy.progress.bytes + self.attachments.size
        return min(self._held + self.arrived, most)

    def to_come(self) -> tuple[int, int]:
        """Return how many bytes of files are not here yet, and how many files. Blocking."""
        here = max(self.held - self.attachments.here(), 0)
        return max(self.disk_bytes - here, 0), max(self.disk_files - self.copy.progress.files, 0)

    # Requests of the source

    async def resume(self) -> tuple[str, Resumption]:
        """Begin a session and a round; return its name, and what is held."""
        self._check_open()
        if self._is_committing:
            raise MoveCommitted
        self._resumer = mine = object()
        self.session, self._committed = "", None
        self.upkeep.reads_behind = True
        held = await self._resuming.result("resume", self._rebased)
        self._check_open()
        if self._resumer is not mine:
            raise MoveResumeNeeded
        self._resuming.forget()
        # another session may have begun when this one is answered
        self.session = session = secrets.token_hex(8)
        self.setback = None
        self.phase = Phase.OPEN
        self.sessions += 1
        attached = await self._disk.run(self.attachments.here)
        self._held = held.bytes + attached - self.arrived
        self._on_session(held)
        self._changes.changed()
        return session, held

    async def _rebased(self) -> Resumption:
        await self._end_bodies(MoveResumeNeeded())
        async with self._turn():
            return await self._parts.workers.run(self.copy.resume)

    async def page(self, session: str, number: int) -> bytes:
        """Return a page of what is held."""
        self._check(session)
        return await self._disk.run(self.copy.page, number)

    async def receive_batch(
        self, session: str, number: int, stream: IncomingUpload, *, zstd: bool
    ) -> int:
        """Receive a batch; return the number up to which all are durable."""
        self._check(session)
        reader = BatchReader(zstd=zstd, most=self._most)

        def receive(pieces: Iterator[bytes]) -> int:
            return self.copy.receive(number, reader, pieces)

        durable = await self._read(f"batch {number}", session, stream, receive)
        self.upkeep.flush_soon()
        self.upkeep.read_behind()
        return durable

    async def close_round(self, session: str, in_round: int, last: int, root: bytes) -> None:
        """Close a round."""
        self._check(session)
        asked = (session, in_round, last, root)
        await self._closing.result(asked, lambda: self._closed_round(in_round, last, root))
        self._closing.forget()

    async def _closed_round(self, in_round: int, last: int, root: bytes) -> None:
        await self.upkeep.prepare_root()
        await self._disk.run(self.copy.close_round, in_round, last, root)
        self._changes.changed()

    async def offset(self, session: str, name: str) -> int:
        """Return how many bytes of an attachment are here."""
        self._check(session)
        return await self._disk.run(self.attachments.offset, name)

    async def receive_piece(
        self, session: str, name: str, offset: int, sha256: str, stream: IncomingUpload
    ) -> int:
        """Receive a piece of an attachment; return how many bytes of it are here."""
        self._check(session)

        def receive(pieces: Iterator[bytes]) -> int:
            return self.attachments.append(name, offset, sha256, pieces)

        with self._parts.write_back.during():  # batches have checkpoints
            return await self._read(name, session, stream, receive)

    async def commit(self, session: str, commit: Commit) -> None:
        """Ask for the server to be put into place. Doing so twice is allowed."""
        if self._committed == commit:
            return  # also when it has gone on since: the answer was lost
        self._check_open()
        self._check(session)
        await self._disk.run(self.copy.check_committable, commit.round, commit.root)
        missing = await self._disk.run(self.attachments.missing)
        if missing:
            raise AttachmentsIncomplete(", ".join(missing))
        if self._committed == commit:
            return
        self._check(session)
        self._committed, self.phase = commit, Phase.COMMIT
        self.upkeep.reads_behind = False
        self._changes.changed()
        if self._commit is not None:
            asked, self._commit = self._commit, None
            asked.callback(commit)

    # Calls of the transfer

    def committed(self) -> Deferred[Commit]:
        """Return the next commit that is asked for."""
        if self._committed is not None:
            return succeed(self._committed)
        self._commit = Deferred()
        return self._commit

    def is_withdrawn(self, commit: Commit) -> bool:
        """Return whether another session has begun since the commit was asked for."""
        return self._committed is not commit

    def reject(self, commit: Commit, error: WingsdError) -> None:
        """Note that a commit came to nothing, and why; the source has to resume."""
        if not self.is_withdrawn(commit):
            self.session, self._committed, self.setback = "", None, error
            self.phase = Phase.OPEN
            self.upkeep.reads_behind = self._closed is None
            self._changes.changed()

    async def verify(self, commit: Commit) -> None:
        """Read back what was not read back yet. Raises `RootMismatch`, `MoveResumeNeeded`."""
        if not self._parts.config.moves.reread:
            return

        def is_stopped() -> bool:
            return self._closed is not None or self.is_withdrawn(commit)

        await self.upkeep.end_reading()
        await self._disk.run(self.copy.checkpoint)
        async with self._turn(None):
            await self.upkeep.read_back(self._parts.workers, is_stopped)
        if is_stopped():
            raise MoveResumeNeeded
        self.copy.check_read_back()

    async def finish(self) -> int:
        """Set modes and times; return the bytes of all files when they are durable."""
        async with self._turn(None):
            return await self._parts.workers.run(self.copy.finish)

    def seal(self, commit: Commit) -> None:
        """Take no session any more: the server is put into place. Raises `MoveResumeNeeded`."""
        if self.is_withdrawn(commit):
            raise MoveResumeNeeded
        self._is_committing = True

    async def close(self, error: WingsdError) -> None:
        """Refuse all requests from now on, with `error`; return when none is under way."""
        self._closed = self._closed or error
        self.session = ""
        self._changes.changed()
        self.upkeep.stop()
        await self._end_bodies(error)
        await self.upkeep.end_reading()
        await self._resuming.ended()
        try:
            await self._disk.run(self.copy.close)
        except WingsdError as failure:
            self._log.warn("{server}: {error}", server=self._server, error=failure)

    # Bodies

    async def _read(self, name: str, session: str, stream: IncomingUpload, work: _Work) -> int:
        if stream.size > self._most:
            raise MoveBatchTooLarge(self._most)
        # One that is sent again takes the place of the earlier one.
        if name not in self._bodies and len(self._bodies) >= self._streams:
            raise MoveBusy(
                f"{self._streams} requests of the move are under way, as many as it may have "
                "(system.transfers.moves.streams); wait for the end of one"
            )
        body = ArrivingBody(stream, self._most, self._parts.reactor)
        reading = self._read_alone(name, session, body, work)
        return await body.answered(Deferred.fromCoroutine(reading))

    async def _read_alone(self, name: str, session: str, body: ArrivingBody, work: _Work) -> int:
        """Read a body when an earlier one of the same name has ended."""
        stream, earlier = body.stream, self._bodies.get(name)
        self._bodies[name] = body
        try:
            if earlier is not None:
                # Its connection may be half open, and not be heard of for minutes.
                earlier.stop(MoveResumeNeeded("the request was sent again"))
                if not await fires_within(earlier.over, TURN, self._parts.reactor):
                    raise MoveBusy("an earlier request with it is still being worked for")
            async with self._turn(body=body):
                self._check(session)
                return await body.read(self._parts.workers, work)
        except WingsdError as error:
            stream.stop(error)
            raise
        finally:
            if earlier is None or earlier.over.called:
                self._ended(name, body)
            else:  # both are over when the earlier one is
                when_fired(earlier.over).addCallback(lambda _: self._ended(name, body))

    def _ended(self, name: str, body: ArrivingBody) -> None:
        """Note that a body, and all before it of the same name, are worked for no more."""
        if self._bodies.get(name) is body:
            del self._bodies[name]
        body.over.callback(None)

    async def _end_bodies(self, error: WingsdError) -> None:
        while self._bodies:
            body = next(iter(self._bodies.values()))
            body.stop(error)
            await when_fired(body.over)

    # Checks

    def _check_open(self) -> None:
        if self._closed is not None:
            raise self._closed

    def _check(self, session: str) -> None:
        self._check_open()
        if self._is_committing:
            raise MoveCommitted
        if not session:
            raise MoveResumeNeeded(
                "the request has no session; see whether a proxy in front of this node drops what "
                "follows the ? of an address"
            )
        if session != self.session:
            raise MoveResumeNeeded
        if self._committed is not None:
            raise MoveCommitted

    @asynccontextmanager
    async def _turn(
        self, within: float | None = TURN, body: ArrivingBody | None = None
    ) -> AsyncIterator[None]:
        """Hold a slot. Raises `MoveBusy` where none is free in time."""
        slots = self._parts.slots
        turn = slots.acquire(self._server)
        if body is not None:
            body.turn = turn
        if within is not None:
            turn.addTimeout(within, self._parts.reactor)
        try:
            await turn
        except CancelledError:
            if body is None:
                raise
            raise MoveResumeNeeded from None
        except defer.TimeoutError:
            raise MoveBusy(
                f"other servers arrive, and no turn came within {within:g} s; send it again"
            ) from None
        try:
            yield
        finally:
            slots.release(self._server)


class KeptWork(Generic[T]):
    """One piece of work at a time, which goes on after the request that asked for it has ended."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._asked: object = None
        self._work: Deferred[Callable[[], T]] | None = None

    async def result(
        self, asked: object, begin: Callable[[], Coroutine[Deferred[Any], Any, T]]
    ) -> T:
        """Return what the work results in that was `asked` for; begin it if need be.

        Other work that is under way ends first. Raises what the work raises, and `MoveBusy` as
        `_fired`. The result is kept until `forget`.
        """
        while (work := self._work) is not None and self._asked != asked and not work.called:
            await _fired(work, self._clock)
        if work is None or self._asked != asked:
            self._asked = asked
            self._work = work = _kept(Deferred.fromCoroutine(begin()))
        result = await _fired(work, self._clock)
        try:
            return result()
        except Exception:
            self.forget()
            raise

    def forget(self) -> None:
        """Forget the result: the work is done again when it is asked for."""
        self._work = self._asked = None

    async def ended(self) -> None:
        """Return when nothing is under way."""
        if self._work is not None:
            await when_fired(self._work)


def _kept(work: Deferred[T]) -> Deferred[Callable[[], T]]:
    """Make some work fire with a function that returns its result, or raises its error."""
    kept: Deferred[Any] = work
    kept.addCallbacks(lambda result: lambda: result, lambda failure: failure.raiseException)
    return kept


async def _fired(work: Deferred[T], clock: IReactorTime) -> T:
    """Return the result; raise `MoveBusy` where it takes too long: the work goes on."""
    if not await fires_within(work, ANSWERED_WITHIN, clock):
        raise MoveBusy(
            f"what was asked for is under way for {ANSWERED_WITHIN:g} s and goes on; ask again"
        )
    result: Any = work.result
    return result  # type: ignore[no-any-return]
