"""The process that parses an archive: the archive on its stdin, frames on its stdout.

It is started by `wingsd.user_archives.process`. It imports what the format needs, confines itself,
and parses the archive twice: for the plan, of all that has a list or is a tar, and for the data.

The checksums of a RAR's files are read here, since libarchive does not check them all: its 3.7
checks none of version 4, and of version 5 none of files that are stored without being compressed.
What was damaged on its way would be extracted without an error.
"""

from __future__ import annotations

import io
import locale
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from struct import Struct
from typing import Protocol
from zlib import crc32

from wingsd.archive.decompress import is_skippable, passed_over
from wingsd.archive.policy import MAX_DEPTH
from wingsd.archive.tar_headers import BLOCK
from wingsd.errors import ArchiveError
from wingsd.sandbox.confinement import confine, limit_resources
from wingsd.user_archives import listed
from wingsd.user_archives.frames import (
    MAX_DATA,
    MAX_LINK,
    MAX_MEMBERS,
    MAX_NAME,
    UNKNOWN,
    ArchiveMember,
    ArchivePlan,
    ArchiveRefused,
    FrameKind,
    MemberKind,
    Reason,
    frame,
)
from wingsd.user_archives.kinds import (
    TAIL,
    Container,
    NameHint,
    container_of,
    ends_as_rar5,
    is_tar,
    stream_of,
)

__all__ = ["ArchiveParser", "answer", "main"]

#: More than the part of a header that is read here has.
_BLOCK_HEAD = 128
# Version 4: after the checksum, the type, flags and size of a header. A file's has behind that
# the packed and the real size, the checksum, and, by a flag, the upper halves of both sizes.
_START_4, _BLOCK_4 = 7, Struct("<2xBHH")
_FILE_4, _HIGH_4 = Struct("<7xIIxI"), Struct("<32xII")
_IS_FILE_4, _IS_SERVICE_4, _IS_END_4 = 0x74, 0x7A, 0x7B
_HAS_DATA_4, _IS_LARGE_4, _IS_SPLIT_4 = 0x8000, 0x100, 0x3
# Version 5: after the checksum, numbers in pieces of seven bits.
_START_5, _CRC = 8, 4
_IS_FILE_5, _IS_END_5 = 2, 5
_HAS_EXTRA_5, _HAS_DATA_5, _IS_SPLIT_5 = 0x1, 0x2, 0x18
_HAS_TIME_5, _HAS_CRC_5 = 0x2, 0x4


def rar4_checksums(descriptor: int) -> Iterator[tuple[int, int] | None]:
    """Yield the size and the CRC-32 of each file in the list, None where it has none of the whole.

    It ends where the list is not that of a RAR of version 4. The position of the descriptor stays.
    """
    at = _START_4
    while True:
        head = os.pread(descriptor, _BLOCK_HEAD, at).ljust(_BLOCK_HEAD, b"\0")
        kind, flags, length = _BLOCK_4.unpack_from(head)
        packed, size, crc = _FILE_4.unpack_from(head)
        if length < _BLOCK_4.size or kind == _IS_END_4:
            return
        is_file = kind in (_IS_FILE_4, _IS_SERVICE_4)
        if is_file and flags & _IS_LARGE_4:
            high_packed, high_size = _HIGH_4.unpack_from(head)
            packed, size = packed | high_packed << 32, size | high_size << 32
        if kind == _IS_FILE_4:
            yield None if flags & _IS_SPLIT_4 else (size, crc)
        at += length + (packed if is_file or flags & _HAS_DATA_4 else 0)


def rar5_checksums(descriptor: int) -> Iterator[tuple[int, int] | None]:
    """Yield the same for a RAR of version 5."""
    at = _START_5
    while True:
        # At the end of the file as well, zeros are a header without a length.
        numbers = _Numbers(os.pread(descriptor, _BLOCK_HEAD, at).ljust(_BLOCK_HEAD, b"\0"), _CRC)
        length = numbers.next()
        start = numbers.at
        kind, flags = numbers.next(), numbers.next()
        if not length or kind == _IS_END_5:
            return
        if flags & _HAS_EXTRA_5:
            numbers.next()
        packed = numbers.next() if flags & _HAS_DATA_5 else 0
        if kind == _IS_FILE_5:
            about, size, _ = numbers.next(), numbers.next(), numbers.next()
            crc_at = numbers.at + (_CRC if about & _HAS_TIME_5 else 0)
            is_known = about & _HAS_CRC_5 and not flags & _IS_SPLIT_5
            crc = int.from_bytes(numbers.data[crc_at : crc_at + _CRC], "little")
            yield (size, crc) if is_known else None
        at += start + length + packed


