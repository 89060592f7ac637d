"""Answers of SFTP version 3, as bytes with their length in front."""

from __future__ import annotations

import os
import stat
import struct
import time
from collections.abc import Iterable

from wingsd.filesystem.directory import Entry
from wingsd.sftp.server.packets import EXTENSIONS, MAX_DATA, MAX_PACKET

__all__ = [
    "BAD_MESSAGE",
    "END",
    "FAILURE",
    "NO_SUCH_FILE",
    "OK",
    "PERMISSION_DENIED",
    "QUOTA_EXCEEDED",
    "UNSUPPORTED",
    "attributes",
    "data",
    "file_system",
    "handle",
    "limits",
    "listing",
    "name",
    "status",
    "version",
]

#: Status codes. The last one is of version 5: clients of version 3 show the text.
OK, END, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE = range(6)
UNSUPPORTED, QUOTA_EXCEEDED = 8, 15

_VERSION, _STATUS, _HANDLE, _DATA, _NAME, _ATTRS, _EXTENDED_REPLY = 2, 101, 102, 103, 104, 105, 201
_PROTOCOL = 3
_LONG = struct.Struct(">I")
_HEAD = struct.Struct(">IBI")
_DATA_HEAD = struct.Struct(">IBII")
#: Flags: size, owner, mode and times follow.
_ALL_ATTRIBUTES = 0x0F
_ATTRIBUTES = struct.Struct(">IQIIIII")
_MAX_LONG = 0xFFFFFFFF
#: Seconds after which `ls -l` shows the year of a file and not the time of the day.
_HALF_A_YEAR = 180 * 24 * 3600


def _string(text: bytes) -> bytes:
    return _LONG.pack(len(text)) + text


def _answer(kind: int, request: int, body: bytes) -> bytes:
    return _HEAD.pack(len(body) + 5, kind, request) + body


def version() -> bytes:
    """Return the answer to INIT, with the extensions."""
    body = b"".join(_string(each) + _string(number) for each, number in EXTENSIONS)
    return _HEAD.pack(len(body) + 5, _VERSION, _PROTOCOL) + body


def status(request: int, code: int, message: str = "") -> bytes:
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
        _ALL_ATTRIBUTES,
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
