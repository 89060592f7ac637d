"""The archive of a backup that is restored, and one that is a local file.

An archive is opened before anything else is done, so that one which is missing is told in the
answer to the request. Its blocks are then read by a thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from wingsd.errors import StorageError, WingsdError
from wingsd.filesystem import OpenFile
from wingsd.util.text import reading_advice

__all__ = ["LocalArchive", "RestoreArchive"]

_PIECE = 256 << 10


class RestoreArchive(Protocol):
    """An archive that is open. `size` is its bytes, 0 where that is not known."""

    size: int
    #: The SHA-256 that it must have, in hexadecimal; empty where that is not known.
    sha256: str
    #: What Wings calls it: `local backup` or `S3 backup`.
    kind: str

    def begin(self) -> None:
        """Have it read, from the reactor."""

    def blocks(self) -> Iterator[bytes]:
        """Yield its bytes, in a thread. Raises `WingsdError`."""

    def abort(self, error: WingsdError) -> None:
        """Have `blocks` raise `error` soon; to be called from the reactor."""

    def interrupt(self) -> None:
        """Have `blocks` return or raise soon; to be called from any thread."""

    def close(self) -> None:
        """Close it, when its blocks are read no more."""


class LocalArchive:
    """A local backup: an open file, and the checksum that its catalogue has."""

    kind = "local backup"

    def __init__(self, file: OpenFile, sha256: str = "") -> None:
        self.size = file.entry.size
        self.sha256 = sha256
        self._file = file
        self._error: WingsdError | None = None

    def begin(self) -> None:
        """Nothing: a file is read by the thread alone."""

    @property
    def descriptor(self) -> int:
        """The descriptor of the file."""
        return self._file.fileno()

    def head(self, size: int) -> bytes:
        """Return the first bytes. Raises `StorageError`."""
        try:
            return self._file.read_at(0, size)
        except OSError as error:
            raise _unreadable(error) from error

    def check(self) -> None:
        """Raise what `abort` was given."""
        if self._error is not None:
            raise self._error

    def blocks(self) -> Iterator[bytes]:
        """Yield its bytes. Raises `StorageError`, and what `abort` was given."""
        try:
            while block := self._file.read(_PIECE):
                self.check()
                yield block
        except OSError as error:
            raise _unreadable(error) from error

    def abort(self, error: WingsdError) -> None:
        """Have `blocks` raise `error` at its next block."""
        self._error = error

    def interrupt(self) -> None:
        """Nothing: a read of a file does not wait for anybody."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _unreadable(error: OSError) -> StorageError:
    return StorageError(f"its file: {reading_advice(error)}", "the backup could not be read")
