"""System calls for which Python has no function: openat2(2), renameat2(2) and syncfs(2).

They raise OSError. The first two have existed on all architectures under these numbers and names
since Linux 5.6 and 3.15, but may be missing from a kernel or forbidden by a sandbox.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import NoReturn

# linux/openat2.h
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
# linux/fs.h
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

_libc = ctypes.CDLL(None, use_errno=True)
#: System calls have had the same number everywhere since Linux 5.1, but for these, where an
#: architecture's own offset comes before it.
_OPENAT2 = 437
_OFFSETS = {"alpha": 110, "mips": 4000, "mips64": 5000}
#: struct open_how: flags, mode, resolve.
_HOW = struct.Struct("=QQQ")


def openat2_number(machine: str) -> int:
    """Return the number of openat2(2) on an architecture, named as uname(2) does."""
    return _OPENAT2 + _OFFSETS.get(machine, 0)


_NUMBER = openat2_number(os.uname().machine)
_openat2 = _libc["syscall"]
_openat2.argtypes = (*(ctypes.c_long,) * 2, *(ctypes.c_char_p,) * 2, ctypes.c_size_t)
#: cachestat(2), since Linux 6.5. struct cachestat_range: offset, length; struct cachestat: pages
#: in the cache, and four other figures.
_CACHESTAT_NUMBER = 451 + _OFFSETS.get(os.uname().machine, 0)
_CACHE_RANGE = struct.Struct("=QQ")
_CACHE_STAT = struct.Struct("=QQQQQ")


def openat2(directory: int, path: bytes, flags: int, resolve: int, mode: int = 0) -> int:
    """Open a path relative to a directory's descriptor; the new one is closed on exec.

    `resolve` has RESOLVE_ flags. `mode` are the permission bits of a file that is created.
    """
    how = _HOW.pack(flags | os.O_CLOEXEC, mode, resolve)
    fd: int = _openat2(_NUMBER, directory, path, how, _HOW.size)
    if fd < 0:
        _fail()
    return fd


def renameat2(source: int, name: bytes, target: int, new_name: bytes, flags: int) -> None:
    """Rename a name in one directory to one in another; `flags` are RENAME_ flags."""
    if _libc.renameat2(source, name, target, new_name, ctypes.c_uint(flags)) < 0:
        _fail()


def syncfs(descriptor: int) -> None:
    """Return when all that was written to a file system is on stable storage.

    A failure to write is raised once for each descriptor that was open by then.
    """
    if _libc.syncfs(descriptor) < 0:
        _fail()


def cached_pages(descriptor: int, at: int, length: int) -> int | None:
    """Return how many pages of a part of a file are in the page cache.

    None where that is unknown: without cachestat(2), and of files that one may not write.
    """
    where, found = _CACHE_RANGE.pack(at, length), ctypes.create_string_buffer(_CACHE_STAT.size)
    call = (ctypes.c_long(_CACHESTAT_NUMBER), ctypes.c_long(descriptor), where, found)
    if _libc.syscall(*call, ctypes.c_long(0)) < 0:
        return None
    pages: int = _CACHE_STAT.unpack(found.raw)[0]
    return pages


def _fail() -> NoReturn:
    code = ctypes.get_errno()
    raise OSError(code, os.strerror(code))
