"""Makes the archive of one backup: packed into a part, made durable, then put into place.

The part has a name of its own until the archive is complete and its catalogue is written, so a
file with the name of a backup is always a whole one. The program of the server goes on meanwhile:
what changes while it is read is handled as GNU tar does.

A backup leaves out files that are being written, and those of an ignore list with git's rules. The
list is the Panel's; where that is empty, a file in the server's directory: `.pteroignore`, with
Pelican `.pelicanignore`, with Calagopus both. Calagopus' backups leave out what the egg's denylist
has as well, since its users cannot see that. Blocking.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType

import attrs

from wingsd.archive.compress import ArchiveFormat, Compression
from wingsd.archive.pack import Packed, pack
from wingsd.archive.partition import Part
from wingsd.archive.policy import MAX_DEPTH, Kind, attributes_line
from wingsd.backups.catalogue import COMPLETE, VERSION, Catalogue
from wingsd.backups.store import BackupStore, MadeArchive
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL
from wingsd.errors import (
    BackupIgnoresEverything,
    FileMissing,
    FileTypeRefused,
    IsDirectory,
    NoSpaceForBackup,
    StorageError,
    TreeTooLarge,
)
from wingsd.files.denylist import Denylist
from wingsd.files.progress import Progress
from wingsd.filesystem.new_file import TEMPORARY
from wingsd.filesystem.paths import ServerPath, name_text
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.walk import Listing, opened, regular_bytes, walk
from wingsd.util.text import disk_advice, display

_MIB = 1 << 20
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
        #: The bytes written.
        self.size = 0
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
        self.size += len(block)
        if self._grew is not None:
            self._grew(self.size)
        keep_pace(self._began, self.size, self._terms.write_limit, self._progress)

    def sync(self) -> None:
        """Return when all of it is on stable storage. Raises StorageError."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise _unwritable(self._path, error) from error


def _unwritable(path: str, error: OSError) -> StorageError:
    # `disk_advice` is about servers that are sent.
    advice = disk_advice(error).partition(";")[0]
    return StorageError(f"{path}: {advice}", "the backup could not be written")


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


@attrs.define
class IgnoreList:
    """Files that are left out of one backup: those in `ignored` and in `denied`.

    `dropped` counts the names that were left out; what is in a directory is not counted.
    """

    ignored: Denylist = attrs.field(factory=Denylist)
    denied: Denylist = attrs.field(factory=Denylist)
    dropped: int = 0

    def select(self, listing: Listing) -> Listing:
        """Return what a backup has of a directory; a directory that is dropped is not entered.

        Raises TreeTooLarge for what is so deep that it could not be restored.
        """
        kept = self._selected(listing)
        if len(kept.path) + bool(kept.count) > MAX_DEPTH:
            raise TreeTooLarge.reading(
                f"{display(b'/'.join(kept.path))} is nested too deeply: a backup could not be "
                f"restored with more than {MAX_DEPTH} directories in each other; move it up, "
                "delete it, or add it to the ignore list"
            )
        return kept

    def _selected(self, listing: Listing) -> Listing:
        files = [name for name in listing.files if not TEMPORARY.fullmatch(name)]
        found = attrs.evolve(listing, files=files)
        if self.ignored.is_empty and self.denied.is_empty:
            return found
        prefix = name_text(listing.prefix)

        def keep(name: bytes, is_directory: bool) -> bool:
            path = f"{prefix}{name_text(name)}{'/' if is_directory else ''}"
            is_left_out = self.ignored.matches(path) or self.denied.matches(path)
            self.dropped += is_left_out
            return not is_left_out

        return found.filtered(keep)


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
        files=packed.counts[Kind.FILE],
        sha256=packed.sha256,
        checksum_type=terms.checksum_type,
        checksum=file.checksum.hexdigest(),
        made=time.time(),
    )
    return MadeArchive(path, place, catalogue, warnings)


def _part(store: BackupStore, place: str) -> str:
    """Return the path of the part of a new archive, whose directory is made."""
    path = store.part_path(place)
    directory = os.path.dirname(path)
    try:
        os.makedirs(store.directory, exist_ok=True)
        if directory != store.directory:
            with suppress(FileExistsError):
                os.mkdir(directory, 0o700)
    except OSError as error:
        raise _unwritable(directory, error) from error
    return path


def _require_content(packed: Packed, ignore: IgnoreList) -> None:
    """Raise BackupIgnoresEverything where nothing but directories was packed."""
    kept = packed.counts[Kind.FILE] + packed.counts[Kind.SYMLINK] + packed.counts[Kind.HARD_LINK]
    if ignore.dropped and not kept:
        raise BackupIgnoresEverything


def _total(directory: str, ignore: IgnoreList, progress: Progress) -> int:
    """Return the bytes of the files that will be packed, to show how far that is."""
    with opened(directory) as root:
        return regular_bytes(walk(root, lambda name, why: None, ignore.select), progress.check)
