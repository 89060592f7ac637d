"""Takes from this process what it does not need. It cannot be undone."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Iterable
from contextlib import suppress

from wingsd.sandbox import landlock, system_calls

__all__ = ["confine", "confine_to", "limit_resources"]

#: The user and group "nobody".
_NOBODY = 65534
#: stdin, stdout and stderr.
_DESCRIPTORS = 3
#: The kernel ends this process before any other when memory runs out, proc(5).
_FIRST_TO_END = "1000"
# prctl(2), capset(2).
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522


def limit_resources(cpu_seconds: int, memory: int) -> None:
    """Limit the CPU time, and the address space in bytes; no file may grow.

    At its CPU time the process ends by SIGXCPU, by which the daemon tells this from other ends.
    """
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_AS, memory)
    _limit(resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + 1)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write(_FIRST_TO_END)


def confine_to(directory: str, modules: Iterable[str]) -> bool:
    """Leave this process, as far as the kernel can, no files but those below a directory.

    It can read modules of Python in these directories, and make no connections. Call it before a
    thread is started. Returns whether that holds.
    """
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0)))
    try:
        return landlock.restrict(modules, [directory])
    except OSError:
        return False


def confine() -> None:
    """Drop privileges, and the right to open files and connections and to start processes.

    All modules are imported before, and all files opened.

    What holds everywhere are the limits of descriptors and processes. Landlock and the filter of
    system calls add what needs neither, such as to delete or rename by a path, or to send signals.
    """
    _drop_privileges()
    libc = ctypes.CDLL(None)
    # Ends with the daemon. Changing the user would undo it.
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _limit(resource.RLIMIT_NPROC, 0)
    # Before the last descriptors are taken away: it needs one of its own for a moment.
    libc.prctl(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0)))
    landlock.restrict()
    _limit(resource.RLIMIT_NOFILE, _DESCRIPTORS)
    system_calls.restrict()


def _drop_privileges() -> None:
    """Drop root and all capabilities, as far as the daemon's sandbox allows it."""
    if os.geteuid() == 0:
        with suppress(OSError):
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)())


def _limit(kind: int, soft: int, hard: int | None = None) -> None:
    """Lower a limit of this process; a lower one that it has already stays."""
    highest = resource.getrlimit(kind)[1]
    hard = soft if hard is None else hard
    if highest != resource.RLIM_INFINITY:
        hard = min(hard, highest)
    resource.setrlimit(kind, (min(soft, hard), hard))
