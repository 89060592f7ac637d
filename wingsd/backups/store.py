"""The directory of local backups: where each family keeps them, found, listed and removed.

Pelican's nodes keep the backups of a server in a directory of its own, the others all of them side
by side. Whichever family this node's is, backups in either place are found. A backup is of the
server whose directory it is in, or that its catalogue names. Backups that Pterodactyl's Wings has
made have neither: each belongs to any server for which it is requested by its UUID.

Backups are also parts of an upload: sent with a server from here, and removed when it has moved.
Blocking.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from threading import Lock
from types import MappingProxyType

import attrs
from twisted.logger import Logger

from wingsd.backups.catalogue import Catalogue, CatalogueFiles, catalogue_name
from wingsd.config import CALAGOPUS, PELICAN
from wingsd.errors import (
    BackupMissing,
    FileTypeRefused,
    InvalidBackupName,
    InvalidData,
    IsDirectory,
    StorageError,
)
from wingsd.filesystem.directory import Entry, OpenFile, entry_at, open_regular
from wingsd.filesystem.open_directories import FILE_FLAGS, closing_descriptor
from wingsd.statedb import POINT, point_place
from wingsd.threadio import Workers
from wingsd.util.durable import sync_directory
from wingsd.util.text import canonical_uuid, disk_advice, reading_advice, require_uuid

#: The forms in which the families' nodes keep local backups. Pelican's know only the second.
SUFFIXES = ("tar", "tar.gz", "tar.xz", "tar.lz", "tar.bz2", "tar.lz4", "tar.zst", "zip", "7z")
#: What each family calls the part of an installation's log; Pterodactyl's has none.
LOG_PARTS: Mapping[str, str] = MappingProxyType(
    {PELICAN: "install_logs", CALAGOPUS: "install-logs"}
)
#: What Calagopus' nodes call a backup that is one file; of their other kinds none can be sent.
WINGS = "backup/wings"

_FILE = re.compile(rf"([0-9A-Fa-f-]{{36}})\.({'|'.join(map(re.escape, SUFFIXES))})")


@attrs.frozen(repr=False)
class Backup:
    """A local backup: its UUID, the suffix of its file, and the family in whose form it came."""

    uuid: str
    suffix: str
    family: str

    def path(self, server: str) -> str:
        """Return where in `system.backup_directory` its family keeps it."""
        name = f"{self.uuid}.{self.suffix}"
        return f"{server}/{name}" if self.family == PELICAN else name


@attrs.frozen(repr=False)
class BackupChecksum:
    """The SHA-256 of the backup with a UUID."""

    uuid: str


@attrs.frozen(repr=False)
class AttachedLog:
    """The log of the server's last installation."""


Attachment = Backup | AttachedLog


def attachment_of(
    name: str, filename: str = "", content_type: str = ""
) -> Attachment | BackupChecksum | None:
    """Return the attachment in the part `name`; None if it is not an attachment.

    Raises `BadRequest` for a backup that cannot be kept: after a success the source would delete
    the only copy.
    """
    if name in LOG_PARTS.values():
        return AttachedLog()
    if name.startswith("checksum_backup_"):
        return BackupChecksum(_file(name, name.removeprefix("checksum_backup_"))[0])
    if name.startswith("backup_"):
        return Backup(*_file(name, name.removeprefix("backup_")), PELICAN)
    if name.startswith("backup-checksum-"):
        return BackupChecksum(_uuid(name, name.removeprefix("backup-checksum-")))
    if name.startswith("backup-"):
        uuid = _uuid(name, name.removeprefix("backup-"))
        if content_type != WINGS:
            raise _refused(name, f"its content type is {content_type[:80]!r}, not {WINGS}")
        return Backup(uuid, _file(name, filename)[1], CALAGOPUS)
    return None


def backup_at(path: str) -> Backup | None:
    """Return the backup whose `path` in `system.backup_directory` this is."""
    directory, _, name = path.rpartition("/")
    found = _FILE.fullmatch(name)
    if found is None:
        return None
    return Backup(found[1], found[2], PELICAN if directory else CALAGOPUS)


def _file(part: str, name: str) -> tuple[str, str]:
    """Return the UUID and the suffix of a file's name, whatever directories it names."""
    found = _FILE.fullmatch(re.split(r"[/\\]", name)[-1])
    if found is None:
        raise _refused(part, f"its file is not called by a UUID and one of {', '.join(SUFFIXES)}")
    return _uuid(part, found[1]), found[2]


