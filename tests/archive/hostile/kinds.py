"""Twins, names that are several things at once, and members that are no files."""

from __future__ import annotations

from tests.archive.hostile.case import Case, directory, file, hard_link, refused, symlink, taken
from tests.support.archives import END, member

COMPOSED, DECOMPOSED = "\u00e9".encode(), "e\u0301".encode()
REPLACED = "would replace a directory"
DAMAGED = "its checksum is not a number"

TWINS = [
    taken(
        "twins but for case",
        member(b"World", b"1") + file(b"world", b"2"),
        {b"World": b"1", b"world": b"2"},
    ),
    taken(
        "a symlink's twin but for case",
        symlink(b"S", b"../outside") + directory(b"s/") + file(b"s/victim"),
        {b"S": "../outside", b"s": None, b"s/victim": b"evil"},
    ),
    taken(
        "twins but for Unicode's forms",
        member(COMPOSED, b"1") + file(DECOMPOSED, b"2"),
        {COMPOSED: b"1", DECOMPOSED: b"2"},
    ),
    taken(
        "a symlink's twin but for Unicode's form",
        symlink(COMPOSED, b"../outside") + file(DECOMPOSED + b"/victim"),
        {COMPOSED: "../outside", DECOMPOSED: None, DECOMPOSED + b"/victim": b"evil"},
    ),
    taken(
        "dotless twins",
        member("\u0131".encode(), b"1") + file(b"i", b"2"),
        {"\u0131".encode(): b"1", b"i": b"2"},
    ),
    taken(
        "the same file twice", member(b"f", b"first, and longer") + file(b"f", b"2"), {b"f": b"2"}
    ),
    taken("a file, then a directory", member(b"x", b"1") + directory(b"x/") + END, {b"x": None}),
    taken(
        "a file, a symlink, a hard link, a directory",
        member(b"f", b"f")
        + member(b"x", b"1")
        + symlink(b"x", b"/etc")
        + hard_link(b"x", b"f")
        + directory(b"x/")
        + END,
        {b"f": b"f", b"x": None},
    ),
    taken(
        "a FIFO in place of a file",
        member(b"f", b"1") + member(b"f", typeflag=b"6") + END,
        {b"f": b"1"},
        '"f" is left out: it is a FIFO',
    ),
    refused("a directory, then a file", directory(b"x/") + file(b"x"), REPLACED),
    refused("a full directory, then a file", member(b"x/f", b"1") + file(b"x"), REPLACED),
    taken(
        "a directory twice",
        directory(b"d/", 0o700) + member(b"d/f", b"1") + directory(b"d/", 0o755) + END,
        {b"d": None, b"d/f": b"1"},
    ),
    taken(
        "a directory without rights and a file in it",
        directory(b"d/", 0) + member(b"d/f", b"1") + END,
        {b"d": None, b"d/f": b"1"},
    ),
]

SPECIAL = [
    taken(
        "a character device",
        member(b"null", typeflag=b"3") + END,
        {},
        '"null" is left out: it is a character device',
    ),
    taken(
        "a block device",
        member(b"sda", typeflag=b"4") + END,
        {},
        '"sda" is left out: it is a block device',
    ),
    taken(
        "a FIFO with escapes in its name",
        member(b"\x1b[2Jp\n", typeflag=b"6") + END,
        {},
        '"\\x1b[2Jp\\n" is left out: it is a FIFO',
    ),
    taken(
        "a device that is written to",
        member(b"null", typeflag=b"3") + file(b"null"),
        {b"null": b"evil"},
        '"null" is left out: it is a character device',
    ),
    taken(
        "a device outside",
        member(b"../outside/null", typeflag=b"3") + END,
        {},
        '"../outside/null" is left out: it is a character device',
    ),
    taken(
        "set-id",
        member(b"su", b"x", mode=0o6755) + END,
        {b"su": b"x"},
        '"su" lost its set-user-id or set-group-id bit',
    ),
    taken(
        "set-id directory",
        directory(b"sg/", 0o2777) + END,
        {b"sg": None},
        '"sg/" lost its set-user-id or set-group-id bit',
    ),
    taken(
        "a volume label",
        member(b"../label", typeflag=b"V") + END,
        {},
        '"../label" is left out: it is a volume label',
    ),
    taken("a file of before ustar", member(b"f", b"x", typeflag=b"\0") + END, {b"f": b"x"}),
    refused("a continued file", member(b"f", b"x", typeflag=b"N") + END, "unknown type"),
    taken("a contiguous file", member(b"f", b"x", typeflag=b"7") + END, {b"f": b"x"}),
    taken("a directory by its slash", member(b"d/") + END, {b"d": None}),
    taken(
        "an incremental dump's directory",
        member(b"d/", b"Yf\0\0", typeflag=b"D") + END,
        {b"d": None},
    ),
    refused("data in a directory's name", member(b"d/", b"x") + END, "a file's data"),
    refused(
        "a part of a multi-volume archive", member(b"f", b"x", typeflag=b"M") + END, "multi-volume"
    ),
    refused("an unknown type", member(b"f", b"x", typeflag=b"Z") + END, "unknown type"),
    refused("an unprintable type", member(b"f", b"x", typeflag=b"\x80") + END, "unknown type"),
    refused("a device with data", member(b"null", b"x" * 600, typeflag=b"3") + END, DAMAGED),
    refused("a directory with data", member(b"d/", b"x" * 600, typeflag=b"5") + END, DAMAGED),
    refused("a symlink with data", member(b"s", b"x" * 600, b"2", link=b"t") + END, DAMAGED),
    refused(
        "a hard link with data",
        member(b"f", b"y") + member(b"h", b"x" * 600, b"1", link=b"f") + END,
        DAMAGED,
    ),
]

CASES: list[Case] = TWINS + SPECIAL
