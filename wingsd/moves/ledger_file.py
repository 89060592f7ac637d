"""A ledger on the disk: appended to, cut where a write was cut off, and written anew. Blocking."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from zlib import crc32

from wingsd.errors import StorageError
from wingsd.moves.errors import LedgerDamaged
from wingsd.moves.ledger import (
    HEADER,
    MARK_AT,
    RECORD_HEAD,
    LedgerReader,
    LedgerWriter,
    RecordType,
)
from wingsd.moves.recovery import Recovered, recover
from wingsd.moves.tree import MoveLimits
from wingsd.util.text import disk_advice

__all__ = ["LedgerFile"]

_PIECE = 1 << 20
#: Zeros that are written ahead, for the records that follow.
_AHEAD = bytes(1 << 20)
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class LedgerFile:
    """The ledger of one move. `close` must be called. Methods raise StorageError.

    After an error nothing more can be appended: the file must be opened again.
    """

    def __init__(
        self, path: str, fd: int, *, write: Callable[[int, bytes], int] = os.write
    ) -> None:
        self._path = path
        self._fd = fd
        self._write = write
        self._writer = LedgerWriter()
        self._is_usable = True
        #: Bytes of the records, and of the file: zeros follow.
        self.size = self._end = 0
        #: Bytes of it that were flushed, and how many its header tells.
        self._flushed = self._marked = 0
        #: The PART records of the last `replace`: position of the payload, length, CRC.
        self._parts: list[tuple[int, int, int]] = []

    @classmethod
    def open(
        cls,
        path: str,
        move: bytes,
        boot: bytes,
        limits: MoveLimits,
        *,
        write: Callable[[int, bytes], int] = os.write,
    ) -> tuple[LedgerFile, Recovered]:
        """Open the ledger of the move with the id `move`, or make it; return what it proves.

        Raises LedgerDamaged, also for the ledger of another move, and LedgerVersionUnknown. The
        file is not changed then.
        """
        try:
            fd = os.open(path, _FLAGS | os.O_CREAT, 0o600)
        except OSError as error:
            raise _failed(path, error) from error
        ledger = cls(path, fd, write=write)
        try:
            return ledger, ledger._recover(move, boot, limits)
        except BaseException:
            ledger.close()
            raise

    @staticmethod
    def move_of(path: str) -> bytes | None:
        """Return the id of the move that a ledger is of; None where there is no ledger yet.

        Raises StorageError, LedgerDamaged and LedgerVersionUnknown.
        """
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failed(path, error) from error
        try:
            reader = LedgerReader([os.pread(fd, HEADER.size, 0)])
        except OSError as error:
            raise _failed(path, error) from error
        finally:
            os.close(fd)
        reader.header()
        return reader.move

    def _recover(self, move: bytes, boot: bytes, limits: MoveLimits) -> Recovered:
        reader = LedgerReader(self._pieces())
        found = recover(reader, limits, os.path.dirname(self._path) or ".")
        if reader.move not in (None, move):
            raise LedgerDamaged(0, "it is of another move")
        try:
            os.ftruncate(self._fd, reader.end)
            os.lseek(self._fd, reader.end, os.SEEK_SET)
        except OSError as error:
            raise _failed(self._path, error) from error
        self.size = self._end = reader.end
        self._flushed = self._marked = reader.flushed
        self._writer = LedgerWriter(reader.chain)
        if reader.move is None:
            self._append(self._writer.header(move))
        self.append(RecordType.OPENED, boot, durable=True)
        if reader.move is None:
            self._sync_directory()
        return found

    def append(self, kind: RecordType, payload: bytes, *, durable: bool = False) -> None:
        """Append a record; with `durable` return when it is on stable storage."""
        self._append(self._writer.record(kind, payload))
        if durable:
            self._flush()

    def append_numbers(self, kind: RecordType, *numbers: int) -> None:
        """Append a DONE, LOST or CHECK record."""
        self._append(self._writer.number(kind, *numbers))

    def append_round(self, in_round: int, root: bytes) -> None:
        """Append a ROUND record; return when it is on stable storage."""
        self._append(self._writer.closed(in_round, root))
        self._flush()

    def replace(self, move: bytes, records: Iterable[tuple[RecordType, bytes]]) -> None:
        """Write the file anew, for the move with the id `move`: records of types and payloads.

        The old file stays until the new one is whole and on stable storage.
        """
        new, writer = f"{self._path}.new", LedgerWriter()
        parts: list[tuple[int, int, int]] = []
        try:
            fd = os.open(new, _FLAGS | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                self._write_all(fd, writer.header(move))
                size = HEADER.size
                for kind, payload in records:
                    record = writer.record(kind, payload)
                    self._write_all(fd, record)
                    if kind is RecordType.PART:
                        parts.append((size + RECORD_HEAD, len(payload), crc32(payload)))
                    size += len(record)
                os.pwrite(fd, writer.mark(size), MARK_AT)
                os.fsync(fd)
                os.rename(new, self._path)
            except BaseException:
                os.close(fd)
                with suppress(OSError):
                    os.unlink(new)
                raise
        except OSError as error:
            raise _failed(self._path, error) from error
        os.close(self._fd)
        self._fd, self._writer, self._parts = fd, writer, parts
        self.size = self._end = size
        self._flushed = self._marked = size
        self._sync_directory()

    @property
    def parts(self) -> int:
        """The number of PART records, 0 before the first `replace` of this object."""
        return len(self._parts)

    def part(self, number: int) -> bytes:
        """Return the payload of a PART record, from 1. Raises LedgerDamaged, and LookupError."""
        if not 0 < number <= len(self._parts):
            raise LookupError(number)
        at, length, crc = self._parts[number - 1]
        try:
            payload = os.pread(self._fd, length, at)
        except OSError as error:
            raise _failed(self._path, error) from error
        if crc32(payload) != crc:
            raise LedgerDamaged(at, "a part of it is not as it was written")
        return payload

    def close(self) -> None:
        """Close the file, without the zeros at its end."""
        if self._end > self.size:
            with suppress(OSError):
                os.ftruncate(self._fd, self.size)
        os.close(self._fd)

    def _append(self, data: bytes) -> None:
        if not self._is_usable:
            raise StorageError(
                "the ledger of the move could not be written before; the move must be resumed"
            )
        self._is_usable = False
        try:
            self._write_all(self._fd, data)
        except OSError as error:
            raise _failed(self._path, error) from error
        self._is_usable = True
        self.size += len(data)
        if self.size > self._end:
            self._write_ahead()

    def _write_ahead(self) -> None:
        """Write zeros behind the records, which no reader takes for one.

        Where neither size nor blocks of the file change, a flush need not wait for the journal of
        the file system, and so for what else is in that.
        """
        self._end = self.size
        with suppress(OSError):  # without them it only takes longer
            self._end += os.pwrite(self._fd, _AHEAD, self.size)

    def _write_all(self, fd: int, data: bytes) -> None:
        written = self._write(fd, data)
        while written < len(data):
            written += self._write(fd, data[written:])

    def _flush(self) -> None:
        self._is_usable = False
        try:
            if self._flushed > self._marked:
                # It goes to the disk with this flush, and is true already.
                os.pwrite(self._fd, self._writer.mark(self._flushed), MARK_AT)
                self._marked = self._flushed
            os.fdatasync(self._fd)
        except OSError as error:
            raise _failed(self._path, error) from error
        self._flushed = self.size
        self._is_usable = True

    def _sync_directory(self) -> None:
        try:
            fd = os.open(os.path.dirname(self._path) or ".", os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise _failed(self._path, error) from error

    def _pieces(self) -> Iterator[bytes]:
        at = 0
        try:
            while piece := os.pread(self._fd, _PIECE, at):
                at += len(piece)
                yield piece
        except OSError as error:
            raise _failed(self._path, error) from error


def _failed(path: str, error: OSError) -> StorageError:
    return StorageError(f"{path}: {disk_advice(error)}")
