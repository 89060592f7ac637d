"""The past of a server, read from its history; see `wingsd.filesystem.past`.

A point is a directory with the local time at which it was made and its number, such as
`2026-11-30 14.35 (17)`. So no name becomes that of another point. An object is for one piece of
work, in the turn of the history: nothing of it may be used later but the files that it has opened,
which are copies. Blocking.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import Lock

import attrs

from wingsd.archive.quota import kept_free
from wingsd.errors import (
    DirectoryMissing,
    DiskLimitExceeded,
    FileMissing,
    FileTypeRefused,
    FileWorkCancelled,
    HistoryDamaged,
    IsDirectory,
    NoSuchPoint,
    PastInUse,
    PastUnreadable,
    StorageError,
)
from wingsd.filesystem.directory import Directory, Entry, OpenFile
from wingsd.filesystem.new_file import Owner
from wingsd.filesystem.openers import MAX_LINKS, MAX_STEPS
from wingsd.filesystem.past import Past, PastDirectoryListing, PastFile, past_directory
from wingsd.filesystem.paths import MAX_PATH_BYTES, ServerPath
from wingsd.history.format import (
    SECTOR,
    FormReader,
    PastDirectory,
    PastEntry,
    PastHardLink,
    PastLink,
    Point,
)
from wingsd.history.format import PastFile as FileOfPoint
from wingsd.history.reading import Found, PastFiles, past_files
from wingsd.history.store import HistoryStore
from wingsd.util.durable import storage_errors
from wingsd.util.text import display

_SECOND = 1_000_000_000
#: The names of a path to a point.
_TOP = 2
_OUTSIDE = "a symlink on the way leads out of the point"
#: Names of a path that are looked for at once.
_AHEAD = 64
#: Looks for the names of one path: each reads names of the whole point.
_MOST_LOOKS = 2 * MAX_LINKS
#: Bytes of the names of hard links that are in memory at a time.
_LINK_BYTES = 4 << 20
#: Paths whose entries are kept, in one piece of work.
_MOST_KNOWN = 1 << 12
#: Of the free space, the parts that copies of one server, and those of all, take together.
_OF_ONE, _OF_ALL = 10, 2


@contextmanager
def past_errors() -> Iterator[None]:
    """Raise what is wrong with a history as errors that users see."""
    try:
        with storage_errors("the server's history cannot be read"):
            yield
    except NoSuchPoint as error:
        raise FileMissing(error.detail) from error
    except StorageError as error:
        raise PastUnreadable(str(error)) from error


def point_names(points: Sequence[Point]) -> dict[bytes, Point]:
    """Return the points by the names that users see."""
    found = {}
    for point in points:
        made = time.localtime(point.time // _SECOND)
        found[time.strftime(f"%Y-%m-%d %H.%M ({point.number})", made).encode()] = point
    return found


@attrs.define(eq=False)
class OpenCopy:
    """A copy of a file of `history`: its bytes, and those that the disk has less free by it.

    These differ where it shares blocks with the history.
    """

    history: str
    size: int = 0
    taken: int = 0


class OpenCopies:
    """The copies of files of all histories that are open. Threads may use it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._copies: set[OpenCopy] = set()

    @property
    def taken(self) -> int:
        """The bytes of the disk that become free when all are closed."""
        with self._lock:
            return sum(each.taken for each in self._copies)

    def begin(self, history: str, size: int = 0, taken: int = 0) -> OpenCopy:
        """Return a copy, which counts until `end`."""
        copy = OpenCopy(history, size, taken)
        with self._lock:
            self._copies.add(copy)
        return copy

    def end(self, copy: OpenCopy) -> None:
        """Note that a copy is closed. May be called twice."""
        with self._lock:
            self._copies.discard(copy)

    def check(self, copy: OpenCopy, free: int) -> None:
        """Raise PastInUse where a copy, beside others, takes too much of the disk.

        `free` are the bytes that all of them may take. A file of any size is copied alone.
        """
        with self._lock:
            others = [each for each in self._copies if each is not copy]
        own = sum(each.size for each in others if each.history == copy.history)
        for size, part in ((own, _OF_ONE), (sum(each.size for each in others), _OF_ALL)):
            if size and size + copy.size > free // part:
                raise PastInUse


