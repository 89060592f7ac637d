"""Fingerprints, against known ones."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path

import pytest

from wingsd.errors import FileWorkCancelled
from wingsd.files.search import Algorithm, fingerprint
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot

CONTENT = b"The quick brown fox\n" * 1000

#: Those of hashlib.
DIGESTS = [each for each in Algorithm if each.value in hashlib.algorithms_guaranteed]


def of(root: ServerRoot, algorithm: Algorithm) -> str:
    with root.open_file(ServerPath.parse("file")) as file:
        return fingerprint(file, algorithm, lambda: False)


@pytest.mark.parametrize("algorithm", DIGESTS)
def test_digests_are_those_of_hashlib(home: Path, root: ServerRoot, algorithm: Algorithm) -> None:
    (home / "file").write_bytes(CONTENT)
    assert of(root, algorithm) == hashlib.new(algorithm.value, CONTENT).hexdigest()


def test_a_checksum_is_that_of_zlib(home: Path, root: ServerRoot) -> None:
    (home / "file").write_bytes(CONTENT)
    assert of(root, Algorithm.CRC32) == f"{zlib.crc32(CONTENT):x}"


@pytest.mark.parametrize("content", [b"", b"a", b" a\t\r\n", b"ab cd\n", b"\tabc\rde"])
def test_curseforge_leaves_whitespace_out(home: Path, root: ServerRoot, content: bytes) -> None:
    (home / "file").write_bytes(content)
    plain = b"".join(content.split())
    assert of(root, Algorithm.CURSEFORGE) == str(murmur2(plain))


def murmur2(data: bytes) -> int:
    """MurmurHash2 as its author writes it: four bytes at a time."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 1 ^ len(data)
    while len(data) >= 4:
        k = int.from_bytes(data[:4], "little") * m & mask
        k ^= k >> 24
        h = (h * m & mask) ^ (k * m & mask)
        data = data[4:]
    for at in range(len(data) - 1, -1, -1):
        h ^= data[at] << 8 * at
    if data:
        h = h * m & mask
    h ^= h >> 13
    h = h * m & mask
    return h ^ h >> 15


def test_curseforge_agrees_with_a_plain_implementation(home: Path, root: ServerRoot) -> None:
    for size in (1, 2, 3, 4, 5, 1023, 5000):
        content = bytes(33 + number % 90 for number in range(size))
        (home / "file").write_bytes(content)
        assert of(root, Algorithm.CURSEFORGE) == str(murmur2(content))


def test_the_work_ends_when_the_client_has_gone(home: Path, root: ServerRoot) -> None:
    (home / "file").write_bytes(CONTENT)
    with (
        root.open_file(ServerPath.parse("file")) as file,
        pytest.raises(FileWorkCancelled),
    ):
        fingerprint(file, Algorithm.MD5, lambda: True)
