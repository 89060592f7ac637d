"""Makes, lists, reports and deletes the backups of servers, also after a restart.

A backup is recorded before anything of it is written. It ends with the report of its outcome in
place of the record, which is sent to the Panel until that has answered. A daemon that dies before
that has left a part, or a complete archive with its catalogue: the next one removes the first and
reports the failure, or reports the success of the second. So the Panel shows no backup as being
made for ever, and no archive is removed because its report was not heard.

The archive is packed into a part, made durable, then put into place. The part has a name of its
own until the archive is complete and its catalogue is written, so a file with the name of a backup
is always a whole one. The program of the server goes on meanwhile: what changes while it is read
is handled as GNU tar does.

With `system.backups.wings.kind: history` a local backup is a point of the server's history that
has its UUID as a name: it is there as soon as it has that, durably (see `points`).

A backup leaves out files that are being written, and those of an ignore list with git's rules. The
list is the Panel's; where that is empty, a file in the server's directory: `.pteroignore`, with
Pelican `.pelicanignore`, with Calagopus both. Calagopus' backups leave out what the egg's denylist
has as well, since its users cannot see that.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from types import MappingProxyType
from typing import TypeVar

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.archive.compress import ArchiveFormat, Compression
from wingsd.archive.pack import Packed, pack
from wingsd.archive.partition import Part
from wingsd.archive.policy import Kind, attributes_line
from wingsd.backups.catalogue import COMPLETE, VERSION, Catalogue
from wingsd.backups.points import CHECKSUM_TYPE, IgnoreList, MadePoint, PointBackups
from wingsd.backups.received import write_all
from wingsd.backups.s3 import S3Adapter
from wingsd.backups.store import BackupStore, MadeArchive, StoredBackup, UploadedPart
from wingsd.callbacks import CallbackQueue
from wingsd.config import CALAGOPUS, PELICAN, POINTS, PTERODACTYL
from wingsd.errors import (
    AdapterUnknown,
    BackupExists,
    BackupIgnoresEverything,
    BackupMissing,
    BackupOnItsWay,
    FileMissing,
    FileTypeRefused,
    FileWorkCancelled,
    IsDirectory,
    NoSpaceForBackup,
    StorageError,
    WingsdError,
)
from wingsd.events import (
    BACKUP_COMPLETED,
    BACKUP_DELETED,
    BACKUP_PROGRESS,
    BACKUP_STARTED,
    DAEMON_MESSAGE,
    Event,
    EventBus,
)
from wingsd.files.denylist import denylist_lines
from wingsd.files.guard import Progress
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.walk import opened, regular_bytes, walk
from wingsd.history.names import PointName
from wingsd.servers.operations import Operation, Operations
from wingsd.servers.server import Server
from wingsd.statedb import ArrivingState, BackupRecord, Outcome, ReportKind, StateDatabase
from wingsd.threadio import Workers, relayed
from wingsd.util.deferreds import when_fired
from wingsd.util.durable import storage_errors
from wingsd.util.reactor import Periodic, Reactor
from wingsd.util.text import disk_advice, display, readable_size

T = TypeVar("T")

#: Bytes after which the file system is asked how much is free.
_STEP = 8 << 20
#: The reserve is at most this part of the file system, as that of transfers.
_SHARE = 20
#: Bytes of an ignore file at most, as in Wings.
MAX_IGNORE_FILE = 32 << 10
_FILES: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        PTERODACTYL: (".pteroignore",),
        PELICAN: (".pelicanignore",),
        CALAGOPUS: (".pteroignore", ".pelicanignore"),
    }
)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


@attrs.frozen(repr=False)
class ArchiveTerms:
    """How the archives of a node are made.

    `checksum_type` is that for the Panel, `sha1` or `sha256`; `write_limit` are the bytes a second
    that are written of one, 0 for no limit; `reserve` are the bytes that stay free.
    """

    form: ArchiveFormat
    compression: Compression
    checksum_type: str
    write_limit: int
    reserve: int


def check_space(found: os.statvfs_result, reserve: int, needed: int) -> None:
    """Raise NoSpaceForBackup where `needed` more bytes do not leave `reserve` bytes free."""
    free = found.f_bavail * found.f_frsize
    reserve = min(reserve, found.f_blocks * found.f_frsize // _SHARE)
    if reserve and free - needed < reserve:
        raise NoSpaceForBackup(free, needed, reserve)


def keep_pace(began: float, done: int, limit: int, progress: Progress) -> None:
    """Sleep where `done` bytes since `began` are more than `limit` a second; 0 is no limit.

    Raises FileWorkCancelled.
    """
    while limit and (left := began + done / limit - time.monotonic()) > 0:
        progress.check()
        time.sleep(min(left, 0.1))


@contextmanager
def _writing(path: str) -> Iterator[None]:
    """Raise an OSError of this context as StorageError."""
    try:
        yield
    except OSError as error:
        # `disk_advice` is about servers that are sent.
        advice = disk_advice(error).partition(";")[0]
        raise StorageError(f"{path}: {advice}", "the backup could not be written") from error


@attrs.define(eq=False, repr=False)
class NewArchiveFile:
    """A backup's file that is being written, in blocks; a context manager."""

    _path: str
    _terms: ArchiveTerms
    _progress: Progress
    _grew: Callable[[int], None] | None = None
    _unseen: int = attrs.field(default=_STEP, init=False)
    #: The bytes written.
    size: int = attrs.field(default=0, init=False)
    _began: float = attrs.field(factory=time.monotonic, init=False)
    checksum: hashlib._Hash = attrs.field(init=False)
    _fd: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.checksum = hashlib.new(self._terms.checksum_type, usedforsecurity=False)
        with _writing(self._path):
            self._fd = os.open(self._path, _NEW, 0o600)

    def __enter__(self) -> NewArchiveFile:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        os.close(self._fd)
        if kind is not None:
            with suppress(OSError):
                os.unlink(self._path)

    def write(self, block: bytes) -> None:
        """Write a block. Raises NoSpaceForBackup, StorageError, FileWorkCancelled."""
        self._progress.check()
        self._unseen += len(block)
        with _writing(self._path):
            if self._unseen >= _STEP:
                self._unseen = 0
                check_space(os.fstatvfs(self._fd), self._terms.reserve, len(block))
            write_all(self._fd, block)
        self.checksum.update(block)
        self.size += len(block)
        if self._grew is not None:
            self._grew(self.size)
        keep_pace(self._began, self.size, self._terms.write_limit, self._progress)

    def sync(self) -> None:
        """Return when all of it is on stable storage. Raises StorageError."""
        with _writing(self._path):
            os.fsync(self._fd)


