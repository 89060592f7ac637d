"""Copies the bytes of a regular file within the kernel; holes stay holes.

On file systems that can (btrfs, XFS) the copy shares its blocks with the original.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from wingsd.errors import FileWorkCancelled

__all__ = ["copy_data"]

#: Bytes between two looks at whether the copy was cancelled.
_STEP = 64 << 20
_BLOCK = 1 << 20
#: The file systems of the two files, or the kernel, cannot do it.
_UNSUPPORTED = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def copy_data(source: int, target: int, size: int, cancelled: Callable[[], bool]) -> None:
    """Copy the first `size` bytes of a file to an empty one; both are descriptors.

    A file that becomes shorter meanwhile gives a shorter copy. Raises OSError, and
    FileWorkCancelled.
    """
    offset = 0
    while offset < size:
        start, end = _next_data(source, offset, size)
        offset = start
        while offset < end:
            if cancelled():
                raise FileWorkCancelled
            copied = _copied(source, target, offset, min(end - offset, _STEP))
            if not copied:
                os.ftruncate(target, min(size, os.fstat(source).st_size))
                return
            offset += copied
    os.ftruncate(target, size)


def _next_data(source: int, offset: int, size: int) -> tuple[int, int]:
    """Return where the next data begins and ends, `size` twice where there is none."""
    try:
        start = os.lseek(source, offset, os.SEEK_DATA)
        return min(start, size), min(os.lseek(source, start, os.SEEK_HOLE), size)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size, size
        if error.errno in _UNSUPPORTED:
            return offset, size
        raise


def _copied(source: int, target: int, offset: int, size: int) -> int:
    """Copy a part; return its bytes, 0 at the end of the file."""
    try:
        return os.copy_file_range(source, target, size, offset, offset)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    data = os.pread(source, min(size, _BLOCK), offset)
    return os.pwrite(target, data, offset) if data else 0
