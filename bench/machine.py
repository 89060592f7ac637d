"""Prepares the machine for a timed run, so that earlier runs do not affect it."""

from __future__ import annotations

import mmap
import os
import threading
from pathlib import Path

__all__ = ["Reserve", "settle"]

#: Bytes to hold at least, and free bytes to keep available at any moment.
_LEAST = 1 << 30
_OPEN = 512 << 20
#: Bytes for everything else.
_LEFT = 3 << 30
_STEP = 64 << 20
#: Seconds between two checks of the free memory.
_EVERY = 0.02
_POPULATE_WRITE = 23  # madvise(2); Python has no name for it
_KIB = 1024


def settle(size: int = 0) -> Reserve:
    """Flush everything; return reserved memory for a run that writes `size` bytes.

    A virtual machine returns free memory to its host after moments, and must allocate each page
    again: one to three seconds for each GiB. Therefore used memory is held here, and released
    as fast as the run needs it.
    """
    os.sync()
    return Reserve(min(size + _LEAST, _memory("MemAvailable") - _LEFT))


class Reserve:
    """Recently used memory: a context in which it is released to the kernel little by little."""

    def __init__(self, size: int) -> None:
        self._size = max(size // _STEP, 1) * _STEP
        self._held = mmap.mmap(-1, self._size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._held.madvise(mmap.MADV_HUGEPAGE)  # letting go costs next to nothing then
        self._held.madvise(_POPULATE_WRITE)
        self._given = 0
        self._free = _memory("MemFree")
        self._done = threading.Event()
        self._giver = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> None:
        self._give(_OPEN)
        self._giver.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._giver.join()
        self._held.close()

    def _follow(self) -> None:
        while not self._done.wait(_EVERY):
            taken = self._free + self._given - _memory("MemFree")
            self._give(taken + _OPEN - self._given)

    def _give(self, size: int) -> None:
        size = min(-(-size // _STEP) * _STEP, self._size - self._given)
        if size > 0:
            self._held.madvise(mmap.MADV_DONTNEED, self._given, size)
            self._given += size


def _memory(name: str) -> int:
    """Return a figure of /proc/meminfo in bytes."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * _KIB for line in lines if line.startswith(f"{name}:"))
