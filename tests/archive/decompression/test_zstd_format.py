"""zstd's windows."""

from __future__ import annotations

import pytest
import zstandard

from tests.archive.decompression.formats import PLAIN, unpacked
from wingsd.archive.errors import ArchiveError


def test_a_window_beyond_the_bound_is_refused_with_advice() -> None:
    huge = zstandard.ZstdCompressionParameters(window_log=27)
    compressor = zstandard.ZstdCompressor(compression_params=huge).compressobj()
    data = compressor.compress(PLAIN) + compressor.flush()
    with pytest.raises(ArchiveError, match=r"window is larger than 8 MiB.*--long"):
        unpacked(data)
