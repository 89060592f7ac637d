"""The archives of backups: opened, and extracted beside a server's files.

An archive is opened before anything else is done, so that one which is missing is reported in the
answer to the request. Its blocks are then read by a thread.

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

from wingsd.archive.extract import Extracted, Extraction, extract
from wingsd.archive.policy import NO_FILE, member_mode, member_path
from wingsd.archive.quota import ArchiveLimits, ArchiveQuota
from wingsd.archive.tar_headers import DIRECTORY, HARD_LINK, SYMLINK, Member
from wingsd.archive.tree_writer import TreeWriter
from wingsd.errors import ArchiveError, StorageError, WingsdError
from wingsd.files.extraction import archive_error
from wingsd.filesystem.directory import OpenFile
from wingsd.user_archives.frames import (
    UNKNOWN,
    ArchiveMember,
    ArchivePlan,
    ArchiveRefused,
    MemberKind,
    ParsedArchive,
)
from wingsd.user_archives.kinds import CONTAINERS, NameHint
from wingsd.user_archives.process import ArchiveProcess, ParserFailed
from wingsd.util.text import display, reading_advice

_PIECE = 256 << 10
#: Bytes by which the format of an archive is found.
_HEAD = 16
_MAGICS = (*(magic for magic, _ in CONTAINERS), b"LZIP")
_ZIP = b"PK\x03\x04"
#: The end of a zip's list, with the length of a comment behind it: APPNOTE 4.3.16.
_ZIP_END = struct.Struct("<4s4H2LH")
_MAX_COMMENT = 0xFFFF
#: The types in a tar. That of files is the one by which no name makes it a directory.
_TYPES = {
    MemberKind.FILE: b"7",
    MemberKind.DIRECTORY: DIRECTORY,
    MemberKind.SYMLINK: SYMLINK,
    MemberKind.HARD_LINK: HARD_LINK,
    MemberKind.OTHER: NO_FILE,
}


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


def extract_backup(
    archive: RestoreArchive,
    directory: str,
    owner: tuple[int, int],
    limits: ArchiveLimits,
    progress: ReadProgress,
    warn: Callable[[str], None],
) -> Extracted:
    """Extract an archive into the existing `directory`, and read it to its end.

    `warn` gets a line for each member that is left out or changed. Raises what `archive.extract`
    does, and the errors of `files.extraction`.
    """
    if isinstance(archive, LocalArchive) and archive.head(_HEAD).startswith(_MAGICS):
        return _extract_listed(archive, directory, owner, limits, progress, warn)
    return extract(
        progress.counted(archive.blocks()),
        directory,
        owner,
        warn,
        limits=limits,
        abort=archive.interrupt,
        visit=progress.note,
    )


# Archives in formats with a list


def _extract_listed(
    archive: LocalArchive,
    directory: str,
    owner: tuple[int, int],
    limits: ArchiveLimits,
    progress: ReadProgress,
    warn: Callable[[str], None],
) -> Extracted:
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
        reader = _ListedReader(found, progress.note, warn)
        extraction = Extraction(reader, writer, quota, warn, reader.visit)
        try:
            with closing(found):  # type: ignore[type-var]
                extraction.run()
        except ArchiveRefused as error:
            raise archive_error(error, is_part=False) from None
        except ParserFailed as error:
            raise ArchiveError(str(error)) from error
        except OSError as error:
            raise StorageError(f"no process can be started: {error.strerror}") from error
        writer.finish()
    return extraction.result(digest.hexdigest(), archive.size)


class _ListedMember(Member):
    """A member of an archive that a process has parsed."""

    __slots__ = ()

    def __init__(self, given: ArchiveMember) -> None:
        self.name, self.link = given.name, given.link
        self.mode = member_mode(given.mode)[0]
        self.mtime = time.time_ns() if given.modified is None else given.modified
        self.size = max(given.size, 0)
        self.typeflag = _TYPES[given.kind]
        self.segments = None
        self.attributes = b""
        self.has_more = False


class _ListedReader:
    """Reads the members of an archive from the parts that a process has found."""

    def __init__(
        self,
        found: Iterator[ParsedArchive],
        note: Callable[[bytes], None],
        warn: Callable[[str], None],
    ) -> None:
        self._found = found
        self._note = note
        self._warn = warn
        #: The mode of the last member, with its set-id bits.
        self._mode = 0
        #: Whether the end of the last member is still to come.
        self._is_open = False

    def next_member(self) -> Member | None:
        """Return the next member, None at the archive's end."""
        if self._is_open:
            for _ in self.data():
                _broken()
        for part in self._found:
            if isinstance(part, ArchiveMember):
                self._mode, self._is_open = part.mode, True
                return self._checked(part)
            if not isinstance(part, ArchivePlan):
                _broken()
        return None

    def _checked(self, member: ArchiveMember) -> Member:
        if not member.name:
            raise ArchiveError("it is a single compressed file, and no archive of a server")
        if member.size == UNKNOWN and member.kind is MemberKind.FILE:
            raise ArchiveError(f"{display(member.name)} has no size in the archive")
        return _ListedMember(member)

    def visit(self, name: bytes) -> None:
        """Note the member, which counts by now, and check its name; of any kind."""
        self._note(name)
        member_path(name)
        if member_mode(self._mode)[1]:
            self._warn(f"{display(name)} lost its set-user-id or set-group-id bit")

    def data(self) -> Iterator[memoryview]:
        """Yield the data of the member, to its end."""
        for part in self._found:
            if part is None:
                self._is_open = False
                return
            if not isinstance(part, bytes):
                _broken()
            yield memoryview(part)
        _broken()

    def drain(self) -> None:
        """Do nothing: nothing follows the end."""


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
