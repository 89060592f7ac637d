"""What the libraries keep in memory, which Python does not see: a process of its own each."""

from __future__ import annotations

import lzma
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lz4.frame
import pytest
import pyzstd

from tests.archive.decompression.formats import PACKERS

MIB = 1 << 20
HUGE_DICTIONARY = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 64 << 20}]

# Given a file, it prints by how many MiB its peak grew while reading that.
PROGRAM = """
import resource, sys
from wingsd.archive.decompress import decompressed
list(decompressed(iter([bytes(1024)])))  # the imports, once and for all
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
before = peak()
with open(sys.argv[1], "rb") as file:
    total = sum(map(len, decompressed(iter(lambda: file.read(1 << 16), b""))))
print(total, peak() - before)
"""


@pytest.mark.promise("archive-memory-is-bounded")
@pytest.mark.parametrize(
    ("pack", "size", "most"),
    [
        (PACKERS["gzip"], 48, 4),
        (PACKERS["bzip2"], 48, 8),
        (lambda data: pyzstd.compress(data, 19), 48, 14),
        (lambda data: lz4.frame.compress(data, block_size=lz4.frame.BLOCKSIZE_MAX4MB), 48, 14),
        (lambda data: lzma.compress(data, filters=HUGE_DICTIONARY), 96, 72),
    ],
    ids=["gzip", "bzip2", "zstd", "lz4", "xz"],
)
def test_a_bomb_takes_no_more_than_the_formats_window(
    tmp_path: Path, pack: Callable[[bytes], bytes], size: int, most: int
) -> None:
    bomb = tmp_path / "bomb"
    bomb.write_bytes(pack(bytes(size * MIB)))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, bomb],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    total, grown = map(int, done.stdout.split())
    assert total == size * MIB
    assert grown <= most
