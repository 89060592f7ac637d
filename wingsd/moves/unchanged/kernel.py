"""What the rule asks of the kernel. Tests pass their own."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from attrs import frozen

from wingsd.filesystem.syscalls import syncfs

__all__ = ["KERNEL", "KernelCalls"]

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@frozen(eq=False, repr=False)
class KernelCalls:
    """Clocks in nanoseconds, and others. All but `boot_id` and `pause` take a descriptor.

    `boot_id` returns 16 bytes that are others after each boot. `finish_writes` waits for a
    write(2) of which a file has only a part yet.
    """

    wall_time: Callable[[], int]
    monotonic: Callable[[], int]
    boot_id: Callable[[], bytes]
    pause: Callable[[float], None]
    sync: Callable[[int], None]
    stat: Callable[[int], os.stat_result]
    finish_writes: Callable[[int], None]


def _boot_id() -> bytes:
    return uuid.UUID(_BOOT_ID.read_text(encoding="ascii").strip()).bytes


def _finish_writes(fd: int) -> None:
    """Have the file's inode locked once, as write(2) does from its ctime to its last byte.

    ext4 and btrfs lock it to look for a hole, but not to read; XFS locks it to read.
    """
    with suppress(OSError):  # the file is empty, or the file system has no such call
        os.lseek(fd, 0, os.SEEK_HOLE)
    os.lseek(fd, 0, os.SEEK_SET)


KERNEL = KernelCalls(
    wall_time=time.time_ns,
    monotonic=time.monotonic_ns,
    boot_id=_boot_id,
    pause=time.sleep,
    sync=syncfs,
    stat=os.fstat,
    finish_writes=_finish_writes,
)
"""The kernel that runs."""
