"""Packs files of a server into an archive beside them: a tar, compressed or not, or a zip.

Symlinks are stored as such, also in a zip, and a hard link as one more file. Blocking.
"""

from __future__ import annotations

import sys
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any, Protocol

import attrs

from wingsd.archive import Compression
from wingsd.archive.compress import compressed, compressor
from wingsd.archive.policy import member_mode
from wingsd.archive.tar_headers import (
    DIRECTORY,
    END,
    FILE,
    LATEST,
    SYMLINK,
    member_header,
    padding,
)
from wingsd.errors import BadRequest, FileDenied, FileMissing
from wingsd.files.archive_names import ArchiveKind
from wingsd.files.guard import Guard
from wingsd.files.members import Chosen, FileMember, Selection
from wingsd.files.progress import Progress
from wingsd.filesystem import Entry, NewFileOptions, ServerPath, ServerRoot, name_text

__all__ = [
    "MAX_ZIP_MEMBERS",
    "MAX_ZIP_NAMES",
    "ArchiveOutput",
    "Compressing",
    "check_packing",
    "compress",
    "pack_into",
]

#: The members of a zip: its directory is in memory until the end, about 700 bytes for each and
#: the names.
MAX_ZIP_MEMBERS = 250_000
MAX_ZIP_NAMES = 64 << 20
_BLOCK = 240 << 10
_LATEST = LATEST * 1_000_000_000
#: The times that a zip can have: MS-DOS's, in local time.
_FIRST_YEAR, _LAST_YEAR = 1980, 2107
_AFTER_LAST_YEAR = 1 << 33
_ZIP_LEVELS = {
    Compression.NONE: 0,
    Compression.BEST_SPEED: 1,
    Compression.GOOD_SPEED: 3,
    Compression.GOOD_COMPRESSION: 6,
    Compression.BEST_COMPRESSION: 9,
}


class ArchiveOutput(Protocol):
    """What an archive is written to."""

    def write(self, data: bytes, /) -> int:
        """Append bytes; return how many."""


@attrs.frozen
class Compressing:
    """What is packed: `files` below `top`, in the format of `kind`.

    The archive gets the first of `targets` that is free, or with `overwrite` the first. With
    `skip_missing` files that do not exist are passed over.
    """

    top: ServerPath
    files: Sequence[ServerPath]
    kind: ArchiveKind
    compression: Compression = Compression.BEST_SPEED
    overwrite: bool = False
    skip_missing: bool = False


def compress(
    root: ServerRoot,
    guard: Guard,
    asked: Compressing,
    targets: Iterable[ServerPath],
    progress: Progress,
) -> tuple[ServerPath, Entry]:
    """Make an archive; return its path and entry.

    Raises FileMissing, FileDenied where all of it is denied, DirectoryMissing, DiskLimitExceeded,
    NameConflict, FileWorkCancelled and StorageError; nothing is left of an archive that failed.
    """
    chosen = _existing(root, guard, asked)
    for target in targets:
        guard.check(target)
        if not (asked.overwrite or _is_free(root, target)):
            continue
        progress.target = target
        selection = Selection(root, guard, asked.top, Chosen(chosen), target)
        progress.bytes_total = selection.total(progress.check)
        options = NewFileOptions(replace=asked.overwrite)
        with root.new_file(target, options) as file:
            _pack(selection.members(), asked, file, progress)
            return target, Entry.of(target.name, file.commit())
    raise FileMissing(str(asked.top))


def check_packing(root: ServerRoot, guard: Guard, asked: Compressing) -> None:
    """Raise what `pack_into` would at its beginning."""
    _existing(root, guard, asked)


def pack_into(
    root: ServerRoot, guard: Guard, asked: Compressing, output: ArchiveOutput, progress: Progress
) -> None:
    """Write an archive to `output`, as it is made.

    Raises FileMissing, FileDenied where all of it is denied, DirectoryMissing, FileWorkCancelled,
    StorageError, and what `output` raises.
    """
    chosen = Chosen(_existing(root, guard, asked))
    members = Selection(root, guard, asked.top, chosen, ServerPath()).members()
    _pack(members, asked, output, progress)


def _is_free(root: ServerRoot, path: ServerPath) -> bool:
    try:
        root.stat(path)
    except FileMissing:
        return True
    return False


def _existing(root: ServerRoot, guard: Guard, asked: Compressing) -> list[ServerPath]:
    """Return the chosen paths below `top` that exist and are not denied."""
    chosen: list[ServerPath] = []
    denied: FileDenied | None = None
    for path in asked.files:
        place = ServerPath((*asked.top.parts, *path.parts))
        try:
            guard.check(place, is_directory=root.stat(place).is_directory)
        except FileDenied as error:
            denied = error
        except FileMissing:
            if not asked.skip_missing:
                raise
        else:
            chosen.append(path)
    if not chosen:
        raise denied or FileMissing(str(asked.top))
    return chosen


