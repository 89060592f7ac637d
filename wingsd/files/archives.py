"""Packs files of a server into an archive beside them: a tar, compressed or not, or a zip.

Members are read once, in the order of `walk`. No symlink is followed, and nothing but regular
files is opened; files that are deleted meanwhile are left out. Symlinks are stored as such, also
in a zip, and a hard link as one more file. Blocking.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from typing import Any

import attrs

from wingsd.archive.compress import ArchiveFormat, Compression, compressed, compressor
from wingsd.archive.pipeline import joined
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
from wingsd.errors import (
    ArchiveFormatUnsupported,
    BadRequest,
    FileDenied,
    FileMissing,
    FileTypeRefused,
    IsDirectory,
)
from wingsd.files.changes import is_free, rfc_3339
from wingsd.files.guard import Guard, Progress
from wingsd.filesystem.directory import Entry, open_regular
from wingsd.filesystem.new_file import TEMPORARY, NewFileOptions
from wingsd.filesystem.paths import ServerPath, name_text
from wingsd.filesystem.walk import Listing, gone, regular_bytes, unreadable_for_user

#: It was replaced by something else than a symlink.
_REPLACED = (errno.EINVAL,)
_STEP = 240 << 10


@attrs.frozen(repr=False)
class FileMember:
    """A directory, a regular file or a symlink: its path in the archive, and its stat result.

    `fd` is of a regular file, and valid until the next member; `link` is the text of a symlink.
    """

    name: bytes
    found: os.stat_result
    fd: int = -1
    link: bytes = b""

    @property
    def is_directory(self) -> bool:
        """True for a directory."""
        return stat.S_ISDIR(self.found.st_mode)

    @property
    def size(self) -> int:
        """The bytes of a regular file, 0 for others."""
        return self.found.st_size if self.fd >= 0 else 0

    def data(self) -> Iterator[bytes]:
        """Yield as many bytes as `size`: of a file that became shorter, zeros for the rest.

        Raises StorageError.
        """
        left = self.size
        while left:
            try:
                block = os.read(self.fd, min(left, _STEP)) or bytes(min(left, _STEP))
            except OSError as error:
                unreadable_for_user(self.name, error)
            left -= len(block)
            yield block


class Chosen:
    """The files that a user has chosen, by paths in one directory; the empty path is all of it."""

    def __init__(self, paths: Iterable[ServerPath]) -> None:
        #: The names on the way to each of them, and True in place of the names in one of them.
        self._tree: Any = {}
        for path in paths:
            if path.is_root:
                self._tree = True
            here = self._tree
            for part in path.parts[:-1]:
                if here is True:
                    break
                here = here.setdefault(part, {})
            if here is not True:
                here[path.name] = True

    def of(self, directory: tuple[bytes, ...]) -> Callable[[bytes, bool], bool]:
        """Return what decides on a name in a directory, and whether that is a directory."""
        here = self._tree
        for part in directory:
            if here is True:
                break
            here = here.get(part, {})
        if here is True:
            return lambda name, is_directory: True

        def chosen(name: bytes, is_directory: bool) -> bool:
            found = here.get(name)
            return found is True or (is_directory and found is not None)

        return chosen

    def has(self, directory: tuple[bytes, ...]) -> bool:
        """Return whether a directory is itself chosen, or below one that is."""
        return bool(directory) and self.of(directory[:-1])(directory[-1], False)


@attrs.frozen(repr=False)
class Selection:
    """The part of the directory `top` that is packed into `archive`, of which a part is denied."""

    guard: Guard
    top: ServerPath
    chosen: Chosen
    archive: ServerPath

    def total(self) -> int:
        """Return the bytes of its regular files. Raises as `members`, and FileWorkCancelled."""
        with self._listings() as listings:
            return regular_bytes(listings, self.guard.progress.check)

    def members(self) -> Iterator[FileMember]:
        """Yield what is chosen but what is denied, `archive` itself, and files being written.

        Raises DirectoryMissing, FileInUse, and StorageError where something cannot be read.
        """
        with self._listings() as listings:
            for listing in listings:
                if listing.is_first and self.chosen.has(listing.path):
                    yield FileMember(b"/".join(listing.path), listing.stat)
                for name in listing.files:
                    yield from _file(listing, name)
                for name in listing.symlinks:
                    yield from _symlink(listing, name)

    def _listings(self) -> AbstractContextManager[Iterator[Listing]]:
        return self.guard.tree(self.top, select=self._wanted)

    def _wanted(self, listing: Listing) -> Listing:
        chosen = self.chosen.of(listing.path)
        here = ServerPath((*self.top.parts, *listing.path))
        found = listing.filtered(
            lambda name, is_directory: (
                chosen(name, is_directory) and here.child(name) != self.archive
            )
        )
        files = [name for name in found.files if not TEMPORARY.fullmatch(name)]
        return attrs.evolve(found, files=files, others=[])


def _file(listing: Listing, name: bytes) -> Iterator[FileMember]:
    """Yield a regular file, none where it was deleted or replaced."""
    path = listing.prefix + name
    try:
        file = open_regular(listing.fd, name)
    except (IsDirectory, FileTypeRefused):  # it was replaced
        return
    except OSError as error:
        _check(path, error)
        return
    with file:
        try:
            found = os.fstat(file.fileno())
        except OSError as error:
            unreadable_for_user(path, error)
        yield FileMember(path, found, file.fileno())


def _symlink(listing: Listing, name: bytes) -> Iterator[FileMember]:
    """Yield a symlink, none where it was deleted or replaced."""
    path = listing.prefix + name
    try:
        found = os.lstat(name, dir_fd=listing.fd)
        link = os.readlink(name, dir_fd=listing.fd)
    except OSError as error:
        _check(path, error)
    else:
        yield FileMember(path, found, link=link)


def _check(path: bytes, error: OSError) -> None:
    """Raise FileNotPermitted or StorageError unless the file was deleted or replaced."""
    if not gone(error) and error.errno not in _REPLACED:
        unreadable_for_user(path, error)


@attrs.frozen(repr=False)
class ArchiveKind:
    """A kind of archive: with `tar` a tar in that format, else a zip. `suffix` has no dot."""

    tar: ArchiveFormat | None
    suffix: str
    mime: str


_TARS = {
    ArchiveFormat.TAR: "application/x-tar",
    ArchiveFormat.TAR_GZ: "application/gzip",
    ArchiveFormat.TAR_XZ: "application/x-xz",
    ArchiveFormat.TAR_BZ2: "application/x-bzip2",
    ArchiveFormat.TAR_LZ4: "application/x-lz4",
    ArchiveFormat.TAR_ZSTD: "application/zstd",
}
#: By the names in Calagopus' Panel. Left out are `tar_lzip` and `seven_zip`, for which the
#: standard library has no compressor.
_FORMATS: Mapping[str, ArchiveKind] = {
    **{tar.value: ArchiveKind(tar, tar.suffix, mime) for tar, mime in _TARS.items()},
    "zip": ArchiveKind(None, "zip", "application/zip"),
}
#: By the extensions in Pelican's Panel; the file of a `tgz` is named `tar.gz`.
_EXTENSIONS: Mapping[str, ArchiveKind] = {
    "zip": _FORMATS["zip"],
    **dict.fromkeys(("tar.gz", "tgz"), _FORMATS["tar_gz"]),
    **dict.fromkeys(("tar.bz2", "tbz2"), _FORMATS["tar_bz2"]),
    **dict.fromkeys(("tar.xz", "txz"), _FORMATS["tar_xz"]),
}


def kind_of_format(name: str) -> ArchiveKind:
    """Return the kind by its name in Calagopus' Panel. Raises `ArchiveFormatUnsupported`."""
    try:
        return _FORMATS[name]
    except KeyError:
        raise ArchiveFormatUnsupported(name, _FORMATS) from None


