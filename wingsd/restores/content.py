"""The archives of backups: opened, and extracted beside a server's files.

An archive is opened before anything else is done, so that one which is missing is reported in the
answer to the request. Its blocks are then read by a thread, those of one in S3 while it is
downloaded. The link to that is from the Panel's own call. With Pelican it is requested by the
rules for addresses that users give, as its nodes do; nodes of the other families request whatever
the Panel signs. What it redirects to is judged in any case. The texts of refusals are Wings'.

Archives in formats with a list, zip and 7z, and by lzip, are parsed by a process without rights.
What that process sends counts as hostile, and is judged and written like the members of a tar: by
`archive.policy`, `archive.quota` and `archive.tree_writer`.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from http import HTTPStatus
from typing import NoReturn

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger

from wingsd.archive.extract import Extracted, Extraction, extract
from wingsd.archive.policy import NO_FILE, member_mode, member_path
from wingsd.archive.quota import ArchiveLimits, ArchiveQuota
from wingsd.archive.tar_headers import DIRECTORY, HARD_LINK, SYMLINK
from wingsd.archive.tar_reader import Member
from wingsd.archive.tree_writer import TreeWriter
from wingsd.errors import (
    AddressBlocked,
    ArchiveError,
    BackupLinkRefused,
    DiskLimitExceeded,
    DownloadFailed,
    StorageError,
    TooManyRedirects,
    UrlInvalid,
    UrlSchemeRefused,
    WingsdError,
)
from wingsd.files.extraction import archive_error
from wingsd.filesystem.directory import OpenFile
from wingsd.http_client.download import FetchLimits, GuardedClient, GuardedExchange
from wingsd.threadio import Feed
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
from wingsd.util.text import display, escaped, reading_advice

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


class LocalArchive:
    """A local backup: an open file, and the SHA-256 that its catalogue has, empty without one."""

    #: What Wings calls it.
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


class DownloadedArchive:
    """A backup that is downloaded while it is read; its bytes wait in a bounded buffer.

    `size` is 0 where that is not known.
    """

    kind = "S3 backup"
    sha256 = ""

    def __init__(self, answer: GuardedExchange, reactor: IReactorFromThreads) -> None:
        self.size = answer.length or 0
        self._answer = answer
        self._feed = Feed(reactor)

    def begin(self) -> None:
        """Begin to download it."""
        Deferred.fromCoroutine(self._deliver())

    async def _deliver(self) -> None:
        try:
            await self._answer.deliver(self._feed)
        except WingsdError as error:
            self._feed.fail(error)
        except CancelledError:
            self._feed.fail(DownloadFailed("the download was ended"))
        except Exception as error:
            self._feed.fail(DownloadFailed(f"its connection failed: {error}"))
        else:
            self._feed.finish()

    def blocks(self) -> Iterator[bytes]:
        """Yield its bytes as they arrive. Raises `DownloadFailed`, and what `abort` was given."""
        return self._feed.blocks()

    def abort(self, error: WingsdError) -> None:
        """Make `blocks` raise `error`, and close the connection."""
        self._feed.fail(error)
        self._answer.close()

    def interrupt(self) -> None:
        """Make `blocks` raise; to be called from any thread."""
        self._feed.fail(DownloadFailed("the download is not needed any more"))

    def close(self) -> None:
        """Close the connection."""
        self._feed.close()
        self._answer.close()


RestoreArchive = LocalArchive | DownloadedArchive


@attrs.define(eq=False)
class ReadProgress:
    """The progress of reading an archive; set by its thread, read by the reactor."""

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
    if not isinstance(archive, LocalArchive) or not archive.head(_HEAD).startswith(_MAGICS):
        return extract(
            progress.counted(archive.blocks()),
            directory,
            owner,
            warn,
            limits=limits,
            abort=archive.interrupt,
            visit=progress.note,
        )
    # It has a list.
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
        reader = _ListedReader(found, limits.disk, progress.note, warn)
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


@attrs.define(eq=False)
class _ListedReader:
    """Reads the members of an archive from the parts that a process has found.

    All files together may have `most` bytes, None for no limit.
    """

    _found: Iterator[ParsedArchive]
    _most: int | None
    _note: Callable[[bytes], None]
    _warn: Callable[[str], None]
    #: The mode of the last member, with its set-id bits.
    _mode: int = 0
    #: Whether the end of the last member is still to come.
    _is_open: bool = False

    def next_member(self) -> Member | None:
        """Return the next member, None at the archive's end. Raises `DiskLimitExceeded`."""
        if self._is_open:
            for _ in self.data():
                _broken()
        for part in self._found:
            if isinstance(part, ArchiveMember):
                self._mode, self._is_open = part.mode, True
                if not part.name:
                    raise ArchiveError(
                        "it is a single compressed file, and no archive of a server"
                    )
                if part.size == UNKNOWN and part.kind is MemberKind.FILE:
                    raise ArchiveError(f"{display(part.name)} has no size in the archive")
                return _ListedMember(part)
            if not isinstance(part, ArchivePlan):
                _broken()
            if self._most is not None and part.size > self._most:
                raise DiskLimitExceeded(
                    f"the server's files take {-(-part.size >> 20)} MiB or more, its disk limit "
                    f"is {self._most >> 20} MiB; raise its disk limit in the Panel, or delete "
                    "files, and try again"
                )
        return None

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


