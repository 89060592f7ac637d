"""Files as the Panels' pages show them, with the names and forms of Go's nodes and Calagopus'.

A directory is listed sorted, in pages, as plain data. At most `MAX_ENTRIES` entries with names of
`MAX_NAMES` bytes are taken into account, and of the regular files the first `SNIFFED` of an answer
are looked into; the types of the others are guessed by their names. So the work and the memory for
one listing are bounded. A directory of more than `SMALL` entries is listed only where that is
asked for, so that few of them take memory at a time.

MIME types follow from a file's first bytes, as far as pages decide by them. Pages offer to extract
archives, and to edit everything but images, Java archives and `application/octet-stream`. So an
empty file, a script and text in any encoding are `text/plain`. Blocking.
"""

from __future__ import annotations

import stat
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from functools import lru_cache
from itertools import chain, islice
from typing import Annotated, Any, overload

import attrs

from wingsd.errors import FileWorkCancelled, WingsdError
from wingsd.files.denylist import Denylist
from wingsd.filesystem.directory import Directory, Entry, OpenFile
from wingsd.filesystem.paths import ServerPath, name_text
from wingsd.filesystem.root import ServerRoot
from wingsd.util.serialization import Keywords

#: Bytes that are looked at: with the magic of tar, which is the farthest from the start.
HEAD = 512
DIRECTORY = "inode/directory"
TEXT = "text/plain; charset=utf-8"
BINARY = "application/octet-stream"

