"""A corpus of hostile archives of users, each with the code it is refused with, or its tree."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Mapping

import attrs
import brotli
import lz4.frame
import pyzstd

from tests.archive.hostile.case import directory, hard_link, symlink
from tests.support.archives import END, member, pax
from tests.support.user_archives import ZipMember, rar4, rar5, snappy_framed, zipped
from wingsd.archive.policy import MAX_DEPTH

__all__ = ["CORPUS", "UserArchive"]

#: By path: bytes are a file's, a text is a symlink's, None is a directory.
Tree = Mapping[str, bytes | str | None]
DAMAGED, UNKNOWN, ENCRYPTED = "archive-damaged", "archive-format-unknown", "archive-encrypted"
LIMIT, LONG, IN_PARTS = "disk-limit-exceeded", "file-name-too-long", "archive-in-parts"
UNSUPPORTED, EXCESSIVE = "archive-method-unsupported", "archive-excessive"
CONFLICT, KIND, NO_DIRECTORY = "file-name-conflict", "file-type-refused", "file-not-directory"
MIB = 1 << 20


@attrs.frozen
class UserArchive:
    """An archive `data` named `name`, extracted beside a file `old`, a directory `dir`, a FIFO
    `fifo`, and symlinks `out` and `up` that lead out of the server's directory.
    """

    title: str
    name: str
    _data: bytes | Callable[[], bytes] = attrs.field(repr=False)
    code: str = ""
    tree: Tree = attrs.Factory(dict)
    passed_over: int = 0

    @property
    def data(self) -> bytes:
        """Made now where that takes long: each process collects all archives."""
        return self._data if isinstance(self._data, bytes) else self._data()


def tar(*parts: bytes) -> bytes:
    return b"".join(parts) + END


def z(name: bytes, data: bytes = b"evil", **options: int | bytes) -> ZipMember:
    return ZipMember(name, data, **options)  # type: ignore[arg-type]


def shared() -> bytes:
    """Return a zip whose list has the data of `f` a second time, as `g`."""
    data = zipped(z(b"f"))
    at, end = data.index(b"PK\1\2"), data.index(b"PK\5\6")
    entry = data[at:end]
    counts = (2).to_bytes(2, "little") * 2 + (2 * len(entry)).to_bytes(4, "little")
    second = entry.removesuffix(b"f") + b"g"
    return data[:end] + second + data[end : end + 8] + counts + data[end + 16 :]


def changed(archive: bytes) -> bytes:
    return archive.replace(b"evil", b"evik")


def deep(directories: int) -> bytes:
    return pax((b"path", b"n/" * directories + b"f")) + member(b"x", b"evil")


def deflated(data: bytes) -> bytes:
    made = zlib.compressobj(9, zlib.DEFLATED, -15)
    return made.compress(data) + made.flush()


def taken(title: str, name: str, data: bytes, tree: Tree, passed_over: int = 0) -> UserArchive:
    return UserArchive(title, name, data, "", tree, passed_over)


def refused(title: str, name: str, data: bytes | Callable[[], bytes], code: str) -> UserArchive:
    return UserArchive(title, name, data, code)


FILE = {"f": b"evil"}
NAMES = [
    taken("a zip upwards", "a.zip", zipped(z(b"../../f")), FILE),
    taken("a tar upwards", "a.tar", tar(member(b"../../../f", b"evil")), FILE),
    taken("upwards inside", "a.tar", tar(member(b"x/../../f", b"evil")), FILE),
    taken("an absolute zip", "a.zip", zipped(z(b"/etc/f")), {"etc": None, "etc/f": b"evil"}),
    taken("an absolute tar", "a.tar", tar(member(b"//f", b"evil")), FILE),
    taken("a RAR upwards", "a.rar", rar5((b"../../f", b"evil")), FILE),
    taken("an old RAR upwards", "a.rar", rar4((b"../../f", b"evil")), FILE),
    taken("dots and slashes", "a.zip", zipped(z(b"././/f")), FILE),
    taken("the directory itself", "a.tar", tar(directory(b"./"), member(b"f", b"evil")), FILE),
    taken("backslashes", "a.tar", tar(member(b"..\\f", b"evil")), {"..\\f": b"evil"}),
    taken("a newline", "a.zip", zipped(z(b"a\nb")), {"a\nb": b"evil"}),
    taken("a leading space", "a.zip", zipped(z(b" f ")), {" f ": b"evil"}),
    taken("CP437", "a.zip", zipped(z(b"\x81\x94")), {"üö": b"evil"}),
    taken("UTF-8 without its flag", "a.zip", zipped(z("ü".encode())), {"ü": b"evil"}),
    taken("UTF-8 with its flag", "a.zip", zipped(z("日".encode(), flags=0x800)), {"日": b"evil"}),
    taken("Latin in a tar", "a.tar", tar(member(b"\xfc", b"evil")), {"\udcfc": b"evil"}),
    taken("a path by pax", "a.tar", tar(pax((b"path", b"../f")), member(b"x", b"evil")), FILE),
    refused("a long part in a zip", "a.zip", zipped(z(b"f"), z(b"n" * 256)), LONG),
    refused("a long part in a tar", "a.tar", tar(pax((b"path", b"n" * 256)), member(b"x")), LONG),
    refused("a long path", "a.zip", zipped(z(b"n/" * 5000 + b"f")), LONG),
    refused("a deep path", "a.tar", tar(member(b"n/" * 40 + b"f"), deep(MAX_DEPTH)), LONG),
    refused("a deep path below the directory", "a.tar", tar(deep(MAX_DEPTH - 1)), LONG),
    refused("a NUL in RAR", "a.rar", rar5((b"a" * 300, b"evil")), LONG),
    taken("two entries with the data of one", "a.zip", shared(), FILE),
    taken("twice the same name", "a.zip", zipped(z(b"f", b"one"), z(b"f", b"evil")), FILE),
    taken("the name of the archive", "a.zip", zipped(z(b"a.zip", b"evil")), {"a.zip": b"evil"}),
    taken("a denied name", "a.zip", zipped(z(b"x.key"), z(b"f")), FILE, 1),
    taken(
        "a name of files that are being written",
        "a.tar",
        tar(member(b".wingsd-%b.part" % (b"0" * 32), b"hidden"), member(b"f", b"evil")),
        FILE,
        1,
    ),
    taken("a denied directory", "a.tar", tar(member(b"no/f"), member(b"f", b"evil")), FILE, 1),
]
LINKS = [
    taken("a symlink", "a.tar", tar(symlink(b"l", b"old")), {"l": "old"}),
    taken("a symlink upwards", "a.tar", tar(symlink(b"l", b"../../x")), {}, 1),
    taken("an absolute symlink", "a.tar", tar(symlink(b"l", b"/etc/passwd")), {}, 1),
    taken("a symlink through one that leads out", "a.tar", tar(symlink(b"l", b"out/x")), {}, 1),
    taken("a symlink to what is denied", "a.tar", tar(symlink(b"l", b"x.key")), {}, 1),
    taken(
        "written through a symlink",
        "a.tar",
        tar(symlink(b"l", b"dir"), member(b"l/f", b"evil")),
        {"l": None, "l/f": b"evil"},
        1,
    ),
    taken(
        "written through a symlink that leads out",
        "a.tar",
        tar(symlink(b"l", b"../beside"), member(b"l/f", b"evil")),
        {"l": None, "l/f": b"evil"},
        1,
    ),
    taken("a symlink in a zip", "a.zip", zipped(z(b"l", b"old", mode=0o120777)), {"l": "old"}),
    taken("a symlink out in a zip", "a.zip", zipped(z(b"l", b"/etc", mode=0o120777)), {}, 1),
    refused("a file in the place of a symlink", "a.tar", tar(member(b"out", b"evil")), KIND),
    refused(
        "a file below a symlink that leads out",
        "a.tar",
        tar(member(b"out/f", b"evil")),
        "file-missing",
    ),
    taken("a symlink in the place of a file", "a.tar", tar(symlink(b"old", b"dir")), {}, 1),
    taken(
        "a hard link",
        "a.tar",
        tar(member(b"f", b"evil"), hard_link(b"h", b"f")),
        {"f": b"evil", "h": b"evil"},
    ),
    taken("a hard link upwards", "a.tar", tar(hard_link(b"h", b"../../beside")), {}, 1),
    taken("a hard link to a symlink", "a.tar", tar(hard_link(b"h", b"out")), {}, 1),
    taken("a hard link to itself", "a.tar", tar(hard_link(b"h", b"h")), {}, 1),
    taken("a hard link to a FIFO", "a.tar", tar(hard_link(b"h", b"fifo")), {}, 1),
    taken("a hard link to a directory", "a.tar", tar(hard_link(b"h", b"dir")), {}, 1),
    refused(
        "hard links as a bomb",
        "a.tar",
        tar(member(b"f", bytes(MIB)), *(hard_link(b"h%d" % n, b"f") for n in range(20))),
        LIMIT,
    ),
]
KINDS = [
    taken("a device", "a.tar", tar(member(b"d", typeflag=b"3"), member(b"f", b"evil")), FILE, 1),
    taken("a FIFO", "a.tar", tar(member(b"d", typeflag=b"6"), member(b"f", b"evil")), FILE, 1),
    refused("a file in the place of a FIFO", "a.tar", tar(member(b"fifo", b"evil")), KIND),
    refused("a file in the place of a directory", "a.zip", zipped(z(b"dir")), CONFLICT),
    refused("a directory in the place of a file", "a.tar", tar(directory(b"old/")), CONFLICT),
    refused("a file below a file", "a.zip", zipped(z(b"old/f")), NO_DIRECTORY),
    taken("an old file", "a.zip", zipped(z(b"old")), {"old": b"evil"}),
]
LARGE, SMALL = bytes(12 * MIB), bytes(2 * MIB)
SIZES = [
    refused("more than the limit", "a.zip", lambda: zipped(z(b"f", LARGE)), LIMIT),
    refused(
        "a bomb",
        "a.zip",
        lambda: zipped(z(b"small"), z(b"f", LARGE, method=8, packed=deflated(LARGE))),
        LIMIT,
    ),
    refused(
        "overlapping bombs",
        "a.zip",
        lambda: zipped(
            *(z(b"f%d" % n, SMALL, method=8, packed=deflated(SMALL)) for n in range(9))
        ),
        LIMIT,
    ),
    refused("a tar bomb", "a.tar.gz", lambda: gzip.compress(tar(member(b"f", LARGE))), LIMIT),
    refused("a bomb in one file", "f.gz", lambda: gzip.compress(LARGE), LIMIT),
    refused("a bomb of xz", "f.xz", lambda: lzma.compress(LARGE), LIMIT),
    refused("a bomb of bzip2", "f.bz2", lambda: bz2.compress(LARGE), LIMIT),
    refused("a bomb of zstd", "f.zst", lambda: pyzstd.compress(LARGE), LIMIT),
    refused("a bomb of lz4", "f.lz4", lambda: lz4.frame.compress(LARGE), LIMIT),
    refused("a bomb of Brotli", "f.br", lambda: brotli.compress(LARGE), LIMIT),
    refused("a bomb of Snappy", "f.sz", lambda: snappy_framed(LARGE), LIMIT),
    refused(
        "a size of 8 EiB",
        "a.tar",
        tar(member(b"f", b"x", size=b"\x80\0\0\0\x7f" + b"\xff" * 7)),
        DAMAGED,
    ),
    refused("a size of 8 GiB", "a.tar", tar(member(b"f", b"x", size=b"77777777777")), DAMAGED),
    refused("a size of 4 GiB in a zip", "a.zip", zipped(z(b"f", b"x", size=0xFFFFFFF0)), LIMIT),
    refused("a longer file than listed", "a.zip", zipped(z(b"f", b"evil", size=2)), DAMAGED),
    refused("a shorter file than listed", "a.zip", zipped(z(b"f", b"evil", size=9)), DAMAGED),
    refused("a wrong checksum", "a.zip", zipped(z(b"f", b"evil", crc=1)), DAMAGED),
    refused(
        "far more inflated than listed",
        "a.zip",
        zipped(z(b"f", b"evil", method=8, packed=deflated(bytes(MIB)), size=300)),
        DAMAGED,
    ),
    refused(
        "a changed byte in RAR", "a.rar", changed(rar5((b"d/", b""), (b"f", b"evil"))), DAMAGED
    ),
    refused("a changed byte in an old RAR", "a.rar", changed(rar4((b"f", b"evil"))), DAMAGED),
    refused(
        "a changed byte in the second file of an old RAR",
        "a.rar",
        changed(rar4((b"x", b"fine" * 99), (b"f", b"evil"))),
        DAMAGED,
    ),
    refused(
        "more inflated than listed",
        "a.zip",
        zipped(z(b"f", b"evil", method=8, packed=deflated(bytes(99999)), size=4)),
        DAMAGED,
    ),
]
STREAM = tar(member(b"f", b"evil" * 5000))
STREAMS = [
    refused("nothing", "a.zip", b"", UNKNOWN),
    refused("nothing at all", "a", b"", UNKNOWN),
    refused("a text", "a.zip", b"hello\n", UNKNOWN),
    refused("a text as a tar", "a.tar", b"hello\n" * 200, UNKNOWN),
    refused("a text in a tar.gz", "a.tar.gz", gzip.compress(b"hello"), UNKNOWN),
    refused("a script", "a.sh", b"#!/bin/sh\nrm -rf /\n", UNKNOWN),
    taken("an empty zip", "a.zip", zipped(), {}),
    taken("an empty tar", "a.tar", END * 10, {}),
    refused("half of a zip", "a.zip", zipped(z(b"f"))[:30], DAMAGED),
    refused("half of a tar", "a.tar", STREAM[:9000], DAMAGED),
    refused("half of a tar.gz", "a.tar.gz", gzip.compress(STREAM)[:-20], DAMAGED),
    refused("a tar.gz without its end", "a.tar.gz", gzip.compress(STREAM)[:-4], DAMAGED),
    refused(
        "a tar.gz with a wrong checksum",
        "a.tar.gz",
        gzip.compress(STREAM)[:-8] + bytes(4) + gzip.compress(STREAM)[-4:],
        DAMAGED,
    ),
    refused(
        "a large dictionary of xz",
        "f.xz",
        lambda: lzma.compress(b"evil", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 96 * MIB}]),
        EXCESSIVE,
    ),
    refused("half of xz", "f.xz", lambda: lzma.compress(STREAM)[:-9], DAMAGED),
    refused("half of Brotli", "f.br", brotli.compress(b"evil" * 99)[:-2], DAMAGED),
    refused("no Brotli", "f.br", b"hello, hello", DAMAGED),
    refused("half of Snappy", "f.sz", snappy_framed(b"evil" * 99)[:-2], DAMAGED),
    refused(
        "a wrong checksum of Snappy",
        "f.sz",
        snappy_framed(b"evil")[:14] + b"\0\0\0\0evil",
        DAMAGED,
    ),
    refused("a wrong RAR", "a.rar", rar5((b"f", b"evil"))[:40], DAMAGED),
    refused("half of a RAR", "a.rar", rar4((b"f", b"evil" * 99))[:-50], DAMAGED),
    refused("7z without a list", "a.7z", b"7z\xbc\xaf\x27\x1c\0\4" + b"\2" * 60, DAMAGED),
    refused("an encrypted RAR", "a.rar", rar5(encrypted=True), ENCRYPTED),
    refused("an encrypted RAR of version 4", "a.rar", rar4((b"f", b"e"), flags=0x80), ENCRYPTED),
    refused("an encrypted zip", "a.zip", zipped(z(b"x"), z(b"f", flags=1)), ENCRYPTED),
    refused("a part of a RAR", "a.part1.rar", rar5((b"f", b"evil"), flags=1)[:-20], IN_PARTS),
    refused("a second part", "a.z02", b"anything", IN_PARTS),
    refused("a later part of a RAR", "a.part02.rar", rar5(flags=3), IN_PARTS),
    refused("a RAR without a file", "a.rar", rar4(), DAMAGED),
    refused("a part of a 7z", "a.7z.001", b"7z\xbc\xaf\x27\x1c\0\4" + b"\1" * 60, IN_PARTS),
    refused("an unknown method", "a.zip", zipped(z(b"f", method=97)), UNSUPPORTED),
    refused(
        "an endless long name",
        "a.tar.gz",
        lambda: gzip.compress(member(b"././@LongLink", b"n" * (8 * MIB), b"L") + STREAM),
        DAMAGED,
    ),
]
CORPUS = [*NAMES, *LINKS, *KINDS, *SIZES, *STREAMS]
