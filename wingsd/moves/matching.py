"""Tells of each file of a tree what it was in an earlier one: by its identity, or by its path.

Most files have one name and keep it: for these nothing is held in memory.
"""

from __future__ import annotations

from collections.abc import Iterator

from wingsd.moves.blocks import block_count
from wingsd.moves.digests import MAX_BLOCKS, WHOLE
from wingsd.moves.nodes import FileNode, Identity, LinkNode, Named, TreeEntry
from wingsd.moves.tree import MoveTree

__all__ = ["Matches", "both", "is_first"]


_TRIM = 64


def both(
    sent: MoveTree, now: MoveTree, *, plain: bool = True
) -> Iterator[tuple[bytes, TreeEntry | None, TreeEntry | None]]:
    """Yield every path of two trees, in the order of a walk, with what has it in each.

    Without `plain` files are left out that have one name and no number.
    What is in memory of both trees may be forgotten from one path to the next.
    """
    one, other = sent.walk(plain=plain), now.walk(plain=plain)
    before, after = next(one, None), next(other, None)
    passed = 0
    while before is not None or after is not None:
        if before is not None and after is not None and before[0] == after[0]:
            yield before[0], before[1], after[1]
            before, after = next(one, None), next(other, None)
        elif after is None or (before is not None and _key(before[0]) < _key(after[0])):
            assert before is not None  # noqa: S101 - by the loop
            yield before[0], before[1], None
            before = next(one, None)
        else:
            yield after[0], None, after[1]
            after = next(other, None)
        passed += 1
        if passed % _TRIM == 0:
            sent.trim()
            now.trim()


def is_first(path: bytes, node: TreeEntry | None) -> bool:
    """Return whether a path is the first one of a file or symlink."""
    return isinstance(node, Named) and node.names[0] == path


class Matches:
    """Which files of `now` go on with which ones of `sent`."""

    def __init__(self, sent: MoveTree, now: MoveTree) -> None:
        self._sent = sent
        self._now = now
        #: First names of present files, by those of what they were; and the reverse. Of files
        #: with one name that keep it there is no entry.
        self._after: dict[bytes, bytes] = {}
        self._before: dict[bytes, bytes] = {}
        #: First names of files none of whose names stays, and the slot that they wait in.
        self.slots: dict[bytes, int] = {}
        if sent.members:
            self._match()

    def before(self, node: Named, at: TreeEntry | None) -> Named | None:
        """Return what a present file was; `at` is what had its first name."""
        path = self._before.get(node.names[0])
        if path is not None:
            found = self._sent.find(path)
            assert isinstance(found, Named)  # noqa: S101 - by `_try`
            return found
        if at is None or not _is_plain(node, at) or node.names[0] in self._after:
            return None
        return at if isinstance(at, Named) and _fits(node, at) else None

    def stays(self, path: bytes, sent: Named, node: TreeEntry | None) -> bool:
        """Return whether a name leads to the same file still; `node` has it now."""
        if not isinstance(node, Named):
            return False
        after = self._after.get(sent.names[0])
        if after is not None:
            return node.names[0] == after
        return _is_plain(node, sent) and path not in self._before and _fits(node, sent)

    def _match(self) -> None:
        loose, by_identity = self._loose()
        for path in loose:
            node = self._found(path)
            if node.identity in by_identity:
                self._try(node, self._sent.find(by_identity[node.identity]))
        for path in loose:
            node = self._found(path)
            for name in node.names:
                sent = self._sent.find(name)
                if path not in self._before and not (sent and _is_plain(node, sent)):
                    self._try(node, sent)
            self._sent.trim()
        for path, before in self._before.items():
            sent, node = self._sent.find(before), self._found(path)
            if isinstance(sent, FileNode) and not set(sent.names) & set(node.names):
                self.slots[path] = len(self.slots)
            self._sent.trim()

    def _loose(self) -> tuple[list[bytes], dict[Identity, bytes]]:
        """Return first names: of present files to be looked at, and of what was, by identity."""
        has_identities = self._sent.has_identities
        loose: list[bytes] = []
        by_identity: dict[Identity, bytes] = {}
        for path, sent, node in both(self._sent, self._now):
            is_same = not has_identities or _identity(sent) == _identity(node)
            if is_same and sent and node and _is_plain(node, sent):
                continue
            if is_first(path, sent) and (identity := _identity(sent)) is not None:
                by_identity[identity] = path
            if is_first(path, node) and (has_identities or not _has_one_name(node, sent)):
                loose.append(path)
        return loose, by_identity

    def _found(self, path: bytes) -> Named:
        self._now.trim()
        node = self._now.find(path)
        assert isinstance(node, Named)  # noqa: S101 - nothing is changed meanwhile
        return node

    def _try(self, node: Named, sent: TreeEntry | None) -> None:
        if isinstance(sent, Named) and sent.names[0] not in self._after and _fits(node, sent):
            self._before[node.names[0]] = sent.names[0]
            self._after[sent.names[0]] = node.names[0]


def _is_plain(node: TreeEntry, sent: TreeEntry) -> bool:
    """Return whether both are files or symlinks with one name, which is the same."""
    return (
        isinstance(node, Named)
        and isinstance(sent, Named)
        and len(node.names) == len(sent.names) == 1
        and node.names == sent.names
    )


def _has_one_name(*nodes: TreeEntry | None) -> bool:
    return not any(isinstance(node, Named) and len(node.names) > 1 for node in nodes)


def _identity(node: TreeEntry | None) -> Identity | None:
    return node.identity if isinstance(node, Named) else None


def _key(path: bytes) -> bytes:
    return path.replace(b"/", b"\0")


def _fits(node: Named, before: Named) -> bool:
    """Return whether a file can go on with what was sent of `before`."""
    if isinstance(node, LinkNode):
        # symlinks are small: one that gets another name is made anew
        return (
            isinstance(before, LinkNode)
            and (node.target, node.mtime) == (before.target, before.mtime)
            and not set(node.names).isdisjoint(before.names)
        )
    if not isinstance(before, FileNode):
        return False
    if before.number:
        return block_count(node.size, before.block_size) <= MAX_BLOCKS
    return node.size <= WHOLE
