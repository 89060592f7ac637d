"""Walks through a stopped server's files once more, and compares names and stat results only."""

from __future__ import annotations

import os
import stat
from contextlib import closing

from wingsd.archive.policy import member_mode
from wingsd.filesystem.attributes import AttributeReader
from wingsd.filesystem.walk import Listing, gone, unreadable, walk
from wingsd.moves.frames import MAX_MTIME
from wingsd.moves.scan import stat_stamp
from wingsd.moves.tree import DirectoryNode, FileNode, LinkNode, MoveTree, TreeEntry

__all__ = ["first_difference"]


def first_difference(root: int, tree: MoveTree, attributes: AttributeReader) -> bytes | None:
    """Return the path of what is not as a scan of `root` has found it, None where all is.

    Empty for the directory itself, or where only names are missing. Blocking. Raises StorageError
    and TreeTooLarge.
    """
    missing: list[bytes] = []
    members = 0
    with closing(walk(root, lambda path, reason: missing.append(path))) as listings:
        for listing in listings:
            if missing:
                return missing[0]
            tree.trim()
            node = tree.find(b"/".join(listing.path))
            if listing.is_first and listing.path:
                members += 1
            if not isinstance(node, DirectoryNode):
                return b"/".join(listing.path)
            if not _is_directory_as(listing, node, attributes):
                return b"/".join(listing.path)
            for name in (*listing.files, *listing.symlinks, *listing.others):
                found = _entry(listing, name, tree)
                if found is None:
                    return listing.prefix + name
                members += found
    if missing:
        return missing[0]
    return None if members == tree.members else b""


def _entry(listing: Listing, name: bytes, tree: MoveTree) -> int | None:
    """Return 1 for a name of the tree that is the same, 0 for what no tree has, None otherwise."""
    path = listing.prefix + name
    node = tree.find(path)
    try:
        found = os.stat(name, dir_fd=listing.fd, follow_symlinks=False)
        if stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode):
            return 1 if _is_as(found, node, listing.fd, name) else None
    except OSError as error:
        if not gone(error):
            unreadable(path, error)
        return None
    return None if node else 0


def _is_as(found: os.stat_result, node: TreeEntry | None, fd: int, name: bytes) -> bool:
    if isinstance(node, DirectoryNode) or node is None:
        return False
    if node.identity != (found.st_dev, found.st_ino):
        return False
    if isinstance(node, FileNode):
        return node.stamp == stat_stamp(found)
    return stat.S_ISLNK(found.st_mode) and _is_link_as(found, node, fd, name)


def _is_link_as(found: os.stat_result, node: LinkNode, fd: int, name: bytes) -> bool:
    return node.mtime == _mtime(found) and node.target == os.readlink(name, dir_fd=fd)


def _is_directory_as(listing: Listing, node: DirectoryNode, attributes: AttributeReader) -> bool:
    mode, _ = member_mode(stat.S_IMODE(listing.stat.st_mode))
    try:
        value, mode = attributes.read(listing.fd, listing.stat, mode)
    except OSError as error:
        unreadable(b"/".join(listing.path), error)
    return (node.mode, node.mtime, node.attributes) == (mode, _mtime(listing.stat), value)


def _mtime(found: os.stat_result) -> int:
    return min(max(found.st_mtime_ns, -MAX_MTIME), MAX_MTIME)
