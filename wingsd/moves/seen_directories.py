"""A digest of each directory that a walk has seen: by it the next walk tells which are the same.

It has the directory's own mode and times, all names in it, and the stat results of what is no
directory, but for the time of the last access. Of a symlink these tell its target only if it was
not made just now: in one step of a coarse clock another one may get its inode.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from hashlib import blake2b
from struct import Struct

from attrs import frozen

from wingsd.filesystem.open_directories import Path
from wingsd.filesystem.walk import VANISHED, Listing, gone, unreadable, walk

__all__ = [
    "MOST",
    "FoundBeside",
    "SeenDirectories",
    "StatResults",
    "WalkFrame",
    "frames_in",
    "stat_results",
]

MOST = 100_000
"""Directories that are remembered, in about 20 MiB."""

StatResults = Sequence[tuple[bytes, os.stat_result]]
"""Names in a directory, each with its stat result."""

_DIRECTORY = Struct("<IQq")
_ENTRY = Struct("<QQqQqIIIQ")
#: Times after 2262 need more than 63 bits.
_WORD = (1 << 64) - 1
_DIGEST = 16


#: Bytes of the path, the names of files and those of directories; whether a file has several
#: names; and the digest.
_FRAME = Struct("<III?16s")


@frozen(eq=False, repr=False)
class WalkFrame:
    """A directory that was looked at: its digest in `SeenDirectories`, and what is in it."""

    path: bytes
    digest: bytes
    is_linked: bool
    files: Sequence[bytes]
    directories: Sequence[bytes]

    def encode(self) -> bytes:
        """Return it as bytes."""
        texts = (self.path, b"\0".join(self.files), b"\0".join(self.directories))
        return _FRAME.pack(*map(len, texts), self.is_linked, self.digest) + b"".join(texts)


def frames_in(buffer: bytearray) -> Iterator[tuple[WalkFrame, int]]:
    """Take what is whole from the beginning of a buffer; yield frames with their lengths."""
    at = 0
    while len(buffer) - at >= _FRAME.size:
        *lengths, is_linked, digest = _FRAME.unpack_from(buffer, at)
        begin, end = at + _FRAME.size, at + _FRAME.size + sum(lengths)
        if end > len(buffer):
            break
        files, directories = begin + lengths[0], end - lengths[2]
        yield (
            WalkFrame(
                bytes(buffer[begin:files]),
                digest,
                is_linked,
                _names(buffer[files:directories]),
                _names(buffer[directories:end]),
            ),
            end - at,
        )
        at = end
    del buffer[:at]


def _names(text: bytearray) -> list[bytes]:
    return bytes(text).split(b"\0") if text else []


FoundBeside = Callable[[bytes], WalkFrame | None]
"""Returns a directory, by its path, that another process has looked at."""


class SeenDirectories:
    """The digests of all directories below one, by their paths.

    `is_settled` returns whether an entry has another stat result if it is changed from now on.
    """

    def __init__(self, is_settled: Callable[[os.stat_result], bool] = lambda found: True) -> None:
        #: Whether none was left out: of more than `MOST` some are.
        self.is_whole = True
        #: How many names there are but those of directories.
        self.names = 0
        #: How many directories, or listings of them, were looked at, also by `is_all_of`.
        self.steps = 0
        self._digests: dict[bytes, bytes] = {}
        self._noted: set[bytes] = set()
        #: Directories with files that have several names.
        self._linked: set[bytes] = set()
        self._is_settled = is_settled

    def __iter__(self) -> Iterator[bytes]:
        """Yield the paths as they are sorted in the walk."""
        return iter(self._digests)

    def has(self, path: bytes) -> bool:
        """Return whether there is such a directory."""
        return path in self._digests

    def add(self, path: bytes, listing: Listing, entries: StatResults) -> None:
        """Add a directory, or the next listing of one with many names."""
        self.steps += 1
        if len(self._digests) >= MOST and path not in self._digests:
            self.is_whole = False
            return
        found, pack = listing.stat, _ENTRY.pack
        parts = [
            self._digests.get(path, b""),
            _DIRECTORY.pack(found.st_mode, found.st_mtime_ns & _WORD, found.st_ctime_ns),
        ]
        for name, each in entries:
            if each.st_nlink > 1:
                self._linked.add(path)
            if stat.S_ISLNK(each.st_mode) and not self._is_settled(each):
                self._noted.add(path)
            # a name has no NUL, and what follows it has always the same length
            parts += (
                name,
                pack(
                    each.st_dev,
                    each.st_ino,
                    each.st_size,
                    each.st_mtime_ns & _WORD,
                    each.st_ctime_ns,
                    each.st_mode,
                    each.st_uid,
                    each.st_gid,
                    each.st_nlink,
                ),
            )
        parts += (b"", *listing.directories)
        self._digests[path] = blake2b(b"\0".join(parts), digest_size=_DIGEST).digest()
        self.names += len(entries)

    def take(self, frame: WalkFrame) -> None:
        """Add a directory that another process has looked at."""
        self.steps += 1
        self._digests[frame.path] = frame.digest
        self.names += len(frame.files)
        if frame.is_linked:
            self._linked.add(frame.path)

    def discard(self, path: bytes) -> None:
        """Remove a directory: it is looked at again."""
        self._digests.pop(path, None)

    def digest(self, path: bytes) -> bytes:
        """Return the digest of a directory."""
        return self._digests[path]

    def has_linked(self, path: bytes) -> bool:
        """Return whether a directory has a file with several names."""
        return path in self._linked

    def note(self, path: bytes) -> None:
        """Have a directory count as changed, as what is said of it, and is to be said again."""
        self._noted.add(path)

    def is_noted(self, path: bytes) -> bool:
        """Return whether a directory counts as changed."""
        return path in self._noted

    def is_same(self, path: bytes, before: SeenDirectories) -> bool:
        """Return whether a directory is as it was before, and nothing was noted of it then."""
        digest = before._digests.get(path)
        is_equal = digest is not None and digest == self._digests.get(path)
        return is_equal and path not in before._noted

    def is_all_of(self, root: int, found: FoundBeside) -> bool:
        """Walk below `root` again, and return whether all is as it was.

        `found` returns what another process has found of a path since. Blocking. Raises
        StorageError and TreeTooLarge.
        """
        vanished: list[bytes] = []
        now = SeenDirectories()

        def skip(path: bytes, _: str) -> None:
            vanished.append(path)

        def passed(parts: Path) -> Sequence[bytes] | None:
            frame = found(b"/".join(parts))
            if frame is None or frame.digest != self._digests.get(frame.path):
                return None
            now.take(frame)
            self.steps += 1
            return frame.directories

        with closing(walk(root, skip, passed=passed)) as listings:
            for listing in listings:
                self.steps += 1
                now.add(b"/".join(listing.path), listing, stat_results(listing, skip))
                if vanished:
                    return False
        return self.is_whole and now.is_whole and now._digests == self._digests


def stat_results(listing: Listing, skipped: Callable[[bytes, str], object]) -> StatResults:
    """Return what a listing has besides directories; `skipped` is called for what has gone.

    Raises StorageError.
    """
    found = []
    look, fd = os.stat, listing.fd
    for name in (*listing.files, *listing.symlinks, *listing.others):
        try:
            found.append((name, look(name, dir_fd=fd, follow_symlinks=False)))
        except OSError as error:
            if not gone(error):
                unreadable(listing.prefix + name, error)
            skipped(listing.prefix + name, VANISHED)
    return found
