"""A reader of histories that knows docs/history.md only: it uses no code of wingsd."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyzstd

__all__ = ["points"]

Entries = dict[bytes, tuple[Any, ...]]


class Form:
    """A catalogue or a delta."""

    def __init__(self, path: Path) -> None:
        raw = path.read_bytes()
        self.header = raw[:32]
        magic, version, self.kind, zero, self.number, self.newer = struct.unpack(
            "<8sHHIQQ", self.header
        )
        assert (magic, version, zero) == (b"WHISTORY", 1, 0)
        end, magic = struct.unpack("<Q8s", raw[-16:])
        assert magic == b"WHISTEND"
        kind, last = self._part(raw, end)
        assert kind == 3
        _, _, self.root, _, _ = struct.unpack_from("<qB32sQQ", last)
        entries, data, count = struct.unpack_from("<QQI", last, 57)
        streams = {1: b"", 2: b""}
        for number in range(count):
            kind, position = struct.unpack_from("<BQ", last, 77 + 9 * number)
            found, part = self._part(raw, position)
            assert found == kind
            streams[kind] += part
        self.data = streams[1]
        assert (len(streams[2]), len(self.data)) == (entries, data)
        self.entries = dict(self._entries(streams[2]))

    def _part(self, raw: bytes, at: int) -> tuple[int, bytes]:
        kind, length, stored, digest = struct.unpack_from("<BII16s", raw, at)
        frame = raw[at + 25 : at + 25 + stored]
        proven = self.header + struct.pack("<QBII", at, kind, length, stored) + frame
        assert sha256(proven).digest()[:16] == digest
        data = pyzstd.decompress(frame)
        assert len(data) == length
        return kind, data

    def _entries(self, raw: bytes) -> Iterator[tuple[bytes, tuple[Any, ...]]]:
        """Yield paths with the kind, the raw entry without its section, and fields."""
        at = 0

        def taken(form: str) -> tuple[Any, ...]:
            nonlocal at
            at += struct.calcsize(form)
            return struct.unpack_from(form, raw, at - struct.calcsize(form))

        def text() -> bytes:
            nonlocal at
            (length,) = taken("<H")
            at += length
            return raw[at - length : at]

        while at < len(raw):
            start = at
            (kind,) = taken("<B")
            path = text()
            fields: tuple[Any, ...] = ()
            if kind == 1:
                fields = (*taken("<HqQ32s"), text())
            elif kind == 2:
                fields = (*taken("<q"), text())
            elif kind == 3:
                fields = (text(),)
            elif kind == 4:
                fields = (*taken("<Hq"), text())
            entry = raw[start:at]
            section = taken("<BQQ") if kind == 1 and self.kind == 2 else ()
            yield path, (kind, entry, fields, section)


def points(directory: Path) -> dict[int, dict[bytes, tuple[Any, ...]]]:
    """Return the entries of each point: kind and fields; for files the contents as well."""
    catalogue = Form(directory / "catalogue")
    deltas = [Form(path) for path in directory.glob("*.delta")]
    deltas = [each for each in deltas if not any(o.number < each.number < o.newer for o in deltas)]
    now: Entries = dict(catalogue.entries)
    files = {
        path: (directory / "tree" / os.fsdecode(path)).read_bytes()
        for path, entry in now.items()
        if entry[0] == 1
    }
    found = {catalogue.number: _checked(now, files, catalogue.root)}
    number = catalogue.number
    while older := [delta for delta in deltas if delta.newer == number]:
        (delta,) = older
        for path, entry in delta.entries.items():
            now[path] = entry
            if entry[0] != 1:
                files.pop(path, None)
                continue
            size = entry[2][2]
            is_based, offset, length = entry[3]
            content = bytearray(files[path] if is_based else b"")
            content = content[:size].ljust(size, b"\0")
            _apply(content, delta.data[offset : offset + length])
            files[path] = bytes(content)
        now = {path: entry for path, entry in now.items() if entry[0]}
        number = delta.number
        found[number] = _checked(now, files, delta.root)
    return found


def _apply(content: bytearray, section: bytes) -> None:
    at = 0
    while at < len(section):
        first, count = struct.unpack_from("<QI", section, at)
        at += 12
        is_zero, count = count >> 31, count & 0x7FFFFFFF
        start = first * 4096
        length = min(count * 4096, len(content) - start)
        if is_zero:
            content[start : start + length] = bytes(length)
        else:
            content[start : start + length] = section[at : at + length]
            at += length


def _checked(now: Entries, files: dict[bytes, bytes], root: bytes) -> Entries:
    digest = sha256(b"wingsd history 1 root\n")
    found: Entries = {}
    for path in sorted(now, key=lambda path: path.replace(b"/", b"\0")):
        kind, entry, fields, _ = now[path]
        digest.update(entry)
        content = (files[path],) if kind == 1 else ()
        if kind == 1:
            pieces = [files[path][at : at + 262_144] for at in range(0, fields[2], 262_144)]
            digests = b"".join(sha256(piece).digest() for piece in pieces)
            assert sha256(digests).digest() == fields[3]
        found[path] = (kind, *fields, *content)
    assert digest.digest() == root
    return found
