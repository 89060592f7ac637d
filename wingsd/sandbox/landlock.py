"""Takes rights to files and the network from this process by Landlock, landlock(7).

Nothing happens where the kernel has no Landlock, or a sandbox forbids it.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from contextlib import suppress

__all__ = ["restrict"]

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


def restrict(readable: Iterable[str] = (), writable: Iterable[str] = ()) -> bool:
    """Deny all that this kernel's version can, but in these directories; return whether it did.

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
