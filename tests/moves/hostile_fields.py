"""Hostile batches whose heads, names, fields or numbers are invalid."""

from __future__ import annotations

from collections.abc import Callable
from struct import pack

from attrs import evolve

from tests.moves.hostile_batch import (
    GOOD,
    GOOD_DATA,
    D,
    HostileBatch,
    data,
    index,
    invalid,
    raw,
    refused,
    shape,
    whole,
)
from tests.support.attributes import acl
from wingsd.errors import BatchDamaged, MoveVersionUnknown
from wingsd.moves.batch import (
    HEAD,
    AttributesFrame,
    DataFrame,
    DirectoryFrame,
    FileFrame,
    GoneFrame,
    HardFrame,
    LinkFrame,
    PutFrame,
    TakeFrame,
    WholeFrame,
    ZeroFrame,
)

__all__ = [
    "FIELDS",
    "HEADS",
    "NAMES",
    "NUMBERS",
]

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
    HostileBatch(
        "a newer version", (raw(index(), version=2),), MoveVersionUnknown, "it has version 2"
    ),
    invalid("bits of no meaning", "bits of no meaning", raw(index(), reserved=1)),
    invalid("an index of no length", "its index has 0 bytes", raw(index(), length=0)),
    invalid("an index of four GiB", "4294967295 bytes", raw(index(), length=(1 << 32) - 1)),
    invalid("an index of 16 MiB and one", "bytes", raw(index(), length=(16 << 20) + 1)),
    HostileBatch(
        "an index that was changed",
        (GOOD[:-1] + bytes([GOOD[-1] ^ 1]),),
        BatchDamaged,
        "the index does not fit",
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
    invalid("data in a shape", "mixes shape and data", shape(3, 1, ZeroFrame(5, 0, 1))),
    invalid("a shape in data", "mixes shape and data", data(3, 1, GoneFrame(b"w"))),
    refused(
        "a removal and a creation",
        "both removes and makes",
        shape(3, 1, GoneFrame(b"w"), LinkFrame(b"n", b"t", 1)),
    ),
    refused(
        "a move in one batch",
        "both removes and makes",
        shape(3, 1, TakeFrame(b"w", 1), PutFrame(b"v", 1)),
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
    "directory": lambda path: shape(3, 1, DirectoryFrame(path, 0o755, 1)),
    "file": lambda path: shape(3, 1, FileFrame(9, path, 0o644, 1, 1, 4096)),
    "symlink": lambda path: shape(3, 1, LinkFrame(path, b"t", 1)),
    "hard link": lambda path: shape(3, 1, HardFrame(path, b"w")),
    "hard link to": lambda path: shape(3, 1, HardFrame(b"n", path)),
    "take": lambda path: shape(3, 1, TakeFrame(path, 1)),
    "put": lambda path: shape(3, 1, PutFrame(path, 1)),
    "gone": lambda path: shape(3, 1, GoneFrame(path)),
    "whole": lambda path: data(3, 1, whole(path), content=b"good"),
}

NAMES = [
    refused(f"{kind} with a path of {len(path)} bytes, {path[:12]!r}", words, make(path))
    for kind, make in BY_PATH.items()
    for path, words in BAD_PATHS.items()
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
        "set-user-id of a file",
        "the mode 4755",
        shape(3, 1, FileFrame(9, b"n", 0o4755, 1, 1, 4096)),
    ),
    refused(
        "set-group-id of a directory",
        "the mode 2755",
        shape(3, 1, DirectoryFrame(b"n", 0o2755, 1)),
    ),
    refused(
        "set-user-id of a whole file",
        "the mode 4755",
        data(3, 1, WholeFrame(b"n", 0o4755, 1, 4, D), content=b"good"),
    ),
    refused("a time out of range", "out of range", shape(3, 1, LinkFrame(b"n", b"t", -(1 << 63)))),
    refused(
        "blocks of 5,000 bytes",
        "blocks of 5000 bytes",
        shape(3, 1, FileFrame(9, b"n", 0o644, 1, 1, 5000)),
    ),
    refused(
        "blocks of no bytes", "blocks of 0 bytes", shape(3, 1, FileFrame(9, b"n", 0o644, 1, 1, 0))
    ),
    refused(
        "a file of 16 EiB",
        "too many for its blocks",
        shape(3, 1, FileFrame(9, b"n", 0o644, 1, (1 << 64) - 1, 65536)),
    ),
    refused(
        "more blocks than may be",
        "too many for its blocks",
        shape(3, 1, FileFrame(9, b"n", 0o644, 1, (1 << 38) + 1, 4096)),
    ),
    *(
        refused(
            f"attributes that are {what}",
            "is refused: it",
            shape(3, 1, DirectoryFrame(b"n", 0o755, 1, value)),
        )
        for what, value in ATTRIBUTES.items()
    ),
    *(
        refused(
            f"a file's attributes that are {what}",
            "is refused: it",
            data(3, 1, evolve(whole(b"n"), attributes=value), content=b"good"),
        )
        for what, value in ATTRIBUTES.items()
    ),
    *(
        refused(
            f"attributes of a number that are {what}",
            "is refused: it",
            data(3, 1, AttributesFrame(5, value)),
        )
        for what, value in ATTRIBUTES.items()
    ),
    refused(
        "a default ACL of a file",
        "name that is not allowed",
        data(3, 1, AttributesFrame(5, one_attribute(b"system.posix_acl_default", ACL))),
    ),
    refused("attributes of no file", "number 6", data(3, 1, AttributesFrame(6, b""))),
    refused(
        "attributes behind blocks",
        "do not come before its blocks",
        data(3, 1, ZeroFrame(5, 0, 1), AttributesFrame(5, b"")),
    ),
    refused(
        "attributes twice",
        "do not come before its blocks",
        data(3, 1, AttributesFrame(5, b""), AttributesFrame(5, b"")),
    ),
    refused("the number 0", "the number 0", shape(3, 1, FileFrame(0, b"n", 0o644, 1, 1, 4096))),
    refused("a symlink without a text", "without a text", shape(3, 1, LinkFrame(b"n", b"", 1))),
    refused("a symlink with a NUL", "NUL byte", shape(3, 1, LinkFrame(b"n", b"a\0b", 1))),
    refused("a long symlink", "longer than 4095", shape(3, 1, LinkFrame(b"n", b"t" * 4096, 1))),
    refused(
        "a whole file of 64 KiB and one",
        "too many for one frame",
        data(3, 1, WholeFrame(b"n", 0o644, 1, 65537, D), content=b"x" * 65537),
    ),
    invalid("a last block of no bytes", "has 0 bytes", data(3, 1, DataFrame(5, 0, 4096, 0, D))),
    invalid(
        "a last block that is too long",
        "has 4097 bytes",
        data(3, 1, DataFrame(5, 0, 4096, 4097, D), content=b"x" * 4097),
    ),
    invalid("no blocks", "has no blocks", data(3, 1, DataFrame(5, 0, 4096, 1, b""))),
    invalid("no zeros", "has no blocks", data(3, 1, ZeroFrame(5, 0, 0))),
    refused(
        "blocks beyond all numbers",
        "more than 67108864 blocks",
        data(3, 1, ZeroFrame(5, (1 << 32) - 1, 1)),
    ),
    refused(
        "zeros without end",
        "more than 67108864 blocks",
        data(3, 1, ZeroFrame(5, 0, (1 << 32) - 1)),
    ),
    invalid(
        "a digest of zeros",
        "only zeros",
        data(3, 1, DataFrame(5, 0, 4096, 4096, bytes(16)), content=b"x" * 4096),
    ),
]