def _pack(
    found: Iterator[FileMember], asked: Compressing, output: ArchiveOutput, progress: Progress
) -> None:
    if asked.kind.tar is None:
        with closing(found):  # type: ignore[type-var]
            _write_zip(found, asked.compression, output, progress)
        return
    blocks = _joined(_tar_pieces(found, progress))
    packer = compressor(asked.kind.tar, asked.compression)
    with closing(found), closing(blocks):  # type: ignore[type-var]
        for block in blocks if packer is None else compressed(blocks, packer):
            if block:
                output.write(block)


def _tar_pieces(found: Iterable[FileMember], progress: Progress) -> Iterator[bytes]:
    for member in found:
        progress.check()
        mode = member_mode(member.found.st_mode)[0]
        mtime = min(max(member.found.st_mtime_ns, -_LATEST), _LATEST)
        if member.is_directory:
            yield member_header(member.name + b"/", DIRECTORY, mode, 0, mtime)
        elif member.link:
            yield member_header(member.name, SYMLINK, 0o777, 0, mtime, link=member.link)
        else:
            yield member_header(member.name, FILE, mode, member.size, mtime)
            for block in member.data():
                progress.check()
                yield block
                progress.bytes_done += len(block)
            yield padding(member.size)
        progress.files_done += 1
    yield END


def _joined(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the pieces in larger blocks, since each is compressed by a call of its own."""
    gathered: list[bytes] = []
    size = 0
    for piece in pieces:
        gathered.append(piece)
        size += len(piece)
        if size >= _BLOCK:
            yield b"".join(gathered)
            gathered.clear()
            size = 0
    yield b"".join(gathered)


class _Stream:
    """The output of a zip, which is written from its start to its end."""

    def __init__(self, output: ArchiveOutput) -> None:
        self._output: ArchiveOutput | None = output

    def write(self, data: bytes, /) -> int:
        return len(data) if self._output is None else self._output.write(data)

    def flush(self) -> None:
        """Nothing is kept here."""

    def discard(self) -> None:
        """Write nothing more."""
        self._output = None


def _write_zip(
    found: Iterable[FileMember],
    compression: Compression,
    output: ArchiveOutput,
    progress: Progress,
) -> None:
    stream, level = _Stream(output), _ZIP_LEVELS[compression]
    method = zipfile.ZIP_DEFLATED if level else zipfile.ZIP_STORED
    given: Any = stream  # which needs no more than these two methods
    archive = zipfile.ZipFile(given, "w", method, compresslevel=level or None)
    try:
        names = 0
        for number, member in enumerate(found):
            progress.check()
            info = _zip_info(member, method)
            names += sys.getsizeof(info.filename)
            if number == MAX_ZIP_MEMBERS or names > MAX_ZIP_NAMES:
                raise BadRequest(
                    "There are too many files for a zip.",
                    f"a zip has {MAX_ZIP_MEMBERS} files at most here, and {MAX_ZIP_NAMES >> 20} "
                    "MiB of names; make a tar.gz",
                )
            _add_to_zip(archive, info, member, progress)
            progress.files_done += 1
        archive.close()
    finally:
        # Deleted before its end, it would write its directory.
        stream.discard()


def _add_to_zip(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, member: FileMember, progress: Progress
) -> None:
    if member.fd < 0:
        archive.writestr(info, member.link)
        return
    with archive.open(info, "w") as entry:
        for block in member.data():
            progress.check()
            entry.write(block)
            progress.bytes_done += len(block)


def _zip_info(member: FileMember, method: int) -> zipfile.ZipInfo:
    local = time.localtime(min(max(member.found.st_mtime, 0), _AFTER_LAST_YEAR))
    if local.tm_year < _FIRST_YEAR:
        moment = (_FIRST_YEAR, 1, 1, 0, 0, 0)
    elif local.tm_year > _LAST_YEAR:
        moment = (_LAST_YEAR, 12, 31, 23, 59, 58)
    else:
        moment = local[:6]
    info = zipfile.ZipInfo(name_text(member.name) + ("/" if member.is_directory else ""), moment)
    kind = member.found.st_mode & 0o170000
    info.external_attr = (kind | (member.found.st_mode & 0o777)) << 16
    if member.is_directory:
        info.external_attr |= 0x10  # MS-DOS's bit of a directory
    else:
        info.compress_type = method
    info.file_size = member.size
    return info