def ignore_lines(
    root: ServerRoot, given: str, family: str, warn: Callable[[str], None]
) -> tuple[str, ...]:
    """Return the lines of the ignore list `given` by the Panel, else of the server's files.

    `warn` gets a line for each file that is not used: links are not followed. Raises StorageError
    where one cannot be read.
    """
    if given.strip():
        return tuple(given.splitlines())
    lines: list[str] = []
    for name in _FILES[family]:
        with suppress(FileMissing):
            lines += _read(root, name, warn).splitlines()
    return tuple(lines)


def _read(root: ServerRoot, name: str, warn: Callable[[str], None]) -> str:
    try:
        with root.open_file(ServerPath.parse(name)) as file:
            if file.entry.size <= MAX_IGNORE_FILE:
                return file.read_at(0, MAX_IGNORE_FILE).decode("utf-8", "replace")
            reason = "is too large"
    except (FileTypeRefused, IsDirectory):
        reason = "is not a regular file"
    warn(
        f"{name} {reason}, and is not used: the backup leaves out nothing that it lists; make it "
        f"a file of at most {MAX_IGNORE_FILE >> 10} KiB, or delete it"
    )
    return ""


def new_part(store: BackupStore, place: str) -> str:
    """Return the path of the part of a new archive, whose directory is made."""
    path = store.part_path(place)
    directory = os.path.dirname(path)
    with _writing(directory):
        os.makedirs(store.directory, exist_ok=True)
        if directory != store.directory:
            with suppress(FileExistsError):
                os.mkdir(directory, 0o700)
    return path


