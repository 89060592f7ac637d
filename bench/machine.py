"""What is done before every timed run, so that it pays for nothing that was before it."""

from __future__ import annotations

import mmap
import os

__all__ = ["settle"]

_MEMORY = 5 << 30
_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE


def settle() -> None:
    """Have everything written, and as much memory ready as a run takes.

    A virtual machine gives free memory back to its host, and is given each page anew at its first
    use: half a second to a second for each GiB, for whoever comes first.
    """
    os.sync()
    mmap.mmap(-1, _MEMORY, flags=_FLAGS).close()
