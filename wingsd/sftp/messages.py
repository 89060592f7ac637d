"""The messages between the daemon and the SFTP process, over a socket pair.

A message is a length of four bytes, and JSON: a list of the message's name and its fields. The
SFTP process has read the bytes of strangers, so what it sends is checked like any input; the same
code checks the other direction.

The process asks the daemon for the past of servers, which it cannot read itself. Those answers
come as datagrams over a second socket pair, with descriptors of files and of listings.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, ClassVar, Self

import attrs

from wingsd.config import SftpConfig
from wingsd.errors import (
    DirectoryMissing,
    FileMissing,
    FileTypeRefused,
    InvalidData,
    IsDirectory,
    WingsdError,
)
from wingsd.filesystem.directory import Entry
from wingsd.util.serialization import structure, unstructure

#: Bytes of one message. A denylist may have 10,000 lines of 1,024 characters.
MAX_FROM_DAEMON = 64 << 20
MAX_FROM_SERVER = 1 << 20
_LENGTH = struct.Struct(">I")


@attrs.frozen(eq=False, repr=False)
class SftpMessage:
    """A message; each subclass is the kind of message with its name."""

    kinds: ClassVar[dict[str, type[SftpMessage]]] = {}

    def __init_subclass__(cls) -> None:
        # attrs makes a second class, which has slots.
        cls.kinds[cls.__name__] = cls


# From the SFTP process


@attrs.frozen(eq=False, repr=False)
class Login(SftpMessage):
    """A client's password or public key, `secret`, that is to be checked.

    `kind` is `password` or `public_key`, `connection` a number, `request` that of this message.
    """

    request: int
    connection: int
    kind: str
    username: str
    secret: str
    ip: str
    port: int
    client_version: str = ""


@attrs.frozen(eq=False, repr=False)
class Begin(SftpMessage):
    """A connection has logged in, by the login with the number `request`."""

    connection: int
    request: int


@attrs.frozen(eq=False, repr=False)
class Closed(SftpMessage):
    """A connection is over, and nothing more is done with files on its behalf."""

    connection: int


@attrs.frozen(eq=False, repr=False)
class Used(SftpMessage):
    """The bytes by which the SFTP process has changed a server's files, since its own start."""

    server: str
    total: int


@attrs.frozen(eq=False, repr=False)
class Transmitted(SftpMessage):
    """The bytes of requests and of answers since the last such message."""

    received: int
    sent: int


@attrs.frozen(eq=False, repr=False)
class Unconfined(SftpMessage):
    """The SFTP process can use all files that the daemon can: the kernel does not confine it."""


@attrs.frozen(eq=False, repr=False)
class FileEvent(SftpMessage):
    """An action of a connection, for the activity log; `target` is that of a rename."""

    connection: int
    event: str
    path: str
    target: str = ""


class PastCall(IntEnum):
    """The requests about a path in the past."""

    STAT = 1
    LIST = 2
    OPEN = 3
    LINK = 4
    REAL = 5


@attrs.frozen(eq=False, repr=False)
class PastWanted(SftpMessage):
    """A connection wants something of its server's past; `call` is a `PastCall`.

    `request` is the number of the answer. The bytes of `path` are characters.
    """

    request: int
    connection: int
    call: int
    path: str


@attrs.frozen(eq=False, repr=False)
class PastClosed(SftpMessage):
    """The descriptor that has come with the answer to `request` is closed."""

    request: int


@attrs.frozen(eq=False, repr=False)
class Log(SftpMessage):
    """A line of the log; `level` is `debug`, `info`, `warn` or `error`."""

    level: str
    text: str


# From the daemon


@attrs.frozen(eq=False, repr=False)
class Start(SftpMessage):
    """The first message: the configuration.

    `host_key` is the private key, as PEM in PKCS #8; `uid` and `gid` own what is made, and all
    servers' directories are in `data`.
    """

    host_key: str
    openat_mode: str
    uid: int
    gid: int
    data: str
    sftp: SftpConfig = SftpConfig()


@attrs.frozen(eq=False, repr=False)
class ChangedSettings(SftpMessage):
    """Settings that change while the process runs."""

    read_only: bool
    passwords: bool


@attrs.frozen(eq=False, repr=False)
class Granted(SftpMessage):
    """A login is correct: the connection may do this.

    `directory` is that of the server's files. `denied` are lines of the egg's denylist, `ignored`
    those of files that the user may not see.
    """

    request: int
    user: str
    server: str
    directory: str
    permissions: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