class _Numbers:
    """The numbers of a header, from `at` on."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at

    def next(self) -> int:
        """Return the next number."""
        number = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80 or shift > 63:  # noqa: PLR2004
                return number


_MAX_NAME_PART = 255
_READ = 256 << 10
_HEAD = 4096
_RARS = (Container.RAR, Container.RAR5)
#: Seconds between two ticks.
_TICK = 1.0


class _Reader(Protocol):
    def members(self) -> Iterator[ArchiveMember]: ...

    def data(self) -> Iterator[bytes]: ...


class ArchiveParser:
    """Parses the archive `file`, whose name says `hint`, and writes frames to `out`.

    The list is read no further when its files have more than `most` bytes; -1 is no bound.
    """

    def __init__(self, file: io.FileIO, out: io.RawIOBase, most: int, hint: NameHint) -> None:
        self._file = file
        self._out = out
        self._most = most
        self._hint = hint
        self._next_tick = time.monotonic() + _TICK
        self._is_deflate64 = False
        head = file.read(_HEAD)
        self._container = container_of(head, hint)
        self._stream = None
        if self._container is None:
            if is_skippable(head[:4]):
                file.seek(0)
                head = passed_over(self._blocks(0))[0]
            self._stream = stream_of(head, hint)

    def prepare(self) -> None:
        """Import the libraries that the format needs."""
        listed.library()
        if self._container is Container.ZIP:
            listed.deflate64_library()
        if self._stream is not None:
            self._stream.make()
            self._stream.errors()

    def run(self) -> None:
        """Write the frames. Raises `ArchiveRefused`, ArchiveError, and MemoryError."""
        if self._container is None and not self._is_tar():
            self._single()
            return
        try:
            plan = self._plan()
        except listed.Deflate64Found:
            self._is_deflate64 = True
            plan = self._plan()
        self._write(plan.encode())
        if 0 <= self._most < plan.size:
            return
        with self._opened() as (reader, plain):
            checksums = self._checksums()
            for count, member in enumerate(reader.members(), start=1):
                if count > plan.members:
                    raise ArchiveRefused(Reason.DAMAGED, "it was changed while it was read")
                self._member(reader, member, next(checksums, None))
            plain.drain()
        self._write(frame(FrameKind.END))

    def _is_tar(self) -> bool:
        head = b""
        for block in self._plain():
            head += block
            if len(head) >= BLOCK:
                break
        if is_tar(head, self._hint):
            return True
        if self._stream is None or self._hint & NameHint.TAR:
            raise ArchiveRefused(Reason.UNKNOWN_FORMAT)
        return False

    def _single(self) -> None:
        self._write(ArchivePlan(UNKNOWN, 1).encode())
        member = ArchiveMember(MemberKind.FILE, b"", 0o644, None, UNKNOWN)
        self._write(member.encode())
        for block in self._plain():
            self._data(block)
        self._write(frame(FrameKind.MEMBER_END) + frame(FrameKind.END))

    def _plan(self) -> ArchivePlan:
        """Return the sum of the list. Raises `ArchiveRefused` for what cannot be extracted."""
        plan = self._sum()
        if self._container in _RARS and not plan.members:
            raise ArchiveRefused(Reason.DAMAGED, "it has no file, as a part that is not the first")
        if self._container is Container.RAR5:
            self._file.seek(max(self._file.seek(0, io.SEEK_END) - TAIL, 0))
            if not ends_as_rar5(self._file.read(TAIL)):
                raise ArchiveRefused(Reason.DAMAGED, "it has no end")
        return plan

    def _sum(self) -> ArchivePlan:
        size = members = 0
        with self._opened() as (reader, plain):
            for member in reader.members():
                self._tick()
                _check_name(member)
                members += 1
                size += max(member.size, 0)
                if members > MAX_MEMBERS:
                    raise ArchiveRefused(
                        Reason.EXCESSIVE, f"it has more than {MAX_MEMBERS:,} members"
                    )
                if 0 <= self._most < size:
                    break
            else:
                plain.drain()
        return ArchivePlan(size, members)

    def _checksums(self) -> Iterator[tuple[int, int] | None]:
        if self._container is Container.RAR:
            return rar4_checksums(self._file.fileno())
        if self._container is Container.RAR5:
            return rar5_checksums(self._file.fileno())
        return iter(())

    def _member(
        self, reader: _Reader, member: ArchiveMember, expected: tuple[int, int] | None
    ) -> None:
        """Write a member; `expected` are the size and the checksum in the list of a RAR."""
        _check_name(member)
        self._write(member.encode())
        if member.kind is MemberKind.FILE:
            size = crc = 0
            for block in reader.data():
                size += len(block)
                if size > member.size != UNKNOWN:
                    raise ArchiveRefused(Reason.DAMAGED, "a file is longer than the list says")
                self._data(block)
                crc = crc32(block, crc) if expected else 0
            if size != member.size != UNKNOWN:
                raise ArchiveRefused(Reason.DAMAGED, "a file is shorter than the list says")
            if expected and size == expected[0] and crc != expected[1]:
                raise ArchiveRefused(Reason.DAMAGED, "the checksum of a file differs")
        self._write(frame(FrameKind.MEMBER_END))

    @contextmanager
    def _opened(self) -> Iterator[tuple[_Reader, listed.PlainStream]]:
        self._file.seek(0)
        source, form = self._plain(), "tar"
        if self._container is not None:
            source, form = self._file, self._container.value
        plain = listed.PlainStream(source, self._tick)
        if self._is_deflate64:
            yield listed.Deflate64Zip(self._file), plain
            return
        with listed.opened(plain, form) as reader:
            yield reader, plain

    def _plain(self) -> Iterator[bytes]:
        """Yield the data from its beginning, decompressed."""
        blocks = self._blocks(0)
        return blocks if self._stream is None else self._stream.plain(blocks)

    def _blocks(self, start: int) -> Iterator[bytes]:
        self._file.seek(start)
        while block := self._file.read(_READ):
            yield block

    def _data(self, block: bytes) -> None:
        for at in range(0, len(block), MAX_DATA):
            self._write(frame(FrameKind.DATA, block[at : at + MAX_DATA]))

    def _tick(self) -> None:
        if time.monotonic() >= self._next_tick:
            self._write(frame(FrameKind.TICK))

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[self._out.write(left) or 0 :]
        self._next_tick = time.monotonic() + _TICK


def _check_name(member: ArchiveMember) -> None:
    """Refuse what no file system can store, or no node receives, before anything is written."""
    parts = member.name.split(b"/")
    too_long = len(member.name) > MAX_NAME or len(member.link) > MAX_LINK
    if too_long or len(parts) > MAX_DEPTH or max(map(len, parts)) > _MAX_NAME_PART:
        raise ArchiveRefused(
            Reason.LONG_NAME,
            f"a name in the archive is too long, or more than {MAX_DEPTH} directories deep",
        )


def answer(
    file: io.FileIO,
    out: io.RawIOBase,
    most: int,
    hint: NameHint,
    confined: Callable[[], None],
) -> None:
    """Write the frames of an archive; `confined` is called before it is parsed."""
    try:
        parser = ArchiveParser(file, out, most, hint)
        _prepare(parser)
        confined()
        parser.run()
    except ArchiveRefused as error:
        refused = error
    except ArchiveError as error:
        # It is whole where the error says how to compress it.
        is_whole = "; compress it with" in error.detail
        refused = ArchiveRefused(Reason.EXCESSIVE if is_whole else Reason.DAMAGED, error.detail)
    except MemoryError:
        refused = ArchiveRefused(Reason.EXCESSIVE, "its parser needs more memory than it may have")
    except Exception as error:
        # The libraries may raise anything for hostile files.
        refused = ArchiveRefused(Reason.DAMAGED, f"{type(error).__name__}: {error}")
    else:
        return
    out.write(refused.refusal.encode())


def _prepare(parser: ArchiveParser) -> None:
    try:
        parser.prepare()
    except (ImportError, OSError, AttributeError, TypeError) as error:
        # ctypes raises the latter two where it finds no library.
        raise ArchiveRefused(
            Reason.UNSUPPORTED, f"a library is missing on this node: {error}"
        ) from error


def main(cpu_seconds: int, memory: int, most: int, hint: int) -> None:
    """Parse the archive on stdin, in so many seconds of CPU time and bytes of memory."""
    limit_resources(cpu_seconds, memory)
    # By which libarchive returns names in UTF-8.
    locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    time.tzset()
    file = io.FileIO(sys.stdin.fileno())
    out = io.FileIO(sys.stdout.fileno(), "wb")
    answer(file, out, most, NameHint(hint), confine)
    os._exit(0)
