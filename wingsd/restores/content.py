"""The content of one backup, from its archive to the server's place.

An archive is opened before anything else is done, so that one which is missing is reported in the
answer to the request. Its blocks are then read by a thread. Read `RestoredContent` from top to
bottom: `stage` reads and verifies the whole archive beside the server's files, `lay_over` adds the
present files that stay, `put_into_place` exchanges both. Until then nothing of the server is
changed.

Archives in formats with a list, zip and 7z, and by lzip, are parsed by a process without rights.
What that process sends counts as hostile, and is judged and written like the members of a tar: by
`archive.policy`, `archive.quota` and `archive.tree_writer`.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import NoReturn, Protocol

import attrs
from twisted.internet.defer import DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from wingsd.archive.extract import Extracted, extract
from wingsd.archive.policy import link_text, member_mode, member_path
from wingsd.archive.quota import ArchiveLimits, ArchiveQuota
from wingsd.archive.tree_writer import TreeWriter
from wingsd.callbacks import CallbackQueue
from wingsd.errors import (
    ArchiveError,
    BackupChecksumMismatch,
    DiskLimitExceeded,
    StorageError,
    WingsdError,
)
from wingsd.files.extraction import archive_error
from wingsd.filesystem import OpenFile
from wingsd.filesystem.walk import measure
from wingsd.restores.overlay import kept_size, overlay
from wingsd.restores.storage import RestoreStorage
from wingsd.servers.running import RunningServers
from wingsd.statedb import StateDatabase
from wingsd.threadio import Workers
from wingsd.transfers.cancellation import CancelScope, slots_held
from wingsd.user_archives.frames import (
    UNKNOWN,
    ArchiveMember,
    ArchivePlan,
    MemberKind,
    ParsedArchive,
    Refusal,
)
from wingsd.user_archives.kinds import CONTAINERS, NameHint
from wingsd.user_archives.process import ArchiveProcess, ParserFailed
from wingsd.util.text import display, reading_advice

__all__ = ["LocalArchive", "ReadProgress", "RestoreArchive", "RestoreParts", "RestoredContent"]

_MIB = 1 << 20
_PIECE = 256 << 10
#: Bytes by which the format of an archive is found.
_HEAD = 16
_MAGICS = (*(magic for magic, _ in CONTAINERS), b"LZIP")
_ZIP = b"PK\x03\x04"
#: The end of a zip's list, with the length of a comment behind it: APPNOTE 4.3.16.
_ZIP_END = struct.Struct("<4s4H2LH")
_MAX_COMMENT = 0xFFFF
_LINKS = {MemberKind.HARD_LINK: b"1", MemberKind.SYMLINK: b"2"}


class RestoreArchive(Protocol):
    """An archive that is open. `size` is its bytes, 0 where that is not known."""

    size: int
    #: The SHA-256 that it must have, in hexadecimal; empty where that is not known.
    sha256: str
    #: What Wings calls it: `local backup` or `S3 backup`.
    kind: str

    def begin(self) -> None:
        """Begin to read it, from the reactor."""

    def blocks(self) -> Iterator[bytes]:
        """Yield its bytes, in a thread. Raises `WingsdError`."""

    def abort(self, error: WingsdError) -> None:
        """Make `blocks` raise `error` soon; to be called from the reactor."""

    def interrupt(self) -> None:
        """Make `blocks` return or raise soon; to be called from any thread."""

    def close(self) -> None:
        """Close it, when its blocks are read no more."""


class LocalArchive:
    """A local backup: an open file, and the checksum that its catalogue has."""

    kind = "local backup"

    def __init__(self, file: OpenFile, sha256: str = "") -> None:
        self.size = file.entry.size
        self.sha256 = sha256
        self._file = file
        self._error: WingsdError | None = None

    def begin(self) -> None:
        """Do nothing: a file is read by the thread alone."""

    @property
    def descriptor(self) -> int:
        """The descriptor of the file."""
        return self._file.fileno()

    def head(self, size: int) -> bytes:
        """Return the first bytes. Raises `StorageError`."""
        try:
            return self._file.read_at(0, size)
        except OSError as error:
            raise _unreadable(error) from error

    def check(self) -> None:
        """Raise what `abort` was given."""
        if self._error is not None:
            raise self._error

    def blocks(self) -> Iterator[bytes]:
        """Yield its bytes. Raises `StorageError`, and what `abort` was given."""
        try:
            while block := self._file.read(_PIECE):
                self.check()
                yield block
        except OSError as error:
            raise _unreadable(error) from error

    def abort(self, error: WingsdError) -> None:
        """Make `blocks` raise `error` at its next block."""
        self._error = error

    def interrupt(self) -> None:
        """Do nothing: a read of a file never waits long."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _unreadable(error: OSError) -> StorageError:
    return StorageError(f"its file: {reading_advice(error)}", "the backup could not be read")


