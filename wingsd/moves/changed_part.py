"""Puts the changed part of a tree in place, so that a round costs what was changed."""

from __future__ import annotations

from wingsd.moves.matching import both
from wingsd.moves.nodes import DirectoryNode, FileNode, LinkNode, TreeEntry
from wingsd.moves.plan import carry_over
from wingsd.moves.scan import ChangedPart
from wingsd.moves.tree import MoveTree

__all__ = ["put_in_place"]


def put_in_place(tree: MoveTree, part: ChangedPart) -> None:
    """Make a tree the one that was found when `part` was, of which all files have been read.

    Raises StorageError. What is in memory of both trees may be forgotten.
    """
    removed: list[bytes] = []
    changed: list[bytes] = []
    part.narrow(tree)
    for path, old, new in both(tree, part.tree):
        if not path or _is_same(old, new):
            continue
        if old is not None and not (_is_directory(old) and _is_directory(new)):
            removed.append(path)
        if new is not None:
            changed.append(path)
    tree.narrow(None)
    part.tree.narrow(None)
    for path in removed:
        tree.trim()
        if tree.find(path) is not None:  # else it went with its directory
            tree.remove(path)
    for path in changed:
        tree.trim()
        part.tree.trim()
        _set(tree, path, part.tree.find(path))
    top = part.tree.top
    if _of_directory(tree.top) != _of_directory(top):
        tree.updated(b"", tree.top, *_of_directory(top))
        tree.touch(b"")
    tree.last_number = part.tree.last_number


def _set(tree: MoveTree, path: bytes, node: TreeEntry | None) -> None:
    if isinstance(node, DirectoryNode):
        there = tree.find(path)
        if isinstance(there, DirectoryNode):
            tree.updated(path, there, *_of_directory(node))
        else:
            tree.add(path, DirectoryNode(*_of_directory(node)))
    elif isinstance(node, LinkNode):
        tree.add(path, LinkNode(node.target, node.mtime, node.identity))
    elif node is not None:
        file = FileNode(node.mode, node.mtime, node.size, node.identity, node.stamp)
        tree.add(path, file)
        if node.number:
            tree.bind(file, node.number, node.block_size)
        carry_over(node, file)
        tree.changed(file)


def _is_directory(node: TreeEntry | None) -> bool:
    return isinstance(node, DirectoryNode)


def _is_same(old: TreeEntry | None, new: TreeEntry | None) -> bool:
    if isinstance(old, FileNode) and isinstance(new, FileNode):
        return _of_file(old) == _of_file(new) and old.value() == new.value()
    if isinstance(old, LinkNode) and isinstance(new, LinkNode):
        return _of_link(old) == _of_link(new)
    if isinstance(old, DirectoryNode) and isinstance(new, DirectoryNode):
        return _of_directory(old) == _of_directory(new)
    return False


def _of_directory(node: DirectoryNode) -> tuple[int, int, bytes]:
    return node.mode, node.mtime, node.attributes


def _of_file(node: FileNode) -> tuple[object, ...]:
    meta = (node.mode, node.mtime, node.size, node.identity, node.stamp, node.attributes)
    return (*meta, node.number, node.block_size, node.names)


def _of_link(node: LinkNode) -> tuple[object, ...]:
    return node.target, node.mtime, node.identity, node.names
