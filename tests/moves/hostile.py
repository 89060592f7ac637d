"""A corpus of hostile batches: each is sent to a destination that has `BASE`, and refused."""

from __future__ import annotations

from collections.abc import Sequence

import pyzstd

from tests.moves.hostile_batch import (
    GOOD_DATA,
    D,
    HostileBatch,
    data,
    invalid,
    refused,
    shape,
    whole,
)
from tests.moves.hostile_fields import FIELDS, HEADS, NAMES, NUMBERS
from wingsd.errors import BatchConflict, BatchDamaged, DiskLimitExceeded, ShapeMissing
from wingsd.moves.batch import (
    DataFrame,
    DirectoryFrame,
    FileFrame,
    GoneFrame,
    HardFrame,
    LinkFrame,
    PutFrame,
    TakeFrame,
    WholeFrame,
)
from wingsd.moves.digests import block_digest

__all__ = ["CORPUS"]

SHAPES = [
    refused(
        "a path twice",
        "comes twice",
        shape(3, 1, LinkFrame(b"n", b"t", 1), LinkFrame(b"n", b"u", 1)),
    ),
    refused(
        "a file and a directory of one path",
        "comes twice",
        shape(3, 1, DirectoryFrame(b"n", 0o755, 1), FileFrame(9, b"n", 0o644, 1, 1, 4096)),
    ),
    refused(
        "a whole file twice",
        "comes twice",
        data(3, 1, whole(b"n"), whole(b"n"), content=b"goodgood"),
    ),
    refused("gone twice", "comes twice", shape(3, 1, GoneFrame(b"w"), GoneFrame(b"w"))),
    refused(
        "gone below what is gone", "leads through", shape(3, 1, GoneFrame(b"d"), GoneFrame(b"d/w"))
    ),
    refused("gone and never there", "does not exist", shape(3, 1, GoneFrame(b"n"))),
    refused(
        "a directory over a file", "no directory", shape(3, 1, DirectoryFrame(b"w", 0o755, 1))
    ),
    refused(
        "a directory over a symlink", "no directory", shape(3, 1, DirectoryFrame(b"l", 0o755, 1))
    ),
    refused("a symlink over a file", "is there already", shape(3, 1, LinkFrame(b"w", b"t", 1))),
    refused(
        "a symlink over a directory",
        "is there already",
        shape(3, 1, LinkFrame(b"d", b"../outside", 1)),
    ),
    refused("a hard link over a file", "is there already", shape(3, 1, HardFrame(b"w", b"d/f"))),
    refused("a hard link to a directory", "which is no file", shape(3, 1, HardFrame(b"n", b"d"))),
    refused("a hard link to nothing", "which is no file", shape(3, 1, HardFrame(b"n", b"m"))),
    refused(
        "a hard link through a symlink",
        "which is no file",
        shape(3, 1, HardFrame(b"n", b"l/victim")),
    ),
    refused("a hard link to itself", "to itself", shape(3, 1, HardFrame(b"n", b"n"))),
    refused(
        "a file through a symlink",
        "leads through",
        shape(3, 1, FileFrame(9, b"l/n", 0o644, 1, 1, 4096)),
    ),
    refused(
        "a symlink and a file below it",
        "leads through",
        shape(
            3, 1, LinkFrame(b"n", b"../outside", 1), FileFrame(9, b"n/victim", 0o644, 1, 1, 4096)
        ),
    ),
    refused(
        "a directory through a symlink",
        "leads through",
        shape(3, 1, DirectoryFrame(b"l/n", 0o755, 1)),
    ),
    refused(
        "a whole file through a symlink",
        "leads through",
        data(3, 1, whole(b"l/victim"), content=b"good"),
    ),
    refused(
        "a file through a file",
        "leads through",
        shape(3, 1, FileFrame(9, b"w/n", 0o644, 1, 1, 4096)),
    ),
    refused(
        "a whole file through nothing", "leads through", data(3, 1, whole(b"n/n"), content=b"good")
    ),
    refused("gone through a symlink", "leads through", shape(3, 1, GoneFrame(b"l/victim"))),
    refused(
        "a directory becomes a symlink before its file comes",
        "leads through",
        shape(3, 1, GoneFrame(b"d")),
        shape(4, 3, LinkFrame(b"d", b"../outside", 1)),
        data(5, 4, whole(b"d/victim"), content=b"good"),
    ),
    refused(
        "a whole file over a file in blocks",
        "no file that comes as a whole",
        data(3, 1, whole(b"d/f"), content=b"good"),
    ),
    refused(
        "a whole file over a symlink",
        "no file that comes as a whole",
        data(3, 1, whole(b"l"), content=b"good"),
    ),
    refused(
        "a whole file over a directory",
        "no file that comes as a whole",
        data(3, 1, whole(b"d"), content=b"good"),
    ),
    refused("taken and not there", "is no file", shape(3, 1, TakeFrame(b"n", 0))),
    refused("a directory is taken", "is no file", shape(3, 1, TakeFrame(b"d", 0))),
    refused("a symlink is taken", "is no file", shape(3, 1, TakeFrame(b"l", 0))),
    refused("taken through a symlink", "is no file", shape(3, 1, TakeFrame(b"l/victim", 0))),
    refused(
        "a slot twice", "slot 0 comes twice", shape(3, 1, TakeFrame(b"w", 0), TakeFrame(b"d/w", 0))
    ),
    refused(
        "a slot that is in use",
        "slot 0 is in use",
        shape(3, 1, TakeFrame(b"w", 0)),
        shape(4, 3, TakeFrame(b"d/w", 0)),
    ),
    refused("put from an empty slot", "which is empty", shape(3, 1, PutFrame(b"n", 0))),
    refused(
        "put over a file",
        "is there already",
        shape(3, 1, TakeFrame(b"w", 0)),
        shape(4, 3, PutFrame(b"d/w", 0)),
    ),
    refused(
        "put through a symlink",
        "leads through",
        shape(3, 1, TakeFrame(b"w", 0)),
        shape(4, 3, PutFrame(b"l/victim", 0)),
    ),
    refused(
        "too many names",
        "more than 40 files",
        shape(3, 1, *(DirectoryFrame(b"n%d" % n, 0o755, 1) for n in range(40))),
    ),
    refused(
        "too many hard links",
        "more than 40 files",
        shape(3, 1, *(HardFrame(b"n%d" % n, b"w") for n in range(40))),
    ),
    HostileBatch(
        "too many bytes in a hole",
        (shape(3, 1, FileFrame(9, b"n", 0o644, 1, 1 << 21, 4096)),),
        DiskLimitExceeded,
        "raise the server's disk limit",
    ),
    HostileBatch(
        "too many bytes by growing",
        (shape(3, 1, FileFrame(5, b"d/f", 0o644, 1, 1 << 21, 4096)),),
        DiskLimitExceeded,
        "raise the server's disk limit",
    ),
]

