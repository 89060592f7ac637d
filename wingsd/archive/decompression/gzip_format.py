"""RFC 1952: gzip members in a row, by ISA-L, which verifies their CRCs and lengths."""

from __future__ import annotations

from typing import cast

from isal import igzip_lib

from wingsd.archive.decompression.streams import Streams

__all__ = ["GZIP"]

GZIP = Streams(
    name="gzip",
    magics=(b"\x1f\x8b",),
    make=lambda: igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP),
    errors=(cast(type[Exception], igzip_lib.error),),
)
"""Its window is 32 KiB."""
