"""Searches a server's files: by name (Pelican), and by path, size and content (Calagopus).

Each search is bounded: in depth, in the entries that it looks at, in its results and in its time.
What was found until then is the answer. No symlink is followed. Calagopus' Panel finds out what
files are by their fingerprints. Blocking.
"""

from __future__ import annotations

import hashlib
import re
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from enum import Enum
from typing import Any

import attrs

from wingsd.errors import FileWorkCancelled, NameTooLong, WingsdError
from wingsd.files.denylist import Denylist
from wingsd.files.entries import entry_data, mime_in, mime_of_entry
from wingsd.filesystem.directory import Directory, Entry, OpenFile
from wingsd.filesystem.past import Past, PastDirectoryListing
from wingsd.filesystem.paths import MAX_PATH_BYTES, ServerPath
from wingsd.filesystem.root import ServerRoot

#: Results of one search. Pages of a Panel show a list without end, and a user narrows it down.
MAX_RESULTS = 1000
#: Directories that wait to be searched; further ones are not.
MAX_WAITING = 1 << 16
#: Bytes of a file that are searched at a time.
_PIECE = 256 << 10
#: The first bytes of a file that must be UTF-8 for it to be searched.
_TEXT_HEAD = 128
_WILD = {"*": ".*", "?": "."}


@attrs.frozen(repr=False)
class SearchLimits:
    """`depth` is that of directories below the first; `skipped` are names of directories.

    `seconds` is less than a Panel waits: 2 minutes.
    """

    depth: int = 8
    entries: int = 1_000_000
    results: int = MAX_RESULTS
    seconds: float = 100.0
    skipped: frozenset[bytes] = frozenset()


def name_matcher(pattern: str) -> Callable[[str], bool]:
    """Return what tells whether a name matches, case aside: a glob, or a part of the name.

    An extension, with or without its dot, is a part of the name as well.
    """
    wanted = pattern.lower()
    if "*" not in wanted and "?" not in wanted:
        return lambda name: wanted in name.lower()
    import re2  # noqa: PLC0415 (2 MiB; see denylist)

    glob = "".join(_WILD.get(each) or re.escape(each) for each in wanted)
    options = re2.Options()
    options.dot_nl = True
    options.log_errors = False
    compiled = re2.compile(glob, options)
    return lambda name: compiled.fullmatch(name.lower()) is not None


@attrs.frozen(repr=False)
class ContentFilter:
    """A text that files contain; of files of more than `most` bytes none does.

    With `others`, those larger files are results as well.
    """

    text: bytes
    most: int
    others: bool = False
    ignore_case: bool = False


@attrs.frozen(repr=False)
class FileFilter:
    """Conditions for regular files: their paths below the start, size and content.

    `included` and `excluded` are patterns as in gitignore; no `included` is all. Paths are
    compared in lower case with `ignore_case`. `sizes` are bytes.
    """

    included: Denylist = attrs.field(factory=Denylist)
    excluded: Denylist = attrs.field(factory=Denylist)
    ignore_case: bool = False
    sizes: range | None = None
    content: ContentFilter | None = None
    #: A part of the path, which is a result whatever its content is (Calagopus' form of 2025).
    part: str = ""

    def takes(self, path: str, size: int) -> bool:
        """Return whether a file may be a result as far as its path and its size say."""
        compared = ServerPath.parse(path)
        if self.ignore_case:
            with suppress(NameTooLong):  # some letters take more bytes in lower case
                compared = ServerPath.parse(path.lower())
        if self.sizes is not None and size not in self.sizes:
            return False
        if not self.included.is_empty and not self.included.denies(compared):
            return False
        return not self.excluded.denies(compared)


