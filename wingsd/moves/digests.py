"""Digests of blocks, files, directories and trees, which end in one root. See docs/moves.md.

All numbers are little-endian. Two nodes have the same tree if, and only if, they have the same
root: names, kinds, permission bits, times in nanoseconds, links and all contents count.
"""

from __future__ import annotations

import hashlib
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
_DIRECTORY_META = Struct("<Hq")
_NAME = Struct("<BH")
_FILE_META = Struct("<HqQ")
_LINK_META = Struct("<qH")
_LENGTH = Struct("<H")
_TAG_FILE = b"wingsd move 1 file\n"
_TAG_DIRECTORY = b"wingsd move 1 directory\n"
_TAG_ROOT = b"wingsd move 1 root\n"


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


def file_entry(
    name: bytes, mode: int, mtime: int, size: int, digest: bytes, attributes: bytes = b""
) -> bytes:
    """Return a directory's entry of a file, under its first name."""
    entry = name + _FILE_META.pack(mode, mtime, size) + digest
    if attributes:
        return _NAME.pack(5, len(name)) + entry + sha256(attributes).digest()
    return _NAME.pack(1, len(name)) + entry


def link_entry(name: bytes, mtime: int, target: bytes) -> bytes:
    """Return a directory's entry of a symlink, under its first name."""
    return _NAME.pack(2, len(name)) + name + _LINK_META.pack(mtime, len(target)) + target


def hard_link_entry(name: bytes, first: bytes) -> bytes:
    """Return a directory's entry of a further name of what has the path `first`."""
    return _NAME.pack(3, len(name)) + name + _LENGTH.pack(len(first)) + first


def directory_entry(
    name: bytes, mode: int, mtime: int, digest: bytes, attributes: bytes = b""
) -> bytes:
    """Return a directory's entry of a directory."""
    entry = name + _DIRECTORY_META.pack(mode, mtime) + digest
    if attributes:
        return _NAME.pack(6, len(name)) + entry + sha256(attributes).digest()
    return _NAME.pack(4, len(name)) + entry


def directory_hash() -> hashlib._Hash:
    """Return a hash for a directory's entries, sorted by the bytes of their names."""
    return sha256(_TAG_DIRECTORY)


def root_digest(mode: int, mtime: int, directory: bytes, attributes: bytes = b"") -> bytes:
    """Return the root of a tree: of its top directory's own metadata, and its digest."""
    last = sha256(attributes).digest() if attributes else b""
    return sha256(_TAG_ROOT + _DIRECTORY_META.pack(mode, mtime) + directory + last).digest()
