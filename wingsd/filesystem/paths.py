"""Paths of a server's files as users write them, names as users see them, and errors of files.

A path is relative to the server's directory. Names on Linux are bytes. One that is not UTF-8 is
shown with a private-use character for each byte that is invalid, U+10FE80 for 0x80 to U+10FEFF for
0xFF, and a path with these characters means that file. Such a character that is itself in a name
is shown as its four bytes, so that each name has one text.

Errors of the operating system about such a file become errors of wingsd here. A user can act on
most of them, so their statuses are below 500: Panels show the message of those only.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import attrs

from wingsd.errors import (
    DiskLimitExceeded,
    FileInUse,
    FileMissing,
    FileNotPermitted,
    FileTypeRefused,
    IsDirectory,
    NameTooLong,
    PathInvalid,
    StorageError,
    WingsdError,
)
from wingsd.util.text import disk_advice, display

#: Bytes of one name: NAME_MAX of Linux.
MAX_NAME_BYTES = 255
#: Bytes of a whole path: PATH_MAX of Linux, without the NUL.
MAX_PATH_BYTES = 4095

_PRIVATE = 0x10FE00
_SURROGATES = 0xDC00  # of the error handler "surrogateescape"
_INVALID = range(0x80, 0x100)
_TO_BYTES = {_PRIVATE + byte: _SURROGATES + byte for byte in _INVALID}
_TO_TEXT: dict[int, int | str] = {_SURROGATES + byte: _PRIVATE + byte for byte in _INVALID}
_TO_TEXT |= {
    _PRIVATE + byte: "".join(chr(_PRIVATE + each) for each in chr(_PRIVATE + byte).encode())
    for byte in _INVALID
}


def name_text(name: bytes) -> str:
    """Return a name on the disk as text that is valid Unicode; see this module."""
    text = name.decode("utf-8", "surrogateescape")
    return text if text.isascii() else text.translate(_TO_TEXT)


def name_from_text(text: str) -> bytes:
    """Return the bytes of a name or path that `name_text` shows so. Raises `PathInvalid`."""
    if text.isascii():
        return text.encode()
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PathInvalid("the name is not valid Unicode.") from None
    return text.translate(_TO_BYTES).encode("utf-8", "surrogateescape")


def _checked(_: object, __: object, parts: tuple[bytes, ...]) -> None:
    """Refuse parts that are no names, so that a path needs no further check."""
    for part in parts:
        if part in (b"", b".", b"..") or b"/" in part:
            raise PathInvalid("a part of the path is not a name.")
        if b"\0" in part:
            raise PathInvalid("the name contains a zero byte.")
        if len(part) > MAX_NAME_BYTES:
            raise NameTooLong
    if sum(map(len, parts)) + len(parts) > MAX_PATH_BYTES + 1:
        raise NameTooLong


@attrs.frozen
class ServerPath:
    """A path below a server's directory: its names, none for the directory itself.

    No part is empty, `.` or `..`, or contains a slash or a NUL. Making one raises `PathInvalid`
    and `NameTooLong`.
    """

    parts: tuple[bytes, ...] = attrs.field(default=(), validator=_checked)

    @classmethod
    def parse(cls, text: str) -> ServerPath:
        """Return the path that a user means, absolute or relative: `/` is the server's directory.

        `.` and empty parts are dropped, `..` removes the part before it and never leads out.
        """
        return cls().joined(text)

    @classmethod
    def from_bytes(cls, path: bytes) -> ServerPath:
        """Return the same of a path in bytes, as SFTP has it."""
        return cls(_collapsed((), path))

    def joined(self, text: str) -> ServerPath:
        """Return the path that is `text` relative to this one, even if it begins with a slash."""
        return ServerPath(_collapsed(self.parts, name_from_text(text)))

    def child(self, name: bytes) -> ServerPath:
        """Return the path of a name in this directory."""
        return ServerPath((*self.parts, name))

    @property
    def is_root(self) -> bool:
        """True for the server's directory itself."""
        return not self.parts

    @property
    def name(self) -> bytes:
        """The last name, empty for the server's directory."""
        return self.parts[-1] if self.parts else b""

    @property
    def parent(self) -> ServerPath:
        """The directory that it is in; that of the server's directory is itself."""
        above = object.__new__(ServerPath)  # whose names have been checked
        object.__setattr__(above, "parts", self.parts[:-1])
        return above

    def contains(self, other: ServerPath) -> bool:
        """Return whether the other path is this one or below it."""
        return other.parts[: len(self.parts)] == self.parts

    def __bytes__(self) -> bytes:
        return b"/".join(self.parts)

    def __str__(self) -> str:
        return name_text(bytes(self))


def _collapsed(start: Iterable[bytes], path: bytes) -> tuple[bytes, ...]:
    parts = list(start)
    for part in path.split(b"/"):
        if part == b"..":
            if parts:
                parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return tuple(parts)


_OUTSIDE = "a symlink or a mount on the way leads out of the server's files"
#: The path leads through something else than directories, or out of the root: by a symlink, which
#: is EXDEV of openat2.
_NOT_THERE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.ESTALE))
_KINDS: dict[int, type[IsDirectory | FileInUse | FileTypeRefused]] = {
    errno.EISDIR: IsDirectory,
    errno.ETXTBSY: FileInUse,
    errno.ENXIO: FileTypeRefused,  # a FIFO or a socket that is opened
}
_FULL = {
    errno.ENOSPC: "the disk is full: the server's own quota, or the disk of the node",
    errno.EDQUOT: "the disk quota is used up",
}
_NOT_PERMITTED = {
    errno.EACCES: (
        "set its permissions first, or those of the directories that it is in: the owner must be "
        "able to read and write a file, and to enter a directory as well"
    ),
    errno.EPERM: (
        "it is immutable, or belongs to a user whose files this node may not change; an "
        "administrator of the node can change that"
    ),
}


@contextmanager
def file_errors(name: bytes | ServerPath) -> Iterator[None]:
    """Raise an OSError of this context as an error of wingsd; `name` is the file's path."""
    try:
        yield
    except OSError as error:
        raise file_error(error, name) from error


def file_error(error: OSError, name: bytes | ServerPath) -> WingsdError:
    """Return the error of the operating system as one of wingsd; `name` is the file's path."""
    shown = display(bytes(name) or b"/")
    code = error.errno or 0
    if code in _NOT_THERE:
        return FileMissing(f"{shown}: {_OUTSIDE if code == errno.EXDEV else error.strerror}")
    if code == errno.ENAMETOOLONG:
        return NameTooLong()
    if kind := _KINDS.get(code):
        return kind(shown)
    if code in _FULL:
        return DiskLimitExceeded(f"{shown}: {_FULL[code]}")
    if code in _NOT_PERMITTED:
        return FileNotPermitted(f"{shown}: {_NOT_PERMITTED[code]}")
    return StorageError(f"{shown}: {disk_advice(error)}")
