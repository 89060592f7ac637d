"""The open files and directories of one channel, by the handles that a client names them by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from threading import Lock
from typing import TypeVar

import attrs

from wingsd.errors import HandleInvalid, TooManyHandles
from wingsd.filesystem import Directory, Entry, OpenFile, ServerPath
from wingsd.filesystem.writable_file import OpenFiles, WritableFile

__all__ = ["HandleBudget", "Handles", "ListedDirectory"]

T = TypeVar("T")


class HandleBudget:
    """Counts the handles of all channels, at most `most`. Any thread may call it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._lock = Lock()

    def take(self) -> None:
        """Count one more. Raises `TooManyHandles`."""
        with self._lock:
            if self._count >= self._most:
                raise TooManyHandles(self._most)
            self._count += 1

    def release(self) -> None:
        """Count one less."""
        with self._lock:
            self._count -= 1


@attrs.define(eq=False)
class ListedDirectory:
    """A directory that is listed: the entries that are still to be sent."""

    directory: Directory
    entries: Iterator[Entry]

    def close(self) -> None:
        """Close it."""
        self.entries = iter(())  # which holds a descriptor of its own
        self.directory.close()


@attrs.frozen(eq=False)
class _Open:
    item: OpenFile | WritableFile | ListedDirectory
    path: ServerPath
    appends: bool = False


class Handles:
    """The handles of one channel, at most `most`; `budget` counts those of all channels.

    `files` are the server's files that are open in this process.
    """

    def __init__(self, most: int, budget: HandleBudget, files: OpenFiles) -> None:
        self._most = most
        self._budget = budget
        self._files = files
        self._open: dict[bytes, _Open] = {}
        self._next = 0

    def reserve(self) -> None:
        """Raise `TooManyHandles` where no other can be opened."""
        if len(self._open) >= self._most:
            raise TooManyHandles(self._most)

    def add(
        self,
        item: OpenFile | WritableFile | ListedDirectory,
        path: ServerPath,
        *,
        appends: bool = False,
    ) -> bytes:
        """Return the handle of what was opened, which is closed where there are too many."""
        try:
            self.reserve()
            self._budget.take()
        except BaseException:
            item.close()
            raise
        if isinstance(item, OpenFile):
            self._files.add(item.fileno())
        handle = self._next.to_bytes(8, "big")
        self._next += 1
        self._open[handle] = _Open(item, path, appends)
        return handle

    def get(self, handle: bytes, kind: type[T]) -> T:
        """Return what is open by a handle, if it is of this kind. Raises `HandleInvalid`."""
        found = self._open.get(handle)
        if found is None or not isinstance(found.item, kind):
            raise HandleInvalid
        return found.item

    def readable(self, handle: bytes) -> OpenFile | WritableFile:
        """Return the open file by a handle. Raises `HandleInvalid`."""
        found = self._open.get(handle)
        if found is None or isinstance(found.item, ListedDirectory):
            raise HandleInvalid
        return found.item

    def is_directory(self, handle: bytes) -> bool:
        """Return whether a directory is open by a handle."""
        found = self._open.get(handle)
        return found is not None and isinstance(found.item, ListedDirectory)

    def path(self, handle: bytes) -> ServerPath:
        """Return the path that it was opened by. Raises `HandleInvalid`."""
        try:
            return self._open[handle].path
        except KeyError:
            raise HandleInvalid from None

    def appends(self, handle: bytes) -> bool:
        """Return whether all is written to the end of the file."""
        found = self._open.get(handle)
        return found is not None and found.appends

    def close(self, handle: bytes) -> None:
        """Close one. Raises `HandleInvalid`."""
        found = self._open.pop(handle, None)
        if found is None:
            raise HandleInvalid
        self._budget.release()
        if isinstance(found.item, OpenFile):
            self._files.discard(found.item.fileno())
        found.item.close()

    def close_all(self) -> None:
        """Close all of them."""
        for handle in tuple(self._open):
            with suppress(OSError):  # of a disk that fails
                self.close(handle)
