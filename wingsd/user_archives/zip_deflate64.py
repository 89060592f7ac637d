"""Reads zips that have members of method 9, Deflate64, which Windows makes above 2 GiB.

The list, and members of other methods, are read by the standard library; Deflate64 by `inflate64`,
in pieces so small that their output is bounded.
"""

from __future__ import annotations

import calendar
import codecs
import io
import stat
import time
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

from wingsd.user_archives.frames import MAX_LINK, ArchiveMember, MemberKind, Reason
from wingsd.user_archives.listed import member_name
from wingsd.user_archives.refusals import Refused

__all__ = ["Deflate64Zip", "imported"]

_DEFLATE64 = 9
_FLAG_ENCRYPTED, _FLAG_UTF8 = 0x1, 0x800
_UNIX = 3
_NANO = 1_000_000_000
_STEP = 240 << 10
#: Bytes of input at a time: of two bits, at the most 65,538 bytes come out.
_INPUT = 64
_READ = 64 << 10
# APPNOTE.TXT 4.3.7: the local header, and where the lengths of the name and the extra field are.
_LOCAL, _NAME_LENGTH, _EXTRA_LENGTH = 30, 26, 28
_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    IndexError,
    KeyError,
    OverflowError,
)


def imported() -> Any:
    """Return the library; the names of zips can be decoded from then on."""
    import inflate64  # noqa: PLC0415

    codecs.lookup("cp437")
    return inflate64


class Deflate64Zip:
    """An open zip; `data` is of the member that `members` has yielded last."""

    def __init__(self, file: io.FileIO) -> None:
        """Read the list. Raises `Refused`."""
        self._file = file
        self._current: zipfile.ZipInfo | None = None
        try:
            self._zip = zipfile.ZipFile(file)
        except _ERRORS as error:
            raise Refused(Reason.DAMAGED, str(error)) from error

    def members(self) -> Iterator[ArchiveMember]:
        """Yield each member. Raises `Refused`."""
        for info in self._zip.infolist():
            if info.flag_bits & _FLAG_ENCRYPTED:
                raise Refused(Reason.ENCRYPTED)
            self._current = info
            yield self._member(info)

    def data(self) -> Iterator[bytes]:
        """Yield the bytes of the current member. Raises `Refused`."""
        info = self._current
        if info is None:
            return
        try:
            yield from (
                self._inflated(info) if info.compress_type == _DEFLATE64 else self._read(info)
            )
        except NotImplementedError as error:
            raise Refused(Reason.UNSUPPORTED, str(error)) from error
        except _ERRORS as error:
            raise Refused(Reason.DAMAGED, str(error)) from error

    def _member(self, info: zipfile.ZipInfo) -> ArchiveMember:
        name = info.filename.encode("utf-8", "surrogateescape")
        if not info.flag_bits & _FLAG_UTF8:
            name = member_name(info.filename.encode("cp437", "replace"))
        mode = info.external_attr >> 16 if info.create_system == _UNIX else 0
        kind, link = MemberKind.FILE, b""
        if info.is_dir() or stat.S_ISDIR(mode):
            kind = MemberKind.DIRECTORY
        elif stat.S_ISLNK(mode):
            kind = MemberKind.SYMLINK
            link = b"".join(self.data())[: MAX_LINK + 1] if info.file_size <= MAX_LINK else b""
        return ArchiveMember(
            kind,
            name,
            (mode & 0o7777) or (0o755 if kind is MemberKind.DIRECTORY else 0o644),
            _time(info),
            info.file_size if kind is MemberKind.FILE else 0,
            link,
        )

    def _read(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        with self._zip.open(info) as file:
            while block := file.read(_STEP):
                yield block

    def _inflated(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        library = imported().Inflater()
        crc, size = 0, 0
        for piece in self._compressed(info):
            plain = library.inflate(piece)
            crc, size = zlib.crc32(plain, crc), size + len(plain)
            if size > info.file_size:
                raise zipfile.BadZipFile("a file is longer than the list says")
            for at in range(0, len(plain), _STEP):
                yield plain[at : at + _STEP]
        if crc != info.CRC or size != info.file_size:
            raise zipfile.BadZipFile("the checksum of a file differs")

    def _compressed(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        self._file.seek(info.header_offset)
        header = self._file.read(_LOCAL)
        if len(header) != _LOCAL or not header.startswith(b"PK\x03\x04"):
            raise zipfile.BadZipFile("a file has no header")
        lengths = (header[at : at + 2] for at in (_NAME_LENGTH, _EXTRA_LENGTH))
        at = info.header_offset + _LOCAL + sum(int.from_bytes(each, "little") for each in lengths)
        left = info.compress_size
        while left > 0:
            self._file.seek(at)
            block = self._file.read(min(left, _READ))
            if not block:
                raise EOFError("it ends in the middle of a file")
            at, left = at + len(block), left - len(block)
            for start in range(0, len(block), _INPUT):
                yield block[start : start + _INPUT]


def _time(info: zipfile.ZipInfo) -> int | None:
    """Return the time, which MS-DOS has in local time."""
    try:
        return int(time.mktime((*info.date_time, 0, 0, -1))) * _NANO
    except (ValueError, OverflowError):
        return calendar.timegm((1980, 1, 1, 0, 0, 0)) * _NANO