@attrs.define(eq=False)
class Search:
    """A search below the directory `start`, parents before their children, within limits.

    Results have their paths below `start` as names. Methods raise DirectoryMissing for `start`
    alone, and FileWorkCancelled.
    """

    _root: ServerRoot
    _start: ServerPath
    _limits: SearchLimits
    _cancelled: Callable[[], bool]
    _left: int = attrs.field(init=False)
    _end: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._left, self._end = self._limits.entries, time.monotonic() + self._limits.seconds

    def by_name(self, matches: Callable[[str], bool]) -> list[dict[str, Any]]:
        """Return the files and directories with such a name; see `name_matcher`."""
        found: list[dict[str, Any]] = []
        for directory, entry in self._entries():
            if matches(entry.text):
                if len(found) == self._limits.results:
                    break
                path = self._below(directory.path.child(entry.name))
                found.append(entry_data(entry, mime_in(directory, entry), path))
        return found

    def by_content(self, wanted: FileFilter, hidden: Iterable[Denylist]) -> list[dict[str, Any]]:
        """Return the regular files that a filter takes and `hidden` does not deny."""
        found: list[dict[str, Any]] = []
        starts = self._root.places(self._start)
        for directory, entry in self._entries():
            path = directory.path.child(entry.name)
            name = self._below(path)
            if not entry.is_regular:
                continue
            below = path.parts[len(self._start.parts) :]
            places = {ServerPath((*each.parts, *below)) for each in starts}
            if any(each.denies(place) for each in hidden for place in places):
                continue
            if wanted.takes(name, entry.size):
                mime = self._matching_mime(directory, entry, name, wanted)
                if mime:
                    found.append(entry_data(entry, mime, name))
            if len(found) == self._limits.results:
                break
        return found

    def _below(self, path: ServerPath) -> str:
        return str(ServerPath(path.parts[len(self._start.parts) :]))

    def _matching_mime(
        self, directory: Directory, entry: Entry, name: str, wanted: FileFilter
    ) -> str:
        """Return the type of a file whose content matches; empty where it does not."""
        content = wanted.content
        if content is None or (wanted.part and wanted.part in name):
            return "" if wanted.part and wanted.part not in name else mime_in(directory, entry)
        if entry.size > content.most:
            return mime_in(directory, entry) if content.others else ""
        try:
            with directory.open_file(entry.name) as file:
                if self._contains(file, content):
                    return mime_of_entry(entry, file)
        except (WingsdError, OSError) as error:
            if isinstance(error, FileWorkCancelled):
                raise
        return ""

    def _contains(self, file: OpenFile, content: ContentFilter) -> bool:
        """Return whether a file is text that contains the one that is searched for."""
        text = content.text.lower() if content.ignore_case else content.text
        try:
            file.read_at(0, _TEXT_HEAD).decode()
        except UnicodeDecodeError as error:
            if error.end < _TEXT_HEAD - 3:  # else a character is cut
                return False
        at, kept = 0, b""
        while at < content.most and self._may_go_on():
            piece = file.read_at(at, min(_PIECE, content.most - at))
            at += len(piece)
            if content.ignore_case:
                piece = piece.lower()
            if text in kept + piece:
                return True
            if not piece:
                break
            kept = (kept + piece)[-(len(text) - 1) :] if len(text) > 1 else b""
        return not text

    def _entries(self) -> Iterator[tuple[Directory, Entry]]:
        """Yield each entry with its open directory.

        Those with a path that is too long for `ServerPath` are left out.
        """
        past = self._root.past_of(self._start)
        return self._walked() if past is None else self._entries_of(past)

    def _walked(self) -> Iterator[tuple[Directory, Entry]]:
        waiting = [(self._start, 0)]
        while waiting and self._may_go_on():
            path, depth = waiting.pop()
            try:
                directory = self._root.directory(path)
            except WingsdError:
                if path == self._start:
                    raise
                continue  # it has gone, or become something else
            longest = MAX_PATH_BYTES - len(bytes(path)) - 1
            with directory:
                for entry in directory.entries():
                    self._left -= 1
                    if not self._may_go_on():
                        return
                    if len(entry.name) > longest:
                        continue
                    if entry.is_directory:
                        if entry.name.lower() in self._limits.skipped:
                            continue
                        if depth < self._limits.depth and len(waiting) < MAX_WAITING:
                            waiting.append((path.child(entry.name), depth + 1))
                    yield directory, entry

    def _entries_of(self, past: Past) -> Iterator[tuple[Directory, Entry]]:
        """Yield the same of the past, by one look at all that is below the start."""
        start, skipped = self._start, self._limits.skipped
        top = past.directory(start).own_entry()
        for path, entry, *_ in past.tree(start, self._cancelled):
            self._left -= 1
            if not self._may_go_on():
                return
            names = path.parts[len(start.parts) :]
            above = names if entry.is_directory else names[:-1]
            is_wanted = skipped.isdisjoint(map(bytes.lower, above))
            if is_wanted and len(names) <= self._limits.depth + 1:
                yield PastDirectoryListing(path.parent, top, iter(())), entry

    def _may_go_on(self) -> bool:
        """Return whether the limits allow more. Raises FileWorkCancelled."""
        if self._cancelled():
            raise FileWorkCancelled
        return self._left >= 0 and time.monotonic() < self._end


