"""Digests of the directories that a walk has seen: the next walk compares them, to find changes.

A digest covers the directory's own mode and times, all names in it, and the stat results of all
entries but directories, without the time of the last access. Of a symlink these tell its target
only if it was not made just now: in one step of a coarse clock another one may get its inode.
"""

from __future__ import annotations

import marshal
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from hashlib import blake2b
from struct import Struct
from typing import NamedTuple

from wingsd.filesystem.open_directories import Path
from wingsd.filesystem.walk import VANISHED, Listing, gone, unreadable, walk

MOST = 100_000
"""Directories that are remembered, in about 20 MiB."""

StatResults = Sequence[tuple[bytes, os.stat_result]]
"""Names in a directory, each with its stat result."""

_DIRECTORY = Struct("<IQq")
_ENTRY = Struct("<QQqQqIIIQ")
#: Times after 2262 need more than 63 bits.
_WORD = (1 << 64) - 1
_DIGEST = 16
#: Before each frame: its bytes.
_LENGTH = Struct("<I")


class WalkFrame(NamedTuple):
    """A directory that was looked at: its digest in `SeenDirectories`, and what is in it."""

    path: bytes
    digest: bytes
    is_linked: bool
    files: list[bytes]
    directories: list[bytes]

    def encode(self) -> bytes:
        """Return it as bytes, for `frames_in`."""
        data = marshal.dumps(tuple(self))
        return _LENGTH.pack(len(data)) + data


def frames_in(buffer: bytearray) -> Iterator[tuple[WalkFrame, int]]:
    """Take what is whole from the beginning of a buffer; yield frames with their lengths."""
    at = 0
    while len(buffer) - at >= _LENGTH.size:
        begin = at + _LENGTH.size
        end = begin + _LENGTH.unpack_from(buffer, at)[0]
        if end > len(buffer):
            break
        frame = marshal.loads(buffer[begin:end])  # noqa: S302 - this program has written it
        yield WalkFrame(*frame), end - at
        at = end
    del buffer[:at]


FoundBeside = Callable[[bytes], WalkFrame | None]
"""Returns a directory, by its path, that another process has looked at."""


class SeenDirectories:
    """The digests of all directories below one, by their paths.

    `is_settled` returns whether an entry has another stat result if it is changed from now on.
    `most` directories are remembered, by default `MOST`.
    """

    def __init__(
        self,
        is_settled: Callable[[os.stat_result], bool] = lambda found: True,
        most: int | None = None,
    ) -> None:
        self._most = MOST if most is None else most
        #: Whether none was left out: of more than are remembered some are.
        self.is_whole = True
        #: How many names there are but those of directories.
        self.names = 0
        #: How many directories, or listings of them, were looked at, also by `is_all_of`.
        self.steps = 0
        #: The digests, as their paths are sorted in the walk.
        self.digests: dict[bytes, bytes] = {}
        #: Directories that count as changed: what was logged of them is to be logged again, or
        #: they have files that are to be read again.
        self.noted: set[bytes] = set()
        #: Directories with files that have several names.
        self.linked: set[bytes] = set()
        self._is_settled = is_settled

    def add(self, path: bytes, listing: Listing, entries: StatResults) -> None:
        """Add a directory, or the next listing of one with many names."""
        self.steps += 1
        if len(self.digests) >= self._most and path not in self.digests:
            self.is_whole = False
            return
        found, pack = listing.stat, _ENTRY.pack
        parts = [
            self.digests.get(path, b""),
            _DIRECTORY.pack(found.st_mode, found.st_mtime_ns & _WORD, found.st_ctime_ns),
        ]
        for name, each in entries:
            if each.st_nlink > 1:
                self.linked.add(path)
            if stat.S_ISLNK(each.st_mode) and not self._is_settled(each):
                self.noted.add(path)
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
        self.digests[path] = blake2b(b"\0".join(parts), digest_size=_DIGEST).digest()
        self.names += len(entries)

    def take(self, frame: WalkFrame) -> None:
        """Add a directory that another process has looked at."""
        self.steps += 1
        self.digests[frame.path] = frame.digest
        self.names += len(frame.files)
        if frame.is_linked:
            self.linked.add(frame.path)

    def is_same(self, path: bytes, before: SeenDirectories) -> bool:
        """Return whether a directory is as it was before, and nothing was noted of it then."""
        digest = before.digests.get(path)
        is_equal = digest is not None and digest == self.digests.get(path)
        return is_equal and path not in before.noted

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
            if frame is None or frame.digest != self.digests.get(frame.path):
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
        return self.is_whole and now.is_whole and now.digests == self.digests


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
