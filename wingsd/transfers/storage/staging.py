"""The staging area and the quarantine: where received servers are kept until they are in use.

Writing back: without a request the kernel waits for half a minute, or for gigabytes. Measured on
an ext4 by the seconds until all is durable, with writing back every 64 MiB and without: 4.4
against 6.2 for 2 GiB in 16 files, 3.0 against 3.3 for 50,000 small files; by syncfs(2), which also
covers small files and directories, and has less of an effect on the writing itself than
posix_fadvise(2) or sync_file_range(2) for each file.

The staging directory stands beside `system.data`, on the same filesystem, so that one rename makes
the files the server's own. What is found in a server's place and is no server of this node is
set aside, never merged into and never deleted. Blocking: run it in a thread.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.archive import remove_tree
from wingsd.backups.received import ReceivedBackups, sync_directory
from wingsd.errors import StorageError
from wingsd.statedb import StateDatabase
from wingsd.threadio import Workers
from wingsd.util.text import disk_advice

__all__ = ["EVERY", "Quarantine", "Staging", "WriteBack"]

#: Seconds between two, however long each takes.
EVERY = 0.5


class WriteBack:
    """Calls `write_back` again and again while servers arrive. It must not fail."""

    def __init__(self, write_back: Callable[[], Deferred[None]], reactor: Any) -> None:
        self._write_back = write_back
        self._reactor = reactor
        self._arriving = 0
        self._going = False

    @contextmanager
    def during(self) -> Iterator[None]:
        """Write back in this context, which may be entered by several at a time."""
        self._arriving += 1
        if not self._going:
            self._going = True
            Deferred.fromCoroutine(self._go())
        try:
            yield
        finally:
            self._arriving -= 1

    async def _go(self) -> None:
        while await deferLater(self._reactor, EVERY, lambda: self._arriving):
            await self._write_back()
        self._going = False


_DAY = 24 * 3600


class Quarantine:
    """The quarantine of `staging` and of `backups`, where things stay for so many `days`.

    The days are counted in the journal. The clock alone would have everything deleted that is here
    when it is set forward, or was put here while it was behind.
    """

    _log = Logger()

    def __init__(
        self,
        staging: Staging,
        backups: ReceivedBackups,
        disk: Workers,
        journal: StateDatabase,
        days: int,
    ) -> None:
        self._staging = staging
        self._backups = backups
        self._disk = disk
        self._journal = journal
        self._days = days

    async def clear(self) -> None:
        """Delete what has been there long enough. To be called daily."""
        try:
            rooms = (self._staging, self._backups)
            here = [await self._disk.run(room.quarantined) for room in rooms]
            ages = await self._journal.ages(sorted({name for names in here for name in names}))
            old = [name for name, age in ages.items() if age > self._days * _DAY]
            gone = [await self._disk.run(room.clear_quarantine, old) for room in rooms]
        except StorageError as error:
            self._log.error("quarantine: {error}", error=error)
            return
        for name in sorted({name for names in gone for name in names}):
            self._log.warn("{name}: deleted, it was in quarantine long enough", name=name)

    async def store_away(
        self, server: str, *, pooled: bool = False, inode: int | None = None
    ) -> None:
        """Move what stands in the server's place out of it, if anything does.

        With an `inode` only the directory that has it: in a storage pool another may have come
        there meanwhile, and be another node's. The backups that have just come with the server go
        as well, and they alone when it is `pooled`: another node then has the same files.
        """
        files = partial(self._staging.quarantine, server, inode)
        backups = partial(self._backups.quarantine, server)
        for quarantine in [backups] if pooled else [files, backups]:
            try:
                place = await self._disk.run(quarantine)
            except StorageError as error:
                self._log.error("{server}: {error}", server=server, error=error)
                continue
            if place is not None:
                self._log.warn(
                    "{server}: the Panel does not have it on this node; what is here is kept for "
                    "{days} days in {place}",
                    server=server,
                    days=self._days,
                    place=place,
                )


_libc = ctypes.CDLL(None, use_errno=True)
_LOCK = ".lock"
_DISCARDED = ".discarded"
_QUARANTINE = ".quarantine"


class Staging:
    """The staging area of one `system.data` directory.

    `owner` is the user and group id of every server's directory. `node` is the node's name, where
    others have the same directory: each then has a staging area of its own, and clears no other's.
    """

    def __init__(
        self, data: str, owner: tuple[int, int], *, durable: bool, node: str = ""
    ) -> None:
        self._data = Path(data)
        self._owner = owner
        self._durable = durable
        self._name = f"staging.{node}" if node else "staging"
        self._root = self._data.with_name(f".{self._data.name}.{self._name}")
        # An open descriptor per server being received: syncfs(2) only tells of errors since its
        # descriptor was opened, so it must be as old as the first byte.
        self._open: dict[str, int] = {}
        self._lock = -1

    # The daemon's start

    def prepare(self) -> None:
        """Make the directories, and keep other daemons out of them.

        Raises `StorageError` when the node cannot store servers here, or when another daemon
        does: two would clear each other's work away.
        """
        with self._explained():
            self._data.mkdir(parents=True, exist_ok=True)
            self._claim()
            if not self._is_same_filesystem():
                # `system.data` is a mount of its own: nothing beside it is on its filesystem.
                self._release()
                self._root = self._data / f".{self._name}"
                self._claim()

    @property
    def path(self) -> str:
        """Where servers lie that are being received; `prepare` finds out."""
        return str(self._root)

    def clear(self, keep: Collection[str] = ()) -> list[str]:
        """Clear what an earlier daemon left; return the names of that.

        The servers in `keep` are whole and durable, and stay. Raises `StorageError`.
        """
        stay = {_LOCK, _QUARANTINE, *keep, *(self.log(server).name for server in keep)}
        with self._explained():
            names = sorted(entry.name for entry in self._root.iterdir())
            leftovers = [name for name in names if name not in stay]
            for name in leftovers:
                _remove(self._root / name)
        return leftovers

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"{self._data} cannot be used as system.data: {disk_advice(error)}"
            ) from error

    def close(self) -> None:
        """Let another daemon have the directory. No thread may be at work here any more."""
        for server in tuple(self._open):
            self.settle(server)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _claim(self) -> None:
        self._root.mkdir(mode=0o700, exist_ok=True)
        self._lock = os.open(self._root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Held as long as the process lives, however it ends.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise StorageError(
                f"another wingsd is running with {self._data} as its system.data; "
                "end it first, or give this one a directory of its own"
            ) from error

    def _release(self) -> None:
        self.close()
        (self._root / _LOCK).unlink()
        with suppress(OSError):
            self._root.rmdir()

    def _is_same_filesystem(self) -> bool:
        # A rename is the only honest answer: two mounts of one device have the same number.
        probe, target = self._root / ".probe", self._data / f".{self._name}-probe"
        probe.mkdir(exist_ok=True)
        try:
            probe.rename(target)
        except OSError as error:
            probe.rmdir()
            if error.errno != errno.EXDEV:
                raise
            return False
        target.rmdir()
        return True

    # A transfer's way

    def create(self, server: str) -> str:
        """Return the path of a new, empty directory for the server's files.

        Clears what a transfer left that could not be undone. One server, one transfer: the
        caller sees to it.
        """
        self.withdraw(server)
        self.discard(server)
        path = self._root / server
        try:
            path.mkdir(mode=0o755)
            os.chown(path, *self._owner)
            self._open[server] = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StorageError(f"{path} cannot be made: {disk_advice(error)}") from error
        return str(path)

    def log(self, server: str) -> Path:
        """Return where the server's installation log is staged, beside its files."""
        return self._root / f"{server}.log"

    def write_back(self) -> None:
        """Write what has been received so far to stable storage, to leave little to `flush`.

        What fails is for `flush` to tell: the kernel tells each descriptor of an error once, and
        this is another one than its.
        """
        if self._durable:
            _libc.syncfs(self._lock)

    def flush(self, server: str) -> None:
        """Return when everything received is on stable storage (one syncfs(2))."""
        if self._durable and _libc.syncfs(self._open[server]):
            error = OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            raise StorageError(f"{self._root} could not be synced: {disk_advice(error)}")

    def set_aside(self, server: str) -> str | None:
        """Move what stands in the server's place out of the way; return where to, if it was."""
        place = self._data / server
        if not os.path.lexists(place):
            return None
        aside = self._data / f"{server}.set-aside-{_stamp()}"
        self._rename(place, aside)
        return str(aside)

    def holds(self, server: str) -> bool:
        """Return whether the server's files are still here, and not in its place."""
        return (self._root / server).is_dir()

    def inode(self, server: str) -> int:
        """Return that of the received files' directory, which it keeps in the server's place."""
        path = self._root / server
        try:
            return path.lstat().st_ino
        except OSError as error:
            raise StorageError(f"{path} cannot be looked at: {disk_advice(error)}") from error

    def is_in_place(self, server: str, inode: int | None = None) -> bool:
        """Return whether a directory is in the server's place, where given the one of `inode`."""
        place = self._data / server
        return place.is_dir() and inode in (None, place.lstat().st_ino)

    def swap(self, server: str) -> None:
        """Make the received files the server's own, wholly or, when it fails, not at all."""
        self._rename(self._root / server, self._data / server)

    def settle(self, server: str) -> None:
        """The transfer is over and its files stay: forget it."""
        descriptor = self._open.pop(server, -1)
        if descriptor >= 0:
            os.close(descriptor)

    # What nobody wanted

    def quarantine(self, server: str, inode: int | None = None) -> str | None:
        """Move a server's files from its place to where they are only kept.

        Return where to; None when there are none, or others than those in the directory with
        `inode`.
        """
        if not os.path.lexists(self._data / server):
            return None
        if inode is not None and not self.is_in_place(server, inode):
            return None
        rooms = self._root / _QUARANTINE
        try:
            rooms.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{rooms} cannot be made: {disk_advice(error)}") from error
        room = rooms / f"{server}.{_stamp()}"
        self._rename(self._data / server, room)
        return str(room)

    def quarantined(self) -> list[str]:
        """Return the names of all that was put there."""
        rooms = self._root / _QUARANTINE
        with self._explained():
            return sorted(room.name for room in rooms.iterdir()) if rooms.is_dir() else []

    def clear_quarantine(self, names: Iterable[str]) -> list[str]:
        """Delete what has these names; return the names of what is gone.

        What cannot be deleted keeps no node from starting: it stays for another time.
        """
        gone = []
        for name in names:
            with suppress(OSError):
                remove_tree(str(self._root / _QUARANTINE / name))
                gone.append(name)
        return gone

    # What undoes it

    def undo_swap(self, server: str) -> None:
        """Take the files out of the server's place again, back to where `withdraw` finds them."""
        self._rename(self._data / server, self._root / server)

    def restore(self, server: str, aside: str) -> None:
        """Put back what was set aside."""
        self._rename(Path(aside), self._data / server)

    def withdraw(self, server: str) -> None:
        """Give up what was received, at once: it is only deleted by `discard`."""
        self.settle(server)
        path = self._root / server
        if path.exists():
            self.discard(server)
            self._rename(path, self._root / f"{server}{_DISCARDED}")

    def discard(self, server: str) -> None:
        """Delete what was withdrawn, if anything was, and the server's log."""
        path = self._root / f"{server}{_DISCARDED}"
        try:
            self.log(server).unlink(missing_ok=True)
            if path.exists():
                remove_tree(str(path))
        except OSError as error:
            raise StorageError(f"{path} cannot be removed: {disk_advice(error)}") from error

    def _rename(self, source: Path, target: Path) -> None:
        """Rename and, where that is asked for, make it durable; undone when that fails."""
        try:
            source.rename(target)
            try:
                self._sync(source.parent, target.parent)
            except OSError:
                target.rename(source)
                raise
        except OSError as error:
            why = disk_advice(error)
            raise StorageError(f"{source} cannot be moved to {target}: {why}") from error

    def _sync(self, *directories: Path) -> None:
        if self._durable:
            for directory in set(directories):
                sync_directory(directory)


def _stamp() -> str:
    # Microseconds, so that a name is never used twice.
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        remove_tree(str(path))
    else:
        path.unlink()