NUMBERS = [
    refused(
        "a number bound again",
        "was given before",
        shape(3, 1, FileFrame(5, b"n", 0o644, 1, 1, 4096)),
    ),
    refused(
        "a lower number", "was given before", shape(3, 1, FileFrame(4, b"n", 0o644, 1, 1, 4096))
    ),
    refused(
        "a number that is gone",
        "was given before",
        shape(3, 1, GoneFrame(b"d/f"), GoneFrame(b"h")),
        shape(4, 3, FileFrame(5, b"n", 0o644, 1, 1, 4096)),
    ),
    refused(
        "another number for a file",
        "not file 6",
        shape(3, 1, FileFrame(6, b"d/f", 0o644, 1, 1, 4096)),
    ),
    refused(
        "a number for a whole file",
        "not file 6",
        shape(3, 1, FileFrame(6, b"w", 0o644, 1, 1, 4096)),
    ),
    refused(
        "a number for a directory",
        "not file 6",
        shape(3, 1, FileFrame(6, b"d", 0o644, 1, 1, 4096)),
    ),
    refused(
        "other blocks for a file",
        "cannot change their size",
        shape(3, 1, FileFrame(5, b"d/f", 0o644, 1, 1, 16384)),
    ),
    refused("data for no file", "no file has the number 6", data(3, 1, ZeroFrame(6, 0, 1))),
    refused("data for the number 0", "no file has the number 0", data(3, 1, ZeroFrame(0, 0, 1))),
    refused(
        "data for a file that is gone",
        "no file has the number 5",
        shape(3, 1, GoneFrame(b"d/f"), GoneFrame(b"h")),
        data(4, 3, ZeroFrame(5, 0, 1)),
    ),
    refused(
        "data for a file without a name",
        "no file has the number 5",
        shape(3, 1, GoneFrame(b"h"), TakeFrame(b"d/f", 0)),
        data(4, 3, ZeroFrame(5, 0, 1)),
    ),
    refused(
        "data beyond the end",
        "beyond its end",
        data(3, 1, DataFrame(5, 3, 4096, 4096, D), content=b"x" * 4096),
    ),
    refused(
        "data beyond a new end",
        "beyond its end",
        shape(3, 1, FileFrame(5, b"d/f", 0o644, 1, 4096, 4096)),
        data(4, 3, ZeroFrame(5, 1, 1)),
    ),
    refused("zeros beyond the end", "beyond its end", data(3, 1, ZeroFrame(5, 0, 4))),
    refused(
        "blocks of another size",
        "has blocks of 4096 bytes",
        data(3, 1, DataFrame(5, 0, 65536, 10000, D), content=b"x" * 10000),
    ),
    refused(
        "a last block that is too short",
        "not as long as it must be",
        data(3, 1, DataFrame(5, 0, 4096, 100, D), content=b"x" * 100),
    ),
    refused(
        "a last block that makes the file longer",
        "not as long as it must be",
        data(3, 1, DataFrame(5, 2, 4096, 4096, D), content=b"x" * 4096),
    ),
    refused(
        "blocks twice",
        "twice, or not in order",
        data(3, 1, ZeroFrame(5, 0, 2), ZeroFrame(5, 1, 1)),
    ),
    refused(
        "blocks backwards",
        "twice, or not in order",
        data(3, 1, ZeroFrame(5, 1, 1), ZeroFrame(5, 0, 1)),
    ),
    refused(
        "blocks of a file apart",
        "are not together",
        data(3, 1, ZeroFrame(5, 0, 1), ZeroFrame(6, 0, 1), ZeroFrame(5, 1, 1)),
    ),
]
