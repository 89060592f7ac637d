"""Reads tars and archives with a list by libarchive: members, and their data in pieces.

Names are UTF-8, whatever they were: libarchive knows what RAR and 7z store. In a zip without the
flag of UTF-8 they are CP437 unless they are valid UTF-8, and in a tar they are bytes. The archive
is read through a Python object, since libarchive's own readers call fstat(2).
"""

from __future__ import annotations

import ctypes
import errno
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from wingsd.user_archives.frames import MAX_LINK, UNKNOWN, ArchiveMember, MemberKind, Reason
from wingsd.user_archives.refusals import Refused

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
    """What libarchive reads: a file, or decompressed blocks, of which errors are kept.

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
        """Yield each member. Raises `Refused`, `Deflate64Found` and what the stream raised."""
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
                raise Refused(Reason.ENCRYPTED)
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
                raise Refused(Reason.DAMAGED, _shown(ffi.error_string(archive)))
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
    """Open an archive of a format, by libarchive's name for it. Raises `Refused`."""
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
    """Raise libarchive's errors as `Refused`, but what the stream has raised instead of them."""
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
                raise Refused(reason, text) from None
        raise Refused(Reason.DAMAGED, text or "it has no valid end") from None


def _shown(message: bytes | str | None) -> str:
    text = message if isinstance(message, str) else (message or b"").decode("ascii", "replace")
    return "".join(letter if letter.isprintable() else "?" for letter in text[:_MAX_MESSAGE])
