"""Backups that arrive with a server: staged, put into place with it, and retracted with it.

A backup is staged in a directory of this node's own in `system.backup_directory`, so that it is on
the same filesystem. It is put into place by a hard link, which never replaces a file, and stays
staged until the transfer is over. So the disk alone shows at any moment what this transfer has
put into place: the files that are the same as staged ones. A daemon that dies at any step leaves
nothing that the next one could not finish or roll back.

Blocking: run it in a thread.
"""

from __future__ import annotations

import errno
import filecmp
import hashlib
import os
import time
from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import attrs

from wingsd.archive.quota import ArchiveLimits, require_free_space
from wingsd.backups.catalogue import COMPLETE, VERSION, Catalogue, CatalogueFiles
from wingsd.backups.store import Backup, BackupStore, backup_at
from wingsd.config import SystemConfig
from wingsd.errors import (
    AttachmentOffsetWrong,
    BackupConflict,
    InvalidData,
    StorageError,
)
from wingsd.filesystem.open_directories import closing_descriptor
from wingsd.filesystem.removal import remove_tree
from wingsd.statedb import ArrivingBackup
from wingsd.util.durable import storage_errors, sync_directory

#: The name of a quarantine directory in a staging area.
QUARANTINE = ".quarantine"

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
#: Bytes after which the filesystem is asked how much is free.
_STEP = 8 << 20


def write_file(path: Path, blocks: Iterable[bytes], *, reserve: int, durable: bool) -> str:
    """Write a new file that only this process's user may read; return its SHA-256 in hexadecimal.

    `reserve` is how many bytes are left free. With `durable` its data is on stable storage when
    this returns, its name only when the directory is synced. Raises `StorageError`, and whatever
    `blocks` raises; what was written until then stays.
    """
    digest = hashlib.sha256()
    unseen = _STEP
    with (
        storage_errors(f"{path} cannot be written"),
        open(os.open(path, _NEW, 0o600), "wb", buffering=0) as file,
    ):
        for block in blocks:
            unseen += len(block)
            if reserve and unseen >= _STEP:
                unseen = 0
                require_free_space(os.fstatvfs(file.fileno()), reserve, path.name, len(block))
            digest.update(block)
            write_all(file.fileno(), block)
        if durable:
            os.fsync(file.fileno())
    return digest.hexdigest()


def write_all(descriptor: int, block: bytes) -> None:
    """Write all of a block. Raises `OSError`."""
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


#: The suffix of a note in place of a staged backup that was in place before.
_THERE = ".there"
#: The suffix of a backup that has not arrived whole.
_PART = ".part"
#: Errors of link(2) on filesystems without hard links.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


