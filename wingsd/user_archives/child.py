"""The process that parses an archive: the archive on its stdin, frames on its stdout.

It is started by `wingsd.user_archives.process`. It imports what the format needs, confines itself,
and parses the archive twice: for the plan, of all that has a list or is a tar, and for the data.

Tars and archives with a list are read by libarchive. Names are UTF-8, whatever they were:
libarchive knows what RAR and 7z store. In a zip without the flag of UTF-8 they are CP437 unless
they are valid UTF-8, and in a tar they are bytes. The archive is read through a Python object,
since libarchive's own readers call fstat(2). Zips that have members of method 9, Deflate64, which
Windows makes above 2 GiB, are read by the standard library, and these members by `inflate64`, in
pieces so small that their output is bounded.

The checksums of a RAR's files are read here, since libarchive does not check them all: its 3.7
checks none of version 4, and of version 5 none of files that are stored without being compressed.
What was damaged on its way would be extracted without an error.
"""

from __future__ import annotations

import calendar
import codecs
import ctypes
import errno
import io
import locale
import os
import stat
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from struct import Struct
from typing import Any
from zlib import crc32

from wingsd.archive.decompress import is_skippable, passed_over
from wingsd.archive.policy import MAX_DEPTH
from wingsd.archive.tar_headers import BLOCK
from wingsd.errors import ArchiveError
from wingsd.sandbox.confinement import confine, limit_resources
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

_BLOCK = 256 << 10
_STEP = 240 << 10
_NANO = 1_000_000_000
_LATEST = (1 << 63) // _NANO - 1
_KINDS = {
    stat.S_IFREG: MemberKind.FILE,
    stat.S_IFDIR: MemberKind.DIRECTORY,
    stat.S_IFLNK: MemberKind.SYMLINK,
}
#: Parts of libarchive's messages, and what they mean.
_MEANINGS = (
    (("unrecognized archive format",), Reason.UNKNOWN_FORMAT),
    (("passphrase", "encrypt", "crypto"), Reason.ENCRYPTED),
    (
        (
            *("unsupported", "not supported", "unavailable"),
            *("unknown compression", "unknown codec", "unexpected codec"),
        ),
        Reason.UNSUPPORTED,
    ),
)
#: What it says when it has no memory for a dictionary.
_NO_MEMORY = ("memory", "allocat", "initialization error", "initializing")
#: libarchive's name on this and all newer systems: found without asking the linker's cache,
#: for which Python starts other programs.
_LIBRARY = "libarchive.so.13"
_MAX_MESSAGE = 200


class Deflate64Found(Exception):
    """A zip has members that libarchive cannot read."""


class PlainStream(io.RawIOBase):
    """The input of libarchive: a file, or decompressed blocks, of which errors are kept.

    libarchive's callbacks cannot raise: `error` is what one would have raised.
    """

    def __init__(self, source: io.FileIO | Iterator[bytes], progress: Callable[[], None]) -> None:
        self._file = source if isinstance(source, io.FileIO) else None
        self._blocks = None if isinstance(source, io.FileIO) else source
        self._left = memoryview(b"")
        self._progress = progress
        self.error: BaseException | None = None

    def seekable(self) -> bool:
        """Return whether it is a file."""
        return self._file is not None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move in the file; -1 for what is no place in it."""
        try:
            return -1 if self._file is None else self._file.seek(offset, whence)
        except OSError:
            return -1

    def tell(self) -> int:
        """Return the place in the file."""
        return -1 if self._file is None else self._file.tell()

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer; 0 at the end and after an error."""
        try:
            self._progress()
            if self._file is not None:
                return self._file.readinto(buffer) or 0
            while not self._left:
                block = next(self._blocks or iter(()), None)
                if block is None:
                    return 0
                self._left = memoryview(block)
            size = min(len(buffer), len(self._left))
            memoryview(buffer).cast("B")[:size] = self._left[:size]
            self._left = self._left[size:]
        except BaseException as error:
            self.error = error
            return 0
        return size

    def drain(self) -> None:
        """Read compressed data to its end, so that its checksum is verified."""
        for _ in self._blocks or ():
            self._progress()


def library() -> Any:
    """Return libarchive-c's functions, which take 15 ms to import."""
    os.environ.setdefault("LIBARCHIVE", _LIBRARY)
    try:
        from libarchive import ffi  # noqa: PLC0415
    except OSError:
        # Another system: Python looks for it.
        del os.environ["LIBARCHIVE"]
        from libarchive import ffi  # noqa: PLC0415
    if not hasattr(ffi, "entry_is_encrypted"):
        ffi.ffi("entry_is_encrypted", [ffi.c_archive_entry_p], ffi.c_int)
    return ffi


