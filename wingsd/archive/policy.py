"""Rules for members of archives: allowed names, types and modes, and the number of warnings.

Functions of plain values that read no disk: what a name meets there, such as a symlink, the tree
writer checks. Names are bytes, as in file systems.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from wingsd.errors import MemberRefused
from wingsd.filesystem.walk import MAX_NAME
from wingsd.util.text import display

MAX_WARNINGS = 10_000
"""The most warnings of one archive: it must not fill the disk with the node's log."""


class WarningLimiter:
    """Passes at most `MAX_WARNINGS` lines on to `write`, and counts the others."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._count = 0

    def warn(self, line: str) -> None:
        """Pass one line on."""
        self._count += 1
        if self._count <= MAX_WARNINGS:
            self._write(line)

    def finish(self) -> None:
        """Write how many more there were."""
        if self._count > MAX_WARNINGS:
            self._write(f"and {self._count - MAX_WARNINGS} more warnings")


MAX_DEPTH = 256
"""How many directories deep a member may lie."""

MAX_COMPONENT = 255
"""Bytes in one component of a name: NAME_MAX of every common Linux file system."""

MAX_LINK_TEXT = 4095
"""Bytes in a symlink's text: PATH_MAX of Linux without its NUL."""


def attributes_line(count: int, reason: str) -> str:
    """Return the line about so many files of which attributes are left out."""
    files = "1 file" if count == 1 else f"{count} files and directories"
    return f"{files} without their extended attributes and ACLs, or some of them: {reason}"


_SPECIAL = frozenset((b"", b".", b".."))


class Kind(Enum):
    """How a member is written."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARD_LINK = "hard link"
    SKIPPED = "skipped"


NO_FILE = b""
"""The type of what is neither a file nor a directory nor a link, in archives but tars."""

_KINDS = {
    **dict.fromkeys((b"\0", b"0", b"7", b"S"), Kind.FILE),
    b"1": Kind.HARD_LINK,
    b"2": Kind.SYMLINK,
    **dict.fromkeys((b"5", b"D"), Kind.DIRECTORY),
    **dict.fromkeys((b"3", b"4", b"6", b"V", NO_FILE), Kind.SKIPPED),
}

_TYPE_NAMES = {
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"V": "a volume label",
    NO_FILE: "no file",
    b"M": "part of a multi-volume archive",
}


def type_name(typeflag: bytes) -> str:
    """Return the name of a type that is not written, for messages."""
    return _TYPE_NAMES.get(typeflag) or f"of the unknown type {display(typeflag)}"


def member_path(name: bytes) -> tuple[bytes, ...]:
    """Return the components of a member's name below the root; `()` is the root itself.

    Empty and `.` components are dropped. Raises MemberRefused for an absolute name, for any
    `..`, for a NUL, for a component over 255 bytes, for more than 256 components, and for more
    than 16,384 bytes in all.
    """
    parts = tuple(name.split(b"/"))
    if not _SPECIAL.isdisjoint(parts):
        parts = _without_dots(name, parts)
    if len(parts) > MAX_DEPTH:
        raise MemberRefused(display(name), f"it is nested more than {MAX_DEPTH} directories deep")
    if len(name) > MAX_COMPONENT and max(map(len, parts), default=0) > MAX_COMPONENT:
        raise MemberRefused(
            display(name), f"a part of its name is longer than {MAX_COMPONENT} bytes"
        )
    if len(name) > MAX_NAME:
        raise MemberRefused(display(name), f"its name is longer than {MAX_NAME} bytes")
    if b"\0" in name:
        raise MemberRefused(display(name), "its name contains a NUL byte")
    return parts


def _without_dots(name: bytes, parts: tuple[bytes, ...]) -> tuple[bytes, ...]:
    if not name:
        raise MemberRefused(display(name), "it has no name")
    if name.startswith(b"/"):
        raise MemberRefused(display(name), "its name is absolute")
    if b".." in parts:
        raise MemberRefused(display(name), 'its name contains ".."')
    return tuple(part for part in parts if part not in _SPECIAL)


def member_kind(typeflag: bytes, name: bytes, size: int = 0) -> Kind:
    """Return how a member of this type is written (POSIX ustar and the GNU tar manual).

    A file whose name ends in `/` is a directory, as in archives older than POSIX. Raises
    MemberRefused for types whose content would be lost by leaving them out, and for such a
    directory with data (`size` bytes).
    """
    kind = _KINDS.get(typeflag)
    if kind is None:
        raise MemberRefused(display(name), f"it is {type_name(typeflag)}")
    if kind is Kind.FILE and typeflag in b"\x000" and name.endswith(b"/"):
        if size:
            raise MemberRefused(display(name), "it has a directory's name and a file's data")
        return Kind.DIRECTORY
    return kind


def member_mode(mode: int) -> tuple[int, bool]:
    """Return the mode a member gets, and whether set-user-id or set-group-id was removed."""
    return mode & 0o1777, bool(mode & 0o6000)


def link_text(text: bytes, name: bytes) -> bytes:
    """Return a symlink's text unchanged: it is never followed here, so any text is allowed.

    Raises MemberRefused where no file system could store it.
    """
    if not text:
        raise MemberRefused(display(name), "it is a symlink without a text")
    if b"\0" in text:
        raise MemberRefused(display(name), "its symlink text contains a NUL byte")
    if len(text) > MAX_LINK_TEXT:
        raise MemberRefused(
            display(name), f"its symlink text is longer than {MAX_LINK_TEXT} bytes"
        )
    return text
