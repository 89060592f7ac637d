"""Ledgers of a move: damaged ones are refused, and cut ones say what came before the cut.

An input is a raw ledger, records that get right CRCs, or a cut or a changed byte in a good one.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from fuzz.findings import Finding, fields, pieces
from wingsd.errors import DiskLimitExceeded, LedgerDamaged, LedgerVersionUnknown, RoundIncomplete
from wingsd.moves.batch import (
    BatchKind,
    DataFrame,
    DirectoryFrame,
    FileFrame,
    Frame,
    GoneFrame,
    HardFrame,
    LinkFrame,
    TakeFrame,
    WholeFrame,
    make_index,
)
from wingsd.moves.digests import block_digest, block_digests
from wingsd.moves.ledger import HEADER, LedgerReader, LedgerWriter, Record, RecordType, recover
from wingsd.moves.tree import MoveLimits

__all__ = ["WORDS", "one", "seeds"]

WORDS = [b"WMVLEDGR", b"\1\0\0\0", *(bytes([each.value]) for each in RecordType)]

_MOVE, _BOOT = b"m" * 16, b"b" * 16
_LIMITS = MoveLimits(64, 8 << 20)
_ROUND = Struct("<I32s")
_STATE = Struct("<IQIQ32s")


def one(data: bytes) -> None:
    """Read `data` after its first byte, which selects how it becomes a ledger."""
    if not data:
        return
    form, data = data[0] % 4, data[1:]
    if form == 0:
        _recover(data)
    elif form == 1:
        writer = LedgerWriter()
        ledger = [writer.header(_MOVE)]
        ledger += [writer.record(kind, payload) for kind, payload in _records(data)]
        _recover(b"".join(ledger))
    elif form == 2:  # noqa: PLR2004
        _cut(int.from_bytes(data[:3], "little"))
    else:
        _changed(int.from_bytes(data[:3], "little"), data[3] if len(data) > 3 else 1)  # noqa: PLR2004


def _read(data: bytes) -> tuple[LedgerReader, list[Record]]:
    reader = LedgerReader(pieces(data))
    return reader, list(reader.records())


def _recover(data: bytes) -> None:
    reader = LedgerReader(pieces(data))
    try:
        found = recover(reader, _LIMITS)
    except (LedgerDamaged, LedgerVersionUnknown, DiskLimitExceeded) as error:
        if not error.detail.isprintable():
            raise Finding(f"this cannot be shown to anybody: {error.detail!r}") from error
        return
    if reader.end > len(data):
        raise Finding("it claims more than there is")
    for index in found.unproven:
        if found.received.has(index.number) and index.number not in found.undurable:
            raise Finding("it claims a batch that is not proven")
    try:
        found.tree.root()
    except RoundIncomplete:
        if not list(found.tree.missing()):
            raise Finding("nothing is missing and there is no root") from None


def _records(data: bytes) -> Iterator[tuple[RecordType, bytes]]:
    """Yield records: a type, the length of the payload, the payload."""
    types = list(RecordType)
    at = 0
    while at + 2 < len(data):
        kind = types[data[at] % len(types)]
        length = int.from_bytes(data[at + 1 : at + 3], "little")
        yield kind, data[at + 3 : at + 3 + length]
        at += 3 + length


def _good(*, flushed: bool) -> bytes:
    """Return a ledger of which all was flushed, or nothing."""
    writer = LedgerWriter()
    writer.header(_MOVE)
    records = b"".join(writer.record(kind, payload) for kind, payload in _story())
    size = HEADER.size + len(records)
    return writer.header(_MOVE, size if flushed else 0) + records


def _story() -> Iterator[tuple[RecordType, bytes]]:
    """Yield the records of a move with two rounds."""
    data = b"x" * 5000
    frames: list[Frame] = [
        DirectoryFrame(b"a", 0o755, 1),
        FileFrame(1, b"a/c", 0o644, 1, 5000, 4096),
        LinkFrame(b"l", b"t", 1),
        HardFrame(b"b", b"a/c"),
    ]
    first = make_index(BatchKind.SHAPE, 1, 1, 0, frames)
    whole = WholeFrame(b"w", 0o600, 1, 4, block_digest(b"1234"))
    parts = DataFrame(1, 0, 4096, 904, block_digests(data, 4096))
    second = make_index(BatchKind.DATA, 2, 1, 1, [whole, parts])
    gone: list[Frame] = [TakeFrame(b"w", 0), GoneFrame(b"l")]
    third = make_index(BatchKind.SHAPE, 3, 2, 1, gone)
    yield RecordType.OPENED, _BOOT
    yield RecordType.BATCH, first.raw
    yield RecordType.DONE, _number(1)
    yield RecordType.CHECK, _number(1)
    yield RecordType.BATCH, second.raw
    yield RecordType.LOST, _number(2)
    yield RecordType.BATCH, second.raw
    yield RecordType.DONE, _number(2)
    yield RecordType.CHECK, _number(2)
    yield RecordType.ROUND, _ROUND.pack(1, b"r" * 32)
    yield RecordType.BATCH, third.raw


def _snapshot() -> Iterator[tuple[RecordType, bytes]]:
    frames: list[Frame] = [DirectoryFrame(b"a", 0o755, 1), LinkFrame(b"a/l", b"t", 1)]
    yield RecordType.OPENED, _BOOT
    yield RecordType.STATE, _STATE.pack(2, 7, 3, 5, b"r" * 32)
    yield RecordType.PART, make_index(BatchKind.SHAPE, 1, 1, 0, frames).raw
    yield RecordType.END, b""
    third = make_index(BatchKind.SHAPE, 8, 3, 5, [GoneFrame(b"a")])
    yield RecordType.BATCH, third.raw


def _number(number: int) -> bytes:
    return number.to_bytes(8, "little")


def _cut(at: int) -> None:
    good = _good(flushed=False)
    at %= len(good) + 1
    _, whole = _read(good)
    reader, found = _read(good[:at])
    expected = [record for record in whole if record.end <= at]
    if [(r.type, r.payload) for r in found] != [(r.type, r.payload) for r in expected]:
        raise Finding("a cut ledger says something else than what was before the cut")
    if at >= HEADER.size and reader.end != (expected[-1].end if expected else HEADER.size):
        raise Finding("its end is elsewhere")


def _changed(at: int, by: int) -> None:
    good = bytearray(_good(flushed=True))
    at %= len(good)
    good[at] ^= by or 1
    try:
        _read(bytes(good))
    except (LedgerDamaged, LedgerVersionUnknown):
        return
    raise Finding(f"a changed byte at {at} was not found")


def seeds() -> Iterator[bytes]:
    """Yield ledgers with every type of record, good and not."""
    yield b"\0" + _good(flushed=True)
    for story in (_story(), _snapshot()):
        yield b"\1" + b"".join(
            bytes([list(RecordType).index(kind)]) + len(payload).to_bytes(2, "little") + payload
            for kind, payload in story
        )
    yield from (b"\2" + position for position in fields(b"\x10\0\x90\0\xf0", 4))
    yield b"\3\x20\0\0\1"