class ListedArchive:
    """An open archive; `members` is to be used once, and `data` for the member that is current."""

    def __init__(self, reader: Any, stream: PlainStream, *, is_zip: bool) -> None:
        self._reader = reader
        self._stream = stream
        self._is_zip = is_zip
        self._ffi = library()
        self._entry: Any = None
        self._buffer = ctypes.create_string_buffer(_STEP)

    def members(self) -> Iterator[ArchiveMember]:
        """Yield each member. Raises `ArchiveRefused`, `Deflate64Found`, and the stream's error."""
        entries = iter(self._reader)
        while True:
            with _errors(self._ffi, self._stream):
                self._entry = next(entries, None)
            if self._stream.error is not None:
                raise self._stream.error
            if self._entry is None:
                return
            if self._is_zip and b"deflation-64" in (self._reader.format_name or b""):
                raise Deflate64Found
            if self._ffi.entry_is_encrypted(self._entry._entry_p):
                raise ArchiveRefused(Reason.ENCRYPTED)
            yield self._member()

    def data(self) -> Iterator[bytes]:
        """Yield the bytes of the current member. Raises as `members` does."""
        ffi, archive = self._ffi, self._entry._archive_p
        while True:
            with _errors(ffi, self._stream):
                size = ffi.read_data(archive, self._buffer, _STEP)
            if self._stream.error is not None:
                raise self._stream.error
            if size < 0:
                # Its `get_blocks` takes a warning, of a 7z's checksum for one, for a length.
                raise ArchiveRefused(Reason.DAMAGED, _shown(ffi.error_string(archive)))
            if not size:
                return
            yield ctypes.string_at(self._buffer, size)

    def _member(self) -> ArchiveMember:
        ffi, entry = self._ffi, self._entry._entry_p
        name = ffi.entry_pathname(entry)
        if name is None:
            name = (ffi.entry_pathname_w(entry) or "").encode("utf-8", "replace")
        kind = _KINDS.get(stat.S_IFMT(ffi.entry_mode(entry)), MemberKind.OTHER)
        link = b""
        hard = ffi.entry_hardlink(entry)
        if hard is not None:
            kind, link = MemberKind.HARD_LINK, self._name(hard)
        elif kind is MemberKind.SYMLINK:
            link = self._name(ffi.entry_symlink(entry) or b"")
        size = ffi.entry_size(entry) if ffi.entry_size_is_set(entry) else UNKNOWN
        return ArchiveMember(
            kind,
            self._name(name),
            ffi.entry_mode(entry) & 0o7777,
            _time(ffi, entry),
            max(size, UNKNOWN) if kind is MemberKind.FILE else 0,
            link[: MAX_LINK + 1],
        )

    def _name(self, name: bytes) -> bytes:
        return member_name(name) if self._is_zip else name


def member_name(name: bytes) -> bytes:
    """Return a name in a zip in UTF-8: it is CP437 where it is nothing else."""
    try:
        name.decode()
    except UnicodeDecodeError:
        return name.decode("cp437").encode()
    return name


def _time(ffi: Any, entry: Any) -> int | None:
    if not ffi.entry_mtime_is_set(entry):
        return None
    seconds = min(max(ffi.entry_mtime(entry), -_LATEST), _LATEST)
    return int(seconds * _NANO + min(max(ffi.entry_mtime_nsec(entry), 0), _NANO - 1))


@contextmanager
def opened(stream: PlainStream, form: str) -> Iterator[ListedArchive]:
    """Open an archive of a format, by libarchive's name for it. Raises `ArchiveRefused`."""
    from libarchive.read import stream_reader  # noqa: PLC0415

    reading = stream_reader(stream, form, "none", block_size=_BLOCK)
    with _errors(library(), stream):
        reader = reading.__enter__()
    try:
        yield ListedArchive(reader, stream, is_zip=form == "zip")
    finally:
        reading.__exit__(None, None, None)


@contextmanager
def _errors(ffi: Any, stream: PlainStream) -> Iterator[None]:
    """Raise libarchive's errors as `ArchiveRefused`, but the stream's error in place of them."""
    try:
        yield
    except ffi.ArchiveError as error:
        if stream.error is not None:
            raise stream.error from None
        text = _shown(error.msg)
        if error.errno == errno.ENOMEM or any(word in text.lower() for word in _NO_MEMORY):
            raise MemoryError from None
        for words, reason in _MEANINGS:
            if any(word in text.lower() for word in words):
                raise ArchiveRefused(reason, text) from None
        raise ArchiveRefused(Reason.DAMAGED, text or "it has no valid end") from None


