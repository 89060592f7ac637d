"""Digests of blocks, files, directories and trees, which end in one root. See docs/protocol.md.

All numbers are little-endian. Two nodes have the same tree if, and only if, they have the same
root: names, kinds, permission bits, times in nanoseconds, links and all contents count.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256
from struct import Struct

Bytes = bytes | bytearray | memoryview

DIGEST = 16
"""Bytes of a block's digest: the first of its SHA-256."""

UNKNOWN = bytes(DIGEST)
"""No block has this digest: it stands for one that was not received."""

WHOLE = 64 << 10
"""The most bytes of a file that is sent as one. Its only block is the whole of it."""

BLOCK_SIZES = (4 << 10, 16 << 10, 64 << 10)
"""Bytes of a block in files that are sent in parts."""

MAX_BLOCKS = 1 << 26
"""The most blocks of one file."""

_LIMITS = (64 << 20, 1 << 30)

_FILE = Struct("<QI")
_TAG_FILE = b"wingsd move 1 file\n"


def block_size_for(size: int) -> int:
    """Return the bytes of the blocks of a file that is sent in parts for the first time."""
    for limit, block_size in zip(_LIMITS, BLOCK_SIZES, strict=False):
        if size < limit:
            return block_size
    return BLOCK_SIZES[-1]


def block_digest(data: Bytes) -> bytes:
    """Return the digest of one block."""
    return sha256(data).digest()[:DIGEST]


def block_digests(data: Bytes, block_size: int) -> bytes:
    """Return the digests of consecutive blocks, joined; the last block may be shorter."""
    view = memoryview(data)
    return b"".join(
        [
            sha256(view[at : at + block_size]).digest()[:DIGEST]
            for at in range(0, len(view), block_size)
        ]
    )


@lru_cache(maxsize=16)
def zero_digest(length: int) -> bytes:
    """Return the digest of a block of so many zeros."""
    return block_digest(bytes(length))


def file_digest(size: int, block_size: int, digests: Iterable[Bytes]) -> bytes:
    """Return the digest of a file from those of its blocks, joined in any portions."""
    digest = sha256(_TAG_FILE + _FILE.pack(size, block_size))
    for portion in digests:
        digest.update(portion)
    return digest.digest()
