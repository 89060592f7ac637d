"""The modes and times of directories, kept until everything in them is written.

An archive may have any number of directories, so they are kept on the disk: a file without a name
beside them, read backwards at the end, so that a directory comes before those above it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import suppress
from struct import Struct
from tempfile import SpooledTemporaryFile
from threading import Lock

from wingsd.archive.listing import Path
from wingsd.errors import ArchiveError

__all__ = ["DirectoryMetadata"]

Entry = tuple[Path, int, int | None]

_CHUNK = 1 << 16
_SPOOLED = 1 << 19
_HEAD = Struct("<Hq?I")
_OVERHEAD = 300  # bytes that the least entry of `_later` takes, as CPython 3.11 has them


class DirectoryMetadata:
    """What directories are to have: `mode`, and `mtime` in nanoseconds or None for whichever.

    `place` is a directory's path on the disk that is to keep them; `memory` the bytes that those
    of `again` may take. `close` must be called.

    Threads that share it hold `lock` while they make a directory and say so: else what is in one
    could be told before it, and the order at the end would be wrong.
    """

    def __init__(self, place: str, memory: int) -> None:
        self.lock = Lock()
        self._file = SpooledTemporaryFile(_SPOOLED, dir=place)  # noqa: SIM115 - closed by close
        self._borders = array("q", [0])
        self._chunk = bytearray()
        self._later: dict[Path, tuple[int, int]] = {}
        self._room = memory

    def made(self, path: Path, mode: int, mtime: int | None) -> None:
        """Take those of a directory that was just made, after those above it.

        Raises OSError where the disk fails.
        """
        name = b"/".join(path)
        self._chunk += _HEAD.pack(mode, mtime or 0, mtime is not None, len(name)) + name
        if len(self._chunk) >= _CHUNK:
            self._file.write(self._chunk)
            self._borders.append(self._borders[-1] + len(self._chunk))
            self._chunk.clear()

    def again(self, path: Path, mode: int, mtime: int) -> None:
        """Take those of a directory that was there before; the last word holds.

        They are kept in memory. Raises ArchiveError where that is used up.
        """
        if path not in self._later:
            self._room -= _OVERHEAD + sum(len(part) + 41 for part in path)
            if self._room < 0:
                raise ArchiveError(
                    "too many directories come after what is in them, or twice; write the archive "
                    "with directories first, as tar does, or raise "
                    "system.transfers.directory_memory on this node"
                )
        self._later[path] = (mode, mtime)

    def in_order(self) -> Iterator[Entry]:
        """Yield every directory once, before those above it, the root at the end.

        May be called once. Raises OSError where the disk fails.
        """
        later = self._later
        for path, mode, mtime in self._made_backwards():
            yield path, *later.pop(path, (mode, mtime))
        # those that were there before the archive came
        for path in sorted(later, reverse=True):
            yield path, *later[path]

    def close(self) -> None:
        """Let go of the file."""
        # what could not be written any more is of no interest any more
        with suppress(OSError):
            self._file.close()

    def _made_backwards(self) -> Iterator[Entry]:
        yield from _entries(bytes(self._chunk))
        for start, end in zip(self._borders[-2::-1], self._borders[:0:-1], strict=True):
            self._file.seek(start)
            yield from _entries(self._file.read(end - start))


def _entries(chunk: bytes) -> Iterator[Entry]:
    entries: list[Entry] = []
    at = 0
    while at < len(chunk):
        mode, mtime, has_mtime, length = _HEAD.unpack_from(chunk, at)
        at += _HEAD.size + length
        path = tuple(chunk[at - length : at].split(b"/"))
        entries.append((path, mode, mtime if has_mtime else None))
    return reversed(entries)