_MAGICS = (
    (b"\x1f\x8b", "application/gzip"),
    (b"BZh", "application/x-bzip2"),
    (b"\xfd7zXZ\0", "application/x-xz"),
    (b"\x28\xb5\x2f\xfd", "application/zstd"),
    (b"\x04\x22\x4d\x18", "application/x-lz4"),
    (b"LZIP", "application/x-lzip"),
    (b"\xff\x06\x00\x00sNaPpY", "application/x-sz"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"Rar!\x1a\x07", "application/x-rar-compressed"),
    (b"PK\x05\x06", "application/zip"),
    (b"PK\x07\x08", "application/zip"),
    (b"%PDF-", "application/pdf"),
    (b"SQLite format 3\0", "application/vnd.sqlite3"),
    (b"\x7fELF", "application/x-elf"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"\0\0\1\0", "image/x-icon"),
    (b"OggS", "audio/ogg"),
    (b"fLaC", "audio/flac"),
    (b"ID3", "audio/mpeg"),
    (b"\x1a\x45\xdf\xa3", "video/webm"),
)
#: By the four bytes behind `RIFF` and a length, and behind a length and `ftyp`.
_RIFF = {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo"}
_FTYP = {b"avif": "image/avif", b"heic": "image/heic", b"mp42": "video/mp4", b"isom": "video/mp4"}
_ZIP, _ZIP_NAME = b"PK\x03\x04", 30
_TAR, _TAR_AT = b"ustar", 257
_SVG = (b"<svg", b"<?xml")
#: Bytes that no text in ASCII or a superset of it has (WHATWG MIME Sniffing, section 3).
_NO_TEXT = bytes({*range(0x20)} - {*b"\t\n\x0b\x0c\r\x1b\x08"})
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")

#: By the end of the name, for files that are not looked into.
_BY_NAME = {
    **dict.fromkeys((".gz", ".tgz"), "application/gzip"),
    **dict.fromkeys((".bz2", ".tbz2"), "application/x-bzip2"),
    **dict.fromkeys((".xz", ".txz"), "application/x-xz"),
    ".zst": "application/zstd",
    ".tar": "application/x-tar",
    ".zip": "application/zip",
    ".jar": "application/jar",
    ".rar": "application/x-rar-compressed",
    ".7z": "application/x-7z-compressed",
    ".png": "image/png",
    **dict.fromkeys((".jpg", ".jpeg"), "image/jpeg"),
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".svg": "image/svg+xml",
    **dict.fromkeys(
        (
            *(".bat", ".cfg", ".cnf", ".conf", ".css", ".csv", ".html", ".ini", ".java", ".js"),
            *(".json", ".json5", ".lang", ".log", ".lua", ".md", ".mcfunction", ".mcmeta"),
            *(".php", ".properties", ".py", ".rb", ".sh", ".sk", ".sql", ".toml", ".ts", ".txt"),
            *(".vdf", ".xml", ".yaml", ".yml"),
        ),
        TEXT,
    ),
}


def mime_of(head: bytes) -> str:
    """Return the type of a file that begins with these bytes, `HEAD` of them if it has as many."""
    if head.startswith(_ZIP):
        is_jar = head[_ZIP_NAME:].startswith(b"META-INF/")
        return "application/jar" if is_jar else "application/zip"
    for magic, mime in _MAGICS:
        if head.startswith(magic):
            return mime
    is_text = head.startswith(_UTF_16) or len(head.translate(None, _NO_TEXT)) == len(head)
    return _container_type(head) or (TEXT if is_text else BINARY)


def _container_type(head: bytes) -> str | None:
    """Return the type of a file whose magic is not at its start."""
    if head[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR:
        return "application/x-tar"
    if head.startswith(b"RIFF"):
        return _RIFF.get(head[8:12])
    if head[4:8] == b"ftyp":
        return _FTYP.get(head[8:12], "video/mp4")
    if head.lstrip().startswith(_SVG) and b"<svg" in head:
        return "image/svg+xml"
    return None


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
    virtual: Annotated[bool, "Whether it is not on the disk: a file of the past (Calagopus)."]


def entry_data(entry: Entry, mime: str, name: str | None = None) -> dict[str, Any]:
    """Return a file in the form of `FileEntry`, as plain data: a directory may have 100,000.

    `name` stands in place of the file's own.
    """
    permissions = entry.mode & 0o777
    text = mime == TEXT or mime.endswith("+xml")
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
        "virtual": entry.is_virtual,
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


def mime_of_entry(entry: Entry, file: OpenFile | None = None) -> str:
    """Return the type of an entry: of a regular file by its bytes, by its name when not open."""
    if entry.is_directory:
        return DIRECTORY
    if not entry.is_regular:
        return BINARY
    if not entry.size:
        return TEXT
    if file is None:
        _, dot, extension = entry.name.rpartition(b".")
        return _BY_NAME.get((dot + extension).decode("latin-1").lower(), BINARY)
    try:
        return mime_of(file.read_at(0, HEAD))
    except OSError:
        return BINARY


#: Entries of a directory that are taken into account.
MAX_ENTRIES = 100_000
#: Entries of a directory that is listed beside others.
SMALL = 5000
#: Bytes of their names, as an answer has them: a byte that is not UTF-8 takes four.
MAX_NAMES = 16 << 20
#: Regular files of one answer whose first bytes are read: more than a page of a Panel shows.
SNIFFED = 500
#: Entries between two looks whether the client is still there.
_LOOK_EVERY = 1000


class DirectoryLarge(Exception):
    """A directory has more entries than were to be listed."""


class Sort(Enum):
    """The orders of Calagopus' Panel. Directories always come first."""

    NAME_ASC = "name_asc"
    NAME_DESC = "name_desc"
    SIZE_ASC = "size_asc"
    SIZE_DESC = "size_desc"
    PHYSICAL_SIZE_ASC = "physical_size_asc"
    PHYSICAL_SIZE_DESC = "physical_size_desc"
    MODIFIED_ASC = "modified_asc"
    MODIFIED_DESC = "modified_desc"
    CREATED_ASC = "created_asc"
    CREATED_DESC = "created_desc"


_KEYS: dict[str, Callable[[Entry], Any]] = {
    "name": lambda entry: entry.name,
    "size": lambda entry: entry.size,
    "physical_size": lambda entry: entry.allocated,
    "modified": lambda entry: entry.modified,
    "created": lambda entry: entry.changed,
}


@attrs.frozen
class Page:
    """A page of a directory: `size` entries in this order, 0 for all; `number` from 1."""

    number: int = 1
    size: int = 0
    sort: Sort = Sort.NAME_ASC


@attrs.frozen
class FileListing:
    """A page of a directory; `total` counts the entries of all pages.

    `is_complete` is False where the directory has more than `MAX_ENTRIES` or `MAX_NAMES`.
    """

    entries: Sequence[dict[str, Any]]
    total: int
    is_complete: bool


def list_directory(
    root: ServerRoot,
    path: ServerPath,
    page: Page,
    hidden: Sequence[Denylist],
    cancelled: Callable[[], bool],
    *,
    small: bool = False,
) -> FileListing:
    """List a directory without the entries that one of `hidden` denies.

    Raises DirectoryMissing, StorageError, FileWorkCancelled, and with `small` DirectoryLarge.
    """
    with root.directory(path) as directory:
        found: list[Entry] = []
        left, is_complete = MAX_NAMES, True
        # As it was given, and as where it really is when symlinks lead there.
        places = {*root.places(path)} if hidden else set()
        past = root.past_entry() if path.is_root else None
        for number, entry in enumerate(chain(directory.entries(), filter(None, (past,)))):
            name = entry.name
            left -= len(name) if name.isascii() else len(entry.text.encode())
            if number == MAX_ENTRIES or left < 0:
                is_complete = False
                break
            if number % _LOOK_EVERY == 0 and cancelled():
                raise FileWorkCancelled
            if small and number >= SMALL:
                raise DirectoryLarge
            if not any(
                each.denies(place.child(name), is_directory=entry.is_directory)
                for place in places
                for each in hidden
            ):
                found.append(entry)
        ordered = _ordered(found, page.sort)
        if page.size:
            begin = (page.number - 1) * page.size
            ordered = ordered[begin : begin + page.size]
        return FileListing(_Described(directory, ordered), len(found), is_complete)


def _ordered(entries: list[Entry], sort: Sort) -> list[Entry]:
    key, _, direction = sort.value.rpartition("_")
    # By name first, so that equal sizes and times have an order.
    entries.sort(key=_KEYS["name"])
    if sort is not Sort.NAME_ASC:
        entries.sort(key=_KEYS[key], reverse=direction == "desc")
    return sorted(entries, key=lambda entry: not entry.is_directory)


class _Described(Sequence[dict[str, Any]]):
    """Entries as plain data, which is made when it is used: it takes three times the memory."""

    def __init__(self, directory: Directory, entries: Sequence[Entry]) -> None:
        self._entries = entries
        looked_at = islice((each for each in entries if each.is_regular and each.size), SNIFFED)
        self._mimes = {each.name: mime_in(directory, each) for each in looked_at}

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, at: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, at: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, at: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(at, slice):
            return [self._data(entry) for entry in self._entries[at]]
        return self._data(self._entries[at])

    def _data(self, entry: Entry) -> dict[str, Any]:
        return entry_data(entry, self._mimes.get(entry.name) or mime_of_entry(entry))


def mime_in(directory: Directory, entry: Entry) -> str:
    """Return the type of an entry of an open directory: of a regular file by its bytes."""
    if entry.is_regular and entry.size:
        # Unless it has gone, or become something else.
        with suppress(WingsdError), directory.open_file(entry.name) as file:
            return mime_of_entry(entry, file)
    return mime_of_entry(entry)
