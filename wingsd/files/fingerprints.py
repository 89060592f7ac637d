"""Fingerprints of files, by which Calagopus' Panel finds out what they are. Blocking."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator
from enum import Enum

from wingsd.errors import FileWorkCancelled
from wingsd.filesystem import OpenFile

__all__ = ["Algorithm", "fingerprint"]

#: Bytes read at a time; what is searched or hashed may be cancelled between two of them.
_PIECE = 1 << 20


class Algorithm(Enum):
    """The algorithms of Calagopus' nodes."""

    MD5 = "md5"
    CRC32 = "crc32"
    SHA1 = "sha1"
    SHA224 = "sha224"
    SHA256 = "sha256"
    SHA384 = "sha384"
    SHA512 = "sha512"
    CURSEFORGE = "curseforge"


def fingerprint(file: OpenFile, algorithm: Algorithm, cancelled: Callable[[], bool]) -> str:
    """Return a file's fingerprint: in hexadecimal, CurseForge's in decimal.

    Raises OSError and FileWorkCancelled.
    """
    if algorithm is Algorithm.CRC32:
        checksum = 0
        for piece in _pieces(file, cancelled):
            checksum = zlib.crc32(piece, checksum)
        return f"{checksum:x}"
    if algorithm is Algorithm.CURSEFORGE:
        return str(_murmur2(file, cancelled))
    digest = hashlib.new(algorithm.value, usedforsecurity=False)
    for piece in _pieces(file, cancelled):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(file: OpenFile, cancelled: Callable[[], bool]) -> Iterator[bytes]:
    at = 0
    while piece := file.read_at(at, _PIECE):
        if cancelled():
            raise FileWorkCancelled
        at += len(piece)
        yield piece


_MULTIPLIER = 0x5BD1E995
_MASK = 0xFFFFFFFF
_WHITESPACE = b"\t\n\r "
_SEED = 1


def _murmur2(file: OpenFile, cancelled: Callable[[], bool]) -> int:
    """Return MurmurHash2, with the seed 1, of the bytes that are not whitespace.

    The length comes first in it, so the file is read twice.
    """
    size = sum(len(piece.translate(None, _WHITESPACE)) for piece in _pieces(file, cancelled))
    value = _SEED ^ (size & _MASK)
    rest = b""
    for piece in _pieces(file, cancelled):
        rest += piece.translate(None, _WHITESPACE)
        whole = len(rest) // 4 * 4
        for (word,) in struct.iter_unpack("<I", rest[:whole]):
            mixed = word * _MULTIPLIER & _MASK
            mixed = (mixed ^ mixed >> 24) * _MULTIPLIER & _MASK
            value = value * _MULTIPLIER & _MASK ^ mixed
        rest = rest[whole:]
    if rest:
        value = (value ^ int.from_bytes(rest, "little")) * _MULTIPLIER & _MASK
    value = (value ^ value >> 13) * _MULTIPLIER & _MASK
    return value ^ value >> 15
