"""Links that lead out, and members that want to go through them."""

from __future__ import annotations

from tests.archive.hostile.case import Case, directory, file, hard_link, refused, symlink, taken
from tests.archive.hostile.names import UP, long_name
from tests.support.archives import END, member, pax

THROUGH = "which is not followed"
NOT_THERE, ABSOLUTE = "which does not exist", "its name is absolute"
OUT = symlink(b"s", b"../outside")

SYMLINKS = [
    refused("through a symlink", OUT + file(b"s/victim"), THROUGH),
    refused("a directory through a symlink", OUT + directory(b"s/d/") + END, THROUGH),
    refused("a symlink through a symlink", OUT + symlink(b"s/t", b"x") + END, THROUGH),
    refused("a hard link through a symlink", OUT + hard_link(b"s/t", b"s") + END, THROUGH),
    refused(
        "through an absolute symlink", symlink(b"s", b"/tmp") + file(b"s/wingsd-evil"), THROUGH
    ),
    refused(
        "through a chain",
        symlink(b"a", b"b") + symlink(b"b", b"../outside") + file(b"a/victim"),
        THROUGH,
    ),
    refused(
        "through a chain of directories",
        symlink(b"a", b"..") + symlink(b"b", b"a/outside") + file(b"b/victim"),
        THROUGH,
    ),
    refused("through a symlink to here", symlink(b"s", b".") + file(b"s/s/s/f"), THROUGH),
    refused("through a symlink to itself", symlink(b"s", b"s") + file(b"s/f"), THROUGH),
    refused(
        "through a symlink that leads inside",
        directory(b"d/") + symlink(b"s", b"d") + file(b"s/f"),
        THROUGH,
    ),
    refused(
        "through a symlink deep down",
        symlink(b"a/b/c", b"../../../outside") + file(b"a/b/c/victim"),
        THROUGH,
    ),
    refused(
        "through the process's own root",
        symlink(b"s", b"/proc/self/root/tmp") + file(b"s/wingsd-evil"),
        THROUGH,
    ),
    refused(
        "through the working directory",
        symlink(b"s", b"/proc/self/cwd") + file(b"s/victim"),
        THROUGH,
    ),
    refused(
        "through one with a slash at its end",
        symlink(b"s/", b"../outside") + file(b"s/victim"),
        THROUGH,
    ),
    refused("through one that was a file", member(b"s", b"x") + OUT + file(b"s/victim"), THROUGH),
    refused("through a file", member(b"f", b"x") + file(b"f/g"), THROUGH),
    refused(
        "a symlink where a directory is",
        directory(b"s/") + OUT + file(b"s/victim"),
        "would replace a directory",
    ),
    refused(
        "a symlink where a full directory is",
        member(b"s/f", b"x") + OUT + END,
        "would replace a directory",
    ),
    refused(
        "a symlink in place of the root",
        symlink(b"./", b"../outside") + END,
        "root directory as a file",
    ),
    refused("an empty symlink", symlink(b"s", b"") + END, "without a text"),
    refused(
        "a NUL in a symlink", pax((b"linkpath", b"a\0b")) + symlink(b"s", b"x") + END, "NUL byte"
    ),
    taken("a symlink that leads out, and nothing else", OUT + END, {b"s": "../outside"}),
    taken(
        "a file where a symlink was",
        symlink(b"s", b"../outside/victim") + file(b"s"),
        {b"s": b"evil"},
    ),
    taken(
        "a directory where a symlink was",
        OUT + directory(b"s/", 0o777) + file(b"s/victim"),
        {b"s": None, b"s/victim": b"evil"},
    ),
    taken("a symlink and its twin", OUT + symlink(b"s", b"/etc") + END, {b"s": "/etc"}),
    taken(
        "a long symlink's text",
        long_name(b"t" * 300, b"K") + symlink(b"s", b"x") + END,
        {b"s": "t" * 300},
    ),
    taken("a symlink where a file was", member(b"s", b"x") + OUT + END, {b"s": "../outside"}),
]

HARD_LINKS = [
    refused("a hard link to the outside", hard_link(b"h", b"../outside/victim") + file(b"h"), UP),
    refused("an absolute hard link", hard_link(b"h", b"/etc/passwd") + END, ABSOLUTE),
    refused(
        "a hard link out by pax",
        pax((b"linkpath", b"../outside/victim")) + hard_link(b"h", b"f") + END,
        UP,
    ),
    refused(
        "a hard link out by a long link",
        long_name(b"../outside/victim", b"K") + hard_link(b"h", b"f") + END,
        UP,
    ),
    refused(
        "a hard link out by a global header",
        pax((b"linkpath", b"../outside/victim"), typeflag=b"g") + hard_link(b"h", b"f") + END,
        UP,
    ),
    refused(
        "a hard link to what is behind a symlink",
        OUT + hard_link(b"h", b"s/victim") + END,
        THROUGH,
    ),
    refused("a hard link to nothing", hard_link(b"h", b"f") + END, NOT_THERE),
    refused("a hard link to itself", hard_link(b"h", b"h") + END, NOT_THERE),
    refused("a hard link to what comes later", hard_link(b"h", b"f") + file(b"f"), NOT_THERE),
    refused(
        "hard links to one another", hard_link(b"a", b"b") + hard_link(b"b", b"a") + END, NOT_THERE
    ),
    refused("a hard link without a target", hard_link(b"h", b"") + END, "it has no name"),
    refused("a hard link to the root", hard_link(b"h", b".") + END, "hard link to the root"),
    refused(
        "a hard link to a directory",
        directory(b"d/") + hard_link(b"h", b"d") + END,
        "hard link to a directory",
    ),
    refused(
        "a hard link to a FIFO that was left out",
        member(b"p", typeflag=b"6") + hard_link(b"h", b"p") + END,
        NOT_THERE,
    ),
    refused(
        "a hard link where a directory is",
        directory(b"d/") + member(b"f", b"x") + hard_link(b"d", b"f") + END,
        "would replace a directory",
    ),
    refused(
        "a hard link in place of the root",
        member(b"f", b"x") + hard_link(b".", b"f") + END,
        "root",
    ),
    refused(
        "through a hard link to a symlink",
        OUT + hard_link(b"h", b"s") + file(b"h/victim"),
        THROUGH,
    ),
    taken(
        "a file where a hard link to a symlink was",
        symlink(b"s", b"../outside/victim") + hard_link(b"h", b"s") + file(b"h"),
        {b"s": "../outside/victim", b"h": b"evil"},
    ),
    taken(
        "a hard link is not written through",
        member(b"f", b"first") + hard_link(b"h", b"f") + file(b"h", b"second"),
        {b"f": b"first", b"h": b"second"},
    ),
    taken(
        "a hard link where a symlink was",
        symlink(b"h", b"../outside/victim") + member(b"f", b"x") + hard_link(b"h", b"f") + END,
        {b"f": b"x", b"h": b"x"},
    ),
    taken(
        "a chain of hard links",
        member(b"a", b"x") + hard_link(b"b", b"a") + hard_link(b"c", b"b") + END,
        {b"a": b"x", b"b": b"x", b"c": b"x"},
    ),
]

CASES: list[Case] = SYMLINKS + HARD_LINKS
