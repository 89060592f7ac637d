"""Trees of files: copied, packed, counted and compared."""

from __future__ import annotations

import filecmp
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from demo.process import run

__all__ = [
    "Summary",
    "copy",
    "differences",
    "pack",
    "sha256",
    "summarize",
]


class Summary(NamedTuple):
    """How many of what a tree holds; `size` in bytes, what has several names counted once."""

    files: int
    directories: int
    symlinks: int
    size: int


def copy(tree: Path, place: Path) -> None:
    """Copy what is in `tree`, links and all, into `place`, which is there."""
    run("cp", "-a", f"{tree}/.", str(place), cwd=tree)


def pack(tree: Path, archive: Path) -> None:
    """Pack a server as tar.gz with GNU tar, as documented."""
    run("tar", "-czf", str(archive), "-C", str(tree), ".", cwd=tree)


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entries(tree: Path) -> dict[str, os.stat_result]:
    return {str(path.relative_to(tree)): path.lstat() for path in tree.rglob("*")}


def summarize(tree: Path) -> Summary:
    """Count the entries of `tree`."""
    stats = list(_entries(tree).values())
    files = [found for found in stats if stat.S_ISREG(found.st_mode)]
    return Summary(
        len(files),
        sum(stat.S_ISDIR(found.st_mode) for found in stats),
        sum(stat.S_ISLNK(found.st_mode) for found in stats),
        sum({found.st_ino: found.st_size for found in files}.values()),
    )


def differences(sent: Path, received: Path, owner: int) -> Iterator[str]:
    """Yield how `received` differs from `sent`; all of it should belong to the uid `owner`.

    Compared are names, kinds, modes, times (whole seconds), contents, targets and hard links.
    """
    theirs, ours = _entries(sent), _entries(received)
    yield from (f"{name}: is missing" for name in sorted(theirs.keys() - ours.keys()))
    yield from (f"{name}: was not sent" for name in sorted(ours.keys() - theirs.keys()))
    for name in sorted(theirs.keys() & ours.keys()):
        a, b = theirs[name], ours[name]
        if b.st_uid != owner:
            yield f"{name}: belongs to {b.st_uid}"
        if a.st_mode != b.st_mode:
            yield f"{name}: mode {a.st_mode:o} became {b.st_mode:o}"
        elif stat.S_ISLNK(a.st_mode):
            if (sent / name).readlink() != (received / name).readlink():
                yield f"{name}: another target"
        elif int(a.st_mtime) != int(b.st_mtime):
            yield f"{name}: another time"
        elif stat.S_ISREG(a.st_mode):
            if not filecmp.cmp(sent / name, received / name, shallow=False):
                yield f"{name}: another content"
            if a.st_nlink != b.st_nlink:
                yield f"{name}: {a.st_nlink} links became {b.st_nlink}"
