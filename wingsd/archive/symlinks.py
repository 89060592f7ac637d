"""Finds the file a symlink of a server leads to, for nodes that cannot take symlinks.

The kernel is never asked to follow one, as what it leads to may be changed at any moment. The
text is walked component by component, and every directory on the way is one below the root that
was entered by its descriptor, so it can only end inside the tree.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque

from wingsd.archive.directories import OpenDirectories
from wingsd.archive.policy import display
from wingsd.archive.tree_range import Path
from wingsd.archive.walk import REPLACED

__all__ = ["OPEN_FILE", "LeadsNowhere", "SymlinkFollower", "special_name"]

OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
"""How a file is opened that may have become something else: no waiting for a FIFO's writer."""

_HOME = (b"", b"home", b"container")  # where a server's own container has its directory
_MAX_SYMLINKS = 40  # as many as Linux follows: path_resolution(7)
_SPECIAL = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


class LeadsNowhere(Exception):
    """A symlink at whose end is no regular file inside the tree; the text says why."""


def special_name(mode: int) -> str:
    """Return the words for what is neither a file, a directory nor a symlink."""
    return _SPECIAL.get(stat.S_IFMT(mode), "of an unknown type")


class SymlinkFollower:
    """Follows symlinks within the tree below the descriptor `root`. `close` must be called."""

    def __init__(self, root: int) -> None:
        self._directories = OpenDirectories(root, lambda path: None)

    def close(self) -> None:
        """Close every descriptor."""
        self._directories.close()

    def open(self, link: Path, text: bytes) -> int:
        """Return a new descriptor of the regular file that the symlink `link` leads to.

        Absolute texts are taken as the server's container takes them: `/home/container` is the
        root of the tree, all else is outside. The descriptor's file may have become something
        else since it was looked at: fstat tells. Raises LeadsNowhere, and OSError where the disk
        fails.
        """
        try:
            return self._follow(link, text)
        except OSError as error:
            # No file can have a name that is too long; a symlink's text may hold one.
            if isinstance(error, FileNotFoundError) or error.errno == errno.ENAMETOOLONG:
                raise LeadsNowhere(
                    f"it is a symlink to {display(text)}, which is not there"
                ) from None
            if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EINVAL):
                raise LeadsNowhere(REPLACED) from None
            raise

    def _follow(self, link: Path, text: bytes) -> int:
        place, rest = self._start(list(link[:-1]), text)
        followed = 1
        while rest:
            part = rest.popleft()
            if part in (b"", b"."):
                continue
            if part == b"..":
                if not place:
                    raise _outside(text)
                place.pop()
                continue
            parent = self._directories.get(tuple(place), make=False)
            mode = os.stat(part, dir_fd=parent, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                place.append(part)
            elif stat.S_ISLNK(mode):
                followed += 1
                if followed > _MAX_SYMLINKS:
                    raise LeadsNowhere("it is a symlink that leads in a circle")
                place, more = self._start(place, os.readlink(part, dir_fd=parent))
                rest.extendleft(reversed(more))
            else:
                return _opened(part, parent, mode, rest)
        raise LeadsNowhere("it is a symlink to a directory, and the other node takes none")

    def _start(self, place: list[bytes], text: bytes) -> tuple[list[bytes], deque[bytes]]:
        """Return the directory in which `text` begins, and its components."""
        if not text.startswith(b"/"):
            return place, deque(text.split(b"/"))
        parts = text.split(b"/")
        if tuple(parts[:3]) != _HOME:
            raise _outside(text)
        return [], deque(parts[3:])


def _opened(name: bytes, parent: int, mode: int, rest: deque[bytes]) -> int:
    if rest:
        raise FileNotFoundError  # it goes on behind a file: to the kernel ENOTDIR, here the same
    if not stat.S_ISREG(mode):
        raise LeadsNowhere(f"it is a symlink to {special_name(mode)}")
    return os.open(name, OPEN_FILE, dir_fd=parent)


def _outside(text: bytes) -> LeadsNowhere:
    return LeadsNowhere(f"it is a symlink to {display(text)}, outside the server's directory")