def _uuid(part: str, text: str) -> str:
    return require_uuid(text, _refused(part, "it does not name the UUID of a backup"))


def _refused(part: str, why: str) -> InvalidBackupName:
    return InvalidBackupName(
        "this node cannot store a backup that was sent with the server",
        f"the part {part[:80]!r}: {why}; transfer the server without that backup",
    )


_PIECE = 240 << 10
_NOT_READ = "a backup that is to be sent with the server could not be read"


@attrs.frozen(repr=False)
class LocalBackup:
    """A file of `size` bytes, and the backup that is sent from it.

    `place` is its path in the directory of all backups.
    """

    backup: Backup
    path: str
    size: int
    place: str

    def blocks(self) -> Generator[bytes, None, None]:
        """Yield its bytes. Raises `StorageError`, also where the size has changed."""
        left = self.size
        try:
            descriptor = os.open(self.path, FILE_FLAGS)
            with open(descriptor, "rb", buffering=0) as file:
                while piece := file.read(_PIECE):
                    left -= len(piece)
                    yield piece
        except OSError as error:
            raise StorageError(f"{self.path}: {error.strerror}", _NOT_READ) from error
        if left:
            raise StorageError(f"{self.path} was changed while it was sent", _NOT_READ)


def find_backups(
    directory: str, server: str, uuids: Iterable[str], family: str
) -> tuple[LocalBackup, ...]:
    """Find the backups `uuids` of a server below `directory`, in the form for nodes of `family`.

    Raises `StorageError` that names all that are not there, or that such a node cannot keep.
    """
    found, missing = [], []
    for uuid in uuids:
        backup = _find(directory, server, uuid, family)
        found.append(backup) if backup is not None else missing.append(uuid)
    if missing:
        raise StorageError(
            f"{directory} does not have {', '.join(missing)}; delete it in the Panel, or leave "
            f"it out of the transfer",
            "a backup that is to be sent with the server is not on this node",
        )
    for each in found:
        if family == PELICAN and each.backup.suffix != "tar.gz":
            raise StorageError(
                f"{each.path}: the nodes of Pelican keep only backups that are a tar.gz",
                "a backup cannot be sent to the destination's node",
            )
    return tuple(found)


def _find(directory: str, server: str, uuid: str, family: str) -> LocalBackup | None:
    for place in (PELICAN, CALAGOPUS):
        for suffix in SUFFIXES:
            name = Backup(uuid, suffix, place).path(server)
            path = os.path.join(directory, name)
            try:
                status = os.lstat(path)
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode):
                return LocalBackup(Backup(uuid, suffix, family), path, status.st_size, name)
    return None


def remove_backup(directory: str, place: str) -> None:
    """Remove the backup at `place` in `directory`, if it is there; raises `StorageError`."""
    backup = backup_at(place)
    if backup is None:
        return  # Only backups are ever removed by this function.
    path = os.path.join(directory, place)
    try:
        with suppress(FileNotFoundError):
            os.unlink(path)
            sync_directory(Path(path).parent)
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(os.path.dirname(path), catalogue_name(backup.uuid)))
    except OSError as error:
        raise StorageError(
            f"{path}: {disk_advice(error)}; delete it by hand",
            "a backup that has moved to another node could not be removed here",
        ) from error
    if os.path.dirname(place):
        with suppress(OSError):  # The server may have others in it.
            os.rmdir(os.path.dirname(path))


_log = Logger()


@attrs.frozen(eq=False, repr=False)
class Removal:
    """Removes backups below `directory`, which is `system.backup_directory`."""

    directory: str
    disk: Workers

    async def remove(self, server: str, paths: Sequence[str]) -> None:
        """Remove the backups at `paths` in the directory. What cannot be is logged."""
        for path in paths:
            try:
                await self.disk.run(remove_backup, self.directory, path)
            except StorageError as error:
                _log.error("{server}: backup not removed: {error}", server=server, error=error)
            else:
                _log.info(
                    "{server}: backup {path} removed, it has moved",
                    server=server,
                    path=path,
                )


_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NANO = 1_000_000_000
_BLOCK = 1 << 20
_PART = re.compile(r"\.([0-9a-f-]{36})\.[a-z0-9.]+\.part")


def backup_uuid(text: str) -> str:
    """Return the UUID that a path names. Raises BackupMissing if it has no UUID."""
    return require_uuid(text, BackupMissing(text[:36]))


def part_name(place: str) -> str:
    """Return the name of a backup's file as long as it is being made at a place."""
    return f".{os.path.basename(place)}.part"


