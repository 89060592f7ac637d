"""The contents of an archive as frames: one letter, four bytes of length, and so much payload.

A plan is first: the bytes and the number of members to come, each 8 bytes, where the list tells.
Then come for each member its description, its data in pieces, and an end; then the end of all. At
any point a refusal may end it. Ticks, without payload, may be anywhere.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum
from typing import TypeAlias

import attrs

#: Bytes of one piece of data, of a member's name, and of the text of a link.
MAX_DATA = 1 << 20
MAX_NAME = 16 << 10
MAX_LINK = 4095
#: The members of one archive.
MAX_MEMBERS = 1_000_000
#: The size of a member, or of all of them, that the archive does not tell.
UNKNOWN = -1
_MAX_REFUSAL = 2000
_MAX_SIZE = (1 << 63) - 1
_HEADER = struct.Struct(">cI")
_PLAN = struct.Struct(">qq")
#: Kind, permission bits, whether there is a time, the time in nanoseconds, size, length of name.
_MEMBER = struct.Struct(">cI?qqH")


class InvalidFrames(Exception):
    """The process sent frames that the parser never sends."""


class FrameKind(Enum):
    """The letter of a frame."""

    PLAN = b"P"
    TICK = b"T"
    MEMBER = b"M"
    DATA = b"D"
    MEMBER_END = b"E"
    END = b"."
    REFUSAL = b"!"


class MemberKind(Enum):
    """The kind of a member; OTHER are devices and the like."""

    FILE = b"f"
    DIRECTORY = b"d"
    SYMLINK = b"s"
    HARD_LINK = b"h"
    OTHER = b"o"


class Reason(Enum):
    """Why an archive is refused."""

    UNKNOWN_FORMAT = "unknown format"
    DAMAGED = "damaged"
    ENCRYPTED = "encrypted"
    UNSUPPORTED = "unsupported"
    EXCESSIVE = "excessive"
    LONG_NAME = "long name"


@attrs.frozen
class ArchivePlan:
    """The bytes of all files, or UNKNOWN, and the number of members."""

    size: int
    members: int

    def encode(self) -> bytes:
        """Return it as a frame."""
        return frame(FrameKind.PLAN, _PLAN.pack(self.size, self.members))


@attrs.frozen
class ArchiveMember:
    """One member. `name` has slashes, and is not checked; a single compressed file has none.

    `mode` are permission bits, `modified` is in nanoseconds since 1970 or None, `size` in bytes or
    UNKNOWN, `link` the text of a symlink, or the name of a hard link's file.
    """

    kind: MemberKind
    name: bytes
    mode: int
    modified: int | None
    size: int
    link: bytes = b""

    def encode(self) -> bytes:
        """Return it as a frame."""
        is_set = self.modified is not None
        head = _MEMBER.pack(
            self.kind.value, self.mode, is_set, self.modified or 0, self.size, len(self.name)
        )
        return frame(FrameKind.MEMBER, head + self.name + self.link)

    @classmethod
    def decode(cls, payload: bytes) -> ArchiveMember:
        """Return the member of a frame. Raises `InvalidFrames`."""
        try:
            kind, mode, is_set, modified, size, length = _MEMBER.unpack_from(payload)
            found = MemberKind(kind)
        except (ValueError, struct.error):
            raise InvalidFrames("a member without sense") from None
        end = _MEMBER.size + length
        name, link = payload[_MEMBER.size : end], payload[end:]
        if len(name) != length or length > MAX_NAME or len(link) > MAX_LINK:
            raise InvalidFrames("a name of another length")
        if mode > 0o7777 or not UNKNOWN <= size <= _MAX_SIZE:  # noqa: PLR2004
            raise InvalidFrames("a number without sense")
        return cls(found, name, mode, modified if is_set else None, size, link)


class ArchiveRefused(Exception):
    """An archive is refused, for a reason and with details for people."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail

    def encode(self) -> bytes:
        """Return it as a frame."""
        text = json.dumps([self.reason.value, self.detail[: _MAX_REFUSAL // 8]])
        return frame(FrameKind.REFUSAL, text.encode())

    @classmethod
    def decode(cls, payload: bytes) -> ArchiveRefused:
        """Return the refusal of a frame. Raises `InvalidFrames`."""
        with suppress(ValueError, RecursionError):
            match json.loads(payload):
                case [str(reason), str(detail)]:
                    return cls(Reason(reason), detail)
        raise InvalidFrames("a refusal without sense")


ParsedArchive: TypeAlias = ArchivePlan | ArchiveMember | bytes | None
"""A part of an archive: bytes are data of the member before, None the end of a member."""

_LIMITS = {
    FrameKind.PLAN: _PLAN.size,
    FrameKind.TICK: 0,
    FrameKind.MEMBER: _MEMBER.size + MAX_NAME + MAX_LINK,
    FrameKind.DATA: MAX_DATA,
    FrameKind.MEMBER_END: 0,
    FrameKind.END: 0,
    FrameKind.REFUSAL: _MAX_REFUSAL,
}


def frame(kind: FrameKind, payload: bytes = b"") -> bytes:
    """Return one frame."""
    return _HEADER.pack(kind.value, len(payload)) + payload


def parsed(read: Callable[[int], bytes]) -> Iterator[ParsedArchive]:
    """Yield what the frames hold, in a valid order, until the end.

    `read` returns exactly so many bytes, or raises EOFError. Raises `ArchiveRefused`,
    `InvalidFrames`, and what `read` raises.
    """
    kind, payload = _next(read)
    if kind is not FrameKind.PLAN or len(payload) != _PLAN.size:
        raise InvalidFrames("no plan")
    plan = ArchivePlan(*_PLAN.unpack(payload))
    if plan.size < UNKNOWN or not 0 <= plan.members <= MAX_MEMBERS:
        raise InvalidFrames("a plan without sense")
    yield plan
    left = plan.members
    while True:
        kind, payload = _next(read)
        if kind is FrameKind.END:
            return
        if kind is not FrameKind.MEMBER or not left:
            raise InvalidFrames("data of no member that was planned")
        left -= 1
        member = ArchiveMember.decode(payload)
        yield member
        yield from _data(read, member)


def _data(read: Callable[[int], bytes], member: ArchiveMember) -> Iterator[bytes | None]:
    """Yield the data of a member, and its end. Raises `InvalidFrames` for another size."""
    size = 0
    while True:
        kind, payload = _next(read)
        if kind is FrameKind.MEMBER_END:
            break
        if kind is not FrameKind.DATA or member.kind is not MemberKind.FILE:
            raise InvalidFrames("no data of this member")
        if not payload:
            raise InvalidFrames("data without a byte")
        size += len(payload)
        if size > member.size != UNKNOWN:
            raise InvalidFrames("more data than the member has")
        yield payload
    if size != member.size != UNKNOWN and member.kind is MemberKind.FILE:
        raise InvalidFrames("less data than the member has")
    yield None


def _next(read: Callable[[int], bytes]) -> tuple[FrameKind, bytes]:
    """Return the next frame that is no tick. Raises `ArchiveRefused` for a refusal."""
    while True:
        letter, length = _HEADER.unpack(read(_HEADER.size))
        try:
            kind = FrameKind(letter)
        except ValueError:
            raise InvalidFrames("an unknown frame") from None
        if length > _LIMITS[kind]:
            raise InvalidFrames("too long a frame")
        payload = read(length) if length else b""
        if kind is FrameKind.REFUSAL:
            raise ArchiveRefused.decode(payload)
        if kind is not FrameKind.TICK:
            return kind, payload