class HistoryPast(Past):
    """The past that a history has. A context.

    Files are shown as those of `owner`. Copies count in `copies`, and leave `reserve` bytes free
    on the disk, see `kept_free`. Work ends when `cancelled` says so.
    """

    def __init__(
        self,
        store: HistoryStore,
        owner: Owner,
        reserve: int,
        cancelled: Callable[[], bool],
        copies: OpenCopies,
    ) -> None:
        self._store = store
        self._owner = owner
        self._reserve = reserve
        #: What is called again and again, and may raise.
        self._checks: list[Callable[[], None]] = [
            store.check,
            partial(_check_cancelled, cancelled),
        ]
        self._copies = copies
        self._stack = ExitStack()
        self._chain: Sequence[FormReader] | None = None
        self._points: dict[bytes, Point] = {}
        self._files: dict[int, PastFiles] = {}
        self._known: dict[tuple[int, bytes], Found | None] = {}
        self._looks = 0

    def __enter__(self) -> HistoryPast:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _check(self) -> None:
        for check in self._checks:
            check()

    @contextmanager
    def _checking(self, check: Callable[[], None]) -> Iterator[None]:
        self._checks.append(check)
        try:
            yield
        finally:
            self._checks.remove(check)

    # Access

    def stat(self, path: ServerPath) -> Entry:
        """Return the entry of a path."""
        if len(path.parts) == 1:
            newest = max((point.time for point in self._named().values()), default=0)
            return past_directory(path.name, newest)
        if len(path.parts) == _TOP:
            return past_directory(path.name, self._point(path).time)
        return self._entry(self._found(path), path.name)

    def directory(self, path: ServerPath) -> Directory:
        """Return a directory, to be listed."""
        try:
            own = self.stat(path)
        except FileMissing as error:
            raise DirectoryMissing(error.detail) from error
        if not own.is_directory:
            raise DirectoryMissing(str(path))
        found: Iterator[Entry]
        if len(path.parts) == 1:
            found = (past_directory(name, each.time) for name, each in self._named().items())
        else:
            found = self._entries(path)
        return PastDirectoryListing(path, own, found)

    def _entries(self, path: ServerPath) -> Iterator[Entry]:
        files, real = self._files_of(path), b"/".join(self._real_names(path))
        with past_errors():
            inside = (Found(each, ()) for each in files.directory(real))
            for place, found in self._leading(files, real, inside):
                yield self._entry(found.entry, place.rpartition(b"/")[2])

    @staticmethod
    def _leading(
        files: PastFiles, top: bytes, entries: Iterator[Found]
    ) -> Iterator[tuple[bytes, Found]]:
        """Yield the paths of entries below a directory, and what each leads to.

        Hard links come later, many at a time: each look for their files reads all entries.
        """
        links: dict[bytes, list[bytes]] = {}
        size = 0

        def linked() -> Iterator[tuple[bytes, Found]]:
            firsts = files.all_found(links)
            for first, places in links.items():
                if first not in firsts:
                    raise FileMissing(display(first))
                yield from ((place, firsts[first]) for place in places)

        for each in entries:
            place = each.entry.path[len(top) :].strip(b"/")
            if not isinstance(each.entry, PastHardLink):
                yield place, each
                continue
            first = each.entry.first
            size += len(place) + (0 if first in links else len(first))
            links.setdefault(first, []).append(place)
            if size > _LINK_BYTES:
                yield from linked()
                links.clear()
                size = 0
        if links:
            yield from linked()

    def open_file(self, path: ServerPath) -> OpenFile:
        """Open a copy of a regular file."""
        found = self._regular(path)
        entry = self._entry(found.entry, path.name)
        copy = self._copies.begin(self._store.directory)
        with ExitStack() as failing:
            failing.callback(self._copies.end, copy)
            with past_errors():
                fd = self._store.temporary()
            failing.callback(os.close, fd)
            files = self._files_of(path)
            check = partial(self._check_space, fd, copy, os.fstatvfs(fd))
            with past_errors(), self._checking(check):
                files.write(found, fd)
                check()
            failing.pop_all()
        return PastFile(fd, entry, partial(self._copies.end, copy))

    def link_text(self, path: ServerPath) -> bytes:
        """Return the text of a symlink."""
        entry = self._found(path).entry if len(path.parts) > _TOP else None
        if not isinstance(entry, PastLink):
            raise FileTypeRefused(f"{display(bytes(path))} is not a symlink")
        return entry.target

    def real_path(self, path: ServerPath) -> ServerPath:
        """Return the path without the symlinks that lead to its directory."""
        if len(path.parts) <= _TOP:
            return path
        done, rest = self._followed(path, path.parts[_TOP:-1])
        return ServerPath((*path.parts[:_TOP], *done, *rest, path.name))

    def write(self, path: ServerPath, fd: int, cancelled: Callable[[], bool]) -> None:
        """Write a regular file to an empty one."""
        self._write(self._files_of(path), self._regular(path), cancelled, fd)

    def tree(
        self, path: ServerPath, cancelled: Callable[[], bool]
    ) -> Iterator[tuple[ServerPath, Entry, bytes, Callable[[int], None]]]:
        """Yield all that is below a directory."""
        if len(path.parts) == 1:
            for name, point in self._named().items():
                top = path.child(name)
                yield top, past_directory(name, point.time), b"", partial(self.write, top)
                yield from self.tree(top, cancelled)
            return
        files, real = self._files_of(path), b"/".join(self._real_names(path))
        with past_errors():
            for place, found in self._leading(files, real, files.below(real)):
                names, entry = place.split(b"/"), found.entry
                text = entry.target if isinstance(entry, PastLink) else b""
                write = partial(self._write, files, found, cancelled)
                yield ServerPath((*path.parts, *names)), self._entry(entry, names[-1]), text, write

    def _write(
        self, files: PastFiles, found: Found, cancelled: Callable[[], bool], fd: int
    ) -> None:
        try:
            with self._checking(partial(_check_cancelled, cancelled)):
                files.write(found, fd)
        except HistoryDamaged as error:  # errors of the disk are those of the new file
            raise PastUnreadable(str(error)) from error

    # Points

    def _named(self) -> dict[bytes, Point]:
        if self._chain is None:
            with past_errors():
                self._chain = self._store.chain()
            self._points = point_names([form.point for form in self._chain])
        return self._points

    def _point(self, path: ServerPath) -> Point:
        try:
            return self._named()[path.parts[1]]
        except KeyError:
            raise FileMissing(f"the history has no point {display(path.parts[1])}") from None

    def _files_of(self, path: ServerPath) -> PastFiles:
        number = self._point(path).number
        if number not in self._files:
            with past_errors():
                opening = past_files(self._store, number, self._check, self._chain)
                self._files[number] = self._stack.enter_context(opening)
        return self._files[number]

    # Paths in a point

    def _found(self, path: ServerPath) -> Found:
        """Return what is at a path in a point."""
        done, rest = self._followed(path, path.parts[_TOP:-1])
        found = None if rest else self._look(path, done, path.parts[-1:])
        if found is None:
            raise FileMissing(str(path))
        return found

    def _regular(self, path: ServerPath) -> Found:
        if len(path.parts) <= _TOP:
            self.stat(path)
            raise IsDirectory(display(bytes(path)))
        found = self._found(path)
        if isinstance(found.entry, PastDirectory):
            raise IsDirectory(display(bytes(path)))
        if not isinstance(found.entry, FileOfPoint):
            raise FileTypeRefused(f"{display(bytes(path))} is not a regular file")
        return found

    def _real_names(self, path: ServerPath) -> tuple[bytes, ...]:
        return self.real_path(path).parts[_TOP:]

    def _followed(
        self, path: ServerPath, names: Sequence[bytes]
    ) -> tuple[list[bytes], list[bytes]]:
        """Follow the names of directories and symlinks in the point of a path.

        Return those that it really is, and those from the first one on that is no directory.
        """
        done: list[bytes] = []
        ahead = [*reversed(names)]
        links = steps = 0
        most = self._looks + _MOST_LOOKS
        while ahead:
            steps += 1
            if steps > MAX_STEPS or links > MAX_LINKS or self._looks > most:
                raise FileMissing(f"{display(bytes(path))}: too many symlinks")
            name = ahead.pop()
            if name == b"..":
                if not done:
                    raise FileMissing(f"{display(bytes(path))}: {_OUTSIDE}")
                done.pop()
            elif name not in (b"", b"."):
                found = self._look(path, done, (name, *reversed(ahead[-_AHEAD:])))
                entry = None if found is None else found.entry
                if isinstance(entry, PastLink):
                    links += 1
                    if entry.target.startswith(b"/"):
                        raise FileMissing(f"{display(bytes(path))}: {_OUTSIDE}")
                    ahead += reversed(entry.target.split(b"/"))
                elif isinstance(entry, PastDirectory):
                    done.append(name)
                else:
                    return done, [name, *reversed(ahead)]
        return done, []

    def _look(
        self, path: ServerPath, above: Sequence[bytes], names: Sequence[bytes]
    ) -> Found | None:
        """Return what the first name leads to in a directory; look for the next ones, too."""
        number = self._point(path).number
        place = b"/".join((*above, names[0]))
        if (number, place) not in self._known:
            self._check()
            self._looks += 1
            if len(self._known) > _MOST_KNOWN:
                self._known.clear()
            wanted = [place]
            for name in names[1:]:
                if name in (b"", b".", b"..") or len(wanted[-1]) > MAX_PATH_BYTES:
                    break
                wanted.append(wanted[-1] + b"/" + name)
            files = self._files_of(path)
            with past_errors():
                found = files.all_found(wanted)
                for each in wanted:
                    first = found.get(each)
                    self._known[number, each] = first and self._first(files, first)
        return self._known[number, place]

    @staticmethod
    def _first(files: PastFiles, found: Found) -> Found:
        """Return what a further name leads to; anything else is itself meant."""
        entry = found.entry
        return files.found(entry.first) if isinstance(entry, PastHardLink) else found

    def _entry(self, found: PastEntry | Found, name: bytes) -> Entry:
        entry = found.entry if isinstance(found, Found) else found
        size = 0
        match entry:
            case FileOfPoint():
                mode, size = stat.S_IFREG | entry.mode, entry.size
            case PastLink():
                mode, size = stat.S_IFLNK | 0o777, len(entry.target)
            case PastDirectory():
                mode = stat.S_IFDIR | entry.mode
            case _:
                raise FileMissing(display(entry.path))
        when = entry.mtime
        return Entry(name, mode, size, when, when, when, 1, *self._owner, is_virtual=True)

    # Space for copies

    def _check_space(self, fd: int, copy: OpenCopy, first: os.statvfs_result) -> None:
        """Raise where a copy would take what is to stay free on its disk, which was as at `first`.

        So it does where the copies that are open would take too much together.
        """
        found = os.fstatvfs(fd)
        free = found.f_bavail * found.f_frsize
        if free < (kept := kept_free(found, self._reserve)):
            raise DiskLimitExceeded("the disk of the server's history has no space for a copy")
        copy.size = os.fstat(fd).st_blocks * SECTOR
        copy.taken = min(copy.size, max(first.f_bavail * first.f_frsize - free, 0))
        self._copies.check(copy, free - kept + self._copies.taken)


def _check_cancelled(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise FileWorkCancelled
