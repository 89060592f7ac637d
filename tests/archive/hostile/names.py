"""Names that want to be somewhere else, or to be something that no name may be."""

from __future__ import annotations

from tests.archive.hostile.case import Case, directory, file, refused, symlink, taken
from tests.support.archives import END, member, pax

UP, ABSOLUTE = 'its name contains ".."', "its name is absolute"


def long_name(name: bytes, typeflag: bytes = b"L") -> bytes:
    """Return GNU tar's header for a long name, or with K for a long link."""
    return member(b"././@LongLink", name + b"\0", typeflag)


def sparse_name(name: bytes) -> bytes:
    return pax((b"GNU.sparse.name", name), (b"GNU.sparse.size", b"4"), (b"GNU.sparse.map", b"0,4"))


UPWARDS = [
    refused("upwards", file(b"../outside/victim"), UP),
    refused("upwards from inside", file(b"a/../../outside/victim"), UP),
    refused("upwards and in again", file(b"a/../b"), UP),
    refused("upwards after a dot", file(b"./../outside/victim"), UP),
    refused("upwards between doubled slashes", file(b"a//..//..//outside/victim"), UP),
    refused("upwards many times", file(b"../" * 30 + b"etc/wingsd-evil"), UP),
    refused("upwards as a directory", directory(b"../outside/d/") + END, UP),
    refused("upwards as a symlink", symlink(b"../outside/s", b"victim") + END, UP),
    refused("the directory above", directory(b"..") + END, UP),
    refused("the directory above by a file", file(b".."), UP),
    refused("upwards at the end", file(b"a/.."), UP),
    refused("upwards by the prefix", member(b"victim", b"evil", prefix=b"../outside") + END, UP),
    refused("upwards by prefix and name", member(b"../victim", b"evil", prefix=b"a/..") + END, UP),
    refused("upwards by pax", pax((b"path", b"../outside/victim")) + file(b"f"), UP),
    refused("upwards by a long name", long_name(b"../outside/victim") + file(b"f"), UP),
    refused(
        "upwards by a global pax header",
        pax((b"path", b"../outside/victim"), typeflag=b"g") + file(b"f"),
        UP,
    ),
    refused("upwards by a sparse name", sparse_name(b"../outside/victim") + file(b"f"), UP),
    refused(
        "a good long name and a bad pax path",
        long_name(b"good") + pax((b"path", b"../outside/victim")) + file(b"f"),
        UP,
    ),
    refused(
        "the last of two paths",
        pax((b"path", b"good"), (b"path", b"../outside/victim")) + file(b"f"),
        UP,
    ),
    refused("a good member first", member(b"good", b"g") + file(b"../outside/victim"), UP),
]

ABSOLUTES = [
    refused("absolute", file(b"/tmp/wingsd-evil"), ABSOLUTE),
    refused("absolute with two slashes", file(b"//tmp/wingsd-evil"), ABSOLUTE),
    refused(
        "absolute by the prefix", member(b"wingsd-evil", b"e", prefix=b"/tmp") + END, ABSOLUTE
    ),
    refused("absolute by pax", pax((b"path", b"/tmp/wingsd-evil")) + file(b"f"), ABSOLUTE),
    refused("absolute by a long name", long_name(b"/tmp/wingsd-evil") + file(b"f"), ABSOLUTE),
    refused("the root of all", directory(b"/") + END, ABSOLUTE),
    refused("slashes alone", directory(b"///") + END, ABSOLUTE),
]

#: To other systems, or after decoding, they would lead somewhere. Here they are plain names.
LITERAL = [
    taken("backslashes", file(b"..\\..\\outside\\victim"), {b"..\\..\\outside\\victim": b"evil"}),
    taken("a drive", file(b"C:\\evil"), {b"C:\\evil": b"evil"}),
    taken("per cent", file(b"%2e%2e%2fevil"), {b"%2e%2e%2fevil": b"evil"}),
    taken("home", file(b"~/evil"), {b"~": None, b"~/evil": b"evil"}),
    taken("three dots", file(b".../evil"), {b"...": None, b".../evil": b"evil"}),
    taken("dots and a blank", file(b".. /evil"), {b".. ": None, b".. /evil": b"evil"}),
    taken(
        "overlong UTF-8",
        file(b"\xc0\xae\xc0\xae/evil"),
        {b"\xc0\xae\xc0\xae": None, b"\xc0\xae\xc0\xae/evil": b"evil"},
    ),
    taken(
        "the two dot leader",
        file("\u2025/evil".encode()),
        {"\u2025".encode(): None, "\u2025/evil".encode(): b"evil"},
    ),
    taken("a variable", file(b"$HOME"), {b"$HOME": b"evil"}),
    taken("an option", file(b"-rf"), {b"-rf": b"evil"}),
    taken("a newline", file(b"a\n..\nb"), {b"a\n..\nb": b"evil"}),
    taken("escapes of a terminal", file(b"\x1b[2J\x07"), {b"\x1b[2J\x07": b"evil"}),
    taken("not UTF-8", file(b"\xff\xfe"), {b"\xff\xfe": b"evil"}),
    taken("right to left", file("\u202egpj.exe".encode()), {"\u202egpj.exe".encode(): b"evil"}),
    taken("dots and slashes", file(b".//./a/.//b"), {b"a": None, b"a/b": b"evil"}),
    taken("what follows a NUL", file(b"good\0/../../evil"), {b"good": b"evil"}),
    taken("an empty path", pax((b"path", b"")) + file(b"good"), {b"good": b"evil"}),
]

DEEP = b"/".join([b"d"] * 256)
PARTS = [b"p" * 255] * 16
WHOLE = b"/".join(PARTS)

LENGTHS = [
    refused("no name", file(b""), "it has no name"),
    refused("no name by a long name", long_name(b"") + file(b""), "it has no name"),
    refused("the root as a file", file(b"."), "root directory as a file"),
    refused("the root as a file with a slash", file(b"./"), "a file's data"),
    refused("a NUL by pax", pax((b"path", b"a\0b")) + file(b"f"), "NUL byte"),
    refused("a NUL by a long name", long_name(b"a\0b") + file(b"f"), "NUL byte"),
    refused("a part of 256 bytes", long_name(b"n" * 256) + file(b"f"), "longer than 255 bytes"),
    refused("a part of 4,096 bytes", long_name(b"n" * 4096) + file(b"f"), "longer than 255 bytes"),
    taken(
        "a name of 4,095 bytes",
        long_name(WHOLE) + file(b"f"),
        {b"/".join(PARTS[:end]): None for end in range(1, 16)} | {WHOLE: b"evil"},
    ),
    refused(
        "a name of 16,639 bytes",
        long_name(b"/".join([b"p" * 255] * 65)) + file(b"f"),
        "longer than 16384 bytes",
    ),
    refused("a million slashes", long_name(b"/" * 10**6) + directory(b"d") + END, ABSOLUTE),
    refused(
        "a hundred thousand dots", long_name(b"./" * 10**5 + b"f") + file(b"f"), "16384 bytes"
    ),
    refused("too deep", long_name(DEEP + b"/f") + file(b"f"), "256 directories deep"),
    taken(
        "as deep as may be",
        long_name(DEEP) + file(b"f"),
        {DEEP[: 2 * end - 1]: None for end in range(1, 256)} | {DEEP: b"evil"},
    ),
    refused(
        "a long symlink",
        long_name(b"t" * 4096, b"K") + symlink(b"s", b"x") + END,
        "longer than 4095 bytes",
    ),
]

CASES: list[Case] = UPWARDS + ABSOLUTES + LITERAL + LENGTHS
