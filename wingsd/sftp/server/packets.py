"""The packets of SFTP version 3: requests are parsed from bytes, answers are made as bytes.

Source: draft-ietf-secsh-filexfer-02, with the order of a symlink's arguments and the extensions of
OpenSSH (its PROTOCOL, section 4). Nothing here does any I/O. What a client sends is checked
against the length of its packet; no packet is longer than `MAX_PACKET`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

import attrs

__all__ = [
    "APPEND",
    "CREATE",
    "EXCLUSIVE",
    "EXTENSIONS",
    "MAX_DATA",
    "MAX_PACKET",
    "READ",
    "TRUNCATE",
    "WRITE",
    "Attributes",
    "Extended",
    "FrameReader",
    "HandleRequest",
    "Init",
    "NotUnderstood",
    "Open",
    "PacketError",
    "PathRequest",
    "ReadRequest",
    "Request",
    "SetAttributes",
    "TwoPaths",
    "WriteRequest",
    "parse",
]

#: Bytes of one packet, without its length: those of OpenSSH.
MAX_PACKET = 256 * 1024
#: Bytes of one READ or WRITE: what such a packet can carry, as OpenSSH announces it.
MAX_DATA = MAX_PACKET - 1024

# The types of requests.
INIT = 1
OPEN, CLOSE, READ_DATA, WRITE_DATA, LSTAT, FSTAT, SETSTAT, FSETSTAT = range(3, 11)
OPENDIR, READDIR, REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME, READLINK, SYMLINK = range(11, 21)
EXTENDED = 200
#: Flags of OPEN.
READ, WRITE, APPEND, CREATE, TRUNCATE, EXCLUSIVE = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
# Flags of attributes.
_SIZE, _OWNER, _MODE, _TIMES, _MORE = 0x01, 0x02, 0x04, 0x08, 0x80000000

#: The extensions and their versions.
EXTENSIONS: tuple[tuple[bytes, bytes], ...] = (
    (b"posix-rename@openssh.com", b"1"),
    (b"hardlink@openssh.com", b"1"),
    (b"statvfs@openssh.com", b"2"),
    (b"fstatvfs@openssh.com", b"2"),
    (b"fsync@openssh.com", b"1"),
    (b"lsetstat@openssh.com", b"1"),
    (b"limits@openssh.com", b"1"),
)

#: Bytes of a small request.
_SMALL = 4096
_BYTE_AND_LONG = struct.Struct(">BI")
_READ = struct.Struct(">BII8sQI")
_LONG = struct.Struct(">I")
_LONG_LONG = struct.Struct(">Q")


class PacketError(ValueError):
    """The bytes are no packet of SFTP. `request` is the id of the request, if that is known."""

    def __init__(self, why: str, request: int | None = None) -> None:
        super().__init__(why)
        self.request = request


@attrs.frozen
class Attributes:
    """Attributes of a file; those that are None were not sent. Times are in seconds since 1970."""

    size: int | None = None
    owner: tuple[int, int] | None = None
    mode: int | None = None
    accessed: int | None = None
    modified: int | None = None


@attrs.frozen
class Init:
    """The beginning: the client's version of the protocol."""

    version: int


@attrs.frozen
class Request:
    """A request of the type `kind`, which the answer names by `id`."""

    id: int
    kind: int


@attrs.frozen
class PathRequest(Request):
    """A request that is about a path: LSTAT, OPENDIR, REMOVE, RMDIR, REALPATH, STAT, READLINK."""

    path: bytes


@attrs.frozen
class TwoPaths(Request):
    """RENAME: from `first` to `second`. SYMLINK: `second` gets the text `first`."""

    first: bytes
    second: bytes


@attrs.frozen
class HandleRequest(Request):
    """A request that is about an open file or directory: CLOSE, FSTAT, READDIR."""

    handle: bytes


@attrs.frozen
class Open(Request):
    """OPEN, with the flags of this module."""

    path: bytes
    flags: int
    attributes: Attributes


@attrs.frozen
class SetAttributes(Request):
    """SETSTAT and MKDIR of the path, or FSETSTAT of the handle, `subject`."""

    subject: bytes
    attributes: Attributes


@attrs.frozen
class ReadRequest(Request):
    """READ of `length` bytes."""

    handle: bytes
    offset: int
    length: int


@attrs.frozen
class WriteRequest(Request):
    """WRITE."""

    handle: bytes
    offset: int
    data: memoryview


@attrs.frozen
class Extended(Request):
    """An extension, by its name; `arguments` are its strings, and `attributes` of lsetstat."""

    name: bytes
    arguments: tuple[bytes, ...] = ()
    attributes: Attributes = Attributes()


@attrs.frozen
class NotUnderstood(Request):
    """A request of a type that does not exist in version 3."""


