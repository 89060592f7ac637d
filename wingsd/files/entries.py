"""A file as the Panels' pages show it, with the names and forms of Go's nodes and Calagopus'."""

from __future__ import annotations

import stat
import time
from functools import lru_cache
from typing import Annotated, Any

import attrs

from wingsd.files.mime import BINARY, DIRECTORY, HEAD, TEXT, is_text, mime_by_name, mime_of
from wingsd.filesystem import Entry, OpenFile, name_text
from wingsd.util.serialization import Keywords

__all__ = ["FileEntry", "entry_data", "head_of", "mime_of_entry", "mode_text", "time_text"]

Time = Annotated[str, Keywords(format="date-time")]
Bytes = Annotated[int, Keywords(minimum=0)]


@attrs.frozen(repr=False)
class FileEntry:
    """A file, a directory, or a symlink, which is not followed."""

    name: Annotated[str, "The name; of a result of a search, the path."]
    created: Annotated[Time, "When the inode was last changed (ctime)."]
    modified: Time
    mode: Annotated[str, "As Go writes it: `-rw-r--r--`, `drwxr-xr-x`, `Lrwxrwxrwx`."]
    mode_bits: Annotated[str, "The permission bits in octal."]
    size: Annotated[Bytes, "Of a symlink its own."]
    directory: bool
    file: Annotated[bool, "Whether it is anything but a directory."]
    symlink: bool
    mime: str
    size_physical: Annotated[Bytes, "The bytes that it takes on the disk (Calagopus)."]
    editable: Annotated[bool, "Whether it is text (Calagopus)."]
    inner_editable: Annotated[bool, "The same (Calagopus)."]
    virtual: Annotated[bool, "Whether it is not on the disk, which no file is (Calagopus)."]


def entry_data(entry: Entry, mime: str, name: str | None = None) -> dict[str, Any]:
    """Return a file in the form of `FileEntry`, as plain data: a directory may have 100,000.

    `name` stands in place of the file's own.
    """
    permissions = entry.mode & 0o777
    text = is_text(mime)
    is_directory = entry.is_directory
    return {
        "name": name_text(entry.name) if name is None else name,
        "created": time_text(entry.changed),
        "modified": time_text(entry.modified),
        "mode": mode_text(entry.mode),
        "mode_bits": f"{permissions:o}",
        "size": entry.size,
        "directory": is_directory,
        "file": not is_directory,
        "symlink": entry.is_symlink,
        "mime": mime,
        "size_physical": entry.allocated,
        "editable": text,
        "inner_editable": text,
        "virtual": False,
    }


#: Go's letters of the kind of a file, before and behind those of its set-id bits.
_KINDS = {
    stat.S_IFDIR: ("d", ""),
    stat.S_IFLNK: ("L", ""),
    stat.S_IFBLK: ("D", ""),
    stat.S_IFCHR: ("D", "c"),
    stat.S_IFIFO: ("p", ""),
    stat.S_IFSOCK: ("S", ""),
}
_SPECIAL = ((stat.S_ISUID, "u"), (stat.S_ISGID, "g"))
_PERMISSIONS = tuple(
    "".join(letter if bits >> (8 - at) & 1 else "-" for at, letter in enumerate("rwxrwxrwx"))
    for bits in range(0o1000)
)


@lru_cache(maxsize=1024)
def mode_text(mode: int) -> str:
    """Return the mode of a stat result as Go's `FileMode.String` does: `-rw-r--r--`."""
    letters, last = _KINDS.get(stat.S_IFMT(mode), ("", ""))
    if mode & 0o6000:
        letters += "".join(letter for bit, letter in _SPECIAL if mode & bit)
    if mode & stat.S_ISVTX:
        last += "t"
    return (letters + last or "-") + _PERMISSIONS[mode & 0o777]


_NANO = 1_000_000_000
#: The years that RFC 3339 can write: 1 to 9999.
_FIRST, _LAST = -62_135_596_800, 253_402_300_799


def time_text(nanoseconds: int) -> str:
    """Return nanoseconds since 1970 as RFC 3339 in UTC, with as much of a fraction as there is."""
    seconds, rest = divmod(nanoseconds, _NANO)
    if not _FIRST <= seconds <= _LAST:
        seconds, rest = min(max(seconds, _FIRST), _LAST), 0
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{_second_text(seconds)}{fraction}Z"


@lru_cache(maxsize=1024)  # many files of a directory are written within a second
def _second_text(seconds: int) -> str:
    year, month, day, hour, minute, second, *_ = time.gmtime(seconds)
    return f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}"


def head_of(file: OpenFile) -> bytes:
    """Return the bytes by which the type of an open file is told. Raises OSError."""
    return file.read_at(0, HEAD)


def mime_of_entry(entry: Entry, file: OpenFile | None = None) -> str:
    """Return the type of an entry: of a regular file by its bytes, by its name when not open."""
    if entry.is_directory:
        return DIRECTORY
    if not entry.is_regular:
        return BINARY
    if not entry.size:
        return TEXT
    if file is None:
        return mime_by_name(entry.name)
    try:
        return mime_of(head_of(file))
    except OSError:
        return BINARY
