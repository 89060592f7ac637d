"""A corpus of hostile batches: each is sent to a destination that has `BASE`, and refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from struct import pack

import pyzstd
from attrs import evolve, field, frozen

from tests.support.attributes import acl
from wingsd.errors import (
    BatchConflict,
    BatchDamaged,
    BatchInvalid,
    DiskLimitExceeded,
    FrameRefused,
    MoveVersionUnknown,
    ShapeMissing,
    WingsdError,
)
from wingsd.moves.batch import (
    HEAD,
    AttributesFrame,
    BatchKind,
    DataFrame,
    DirectoryFrame,
    FileFrame,
    Frame,
    GoneFrame,
    HardFrame,
    LinkFrame,
    PutFrame,
    TakeFrame,
    WholeFrame,
    ZeroFrame,
    encode_batch,
    make_index,
)
from wingsd.moves.digests import block_digest, block_digests
from wingsd.moves.tree import MoveLimits

LIMITS = MoveLimits(40, 1 << 20)
DATA = b"0123456789" * 1000
D = block_digest(b"good")


def shape(*frames: Frame, number: int = 3, needs: int = 1, in_round: int = 1) -> bytes:
    return b"".join(encode_batch(make_index(BatchKind.SHAPE, number, in_round, needs, frames), ()))


def data(*frames: Frame, content: bytes = b"", number: int = 3, needs: int = 1) -> bytes:
    index = make_index(BatchKind.DATA, number, 1, needs, frames)
    return b"".join(encode_batch(index, [content]))


def directory(path: bytes, mode: int = 0o755) -> DirectoryFrame:
    return DirectoryFrame(path, mode, 1)


def file(path: bytes = b"n", size: int = 1, block: int = 4096, number: int = 9) -> FileFrame:
    return FileFrame(number, path, 0o644, 1, size, block)


def link(path: bytes, text: bytes = b"t") -> LinkFrame:
    return LinkFrame(path, text, 1)


def whole(path: bytes, content: bytes = b"good") -> WholeFrame:
    return WholeFrame(path, 0o644, 1, len(content), block_digest(content))


def good(path: bytes, number: int = 3, needs: int = 1) -> bytes:
    """Return a batch with a small file."""
    return data(whole(path), content=b"good", number=number, needs=needs)


#: What the destination has: a directory, a file of three blocks, links, small files.
BASE = (
    shape(
        directory(b"d"),
        file(b"d/f", len(DATA), number=5),
        link(b"l", b"../outside"),
        HardFrame(b"h", b"d/f"),
        number=1,
        needs=0,
    ),
    data(
        DataFrame(5, 0, 4096, len(DATA) - 8192, block_digests(DATA, 4096)),
        whole(b"w"),
        whole(b"d/w"),
        content=DATA + b"goodgood",
        number=2,
        needs=1,
    ),
)


@frozen
class HostileBatch:
    """Batches that follow `BASE`, the last of which must fail with an error and its words."""

    name: str
    _batches: tuple[bytes | Callable[[], bytes], ...] = field(repr=False)
    error: type[WingsdError]
    words: str
    zstd: bool = False

    @property
    def batches(self) -> list[bytes]:
        """Made now where that takes long: each process collects all of the corpus."""
        return [each if isinstance(each, bytes) else each() for each in self._batches]


def hostile(
    error: type[WingsdError],
    name: str,
    words: str,
    *batches: bytes | Callable[[], bytes],
    zstd: bool = False,
) -> HostileBatch:
    return HostileBatch(name, batches, error, words, zstd)


refused, invalid = partial(hostile, FrameRefused), partial(hostile, BatchInvalid)
damaged, conflict = partial(hostile, BatchDamaged), partial(hostile, BatchConflict)
missing, limited = partial(hostile, ShapeMissing), partial(hostile, DiskLimitExceeded)


def raw(index: bytes, content: bytes = b"", **head: int) -> bytes:
    """Return a batch of any index, with a right digest."""
    fields = {"version": 1, "reserved": 0, "length": len(index)} | head
    start = HEAD.pack(
        b"WMVB", fields["version"], fields["reserved"], fields["length"], sha256(index).digest()
    )
    return start + index + content


def index(
    frames: bytes = b"\x07\x01\0w",
    *,
    number: int = 3,
    in_round: int = 1,
    kind: int = 1,
    needs: int = 1,
    count: int = 1,
) -> bytes:
    return pack("<QIBQI", number, in_round, kind, needs, count) + frames


GOOD = shape(GoneFrame(b"w"))
GOOD_DATA = good(b"n")


# Hostile batches whose heads, names, fields or numbers are invalid


HEADS = [
    invalid("nothing at all", "ends in the middle", b""),
    invalid("half a head", "ends in the middle", GOOD[:20]),
    invalid("a head alone", "ends in the middle", GOOD[: HEAD.size]),
    invalid("half an index", "ends in the middle", GOOD[:-2]),
    invalid("no bytes", "ends in the middle", GOOD_DATA[:-4]),
    invalid("one byte less", "ends in the middle", GOOD_DATA[:-1]),
    invalid("one byte more", "goes on after its last block", GOOD_DATA + b"x"),
    invalid("a byte after a shape", "goes on after its last block", GOOD + b"x"),
    invalid("two batches in one", "goes on after its last block", GOOD + GOOD_DATA),
    invalid("another magic", "does not begin as a batch does", b"PK\3\4" + GOOD[4:]),
    hostile(MoveVersionUnknown, "a newer version", "it has version 2", raw(index(), version=2)),
    invalid("bits of no meaning", "bits of no meaning", raw(index(), reserved=1)),
    invalid("an index of no length", "its index has 0 bytes", raw(index(), length=0)),
    invalid("an index of four GiB", "4294967295 bytes", raw(index(), length=(1 << 32) - 1)),
    invalid("an index of 16 MiB and one", "bytes", raw(index(), length=(16 << 20) + 1)),
    damaged(
        "an index that was changed", "the index does not fit", GOOD[:-1] + bytes([GOOD[-1] ^ 1])
    ),
    invalid("an index told shorter", "fit its digest", raw(index(), length=len(index()) - 1)),
    invalid("no frames", "it has 0 frames", raw(index(b"x", count=0))),
    invalid("four billion frames", "4294967295 frames", raw(index(count=(1 << 32) - 1))),
    invalid("more frames told", "in the middle of a frame", raw(index(count=2))),
    invalid("fewer frames told", "more than its frames", raw(index(b"\x07\1\0w\x07\1\0l"))),
    invalid("an unknown kind", "unknown kind 3", raw(index(kind=3))),
    invalid("number 0", "number 0", raw(index(number=0, needs=0))),
    invalid("round 0", "round 0", raw(index(in_round=0))),
    invalid("it needs itself", "needs 3", raw(index(needs=3))),
    invalid("an unknown frame", "unknown type 99", raw(index(b"\x63"))),
    invalid("a frame cut in its path", "middle of a frame", raw(index(b"\x07\xff\xffw"))),
    invalid(
        "digests told and missing",
        "middle of a frame",
        raw(index(b"\x11" + pack("<IIIII", 5, 0, 1 << 20, 4096, 1), kind=2)),
    ),
    invalid("data in a shape", "mixes shape and data", shape(ZeroFrame(5, 0, 1))),
    invalid("a shape in data", "mixes shape and data", data(GoneFrame(b"w"))),
    refused(
        "a removal and a creation", "both removes and makes", shape(GoneFrame(b"w"), link(b"n"))
    ),
    refused(
        "a move in one batch",
        "both removes and makes",
        shape(TakeFrame(b"w", 1), PutFrame(b"v", 1)),
    ),
    invalid(
        "more than 112 MiB of bytes",
        "more than 117440512 bytes",
        raw(
            index(
                b"".join(
                    b"\x11" + pack("<IIIII", 5, n << 10, 1024, 65536, 65536) + D * 1024
                    for n in range(2)
                ),
                kind=2,
                count=2,
            )
        ),
    ),
]
BAD_PATHS = {
    b"/etc/wingsd-evil": "absolute",
    b"../outside/victim": 'contains ".."',
    b"d/../../outside/victim": 'contains ".."',
    b"d/..": 'contains ".."',
    b"..": 'contains ".."',
    b".": "one spelling",
    b"./n": "one spelling",
    b"d//n": "one spelling",
    b"n/": "one spelling",
    b"n\0": "NUL byte",
    b"n" * 256: "longer than 255",
    b"/".join([b"n"] * 257): "nested more than 256",
    b"/".join([b"n" * 255] * 65): "longer than 16384",
}
BY_PATH: dict[str, Callable[[bytes], bytes]] = {
    "directory": lambda path: shape(directory(path)),
    "file": lambda path: shape(file(path)),
    "symlink": lambda path: shape(link(path)),
    "hard link": lambda path: shape(HardFrame(path, b"w")),
    "hard link to": lambda path: shape(HardFrame(b"n", path)),
    "take": lambda path: shape(TakeFrame(path, 1)),
    "put": lambda path: shape(PutFrame(path, 1)),
    "gone": lambda path: shape(GoneFrame(path)),
    "whole": good,
}
NAMES = [
    refused(f"{kind} with a path of {len(path)} bytes, {path[:12]!r}", words, make(path))
    for number, (kind, make) in enumerate(BY_PATH.items())
    for at, (path, words) in enumerate(BAD_PATHS.items())
    if path.startswith(b"..") or at % len(BY_PATH) == number  # each kind, and each path
] + [
    refused(f"{kind} without a path", "it has no name", make(b""))
    for kind, make in BY_PATH.items()
    if kind != "directory"
]


def one_attribute(name: bytes, value: bytes) -> bytes:
    return pack("<H", len(name)) + name + pack("<H", len(value)) + value


ACL = acl(users={33: 7}, group=0, mask=7)
ATTRIBUTES = {
    "of the node": one_attribute(b"security.capability", b"1"),
    "trusted": one_attribute(b"trusted.overlay.opaque", b"y"),
    "of the system": one_attribute(b"system.nfs4_acl", b"1"),
    "without a name": one_attribute(b"user.", b"1"),
    "too many": b"".join(one_attribute(b"user.%03d" % n, b"") for n in range(65)),
    "not sorted": one_attribute(b"user.b", b"") + one_attribute(b"user.a", b""),
    "cut": one_attribute(b"user.a", b"1234")[:-1],
    "no ACL": one_attribute(b"system.posix_acl_access", b"rwx"),
    "an ACL without a mask": one_attribute(
        b"system.posix_acl_access", acl(users={33: 7}, group=0)
    ),
}
FIELDS = [
    refused(
        "set-user-id of a file", "the mode 4755", shape(FileFrame(9, b"n", 0o4755, 1, 1, 4096))
    ),
    refused("set-group-id of a directory", "the mode 2755", shape(directory(b"n", 0o2755))),
    refused(
        "set-user-id of a whole file",
        "the mode 4755",
        data(WholeFrame(b"n", 0o4755, 1, 4, D), content=b"good"),
    ),
    refused("a time out of range", "out of range", shape(LinkFrame(b"n", b"t", -(1 << 63)))),
    refused("blocks of 5,000 bytes", "blocks of 5000 bytes", shape(file(b"n", 1, 5000))),
    refused("blocks of no bytes", "blocks of 0 bytes", shape(file(b"n", 1, 0))),
    refused(
        "a file of 16 EiB", "too many for its blocks", shape(file(b"n", (1 << 64) - 1, 65536))
    ),
    refused(
        "more blocks than may be", "too many for its blocks", shape(file(b"n", (1 << 38) + 1))
    ),
    *(
        refused(
            f"attributes that are {what}",
            "is refused: it",
            shape(DirectoryFrame(b"n", 0o755, 1, value)),
        )
        for what, value in ATTRIBUTES.items()
    ),
    *(
        refused(
            f"a file's attributes that are {what}",
            "is refused: it",
            data(evolve(whole(b"n"), attributes=value), content=b"good"),
        )
        for what, value in ATTRIBUTES.items()
    ),
    *(
        refused(
            f"attributes of a number that are {what}",
            "is refused: it",
            data(AttributesFrame(5, value)),
        )
        for what, value in ATTRIBUTES.items()
    ),
    refused(
        "a default ACL of a file",
        "name that is not allowed",
        data(AttributesFrame(5, one_attribute(b"system.posix_acl_default", ACL))),
    ),
    refused("attributes of no file", "number 6", data(AttributesFrame(6, b""))),
    refused(
        "attributes behind blocks",
        "do not come before its blocks",
        data(ZeroFrame(5, 0, 1), AttributesFrame(5, b"")),
    ),
    refused(
        "attributes twice",
        "do not come before its blocks",
        data(AttributesFrame(5, b""), AttributesFrame(5, b"")),
    ),
    refused("the number 0", "the number 0", shape(file(b"n", number=0))),
    refused("a symlink without a text", "without a text", shape(link(b"n", b""))),
    refused("a symlink with a NUL", "NUL byte", shape(link(b"n", b"a\0b"))),
    refused("a long symlink", "longer than 4095", shape(link(b"n", b"t" * 4096))),
    refused(
        "a whole file of 64 KiB and one",
        "too many for one frame",
        data(WholeFrame(b"n", 0o644, 1, 65537, D), content=b"x" * 65537),
    ),
    invalid("a last block of no bytes", "has 0 bytes", data(DataFrame(5, 0, 4096, 0, D))),
    invalid(
        "a last block that is too long",
        "has 4097 bytes",
        data(DataFrame(5, 0, 4096, 4097, D), content=b"x" * 4097),
    ),
    invalid("no blocks", "has no blocks", data(DataFrame(5, 0, 4096, 1, b""))),
    invalid("no zeros", "has no blocks", data(ZeroFrame(5, 0, 0))),
    refused(
        "blocks beyond all numbers",
        "more than 67108864 blocks",
        data(ZeroFrame(5, (1 << 32) - 1, 1)),
    ),
    refused(
        "zeros without end", "more than 67108864 blocks", data(ZeroFrame(5, 0, (1 << 32) - 1))
    ),
    invalid(
        "a digest of zeros",
        "only zeros",
        data(DataFrame(5, 0, 4096, 4096, bytes(16)), content=b"x" * 4096),
    ),
]
NUMBERS = [
    refused("a number bound again", "was given before", shape(file(b"n", number=5))),
    refused("a lower number", "was given before", shape(file(b"n", number=4))),
    refused(
        "a number that is gone",
        "was given before",
        shape(GoneFrame(b"d/f"), GoneFrame(b"h")),
        shape(file(b"n", number=5), number=4, needs=3),
    ),
    refused("another number for a file", "not file 6", shape(file(b"d/f", number=6))),
    refused("a number for a whole file", "not file 6", shape(file(b"w", number=6))),
    refused("a number for a directory", "not file 6", shape(file(b"d", number=6))),
    refused(
        "other blocks for a file",
        "cannot change their size",
        shape(file(b"d/f", 1, 16384, number=5)),
    ),
    refused("data for no file", "no file has the number 6", data(ZeroFrame(6, 0, 1))),
    refused("data for the number 0", "no file has the number 0", data(ZeroFrame(0, 0, 1))),
    refused(
        "data for a file that is gone",
        "no file has the number 5",
        shape(GoneFrame(b"d/f"), GoneFrame(b"h")),
        data(ZeroFrame(5, 0, 1), number=4, needs=3),
    ),
    refused(
        "data for a file without a name",
        "no file has the number 5",
        shape(GoneFrame(b"h"), TakeFrame(b"d/f", 0)),
        data(ZeroFrame(5, 0, 1), number=4, needs=3),
    ),
    refused(
        "data beyond the end",
        "beyond its end",
        data(DataFrame(5, 3, 4096, 4096, D), content=b"x" * 4096),
    ),
    refused(
        "data beyond a new end",
        "beyond its end",
        shape(file(b"d/f", 4096, number=5)),
        data(ZeroFrame(5, 1, 1), number=4, needs=3),
    ),
    refused("zeros beyond the end", "beyond its end", data(ZeroFrame(5, 0, 4))),
    refused(
        "blocks of another size",
        "has blocks of 4096 bytes",
        data(DataFrame(5, 0, 65536, 10000, D), content=b"x" * 10000),
    ),
    refused(
        "a last block that is too short",
        "not as long as it must be",
        data(DataFrame(5, 0, 4096, 100, D), content=b"x" * 100),
    ),
    refused(
        "a last block that makes the file longer",
        "not as long as it must be",
        data(DataFrame(5, 2, 4096, 4096, D), content=b"x" * 4096),
    ),
    refused(
        "blocks twice", "twice, or not in order", data(ZeroFrame(5, 0, 2), ZeroFrame(5, 1, 1))
    ),
    refused(
        "blocks backwards", "twice, or not in order", data(ZeroFrame(5, 1, 1), ZeroFrame(5, 0, 1))
    ),
    refused(
        "blocks of a file apart",
        "are not together",
        data(ZeroFrame(5, 0, 1), ZeroFrame(6, 0, 1), ZeroFrame(5, 1, 1)),
    ),
]


SHAPES = [
    refused("a path twice", "comes twice", shape(link(b"n"), link(b"n", b"u"))),
    refused(
        "a file and a directory of one path", "comes twice", shape(directory(b"n"), file(b"n"))
    ),
    refused(
        "a whole file twice", "comes twice", data(whole(b"n"), whole(b"n"), content=b"goodgood")
    ),
    refused("gone twice", "comes twice", shape(GoneFrame(b"w"), GoneFrame(b"w"))),
    refused("gone below what is gone", "leads through", shape(GoneFrame(b"d"), GoneFrame(b"d/w"))),
    refused("gone and never there", "does not exist", shape(GoneFrame(b"n"))),
    refused("a directory over a file", "no directory", shape(directory(b"w"))),
    refused("a directory over a symlink", "no directory", shape(directory(b"l"))),
    refused("a symlink over a file", "is there already", shape(link(b"w"))),
    refused("a symlink over a directory", "is there already", shape(link(b"d", b"../outside"))),
    refused("a hard link over a file", "is there already", shape(HardFrame(b"w", b"d/f"))),
    refused("a hard link to a directory", "which is no file", shape(HardFrame(b"n", b"d"))),
    refused("a hard link to nothing", "which is no file", shape(HardFrame(b"n", b"m"))),
    refused(
        "a hard link through a symlink", "which is no file", shape(HardFrame(b"n", b"l/victim"))
    ),
    refused("a hard link to itself", "to itself", shape(HardFrame(b"n", b"n"))),
    refused("a file through a symlink", "leads through", shape(file(b"l/n"))),
    refused(
        "a symlink and a file below it",
        "leads through",
        shape(link(b"n", b"../outside"), file(b"n/victim")),
    ),
    refused("a directory through a symlink", "leads through", shape(directory(b"l/n"))),
    refused("a whole file through a symlink", "leads through", good(b"l/victim")),
    refused("a file through a file", "leads through", shape(file(b"w/n"))),
    refused("a whole file through nothing", "leads through", good(b"n/n")),
    refused("gone through a symlink", "leads through", shape(GoneFrame(b"l/victim"))),
    refused(
        "a directory becomes a symlink before its file comes",
        "leads through",
        shape(GoneFrame(b"d")),
        shape(link(b"d", b"../outside"), number=4, needs=3),
        good(b"d/victim", number=5, needs=4),
    ),
    refused("a whole file over a file in blocks", "no file that comes as a whole", good(b"d/f")),
    refused("a whole file over a symlink", "no file that comes as a whole", good(b"l")),
    refused("a whole file over a directory", "no file that comes as a whole", good(b"d")),
    refused("taken and not there", "is no file", shape(TakeFrame(b"n", 0))),
    refused("a directory is taken", "is no file", shape(TakeFrame(b"d", 0))),
    refused("a symlink is taken", "is no file", shape(TakeFrame(b"l", 0))),
    refused("taken through a symlink", "is no file", shape(TakeFrame(b"l/victim", 0))),
    refused("a slot twice", "slot 0 comes twice", shape(TakeFrame(b"w", 0), TakeFrame(b"d/w", 0))),
    refused(
        "a slot that is in use",
        "slot 0 is in use",
        shape(TakeFrame(b"w", 0)),
        shape(TakeFrame(b"d/w", 0), number=4, needs=3),
    ),
    refused("put from an empty slot", "which is empty", shape(PutFrame(b"n", 0))),
    refused(
        "put over a file",
        "is there already",
        shape(TakeFrame(b"w", 0)),
        shape(PutFrame(b"d/w", 0), number=4, needs=3),
    ),
    refused(
        "put through a symlink",
        "leads through",
        shape(TakeFrame(b"w", 0)),
        shape(PutFrame(b"l/victim", 0), number=4, needs=3),
    ),
    refused(
        "too many names",
        "more than 40 files",
        shape(*(DirectoryFrame(b"n%d" % n, 0o755, 1) for n in range(40))),
    ),
    refused(
        "too many hard links",
        "more than 40 files",
        shape(*(HardFrame(b"n%d" % n, b"w") for n in range(40))),
    ),
    limited(
        "too many bytes in a hole", "raise the server's disk limit", shape(file(b"n", 1 << 21))
    ),
    limited(
        "too many bytes by growing",
        "raise the server's disk limit",
        shape(file(b"d/f", 1 << 21, number=5)),
    ),
]
DIGESTS = [
    damaged(
        "a block with other bytes",
        "block 0 of file 5",
        data(DataFrame(5, 0, 4096, 4096, D), content=b"x" * 4096),
    ),
    damaged(
        "the second of two blocks with other bytes",
        "block 1 of file 5",
        data(
            DataFrame(5, 0, 4096, 4096, block_digest(b"x" * 4096) + D),
            content=b"x" * 8192,
        ),
    ),
    damaged(
        "a whole file with other bytes", '"n" does not fit', data(whole(b"n"), content=b"evil")
    ),
    damaged(
        "an empty file with a digest of something",
        '"n" does not fit',
        data(WholeFrame(b"n", 0o644, 1, 0, D)),
    ),
]
ORDER = [
    conflict("another batch 2", "with other contents", good(b"n", number=2, needs=1)),
    conflict("another round", "is of round 2", shape(GoneFrame(b"w"), in_round=2)),
    missing("far beyond the window", "more than 64 above", good(b"n", number=67, needs=1)),
    missing("data before its shape", "needs shape 3", good(b"n", number=4, needs=3)),
    missing(
        "a shape before the one before it",
        "needs shape 3",
        shape(GoneFrame(b"w"), number=4, needs=3),
    ),
    conflict(
        "a shape beside another",
        "another has changed",
        shape(GoneFrame(b"w")),
        shape(GoneFrame(b"l"), number=4, needs=1),
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
            bytes(LARGE), {pyzstd.CParameter.windowLog: 27, pyzstd.CParameter.contentSizeFlag: 0}
        ),
        zstd=True,
    ),
]
CORPUS: Sequence[HostileBatch] = (
    *(*HEADS, *NAMES, *FIELDS, *NUMBERS),
    *(*SHAPES, *DIGESTS, *ORDER, *ZSTD),
)
