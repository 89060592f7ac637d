"""Takes from this process all rights that it does not need. It cannot be undone.

Rights to files and the network go by Landlock, and system calls by a filter of seccomp(2), where
the kernel has them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import select
import signal
import struct
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress

#: A user and a group without rights.
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
        return restrict_files(modules, [directory])
    except OSError:
        return False


def confine() -> None:
    """Drop privileges, and the right to open files and connections and to start processes.

    All modules are imported before, and all files opened.

    What holds everywhere are the limits of descriptors and processes. Landlock and the filter of
    system calls add what needs neither, such as to delete or rename by a path, or to send signals.
    """
    libc = ctypes.CDLL(None)
    # Drop root and all capabilities, as far as the daemon's sandbox allows it.
    if os.geteuid() == 0:
        with suppress(OSError):
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    libc.capset(header, (ctypes.c_uint32 * 6)())
    # Ends with the daemon. Changing the user would undo it.
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # If that was killed before, no process reads what this one writes.
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    if output.poll(0):
        os._exit(1)
    _limit(resource.RLIMIT_NPROC, 0)
    # Before the last descriptors are taken away: it needs one of its own for a moment.
    libc.prctl(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0)))
    restrict_files()
    _limit(resource.RLIMIT_NOFILE, _DESCRIPTORS)
    restrict_calls()


def _limit(kind: int, soft: int, hard: int | None = None) -> None:
    """Lower a limit of this process; a lower one that it has already stays."""
    highest = resource.getrlimit(kind)[1]
    hard = soft if hard is None else hard
    if highest != resource.RLIM_INFINITY:
        hard = min(hard, highest)
    resource.setrlimit(kind, (min(soft, hard), hard))


# The same numbers on all architectures but alpha and mips, which are left out.
_CREATE_RULESET = 444
_ADD_RULE = 445
_RESTRICT_SELF = 446
_VERSION = 1
_PATH_BENEATH = 1
#: struct landlock_path_beneath_attr: rights, and the descriptor of a directory.
_BENEATH = struct.Struct("=Qi")
#: The rights to read files and to list directories.
_READ = 1 << 2 | 1 << 3
#: The first version in which a file can be renamed to another directory.
_RENAMES = 2
#: struct landlock_ruleset_attr: rights to files, to the network, and scopes.
_RULESET = struct.Struct("=QQQ")
#: The bits of rights to files that the first, second, third and fifth version of Landlock know,
#: of the network since the fourth, and of scopes since the sixth.
_FILE_BITS = ((5, 16), (3, 15), (2, 14), (1, 13))
_NETWORK_BITS = (4, 2)
_SCOPE_BITS = (6, 2)


def restrict_files(readable: Iterable[str] = (), writable: Iterable[str] = ()) -> bool:
    """Deny by Landlock, landlock(7), all that this kernel's version can; return whether it did.

    Nothing happens where the kernel has no Landlock, or a sandbox forbids it.

    In `readable` ones files can be read; in `writable` ones all can be done, and nothing is denied
    where the kernel could not rename there. `no_new_privs` must be set before. It holds for this
    thread and those that it starts. Descriptors that are open keep their rights.
    """
    libc = ctypes.CDLL(None)
    version = libc.syscall(_long(_CREATE_RULESET), None, ctypes.c_size_t(0), _long(_VERSION))
    written = tuple(writable)
    if version < (_RENAMES if written else 1):
        return False
    files = _all(next(bits for since, bits in _FILE_BITS if version >= since))
    ruleset = _RULESET.pack(
        files,
        _all(_NETWORK_BITS[1]) if version >= _NETWORK_BITS[0] else 0,
        _all(_SCOPE_BITS[1]) if version >= _SCOPE_BITS[0] else 0,
    )
    size = 24 if version >= _SCOPE_BITS[0] else 16 if version >= _NETWORK_BITS[0] else 8
    fd = libc.syscall(_long(_CREATE_RULESET), ruleset, ctypes.c_size_t(size), _long(0))
    if fd < 0:
        return False
    try:
        for path in readable:
            with suppress(OSError):  # a module path need not exist
                _allow(libc, fd, path, _READ)
        for path in written:
            _allow(libc, fd, path, files)
        return bool(libc.syscall(_long(_RESTRICT_SELF), _long(fd), _long(0)) == 0)
    finally:
        os.close(fd)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    """Allow this in a directory. Raises OSError."""
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        rule = _BENEATH.pack(rights, fd)
        if libc.syscall(_long(_ADD_RULE), _long(ruleset), _long(_PATH_BENEATH), rule, _long(0)):
            raise OSError(f"Landlock has no rule for {path}")
    finally:
        os.close(fd)


def _all(bits: int) -> int:
    return (1 << bits) - 1


def _long(number: int) -> ctypes.c_long:
    return ctypes.c_long(number)


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


def restrict_calls() -> bool:
    """Deny by seccomp(2) all system calls but those allowed; return whether the kernel does.

    What is left is what computing on open descriptors needs; all others fail with EPERM. Nothing
    happens on architectures whose numbers are not listed here, or where the kernel has no filters.
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