class FrameReader:
    """Divides a stream of bytes into packets."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def __len__(self) -> int:
        """Return the bytes that are not divided yet."""
        return len(self._buffer)

    def keep(self, data: bytes) -> None:
        """Keep data that is to be divided with what is fed later."""
        self._buffer += data

    def feed(self, data: bytes) -> Iterable[bytes]:
        """Return the packets that are complete with `data`; what is not looked at is kept.

        Raises `PacketError` for a length that no packet has, also while they are looked at.
        """
        size = len(data) - _LONG.size
        if not self._buffer and 0 < size <= _SMALL and data.startswith(_LONG.pack(size)):
            return (data[_LONG.size :],)  # a request that comes as a whole, as most do
        return self._divided(data)

    def _divided(self, data: bytes) -> Iterator[bytes]:
        buffer = self._buffer
        buffer += data
        start, end = 0, len(buffer)
        try:
            while end - start >= _LONG.size:
                (length,) = _LONG.unpack_from(buffer, start)
                if not 0 < length <= MAX_PACKET:
                    raise PacketError(f"a packet has the length {length}")
                after = start + _LONG.size + length
                if after > end:
                    break
                packet = bytes(memoryview(buffer)[start + _LONG.size : after])
                start = after
                yield packet
        finally:
            del buffer[:start]


class _Fields:
    """The fields of one packet, in order. Methods raise `PacketError` behind its end."""

    def __init__(self, packet: bytes, start: int, request: int | None) -> None:
        self._packet = packet
        self._at = start
        self._request = request

    def long(self) -> int:
        return self._number(_LONG)

    def long_long(self) -> int:
        return self._number(_LONG_LONG)

    def string(self) -> bytes:
        return bytes(self.view())

    def view(self) -> memoryview:
        length = self.long()
        end = self._at + length
        if end > len(self._packet):
            raise PacketError("a field is longer than its packet", self._request)
        found = memoryview(self._packet)[self._at : end]
        self._at = end
        return found

    def attributes(self) -> Attributes:
        flags = self.long()
        size = self.long_long() if flags & _SIZE else None
        owner = (self.long(), self.long()) if flags & _OWNER else None
        mode = self.long() if flags & _MODE else None
        accessed, modified = (self.long(), self.long()) if flags & _TIMES else (None, None)
        if flags & _MORE:
            for _ in range(self.long()):
                self.view()
                self.view()
        return Attributes(size, owner, mode, accessed, modified)

    def _number(self, form: struct.Struct) -> int:
        try:
            (found,) = form.unpack_from(self._packet, self._at)
        except struct.error:
            raise PacketError("a packet ends too early", self._request) from None
        self._at += form.size
        return int(found)


def parse(packet: bytes) -> Init | Request:
    """Return the request in a packet; what follows its last field is ignored, as in OpenSSH.

    Raises `PacketError`.
    """
    try:
        kind, request = _BYTE_AND_LONG.unpack_from(packet)
    except struct.error:
        raise PacketError("a packet ends too early") from None
    if kind == INIT:
        return Init(request)
    if kind == READ_DATA and len(packet) == _READ.size:
        _, _, size, handle, offset, length = _READ.unpack(packet)
        if size == len(handle):  # as those of this server are
            return ReadRequest(request, kind, handle, offset, length)
    fields = _Fields(packet, _BYTE_AND_LONG.size, request)
    if kind == READ_DATA:
        return ReadRequest(request, kind, fields.string(), fields.long_long(), fields.long())
    if kind == WRITE_DATA:
        return WriteRequest(request, kind, fields.string(), fields.long_long(), fields.view())
    if kind == OPEN:
        return Open(request, kind, fields.string(), fields.long(), fields.attributes())
    return _parse(kind, request, fields)


_PATHS = frozenset((LSTAT, OPENDIR, REMOVE, RMDIR, REALPATH, STAT, READLINK))
_HANDLES = frozenset((CLOSE, FSTAT, READDIR))
_ATTRIBUTES = frozenset((SETSTAT, MKDIR, FSETSTAT))
#: The number of strings of each extension.
_ARGUMENTS = {
    b"posix-rename@openssh.com": 2,
    b"hardlink@openssh.com": 2,
    b"statvfs@openssh.com": 1,
    b"fstatvfs@openssh.com": 1,
    b"fsync@openssh.com": 1,
    b"lsetstat@openssh.com": 1,
}


def _parse(kind: int, request: int, fields: _Fields) -> Request:
    if kind == EXTENDED:
        return _parse_extended(kind, request, fields)
    if kind in _PATHS:
        return PathRequest(request, kind, fields.string())
    if kind in _HANDLES:
        return HandleRequest(request, kind, fields.string())
    if kind in _ATTRIBUTES:
        return SetAttributes(request, kind, fields.string(), fields.attributes())
    if kind in (RENAME, SYMLINK):
        return TwoPaths(request, kind, fields.string(), fields.string())
    return NotUnderstood(request, kind)


def _parse_extended(kind: int, request: int, fields: _Fields) -> Extended:
    name = fields.string()
    arguments = tuple(fields.string() for _ in range(_ARGUMENTS.get(name, 0)))
    is_setting = name == b"lsetstat@openssh.com"
    given = fields.attributes() if is_setting else Attributes()
    return Extended(request, kind, name, arguments, given)