class ReceivedBackups:
    """The received backups of one `system.backup_directory`.

    `node` names this node, as its `system.data` does: the lock of that directory also covers the
    staged backups. `reserve` is how many bytes are left free. Every method raises `StorageError`.
    """

    def __init__(self, directory: str, node: str, *, durable: bool, reserve: int) -> None:
        self._directory = Path(directory)
        # Several nodes, of one machine or of many, may keep their backups in one directory.
        name = hashlib.sha256(node.encode()).hexdigest()[:16]
        self._root = self._directory / f".wingsd-{name}"
        self._durable = durable
        self._reserve = reserve
        #: The SHA-256 of the backups that this daemon has received, by server and UUID.
        self._digests: dict[tuple[str, str], str] = {}

    @classmethod
    def configured(cls, system: SystemConfig, node: str = "") -> ReceivedBackups:
        """Return a node's; `node` is its name, where others have the same `system.data`."""
        limits = ArchiveLimits.configured(system.transfers)
        durable = system.transfers.durable
        name = f"{node}:{system.data}" if node else system.data
        return cls(system.backup_directory, name, durable=durable, reserve=limits.reserve)

    @property
    def quarantine(self) -> Path:
        """The directory of backups in quarantine, which need not exist."""
        return self._root / QUARANTINE

    # Receiving

    def store(self, server: str, backup: Backup, blocks: Iterable[bytes]) -> str:
        """Stage a backup; return its SHA-256.

        Raises `Conflict` where another is in its place, and whatever `blocks` raises.
        """
        staged, place = self._paths(server, backup)
        self._make_home(server, staged)
        found = write_file(staged, blocks, reserve=self._reserve, durable=self._durable)
        self._digests[server, backup.uuid] = found
        with _errors(place):
            if os.path.lexists(place):
                self._recognize(staged, place)
        return found

    def part(self, server: str, backup: Backup) -> Path:
        """Return where a backup that arrives in pieces is written until it is whole."""
        staged = self._paths(server, backup)[0]
        self._make_home(server, staged)
        return staged.with_name(f"{staged.name}{_PART}")

    def whole(self, server: str, backup: Backup) -> Path | None:
        """Return the file of a backup that is staged whole, None where it is not."""
        staged, place = self._paths(server, backup)
        if staged.with_name(f"{staged.name}{_THERE}").exists():
            return place
        return staged if staged.exists() else None

    def complete(self, server: str, backup: Backup, *, sha256: str) -> None:
        """Stage the part of a backup, which is whole and has that SHA-256, as the backup.

        Raises `Conflict` where another is in its place.
        """
        staged, place = self._paths(server, backup)
        with _errors(staged):
            staged.with_name(f"{staged.name}{_PART}").rename(staged)
            self._digests[server, backup.uuid] = sha256
            if os.path.lexists(place):
                self._recognize(staged, place)

    def flush(self, server: str) -> None:
        """Return when all staged backups are on stable storage."""
        directories = {path.parent for path in self._staged(server)}
        if self._durable and directories:
            with _errors(self._root / server):
                home = self._root / server
                for directory in {*directories, home, self._root, self._directory}:
                    sync_directory(directory)

    def place(self, server: str) -> list[Backup]:
        """Put all staged backups into place; return all that have come with the server.

        Raises `Conflict` where another backup is in the place of one.
        """
        came = []
        for staged in self._staged(server):
            backup = self._backup(server, staged)
            came.append(backup)
            if not staged.name.endswith(_THERE):
                self._link(staged, self._paths(server, backup)[1])
        return came

    def publish(self, server: str) -> None:
        """Finish with the staged backups, which stay in place, each with a catalogue.

        Of those that an earlier daemon has received none is written: they were not read here. What
        it died writing is removed.
        """
        for staged in self._staged(server):
            backup = self._backup(server, staged)
            place = self._paths(server, backup)[1]
            sha256 = self._digests.get((server, backup.uuid))
            with _errors(place):
                descriptor = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
                with closing_descriptor(descriptor) as directory:
                    files = CatalogueFiles(directory)
                    if sha256 is None:
                        files.remove_unfinished(backup.uuid)
                    else:
                        self._catalogue(server, backup, sha256, files)
        self.discard(server)

    # Back out of place

    def take_back(self, server: str) -> None:
        """Remove from their places the backups that are staged as well, and no others."""
        for staged in self._staged(server):
            place = self._paths(server, self._backup(server, staged))[1]
            with _errors(place):
                if _is_same(staged, place):
                    place.unlink()
                    self._sync(place.parent)
                    if place.parent != self._directory:
                        with suppress(OSError):  # There may be others in it.
                            place.parent.rmdir()

    def discard(self, server: str) -> None:
        """Delete what is staged of the server; what is in place stays.

        The staging directory is removed as well if it is empty.
        """
        path = self._root / server
        for known in [each for each in self._digests if each[0] == server]:
            del self._digests[known]
        with _errors(path):
            if server in self._names(self._root):
                remove_tree(str(path))
        self._leave()

    def drop(self, server: str, backup: Backup) -> None:
        """Delete what is staged of a backup; what is in its place stays."""
        staged = self._paths(server, backup)[0]
        with _errors(staged):
            for suffix in ("", _PART, _THERE):
                staged.with_name(f"{staged.name}{suffix}").unlink(missing_ok=True)

    def retain(self, server: str, backups: Collection[Backup]) -> None:
        """Delete what is staged of the server, whole or in part, of any but these `backups`."""
        home = self._root / server
        kept = {Path(backup.path(server)) for backup in backups}
        with _errors(home):
            for path in list(home.rglob("*")) if server in self._names(self._root) else ():
                name = path.name.removesuffix(_PART).removesuffix(_THERE)
                if path.is_file() and path.relative_to(home).with_name(name) not in kept:
                    path.unlink()

    def clear(self, keep: Collection[str] = ()) -> list[str]:
        """Delete what an earlier daemon left staged; return of which servers.

        The backups of the servers in `keep` stay.
        """
        names = self._names(self._root)
        leftovers = [name for name in names if name not in {QUARANTINE, *keep}]
        for name in leftovers:
            self.discard(name)
        self._leave()
        return leftovers

    def retract(self, server: str) -> Path | None:
        """Take all backups out of place; return the directory that has them, None without any."""
        if not self._staged(server):
            return None
        self.take_back(server)
        return self._root / server

    # Paths and links

    def _catalogue(self, server: str, backup: Backup, sha256: str, files: CatalogueFiles) -> None:
        with suppress(InvalidData):
            known = files.read(backup.uuid)
            if known is not None and (known.server, known.sha256) == (server, sha256):
                return  # Another node with the same directory has made it.
        place = self._paths(server, backup)[1]
        found = place.stat()
        files.write(
            Catalogue(
                version=VERSION,
                backup=backup.uuid,
                server=server,
                state=COMPLETE,
                archive=place.name,
                bytes=found.st_size,
                sha256=sha256,
                made=found.st_mtime,
            )
        )

    def _make_home(self, server: str, staged: Path) -> None:
        """Make the directories that a staged backup is in."""
        with _errors(staged):
            while True:
                self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
                with suppress(FileNotFoundError):
                    (self._root / server).mkdir(exist_ok=True)
                    break
                # Another transfer has just removed the empty directory.
            staged.parent.mkdir(parents=True, exist_ok=True)

    def _leave(self) -> None:
        """Remove the staging directory if it is empty."""
        with suppress(OSError):
            self._root.rmdir()

    def _paths(self, server: str, backup: Backup) -> tuple[Path, Path]:
        path = backup.path(server)
        return self._root / server / path, self._directory / path

    def _names(self, directory: Path) -> list[str]:
        with _errors(directory):
            try:
                return sorted(os.listdir(directory))
            except (FileNotFoundError, PermissionError):
                # A directory that this process may not read has nothing of it.
                return []

    def _staged(self, server: str) -> list[Path]:
        if server not in self._names(self._root):
            return []
        home = self._root / server
        with _errors(home):
            files = [path for path in home.rglob("*") if path.is_file()]
            files = [path for path in files if not path.name.endswith(_PART)]
        return sorted(files, key=lambda path: path.name)

    def _backup(self, server: str, staged: Path) -> Backup:
        path = str(staged.relative_to(self._root / server)).removesuffix(_THERE)
        backup = backup_at(path)
        if backup is None:
            raise StorageError(
                f"{staged} is not a backup; delete it, and transfer the server again"
            )
        return backup

    def _recognize(self, staged: Path, place: Path) -> None:
        """Note that a backup is in place already. Raises `Conflict` if that is another file."""
        if place.is_symlink() or not filecmp.cmp(staged, place, shallow=False):
            raise _another(place)
        note = staged.with_name(f"{staged.name}{_THERE}")
        note.touch(mode=0o600)
        staged.unlink()

    def _link(self, staged: Path, place: Path) -> None:
        with _errors(place):
            if place.parent != self._directory:
                place.parent.mkdir(mode=0o700, exist_ok=True)
                self._sync(self._directory)
            try:
                os.link(staged, place)
            except FileExistsError:
                if not _is_same(staged, place):
                    raise _another(place) from None
            except OSError as error:
                if error.errno in _NO_LINKS:
                    raise StorageError(
                        f"the file system of {place} does not support hard links, which are "
                        f"needed to store the backups of a server; move system.backup_directory "
                        f"to another file system, or transfer the server without its backups"
                    ) from error
                raise
            self._sync(place.parent)

    def _sync(self, directory: Path) -> None:
        if self._durable:
            sync_directory(directory)


