"""Leaves this process the system calls that computing on open descriptors needs, seccomp(2).

All others fail with EPERM. Nothing happens on architectures whose numbers are not listed here, or
where the kernel has no filters.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Mapping

__all__ = ["ALLOWED", "restrict"]

#: By uname(2)'s name of an architecture: its AUDIT_ARCH_ constant (linux/audit.h), and the numbers
#: of read, write, close, fstat, lseek, pread64, readv, writev; mmap, mprotect, munmap, brk,
#: mremap, madvise; rt_sigaction, rt_sigprocmask, rt_sigreturn, sigaltstack, restart_syscall;
#: futex, sched_yield, getpid, gettimeofday, clock_gettime, clock_nanosleep, getrandom; exit and
#: exit_group.
ALLOWED: Mapping[str, tuple[int, tuple[int, ...]]] = {
    "x86_64": (
        0xC000003E,
        (
            *(0, 1, 3, 5, 8, 17, 19, 20),
            *(9, 10, 11, 12, 25, 28),
            *(13, 14, 15, 131, 219),
            *(202, 24, 39, 96, 228, 230, 318),
            *(60, 231),
        ),
    ),
    "aarch64": (
        0xC00000B7,
        (
            *(63, 64, 57, 80, 62, 67, 65, 66),
            *(222, 226, 215, 214, 216, 233),
            *(134, 135, 139, 132, 128),
            *(98, 124, 172, 169, 113, 115, 278),
            *(93, 94),
        ),
    ),
}
# prctl(2), linux/seccomp.h.
_PR_SET_SECCOMP = 22
_MODE_FILTER = 2
_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000
_ERROR = 0x00050000
# linux/bpf_common.h: load a word, jump if equal, return.
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
#: Offsets in struct seccomp_data.
_NUMBER, _ARCHITECTURE = 0, 4
#: struct sock_filter: code, jump if true, jump if false, value.
_INSTRUCTION = struct.Struct("=HBBI")


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def restrict() -> bool:
    """Deny all system calls but those allowed; return whether the kernel does.

    `no_new_privs` must be set before.
    """
    known = ALLOWED.get(os.uname().machine)
    if known is None:
        return False
    code = _code(*known)
    program = _Program(len(code) // _INSTRUCTION.size, code)
    done = ctypes.CDLL(None).prctl(
        _PR_SET_SECCOMP, ctypes.c_ulong(_MODE_FILTER), ctypes.byref(program)
    )
    return bool(done == 0)


def _code(architecture: int, numbers: tuple[int, ...]) -> bytes:
    """Return the filter as instructions of classic BPF."""
    count = len(numbers)
    instructions = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        # Calls by another architecture's numbers mean something else.
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
        *((_EQUAL, count - at, 0, number) for at, number in enumerate(numbers)),
        (_RETURN, 0, 0, _ERROR | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(_INSTRUCTION.pack(*each) for each in instructions)
