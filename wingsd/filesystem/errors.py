"""Errors of the operating system about a server's files, as errors of wingsd.

A user can act on most of them, so their statuses are below 500: Panels show the message of those
only.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from wingsd.errors import (
    DiskLimitExceeded,
    FileInUse,
    FileMissing,
    FileNotPermitted,
    FileTypeRefused,
    IsDirectory,
    NameTooLong,
    StorageError,
    WingsdError,
)
from wingsd.filesystem.paths import ServerPath
from wingsd.util.text import disk_advice, display

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
