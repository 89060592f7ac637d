"""Takes from this process all rights to files and the network by Landlock, landlock(7).

Nothing happens where the kernel has no Landlock, or a sandbox forbids it.
"""

from __future__ import annotations

import ctypes
import os
import struct

__all__ = ["restrict"]

# The same numbers on all architectures but alpha and mips, which are left out.
_CREATE_RULESET = 444
_RESTRICT_SELF = 446
_VERSION = 1
#: struct landlock_ruleset_attr: rights to files, to the network, and scopes.
_RULESET = struct.Struct("=QQQ")
#: The bits of rights to files that the first, second, third and fifth version of Landlock know,
#: of the network since the fourth, and of scopes since the sixth.
_FILE_BITS = ((5, 16), (3, 15), (2, 14), (1, 13))
_NETWORK_BITS = (4, 2)
_SCOPE_BITS = (6, 2)


def restrict() -> bool:
    """Deny all that this kernel's version can; return whether it did.

    `no_new_privs` must be set before. Descriptors that are open keep their rights.
    """
    libc = ctypes.CDLL(None)
    version = libc.syscall(_long(_CREATE_RULESET), None, ctypes.c_size_t(0), _long(_VERSION))
    if version < 1:
        return False
    ruleset = _RULESET.pack(
        _all(next(bits for since, bits in _FILE_BITS if version >= since)),
        _all(_NETWORK_BITS[1]) if version >= _NETWORK_BITS[0] else 0,
        _all(_SCOPE_BITS[1]) if version >= _SCOPE_BITS[0] else 0,
    )
    size = 24 if version >= _SCOPE_BITS[0] else 16 if version >= _NETWORK_BITS[0] else 8
    fd = libc.syscall(_long(_CREATE_RULESET), ruleset, ctypes.c_size_t(size), _long(0))
    if fd < 0:
        return False
    try:
        return bool(libc.syscall(_long(_RESTRICT_SELF), _long(fd), _long(0)) == 0)
    finally:
        os.close(fd)


def _all(bits: int) -> int:
    return (1 << bits) - 1


def _long(number: int) -> ctypes.c_long:
    return ctypes.c_long(number)