@attrs.frozen(eq=False, repr=False)
class FollowingFiles:
    """The files of backups that arrive after their servers, in the places of this node's family.

    One grows as the part of an archive that is made here. Methods raise `StorageError`.
    """

    _store: BackupStore

    def place(self, arriving: ArrivingBackup) -> str:
        """Return the path of a backup in the directory of all."""
        return self._store.place(arriving.server, arriving.backup, arriving.suffix)

    def part(self, arriving: ArrivingBackup) -> Path:
        """Return the file in which it grows; its directory is made."""
        path = Path(self._store.part_path(self.place(arriving)))
        top = Path(self._store.directory)
        with _errors(path):
            top.mkdir(parents=True, exist_ok=True)
            if path.parent != top:
                path.parent.mkdir(mode=0o700, exist_ok=True)
        return path

    def whole(self, arriving: ArrivingBackup) -> Path | None:
        """Return the file of the backup that is here already, None before."""
        found = self._store.find(arriving.server, arriving.backup)
        return None if found is None else Path(self._store.path(found.place))

    def complete(self, arriving: ArrivingBackup, *, sha256: str) -> None:
        """Put the part, which is on stable storage and has that SHA-256, into its place.

        It is read back first, since its source removes its own. Raises `AttachmentOffsetWrong`
        where the disk has something else.
        """
        place = self.place(arriving)
        path = Path(self._store.path(place))
        if os.path.lexists(path):
            raise _another(path)
        if _read_back(self.part(arriving)) != sha256:
            self.drop_part(arriving)
            raise AttachmentOffsetWrong(0, f"the disk has changed {path.name}; send it again")
        catalogue = Catalogue(
            version=VERSION,
            backup=arriving.backup,
            server=arriving.server,
            state=COMPLETE,
            archive=path.name,
            bytes=arriving.bytes,
            sha256=sha256,
            made=arriving.made or time.time(),
        )
        self._store.put_into_place(place, catalogue)

    def sync(self, arriving: ArrivingBackup) -> None:
        """Flush the file of a backup that is here; another program may have made it."""
        path = self.whole(arriving)
        if path is not None:
            with _errors(path), open(path, "rb") as file:
                os.fsync(file.fileno())
            sync_directory(path.parent)

    def drop(self, arriving: ArrivingBackup) -> None:
        """Delete what has arrived. Raises `BackupConflict` for a file that was here before."""
        path = self.whole(arriving)
        if path is not None:
            raise _another(path)
        self.drop_part(arriving)

    def drop_part(self, arriving: ArrivingBackup) -> None:
        """Delete what has arrived of it; what is in its place stays."""
        path = Path(self._store.part_path(self.place(arriving)))
        with _errors(path):
            path.unlink(missing_ok=True)
            if path.parent != Path(self._store.directory):
                with suppress(OSError):  # There may be others in it.
                    path.parent.rmdir()


def _read_back(path: Path) -> str:
    """Return the SHA-256 of a file that was flushed, from the disk itself."""
    with _errors(path), open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _errors(path: Path) -> AbstractContextManager[None]:
    return storage_errors(f"{path}, of the backups sent with a server")


def _is_same(staged: Path, place: Path) -> bool:
    try:
        return os.path.samestat(staged.lstat(), place.lstat())
    except FileNotFoundError:
        return False


def _another(place: Path) -> BackupConflict:
    return BackupConflict(
        "this node has a different backup of the same name",
        f"{place} differs from the one that was sent, and is not overwritten; move it away, or "
        f"transfer the "
        "server without that backup",
    )
