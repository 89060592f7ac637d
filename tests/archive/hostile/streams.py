"""What is around a tar: its compression, its beginning and its end."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib

import lz4.frame
import pyzstd
from attrs import evolve

from tests.archive.hostile.case import Case, file, refused, taken
from tests.support.archives import END, ZERO, header, member
from wingsd.archive.quota import DEFAULT

MIB = 1 << 20
SMALL = evolve(DEFAULT, disk=MIB)
FULL, EMPTY, SHORT = "There is not enough disk space", "the archive is empty", "ends in the middle"
UNKNOWN, GARBAGE, DAMAGED = "of an unknown kind", "followed by something else", "damaged"
PLAIN = file(b"f")
GZIP = gzip.compress(PLAIN, mtime=0)
ZSTD = pyzstd.compress(PLAIN)
XZ = lzma.compress(PLAIN)
BZIP2 = bz2.compress(PLAIN)
LZ4 = lz4.frame.compress(PLAIN, content_checksum=True)
SKIPPABLE = b"\x50\x2a\x4d\x18\x04\0\0\0evil"
IS_F = {b"f": b"evil"}


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("../evil", b"evil")
    return out.getvalue()


def bomb(members: int) -> bytes:
    """Return files of 8 MiB of zeros each, some 8 KiB compressed."""
    one = member(b"f", bytes(8 * MIB))
    pack = zlib.compressobj(9, wbits=31)
    parts = [pack.compress(one) for _ in range(members)]
    return b"".join([*parts, pack.compress(END), pack.flush()])


def zstd_bomb() -> bytes:
    """Return a file of 256 MiB of zeros in some 25 KiB."""
    pack = pyzstd.ZstdCompressor()
    parts = [pack.compress(header(b"f", size=256 * MIB))]
    parts += [pack.compress(bytes(MIB)) for _ in range(256)]
    return b"".join([*parts, pack.compress(END), pack.flush()])


def zeros() -> bytes:
    """Return an archive of one file of 32 MiB of zeros."""
    return member(b"f", bytes(32 * MIB)) + END


def huge_dictionary() -> bytes:
    """Return an xz stream that says it needs 4 GiB of memory to be read."""
    data = bytearray(XZ)
    data[16] = 40
    data[20:24] = zlib.crc32(data[12:20]).to_bytes(4, "little")
    return bytes(data)


def named_gzip() -> bytes:
    return GZIP[:3] + b"\x08" + GZIP[4:10] + b"../../outside/victim\0" + GZIP[10:]


BEGINNINGS = [
    refused("nothing", b"", EMPTY),
    refused("a byte", b"\x1f", UNKNOWN),
    refused("a beginning of gzip", GZIP[:5], SHORT),
    refused("gzip of nothing", gzip.compress(b""), SHORT),
    refused("text", b"<html>413 Request Entity Too Large</html>" * 20, UNKNOWN),
    refused("blanks", b" " * 1024, UNKNOWN),
    refused("all bits set", b"\xff" * 1024, UNKNOWN),
    refused("a ZIP archive", zipped(), UNKNOWN),
    refused("the old form of lz4", b"\x02\x21\x4c\x18" + bytes(600), UNKNOWN),
    refused("skippable frames alone", SKIPPABLE * 3, SHORT),
    refused("gzip after a skippable frame", SKIPPABLE + GZIP, UNKNOWN),
    refused("gzip in gzip", gzip.compress(GZIP), DAMAGED + "|" + SHORT + "|" + UNKNOWN),
    refused("a wrong checksum", header(b"f", checksum=4711) + END, "checksum is wrong"),
    refused(
        "a wrong checksum later",
        member(b"f", b"x") + header(b"g", checksum=1) + END,
        "checksum is wrong",
    ),
    taken(
        "a signed checksum",
        header(
            b"\xe9", checksum=sum(header(b"\xe9")[:148]) + 256 + sum(header(b"\xe9")[156:]) - 256
        )
        + END,
        {b"\xe9": b""},
    ),
]

ENDINGS = [
    taken("zeros alone", bytes(10240), {}),
    taken("one block of zeros at the end", member(b"f", b"evil") + ZERO, IS_F),
    taken("a little of something after the end", PLAIN + b"whatever" * 1000, IS_F),
    taken("members after the end", PLAIN + file(b"g"), IS_F),
    refused(
        "members after one block of zeros",
        member(b"f", b"x") + ZERO + file(b"g"),
        "a block of zeros is followed by",
    ),
    refused("a part of a second block of zeros", member(b"f", b"x") + ZERO + bytes(9), SHORT),
    refused("no end", member(b"f", b"evil"), SHORT),
    refused("cut in a header", PLAIN[:300], UNKNOWN + "|" + SHORT),
    refused("cut in the data", member(b"f", b"x" * 2000)[:1500], SHORT),
    refused("cut in the padding", member(b"f", b"x")[:700], SHORT),
    refused(
        "zeros without end after the end",
        lambda: gzip.compress(PLAIN + bytes(65 * MIB), 9),
        "64 MiB follow the end",
    ),
]

COMPRESSED = [
    taken("several gzip members", gzip.compress(PLAIN[:700]) + gzip.compress(PLAIN[700:]), IS_F),
    taken("a thousand empty gzip members", gzip.compress(b"") * 1000 + GZIP, IS_F),
    taken("zeros after gzip", GZIP + bytes(1000), IS_F),
    taken("a name in gzip's header", named_gzip(), IS_F),
    taken(
        "several zstd frames",
        pyzstd.compress(PLAIN[:700]) + pyzstd.compress(PLAIN[700:]),
        IS_F,
    ),
    taken("a skippable zstd frame", SKIPPABLE + ZSTD, IS_F),
    taken("several xz streams", lzma.compress(PLAIN[:700]) + lzma.compress(PLAIN[700:]), IS_F),
    taken("several bzip2 streams", bz2.compress(PLAIN[:700]) + bz2.compress(PLAIN[700:]), IS_F),
    taken("several lz4 frames", lz4.frame.compress(b"") * 1000 + LZ4 + SKIPPABLE, IS_F),
    taken("a skippable lz4 frame", SKIPPABLE + LZ4, IS_F),
    taken("zeros after each", XZ + bytes(1000), IS_F),
    refused("something after xz", XZ + b"x", GARBAGE),
    refused("something after bzip2", BZIP2 + b"x", GARBAGE),
    refused("something after lz4", LZ4 + b"x", GARBAGE),
    refused("bzip2 after xz", XZ + BZIP2, GARBAGE),
    refused("xz cut short", XZ[:-1], SHORT),
    refused("bzip2 cut short", BZIP2[:-1], SHORT),
    refused("lz4 cut short", LZ4[:-1], SHORT),
    refused("xz with a broken middle", XZ[:40] + b"\xff" * 20 + XZ[60:], DAMAGED),
    refused("bzip2 with a broken middle", BZIP2[:40] + b"\xff" * 20 + BZIP2[60:], DAMAGED),
    refused("lz4 with a wrong checksum", LZ4[:-4] + bytes(4), DAMAGED),
    refused("an xz dictionary of 4 GiB", huge_dictionary(), "dictionary is larger"),
    refused("something after gzip", GZIP + b"x", GARBAGE),
    refused("a tar after gzip", GZIP + PLAIN, GARBAGE),
    refused("something after gzip's zeros", GZIP + bytes(100) + b"x", GARBAGE),
    refused("something after zstd", ZSTD + b"evil", GARBAGE),
    refused("gzip with a wrong CRC", GZIP[:-8] + bytes(4) + GZIP[-4:], DAMAGED),
    refused("gzip with a wrong length", GZIP[:-4] + bytes(4), DAMAGED),
    refused("gzip with a broken middle", GZIP[:20] + b"\xff" * 20 + GZIP[40:], DAMAGED),
    refused("gzip cut in its trailer", GZIP[:-1], SHORT),
    refused("zstd cut short", ZSTD[:-1], SHORT),
    refused("a skippable frame without end", b"\x50\x2a\x4d\x18\xff\xff\xff\xff" + ZSTD, SHORT),
    refused(
        "a zstd window of 128 MiB",
        b"\x28\xb5\x2f\xfd\x00" + bytes([(27 - 10) << 3]) + b"\x01\0\0",
        "window is larger",
    ),
    refused(
        "a gzip bomb of one file",
        lambda: gzip.compress(header(b"f", size=256 * MIB) + bytes(256 * MIB) + END, 1),
        FULL,
        limits=SMALL,
    ),
    refused(
        "a gzip bomb of many files", lambda: bomb(5), FULL, limits=evolve(DEFAULT, disk=20 * MIB)
    ),
    refused("a zstd bomb", zstd_bomb, FULL, limits=SMALL),
    refused("an xz bomb", lambda: lzma.compress(zeros(), preset=0), FULL, limits=SMALL),
    refused("a bzip2 bomb", lambda: bz2.compress(zeros()), FULL, limits=SMALL),
    refused("an lz4 bomb", lambda: lz4.frame.compress(zeros()), FULL, limits=SMALL),
]

CASES: list[Case] = BEGINNINGS + ENDINGS + COMPRESSED