def _require_content(packed: Packed, ignore: IgnoreList) -> None:
    """Raise BackupIgnoresEverything where nothing but directories was packed."""
    kept = packed.counts[Kind.FILE] + packed.counts[Kind.SYMLINK] + packed.counts[Kind.HARD_LINK]
    if ignore.dropped and not kept:
        raise BackupIgnoresEverything


#: Seconds between two events of progress, as Calagopus' nodes send them, and between two messages
#: in the console.
_PROGRESS_EVERY, _MESSAGE_EVERY = 1.0, 60.0
#: Seconds to wait for the Panel's answer before the events of the end: a page may load it again.
ANSWER_PATIENCE = 10.0
#: Lines about files that the console shows of one backup; the log has all.
_SHOWN_WARNINGS = 3


def checksum_type_of(family: str) -> str:
    """Return the type of checksum that a family's Panel expects."""
    return "sha256" if family == CALAGOPUS else "sha1"


@attrs.frozen
class BackupResult:
    """How a backup has ended. `made` is None for a failure, `parts` for a local backup."""

    family: str
    backup: str
    made: Catalogue | PointName | None = None
    parts: Sequence[UploadedPart] | None = None

    @property
    def outcome(self) -> Outcome:
        """A success if it was made."""
        return Outcome.FAILURE if self.made is None else Outcome.SUCCESS

    def report(self) -> dict[str, object]:
        """Return the body of the call to the Panel; each of its keys must be there."""
        checksum, checksum_type, size, files = "", checksum_type_of(self.family), 0, 0
        match self.made:
            case Catalogue() as made:
                checksum, checksum_type = made.checksum, made.checksum_type
                size, files = made.bytes, made.files or 0
            case PointName() as name:
                checksum, checksum_type = name.root, CHECKSUM_TYPE
                size, files = name.size, name.files
        body: dict[str, object] = {
            "checksum": checksum,
            "checksum_type": checksum_type,
            "size": size,
            "successful": self.made is not None,
            "parts": None if self.parts is None else [attrs.asdict(each) for each in self.parts],
        }
        if self.family == CALAGOPUS:
            body |= {"files": files, "browsable": False, "streaming": False}
        return body

    def events(self) -> Iterator[tuple[str, ...]]:
        """Yield the events of the end: their names and arguments.

        Of the families but Calagopus, pages wait for the name with the backup's UUID, and others
        for the name alone.
        """
        report = self.report()
        if self.family == CALAGOPUS:
            del report["parts"]
            yield BACKUP_COMPLETED, self.backup, json.dumps(report)
            return
        data = json.dumps(
            {
                "uuid": self.backup,
                "is_successful": report["successful"],
                "checksum": report["checksum"],
                "checksum_type": report["checksum_type"],
                "file_size": report["size"],
            }
        )
        yield f"{BACKUP_COMPLETED}:{self.backup}", data
        yield BACKUP_COMPLETED, data


async def missing_backup(database: StateDatabase, server: str, backup: str) -> WingsdError:
    """Return why a backup of a server is not here: it may be on its way from another node."""
    is_coming = await database.coming(server, backup)
    return BackupOnItsWay() if is_coming else BackupMissing(backup)


class _LeftServer:
    """A server by its UUID, which may not be loaded yet, or may have left this node."""

    _log = Logger()

    def __init__(self, uuid: str, bus: EventBus) -> None:
        self.uuid = uuid
        self._bus = bus
        #: Its files are in the archive: nothing that is done with them excludes the rest.
        self.operations = Operations()

    def say(self, message: str) -> None:
        """Show a message in the console, if it is open, and log it."""
        self._log.info("{server}: {message}", server=self.uuid, message=message)
        self.publish(DAEMON_MESSAGE, message)

    def publish(self, event: str, *args: str) -> None:
        """Publish an event."""
        self._bus.publish(Event(self.uuid, event, args))


