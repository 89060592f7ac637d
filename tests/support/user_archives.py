"""Archives of users, made by code where no program makes them: RAR, and zips that lie."""

from __future__ import annotations

import io
import lzma
import os
import zlib
from collections.abc import Iterator
from functools import lru_cache
from struct import pack
from typing import Any

import attrs
import snappy

from wingsd.user_archives import child
from wingsd.user_archives.frames import ParsedArchive, parsed
from wingsd.user_archives.kinds import NameHint, snappy_checksum

__all__ = [
    "ParsedHere",
    "ZipMember",
    "rar4",
    "rar5",
    "snappy_framed",
    "zip_of_dictionary",
    "zipped",
]

#: 2020-01-02 03:04:06 in MS-DOS's form.
_DOS_DATE, _DOS_TIME = 40 << 9 | 1 << 5 | 2, 3 << 11 | 4 << 5 | 3


@attrs.frozen
class ZipMember:
    """A member of a zip; what is not given is what the data has."""

    name: bytes
    data: bytes = b""
    method: int = 0
    packed: bytes | None = None
    size: int | None = None
    crc: int | None = None
    flags: int = 0
    mode: int = 0o100644
    extra: bytes = b""

    @property
    def body(self) -> bytes:
        return self.data if self.packed is None else self.packed

    def fields(self) -> bytes:
        crc = zlib.crc32(self.data) if self.crc is None else self.crc
        size = len(self.data) if self.size is None else self.size
        return pack(
            "<HHHHIIIHH",
            self.flags,
            self.method,
            _DOS_TIME,
            _DOS_DATE,
            crc,
            len(self.body),
            size,
            len(self.name),
            len(self.extra),
        )


def zipped(*members: ZipMember) -> bytes:
    """Return a zip, made on Unix."""
    local, central = b"", b""
    for each in members:
        attributes = each.mode << 16
        central += pack("<IHH", 0x02014B50, 0x0314, 20) + each.fields()
        central += pack("<HHHII", 0, 0, 0, attributes, len(local)) + each.name + each.extra
        local += pack("<IH", 0x04034B50, 20) + each.fields() + each.name + each.extra + each.body
    end = pack(
        "<IHHHHIIH",
        0x06054B50,
        0,
        0,
        len(members),
        len(members),
        len(central),
        len(local),
        0,
    )
    return local + central + end


def zip_of_dictionary(data: bytes, dictionary: int) -> bytes:
    """Return a zip whose file `f` is said to need a dictionary of so many bytes."""
    filters = [{"id": lzma.FILTER_LZMA1, "dict_size": 4096}]
    packed = lzma.compress(data, lzma.FORMAT_RAW, filters=filters)
    # APPNOTE.TXT 5.8.8: version, size of properties; then lc, lp and pb, and the dictionary.
    properties = b"\x09\x14\x05\0\x5d" + dictionary.to_bytes(4, "little")
    return zipped(ZipMember(b"f", data, method=14, packed=properties + packed, flags=2))


def rar4(*members: tuple[bytes, bytes], flags: int = 0) -> bytes:
    """Return a RAR of version 4 whose members are stored."""

    def block(kind: int, block_flags: int, rest: bytes) -> bytes:
        head = pack("<BHH", kind, block_flags, 7 + len(rest)) + rest
        return pack("<H", zlib.crc32(head) & 0xFFFF) + head

    made = b"Rar!\x1a\x07\x00" + block(0x73, flags, bytes(6))
    for name, data in members:
        size = len(data)
        rest = pack(
            "<IIBIHHBBHI",
            size,
            size,
            3,
            zlib.crc32(data),
            _DOS_TIME,
            _DOS_DATE,
            20,
            0x30,
            len(name),
            0o100644,
        )
        made += block(0x74, 0x8000, rest + name) + data
    return made + block(0x7B, 0x4000, b"")


def rar5(*members: tuple[bytes, bytes], flags: int = 0, encrypted: bool = False) -> bytes:
    """Return a RAR of version 5 whose members are stored; a name with a slash at its end is a
    directory's.
    """

    def block(*parts: bytes) -> bytes:
        body = b"".join(parts)
        head = _vint(len(body)) + body
        return pack("<I", zlib.crc32(head)) + head

    made = b"Rar!\x1a\x07\x01\x00"
    if encrypted:
        made += block(_vint(4), _vint(0), _vint(0), _vint(0), b"\x0f", bytes(16))
        return made + bytes(64)
    made += block(_vint(1), _vint(0), _vint(flags))
    for name, data in members:
        is_directory = name.endswith(b"/")
        file_flags = 0x0002 | (0x0001 if is_directory else 0x0004)
        parts = [_vint(file_flags), _vint(len(data)), _vint(0o40755 if is_directory else 0o100640)]
        parts.append(pack("<I", 1_000_000_000))
        if not is_directory:
            parts.append(pack("<I", zlib.crc32(data)))
        path = name.rstrip(b"/")
        parts += [_vint(0), _vint(1), _vint(len(path)), path]
        made += block(_vint(2), _vint(2), _vint(len(data)), *parts) + data
    return made + block(_vint(5), _vint(0), _vint(0))


def _vint(number: int) -> bytes:
    """Return a number in pieces of seven bits, as RAR 5 has it."""
    made = b""
    while number > 0x7F:
        made += bytes([number & 0x7F | 0x80])
        number >>= 7
    return made + bytes([number])


#: Of equal blocks, as in a bomb, once: a MiB takes 0.1 s.
_checksum = lru_cache(maxsize=8)(snappy_checksum)


def snappy_framed(data: bytes) -> bytes:
    """Return data in Snappy's framing format; that of Debian's library crashes."""
    made = b"\xff\x06\x00\x00sNaPpY"
    for at in range(0, len(data), 1 << 16):
        part = data[at : at + (1 << 16)]
        body = _checksum(part).to_bytes(4, "little") + snappy.compress(part)
        made += b"\0" + len(body).to_bytes(3, "little") + body
    return made


class ParsedHere:
    """Parses an archive without a process, which takes 0.3 s each."""

    def __init__(
        self, archive: int, size: int, hint: NameHint, most: int | None, *_: object
    ) -> None:
        self._archive = archive
        self._hint = hint
        self._most = -1 if most is None else most

    def frames(self) -> bytes:
        """Return what the process would send."""
        sent: Any = io.BytesIO()
        with io.FileIO(os.dup(self._archive)) as file:
            child.answer(file, sent, self._most, self._hint, lambda: None)
        return bytes(sent.getvalue())

    def contents(self) -> Iterator[ParsedArchive]:
        """Yield what the archive holds."""
        sent = io.BytesIO(self.frames())

        def read(size: int) -> bytes:
            data = sent.read(size)
            if len(data) < size:
                raise EOFError
            return data

        yield from parsed(read)
