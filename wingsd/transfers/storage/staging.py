"""The staging area: where the files of arriving servers are kept until they are put into place.

It is a directory beside `system.data`, on the same filesystem, so that one rename puts a server's
files into place; where none can be there, one in `system.data`. What is found in a server's place
and is not a server of this node is set aside, neither merged into nor deleted.

Blocking: run it in a thread. Every method raises `StorageError` when the disk fails.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

import attrs

from wingsd.backups.received import QUARANTINE
from wingsd.errors import StorageError
from wingsd.filesystem.attributes import AttributesKept, supported_attributes
from wingsd.filesystem.removal import remove_tree
from wingsd.filesystem.syscalls import syncfs
from wingsd.util.durable import move, storage_errors, time_stamp

#: The directory of what was kept of failed moves.
KEPT = ".kept"
#: The suffix of the names in it; before it are the server's UUID and a time stamp.
PARTIAL = ".partial"
_LOCK = ".lock"
#: The directory of what an earlier daemon has left, until it is deleted.
_CLEARED = ".cleared"
_DISCARDED = ".discarded"
#: Errors that say that nothing may be made beside `system.data`: its parent directory belongs to
#: another user, or a service's sandbox forbids it.
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@attrs.define(eq=False, repr=False, slots=False)
class Staging:
    """The staging area of one `system.data` directory.

    `owner` is the user and group id of every server's directory. `node` is the node's name, where
    others have the same directory: each then has a staging area of its own, and clears no other's.
    `prepare_directory` is called with a server and its new directory.
    """

    _data: Path = attrs.field(converter=Path)
    _owner: tuple[int, int]
    _durable: bool = attrs.field(kw_only=True)
    _node: str = attrs.field(default="", kw_only=True)
    _prepare_directory: Callable[[str, str], object] = attrs.field(
        default=lambda server, path: None, kw_only=True
    )

    def __attrs_post_init__(self) -> None:
        self._name = f"staging.{self._node}" if self._node else "staging"
        self._root = self._data.with_name(f".{self._data.name}.{self._name}")
        # An open descriptor per server being received: syncfs(2) only reports errors since its
        # descriptor was opened, so it must be as old as the first byte.
        self._open: dict[str, int] = {}
        self._lock = -1

    # At the daemon's start and end

    def prepare(self) -> None:
        """Make the directories, and lock them against other daemons.

        Raises `StorageError` when the node cannot store servers here, or when another daemon
        does: two would clear each other's work away.
        """
        with storage_errors(f"{self._data} cannot be used as system.data"):
            self._data.mkdir(parents=True, exist_ok=True)
            if not self._claim_beside():
                self._root = self._data / f".{self._name}"
                self._claim()

    @property
    def path(self) -> str:
        """The staging area; its place is known after `prepare`."""
        return str(self._root)

    def attributes_kept(self) -> AttributesKept:
        """Return which extended attributes its file system keeps."""
        return supported_attributes(self.path)

    @property
    def quarantine(self) -> Path:
        """The directory of files in quarantine, which need not exist."""
        return self._root / QUARANTINE

    def clear(self, keep: Collection[str] = (), moving: Collection[str] = ()) -> list[str]:
        """Put away what an earlier daemon has left, for `delete_cleared`; return the names.

        The servers in `keep`, or other names, are whole and durable, and stay. So do those in
        `moving`, with all that has their names.
        """
        logs = (self.log(server).name for server in keep)
        stay = {_LOCK, QUARANTINE, KEPT, _CLEARED, *keep, *logs}
        with storage_errors(f"{self._data} cannot be used as system.data"):
            names = sorted(entry.name for entry in self._root.iterdir())
            leftovers = [
                name for name in names if name not in stay and name.partition(".")[0] not in moving
            ]
            if leftovers:
                (self._root / _CLEARED).mkdir(exist_ok=True)
            for name in leftovers:
                (self._root / name).rename(self._root / _CLEARED / f"{name}.{time_stamp()}")
        return leftovers

    def delete_cleared(self) -> None:
        """Delete what was put away, which takes long where that is much."""
        path = self._root / _CLEARED
        with storage_errors(f"{path} cannot be removed"):
            if path.exists():
                remove_tree(str(path))

    def kept_servers(self) -> set[str]:
        """Return the servers of which a copy is kept; see `storage.partial_copies`."""
        try:
            return {name.partition(".")[0] for name in os.listdir(self._root / KEPT)}
        except OSError:
            return set()

    def close(self) -> None:
        """Unlock the directory for other daemons. No thread may be at work here any more."""
        for server in tuple(self._open):
            self.finish(server)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _claim_beside(self) -> bool:
        """Return False where the staging area must be in `system.data`."""
        try:
            self._claim()
        except OSError as error:
            if error.errno in _FORBIDDEN:
                return False
            raise
        if self._is_same_filesystem():
            return True
        # `system.data` is a mount of its own: nothing beside it is on its filesystem.
        self._release()
        return False

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
        # Only a rename shows it: two mounts of one device have the same device number.
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

    # Receiving

    def create(self, server: str) -> str:
        """Return the path of a new, empty directory for the server's files.

        Clears what a transfer has left that could not be rolled back. The caller makes sure that
        there is one transfer for each server.
        """
        self.withdraw(server)
        self.discard(server)
        path = self._root / server
        with storage_errors(f"{path} cannot be made"):
            path.mkdir(mode=0o755)
            os.chown(path, *self._owner)
            # Now: what is extracted into it then belongs to the same project.
            self._prepare_directory(server, str(path))
            self._open[server] = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return str(path)

    def reopen(self, server: str) -> str:
        """Go on with the directory that is staged of a server; return its path."""
        path = self._root / server
        self.finish(server)
        with storage_errors(f"{path} cannot be opened"):
            self._open[server] = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return str(path)

    def sync(self, server: str) -> None:
        """Return when everything received is on stable storage, also if `durable` is off."""
        descriptor = self._open.get(server)
        if descriptor is None:
            raise StorageError(f"{server} is not being received any more")
        with storage_errors(f"{self._root} could not be synced"):
            syncfs(descriptor)

    def log(self, server: str) -> Path:
        """Return where the server's installation log is staged, beside its files."""
        return self._root / f"{server}.log"

    def log_part(self, server: str) -> Path:
        """Return where a part of the server's installation log is staged."""
        return self._root / f"{server}.log.part"

    def write_back(self) -> None:
        """Write what has been received so far to stable storage, to leave little to `flush`.

        Errors are left to `flush`: the kernel reports each once to every open descriptor, and this
        is not the descriptor that `flush` asks.
        """
        if self._durable:
            with suppress(OSError):
                syncfs(self._lock)

    def flush(self, server: str) -> None:
        """Return when everything received is on stable storage (one syncfs(2))."""
        if self._durable:
            self.sync(server)

    def holds(self, server: str) -> bool:
        """Return whether the server's files are still staged, and not in place."""
        return (self._root / server).is_dir()

    def inode(self, server: str) -> int:
        """Return that of the staged directory, which it keeps when it is put into place."""
        path = self._root / server
        with storage_errors(f"{path} cannot be inspected"):
            return path.lstat().st_ino

    # Into place, and back

    def in_place(self, server: str, inode: int | None = None) -> Path | None:
        """Return the server's place if anything is there; with `inode`, only that directory."""
        place = self._data / server
        if not os.path.lexists(place):
            return None
        return place if inode is None or self.is_in_place(server, inode) else None

    def is_in_place(self, server: str, inode: int | None = None) -> bool:
        """Return whether a directory is in the server's place; with `inode`, that directory."""
        place = self._data / server
        return place.is_dir() and inode in (None, place.lstat().st_ino)

    def set_aside(self, server: str) -> str | None:
        """Rename what is in the server's place; return its new path, None if nothing was there."""
        place = self.in_place(server)
        if place is None:
            return None
        aside = self._data / f"{server}.set-aside-{time_stamp()}"
        self._move(place, aside)
        return str(aside)

    def restore(self, server: str, aside: str) -> None:
        """Undo `set_aside`."""
        self._move(Path(aside), self._data / server)

    def swap(self, server: str) -> None:
        """Put the received files into place: all of them or, when it fails, none."""
        self._move(self._root / server, self._data / server)

    def undo_swap(self, server: str) -> None:
        """Move the files out of their place again, back to where `withdraw` finds them."""
        self._move(self._data / server, self._root / server)

    def finish(self, server: str) -> None:
        """Close the server's descriptor: its files stay, or are withdrawn."""
        descriptor = self._open.pop(server, -1)
        if descriptor >= 0:
            os.close(descriptor)

    def withdraw(self, server: str) -> None:
        """Take the staged files out of use, at once; `discard` deletes them."""
        self.finish(server)
        path = self._root / server
        if path.exists():
            self.discard(server)
            self._move(path, self._root / f"{server}{_DISCARDED}")

    def discard(self, server: str) -> None:
        """Delete what was withdrawn, if anything was, and the server's log."""
        path = self._root / f"{server}{_DISCARDED}"
        with storage_errors(f"{path} cannot be removed"):
            self.log(server).unlink(missing_ok=True)
            if path.exists():
                remove_tree(str(path))

    def _move(self, source: Path, target: Path) -> None:
        move(source, target, durable=self._durable)
