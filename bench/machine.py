"""What every timed run finds, so that it pays for nothing that was before it."""

from __future__ import annotations

import mmap
import os
import threading
from pathlib import Path

__all__ = ["Reserve", "settle"]

#: What is ready in any case, and how much of it lies open for the taking at any moment.
_LEAST = 1 << 30
_OPEN = 512 << 20
#: Left to everything else.
_LEFT = 3 << 30
_STEP = 64 << 20
#: Seconds between two looks at how much was taken.
_EVERY = 0.02
_POPULATE_WRITE = 23  # madvise(2); Python has no name for it
_KIB = 1024


def settle(size: int = 0) -> Reserve:
    """Have everything written; return memory for a run that has `size` bytes in the end.

    A virtual machine gives free memory back to its host after moments, and is given each page
    anew at its next use: one to three seconds for each GiB, for whoever comes first. So some is
    held here, which is not free, and let go as fast as it is taken while the run goes on.
    """
    os.sync()
    return Reserve(min(size + _LEAST, _memory("MemAvailable") - _LEFT))


class Reserve:
    """Memory that was used just now: a context in which the kernel gets it little by little."""

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
