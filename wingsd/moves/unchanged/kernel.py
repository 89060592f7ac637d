"""What the rule asks of the kernel: clocks, the boot, and flushes. Tests pass their own."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path

from attrs import frozen

from wingsd.filesystem.syscalls import syncfs

__all__ = ["KERNEL", "KernelCalls"]

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@frozen(eq=False, repr=False)
class KernelCalls:
    """Clocks in nanoseconds, 16 bytes that are others after each boot, syncfs(2) and a pause."""

    wall_time: Callable[[], int]
    monotonic: Callable[[], int]
    boot_id: Callable[[], bytes]
    sync: Callable[[int], None]
    pause: Callable[[float], None]


def _boot_id() -> bytes:
    return uuid.UUID(_BOOT_ID.read_text(encoding="ascii").strip()).bytes


KERNEL = KernelCalls(time.time_ns, time.monotonic_ns, _boot_id, syncfs, time.sleep)
"""The kernel that runs."""
