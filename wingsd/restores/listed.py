"""Backups in formats with a list, zip and 7z, and by lzip: parsed by a process without rights.

What that process sends counts as hostile, and is judged and written like the members of a tar: by
`archive.policy`, `archive.quota` and `archive.tree_writer`. Blocking.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import NoReturn

import attrs

from wingsd.archive.extract import Extracted
from wingsd.archive.policy import display, link_text, member_mode, member_path
from wingsd.archive.quota import ArchiveLimits, ArchiveQuota
from wingsd.archive.tree_writer import TreeWriter
from wingsd.errors import ArchiveError, StorageError
from wingsd.files.extraction import archive_error
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

__all__ = ["ListedArchive", "extract_listed", "is_listed"]

_MAGICS = (*(magic for magic, _ in CONTAINERS), b"LZIP")
_ZIP = b"PK\x03\x04"
#: The end of a zip's list, with the length of a comment behind it: APPNOTE 4.3.16.
_ZIP_END = struct.Struct("<4s4H2LH")
_MAX_COMMENT = 0xFFFF
_LINKS = {MemberKind.HARD_LINK: b"1", MemberKind.SYMLINK: b"2"}


def is_listed(head: bytes) -> bool:
    """Return whether an archive that begins so is of one of these formats."""
    return head.startswith(_MAGICS)


@attrs.frozen
class ListedArchive:
    """An archive that is open as `descriptor`, of `size` bytes.

    `check` is called all the while, and raises where it is to end. `visit` gets the name of each
    member, `warn` a line for each that is left out or changed.
    """

    descriptor: int
    size: int
    check: Callable[[], None]
    visit: Callable[[bytes], None]
    warn: Callable[[str], None]
    #: Passes on the blocks of the file, and counts them.
    counted: Callable[[Iterator[bytes]], Iterator[bytes]]


def extract_listed(
    archive: ListedArchive,
    blocks: Iterator[bytes],
    directory: str,
    owner: tuple[int, int],
    limits: ArchiveLimits,
) -> Extracted:
    """Extract an archive into the existing `directory`; `blocks` are those of its file.

    Raises what `archive.extract` does, and those of `files.extraction.archive_error`.
    """
    if os.pread(archive.descriptor, len(_ZIP), 0) == _ZIP and not _has_zip_end(archive):
        raise ArchiveError("the archive ends in the middle: its list is missing")
    digest = hashlib.sha256()
    for block in archive.counted(blocks):
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
                extraction = _Extraction(archive, writer, quota, found)
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
    _archive: ListedArchive
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
        self._archive.visit(member.name)
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
                self._archive.warn(f"{display(member.name)} is left out: it is no file")
        for _ in self._data():
            _broken()

    def _mode(self, member: ArchiveMember) -> int:
        mode, stripped = member_mode(member.mode)
        if stripped:
            self._archive.warn(f"{display(member.name)} lost its set-user-id or set-group-id bit")
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


def _has_zip_end(archive: ListedArchive) -> bool:
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
