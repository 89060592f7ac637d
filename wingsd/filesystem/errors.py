"""Errors of a server's files, with the messages of Wings, and OS errors translated to them.

A user can act on most of them, so their statuses are below 500: Panels show the message of those
only.
"""

from __future__ import annotations

import errno

from wingsd.errors import (
    BadRequest,
    Conflict,
    DiskLimitExceeded,
    Forbidden,
    StorageError,
    WingsdError,
)
from wingsd.util.text import disk_advice, display

__all__ = [
    "DirectoryMissing",
    "FileDenied",
    "FileInUse",
    "FileMissing",
    "FileNotPermitted",
    "FileTooLarge",
    "FileTypeRefused",
    "FileWorkCancelled",
    "IsDirectory",
    "NameConflict",
    "NameTooLong",
    "NotDirectory",
    "PathInvalid",
    "TreeTooLarge",
    "file_error",
]


class PathInvalid(BadRequest):
    """No file can have this path, or the action cannot be done with the file that has it (400)."""

    code = "file-path-invalid"


class NameTooLong(BadRequest):
    """A component of the path, or the whole path, is longer than Linux allows (400).

    In an archive that is extracted, a path is also one of too many directories.
    """

    code = "file-name-too-long"

    def __init__(self, detail: str = "") -> None:
        super().__init__("Cannot perform that action: file name is too long.", detail)


class FileTypeRefused(BadRequest):
    """It is a symlink, a FIFO, a socket or a device (400)."""

    code = "file-type-refused"

    def __init__(self, detail: str = "") -> None:
        super().__init__("Cannot open files of this type.", detail)


class FileInUse(BadRequest):
    """A program has a lease of the file, or runs it (400)."""

    code = "file-in-use"

    def __init__(self, detail: str = "") -> None:
        super().__init__("Cannot perform that action: file is in use.", detail)


class IsDirectory(BadRequest):
    """A file is required, and this is a directory (400)."""

    code = "file-is-directory"

    def __init__(self, detail: str = "") -> None:
        super().__init__("Cannot perform that action: file is a directory.", detail)


class NotDirectory(BadRequest):
    """A directory cannot be made, since its path leads through a file (400)."""

    code = "file-not-directory"

    def __init__(self, detail: str = "") -> None:
        super().__init__("Part of the path being created is not a directory (ENOTDIR).", detail)


class FileTooLarge(WingsdError):
    """The file is larger than the Panel wants it (413)."""

    code = "file-too-large"
    status = 413

    def __init__(self, size: int) -> None:
        super().__init__("file size exceeds maximum allowed size", f"it has {size} bytes")


class NameConflict(BadRequest):
    """The name is in use (400). Wings has a message for each action."""

    code = "file-name-conflict"

    @classmethod
    def renaming(cls, detail: str) -> NameConflict:
        """Return the error of a rename to a name in use."""
        return cls("Cannot move or rename file, destination already exists.", detail)

    @classmethod
    def writing(cls, detail: str) -> NameConflict:
        """Return the error of a file with the name of a directory."""
        return cls(
            "Cannot write file, name conflicts with an existing directory by the same name.",
            detail,
        )

    @classmethod
    def creating(cls, detail: str) -> NameConflict:
        """Return the error of a directory with the name of a file (Pelican's message)."""
        return cls(
            "Cannot create directory, name conflicts with an existing file by the same name.",
            detail,
        )


class FileDenied(Forbidden):
    """The egg's denylist has the file (403)."""

    code = "file-denied"

    def __init__(self, detail: str = "") -> None:
        super().__init__("This file cannot be modified: present in egg denylist.", detail)


class FileNotPermitted(Forbidden):
    """The operating system does not let the node do this with the file (403).

    It happens to a daemon without root: users take permissions away by chmod, also from a server's
    program, and that may run as another user.
    """

    code = "file-not-permitted"

    def __init__(self, detail: str) -> None:
        super().__init__("Cannot perform that action: permission denied.", detail)


class FileMissing(WingsdError):
    """The file does not exist, or its path leads out of the server's directory (404)."""

    code = "file-missing"
    status = 404

    def __init__(self, detail: str = "") -> None:
        super().__init__("The requested resources was not found on the system.", detail)


class DirectoryMissing(WingsdError):
    """The directory does not exist, or is something else (404)."""

    code = "directory-missing"
    status = 404

    def __init__(self, detail: str = "") -> None:
        super().__init__("The requested directory does not exist.", detail)


class FileWorkCancelled(Conflict):
    """Work on files was cancelled before its end (409)."""

    code = "file-work-cancelled"

    def __init__(self) -> None:
        super().__init__("the work on the server's files was cancelled")


class TreeTooLarge(StorageError):
    """The files are nested too deeply, or too many in some way, to be counted or sent (400)."""

    code = "tree-too-large"
    status = 400


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


def file_error(error: OSError, name: bytes) -> WingsdError:
    """Return the error of the operating system as one of wingsd; `name` is the file's path."""
    shown = display(name or b"/")
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