#: Bytes read at a time; what is searched or hashed may be cancelled between two of them.
_HASHED = 1 << 20


class Algorithm(Enum):
    """The algorithms of Calagopus' nodes."""

    MD5 = "md5"
    CRC32 = "crc32"
    SHA1 = "sha1"
    SHA224 = "sha224"
    SHA256 = "sha256"
    SHA384 = "sha384"
    SHA512 = "sha512"
    CURSEFORGE = "curseforge"


def fingerprint(file: OpenFile, algorithm: Algorithm, cancelled: Callable[[], bool]) -> str:
    """Return a file's fingerprint: in hexadecimal, CurseForge's in decimal.

    Raises OSError and FileWorkCancelled.
    """
    if algorithm is Algorithm.CRC32:
        checksum = 0
        for piece in _pieces(file, cancelled):
            checksum = zlib.crc32(piece, checksum)
        return f"{checksum:x}"
    if algorithm is Algorithm.CURSEFORGE:
        return str(_murmur2(file, cancelled))
    digest = hashlib.new(algorithm.value, usedforsecurity=False)
    for piece in _pieces(file, cancelled):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(file: OpenFile, cancelled: Callable[[], bool]) -> Iterator[bytes]:
    at = 0
    while piece := file.read_at(at, _HASHED):
        if cancelled():
            raise FileWorkCancelled
        at += len(piece)
        yield piece


_MULTIPLIER = 0x5BD1E995
_MASK = 0xFFFFFFFF
_WHITESPACE = b"\t\n\r "
_SEED = 1


def _murmur2(file: OpenFile, cancelled: Callable[[], bool]) -> int:
    """Return MurmurHash2, with the seed 1, of the bytes that are not whitespace.

    The length comes first in it, so the file is read twice.
    """
    size = sum(len(piece.translate(None, _WHITESPACE)) for piece in _pieces(file, cancelled))
    value = _SEED ^ (size & _MASK)
    rest = b""
    for piece in _pieces(file, cancelled):
        rest += piece.translate(None, _WHITESPACE)
        whole = len(rest) // 4 * 4
        for (word,) in struct.iter_unpack("<I", rest[:whole]):
            mixed = word * _MULTIPLIER & _MASK
            mixed = (mixed ^ mixed >> 24) * _MULTIPLIER & _MASK
            value = value * _MULTIPLIER & _MASK ^ mixed
        rest = rest[whole:]
    if rest:
        value = (value ^ int.from_bytes(rest, "little")) * _MULTIPLIER & _MASK
    value = (value ^ value >> 13) * _MULTIPLIER & _MASK
    return value ^ value >> 15
