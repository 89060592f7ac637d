"""The records of a ledger: what the destination of a move holds. Encoded and decoded, pure.

A record has a head (length of its payload, type, CRC of both), the payload and its CRC. Each CRC
goes on from the one before, so records cannot be dropped or exchanged unseen. The header says how
much of the file was flushed: from there on a crash may leave anything, before that it is damage.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from struct import Struct
from zlib import crc32

from attrs import astuple, frozen

from wingsd.errors import LedgerDamaged, LedgerVersionUnknown
from wingsd.moves.batch import MAX_INDEX

__all__ = [
    "HEADER",
    "ID",
    "MARK_AT",
    "NO_ROOT",
    "RECORD_HEAD",
    "VERSION",
    "LedgerReader",
    "LedgerState",
    "LedgerWriter",
    "Record",
    "RecordType",
]

VERSION = 2
"""The version of the records, and of the frames in them."""

_VERSIONS = (1, VERSION)  # in the first one there are no attributes

ID = 16
"""Bytes of a move's id, and of a boot's."""

HEADER = Struct("<8sHH16sIQI")
"""The file's header: magic, version, two zero bytes, the move's id, the CRC of these, the mark."""

MARK_AT = 32
"""The mark's place in the header: the bytes of the file that were flushed, and their CRC."""

NO_ROOT = bytes(32)
"""Stands for the root of a round that was given up."""

_MAGIC = b"WMVLEDGR"
_HEAD = Struct("<IB")
_CRC = Struct("<I")
RECORD_HEAD = _HEAD.size + _CRC.size
"""Bytes of a record before its payload."""

_NUMBER = Struct("<Q")
_ROUND = Struct("<I32s")
_STATE = Struct("<IQIQ32s")
_MAX_PAYLOAD = MAX_INDEX


class RecordType(Enum):
    """The kinds of records."""

    OPENED = 1  #: a boot's id: the records that follow were written in this boot
    BATCH = 2  #: the index of a batch, before any of it is written
    DONE = 3  #: a batch's number: it is written
    CHECK = 4  #: numbers: these batches are on stable storage
    LOST = 5  #: a batch's number: it must come again, its blocks are unknown
    ROUND = 6  #: a round's number and root: the round is closed
    STATE = 7  #: round, last batch, last file number, last shape, root: a snapshot follows
    PART = 8  #: an index of a snapshot
    END = 9  #: the end of a snapshot


@frozen(repr=False)
class LedgerState:
    """The numbers after a round when the ledger was written again, and the round's root."""

    round: int
    batch: int
    number: int
    shape: int
    root: bytes

    def encode(self) -> bytes:
        """Return the payload of a STATE record."""
        return _STATE.pack(*astuple(self))


@frozen(repr=False)
class Record:
    """One record; `end` is the position after it."""

    type: RecordType
    payload: bytes
    end: int = 0

    def number(self) -> int:
        """Return the number of a DONE or LOST record."""
        return int(_NUMBER.unpack(self._sized(_NUMBER.size))[0])

    def numbers(self) -> tuple[int, ...]:
        """Return the numbers of a CHECK record."""
        if len(self.payload) % _NUMBER.size:
            raise self.damaged("a CHECK record has an odd length")
        return tuple(each[0] for each in _NUMBER.iter_unpack(self.payload))

    def round_and_root(self) -> tuple[int, bytes]:
        """Return the round of a ROUND record, and its root."""
        number, root = _ROUND.unpack(self._sized(_ROUND.size))
        return number, root

    def state(self) -> LedgerState:
        """Return what a STATE record says."""
        return LedgerState(*_STATE.unpack(self._sized(_STATE.size)))

    def boot(self) -> bytes:
        """Return the boot's id of an OPENED record."""
        return self._sized(ID)

    def damaged(self, detail: str) -> LedgerDamaged:
        """Return the error of a record that makes no sense."""
        return LedgerDamaged(self.end, detail)

    def _sized(self, size: int) -> bytes:
        if len(self.payload) != size:
            raise self.damaged(f"a {self.type.name} record has {len(self.payload)} bytes")
        return self.payload


