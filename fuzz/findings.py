"""Shared by the targets: the finding, and splitting of inputs."""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

__all__ = ["Finding", "fields", "pieces"]


class Finding(Exception):
    """A target failed."""


def fields(data: bytes, count: int) -> list[bytes]:
    """Return `count` fields of an input, each ended by a NUL, and what follows them."""
    parts = data.split(b"\0", count)
    return parts + [b""] * (count + 1 - len(parts))


def pieces(data: bytes) -> Iterator[bytes]:
    """Cut an input like a network, but the same input always in the same way."""
    at, size = 0, crc32(data)
    while at < len(data):
        size = size * 1_103_515_245 + 12_345 & 0x7FFFFFFF
        step = 1 + (size >> 16) % 40
        yield data[at : at + step]
        at += step
