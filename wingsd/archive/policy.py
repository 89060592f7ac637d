"""Decides where a member of an archive may go, what it may be, and which warnings are kept.

Everything here is a function of plain values: no disk is looked at. Names are bytes, as file
systems have them. What the disk has to say (a symlink in the way) is the tree writer's to find.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from wingsd.archive.errors import ArchiveError
from wingsd.util.text import display

__all__ = [
    "MAX_COMPONENT",
    "MAX_DEPTH",
    "MAX_LINK_TEXT",
    "MAX_NAME",
    "MAX_NOTES",
    "Kind",
    "MemberRefused",
    "WarningLimiter",
    "display",
    "link_text",
    "member_kind",
    "member_mode",
    "member_path",
    "type_name",
]

MAX_NOTES = 10_000
"""The most notes of one archive: it must not fill the disk with the node's log."""


class WarningLimiter:
    """Passes at most `MAX_NOTES` lines on to `note`, then counts."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._count = 0

    def tell(self, line: str) -> None:
        """Pass one line on."""
        self._count += 1
        if self._count <= MAX_NOTES:
            self._note(line)

    def finish(self) -> None:
        """Tell how many more there were."""
        if self._count > MAX_NOTES:
            self._note(f"and {self._count - MAX_NOTES} more notes")


MAX_DEPTH = 256
"""How many directories deep a member may lie."""

MAX_COMPONENT = 255
"""Bytes in one component of a name: NAME_MAX of every common Linux file system."""

MAX_NAME = 1 << 14
"""Bytes in a whole name below the root, received or sent. Programs that go by paths reach a
quarter of it (PATH_MAX); without a limit, directories in directories could take all memory."""

MAX_LINK_TEXT = 4095
"""Bytes in a symlink's text: PATH_MAX of Linux without its NUL."""

_NEEDS_CARE = frozenset((b"", b".", b".."))


class MemberRefused(ArchiveError):
    """A member that may not be written, whatever the disk looks like."""

    code = "archive-member-refused"

    def __init__(self, name: bytes, why: str) -> None:
        super().__init__(f"{display(name)} is refused: {why}")


class Kind(Enum):
    """What is done with a member."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARD_LINK = "hard link"
    SKIPPED = "skipped"


_KINDS = {
    b"\0": Kind.FILE,
    b"0": Kind.FILE,
    b"7": Kind.FILE,
    b"S": Kind.FILE,
    b"1": Kind.HARD_LINK,
    b"2": Kind.SYMLINK,
    b"5": Kind.DIRECTORY,
    b"D": Kind.DIRECTORY,
    b"3": Kind.SKIPPED,
    b"4": Kind.SKIPPED,
    b"6": Kind.SKIPPED,
    b"V": Kind.SKIPPED,
}

_TYPE_NAMES = {
    b"3": "character device",
    b"4": "block device",
    b"6": "FIFO",
    b"V": "volume label",
    b"M": "part of a multi-volume archive",
}


def type_name(typeflag: bytes) -> str:
    """Return the words for a type that is not written."""
    return _TYPE_NAMES.get(typeflag) or f"of the unknown type {display(typeflag)}"


def member_path(name: bytes) -> tuple[bytes, ...]:
    """Return the components of a member's name below the root; `()` is the root itself.

    Empty and `.` components are dropped. Raises MemberRefused for an absolute name, for any
    `..`, for a NUL, for a component over 255 bytes, for more than 256 components, and for more
    than 16,384 bytes in all.
    """
    parts = tuple(name.split(b"/"))
    if not _NEEDS_CARE.isdisjoint(parts):
        parts = _without_dots(name, parts)
    if len(parts) > MAX_DEPTH:
        raise MemberRefused(name, f"it lies more than {MAX_DEPTH} directories deep")
    if len(name) > MAX_COMPONENT and max(map(len, parts), default=0) > MAX_COMPONENT:
        raise MemberRefused(name, f"a part of its name is longer than {MAX_COMPONENT} bytes")
    if len(name) > MAX_NAME:
        raise MemberRefused(name, f"its name is longer than {MAX_NAME} bytes")
    if b"\0" in name:
        raise MemberRefused(name, "its name holds a NUL byte")
    return parts


def _without_dots(name: bytes, parts: tuple[bytes, ...]) -> tuple[bytes, ...]:
    if not name:
        raise MemberRefused(name, "it has no name")
    if name.startswith(b"/"):
        raise MemberRefused(name, "its name is absolute")
    if b".." in parts:
        raise MemberRefused(name, 'its name leads upwards by ".."')
    return tuple(part for part in parts if part not in _NEEDS_CARE)


def member_kind(typeflag: bytes, name: bytes, size: int = 0) -> Kind:
    """Return what is done with a member of this type (POSIX ustar and the GNU tar manual).

    A file whose name ends in `/` is a directory: that is how archives from before POSIX wrote
    one. Raises MemberRefused for types whose content would be lost by leaving them out, and for
    such a directory with data (`size` bytes).
    """
    kind = _KINDS.get(typeflag)
    if kind is None:
        raise MemberRefused(name, f"it is {type_name(typeflag)}")
    if kind is Kind.FILE and typeflag in b"\x000" and name.endswith(b"/"):
        if size:
            raise MemberRefused(name, "it has a directory's name and a file's data")
        return Kind.DIRECTORY
    return kind


def member_mode(mode: int) -> tuple[int, bool]:
    """Return the mode a member gets, and whether set-user-id or set-group-id was taken away."""
    return mode & 0o1777, bool(mode & 0o6000)


def link_text(text: bytes, name: bytes) -> bytes:
    """Return a symlink's text as it is; nothing ever follows it here, so it may say anything.

    Raises MemberRefused where no file system could hold it.
    """
    if not text:
        raise MemberRefused(name, "it is a symlink without a text")
    if b"\0" in text:
        raise MemberRefused(name, "its symlink text holds a NUL byte")
    if len(text) > MAX_LINK_TEXT:
        raise MemberRefused(name, f"its symlink text is longer than {MAX_LINK_TEXT} bytes")
    return text
