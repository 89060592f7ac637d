"""zstd's windows."""

from __future__ import annotations

from typing import Any

import pytest
import pyzstd

from tests.archive.decompression.formats import PLAIN, unpacked
from wingsd.errors import ArchiveError


def test_a_window_beyond_the_bound_is_refused_with_advice() -> None:
    option: Any = {pyzstd.CParameter.windowLog: 27}
    compressor = pyzstd.ZstdCompressor(option)
    data = compressor.compress(PLAIN) + compressor.flush()
    with pytest.raises(ArchiveError, match=r"window is larger than 8 MiB.*--long"):
        unpacked(data)
