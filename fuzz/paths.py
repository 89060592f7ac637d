"""A user's path and the texts of symlinks on it: where it leads, in both ways to open directories.

The tree is the same each time but for two symlinks, `l` and `a/m`, whose texts are in the input.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from fuzz.findings import Finding, fields
from wingsd.errors import NameTooLong, PathInvalid
from wingsd.filesystem.openers import DirectoryOpener, Openat2Opener, OpenatOpener
from wingsd.filesystem.paths import ServerPath, name_from_text, name_text

__all__ = ["WORDS", "one", "seeds"]

#: In memory, since each input makes a tree.
PLACE = "/dev/shm"  # noqa: S108
WORDS = [b"../", b"./", b"//", b"l/", b"a/", b"m/", b"b/", b"\0", b"\xff", b"\xf4\x8f\xbb\xbf"]


def one(data: bytes) -> None:
    """Parse a path, in bytes and as a text, and open it below a root with two symlinks."""
    link, other, path = fields(data, 2)
    try:
        parsed = ServerPath.from_bytes(path)
    except (PathInvalid, NameTooLong):
        return
    _check(parsed, path)
    with TemporaryDirectory(dir=PLACE) as top:
        home = Path(top) / "home"
        (home / "a/b").mkdir(parents=True)
        (home / "file").touch()
        (Path(top) / "a").mkdir()
        for name, text in (("l", link), ("a/m", other)):
            if 0 < len(text) < os.pathconf(top, "PC_PATH_MAX"):
                (home / name).symlink_to(os.fsdecode(text))
        _open(home, parsed)


def _check(parsed: ServerPath, path: bytes) -> None:
    """Compare with what the standard library makes of it."""
    expected = posixpath.normpath(b"/" + path.lstrip(b"/")).lstrip(b"/")
    if bytes(parsed) != expected:
        raise Finding(f"{path!r} is {parsed!r}, and not {expected!r}")
    text = str(parsed)
    if name_from_text(text) != bytes(parsed) or ServerPath.parse(text) != parsed:
        raise Finding(f"{path!r} is shown as {text!r}, which is something else")
    for part in parsed.parts:
        if name_text(part) not in text:
            raise Finding(f"{part!r} is shown otherwise in its path {text!r}")


def _open(home: Path, path: ServerPath) -> None:
    root = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = [_opened(opener, root, path) for opener in (Openat2Opener(), OpenatOpener())]
    finally:
        os.close(root)
    if found[0] != found[1]:
        raise Finding(f"{path!r} leads to {found[0]!r} by openat2, and to {found[1]!r} by openat")
    if found[0] and found[0] != str(home) and not found[0].startswith(f"{home}/"):
        raise Finding(f"{path!r} leads out, to {found[0]!r}")


def _opened(opener: DirectoryOpener, root: int, path: ServerPath) -> str:
    """Return where a directory is, empty where it is refused."""
    try:
        fd = opener.directory(root, path)
    except OSError:
        return ""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def seeds() -> Iterator[bytes]:
    """Yield paths with symlinks that stay inside and that lead out."""
    texts = (b"a/b", b"..", b"a/m/b", b"/etc", b"l", b"a/b/../..", b"../home/a", b"a/m", b".//a/")
    for text in texts:
        for path in (b"l", b"l/b/", b"a/m/l", b"/a/../l//b"):
            yield b"\0".join((text, b"../l", path))
            yield b"\0".join((b"a/b/..", text, path))
    yield b"\0\0" + b"\xff/\xed\xa0\x80/\xf4\x8f\xbb\xbf"
    yield b"\0\0" + b"a" * 256
