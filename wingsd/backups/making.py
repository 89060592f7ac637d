"""Makes the archive of one backup: packed into a part, made durable, then put into place.

The part has a name of its own until the archive is complete and its catalogue is written, so a
file with the name of a backup is always a whole one. The program of the server goes on meanwhile:
what changes while it is read is handled as GNU tar does. Blocking.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import attrs

from wingsd.archive import ArchiveFormat, Compression, Part
from wingsd.archive.policy import attributes_line
from wingsd.backups.catalogue import COMPLETE, VERSION, Catalogue
from wingsd.backups.ignore import IgnoreList
from wingsd.backups.store import BackupStore, part_name
from wingsd.errors import (
    BackupIgnoresEverything,
    NoSpaceForBackup,
    StorageError,
)
from wingsd.files.progress import Progress
from wingsd.filesystem.walk import opened, walk
from wingsd.util.text import disk_advice

if TYPE_CHECKING:
    from wingsd.archive.pack import Packed

__all__ = ["ArchiveTerms", "MadeArchive", "NewArchiveFile", "check_space", "make_archive"]

_MIB = 1 << 20
#: Bytes after which the file system is asked how much is free.
_STEP = 8 << 20
#: The reserve is at most this part of the file system, as that of transfers.
_SHARE = 20
_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


@attrs.frozen(repr=False)
class ArchiveTerms:
    """How the archives of a node are made.

    `checksum_type` is what the Panel is told, `sha1` or `sha256`; `write_limit` are the bytes a
    second that are written of one, 0 for no limit; `reserve` are the bytes that stay free.
    """

    form: ArchiveFormat
    compression: Compression
    checksum_type: str
    write_limit: int
    reserve: int


@attrs.frozen(repr=False)
class MadeArchive:
    """A complete archive at `path`, which is not in its `place` yet, and its catalogue.

    `warnings` is how many files were left out, or changed while they were read.
    """

    path: str
    place: str
    catalogue: Catalogue
    warnings: int


def check_space(found: os.statvfs_result, reserve: int, needed: int) -> None:
    """Raise NoSpaceForBackup where `needed` more bytes do not leave `reserve` bytes free."""
    free = found.f_bavail * found.f_frsize
    reserve = min(reserve, found.f_blocks * found.f_frsize // _SHARE)
    if reserve and free - needed < reserve:
        raise NoSpaceForBackup(free, needed, reserve)


class NewArchiveFile:
    """A part that is being written, in blocks; to be used as a context."""

    def __init__(
        self,
        path: str,
        terms: ArchiveTerms,
        progress: Progress,
        grew: Callable[[int], None] | None = None,
    ) -> None:
        self._grew = grew
        self._terms = terms
        self._progress = progress
        self._path = path
        self._unseen = _STEP
        self._written = 0
        self._began = time.monotonic()
        self.checksum = hashlib.new(terms.checksum_type, usedforsecurity=False)
        try:
            self._fd = os.open(path, _NEW, 0o600)
        except OSError as error:
            raise _unwritable(path, error) from error

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
        try:
            if self._unseen >= _STEP:
                self._unseen = 0
                check_space(os.fstatvfs(self._fd), self._terms.reserve, len(block))
            rest = memoryview(block)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            raise _unwritable(self._path, error) from error
        self.checksum.update(block)
        self._written += len(block)
        if self._grew is not None:
            self._grew(self._written)
        self._keep_pace()

    @property
    def size(self) -> int:
        """The bytes written."""
        return self._written

    def sync(self) -> None:
        """Return when all of it is on stable storage. Raises StorageError."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def _keep_pace(self) -> None:
        if not self._terms.write_limit:
            return
        due = self._began + self._written / self._terms.write_limit
        while (left := due - time.monotonic()) > 0:
            self._progress.check()
            time.sleep(min(left, 0.1))


def _unwritable(path: str, error: OSError) -> StorageError:
    # `disk_advice` is about servers that are sent.
    advice = disk_advice(error).partition(";")[0]
    return StorageError(f"{path}: {advice}", "the backup could not be written")


def make_archive(
    directory: str,
    owner: tuple[str, str],
    store: BackupStore,
    terms: ArchiveTerms,
    ignore: IgnoreList,
    progress: Progress,
    warn: Callable[[str], None],
    grew: Callable[[int], None] | None = None,
) -> MadeArchive:
    """Pack the server's directory; return the archive, whose part is on stable storage.

    `owner` are the UUIDs of the server and of the backup. `warn` gets a line for each file that is
    left out or that has changed while it was read; `grew` gets the bytes of the part, each time
    that some are written. After an error nothing is left. Raises
    NoSpaceForBackup, BackupIgnoresEverything, FileWorkCancelled, and StorageError.
    """
    # Here, since a node at rest makes no archives.
    from wingsd.archive.pack import pack  # noqa: PLC0415

    server, backup = owner
    place = store.place(server, backup, terms.form.suffix)
    path = _part(store, place)
    warnings = 0

    def count(line: str) -> None:
        nonlocal warnings
        warnings += 1
        warn(line)

    def note(data: int, files: int) -> None:
        progress.bytes_done, progress.files_done = data, files

    progress.bytes_total = _total(directory, ignore, progress)
    ignore.dropped = 0
    try:
        with NewArchiveFile(path, terms, progress, grew) as file:
            packed = pack(
                Part(directory, select=ignore.select, holes=True),
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
        store.remove_leftovers(place, backup)
        raise
    catalogue = Catalogue(
        version=VERSION,
        backup=backup,
        server=server,
        state=COMPLETE,
        archive=os.path.basename(place),
        bytes=packed.archive_bytes,
        files=packed.file_count,
        sha256=packed.sha256,
        checksum_type=terms.checksum_type,
        checksum=file.checksum.hexdigest(),
        made=time.time(),
    )
    return MadeArchive(path, place, catalogue, warnings)


def _part(store: BackupStore, place: str) -> str:
    """Return the path of the part of a new archive, whose directory is made."""
    path = store.path(place)
    directory = os.path.dirname(path)
    try:
        os.makedirs(store.directory, exist_ok=True)
        if directory != store.directory:
            with suppress(FileExistsError):
                os.mkdir(directory, 0o700)
    except OSError as error:
        raise _unwritable(directory, error) from error
    return os.path.join(directory, part_name(place))


def _require_content(packed: Packed, ignore: IgnoreList) -> None:
    """Raise BackupIgnoresEverything where nothing but directories was packed."""
    kept = packed.file_count + packed.symlink_count + packed.hard_link_count
    if ignore.dropped and not kept:
        raise BackupIgnoresEverything


def _total(directory: str, ignore: IgnoreList, progress: Progress) -> int:
    """Return the bytes of the files that will be packed, to show how far that is."""
    total = 0
    with opened(directory) as root:
        for listing in walk(root, lambda name, why: None, ignore.select):
            progress.check()
            for name in listing.files:
                with suppress(OSError):
                    total += os.stat(name, dir_fd=listing.fd, follow_symlinks=False).st_size
    return total
