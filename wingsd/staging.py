"""Where a server's files grow before they are the server's: created, made durable, swapped in.

The staging directory stands beside `system.data`, on the same filesystem, so that one rename makes
the files the server's own. What is found in a server's place and is no server of this node is
set aside, never merged into and never deleted. Blocking: run it in a thread.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from wingsd.errors import StorageError

__all__ = ["Staging"]

_libc = ctypes.CDLL(None, use_errno=True)


class Staging:
    """The staging area of one `system.data` directory.

    `owner` is the user and group id of every server's directory.
    """

    def __init__(self, data: str, owner: tuple[int, int], *, durable: bool) -> None:
        self._data = Path(data)
        self._owner = owner
        self._durable = durable
        self._root = self._data.with_name(f".{self._data.name}.staging")

    def prepare(self) -> list[str]:
        """Make the directories and clear what a killed daemon left; return the names of that.

        Raises `StorageError` when the node cannot store servers here.
        """
        try:
            self._data.mkdir(parents=True, exist_ok=True)
            if not self._is_same_filesystem():
                # `system.data` is a mount of its own: nothing beside it is on its filesystem.
                self._root = self._data / ".staging"
            self._root.mkdir(mode=0o700, exist_ok=True)
            leftovers = sorted(entry.name for entry in self._root.iterdir())
            for name in leftovers:
                shutil.rmtree(self._root / name)
        except OSError as error:
            raise StorageError(f"{self._data} cannot be used as system.data: {error}") from error
        return leftovers

    def _is_same_filesystem(self) -> bool:
        # A rename is the only honest answer: two mounts of one device have the same number.
        self._root.mkdir(mode=0o700, exist_ok=True)
        probe, target = self._root / "probe", self._data / ".staging-probe"
        probe.mkdir(exist_ok=True)
        try:
            probe.rename(target)
        except OSError:
            shutil.rmtree(self._root)
            return False
        target.rmdir()
        return True

    def create(self, server: str) -> str:
        """Return the path of a new, empty directory for the server's files.

        Clears what a transfer left that could not be undone. One server, one transfer: the
        caller sees to it.
        """
        self.discard(server)
        path = self._root / server
        try:
            path.mkdir(mode=0o755)
            os.chown(path, *self._owner)
        except OSError as error:
            raise StorageError(f"{path} cannot be made: {error}") from error
        return str(path)

    def discard(self, server: str) -> None:
        """Remove what was received of the server, if anything was."""
        path = self._root / server
        with suppress(FileNotFoundError):
            try:
                shutil.rmtree(path)
            except FileNotFoundError:
                raise
            except OSError as error:
                raise StorageError(f"{path} cannot be removed: {error}") from error

    def flush(self, server: str) -> None:
        """Return when everything received is on stable storage (one syncfs(2))."""
        if not self._durable:
            return
        descriptor = os.open(self._root / server, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if _libc.syncfs(descriptor):
                number = ctypes.get_errno()
                raise StorageError(f"syncing {self._root} failed: {os.strerror(number)}")
        finally:
            os.close(descriptor)

    def swap(self, server: str) -> str | None:
        """Make the received files the server's own; return where other files were set aside."""
        aside = self.set_aside(server)
        self._rename(self._root / server, self._data / server)
        return aside

    def undo_swap(self, server: str) -> None:
        """Take the files out of the server's place again, back to where `discard` finds them."""
        self._rename(self._data / server, self._root / server)

    def set_aside(self, server: str) -> str | None:
        """Move what stands in the server's place out of the way; return where to, if it was."""
        place = self._data / server
        if not os.path.lexists(place):
            return None
        # Microseconds, so that a name is never used twice.
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        aside = self._data / f"{server}.set-aside-{stamp}"
        self._rename(place, aside)
        return str(aside)

    def _rename(self, source: Path, target: Path) -> None:
        try:
            source.rename(target)
            if self._durable:
                for parent in {source.parent, target.parent}:
                    _sync_directory(parent)
        except OSError as error:
            raise StorageError(f"{source} cannot be moved to {target}: {error}") from error


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
