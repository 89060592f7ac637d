"""Hard links that came before their files, kept until all archives of a server are there.

A server that comes in several archives at a time may have a file in one of them and its other
name in another. They are kept on the disk, as there may be any number.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from struct import Struct
from tempfile import SpooledTemporaryFile
from threading import Lock

from wingsd.archive.listing import Path

__all__ = ["LateLinks"]

_SPOOLED = 1 << 19
_HEAD = Struct("<II")


class LateLinks:
    """Those of one tree, from any of the threads that write it; `close` must be called.

    `place` is a directory's path on the disk that is to keep them.
    """

    def __init__(self, place: str) -> None:
        self._file = SpooledTemporaryFile(_SPOOLED, dir=place)  # noqa: SIM115 - closed by close
        self._lock = Lock()
        self._is_open = True

    def keep(self, path: Path, target: Path) -> bool:
        """Keep that `path` is to be one more name of `target`; return whether it is kept.

        Raises OSError where the disk fails.
        """
        name, other = b"/".join(path), b"/".join(target)
        with self._lock:
            if self._is_open:
                self._file.write(_HEAD.pack(len(name), len(other)) + name + other)
            return self._is_open

    def take(self) -> Iterator[tuple[Path, Path]]:
        """Yield each in the order in which they came; none is kept any more."""
        self._is_open = False
        self._file.seek(0)
        while head := self._file.read(_HEAD.size):
            name, other = _HEAD.unpack(head)
            yield _path(self._file.read(name)), _path(self._file.read(other))

    def close(self) -> None:
        """Let go of the file."""
        with suppress(OSError):
            self._file.close()


def _path(name: bytes) -> Path:
    return tuple(name.split(b"/"))
