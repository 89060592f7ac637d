"""What the tests send as a Go node's archive is what Go writes."""

from __future__ import annotations

import gzip
from pathlib import Path

from tests.support.go import ODD, go_tar

#: Written by archive/tar of Go 1.24, from the headers that its FileInfoHeader makes of `ODD`.
RECORDED = Path(__file__).parent / "go.tar.gz"


def test_go_writes_the_same() -> None:
    assert go_tar(ODD) == gzip.decompress(RECORDED.read_bytes())