@attrs.define(eq=False)
class _Making:
    """A backup that is being made, of the files in `directory`; `s3` takes one that is for S3.

    `point` makes one that is a point, while it does.
    """

    server: Server | _LeftServer
    directory: str
    uuid: str
    s3: S3Adapter | None
    is_point: bool = False
    point: Deferred[MadePoint] | None = None
    ignore: IgnoreList = attrs.field(factory=IgnoreList)
    progress: Progress = attrs.field(factory=Progress)
    over: Deferred[None] = attrs.field(factory=Deferred)
    #: Files that were left out, or that changed while they were read.
    warnings: int = 0

    def cancel(self) -> None:
        """End it soon."""
        self.progress.cancel()
        if self.s3 is not None:
            self.s3.interrupt(self.uuid)
        if self.point is not None:
            self.point.cancel()


@attrs.define(eq=False, repr=False, slots=False)
class Backups:
    """Makes the backups of all servers, as many at a time as `slots` has, and deletes them.

    `adapters` are the kinds of backups; that of a local one is None. The threads `workers` make
    the archives, `disk` does short work, `long` deletes.
    """

    family: str
    store: BackupStore
    points: PointBackups
    terms: ArchiveTerms
    database: StateDatabase
    _callbacks: CallbackQueue
    _bus: EventBus
    workers: Workers
    disk: Workers
    long: Workers
    reactor: Reactor
    _adapters: Mapping[str, S3Adapter | None]
    _slots: DeferredSemaphore
    _making: dict[str, _Making] = attrs.field(factory=dict, init=False)
    _stopped: bool = attrs.field(default=False, init=False)
    _log = Logger()

    # Begin

    @property
    def making(self) -> Mapping[str, str]:
        """The servers of the backups that are being made, by the backup's UUID."""
        return {uuid: making.server.uuid for uuid, making in self._making.items()}

    async def begin(self, server: Server, uuid: str, adapter: str, ignore: str) -> None:
        """Record a backup, and make it in the background; `ignore` are lines as in gitignore.

        Raises AdapterUnknown, ServerBusy, BackupExists, NoSpaceForBackup, StorageError.
        """
        if adapter not in self._adapters:
            raise AdapterUnknown(adapter, self._adapters)
        server.operations.check(Operation.BACKUP)
        if uuid in self._making or self._stopped:
            raise BackupExists
        making = _Making(server, server.directory, uuid, self._adapters[adapter])
        making.is_point = making.s3 is None and self.points.is_on
        self._making[uuid] = making
        try:
            making.ignore = await self._ignore_list(server, ignore)
            is_archive = not making.is_point
            if making.is_point:
                await self.points.check_new(server.uuid, uuid, making.ignore)
            await self.disk.run(self._check_place, server.uuid, uuid, is_archive=is_archive)
            kind, place = (adapter, self._place(making)) if is_archive else (POINTS, "")
            await self.database.begin_backup(uuid, server.uuid, kind, place)
        except BaseException:
            del self._making[uuid]
            making.over.callback(None)
            raise
        Deferred.fromCoroutine(self._run(making)).addErrback(self._broke_off, making)

    async def _ignore_list(self, server: Server, ignore: str) -> IgnoreList:
        family = self.family
        unused: list[str] = []
        lines = await server.files.run(
            lambda root: ignore_lines(root, ignore, family, unused.append)
        )
        for line in unused:
            server.say(f"backup: {line}")
        egg = server.configuration.settings.egg
        denied = denylist_lines(egg.file_denylist) if family == CALAGOPUS else ()
        return IgnoreList(lines, denied, f"the ignore list of {server.uuid}")

    def _check_place(self, server: str, backup: str, *, is_archive: bool) -> None:
        """Check that there is no such backup, and room for one as large as the last."""
        store = self.store
        if store.find("", backup) is not None:
            raise BackupExists
        if not is_archive:
            return
        made = [each for each in store.all(server) if each.catalogue is not None]
        last = max(made, key=lambda each: each.modified, default=None)
        with storage_errors(store.directory):
            os.makedirs(store.directory, 0o700, exist_ok=True)
            found = os.statvfs(store.directory)
        check_space(found, self.terms.reserve, 0 if last is None else last.size)

    # Cancel

    async def cancel(self, backup: str) -> bool:
        """Cancel a backup that is being made; return, when it has ended, whether it was."""
        making = self._making.get(backup)
        if making is None:
            return False
        making.cancel()
        await when_fired(making.over)
        return True

    async def ended(self, server: str) -> None:
        """Return when no backup of a server is being made."""
        for making in tuple(self._making.values()):
            if making.server.uuid == server:
                await when_fired(making.over)

    def stop(self) -> None:
        """Cancel all; after a restart their failure is reported, or an upload goes on."""
        self._stopped = True
        for making in self._making.values():
            making.cancel()

    # Delete

    async def owner(self, server: str, backup: str) -> str:
        """Return the server of a backup; empty where nothing tells whose it is.

        An empty `server` is any. Raises BackupMissing and StorageError.
        """
        making = self.making.get(backup)
        if making is not None and server in ("", making):
            return making
        found = await self._find(server, backup) or await self.points.find(server, backup)
        if found is None:
            raise BackupMissing(backup)
        return server or found.server

    async def delete(self, server: str, backup: str) -> None:
        """Delete a backup of a server; an empty `server` is any. One being made is cancelled.

        One that is on its way to this node is not taken any more. Raises BackupMissing,
        StorageError, and ServerBusy where it would wait for long: then it is still there.
        """
        is_known = bool(await self.end_coming(server, backup))
        if not is_known and server in ("", self.making.get(backup)):
            # It may have been complete before it was cancelled.
            is_known = await self.cancel(backup)
        if found := await self._find(server, backup):
            is_known = True
            await self.long.run(self.store.remove, found)
        if point := await self.points.find(server, backup):
            is_known = True
            await self.points.delete(point)
        await self.database.note_deleted(server, backup)
        if not is_known:
            raise BackupMissing(backup)

    async def delete_and_report(self, server: str, backup: str) -> None:
        """Delete a backup, and report the outcome to the Panel. An error is logged."""
        outcome = Outcome.SUCCESS
        try:
            await self.delete(server, backup)
        except WingsdError as error:
            self._log.error(
                "{server}: backup {backup} not deleted: {error}",
                server=server,
                backup=backup,
                error=error,
            )
            outcome = Outcome.FAILURE
        else:
            self._bus.publish(Event(server, BACKUP_DELETED, (backup,)))
        body = {"successful": outcome is Outcome.SUCCESS}
        kind = ReportKind.BACKUP_DELETION
        await self._callbacks.add_backup(server, backup, outcome, body, kind)

    async def delete_all(self, server: str) -> int:
        """Delete all backups that are known to be of a server; return how many.

        Raises as `delete`; others are deleted before.
        """
        for backup, owner in self.making.items():
            if owner == server:
                await self.cancel(backup)
        coming = await self.end_coming(server)
        found = await self.long.run(self.store.all, server)
        for each in found:
            await self.long.run(self.store.remove, each)
        points = await self.points.all(server)
        for point in points:
            await self.points.delete(point)
        await self.database.note_deleted(server)
        return len(found) + len(points) + coming

    async def end_coming(
        self, server: str, backup: str = "", state: ArrivingState = ArrivingState.DELETED
    ) -> int:
        """Take no more of what is on its way here, of one backup or all; return how many."""
        coming = await self.database.coming(server, backup)
        count: int = await self.database.end_coming(state, backup, server)
        for each in coming:
            if each.is_point:
                continue
            place = self.store.place(each.server, each.backup, each.suffix)
            if await self.long.run(self.store.at, place) is None:
                await self.long.run(self.store.remove_leftovers, place, each.backup)
        return count

    async def delete_with_server(self, server: str) -> None:
        """Delete all backups of a server that is deleted. An error is logged."""
        try:
            count = await self.delete_all(server)
        except WingsdError as error:
            self._log.error(
                "{server}: its backups were not deleted: {error}", server=server, error=error
            )
        else:
            if count:
                self._log.info("{server}: {count} backups deleted", server=server, count=count)

    async def _find(self, server: str, backup: str) -> StoredBackup | None:
        found: StoredBackup | None = await self.long.run(self.store.find, server, backup)
        return found

    # After a restart

    async def settle(self) -> None:
        """Settle the backups that an earlier daemon was making. A failure is logged.

        Those in this node's directory are complete or are removed, and are reported. An archive
        that is for a store is uploaded when it is complete.
        """
        records = await self.database.backups()
        wanted = {record.backup for record in records}
        wanted.update(each.backup for each in await self.database.coming())
        await self._remove_parts(wanted)
        for record in records:
            try:
                await self._settle(record)
            except WingsdError as error:
                self._log.error(
                    "{server}: backup {backup} is neither completed nor reported, the next start "
                    "tries again: {error}",
                    server=record.server,
                    backup=record.backup,
                    error=error,
                )

    async def _remove_parts(self, recorded: Collection[str]) -> None:
        """Remove what stays of archives that stores have; of some, when the Panel has answered."""
        unanswered = self._callbacks.unanswered_backups()

        def is_wanted(backup: str) -> bool:
            return backup in recorded or backup in unanswered or backup in self._making

        async def remove(is_wanted: Callable[[str], bool]) -> Collection[str]:
            try:
                return await self.disk.run(self.store.remove_parts, is_wanted)
            except StorageError as error:
                self._log.error("parts of backups not removed: {error}", error=error)
                return unanswered

        def remove_one(answered: str, _: object) -> Deferred[Collection[str]]:
            return Deferred.fromCoroutine(remove(lambda backup: backup != answered))

        kept = await remove(is_wanted)
        for backup in unanswered.keys() & kept:
            when_fired(unanswered[backup].answer).addCallback(partial(remove_one, backup))

    async def _settle(self, record: BackupRecord) -> None:
        adapter = self._adapters.get(record.adapter)
        made = None if adapter is None else await adapter.left_by(record)
        if adapter is not None and made is not None:
            self._log.info(
                "{server}: backup {backup} goes on", server=record.server, backup=record.backup
            )
            server = _LeftServer(record.server, self._bus)
            making = self._making[record.backup] = _Making(server, "", record.backup, adapter)
            Deferred.fromCoroutine(self._run(making, made)).addErrback(self._broke_off, making)
            return
        if record.adapter == POINTS:
            found = await self.points.find(record.server, record.backup)
            name = None if found is None else found.name
            result = BackupResult(self.family, record.backup, name)
        else:
            catalogue = await self.disk.run(self._left_by, record)
            result = BackupResult(self.family, record.backup, catalogue)
        self._log.info(
            "{server}: backup {backup} {how} when the node was stopped",
            server=record.server,
            backup=record.backup,
            how="was complete" if result.made else "was not complete, and is removed,",
        )
        await self._callbacks.add_backup(
            record.server, record.backup, result.outcome, result.report()
        )

    def _left_by(self, record: BackupRecord) -> Catalogue | None:
        """Return the catalogue of a backup that is complete; remove what is left of another."""
        store = self.store
        found = store.at(record.place)
        made = None if found is None else found.catalogue
        if found is not None and made is not None and found.size == made.bytes:
            return made
        store.remove_leftovers(record.place, record.backup)
        return None

    # Make

    async def _run(self, making: _Making, made: MadeArchive | None = None) -> None:
        try:
            with making.server.operations.during(Operation.BACKUP, making.cancel):
                result = await self._result(making, made)
            if result is not None:
                await self._end(making, result)
        finally:
            del self._making[making.uuid]
            making.over.callback(None)

    async def _result(self, making: _Making, made: MadeArchive | None) -> BackupResult | None:
        """Make a backup; return its result, None where the start of the daemon reports it."""
        server, uuid = making.server, making.uuid
        try:
            if making.is_point:
                point = await self._made(making, self._pointed)
                self._say_complete(making, point.name.size, point.unsettled)
                return BackupResult(self.family, uuid, point.name)
            if made is None:
                made = await self._made(making, self._packed)
            parts = await self._kept(making, made)
        except FileWorkCancelled:
            if self._stopped:
                return None
            server.say(f"The backup {uuid} was cancelled.")
        except WingsdError as error:
            server.say(f"The backup {uuid} failed: {error}")
        except CancelledError:
            raise
        except Exception:
            self._log.failure("{server}: backup {backup} failed", server=server.uuid, backup=uuid)
            server.say(f"The backup {uuid} failed unexpectedly; see the node's log.")
        else:
            changed = ""
            if made.warnings:
                changed = (
                    f" {made.warnings} files were left out, or changed while they were read; the "
                    "node's log names them."
                )
            server.say(f"The backup is complete: {readable_size(made.catalogue.bytes)}.{changed}")
            return BackupResult(self.family, uuid, made.catalogue, parts)
        return BackupResult(self.family, uuid)

    def _say_complete(self, making: _Making, size: int, unsettled: Sequence[bytes]) -> None:
        changed = ""
        if unsettled:
            named = ", ".join(map(display, unsettled[:_SHOWN_WARNINGS]))
            more = len(unsettled) - _SHOWN_WARNINGS
            changed = (
                f" {named}{f' and {more} more' if more > 0 else ''} changed each time while it "
                "was read: the backup has the file as it was before, or not if it is new."
            )
        making.server.say(f"The backup is complete: {readable_size(size)}.{changed}")

    async def _made(self, making: _Making, make: Callable[[_Making], Awaitable[T]]) -> T:
        telling = Periodic(self.reactor, self._tell_progress, making)
        # What takes the server may have begun while the backup was recorded.
        making.server.operations.check(Operation.BACKUP)
        async with self._slots:
            try:
                making.progress.check()
                making.server.say("A backup of the server is being made.")
                if self.family == CALAGOPUS:
                    making.server.publish(BACKUP_STARTED, making.uuid)
                    telling.start(_PROGRESS_EVERY, now=True)
                else:
                    telling.start(_MESSAGE_EVERY, now=False)
                return await make(making)
            finally:
                telling.stop()

    async def _pointed(self, making: _Making) -> MadePoint:
        """Make a point. Raises FileWorkCancelled, and what `PointBackups.make` does."""
        assert isinstance(making.server, Server)  # noqa: S101 - none goes on after a restart
        making.point = Deferred.fromCoroutine(
            self.points.make(making.server, making.uuid, making.ignore, making.progress)
        )
        try:
            return await making.point
        except CancelledError:
            if making.progress.cancelled():
                raise FileWorkCancelled from None
            raise

    async def _kept(self, making: _Making, made: MadeArchive) -> Sequence[UploadedPart] | None:
        """Keep an archive; return its parts where a store has it, None for a local one.

        After an error the part of the archive is not there any more; else it is in its place, or
        stays for `S3Adapter.discard`. Raises `WingsdError`.
        """
        if making.s3 is None:
            disk, store = self.disk, self.store
            try:
                await disk.run(store.put_into_place, made.place, made.catalogue)
            except BaseException:
                await disk.run(store.remove_leftovers, made.place, making.uuid, archive=True)
                raise
            return None
        try:
            return await making.s3.keep(making.server.uuid, made)
        except CancelledError:
            if not making.progress.cancelled():
                raise
            if not self._stopped:
                await making.s3.discard(made.place, making.uuid)
            raise FileWorkCancelled from None

    async def _packed(self, making: _Making) -> MadeArchive:
        s3 = making.s3
        server, uuid = making.server.uuid, making.uuid

        def warn(line: str) -> None:
            making.warnings += 1
            if making.warnings <= _SHOWN_WARNINGS:
                making.server.say(f"backup: {line}")
            else:
                self._log.info("{server}: backup: {line}", server=server, line=line)

        growing = None
        if s3 is not None:
            growing = s3.begin(server, uuid, self.store.part_path(self._place(making)))
        try:
            return await self.workers.run(
                self._make_archive,
                making,
                relayed(self.reactor, warn),
                None if growing is None else relayed(self.reactor, growing.grew),
            )
        except BaseException:
            if s3 is not None:
                s3.abandon(uuid)
            raise

    def _make_archive(
        self, making: _Making, warn: Callable[[str], None], grew: Callable[[int], None] | None
    ) -> MadeArchive:
        """Pack the server's directory, in a thread; the archive's part is on stable storage then.

        `warn` gets a line for each file that is left out or that has changed while it was read;
        `grew` gets the bytes of the part, each time that some are written. After an error nothing
        is left. Raises NoSpaceForBackup, BackupIgnoresEverything, FileWorkCancelled, and
        StorageError.
        """
        terms, ignore, progress = self._terms(making), making.ignore, making.progress
        place = self._place(making)
        path = new_part(self.store, place)
        warnings = 0

        def count(line: str) -> None:
            nonlocal warnings
            warnings += 1
            warn(line)

        def note(data: int, files: int) -> None:
            progress.bytes_done, progress.files_done = data, files

        with opened(making.directory) as root:
            listings = walk(root, lambda name, why: None, ignore.select)
            progress.bytes_total = regular_bytes(listings, progress.check)
        ignore.dropped = 0
        try:
            with NewArchiveFile(path, terms, progress, grew) as file:
                packed = pack(
                    Part(making.directory, select=ignore.select, holes=True),
                    file.write,
                    links=True,
                    form=terms.form,
                    compression=terms.compression,
                    warn=count,
                    progress=note,
                )
                _require_content(packed, ignore)
                if packed.without_attributes:
                    count(attributes_line(packed.without_attributes, "they have too many"))
                file.sync()
        except BaseException:
            self.store.remove_leftovers(place, making.uuid)
            raise
        catalogue = Catalogue(
            version=VERSION,
            backup=making.uuid,
            server=making.server.uuid,
            state=COMPLETE,
            archive=os.path.basename(place),
            bytes=packed.archive_bytes,
            files=packed.counts[Kind.FILE],
            sha256=packed.sha256,
            checksum_type=terms.checksum_type,
            checksum=file.checksum.hexdigest(),
            made=time.time(),
        )
        return MadeArchive(path, place, catalogue, warnings)

    def _terms(self, making: _Making) -> ArchiveTerms:
        """Return how the archive is made; Panels take those in S3 for a tar.gz."""
        terms = self.terms
        return terms if making.s3 is None else attrs.evolve(terms, form=ArchiveFormat.TAR_GZ)

    def _place(self, making: _Making) -> str:
        """Return the place of a new archive."""
        suffix = self._terms(making).form.suffix
        return self.store.place(making.server.uuid, making.uuid, suffix)

    def _tell_progress(self, making: _Making) -> None:
        progress, server = making.progress, making.server
        done, total = progress.bytes_done, progress.bytes_total
        if self.family == CALAGOPUS:
            shown = json.dumps({"progress": done, "total": max(done, total)})
            server.publish(BACKUP_PROGRESS, making.uuid, shown)
        elif making.is_point:
            server.say("The backup is being made.")
        else:
            server.say(
                f"The backup is being made: {readable_size(done)} of {readable_size(total)}."
            )

    async def _end(self, making: _Making, result: BackupResult) -> None:
        server = making.server
        report = await self._callbacks.add_backup(
            server.uuid, making.uuid, result.outcome, result.report()
        )
        if result.parts is not None and making.s3 is not None:
            discard = making.s3.discard(self._place(making), making.uuid)
            when_fired(report.answer).addCallback(lambda _: Deferred.fromCoroutine(discard))
        await report.answered_within(ANSWER_PATIENCE, self.reactor)
        for event in result.events():
            server.publish(*event)

    def _broke_off(self, failure: Failure, making: _Making) -> None:
        if not failure.check(CancelledError):
            self._log.failure("{server}: its backup broke off", failure, server=making.server.uuid)