def kind_of_extension(extension: str) -> ArchiveKind:
    """Return the kind by an extension of Pelican's Panel; any other is a tar.gz, as there."""
    return _EXTENSIONS.get(extension.lower().removeprefix("."), _FORMATS["tar_gz"])


def default_name(now: float) -> bytes:
    """Return the name, without its suffix, of an archive that the user has not named."""
    return f"archive-{rfc_3339(now).replace(':', '')}".encode()


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


@attrs.frozen(repr=False)
class Compressing:
    """An archive that is asked for: `files` below `top`, in the format of `kind`.

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
    guard: Guard, asked: Compressing, targets: Iterable[ServerPath]
) -> tuple[ServerPath, Entry]:
    """Make an archive; return its path and entry.

    Raises FileMissing, FileDenied where all of it is denied, DirectoryMissing, DiskLimitExceeded,
    NameConflict, FileWorkCancelled and StorageError; nothing is left of an archive that failed.
    """
    chosen = existing(guard, asked)
    for target in targets:
        guard.check(target)
        if not (asked.overwrite or is_free(guard.root, target)):
            continue
        guard.progress.target = target
        selection = Selection(guard, asked.top, Chosen(chosen), target)
        guard.progress.bytes_total = selection.total()
        options = NewFileOptions(replace=asked.overwrite)
        with guard.root.new_file(target, options) as file:
            _pack(selection.members(), asked, file.write, guard.progress)
            return target, Entry.of(target.name, file.commit())
    raise FileMissing(str(asked.top))


def pack_into(guard: Guard, asked: Compressing, write: Callable[[bytes], object]) -> None:
    """Pass the bytes of an archive to `write`, as it is made.

    Raises FileMissing, FileDenied where all of it is denied, DirectoryMissing, StorageError, and
    what `write` raises.
    """
    chosen = Chosen(existing(guard, asked))
    members = Selection(guard, asked.top, chosen, ServerPath()).members()
    _pack(members, asked, write, guard.progress)


def existing(guard: Guard, asked: Compressing) -> list[ServerPath]:
    """Return the chosen paths below `top` that exist and are not denied.

    Raises FileMissing, and FileDenied where all of it is denied.
    """
    chosen: list[ServerPath] = []
    denied: FileDenied | None = None
    for path in asked.files:
        place = ServerPath((*asked.top.parts, *path.parts))
        try:
            guard.check(place, is_directory=guard.root.stat(place).is_directory)
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
    found: Iterator[FileMember],
    asked: Compressing,
    write: Callable[[bytes], object],
    progress: Progress,
) -> None:
    if asked.kind.tar is None:
        with closing(found):  # type: ignore[type-var]
            _write_zip(found, asked.compression, _Stream(write), progress)
        return
    blocks = joined(_tar_pieces(found, progress), _BLOCK)
    packer = compressor(asked.kind.tar, asked.compression)
    with closing(found), closing(blocks):  # type: ignore[type-var]
        for block in blocks if packer is None else compressed(blocks, packer):
            if block:
                write(block)


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


class _Stream:
    """The output of a zip, which is written from its start to its end."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        #: Whether nothing more is written.
        self.is_over = False

    def write(self, data: bytes, /) -> int:
        if not self.is_over:
            self._write(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is kept here."""


def _write_zip(
    found: Iterable[FileMember], compression: Compression, stream: _Stream, progress: Progress
) -> None:
    level = _ZIP_LEVELS[compression]
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
            if member.fd < 0:
                archive.writestr(info, member.link)
            else:
                with archive.open(info, "w") as entry:
                    for block in member.data():
                        progress.check()
                        entry.write(block)
                        progress.bytes_done += len(block)
            progress.files_done += 1
        archive.close()
    finally:
        # Deleted before its end, it would write its directory.
        stream.is_over = True


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
