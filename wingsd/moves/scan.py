"""Reads names and metadata of a directory into a tree: the source's catalogue. Blocking.

Left out is what archives leave out: sockets, FIFOs and devices, and set-id bits of modes. What
vanishes meanwhile is left out with a warning.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import closing
from struct import Struct

from wingsd.archive.policy import MAX_DEPTH, MAX_NAME, member_mode
from wingsd.archive.tar_writer import check_owner
from wingsd.filesystem.errors import TreeTooLarge
from wingsd.filesystem.open_directories import file_type_name
from wingsd.filesystem.walk import VANISHED, Listing, gone, unreadable, walk
from wingsd.moves.frames import MAX_MTIME
from wingsd.moves.nodes import DirectoryNode, FileNode, Identity, LinkNode, TreeEntry
from wingsd.moves.tree import MoveTree
from wingsd.util.text import display

__all__ = ["scan", "stamp_ctime", "stat_stamp"]

_STAMP = Struct("<QqqIIIQ")
_CTIME = Struct("<q")
_CTIME_AT = 16


def scan(root: int, warn: Callable[[str], None]) -> MoveTree:
    """Return the tree below the descriptor `root`; no block is known.

    `warn` gets a line for what is left out or changed. Raises StorageError, and TreeTooLarge for
    paths that are too long or too deep.
    """
    return _Scan(warn).run(root)


class _Scan:
    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._tree = MoveTree()
        #: The first path that was found of what has several names.
        self._linked: dict[Identity, bytes] = {}
        self._owner = -1

    def run(self, root: int) -> MoveTree:
        with closing(walk(root, self._skip)) as listings:
            for listing in listings:
                self._directory(listing)
        return self._tree

    def _skip(self, name: bytes, reason: str) -> None:
        self._warn(f"{display(name)} is left out: {reason}")

    def _directory(self, listing: Listing) -> None:
        path, found = b"/".join(listing.path), listing.stat
        mode, mtime = self._mode(path, found), self._mtime(path, found)
        if not path:
            self._owner = found.st_uid
            self._tree.top.mode, self._tree.top.mtime = mode, mtime
        elif listing.is_first:
            self._check_path(path, len(listing.path))
            self._tree.add(path, DirectoryNode(mode, mtime))
        depth = len(listing.path) + 1
        for name in (*listing.files, *listing.symlinks, *listing.others):
            full = listing.prefix + name
            try:
                self._entry(listing.fd, name, full, depth)
            except OSError as error:
                if not gone(error):
                    unreadable(full, error)
                self._skip(full, VANISHED)

    def _entry(self, parent: int, name: bytes, path: bytes, depth: int) -> None:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        kind = stat.S_IFMT(found.st_mode)
        identity = (found.st_dev, found.st_ino)
        node: TreeEntry | None = None
        self._tree.trim()
        if identity in self._linked:
            node = self._tree.find(self._linked[identity])
        elif kind == stat.S_IFREG:
            check_owner(found, path, self._owner)
            mode, mtime = self._mode(path, found), self._mtime(path, found)
            node = FileNode(mode, mtime, found.st_size, identity, stat_stamp(found))
        elif kind == stat.S_IFLNK:
            target = os.readlink(name, dir_fd=parent)
            node = LinkNode(target, self._mtime(path, found), identity)
        else:
            self._skip(path, f"it is {file_type_name(found.st_mode)}")
            return
        self._check_path(path, depth)
        if found.st_nlink > 1:
            self._linked.setdefault(identity, path)
        assert node is not None  # noqa: S101 - all that was linked is in the tree
        self._tree.add(path, node)

    def _check_path(self, path: bytes, depth: int) -> None:
        if depth > MAX_DEPTH or len(path) > MAX_NAME:
            raise TreeTooLarge.reading(
                f"{display(path)} is nested too deeply: at most {MAX_DEPTH} directories and "
                f"{MAX_NAME} bytes are moved; move it up or delete it, and transfer the server "
                "again"
            )

    def _mode(self, path: bytes, found: os.stat_result) -> int:
        mode, stripped = member_mode(stat.S_IMODE(found.st_mode))
        if stripped:
            self._warn(f"{display(path)} is sent without its set-user-id or set-group-id bit")
        return mode

    def _mtime(self, path: bytes, found: os.stat_result) -> int:
        mtime = found.st_mtime_ns
        if -MAX_MTIME <= mtime <= MAX_MTIME:
            return mtime
        self._warn(
            f"{display(path)} is sent with another modification time: its own is out of range"
        )
        return MAX_MTIME if mtime > 0 else -MAX_MTIME


def stat_stamp(found: os.stat_result) -> bytes:
    """Return what of a stat result changes with a file's contents, metadata or names."""
    return _STAMP.pack(
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
        found.st_mode,
        found.st_uid,
        found.st_gid,
        found.st_nlink,
    )


def stamp_ctime(stamp: bytes) -> int:
    """Return the ctime of a stamp (ns since 1970)."""
    ctime: int = _CTIME.unpack_from(stamp, _CTIME_AT)[0]
    return ctime
