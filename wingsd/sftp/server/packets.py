"""The packets of SFTP version 3: the fields of requests, read from bytes, and answers, as bytes.

Source: draft-ietf-secsh-filexfer-02, with the order of a symlink's arguments and the extensions of
OpenSSH (its PROTOCOL, section 4). Nothing here does any I/O. What a client sends is checked
against the length of its packet; no packet is longer than `MAX_PACKET`.
"""

from __future__ import annotations

import os
import stat
import struct
import time
from collections.abc import Iterable
from typing import NamedTuple

from wingsd.errors import InvalidData
from wingsd.filesystem.directory import Entry

#: Bytes of one packet, without its length: those of OpenSSH.
MAX_PACKET = 256 * 1024
#: Bytes of one READ or WRITE: what such a packet can carry, as OpenSSH announces it.
MAX_DATA = MAX_PACKET - 1024
#: The version of the protocol.
VERSION = 3

# The types of requests.
INIT = 1
OPEN, CLOSE, READ_DATA, WRITE_DATA, LSTAT, FSTAT, SETSTAT, FSETSTAT = range(3, 11)
OPENDIR, READDIR, REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME, READLINK, SYMLINK = range(11, 21)
EXTENDED = 200
#: Flags of OPEN.
READ, WRITE, APPEND, CREATE, TRUNCATE, EXCLUSIVE = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
# Flags of attributes, and those that an answer has: size, owner, mode and times.
_SIZE, _OWNER, _MODE, _TIMES, _MORE = 0x01, 0x02, 0x04, 0x08, 0x80000000
_ANSWERED = _SIZE | _OWNER | _MODE | _TIMES

# The types of answers.
_VERSION, _STATUS, _HANDLE, _DATA, _NAME, _ATTRS, _EXTENDED_REPLY = 2, 101, 102, 103, 104, 105, 201
#: Status codes. The last one is of version 5: clients of version 3 show the text.
OK, END, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE = range(6)
UNSUPPORTED, QUOTA_EXCEEDED = 8, 15

_LONG = struct.Struct(">I")
_LONG_LONG = struct.Struct(">Q")
_KIND_AND_ID = struct.Struct(">BI")
_HEAD = struct.Struct(">IBI")
_DATA_HEAD = struct.Struct(">IBII")
_OK = struct.Struct(">IBIIII2s")
_ATTRIBUTES = struct.Struct(">IQIIIII")
_MAX_LONG = 0xFFFFFFFF
#: Seconds after which `ls -l` shows the year of a file and not the time of the day.
_HALF_A_YEAR = 180 * 24 * 3600


class Attributes(NamedTuple):
    """Attributes of a file; those that are None were not sent. Times are in seconds since 1970."""

    size: int | None
    mode: int | None
    accessed: int | None
    modified: int | None


class Request:
    """A request of the type `kind`, which its answer names by `id`, and its fields in order.

    For INIT the client's version is in place of the id. What follows the last field is ignored, as
    in OpenSSH. Methods raise `InvalidData` for a field that is longer than its packet.
    """

    __slots__ = ("_at", "_packet", "id", "kind")

    def __init__(self, packet: bytes) -> None:
        try:
            self.kind, self.id = _KIND_AND_ID.unpack_from(packet)
        except struct.error:
            raise InvalidData("a packet ends too early") from None
        self._packet = packet
        self._at = _KIND_AND_ID.size

    def long(self) -> int:
        """Return a number of 32 bits."""
        return self._number(_LONG)

    def long_long(self) -> int:
        """Return a number of 64 bits."""
        return self._number(_LONG_LONG)

    def string(self) -> bytes:
        """Return a text."""
        return self._packet[self._span()]

    def view(self) -> memoryview:
        """Return a text without a copy."""
        return memoryview(self._packet)[self._span()]

    def attributes(self) -> Attributes:
        """Return the attributes of a file."""
        flags = self.long()
        size = self.long_long() if flags & _SIZE else None
        if flags & _OWNER:
            self.long_long()  # it stays as it is
        mode = self.long() if flags & _MODE else None
        accessed, modified = (self.long(), self.long()) if flags & _TIMES else (None, None)
        if flags & _MORE:
            for _ in range(self.long()):
                self.view()
                self.view()
        return Attributes(size, mode, accessed, modified)

    def _span(self) -> slice:
        length = self._number(_LONG)
        start, self._at = self._at, self._at + length
        if self._at > len(self._packet):
            raise InvalidData("a field is longer than its packet")
        return slice(start, self._at)

    def _number(self, form: struct.Struct) -> int:
        try:
            (found,) = form.unpack_from(self._packet, self._at)
        except struct.error:
            raise InvalidData("a packet ends too early") from None
        self._at += form.size
        return int(found)


