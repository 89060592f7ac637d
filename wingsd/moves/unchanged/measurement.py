"""Measures whether a file system changes ctime as the rule needs it.

On ext4, XFS and btrfs the first store into a clean page of a shared mapping changes ctime, further
ones do not until the page is written back, and syncfs(2) makes them do so again. On tmpfs it does
not. No process can set ctime there.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress

from wingsd.moves.unchanged.kernel import KernelCalls
from wingsd.util.text import escaped

__all__ = ["PROBE_NAME", "measure"]

PROBE_NAME = b".wingsd-ctime"
"""The file that is made in the directory and removed again."""

_PAGE = mmap.PAGESIZE
#: Seconds between changes. Before Linux 6.13 ctime moves in steps of 1 to 10 ms.
_PAUSE = 0.03
#: Nanoseconds by which ctime may differ from the clock of this node.
_CLOCK = 1_000_000_000
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


def measure(directory: int, kernel: KernelCalls) -> str:
    """Return why the rule does not hold on the file system of a directory, empty if it does.

    Takes a third of a second, and four times as long as a flush of the file system.
    """
    try:
        _remove(directory)
        try:
            with ExitStack() as stack:
                fd = os.open(PROBE_NAME, _FLAGS, 0o600, dir_fd=directory)
                stack.callback(os.close, fd)
                os.write(fd, bytes(2 * _PAGE))
                mapping = stack.enter_context(mmap.mmap(fd, 2 * _PAGE))
                return _measured(fd, mapping, kernel)
        finally:
            _remove(directory)
    except (OSError, ValueError) as error:
        return f"it could not be measured: {escaped(str(error))}"


def _remove(directory: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(PROBE_NAME, dir_fd=directory)


def _measured(fd: int, mapping: mmap.mmap, kernel: KernelCalls) -> str:
    def store(page: int, value: int) -> Callable[[], object]:
        return lambda: mapping.__setitem__(page * _PAGE, value)

    # With large folios the first store into one page may let stores into others pass as well: all
    # of them are dirty then, and a flush cleans all.
    changes: list[tuple[str, bool, Callable[[], object]]] = [
        (f"a store into a mapping after flush {flush}", True, store(flush % 2, flush))
        for flush in range(1, 5)
    ]
    changes += [
        ("a write", False, lambda: os.pwrite(fd, b"\0", 0)),
        ("a new size", False, lambda: os.ftruncate(fd, _PAGE + 1)),
        ("setting its times back", False, lambda: os.utime(fd, ns=(0, 0))),
    ]
    for what, after_flush, change in changes:
        if after_flush:
            kernel.sync(fd)
        before = os.fstat(fd).st_ctime_ns
        kernel.pause(_PAUSE)
        change()
        ctime = os.fstat(fd).st_ctime_ns
        if ctime <= before:
            return f"{what} does not change a file's ctime"
        if abs(kernel.wall_time() - ctime) > _CLOCK:
            return f"{what} sets a ctime that is not the time of this node's clock"
    return ""