@attrs.define(eq=False)
class ReadProgress:
    """How far an archive was read; written by its thread, read by the reactor."""

    size: int = 0
    files: int = 0
    name: bytes = b""

    def counted(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        """Pass on the blocks of the archive."""
        for block in blocks:
            self.size += len(block)
            yield block

    def note(self, name: bytes) -> None:
        """Note the member that is read now."""
        self.files += 1
        self.name = name


@attrs.frozen(eq=False, repr=False)
class RestoreParts:
    """The collaborators of restores. `limits` are those of the node.

    `running` has the servers that a transfer is to start. Replaced files are kept for
    `quarantine_days`. `for_calagopus` is whether pages are those of its Panel.
    """

    storage: RestoreStorage
    #: Threads that read archives, as many at a time as `slots` has.
    workers: Workers
    slots: DeferredSemaphore
    #: Threads for short and for long work on the disk.
    disk: Workers
    long: Workers
    limits: ArchiveLimits
    database: StateDatabase
    callbacks: CallbackQueue
    running: RunningServers
    reactor: IReactorTime
    quarantine_days: int
    for_calagopus: bool


class RestoredContent:
    """The content of a backup for the server with the UUID `server`, whose files are in `place`.

    `disk_space` is the server's disk limit in MiB. Methods raise `WingsdError`. `close` must be
    called, and nothing be under way then.
    """

    _log = Logger()

    def __init__(
        self,
        server: str,
        place: str,
        disk_space: int,
        archive: RestoreArchive,
        parts: RestoreParts,
    ) -> None:
        self.progress = ReadProgress()
        self.archive = archive
        self._server = server
        self._place = place
        self._disk_space = disk_space
        self._parts = parts
        self._directory = -1

    async def stage(self, scope: CancelScope, *, keep_present: bool) -> None:
        """Read the archive to its end into a new directory, and verify all of it.

        With `keep_present`, the present files that stay count against the disk limit, too. Who
        cancels `scope` is to abort the archive as well.
        """
        parts = self._parts
        self._directory = await parts.long.run(parts.storage.create, self._server)
        async with slots_held(parts.slots, 1, scope):
            self.archive.begin()
            extracted = await parts.workers.run(self._extract)
            scope.check()
            await parts.workers.run(self._verify, extracted, keep_present=keep_present)
        self._log.info(
            "{server}: the backup is read and verified: {files} files, {size} bytes",
            server=self._server,
            files=extracted.file_count,
            size=extracted.unpacked_bytes,
        )

    async def lay_over(self) -> None:
        """Add the present files that the backup does not have. The server must not run."""
        limits, storage = self._parts.limits, self._parts.storage
        await self._parts.workers.run(
            overlay, self._place, self._directory, storage.owner, limits.directory_memory
        )

    async def flush(self) -> int:
        """Return the inode of the new directory when all of it is on stable storage."""
        return await self._parts.long.run(self._parts.storage.flush, self._directory)

    async def put_into_place(self, inode: int) -> None:
        """Exchange the new content with the present one: wholly, or not at all."""
        storage, disk = self._parts.storage, self._parts.disk
        try:
            await disk.run(storage.put_into_place, self._server, inode)
        except StorageError as error:
            if not await disk.run(storage.is_in_place, self._server, inode):
                raise
            self._log.error("{server}: {error}", server=self._server, error=error)

    async def is_undecided(self) -> bool:
        """Return whether neither content is in place, which the next daemon's start decides."""
        return await self._parts.disk.run(self._parts.storage.is_undecided, self._server)

    def close(self) -> None:
        """Close the archive and the directory."""
        self.archive.close()
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1

    # In a thread

    @property
    def _path(self) -> str:
        return self._parts.storage.path(self._server)

    def _extract(self) -> Extracted:
        storage, archive = self._parts.storage, self.archive
        limits = self._parts.limits.for_server(self._disk_space)
        if isinstance(archive, LocalArchive) and archive.head(_HEAD).startswith(_MAGICS):
            return _extract_listed(
                archive, self.progress, self._warn, self._path, storage.owner, limits
            )
        return extract(
            self.progress.counted(archive.blocks()),
            self._path,
            storage.owner,
            self._warn,
            limits=limits,
            abort=archive.interrupt,
            visit=self.progress.note,
        )

    def _warn(self, line: str) -> None:
        self._log.warn("{server}: {line}", server=self._server, line=line)

    def _verify(self, extracted: Extracted, *, keep_present: bool) -> None:
        expected = self.archive.sha256
        if expected and extracted.sha256 != expected:
            raise BackupChecksumMismatch(extracted.sha256, expected)
        if not keep_present:
            return
        kept = kept_size(self._place, self._directory)
        limit = ArchiveLimits.disk_bytes(self._disk_space)
        if limit is not None and (size := measure(self._path) + kept) > limit:
            raise DiskLimitExceeded(
                f"with the present files that stay, the server's files take {-(-size // _MIB)} "
                f"MiB, its disk limit is {limit // _MIB} MiB; raise its disk limit, delete files, "
                "or have the backup replace all files"
            )


# Archives in formats with a list


def _extract_listed(
    archive: LocalArchive,
    progress: ReadProgress,
    warn: Callable[[str], None],
    directory: str,
    owner: tuple[int, int],
    limits: ArchiveLimits,
) -> Extracted:
    """Extract an archive into the existing `directory`.

    `warn` gets a line for each member that is left out or changed. Raises what `archive.extract`
    does, and the errors of `files.extraction`.
    """
    if os.pread(archive.descriptor, len(_ZIP), 0) == _ZIP and not _has_zip_end(archive):
        raise ArchiveError("the archive ends in the middle: its list is missing")
    digest = hashlib.sha256()
    for block in progress.counted(archive.blocks()):
        digest.update(block)
    os.lseek(archive.descriptor, 0, os.SEEK_SET)  # The process reads from there.
    process = ArchiveProcess(
        archive.descriptor, archive.size, NameHint.TAR, limits.disk, archive.check
    )
    with closing(TreeWriter(directory, owner, limits)) as writer:
        quota = ArchiveQuota(limits, writer.file_system)
        found = process.contents()
        try:
            with closing(found):  # type: ignore[type-var]
                extraction = _Extraction(archive, progress, warn, writer, quota, found)
                extraction.run()
        except ParserFailed as error:
            raise ArchiveError(str(error)) from error
        except OSError as error:
            raise StorageError(f"no process can be started: {error.strerror}") from error
        quota.end(writer.directories)
        writer.finish()
    return extraction.result(digest.hexdigest())


@attrs.frozen
class _Counted:
    """A member as a quota counts it."""

    name: bytes
    size: int
    typeflag: bytes
    segments: None = None


@attrs.define(eq=False, repr=False)
class _Extraction:
    _archive: LocalArchive
    _progress: ReadProgress
    _warn: Callable[[str], None]
    _writer: TreeWriter
    _quota: ArchiveQuota
    _found: Iterator[ParsedArchive]
    _counts: dict[MemberKind, int] = attrs.Factory(lambda: dict.fromkeys(MemberKind, 0))
    _unpacked: int = 0

    def run(self) -> None:
        for part in self._found:
            match part:
                case ArchiveMember():
                    self._member(part)
                case Refusal():
                    raise archive_error(part, is_part=False)
                case ArchivePlan():
                    pass
                case _:
                    _broken()

    def result(self, sha256: str) -> Extracted:
        counts = self._counts
        return Extracted(
            sha256=sha256,
            archive_bytes=self._archive.size,
            unpacked_bytes=self._unpacked,
            file_count=counts[MemberKind.FILE],
            directory_count=counts[MemberKind.DIRECTORY],
            symlink_count=counts[MemberKind.SYMLINK],
            hard_link_count=counts[MemberKind.HARD_LINK],
            skipped_count=counts[MemberKind.OTHER],
        )

    def _member(self, member: ArchiveMember) -> None:
        if not member.name:
            raise ArchiveError("it is a single compressed file, and no archive of a server")
        if member.size == UNKNOWN and member.kind is MemberKind.FILE:
            raise ArchiveError(f"{display(member.name)} has no size in the archive")
        counted = _Counted(member.name, max(member.size, 0), _LINKS.get(member.kind, b"0"))
        self._quota.reserve(counted, self._writer.directories)
        self._progress.note(member.name)
        self._counts[member.kind] += 1
        path, mode = member_path(member.name), self._mode(member)
        mtime = time.time_ns() if member.modified is None else member.modified
        match member.kind:
            case MemberKind.FILE:
                data = self._quota.watched(counted, self._data())
                self._writer.file(path, mode, mtime, data)
                self._unpacked += member.size
                return
            case MemberKind.DIRECTORY:
                self._writer.directory(path, mode, mtime)
            case MemberKind.SYMLINK:
                self._writer.symlink(path, mtime, link_text(member.link, member.name))
            case MemberKind.HARD_LINK:
                self._writer.hard_link(path, member_path(member.link))
            case MemberKind.OTHER:
                self._warn(f"{display(member.name)} is left out: it is no file")
        for _ in self._data():
            _broken()

    def _mode(self, member: ArchiveMember) -> int:
        mode, stripped = member_mode(member.mode)
        if stripped:
            self._warn(f"{display(member.name)} lost its set-user-id or set-group-id bit")
        return mode

    def _data(self) -> Iterator[memoryview]:
        for part in self._found:
            if part is None:
                return
            if isinstance(part, Refusal):
                raise archive_error(part, is_part=False)
            if not isinstance(part, bytes):
                _broken()
            yield memoryview(part)
        _broken()


def _has_zip_end(archive: LocalArchive) -> bool:
    """Return whether a zip has its end: without it, libarchive reads as far as there is data."""
    start = max(archive.size - _ZIP_END.size - _MAX_COMMENT, 0)
    tail = os.pread(archive.descriptor, archive.size - start, start)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _ZIP_END.size:
        return False
    *_, comment = _ZIP_END.unpack_from(tail, at)
    return bool(at + _ZIP_END.size + comment == len(tail))


def _broken() -> NoReturn:
    raise ArchiveError("a file in it has no end")
