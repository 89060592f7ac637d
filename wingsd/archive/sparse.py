"""Sparse files: their data found on the disk, and written as members of a tar.

The form is that of GNU tar for pax archives, version 1.0 (GNU tar manual, "Storing Sparse Files"):
the member's data begins with a map of decimal numbers, one a line, and only the data between the
holes follows it. GNU tar, bsdtar, Python's tarfile and Go's archive/tar read it.
"""

from __future__ import annotations

import errno
import os

from wingsd.archive.tar_headers import FILE, NO_OWNER, member_header, padding, pax_record
from wingsd.filesystem.new_file import Owner

Segments = tuple[tuple[int, int], ...]
"""The offset and the length of each piece of data, in order."""

LEAST_HOLES = 1 << 20
"""The fewest bytes of holes for which a file is written as a sparse one."""

#: Smaller holes are written as zeros.
_LEAST_HOLE = 64 << 10
#: Files in more pieces are written in full: the map is in memory.
_MAX_SEGMENTS = 1 << 16


def data_segments(fd: int, size: int) -> Segments | None:
    """Return where the first `size` bytes of a file have data; None where it is not sparse.

    It may change meanwhile: data that is in none of the segments was not there when they were
    found. Raises OSError.
    """
    found: list[tuple[int, int]] = []
    at = stored = 0
    while at < size and (start := _next_data(fd, at)) < size:
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if end <= start:  # it was cut
            break
        if found and start - sum(found[-1]) < _LEAST_HOLE:
            start, length = found.pop()
            stored -= length
        found.append((start, end - start))
        stored += end - start
        if len(found) > _MAX_SEGMENTS:
            return None
        at = end
    return tuple(found) if size - stored >= LEAST_HOLES else None


def _next_data(fd: int, at: int) -> int:
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # only a hole is left
            return 1 << 62
        raise


def sparse_header(
    name: bytes,
    mode: int,
    size: int,
    mtime: int,
    segments: Segments,
    records: bytes = b"",
    owner: Owner = NO_OWNER,
) -> bytes:
    """Return all header blocks of a sparse file of `size` bytes, and the map of its data.

    `records` and `owner` are as for `member_header`.
    """
    shown = _map(size, segments)
    stored = len(shown) + sum(length for _, length in segments)
    records += b"".join(
        (
            pax_record(b"GNU.sparse.major", b"1"),
            pax_record(b"GNU.sparse.minor", b"0"),
            pax_record(b"GNU.sparse.name", name),
            pax_record(b"GNU.sparse.realsize", b"%d" % size),
        )
    )
    return member_header(name, FILE, mode, stored, mtime, b"", records, owner) + shown


def _map(size: int, segments: Segments) -> bytes:
    # An empty piece at the end tells the size to readers that know the map alone.
    entries = segments if segments and sum(segments[-1]) == size else (*segments, (size, 0))
    lines = [len(entries), *(number for entry in entries for number in entry)]
    text = b"".join(b"%d\n" % line for line in lines)
    return text + padding(len(text))