DIGESTS = [
    HostileBatch(
        "a block with other bytes",
        (data(3, 1, DataFrame(5, 0, 4096, 4096, D), content=b"x" * 4096),),
        BatchDamaged,
        "block 0 of file 5",
    ),
    HostileBatch(
        "the second of two blocks with other bytes",
        (
            data(
                3,
                1,
                DataFrame(5, 0, 4096, 4096, block_digest(b"x" * 4096) + D),
                content=b"x" * 8192,
            ),
        ),
        BatchDamaged,
        "block 1 of file 5",
    ),
    HostileBatch(
        "a whole file with other bytes",
        (data(3, 1, whole(b"n"), content=b"evil"),),
        BatchDamaged,
        '"n" does not fit',
    ),
    HostileBatch(
        "an empty file with a digest of something",
        (data(3, 1, WholeFrame(b"n", 0o644, 1, 0, D)),),
        BatchDamaged,
        '"n" does not fit',
    ),
]

ORDER = [
    HostileBatch(
        "another batch 2",
        (data(2, 1, whole(b"n"), content=b"good"),),
        BatchConflict,
        "with other contents",
    ),
    HostileBatch(
        "another round",
        (shape(3, 1, GoneFrame(b"w"), in_round=2),),
        BatchConflict,
        "is of round 2",
    ),
    HostileBatch(
        "far beyond the window",
        (data(67, 1, whole(b"n"), content=b"good"),),
        ShapeMissing,
        "more than 64 above",
    ),
    HostileBatch(
        "data before its shape",
        (data(4, 3, whole(b"n"), content=b"good"),),
        ShapeMissing,
        "needs shape 3",
    ),
    HostileBatch(
        "a shape before the one before it",
        (shape(4, 3, GoneFrame(b"w")),),
        ShapeMissing,
        "needs shape 3",
    ),
    HostileBatch(
        "a shape beside another",
        (shape(3, 1, GoneFrame(b"w")), shape(4, 1, GoneFrame(b"l"))),
        BatchConflict,
        "another has changed",
    ),
]

LARGE = 64 << 20

ZSTD = [
    invalid("not compressed", "does not begin as zstd does", GOOD_DATA, zstd=True),
    invalid("half a frame", "ends in the middle", pyzstd.compress(GOOD_DATA)[:-4], zstd=True),
    invalid("two frames", "goes on after", pyzstd.compress(GOOD_DATA) * 2, zstd=True),
    invalid(
        "a byte after the frame",
        "after the end of its zstd frame",
        pyzstd.compress(GOOD_DATA) + b"x",
        zstd=True,
    ),
    invalid(
        "a skippable frame",
        "does not begin as zstd does",
        b"\x50\x2a\x4d\x18\1\0\0\0x" + pyzstd.compress(GOOD_DATA),
        zstd=True,
    ),
    invalid("damaged", "its zstd data is wrong", b"\x28\xb5\x2f\xfd" + b"\xff" * 40, zstd=True),
    invalid(
        "a bomb after the batch",
        "goes on after its last block",
        lambda: pyzstd.compress(GOOD_DATA + bytes(LARGE)),
        zstd=True,
    ),
    invalid(
        "a bomb as a head",
        "does not begin as a batch does",
        lambda: pyzstd.compress(bytes(LARGE)),
        zstd=True,
    ),
    invalid(
        "a window of 128 MiB",
        "its zstd data is wrong",
        lambda: pyzstd.compress(
            bytes(LARGE),
            {pyzstd.CParameter.windowLog: 27, pyzstd.CParameter.contentSizeFlag: 0},
        ),
        zstd=True,
    ),
]

CORPUS: Sequence[HostileBatch] = (
    *(*HEADS, *NAMES, *FIELDS, *NUMBERS),
    *(*SHAPES, *DIGESTS, *ORDER, *ZSTD),
)