_ACCEPTED = ("application/x-gzip", "application/gzip")
#: Seconds: a Panel waits 15 for the answer to its request, and signs a link for 5 minutes. The
#: whole may take as long as it does, as long as some of it comes.
_LIMITS = FetchLimits(connect=5, answer=10, idle=120, total=48 * 3600)
_ALLOWLIST = "system.backups.restore_host_allowlist"
_TYPE = re.compile(r"[\x20-\x7e]{0,200}")


@attrs.frozen(eq=False, repr=False)
class RestoreLinks:
    """Opens links to backups in S3. With `trusts_panel` these may lead to any address."""

    client: GuardedClient
    reactor: IReactorFromThreads
    limits: FetchLimits = _LIMITS
    trusts_panel: bool = False
    _log = Logger()

    async def open(self, url: str) -> DownloadedArchive:
        """Request the archive. Raises `BackupLinkRefused`, `DownloadFailed`."""
        try:
            answer = await self.client.get(url, self.limits, is_trusted=self.trusts_panel)
        except UrlSchemeRefused as error:
            raise BackupLinkRefused("The provided backup link must use HTTP or HTTPS.") from error
        except UrlInvalid as error:
            raise BackupLinkRefused(
                "The provided backup link is not a valid URL.", error.reason
            ) from error
        except AddressBlocked as error:
            self._log.warn(
                "the link to a backup in S3 is refused: {reason}, with {key}",
                reason=error.detail,
                key=_ALLOWLIST,
            )
            raise BackupLinkRefused(
                "The provided backup link resolves to a blocked address.",
                f"if it is that of your own store, add its host to {_ALLOWLIST} in this node's "
                "configuration",
            ) from error
        except TooManyRedirects as error:
            raise BackupLinkRefused(
                "The provided backup link redirects too many times.", error.detail
            ) from error
        try:
            _check(answer)
        except BaseException:
            answer.close()
            raise
        return DownloadedArchive(answer, self.reactor)


def _check(answer: GuardedExchange) -> None:
    if answer.status != HTTPStatus.OK:
        raise BackupLinkRefused(
            "The provided backup link returned an invalid response status: "
            f"{_status(answer.status)}",
            "a link of S3 is good for some minutes; restore the backup again",
        )
    kind = answer.header("content-type")
    if kind.partition(";")[0].strip().lower() not in _ACCEPTED:
        shown = kind if _TYPE.fullmatch(kind) else escaped(kind[:200])
        raise BackupLinkRefused(
            "The provided backup link is not a supported content type. "
            f'"{shown}" is not application/x-gzip.'
        )


def _status(code: int) -> str:
    with suppress(ValueError):
        return f"{code} {HTTPStatus(code).phrase}"
    return str(code)