@attrs.frozen
class StoredBackup:
    """A backup on the disk, of `size` bytes, last changed at `modified`.

    `server` is empty where nothing tells whose it is; `place` is its path in the directory of all
    backups, `suffix` that of its name, such as `tar.gz`.
    """

    uuid: str
    server: str
    place: str
    suffix: str
    size: int
    modified: float
    catalogue: Catalogue | None = None


@attrs.frozen(repr=False)
class MadeArchive:
    """A complete archive at `path`, which is not in its `place` yet, and its catalogue.

    `warnings` is how many files were left out, or changed while they were read.
    """

    path: str
    place: str
    catalogue: Catalogue
    warnings: int = 0


@attrs.frozen
class UploadedPart:
    """A part of a backup that a store has accepted, with the ETag of its answer."""

    etag: str
    part_number: int


class BackupStore:
    """The backups in one `system.backup_directory`. Methods raise StorageError."""

    _log = Logger()

    def __init__(self, directory: str, family: str) -> None:
        self.directory = directory
        self._family = family
        #: A backup is removed or replaced by one thread at a time.
        self._lock = Lock()
        #: The files and directories that were logged as unreadable.
        self._unreadable: set[str] = set()

    def place(self, server: str, uuid: str, suffix: str) -> str:
        """Return where a new backup is to be, as a path in the directory; see `point_place`."""
        if suffix == POINT:
            return point_place(uuid)
        return Backup(uuid, suffix, self._family).path(server)

    def path(self, place: str) -> str:
        """Return the whole path of a place."""
        return os.path.join(self.directory, place)

    def part_path(self, place: str) -> str:
        """Return the path of the part of the archive that is to be at a place."""
        return os.path.join(os.path.dirname(self.path(place)), part_name(place))

    def find(self, server: str, uuid: str) -> StoredBackup | None:
        """Return a backup of a server; None where there is none. See `open`."""
        opened = self.open(server, uuid)
        if opened is None:
            return None
        opened[1].close()
        return opened[0]

    def open(self, server: str, uuid: str) -> tuple[StoredBackup, OpenFile] | None:
        """Open a backup of a server; None where there is none.

        `server` is empty where only the backup is named, which is then that of any server; the
        directories of servers that cannot be read are logged once and passed over.
        """
        with self._errors("the backup could not be read"), self._opened() as top:
            for place in self._places(top, server):
                with self._opened_place(top, place, server) as directory:
                    found = None if directory is None else self._open_in(directory, place, uuid)
                if found is None:
                    continue
                if not server or found[0].server in ("", server):
                    return found
                found[1].close()
        return None

    def at(self, place: str) -> StoredBackup | None:
        """Return the backup at a place; None where there is none."""
        parent, name = os.path.split(place)
        with self._errors("the backup could not be read"), self._opened() as top:
            if top < 0:
                return None
            with self._opened_place(top, parent, parent) as directory:
                if directory is not None:
                    return next(self._in(directory, parent, (name,)), None)
        return None

    def all(self, server: str = "") -> list[StoredBackup]:
        """Return all backups, or those that are known to be of one server.

        No archive is opened: one that cannot be is listed as well, and is logged once.
        """
        found: list[StoredBackup] = []
        with self._errors("the backups could not be read"), self._opened() as top:
            for place in self._places(top, ""):
                with self._opened_place(top, place, server) as directory:
                    if directory is not None:
                        found += self._in(directory, place, sorted(os.listdir(directory)))
        return [each for each in found if server in ("", each.server)]

    def write_catalogue(self, place: str, catalogue: Catalogue) -> None:
        """Write the catalogue of the backup at a place, on stable storage."""
        with (
            self._errors("the catalogue of the backup could not be written"),
            self._opened_directory(place) as directory,
        ):
            CatalogueFiles(directory).write(catalogue)
            os.fsync(directory)

    def put_into_place(self, place: str, catalogue: Catalogue) -> None:
        """Give a complete part its place, and write its catalogue before, on stable storage."""
        with (
            self._errors("the backup could not be put into place"),
            self._opened_directory(place) as directory,
        ):
            CatalogueFiles(directory).write(catalogue)
            _rename_part(directory, place)
            os.fsync(directory)
            if os.path.dirname(place):
                sync_directory(Path(self.directory))

    def replace(self, found: StoredBackup, inode: int, catalogue: Catalogue | None) -> bool:
        """Put the complete part of a backup in place of its archive, on stable storage.

        Return whether the archive that it was made from, the file `inode`, was still there. Its
        catalogue is written first: `settle_part` completes what a daemon dies in between.
        """
        name = os.path.basename(found.place)
        with (
            self._errors("the backup could not be replaced"),
            suppress(FileNotFoundError),
            self._opened_directory(found.place) as directory,
            self._lock,
        ):
            if os.stat(name, dir_fd=directory, follow_symlinks=False).st_ino != inode:
                return False
            files = CatalogueFiles(directory)
            if catalogue is not None:
                files.write(catalogue)
                os.fsync(directory)
            try:
                _rename_part(directory, found.place)
            except OSError:
                if found.catalogue is not None:
                    files.write(found.catalogue)
                raise
            os.fsync(directory)
            return True
        return False

    def settle_part(self, place: str, uuid: str) -> None:
        """Settle the part of a backup that has an archive: in its place if that has begun.

        It has if the catalogue is that of the part, else the part is removed.
        """
        with (
            self._errors("a backup could not be replaced"),
            suppress(FileNotFoundError),
            self._opened_directory(place) as directory,
            self._lock,
        ):
            CatalogueFiles(directory).remove_unfinished(uuid)
            catalogue = self._catalogue(directory, os.path.dirname(place), uuid)
            if catalogue is not None and _is_archive_of(directory, part_name(place), catalogue):
                _rename_part(directory, place)
            else:
                os.unlink(part_name(place), dir_fd=directory)
            os.fsync(directory)

    def remove(self, found: StoredBackup) -> None:
        """Remove a backup with its catalogue; one that is gone already is no error."""
        with self._errors("the backup could not be removed"), suppress(FileNotFoundError):
            with self._opened_directory(found.place) as directory, self._lock:
                # First the archive: a catalogue alone is left over, and tells of no backup.
                with suppress(FileNotFoundError):
                    os.unlink(os.path.basename(found.place), dir_fd=directory)
                CatalogueFiles(directory).remove(found.uuid)
                os.fsync(directory)
            self._remove_empty(found.place)

    def remove_leftovers(self, place: str, uuid: str, *, archive: bool = False) -> None:
        """Remove what is left of a backup that is not complete: its part and its catalogue.

        With `archive`, what is in its place as well.
        """
        # The part comes last: it is what the next start finds, when this one ends in between.
        with self._errors("what is left of a backup could not be removed"):
            with suppress(FileNotFoundError), self._opened_directory(place) as directory:
                if archive:
                    with suppress(FileNotFoundError):
                        os.unlink(os.path.basename(place), dir_fd=directory)
                CatalogueFiles(directory).remove(uuid)
                with suppress(FileNotFoundError):
                    os.unlink(part_name(place), dir_fd=directory)
            self._remove_empty(place)

    # Parts that a daemon has left

    def made_before(self, place: str, uuid: str) -> MadeArchive | None:
        """Return the complete archive whose part an earlier daemon has left, None without one.

        An incomplete part is removed.
        """
        try:
            with self._opened_directory(place) as directory, suppress(InvalidData, OSError):
                catalogue = CatalogueFiles(directory).read(uuid)
                status = os.stat(part_name(place), dir_fd=directory, follow_symlinks=False)
                if catalogue is not None and status.st_size == catalogue.bytes:
                    return MadeArchive(self.part_path(place), place, catalogue)
        except OSError:
            return None
        self.remove_leftovers(place, uuid)
        return None

    def remove_parts(self, is_wanted: Callable[[str], bool]) -> list[str]:
        """Remove the parts of all backups but the wanted ones; return the UUIDs of these.

        A part beside its archive, which was to replace that, is settled.
        """
        kept = []
        for place, backup in tuple(self._parts()):
            if is_wanted(backup):
                kept.append(backup)
            elif self.at(place) is not None:
                self.settle_part(place, backup)
            else:
                self.remove_leftovers(place, backup)
        return kept

    def _parts(self) -> Iterator[tuple[str, str]]:
        """Yield the place and the backup of each part."""
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(
                f"{self.directory}: {error.strerror}", "the backups could not be read"
            ) from error
        for directory in (*(name for name in names if canonical_uuid(name) == name), ""):
            with suppress(OSError):
                inner = os.listdir(os.path.join(self.directory, directory)) if directory else names
                for found in filter(None, map(_PART.fullmatch, inner)):
                    name = found[0].removeprefix(".").removesuffix(".part")
                    yield os.path.join(directory, name), found[1]

    def _remove_empty(self, place: str) -> None:
        """Remove the directory of one server if nothing is in it."""
        if os.path.dirname(place):
            with suppress(OSError):
                os.rmdir(os.path.dirname(self.path(place)))

    # Directories

    @contextmanager
    def _errors(self, message: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            advice = disk_advice(error) if "read" not in message else reading_advice(error)
            raise StorageError(f"{self.directory}: {advice}", message) from error

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """Open the directory; one that is missing is as good as an empty one."""
        try:
            top = os.open(self.directory, _LIST)
        except FileNotFoundError:
            yield -1
        else:
            with closing_descriptor(top):
                yield top

    @contextmanager
    def _opened_place(self, top: int, place: str, server: str) -> Iterator[int | None]:
        """Open the directory of a server's backups, or of all; None where that is missing.

        None as well where that of another server than the one asked for cannot be read.
        """
        try:
            directory = os.open(place or ".", _LIST, dir_fd=top)
        except (FileNotFoundError, NotADirectoryError):
            yield None
        except PermissionError:
            if place in ("", server):
                raise
            self._log_unreadable(place)
            yield None
        else:
            with closing_descriptor(directory):
                yield directory

    def _opened_directory(self, place: str) -> AbstractContextManager[int]:
        return closing_descriptor(os.open(os.path.dirname(self.path(place)), _LIST))

    def _places(self, top: int, server: str) -> Iterator[str]:
        """Yield the directories that a backup may be in; that of all is the empty text."""
        if top < 0:
            return
        if server:
            yield server
        yield ""
        if not server:
            yield from sorted(filter(canonical_uuid, os.listdir(top)))

    # Files

    def _open_in(
        self, directory: int, place: str, uuid: str
    ) -> tuple[StoredBackup, OpenFile] | None:
        for suffix in SUFFIXES:
            with suppress(FileNotFoundError, IsDirectory, FileTypeRefused):
                file = open_regular(directory, f"{uuid}.{suffix}".encode())
                try:
                    return self._described(directory, place, uuid, suffix, file.entry), file
                except BaseException:
                    file.close()
                    raise
        return None

    def _in(self, directory: int, place: str, names: Iterable[str]) -> Iterator[StoredBackup]:
        for name in names:
            backup = backup_at(name)
            if backup is None or canonical_uuid(backup.uuid) != backup.uuid:
                continue
            with suppress(FileNotFoundError):
                entry = entry_at(directory, name.encode())
                if not entry.is_regular:
                    continue
                if not os.access(name, os.R_OK, dir_fd=directory, effective_ids=True):
                    self._log_unreadable(os.path.join(place, name))
                yield self._described(directory, place, backup.uuid, backup.suffix, entry)

    def _log_unreadable(self, place: str) -> None:
        if place not in self._unreadable:
            self._unreadable.add(place)
            self._log.warn(
                "{path} cannot be read: permission denied; until it can, no backup in it can be "
                "restored, downloaded, moved or verified: run `chown -R --reference={directory} "
                "{path}`",
                path=self.path(place),
                directory=self.directory,
            )

    def _described(
        self, directory: int, place: str, uuid: str, suffix: str, entry: Entry
    ) -> StoredBackup:
        name = f"{uuid}.{suffix}"
        catalogue = self._catalogue(directory, place, uuid)
        if catalogue is not None and (
            catalogue.archive != name or (place and catalogue.server != place)
        ):
            catalogue = None
        server = catalogue.server if catalogue is not None else place
        path = f"{place}/{name}" if place else name
        return StoredBackup(
            uuid, server, path, suffix, entry.size, entry.modified / _NANO, catalogue
        )

    def _catalogue(self, directory: int, place: str, uuid: str) -> Catalogue | None:
        """Return the catalogue of a backup, None without one; one that is damaged is no use."""
        try:
            return CatalogueFiles(directory).read(uuid)
        except (InvalidData, OSError) as error:
            self._log.warn(
                "backup {backup}: its catalogue in {directory} is not used: {error}",
                backup=uuid,
                directory=self.path(place),
                error="; ".join(str(error).splitlines()),
            )
            return None


def _rename_part(directory: int, place: str) -> None:
    name = os.path.basename(place)
    os.rename(part_name(place), name, src_dir_fd=directory, dst_dir_fd=directory)


def _is_archive_of(directory: int, name: str, catalogue: Catalogue) -> bool:
    """Return whether a file is the archive of a catalogue."""
    with open_regular(directory, name.encode()) as file:
        if file.entry.size != catalogue.bytes:
            return False
        digest = hashlib.sha256()
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest() == catalogue.sha256
