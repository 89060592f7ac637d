"""xz streams in a row, by liblzma, which verifies their checks, sizes and index."""

from __future__ import annotations

import lzma

from wingsd.archive.decompression.streams import Streams

__all__ = ["MAX_DICTIONARY", "XZ"]

MAX_DICTIONARY = 64 << 20
"""The largest dictionary taken, in bytes: that of `xz -9`, which nodes send that are told to
compress best. It is kept in memory as far as data has come to fill it."""

_BESIDE_IT = 2 << 20


def _advice(error: Exception) -> str:
    if "limit" not in str(error):
        return ""
    return (
        f"the archive's xz dictionary is larger than {MAX_DICTIONARY >> 20} MiB; "
        "compress it with one of the presets -0 to -9 as they are"
    )


XZ = Streams(
    name="xz",
    magics=(b"\xfd7zXZ\0",),
    make=lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_DICTIONARY + _BESIDE_IT),
    errors=(lzma.LZMAError,),
    advice=_advice,
    padding=4,  # the xz format, section 2.2
)
