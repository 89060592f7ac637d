"""A write(2) that has written its first half and waits for the second, as long as a test wants.

Its second half is memory that userfaultfd(2) has not provided yet. Programs meet the same when the
disk is slow, or their memory is.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import platform
import struct
import threading

__all__ = ["StalledWrite"]

_SYSTEM_CALL = 323  # of x86-64
_API, _REGISTER, _COPY = 0xC018AA3F, 0xC020AA00, 0xC028AA03
_VERSION = 0xAA
_MISSING = 1
_libc = ctypes.CDLL(None, use_errno=True)


class StalledWrite:
    """Writes `size` bytes `b` to the beginning of a file, the second half after `release`.

    Raises OSError where userfaultfd(2) cannot be used. `close` has to be called.
    """

    def __init__(self, fd: int, size: int) -> None:
        if platform.machine() != "x86_64":
            raise OSError("the number of userfaultfd(2) is known for x86-64 only")
        self._half = size // 2
        self._memory = mmap.mmap(-1, size)
        self._memory[: self._half] = b"b" * self._half
        self._fault_fd = _libc.syscall(_SYSTEM_CALL, os.O_CLOEXEC)
        if self._fault_fd < 0:
            raise OSError(ctypes.get_errno(), "userfaultfd")
        # the view must be gone before the memory is unmapped
        view = ctypes.c_char.from_buffer(self._memory)
        self._second = ctypes.addressof(view) + self._half
        del view
        fcntl.ioctl(self._fault_fd, _API, bytearray(struct.pack("QQQ", _VERSION, 0, 0)))
        register = struct.pack("QQQQ", self._second, self._half, _MISSING, 0)
        fcntl.ioctl(self._fault_fd, _REGISTER, bytearray(register))
        self._thread = threading.Thread(target=os.pwrite, args=(fd, self._memory, 0))
        self._thread.start()

    def release(self) -> None:
        """Provide the second half; return when all is written."""
        if self._fault_fd < 0:
            return
        data = ctypes.create_string_buffer(b"b" * self._half, self._half)
        copy = struct.pack("QQQQQ", self._second, ctypes.addressof(data), self._half, 0, 0)
        fcntl.ioctl(self._fault_fd, _COPY, bytearray(copy))
        self._thread.join()
        os.close(self._fault_fd)
        self._fault_fd = -1
        self._memory.close()
