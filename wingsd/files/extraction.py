"""Extracts an archive of a server into one of its directories.

What the archive says comes from a process that counts as hostile (`user_archives`), and goes to
the disk by `filesystem` only. Every name lands below the directory. A file is written beside its
name, and replaces an existing one when it is whole. Symlinks are made last, when nothing more is
written, and only those whose text leads to a place in the server's directory; a hard link becomes
a copy. Blocking.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import attrs

from wingsd.archive.policy import MAX_DEPTH
from wingsd.errors import (
    ArchiveDamaged,
    ArchiveEncrypted,
    ArchiveExcessive,
    ArchiveFormatUnknown,
    ArchiveInParts,
    ArchiveMethodUnsupported,
    ArchiveNotParsed,
    BadRequest,
    FileInUse,
    FileMissing,
    FileTypeRefused,
    IsDirectory,
    NameConflict,
    NameTooLong,
    OverwritesFileInUse,
    PathInvalid,
    StorageError,
)
from wingsd.files.guard import Guard
from wingsd.filesystem.directory import Entry
from wingsd.filesystem.new_file import TEMPORARY, NewFileOptions
from wingsd.filesystem.paths import ServerPath
from wingsd.user_archives.frames import (
    ArchiveMember,
    ArchivePlan,
    ArchiveRefused,
    MemberKind,
    ParsedArchive,
    Reason,
)
from wingsd.user_archives.kinds import is_part_name, name_hint, single_name
from wingsd.user_archives.process import ArchiveProcess, ParserFailed


def archive_error(refusal: ArchiveRefused, *, is_part: bool) -> BadRequest:
    """Return the error of a refusal; `is_part` tells that the name is that of one part."""
    reason, detail = refusal.reason, refusal.detail
    if is_part and reason in (Reason.UNKNOWN_FORMAT, Reason.DAMAGED):
        return ArchiveInParts(detail)
    if reason is Reason.UNKNOWN_FORMAT:
        return ArchiveFormatUnknown()
    if reason is Reason.ENCRYPTED:
        return ArchiveEncrypted()
    with_detail = {
        Reason.DAMAGED: ArchiveDamaged,
        Reason.UNSUPPORTED: ArchiveMethodUnsupported,
        Reason.EXCESSIVE: ArchiveExcessive,
        Reason.LONG_NAME: NameTooLong,
    }
    return with_detail[reason](detail)


#: Directories whose modes and times are kept, and symlinks that are made, wait in memory: so many
#: of each, and of all their paths and texts so many bytes.
MAX_DIRECTORIES = 50_000
MAX_SYMLINKS = 50_000
MAX_WAITING = 16 << 20
#: What the owner of a file, or of a directory, may always do with it.
_OWNERS_FILE, _OWNERS_DIRECTORY = 0o600, 0o700
_LATEST = (1 << 33) * 1_000_000_000


@attrs.frozen
class Extracting:
    """The `archive` is extracted into the directory `top`.

    `left` are the bytes that the server may have more, None for no limit.
    """

    archive: ServerPath
    top: ServerPath
    left: int | None = None


@attrs.define
class ExtractedMembers:
    """How many members were written, and passed over; `example` is the name of one of those."""

    written: int = 0
    passed_over: int = 0
    example: str = ""

    def pass_over(self, path: ServerPath) -> None:
        """Count a member that is not written."""
        self.passed_over += 1
        self.example = self.example or str(path)


def extract(
    guard: Guard, asked: Extracting, parse: Callable[..., ArchiveProcess] = ArchiveProcess
) -> ExtractedMembers:
    """Extract an archive, which `parse` reads; return what became of its members.

    Passed over are those that the denylist has, devices and the like, links that lead nowhere, and
    files of which the archive has only what was written so far. Nothing is written where the sizes
    in the archive exceed the disk limit. After a later failure the files that were whole stay.

    Raises FileMissing, FileDenied, those of `archive_error`, DiskLimitExceeded,
    NameConflict, FileTypeRefused, FileWorkCancelled and StorageError.
    """
    guard.check(asked.archive)
    disk = guard.root.file_system()
    free = disk.f_bavail * disk.f_frsize
    with guard.root.open_file(asked.archive) as archive:
        process = parse(
            archive.fileno(),
            archive.entry.size,
            name_hint(asked.archive.name),
            free if asked.left is None else min(free, max(asked.left, 0)),
            guard.progress.check,
        )
        found = process.contents()
        try:
            with closing(found):  # type: ignore[type-var]
                return _Writer(guard, asked, archive.entry).run(found)
        except ArchiveRefused as error:
            guard.progress.check()
            raise archive_error(error, is_part=is_part_name(asked.archive.name)) from None
        except ParserFailed as error:
            raise ArchiveNotParsed(str(error)) from error
        except OSError as error:
            raise StorageError(f"no process can be started: {error.strerror}") from error
        except FileInUse as error:
            raise OverwritesFileInUse(error.detail) from error


@attrs.define(eq=False, repr=False)
class _Writer:
    _guard: Guard
    _asked: Extracting
    _entry: Entry
    _extracted: ExtractedMembers = attrs.Factory(ExtractedMembers)
    #: Paths in bytes, which take a twentieth of the memory; with modes and times, or texts.
    _directories: list[tuple[bytes, int, int | None]] = attrs.Factory(list)
    _symlinks: list[tuple[bytes, bytes]] = attrs.Factory(list)
    _waiting: int = 0

    def run(self, found: Iterator[ParsedArchive]) -> ExtractedMembers:
        for part in found:
            self._guard.progress.check()
            match part:
                case ArchivePlan():
                    self._guard.root.check_space(max(part.size, 0))
                    self._guard.progress.bytes_total = max(part.size, 0)
                case ArchiveMember():
                    self._member(part, found)
        self._finish()
        return self._extracted

    def _member(self, member: ArchiveMember, found: Iterator[ParsedArchive]) -> None:
        path = self._path(member.name)
        is_directory = member.kind is MemberKind.DIRECTORY
        if path == self._asked.top:
            deque(self._data(found), 0)  # the directory itself
        elif TEMPORARY.fullmatch(path.name) or self._guard.denies(path, is_directory=is_directory):
            self._extracted.pass_over(path)
            deque(self._data(found), 0)
        elif member.kind is MemberKind.FILE:
            self._file(path, member, found)
        elif is_directory:
            self._directory(path, member)
        elif member.kind is MemberKind.HARD_LINK:
            self._copy(path, self._path(member.link), member)
        elif (
            member.kind is MemberKind.SYMLINK
            and len(self._symlinks) < MAX_SYMLINKS
            and self._may_wait(place := bytes(path), member.link)
        ):
            self._symlinks.append((place, member.link))
        else:
            self._extracted.pass_over(path)
        self._guard.progress.files_done += 1

    def _path(self, name: bytes) -> ServerPath:
        """Return where a name lands: below the directory, whatever it is."""
        if not name:
            return self._asked.top.child(single_name(self._asked.archive.name))
        path = ServerPath((*self._asked.top.parts, *ServerPath.from_bytes(name).parts))
        if len(path.parts) > MAX_DEPTH:
            raise NameTooLong(f"a name in the archive is more than {MAX_DEPTH} directories deep")
        return path

    def _file(
        self, path: ServerPath, member: ArchiveMember, found: Iterator[ParsedArchive]
    ) -> None:
        is_single = not member.name
        options = NewFileOptions(
            size=max(member.size, 0),
            mode=(self._entry.permissions if is_single else member.mode) | _OWNERS_FILE,
            modified=self._entry.modified if is_single else _time(member),
            durable=False,  # fsync(2) for each file would take hours
        )
        with self._guard.root.new_file(path, options) as file:
            for piece in self._data(found):
                file.write(piece)
            file.commit()
        self._extracted.written += 1

    def _data(self, found: Iterator[ParsedArchive]) -> Iterator[bytes]:
        """Yield the data of a member, to its end."""
        for part in found:
            if part is None:
                return
            if not isinstance(part, bytes):
                raise ArchiveNotParsed("a file has no end")
            self._guard.progress.check()
            yield part
            self._guard.progress.bytes_done += len(part)

    def _directory(self, path: ServerPath, member: ArchiveMember) -> None:
        self._guard.root.make_directory(path)
        self._extracted.written += 1
        if len(self._directories) < MAX_DIRECTORIES and self._may_wait(place := bytes(path)):
            self._directories.append((place, member.mode, _time(member)))

    def _may_wait(self, *texts: bytes) -> bool:
        """Return whether there is memory for something that waits for the end."""
        size = sum(map(len, texts))
        if self._waiting + size > MAX_WAITING:
            return False
        self._waiting += size
        return True

    def _copy(self, path: ServerPath, source: ServerPath, member: ArchiveMember) -> None:
        """Make a copy in place of a hard link; none where its file is not there or denied."""
        with suppress(FileMissing, IsDirectory, FileTypeRefused):
            size = self._guard.root.stat(source).size
            if source != path and not self._guard.denies(source):
                self._guard.root.check_space(size)
                options = NewFileOptions(modified=_time(member), durable=False)
                self._guard.root.copy(source, path, options, self._guard.progress.cancelled)
                self._extracted.written += 1
                return
        self._extracted.pass_over(path)

    def _finish(self) -> None:
        for place, text in self._symlinks:
            self._guard.progress.check()
            self._symlink(ServerPath.from_bytes(place), text)
        for place, mode, modified in reversed(self._directories):
            self._guard.progress.check()
            path = ServerPath.from_bytes(place)
            with suppress(FileMissing, FileTypeRefused):
                if modified is not None:
                    self._guard.root.set_times(path, modified, modified)
                self._guard.root.set_mode(path, mode | _OWNERS_DIRECTORY)

    def _symlink(self, path: ServerPath, text: bytes) -> None:
        target = _target(path, text)
        with suppress(NameConflict, FileMissing, PathInvalid):
            if target is not None and not self._guard.denies(target):
                self._guard.root.make_directory(path.parent)
                self._guard.root.make_symlink(path, text)
                self._extracted.written += 1
                return
        self._extracted.pass_over(path)


def _target(path: ServerPath, text: bytes) -> ServerPath | None:
    """Return where a symlink leads by its text; None where that is not in the server's directory.

    Absolute ones are about the container.
    """
    if text.startswith(b"/"):
        return None
    parts = list(path.parent.parts)
    for part in text.split(b"/"):
        if part == b"..":
            if not parts:
                return None
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    with suppress(PathInvalid):
        return ServerPath(tuple(parts))
    return None


def _time(member: ArchiveMember) -> int | None:
    if member.modified is None:
        return None
    return min(max(member.modified, -_LATEST), _LATEST)