@attrs.frozen(eq=False, repr=False)
class Rejected(SftpMessage):
    """A login is refused. With `final` the connection is to be closed."""

    request: int
    final: bool = False


@attrs.frozen(eq=False, repr=False)
class Begun(SftpMessage):
    """A connection has a place: its channels may open."""

    connection: int


@attrs.frozen(eq=False, repr=False)
class ServerState(SftpMessage):
    """The bytes that the files of a server take, None before they were measured, and may take.

    `acknowledged` is the `total` of `Used` that is contained in `used`. `has_past` says whether
    users can read points in time of its files.
    """

    server: str
    acknowledged: int = 0
    used: int | None = None
    limit: int | None = None
    has_past: bool = False


@attrs.frozen(eq=False, repr=False)
class Disconnect(SftpMessage):
    """Close a connection, and send the client the reason `why`."""

    connection: int
    why: str


def encode(message: SftpMessage) -> bytes:
    """Return a message as bytes."""
    body = json.dumps([type(message).__name__, unstructure(message)]).encode("ascii")
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Divides a stream of bytes into frames of at most `most` bytes, each behind its length.

    It is an iterator of those that are complete; what is not asked for stays as it came. Raises
    `InvalidData` for a length that no frame has.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._buffer = bytearray()

    def __len__(self) -> int:
        """Return the bytes that are not divided yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Self:
        """Take in data."""
        self._buffer += data
        return self

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        buffer = self._buffer
        if len(buffer) < _LENGTH.size:
            raise StopIteration
        (length,) = _LENGTH.unpack_from(buffer)
        if not 0 < length <= self._most:
            more = f", more than {self._most}" if length else ""
            raise InvalidData(f"a message has {length} bytes{more}")
        end = _LENGTH.size + length
        if len(buffer) < end:
            raise StopIteration
        frame = bytes(memoryview(buffer)[_LENGTH.size : end])
        del buffer[:end]
        return frame


def decode(frame: bytes) -> SftpMessage:
    """Return the message in a frame. Raises `InvalidData`."""
    try:
        found: Any = json.loads(frame)
    except (ValueError, RecursionError) as error:
        raise InvalidData("a message is not JSON") from error
    match found:
        case [str(name), dict(fields)] if name in SftpMessage.kinds:
            return structure(fields, SftpMessage.kinds[name])
    raise InvalidData("a message has no known name")


# Answers about the past

#: The request, and whether it is refused: then an error follows.
ANSWER_HEAD = struct.Struct("<Q?")
#: Bytes of the longest answer: of a symlink, whose text has up to 65,535.
MAX_ANSWER = 1 << 17
#: The name's length, mode, size, mtime, ids. The name follows.
_ENTRY = struct.Struct("<HIQqII")
_PIECE = 64 << 10


#: The kinds of errors that the other side distinguishes.
_KINDS: tuple[type[DirectoryMissing | FileMissing | FileTypeRefused | IsDirectory], ...] = (
    DirectoryMissing,
    FileMissing,
    FileTypeRefused,
    IsDirectory,
)


def pack_error(error: WingsdError) -> bytes:
    """Return an error as bytes."""
    return json.dumps([error.code, error.message, error.detail]).encode()


def unpack_error(data: bytes) -> WingsdError:
    """Return the error in an answer."""
    code, message, detail = json.loads(data)
    kind = next((each for each in _KINDS if each.code == code), None)
    return WingsdError(message, detail) if kind is None else kind(detail)


def pack_entry(entry: Entry) -> bytes:
    """Return an entry of the past as bytes."""
    numbers = (entry.mode, entry.size, entry.modified, entry.uid, entry.gid)
    return _ENTRY.pack(len(entry.name), *numbers) + entry.name


def unpack_entries(data: bytes) -> tuple[list[Entry], bytes]:
    """Return the entries that are whole, and the bytes of the next one that are here."""
    found, at = [], 0
    while len(data) - at >= _ENTRY.size:
        length, mode, size, when, uid, gid = _ENTRY.unpack_from(data, at)
        end = at + _ENTRY.size + length
        if end > len(data):
            break
        name = data[at + _ENTRY.size : end]
        found.append(Entry(name, mode, size, when, when, when, 1, uid, gid, is_virtual=True))
        at = end
    return found, data[at:]


def read_entries(fd: int) -> Iterator[Entry]:
    """Yield the entries in a file."""
    at, rest = 0, b""
    while piece := os.pread(fd, _PIECE, at):
        at += len(piece)
        found, rest = unpack_entries(rest + piece)
        yield from found