def _shown(message: bytes | str | None) -> str:
    text = message if isinstance(message, str) else (message or b"").decode("ascii", "replace")
    return "".join(letter if letter.isprintable() else "?" for letter in text[:_MAX_MESSAGE])


_DEFLATE64 = 9
_FLAG_ENCRYPTED, _FLAG_UTF8 = 0x1, 0x800
_UNIX = 3
#: Bytes of input at a time: of two bits, at the most 65,538 bytes come out.
_INPUT = 64
_READ_OF_ZIP = 64 << 10
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


def deflate64_library() -> Any:
    """Return the library; the names of zips can be decoded from then on."""
    import inflate64  # noqa: PLC0415

    codecs.lookup("cp437")
    return inflate64


class Deflate64Zip:
    """An open zip; `data` is of the member that `members` has yielded last."""

    def __init__(self, file: io.FileIO) -> None:
        """Read the list. Raises `ArchiveRefused`."""
        self._file = file
        self._current: zipfile.ZipInfo | None = None
        try:
            self._zip = zipfile.ZipFile(file)
        except _ERRORS as error:
            raise ArchiveRefused(Reason.DAMAGED, str(error)) from error

    def members(self) -> Iterator[ArchiveMember]:
        """Yield each member. Raises `ArchiveRefused`."""
        for info in self._zip.infolist():
            if info.flag_bits & _FLAG_ENCRYPTED:
                raise ArchiveRefused(Reason.ENCRYPTED)
            self._current = info
            yield self._member(info)

    def data(self) -> Iterator[bytes]:
        """Yield the bytes of the current member. Raises `ArchiveRefused`."""
        info = self._current
        if info is None:
            return
        try:
            yield from (
                self._inflated(info) if info.compress_type == _DEFLATE64 else self._read(info)
            )
        except NotImplementedError as error:
            raise ArchiveRefused(Reason.UNSUPPORTED, str(error)) from error
        except _ERRORS as error:
            raise ArchiveRefused(Reason.DAMAGED, str(error)) from error

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
            _dos_time(info),
            info.file_size if kind is MemberKind.FILE else 0,
            link,
        )

    def _read(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        with self._zip.open(info) as file:
            while block := file.read(_STEP):
                yield block

    def _inflated(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        library = deflate64_library().Inflater()
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
            block = self._file.read(min(left, _READ_OF_ZIP))
            if not block:
                raise EOFError("it ends in the middle of a file")
            at, left = at + len(block), left - len(block)
            for start in range(0, len(block), _INPUT):
                yield block[start : start + _INPUT]


def _dos_time(info: zipfile.ZipInfo) -> int:
    """Return the time, which MS-DOS has in local time."""
    try:
        return int(time.mktime((*info.date_time, 0, 0, -1))) * _NANO
    except (ValueError, OverflowError):
        return calendar.timegm((1980, 1, 1, 0, 0, 0)) * _NANO


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
_CHECKSUMS: dict[Container | None, Callable[[int], Iterator[tuple[int, int] | None]]] = {
    Container.RAR: rar4_checksums,
    Container.RAR5: rar5_checksums,
}
#: Seconds between two ticks.
_TICK = 1.0


_Reader = ListedArchive | Deflate64Zip


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
        library()
        if self._container is Container.ZIP:
            deflate64_library()
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
        except Deflate64Found:
            self._is_deflate64 = True
            plan = self._plan()
        self._write(plan.encode())
        if 0 <= self._most < plan.size:
            return
        with self._opened() as (reader, plain):
            rar = _CHECKSUMS.get(self._container)
            checksums = iter(()) if rar is None else rar(self._file.fileno())
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
        if self._container in _CHECKSUMS and not plan.members:
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
    def _opened(self) -> Iterator[tuple[_Reader, PlainStream]]:
        self._file.seek(0)
        source, form = self._plain(), "tar"
        if self._container is not None:
            source, form = self._file, self._container.value
        plain = PlainStream(source, self._tick)
        if self._is_deflate64:
            yield Deflate64Zip(self._file), plain
            return
        with opened(plain, form) as reader:
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
        try:
            parser.prepare()
        except (ImportError, OSError, AttributeError, TypeError) as error:
            # ctypes raises the latter two where it finds no library.
            missing = f"a library is missing on this node: {error}"
            raise ArchiveRefused(Reason.UNSUPPORTED, missing) from error
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
    out.write(refused.encode())


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
