"""A tar as a Go node packs one: byte for byte what Go's archive/tar writes for it.

Each member has the oldest form that can hold it: ustar, with a long path split over two fields
where that fits, else pax, with records only for what ustar cannot say. Times are whole seconds,
rounded. Wings names no owner since 1.11.9, and named the file's before.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

import attrs

from tests.support.archives import END, member, pax_record

FILE, FIFO, EXTENDED = b"0", b"6", b"x"
NAME, PREFIX = 100, 155
#: Octal digits of ustar's numbers.
DIGITS = {b"gid": 7, b"mtime": 11, b"size": 11, b"uid": 7}
SECOND = 1_000_000_000
TIME = 1_700_000_000 * SECOND


@attrs.frozen
class GoFile:
    """What a Go node sees of a file. `mtime` is in nanoseconds; `owner` names user and group."""

    name: bytes
    data: bytes = b""
    mode: int = 0o644
    mtime: int = TIME
    kind: bytes = FILE
    uid: int = 0
    gid: int = 0
    owner: bytes = b""

    @property
    def seconds(self) -> int:
        return (self.mtime + SECOND // 2) // SECOND


#: One file for each thing that has a form of its own.
ODD = [
    GoFile(b"server.properties", b"server-port=25565\n"),
    GoFile(b"world/level.dat", b"down", 0o640, TIME + 499_999_999),
    GoFile(b"world/session.lock", b"", 0o600, TIME + 500_000_000),
    GoFile(b"start.sh", b"#!/bin/sh\n", 0o4755, TIME + 999_999_999),
    GoFile(b"n" * 100, b"fits"),
    GoFile(b"d" * 60 + b"/" + b"f" * 60, b"split"),
    GoFile(b"p" * 155 + b"/" + b"s" * 100, b"splits at its longest"),
    GoFile(b"n" * 101, b"does not"),
    GoFile((b"d" * 49 + b"/") * 6 + b"f", b"too long"),
    GoFile("plugins/карта/日本.yml".encode(), b"foreign"),
    GoFile(f"плагин/{'ж' * 60}/x".encode(), b"foreign and long"),
    GoFile(b"not-utf8-\xff", b"bytes"),
    GoFile(b"old", b"before 1970", mtime=-2 * SECOND + 250_000_000),
    GoFile(b"console.fifo", kind=FIFO),
    GoFile(b"owned", b"by name", 0o664, owner=b"root"),
    GoFile(b"owned-far", b"by number", 0o664, uid=3_000_000, gid=8**7),
    GoFile(
        (b"e" * 49 + b"/") * 3 + b"f", b"late", mtime=8**11 * SECOND, uid=3_000_000, gid=8**7 - 1
    ),
]


def go_tar(files: Iterable[GoFile]) -> bytes:
    """Return the archive, which ends with two blocks of zeros and no padding."""
    return b"".join(map(_member, files)) + END


def _member(file: GoFile) -> bytes:
    numbers = {b"gid": file.gid, b"mtime": file.seconds, b"size": len(file.data), b"uid": file.uid}
    # Three bits to a digit; of a negative number something is always left.
    records = {key: b"%d" % n for key, n in numbers.items() if n >> 3 * DIGITS[key]}
    fields = {
        key: b"%0*o" % (DIGITS[key], 0 if key in records else n) for key, n in numbers.items()
    }
    prefix, name = _split(file.name)
    if len(name) > NAME or not name.isascii() or (prefix and records):
        records[b"path"] = file.name
        prefix, name = b"", _cut(file.name)
    texts = [(265, file.owner), (297, file.owner), (329, b"0000000\x000000000")]
    header = member(
        name,
        file.data,
        file.kind,
        mode=file.mode,
        size=fields[b"size"],
        mtime=fields[b"mtime"],
        prefix=prefix,
        raw=[(108, fields[b"uid"]), (116, fields[b"gid"]), *texts],
    )
    return _extension(file.name, records) + header


def _extension(path: bytes, records: dict[bytes, bytes]) -> bytes:
    if not records:
        return b""
    folder, base = posixpath.split(path)
    name = _cut(posixpath.join(folder, b"PaxHeaders.0", base))
    data = b"".join(pax_record(key, records[key]) for key in sorted(records))
    return member(name, data, EXTENDED, mode=0, mtime=b"0" * 11)


def _split(path: bytes) -> tuple[bytes, bytes]:
    """Return the path's prefix and name: all in the name where it fits or cannot be split."""
    prefix, _, name = path[: PREFIX + 1].rpartition(b"/")
    name += path[PREFIX + 1 :]
    if len(path) > NAME >= len(name) > 0 and prefix and path.isascii():
        return prefix, name
    return b"", path


def _cut(path: bytes) -> bytes:
    """Return what of a path goes into the name's field when a record holds the whole of it."""
    return bytes(byte for byte in path if byte < 0x80)[:NAME].rstrip(b"/")
