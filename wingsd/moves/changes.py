"""The meaning of each frame for a tree: `apply_shape`, and for contents `begin` and `done`.

Between `begin` and `done` the blocks of a frame are unknown: they may be written, in part or not.
All raise FrameRefused for frames that do not fit the tree.
"""

from __future__ import annotations

from wingsd.errors import FrameRefused
from wingsd.moves.digests import UNKNOWN
from wingsd.moves.frames import (
    AttributesFrame,
    Content,
    DataFrame,
    DirectoryFrame,
    FileFrame,
    GoneFrame,
    HardFrame,
    LinkFrame,
    PutFrame,
    Shape,
    TakeFrame,
    WholeFrame,
    ZeroFrame,
)
from wingsd.moves.nodes import DirectoryNode, FileNode, LinkNode, block_count
from wingsd.moves.tree import MoveTree
from wingsd.util.text import display

__all__ = ["apply_shape", "begin", "done"]


def apply_shape(tree: MoveTree, frame: Shape) -> bool:
    """Change names, kinds, sizes and metadata by a shape frame; return whether it makes a name."""
    tree.trim()
    match frame:
        case DirectoryFrame():
            return _directory(tree, frame)
        case FileFrame():
            return _file(tree, frame)
        case LinkFrame(path, target, mtime):
            tree.add(path, LinkNode(target, mtime))
        case HardFrame(path, first):
            _hard(tree, path, first)
        case PutFrame(path, slot):
            _put(tree, path, slot)
        case TakeFrame(path, slot):
            _take(tree, path, slot)
            return False
        case GoneFrame(path):
            tree.remove(path)
            return False
    return True


def _directory(tree: MoveTree, frame: DirectoryFrame) -> bool:
    node = tree.find(frame.path)
    if node is None:
        tree.add(frame.path, DirectoryNode(frame.mode, frame.mtime, frame.attributes))
        return True
    if not isinstance(node, DirectoryNode):
        raise FrameRefused(f"{display(frame.path)} is there already, and no directory")
    tree.updated(frame.path, node, frame.mode, frame.mtime, frame.attributes)
    return False


def _file(tree: MoveTree, frame: FileFrame) -> bool:
    node = tree.find(frame.path)
    if node is None:
        _new_file(tree, frame)
        return True
    if not isinstance(node, FileNode) or node.number != frame.number:
        raise FrameRefused(f"{display(frame.path)} is there already, and not file {frame.number}")
    if node.block_size != frame.block_size:
        raise FrameRefused(f"the blocks of file {frame.number} cannot change their size")
    if node.size != frame.size:
        # what was the last block is shorter or longer now
        kept = min(node.size, frame.size) // node.block_size
        node.blocks.forget(kept, node.blocks.count - kept)
        node.blocks.resize(block_count(frame.size, node.block_size))
        tree.resized(frame.size - node.size, frame.path)
    node.mode, node.mtime, node.size = frame.mode, frame.mtime, frame.size
    tree.changed(node)
    return False


def _new_file(tree: MoveTree, frame: FileFrame) -> None:
    if frame.number <= tree.last_number:
        raise FrameRefused(f"the number {frame.number} of {display(frame.path)} was given before")
    node = FileNode(frame.mode, frame.mtime, frame.size)
    tree.add(frame.path, node)
    tree.bind(node, frame.number, frame.block_size)
    tree.last_number = frame.number


def _hard(tree: MoveTree, path: bytes, first: bytes) -> None:
    node = tree.find(first)
    if node is None or isinstance(node, DirectoryNode):
        raise FrameRefused(f"{display(path)} is a hard link to {display(first)}, which is no file")
    if isinstance(node, FileNode) and not node.number and node.blocks.missing:
        raise FrameRefused(
            f"{display(path)} is a hard link to {display(first)}, which has not come"
        )
    tree.add(path, node)


def _put(tree: MoveTree, path: bytes, slot: int) -> None:
    if slot not in tree.slots:
        raise FrameRefused(f"{display(path)} is to come from slot {slot}, which is empty")
    tree.put(path, slot)


def _take(tree: MoveTree, path: bytes, slot: int) -> None:
    node = tree.find(path)
    if not isinstance(node, FileNode):
        raise FrameRefused(f"{display(path)} is to be moved and is no file")
    if not node.number and node.blocks.missing:
        raise FrameRefused(f"{display(path)} is to be moved and has not come")
    if slot in tree.slots:
        raise FrameRefused(f"slot {slot} is in use")
    tree.take(path, node, slot)


def begin(tree: MoveTree, frame: Content) -> bool:
    """Make the blocks of a frame unknown; a `WHOLE` frame also gives the file its metadata.

    Return False where they were unknown, and True for a file that comes as a whole in any case.
    """
    tree.trim()
    if isinstance(frame, WholeFrame):
        _whole(tree, frame)
        return True
    if isinstance(frame, AttributesFrame):
        _of_number(tree, frame.number)
        return False  # nothing of it is written before the end
    node = _numbered(tree, frame)
    missing = node.blocks.missing
    node.blocks.forget(frame.first, frame.count)
    if node.blocks.missing == missing:
        return False
    tree.changed(node)
    return True


def done(tree: MoveTree, frame: Content) -> None:
    """Set the digests of a frame's blocks, which are written."""
    tree.trim()
    if isinstance(frame, WholeFrame):
        node = tree.find(frame.path)
        assert isinstance(node, FileNode)  # noqa: S101 - by `begin`
        node.blocks.set(0, frame.digest)
    else:
        node = tree.numbers[frame.number]  # which fits, by `begin`
        if isinstance(frame, AttributesFrame):
            tree.set_attributes(node, frame.attributes)
        elif isinstance(frame, DataFrame):
            node.blocks.set(frame.first, frame.digests)
        else:
            last = node.length(frame.first, frame.count)
            node.blocks.set_zeros(frame.first, frame.count, node.block_size, last)
    tree.changed(node)


def _whole(tree: MoveTree, frame: WholeFrame) -> None:
    node = tree.find(frame.path)
    if node is None:
        meta = (frame.mode, frame.mtime, frame.size)
        tree.add(frame.path, FileNode(*meta, attributes=frame.attributes))
        return
    if not isinstance(node, FileNode) or node.number:
        raise FrameRefused(
            f"{display(frame.path)} is there already, and no file that comes as a whole"
        )
    tree.resized(frame.size - node.size, frame.path)
    node.mode, node.mtime, node.size = frame.mode, frame.mtime, frame.size
    node.blocks.set(0, UNKNOWN)
    tree.set_attributes(node, frame.attributes)
    tree.changed(node)


def _of_number(tree: MoveTree, number: int) -> FileNode:
    node = tree.numbers.get(number)
    if node is None or not node.names:
        raise FrameRefused(f"no file has the number {number}")
    return node


def _numbered(tree: MoveTree, frame: DataFrame | ZeroFrame) -> FileNode:
    node = _of_number(tree, frame.number)
    if frame.first + frame.count > node.blocks.count:
        raise FrameRefused(f"blocks of file {frame.number} are beyond its end")
    if isinstance(frame, DataFrame):
        if frame.block_size != node.block_size:
            raise FrameRefused(f"file {frame.number} has blocks of {node.block_size} bytes")
        if frame.last != node.length(frame.first, frame.count):
            raise FrameRefused(
                f"the last block of file {frame.number} is not as long as it must be"
            )
    return node
