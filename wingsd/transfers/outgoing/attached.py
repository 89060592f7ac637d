"""Files that are sent beside a server: they are read from any position. Blocking."""

from __future__ import annotations

import hashlib
import os

import attrs

from wingsd.errors import StorageError
from wingsd.filesystem.open_directories import FILE_FLAGS

__all__ = ["AttachedFile", "AttachmentReader"]

_NOT_READ = "a file that is to be sent with the server could not be read"
_PIECE = 1 << 20


@attrs.frozen(repr=False)
class AttachedFile:
    """A file of `size` bytes at `path`, and the `name` that it is sent by.

    Of one that `may_grow` only so many bytes are sent.
    """

    name: str
    path: str
    size: int
    may_grow: bool = False


class AttachmentReader:
    """Reads a file in pieces, and hashes it. Methods raise `StorageError`."""

    def __init__(self, file: AttachedFile) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        #: How many bytes were hashed: the next piece begins there.
        self.position = 0

    def piece(self, offset: int, size: int) -> tuple[bytes, str]:
        """Return the bytes from `offset` on, and with the last ones the SHA-256 of the whole."""
        file = self._file
        try:
            descriptor = os.open(file.path, FILE_FLAGS)
            with open(descriptor, "rb", buffering=0) as opened:
                self._skip_to(opened.fileno(), offset)
                data = _exactly(opened.fileno(), offset, min(size, file.size - offset))
                is_longer = not file.may_grow and opened.seek(0, os.SEEK_END) > file.size
        except OSError as error:
            raise StorageError(f"{file.path}: {error.strerror}", _NOT_READ) from error
        if len(data) < min(size, file.size - offset) or is_longer:
            raise StorageError(f"{file.path} was changed while it was sent", _NOT_READ)
        self._digest.update(data)
        self.position += len(data)
        return data, self._digest.hexdigest() if self.position == file.size else ""

    def _skip_to(self, descriptor: int, offset: int) -> None:
        """Hash what is before `offset`."""
        if offset < self.position:
            self._digest, self.position = hashlib.sha256(), 0
        while self.position < offset:
            data = os.pread(descriptor, min(_PIECE, offset - self.position), self.position)
            if not data:
                return  # it is shorter: the next piece is, too
            self._digest.update(data)
            self.position += len(data)


def _exactly(descriptor: int, offset: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = os.pread(descriptor, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return bytes(data)
