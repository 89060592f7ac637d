"""The I/O class of a thread, ioprio_set(2), for which Python has no function."""

from __future__ import annotations

import ctypes
import os

__all__ = ["IDLE", "io_class", "make_idle"]

#: The I/O class in which a thread's requests wait until nobody else has any, linux/ioprio.h.
IDLE = 3
_CLASS_SHIFT = 13
#: "Who": a thread, of which 0 is the one that calls.
_PROCESS, _CALLER = 1, 0
#: The numbers of ioprio_set(2) and ioprio_get(2), by the names of architectures in uname(2).
_NUMBERS = {
    "x86_64": (251, 252),
    "aarch64": (30, 31),
    "riscv64": (30, 31),
    "loongarch64": (30, 31),
    "ppc64le": (273, 274),
    "s390x": (282, 283),
}


def make_idle() -> None:
    """Have the calling thread's reads and writes come after those of all others.

    Raises `OSError`, also on an architecture that is not known here. Which I/O schedulers heed the
    class is a matter of the kernel: BFQ does, and mq-deadline as far as it has priorities.
    """
    _call(0, IDLE << _CLASS_SHIFT)


def io_class() -> int:
    """Return the I/O class of the calling thread, 0 where none was set. Raises `OSError`."""
    return _call(1) >> _CLASS_SHIFT


def _call(which: int, *priority: int) -> int:
    numbers = _NUMBERS.get(os.uname().machine)
    if numbers is None:
        raise OSError("the system call is not known on this architecture")
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (numbers[which], _PROCESS, _CALLER, *priority)
    result: int = libc.syscall(*(ctypes.c_long(each) for each in arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
