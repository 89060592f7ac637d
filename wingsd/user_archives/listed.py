"""Reads tars and archives with a list by libarchive: members, and their data in pieces.

Names are UTF-8, whatever they were: libarchive knows what RAR and 7z store. In a zip without the
flag of UTF-8 they are CP437 unless they are valid UTF-8, and in a tar they are bytes. The archive
is read through a Python object, since libarchive's own readers call fstat(2).

Zips that have members of method 9, Deflate64, which Windows makes above 2 GiB, are read by the
standard library, and these members by `inflate64`, in pieces so small that their output is
bounded.
"""

from __future__ import annotations

import calendar
import codecs
import ctypes
import errno
import io
import os
import stat
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from wingsd.user_archives.frames import (
    MAX_LINK,
    UNKNOWN,
    ArchiveMember,
    ArchiveRefused,
    MemberKind,
    Reason,
)

__all__ = ["Deflate64Found", "ListedArchive", "PlainStream", "library", "member_name", "opened"]

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
            block = self._file.read(min(left, _READ))
            if not block:
                raise EOFError("it ends in the middle of a file")
            at, left = at + len(block), left - len(block)
            for start in range(0, len(block), _INPUT):
                yield block[start : start + _INPUT]


def _dos_time(info: zipfile.ZipInfo) -> int | None:
    """Return the time, which MS-DOS has in local time."""
    try:
        return int(time.mktime((*info.date_time, 0, 0, -1))) * _NANO
    except (ValueError, OverflowError):
        return calendar.timegm((1980, 1, 1, 0, 0, 0)) * _NANO
