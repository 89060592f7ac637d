"""Fields and extended headers that lie, and sparse files that are nothing but a lie."""

from __future__ import annotations

from attrs import evolve

from tests.archive.hostile.case import Case, directory, file, refused, taken
from tests.support.archives import END, header, member, padded, pax, pax_record
from wingsd.archive.quota import DEFAULT

MIB = 1 << 20
FULL = "There is not enough disk space"
RANGE, NO_NUMBER, SHORT = "out of range", "is not a number", "ends in the middle"
MALFORMED, DAMAGED = "pax header is malformed", "checksum is (wrong|not a number)"
SMALL = evolve(DEFAULT, disk=MIB)
LARGEST = b"%d" % (2**63 - 1)


def raw_pax(payload: bytes) -> bytes:
    """Return an extended header whose records may be nonsense."""
    return member(b"PaxHeaders/x", payload, b"x") + file(b"f")


def sparse(size: bytes, layout: bytes, data: bytes = b"") -> bytes:
    """Return a sparse file of pax format 0.1."""
    records = pax((b"GNU.sparse.size", size), (b"GNU.sparse.map", layout))
    return records + member(b"f", data) + END


def sparse_in_data(payload: bytes, size: bytes = b"10") -> bytes:
    """Return a sparse file of pax format 1.0, whose map is in its data."""
    records = pax(
        (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", size)
    )
    return records + member(b"f", payload) + END


def old_sparse(size: int, more: bytes = b"") -> bytes:
    """Return a sparse file of GNU's old format without data; `more` goes on with its map."""
    raw = [(386, bytes(96)), (482, bytes([bool(more)])), (483, b"%011o\0" % size)]
    return header(b"f", b"S", magic=b"ustar  \0", raw=raw) + more + END


SIZES = [
    refused("a negative size", header(b"f", size=b"\xff" * 12) + END, RANGE),
    refused("the largest size in base 256", header(b"f", size=b"\x80" + b"\xff" * 11), RANGE),
    refused(
        "63 bits of size",
        header(b"f", size=b"\x80" + bytes(3) + b"\x7f" + b"\xff" * 7),
        "the disk is full",
    ),
    refused("a size with a sign", header(b"f", size=b"-0000000001\0") + END, NO_NUMBER),
    refused("a size in hexadecimal", header(b"f", size=b"0x10\0") + END, NO_NUMBER),
    refused("a size with an underscore", header(b"f", size=b"1_0\0") + END, NO_NUMBER),
    refused("a size of digits that are not octal", header(b"f", size=b"00000000009\0"), NO_NUMBER),
    refused("a size in fullwidth digits", header(b"f", size="\uff11".encode() + b"\0"), RANGE),
    refused("a mode in base 256 that is negative", header(b"f", raw=[(100, b"\xff" * 8)]), RANGE),
    refused("a time of the far future", header(b"f", mtime=b"\x80" + b"\xff" * 11) + END, RANGE),
    refused("more than there is", header(b"f", size=10**6) + b"x", SHORT),
    refused(
        "eight gibibytes that are not there",
        header(b"f", size=b"77777777777\0"),
        FULL,
        limits=SMALL,
    ),
    refused("less than there is", header(b"f", size=1) + padded(b"x" * 600) + END, DAMAGED),
    refused("no size for what is there", header(b"f") + padded(b"x" * 600) + END, DAMAGED),
    taken(
        "a size in base 256",
        header(b"f", size=b"\x80" + bytes(10) + b"\x04") + padded(b"evil") + END,
        {b"f": b"evil"},
    ),
    taken("a blank size", header(b"f", size=b" " * 12) + END, {b"f": b""}),
]

PAX = [
    refused("a pax size beyond", pax((b"size", b"99999")) + file(b"f"), SHORT),
    refused("a pax size of less", pax((b"size", b"1")) + member(b"f", b"x" * 600) + END, DAMAGED),
    refused("a negative pax size", pax((b"size", b"-1")) + file(b"f"), "a number in its pax"),
    refused("a pax size of twenty digits", pax((b"size", b"9" * 20)) + file(b"f"), "a number in"),
    refused("the largest pax size", pax((b"size", LARGEST)) + file(b"f"), FULL, limits=SMALL),
    refused("a pax time that is none", pax((b"mtime", b"nan")) + file(b"f"), NO_NUMBER),
    refused("a pax time with an exponent", pax((b"mtime", b"1e9")) + file(b"f"), NO_NUMBER),
    refused("a pax time of the far future", pax((b"mtime", b"9" * 15)) + file(b"f"), RANGE),
    refused("a record longer than its header", raw_pax(b"99 path=g\n"), MALFORMED),
    refused("a record of no length", raw_pax(b"0 path=g\n"), MALFORMED),
    refused("a record of a negative length", raw_pax(b"-9 path=g\n"), MALFORMED),
    refused("a record that ends too early", raw_pax(b"8 path=g\n"), MALFORMED),
    refused("a record without an end", raw_pax(b"9 path=gh"), MALFORMED),
    refused("a record without a key", raw_pax(b"5 =g\n"), MALFORMED),
    refused("a record without a value", raw_pax(b"7 path\n"), MALFORMED),
    refused("a length that begins with a blank", raw_pax(b" 6 a=\n"), MALFORMED),
    refused("something that is no record", raw_pax(b"x"), MALFORMED),
    refused("something after the last record", raw_pax(b"6 a=b\nx"), MALFORMED),
    refused("a length of a thousand digits", raw_pax(b"0" * 1000 + b"9 path=g\n"), MALFORMED),
    refused(
        "a header that says more than it has",
        header(b"x", b"x", 2000) + padded(pax_record(b"path", b"g")) + file(b"f"),
        MALFORMED,
    ),
    refused(
        "an extended header of a mebibyte and more", header(b"x", b"x", MIB + 1), "longer than"
    ),
    refused(
        "extended headers of a mebibyte together",
        3 * pax((b"comment", b"c" * 400_000)) + file(b"f"),
        "longer than",
    ),
    refused("a long name of a mebibyte and more", header(b"x", b"L", MIB + 1), "longer than"),
    refused(
        "extended headers without end",
        100 * member(b"x", typeflag=b"x") + file(b"f"),
        "more than 64 extended headers",
    ),
    refused("an extended header and then nothing", pax((b"path", b"g")) + END, DAMAGED),
    refused("an extended header at the very end", pax((b"path", b"g")), SHORT),
    refused(
        "a global size",
        pax((b"size", b"0"), typeflag=b"g") + member(b"f", b"x" * 600) + END,
        DAMAGED,
    ),
    taken(
        "a global name for all",
        pax((b"path", b"g"), typeflag=b"g") + member(b"a", b"1") + file(b"b", b"2"),
        {b"g": b"2"},
    ),
    taken(
        "a global header taken back",
        pax((b"path", b"../evil"), typeflag=b"g") + pax((b"path", b"f")) + file(b"x"),
        {b"f": b"evil"},
    ),
    taken(
        "keys of no concern",
        pax((b"uname", b"root"), (b"SCHILY.xattr.user.a", b"\0"), (b"evil", b"=")) + file(b"f"),
        {b"f": b"evil"},
    ),
]

SPARSE = [
    refused("a sparse bomb", sparse(b"%d" % (1 << 40), b"%d,0" % (1 << 40)), FULL, limits=SMALL),
    refused("a sparse bomb of the old form", old_sparse(1 << 32), FULL, limits=SMALL),
    refused(
        "a sparse bomb of form 1.0",
        sparse_in_data(padded(b"0\n"), b"%d" % (1 << 40)),
        FULL,
        limits=SMALL,
    ),
    refused("the largest sparse file", sparse(LARGEST, LARGEST + b",0"), "larger than the file"),
    refused("sparse data beyond the file", sparse(b"1", b"9,1", b"x"), "does not fit"),
    refused("sparse data that is not there", sparse(b"9", b"0,9", b"x"), "does not fit"),
    refused("sparse data that overlaps", sparse(b"9", b"0,2,1,2", b"abcd"), "overlaps"),
    refused("sparse data out of order", sparse(b"9", b"5,2,0,2", b"abcd"), "out of order"),
    refused("half a sparse segment", sparse(b"9", b"0,4,5", b"abcd"), "without a length"),
    refused("a negative sparse offset", sparse(b"9", b"-1,4", b"abcd"), "a number in its pax"),
    refused("a sparse map of letters", sparse(b"9", b"a,b", b"abcd"), "a number in its pax"),
    refused("data at the largest offset", sparse(b"9", b"0,1," + LARGEST + b",1"), "does not fit"),
    refused("data at an offset of twenty digits", sparse(b"9", b"%d,1" % 10**20), "a number in"),
    refused("a sparse map of nothing", sparse(b"9", b"", b"abcd"), "does not fit"),
    refused(
        "a sparse file without a size",
        pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")) + file(b"f", padded(b"0\n")),
        "a number in its pax",
    ),
    refused(
        "a sparse map of fewer than it says", sparse_in_data(padded(b"3\n1\n1\n")), "does not end"
    ),
    refused(
        "a sparse map that does not end", sparse_in_data(b"5\n" + b"1" * 2000), "does not end"
    ),
    refused(
        "a sparse map of a billion", sparse_in_data(padded(b"999999999\n")), "more than 262144"
    ),
    refused(
        "an unknown sparse format", pax((b"GNU.sparse.major", b"9")) + file(b"f"), "is unknown"
    ),
    refused(
        "an old sparse map without end",
        old_sparse(1, (bytes(504) + b"\1" + bytes(7)) * 13_000),
        "more than 262144",
    ),
    taken("a sparse file of nothing", sparse(b"3", b"3,0"), {b"f": bytes(3)}),
]

BOUNDS = [
    refused(
        "more members than may be",
        b"".join(member(b"f%d" % n) for n in range(6)) + END,
        "more than 5 files",
        limits=evolve(DEFAULT, members=5),
    ),
    refused(
        "more that is left out than may be",
        b"".join(member(b"p%d" % n, typeflag=b"6") for n in range(6)) + END,
        "more than 5 files",
        limits=evolve(DEFAULT, members=5),
    ),
    taken(
        "as many members as may be",
        b"".join(directory(b"d%d/" % n) for n in range(5)) + END,
        {b"d%d" % n: None for n in range(5)},
        limits=evolve(DEFAULT, members=5),
    ),
    refused(
        "directories after their contents",
        b"".join(member(b"d%d/f" % n) + directory(b"d%d/" % n) for n in range(50)) + END,
        "too many directories come after",
        limits=evolve(DEFAULT, directory_memory=9000),
    ),
    refused(
        "a directory of 16,000 bytes of name again and again",
        b"".join(
            pax((b"path", b"/".join([b"%d" % n + b"p" * 250] * 60))) + directory(b"d")
            for n in range(2)
            for _ in range(2)
        )
        + END,
        "too many directories come after",
        limits=evolve(DEFAULT, directory_memory=30_000),
    ),
    refused(
        "files of a mebibyte and a byte together",
        member(b"a", bytes(MIB // 2)) + member(b"b", bytes(MIB // 2)) + file(b"c", b"x"),
        FULL,
        limits=SMALL,
    ),
    taken(
        "files of a mebibyte together",
        member(b"a", bytes(MIB // 2)) + file(b"b", bytes(MIB // 2)),
        {b"a": bytes(MIB // 2), b"b": bytes(MIB // 2)},
        limits=SMALL,
    ),
    taken(
        "hard links take nothing",
        member(b"a", bytes(MIB))
        + b"".join(member(b"h%d" % n, typeflag=b"1", link=b"a") for n in range(3))
        + END,
        {b"a": bytes(MIB)} | {b"h%d" % n: bytes(MIB) for n in range(3)},
        limits=SMALL,
    ),
    refused(
        "data that is left out",
        member(b"label", bytes(MIB + 1), typeflag=b"V") + END,
        FULL,
        limits=SMALL,
    ),
    refused(
        "a directory's own data",
        member(b"d/", bytes(MIB + 1), typeflag=b"D") + END,
        FULL,
        limits=SMALL,
    ),
]

CASES: list[Case] = SIZES + PAX + SPARSE + BOUNDS