class LedgerWriter:
    """Encodes records one after the other, from the first one or behind a reader's last one."""

    def __init__(self, chain: int = 0) -> None:
        self._chain = chain

    def header(self, move: bytes, flushed: int = 0) -> bytes:
        """Return the file's header for a move's id."""
        start = HEADER.pack(_MAGIC, VERSION, 0, move, 0, 0, 0)[: MARK_AT - _CRC.size]
        self._chain = crc32(start)
        return start + _CRC.pack(self._chain) + self.mark(flushed)

    @staticmethod
    def mark(flushed: int) -> bytes:
        """Return what is written at `MARK_AT` when so many bytes of the file were flushed."""
        number = _NUMBER.pack(flushed)
        return number + _CRC.pack(crc32(number))

    def record(self, kind: RecordType, payload: bytes = b"") -> bytes:
        """Return one record."""
        head = _HEAD.pack(len(payload), kind.value)
        middle = crc32(head, self._chain)
        self._chain = crc32(payload, middle)
        return b"".join((head, _CRC.pack(middle), payload, _CRC.pack(self._chain)))

    def number(self, kind: RecordType, *numbers: int) -> bytes:
        """Return a DONE, LOST or CHECK record."""
        return self.record(kind, b"".join(map(_NUMBER.pack, numbers)))

    def closed(self, in_round: int, root: bytes) -> bytes:
        """Return a ROUND record."""
        return self.record(RecordType.ROUND, _ROUND.pack(in_round, root))


class LedgerReader:
    """Reads records from the bytes of a ledger, in pieces of any size.

    `end` is the position after the last whole record: what follows had not been flushed.
    """

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._kept = bytearray()
        self._at = 0
        #: The move's id, None where not even the header is whole.
        self.move: bytes | None = None
        self.end = self.chain = 0
        #: Bytes of the file that had been flushed when the mark was written.
        self.flushed = 0

    def records(self) -> Iterator[Record]:
        """Yield every record.

        Raises LedgerDamaged where what was flushed is not whole, and LedgerVersionUnknown.
        """
        self.header()
        try:
            yield from self._whole()
        except LedgerDamaged:
            if self.end < self.flushed:
                raise
        if self.end < self.flushed:
            raise self._damaged("it is shorter than it was")

    def _whole(self) -> Iterator[Record]:
        while (head := self._take(RECORD_HEAD)) is not None:
            length, kind = _HEAD.unpack_from(head)
            chain = crc32(head[: _HEAD.size], self.chain)
            if _CRC.pack(chain) != head[_HEAD.size :] or length > _MAX_PAYLOAD:
                raise self._damaged("the head of a record does not fit its CRC")
            body = self._take(length + _CRC.size)
            if body is None:
                return
            payload = body[:length]
            chain = crc32(payload, chain)
            if _CRC.pack(chain) != body[length:]:
                raise self._damaged("a record does not fit its CRC")
            if kind not in _TYPES:
                raise self._damaged(f"a record has the unknown type {kind}")
            self.chain, self.end = chain, self.end + RECORD_HEAD + len(body)
            yield Record(RecordType(kind), payload, self.end)

    def header(self) -> None:
        """Read the header alone: `move` and `flushed`. Raises as `records` does."""
        header = self._take(HEADER.size)
        # a crash may have left zeros in the place of a new file's
        if header is None or not any(header):
            self._pieces = iter(())
            return
        magic, version, reserved, move, crc, flushed, _ = HEADER.unpack(header)
        if magic != _MAGIC or crc != crc32(header[: MARK_AT - _CRC.size]):
            raise self._damaged("it does not begin as a ledger does")
        if version not in _VERSIONS or reserved:
            raise LedgerVersionUnknown(version, VERSION)
        if header[MARK_AT:] != LedgerWriter.mark(flushed):
            raise self._damaged("how much of it was flushed does not fit its CRC")
        self.move, self.end, self.chain, self.flushed = move, HEADER.size, crc, flushed

    def _take(self, size: int) -> bytes | None:
        """Return the next bytes, None where the file ends before."""
        while len(self._kept) - self._at < size:
            piece = next(self._pieces, None)
            if piece is None:
                return None
            del self._kept[: self._at]
            self._at = 0
            self._kept += piece
        start, self._at = self._at, self._at + size
        return bytes(self._kept[start : self._at])

    def _damaged(self, detail: str) -> LedgerDamaged:
        return LedgerDamaged(self.end, detail)


_TYPES = frozenset(each.value for each in RecordType)
