"""Deltas and catalogues of histories: damaged ones are refused, and good ones bounded.

An input is a raw file, entries and data that get right digests, or a changed byte in a good file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from fuzz.findings import Finding
from wingsd.errors import HistoryDamaged, HistoryVersionUnknown
from wingsd.history.format import (
    FormKind,
    FormReader,
    FormWriter,
    PartType,
    PastDirectory,
    PastFile,
    PastHardLink,
    PastLink,
    PastNothing,
    Point,
    PointLabel,
    Section,
    encode_chunks,
    merge_chunks,
)

__all__ = ["WORDS", "one", "seeds"]

WORDS = [b"WHISTORY", b"WHISTEND", b"\0\x10", b"\1\0\0\0\0\0\0\x80", b"\1\1\0a", b"\4\0\0"]

_POINT = Point(7, 10**18, PointLabel.STOPPED, bytes(32), 1, 5000, (b"u",))
_MOST = 64 << 20


def one(data: bytes) -> None:
    """Read `data` after its first byte, which selects how it becomes a file."""
    if len(data) < 3:  # noqa: PLR2004
        return
    form, data = data[0] % 3, data[1:]
    if form == 0:
        _read(data)
    elif form == 1:
        split = int.from_bytes(data[:2], "little") % (len(data) - 1)
        _read(_file(data[2 : 2 + split], data[2 + split :]))
    else:
        _changed(int.from_bytes(data[:2], "little"), data[2] if len(data) > 2 else 1)  # noqa: PLR2004


def _file(entries: bytes, data: bytes) -> bytes:
    fd = os.memfd_create("delta")
    try:
        writer = FormWriter(fd, FormKind.DELTA, 7, 8)
        writer.data(data)
        writer._add(PartType.ENTRIES, entries)
        writer.finish(_POINT)
        return os.pread(fd, writer.size, 0)
    finally:
        os.close(fd)


def _read(data: bytes) -> list[object]:
    fd = os.memfd_create("delta")
    try:
        os.write(fd, data)
        return _all(fd)
    except HistoryDamaged as error:
        if not error.detail.isprintable():
            raise Finding(f"this cannot be shown to anybody: {error.detail!r}") from error
    except HistoryVersionUnknown:
        pass
    finally:
        os.close(fd)
    return []


def _all(fd: int) -> list[object]:
    reader = FormReader.of(fd, "a delta")
    found: list[object] = [reader.point, reader.newer, reader.kind]
    for entry, section in reader.entries():
        found.append(entry)
        if section is None or not isinstance(entry, PastFile):
            continue
        end = 0
        for chunk in reader.chunks(section, entry.size):
            if chunk.at < end or chunk.at + chunk.length > entry.size:
                raise Finding("a chunk is outside of its file")
            if chunk.data is not None and len(chunk.data) != chunk.length:
                raise Finding("a chunk has other data than its length")
            end = chunk.at + chunk.length
            found.append(chunk)
        merged = merge_chunks(
            reader.chunks(section, entry.size), reader.chunks(section, entry.size), entry.size
        )
        if sum(map(len, merged)) > 2 * section.length + _MOST:
            raise Finding("merged chunks take more than both")
    return found


def _good() -> bytes:
    """Return a delta with each kind of entry."""
    fd = os.memfd_create("delta")
    try:
        writer = FormWriter(fd, FormKind.DELTA, 7, 8)
        for chunk in encode_chunks(0, b"x" * 5000 + bytes(8192)):
            writer.data(chunk)
        section = Section(False, 0, writer.data_bytes)
        writer.add(PastDirectory(b"", 0o755, 1))
        writer.add(PastNothing(b"a"))
        writer.add(PastFile(b"b", 0o644, 1, 13192, bytes(32), b""), section)
        writer.add(PastHardLink(b"c", b"b"))
        writer.add(PastLink(b"d", -1, b"t"))
        writer.finish(_POINT)
        return os.pread(fd, writer.size, 0)
    finally:
        os.close(fd)


def _changed(at: int, by: int) -> None:
    good = _good()
    expected = _read(good)
    changed = bytearray(good)
    at %= len(good)
    changed[at] ^= by or 1
    found = _read(bytes(changed))
    if found and found != expected:
        raise Finding(f"a changed byte at {at} changes what it says")


def seeds() -> Iterator[bytes]:
    """Yield files with every kind of entry, good and not."""
    good = _good()
    yield b"\0" + good
    entry = b"\4\0\0\xed\1" + bytes(8) + b"\0\0" + b"\0\1\0a" + b"\2\1\0b" + bytes(8) + b"\1\0t"
    file = b"\1\1\0f\xa4\1" + bytes(8) + b"\0\x20" + bytes(6) + bytes(32) + b"\0\0\0" + bytes(8)
    file += b"\x0c" + bytes(7)
    chunk = bytes(8) + b"\2\0\0\x80"
    yield b"\0" + good[:-16] + b"\xff" * 8 + good[-8:]  # the last part is nowhere
    yield b"\1" + len(file).to_bytes(2, "little") + file + chunk
    yield b"\1" + len(entry).to_bytes(2, "little") + entry
    yield from (b"\2" + at.to_bytes(2, "little") + b"\1" for at in (8, 40, 60, 300))
