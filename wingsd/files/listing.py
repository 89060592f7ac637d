"""Lists a directory: sorted, in pages, as plain data in the form of `FileEntry`.

At most `MAX_ENTRIES` entries with names of `MAX_NAMES` bytes are taken into account, and of the
regular files the first `SNIFFED` of an answer are looked into; the types of the others are guessed
by their names. So the work and the memory for one listing are bounded. A directory of more than
`SMALL` entries is listed only where that is asked for, so that few of them take memory at a time.
Blocking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from itertools import islice
from typing import Any, overload

import attrs

from wingsd.errors import FileWorkCancelled, WingsdError
from wingsd.files.denylist import Denylist
from wingsd.files.entries import entry_data, mime_of_entry
from wingsd.filesystem import Directory, Entry, ServerPath, ServerRoot

__all__ = [
    "MAX_ENTRIES",
    "MAX_NAMES",
    "SMALL",
    "SNIFFED",
    "DirectoryLarge",
    "FileListing",
    "Page",
    "Sort",
    "list_directory",
]

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
    """What of a directory is listed: `size` entries in this order, 0 for all; `number` from 1."""

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
        every = _Limited(directory.entries())
        # As it was given, and as where it really is when symlinks lead there.
        places = {path, root.real_path(path)} if hidden else set()
        for number, entry in enumerate(every):
            if number % _LOOK_EVERY == 0 and cancelled():
                raise FileWorkCancelled
            if small and number >= SMALL:
                raise DirectoryLarge
            if not any(_is_hidden(place.child(entry.name), entry, hidden) for place in places):
                found.append(entry)
        ordered = _ordered(found, page.sort)
        if page.size:
            begin = (page.number - 1) * page.size
            ordered = ordered[begin : begin + page.size]
        return FileListing(_Described(directory, ordered), len(found), every.is_complete)


class _Limited:
    """Entries of a directory up to the limits, and then whether these were all."""

    def __init__(self, entries: Iterator[Entry]) -> None:
        self._entries = entries
        self.is_complete = True

    def __iter__(self) -> Iterator[Entry]:
        left = MAX_NAMES
        for number, entry in enumerate(self._entries):
            name = entry.name
            left -= len(name) if name.isascii() else len(entry.text.encode())
            if number == MAX_ENTRIES or left < 0:
                self.is_complete = False
                return
            yield entry


def _is_hidden(path: ServerPath, entry: Entry, hidden: Iterable[Denylist]) -> bool:
    return any(each.denies(path, is_directory=entry.is_directory) for each in hidden)


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
        self._mimes = {each.name: _mime(directory, each) for each in looked_at}

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


def _mime(directory: Directory, entry: Entry) -> str:
    try:
        with directory.open_file(entry.name) as file:
            return mime_of_entry(entry, file)
    except WingsdError:  # it has gone, or become something else
        return mime_of_entry(entry)