def _string(text: bytes) -> bytes:
    return _LONG.pack(len(text)) + text


def _answer(kind: int, request: int, body: bytes) -> bytes:
    return _HEAD.pack(len(body) + 5, kind, request) + body


def version(extensions: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the answer to INIT, with the names of extensions and their versions."""
    body = b"".join(_string(each) + _string(number) for each, number in extensions)
    return _answer(_VERSION, VERSION, body)


def ok(request: int) -> bytes:
    """Return the status of what was done."""
    return _OK.pack(_OK.size - _LONG.size, _STATUS, request, OK, 0, 2, b"en")


def status(request: int, code: int, message: str) -> bytes:
    """Return a status; `message` is for people."""
    text = message.encode("utf-8", "replace")
    return _answer(_STATUS, request, _LONG.pack(code) + _string(text) + _string(b"en"))


def handle(request: int, value: bytes) -> bytes:
    """Return the handle of an open file or directory."""
    return _answer(_HANDLE, request, _string(value))


def data(request: int, read: bytes) -> bytes:
    """Return bytes of a file."""
    return _DATA_HEAD.pack(len(read) + 9, _DATA, request, len(read)) + read


def _packed(entry: Entry) -> bytes:
    return _ATTRIBUTES.pack(
        _ANSWERED,
        entry.size,
        entry.uid & _MAX_LONG,
        entry.gid & _MAX_LONG,
        entry.mode,
        _seconds(entry.accessed),
        _seconds(entry.modified),
    )


def _seconds(nanoseconds: int) -> int:
    return min(max(nanoseconds // 1_000_000_000, 0), _MAX_LONG)


def attributes(request: int, entry: Entry) -> bytes:
    """Return the attributes of a file."""
    return _answer(_ATTRS, request, _packed(entry))


def name(request: int, text: bytes) -> bytes:
    """Return a single name without attributes: that of REALPATH and READLINK."""
    return _answer(_NAME, request, _LONG.pack(1) + _string(text) * 2 + _LONG.pack(0))


def listing(request: int, entries: Iterable[Entry]) -> tuple[bytes, list[Entry]]:
    """Return an answer of READDIR, and those entries for which it has no more space."""
    parts: list[bytes] = []
    left: list[Entry] = []
    now, size = time.time(), 0
    for entry in entries:
        part = _string(entry.name) + _string(_long_name(entry, now)) + _packed(entry)
        size += len(part)
        if left or size > MAX_DATA:
            left.append(entry)
        else:
            parts.append(part)
    return _answer(_NAME, request, _LONG.pack(len(parts)) + b"".join(parts)), left


def _long_name(entry: Entry, now: float) -> bytes:
    """Return an entry as `ls -l` shows it; the owner is that of a container's files."""
    modified = entry.modified // 1_000_000_000
    try:
        moment = time.gmtime(modified)
    except (OverflowError, ValueError, OSError):
        moment = time.gmtime(0)
    is_recent = now - _HALF_A_YEAR < modified <= now
    when = time.strftime("%b %e %H:%M" if is_recent else "%b %e  %Y", moment)
    mode = stat.filemode(entry.mode)
    text = f"{mode} {entry.links:4} container container {entry.size:12} {when} "
    return text.encode() + entry.name


def limits(request: int, handles: int) -> bytes:
    """Return the answer of limits@openssh.com."""
    body = struct.pack(">QQQQ", MAX_PACKET, MAX_DATA, MAX_DATA, handles)
    return _answer(_EXTENDED_REPLY, request, body)


def file_system(
    request: int, found: os.statvfs_result, limit: int | None, used: int | None
) -> bytes:
    """Return the answer of statvfs@openssh.com: the disk of the node, or what a limit leaves.

    `limit` and `used` are the bytes that the server's files may take, and take.
    """
    unit = found.f_frsize or 1
    blocks, free = found.f_blocks, found.f_bavail
    if limit is not None:
        blocks = limit // unit
        free = min(max(limit - (used or 0), 0) // unit, found.f_bavail)
    body = struct.pack(
        ">11Q",
        unit,
        unit,
        blocks,
        free,
        free,
        found.f_files,
        found.f_ffree,
        found.f_favail,
        0,
        0,
        found.f_namemax,
    )
    return _answer(_EXTENDED_REPLY, request, body)
