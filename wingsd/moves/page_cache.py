"""What of a file is in the page cache, and how it gets out of it again after it was read.

Who reads all files of a running server would fill the page cache with those that nobody else
reads, and the kernel would take pages for them that the game needs. So what was not there before
is given back behind the reader. What was there is left alone: somebody has read it.

Blocking. By cachestat(2), which Linux has since 6.5. Without it, and where it is refused, nothing
is given back.
"""

from __future__ import annotations

import os
from contextlib import suppress

from wingsd.filesystem.syscalls import cached_pages

__all__ = ["REGION", "PageCacheKeeper"]

REGION = 32 << 20
"""Bytes that are looked at together, and at least so far ahead of what is read: reading one part
of a file has the kernel read what follows."""


class PageCacheKeeper:
    """Reads of one file, from its beginning to its end, in parts of at most `part` bytes.

    Call `before` before each part is read, and `close` after the last one.
    """

    def __init__(self, fd: int, size: int, part: int) -> None:
        self._fd = fd
        self._size = size
        self._part = part
        #: Up to where it was looked, and parts ahead that were not in the page cache.
        self._seen = 0
        self._cold: set[int] = set()
        #: Where what is to be given back begins and ends.
        self._start = self._end = 0

    def before(self, at: int) -> None:
        """Note that the part that begins at `at` is read next."""
        if at + REGION > self._seen and self._seen < self._size:
            self._look(at + 2 * REGION)
        if at != self._end or at not in self._cold or at - self._start >= REGION:
            self._give_back()
            self._start = self._end = at
        if at in self._cold:
            self._cold.remove(at)
            self._end = min(at + self._part, self._size)

    def close(self) -> None:
        """Give back the last parts."""
        self._give_back()

    def _look(self, end: int) -> None:
        """Find out which parts before `end` are not in the page cache."""
        while self._seen < min(end, self._size):
            first = self._seen
            self._seen = min(first + self._part, self._size)
            if cached_pages(self._fd, first, self._seen - first) == 0:
                self._cold.add(first)

    def _give_back(self) -> None:
        length = self._end - self._start
        if length > 0:
            with suppress(OSError):
                os.posix_fadvise(self._fd, self._start, length, os.POSIX_FADV_DONTNEED)
