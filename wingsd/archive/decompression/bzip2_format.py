"""bzip2's streams in a row, as parallel compressors write them. Their CRCs are verified."""

from __future__ import annotations

import bz2

from wingsd.archive.decompression.streams import Streams

__all__ = ["BZIP2"]

# The first block, or of an empty stream the end. Without it, a tar whose first file is named
# "BZh9" would be taken for one.
_FIRST = (b"\x31\x41\x59\x26\x53\x59", b"\x17\x72\x45\x38\x50\x90")

BZIP2 = Streams(
    name="bzip2",
    magics=tuple(b"BZh%d%b" % (level, first) for level in range(1, 10) for first in _FIRST),
    make=bz2.BZ2Decompressor,
    errors=(OSError, ValueError),
)
"""A block is 900 KB at most, and its decompressor takes some 4 MiB."""
