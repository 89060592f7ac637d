"""Reads names and metadata of a directory into a tree: the source's catalogue. Blocking.

`Rescan` reads only what was changed since another scan, for which it looks at all of it as well.
Left out is what archives leave out: sockets, FIFOs and devices, and set-id bits of modes. What
vanishes meanwhile is left out with a warning. `first_difference` walks once more through a stopped
server's files, and compares names and stat results only.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import closing
from struct import Struct

from attrs import define, field, frozen

from wingsd.archive.pack import check_owner
from wingsd.archive.policy import MAX_DEPTH, member_mode
from wingsd.errors import TreeTooLarge
from wingsd.filesystem.attributes import AttributeReader
from wingsd.filesystem.open_directories import Path, file_type_name
from wingsd.filesystem.walk import (
    BATCH,
    MAX_NAME,
    VANISHED,
    FirstNames,
    Listing,
    gone,
    unreadable,
    walk,
)
from wingsd.moves.batch import MAX_MTIME
from wingsd.moves.digests import WHOLE
from wingsd.moves.nodes import (
    DirectoryNode,
    FileNode,
    Identity,
    LinkNode,
    TreeEntry,
    pack_file,
)
from wingsd.moves.seen_directories import (
    FoundBeside,
    SeenDirectories,
    StatResults,
    stat_results,
)
from wingsd.moves.tree import MoveTree, dirname
from wingsd.util.text import display

#: Bytes of a name in a directory.
LONGEST = 255
_STAMP = Struct("<QQqIIIQ")
#: Times after 2262 need more than 63 bits.
_WORD = (1 << 64) - 1
_CTIME = Struct("<q")
_CTIME_AT = 16


@frozen(eq=False, repr=False)
class ChangedPart:
    """The part of a tree that was changed since another scan.

    Of the directories with these paths, as they are sorted in a walk, `tree` has all that is in
    them, but not what is below; those of them that it has not are gone. Of others it may have
    something, too, which counts for nothing.
    """

    tree: MoveTree
    directories: list[bytes]

    def narrow(self, other: MoveTree) -> None:
        """Limit walks through this tree and another one to these directories."""
        self.tree.only = other.only = self.directories


class _Linked(Exception):
    """A changed directory has, or had, a file with several names."""


@define(eq=False, repr=False, slots=False)
class Scan:
    """Reads a tree, whose file is in `scratch`, by `run`; no block is known.

    Of files neither attributes are known, nor what an ACL adds to the mode. `warn` gets a line for
    what is left out or changed, `seen` all directories. The blocks of files can get digests where
    these have several names, or more than `most_plain` bytes.
    """

    _warn: Callable[[str], None]
    _attributes: AttributeReader
    _scratch: str | None
    _seen: SeenDirectories
    _most_plain: int = field(default=WHOLE, kw_only=True)

    def __attrs_post_init__(self) -> None:
        self._tree = MoveTree(directory=self._scratch)
        #: The first path that was found of what has several names.
        self._linked = FirstNames()
        #: Called with each listing; it may raise.
        self.check: Callable[[], None] = lambda: None
        self._owner = -1
        #: The directory that is looked at.
        self._at = b""

    def run(self, root: int) -> MoveTree:
        """Return the tree below the descriptor `root`.

        Raises StorageError, and TreeTooLarge for paths that are too long or too deep, and for too
        many hard links.
        """
        try:
            with closing(walk(root, self._skip, passed=self._passed)) as listings:
                for listing in listings:
                    self.check()
                    self._at = b"/".join(listing.path)
                    self._look(listing)
        except BaseException:
            self._tree.store.close()
            raise
        return self._tree

    def _passed(self, path: Path) -> Sequence[bytes] | None:
        """Return the directories in one that is not read, None for one that is."""
        return None

    def _say(self, line: str) -> None:
        self._seen.noted.add(self._at)
        self._warn(line)

    def _skip(self, name: bytes, reason: str) -> None:
        self._say(f"{display(name)} is left out: {reason}")

    def _look(self, listing: Listing) -> None:
        entries = stat_results(listing, self._skip)
        self._seen.add(self._at, listing, entries)
        self._add_directory(listing)
        self._add_entries(listing, entries)

    def _add_directory(self, listing: Listing) -> None:
        path, found = self._at, listing.stat
        mode, mtime = self._mode(path, found), self._mtime(path, found)
        if not path:
            self._owner = found.st_uid
        if not listing.is_first:
            return
        try:
            attributes, mode = self._attributes.read(listing.fd, found, mode)
        except OSError as error:
            unreadable(path, error)
        if path:
            self._check_path(path, len(listing.path))
            self._tree.add(path, DirectoryNode(mode, mtime, attributes))
        else:
            self._tree.updated(b"", self._tree.top, mode, mtime, attributes)

    def _add_entries(self, listing: Listing, entries: StatResults) -> None:
        depth, prefix = len(listing.path) + 1, listing.prefix
        if listing.is_first and depth <= MAX_DEPTH and len(prefix) <= MAX_NAME - LONGEST:
            entries = self._add_plain(prefix, entries)
        for name, found in entries:
            self._entry(listing.fd, name, found, prefix + name, depth)

    def _add_plain(self, prefix: bytes, entries: StatResults) -> StatResults:
        """Add the files of a new directory with one name whose blocks get no digests.

        Return the other entries. Most files are such: each takes half the time of `_entry`.
        """
        if len({name for name, _ in entries}) < len(entries):
            return entries  # the directory was changed meanwhile: one of them is refused
        packed, others, size = [], [], 0
        for name, found in entries:
            if (
                not stat.S_ISREG(found.st_mode)
                or found.st_nlink > 1
                or found.st_size > self._most_plain
            ):
                others.append((name, found))
                continue
            meta = (self._mode(prefix + name, found), self._mtime(prefix + name, found))
            identity = (found.st_dev, found.st_ino)
            value = pack_file(*meta, found.st_size, identity, stat_stamp(found))
            packed.append((name, value))
            size += found.st_size
        if packed:
            self._tree.has_identities = True
            self._tree.reserve(prefix + packed[0][0], len(packed), size)
            self._tree.add_reserved(self._at, packed)
        return others

    def _entry(
        self, parent: int, name: bytes, found: os.stat_result, path: bytes, depth: int
    ) -> None:
        kind = stat.S_IFMT(found.st_mode)
        identity = (found.st_dev, found.st_ino)
        node: TreeEntry | None = None
        self._tree.trim()
        if (first := self._linked.get(identity)) is not None:
            node = self._tree.find(first)
        elif kind == stat.S_IFREG:
            check_owner(found, path, self._owner)
            mode, mtime = self._mode(path, found), self._mtime(path, found)
            node = FileNode(mode, mtime, found.st_size, identity, stat_stamp(found))
        elif kind == stat.S_IFLNK:
            try:
                target = os.readlink(name, dir_fd=parent)
            except OSError as error:
                if not gone(error) and error.errno != errno.EINVAL:  # which is of another kind now
                    unreadable(path, error)
                self._skip(path, VANISHED)
                return
            node = LinkNode(target, self._mtime(path, found), identity)
        else:
            self._skip(path, f"it is {file_type_name(found.st_mode)}")
            return
        self._check_path(path, depth)
        if found.st_nlink > 1:
            self._linked.add(identity, path)
        assert node is not None  # noqa: S101 - all that was linked is in the tree
        self._tree.add(path, node)
        if found.st_size > WHOLE and isinstance(node, FileNode) and not node.id:
            self._tree.store.share(node)

    def _check_path(self, path: bytes, depth: int) -> None:
        if depth > MAX_DEPTH or len(path) > MAX_NAME:
            raise TreeTooLarge.reading(
                f"{display(path)} is nested too deeply: at most {MAX_DEPTH} directories and "
                f"{MAX_NAME} bytes are possible; move it up or delete it, and try again"
            )

    def _mode(self, path: bytes, found: os.stat_result) -> int:
        mode, stripped = member_mode(stat.S_IMODE(found.st_mode))
        if stripped:
            self._say(f"{display(path)} is sent without its set-user-id or set-group-id bit")
        return mode

    def _mtime(self, path: bytes, found: os.stat_result) -> int:
        mtime = clamped_mtime(found)
        if mtime != found.st_mtime_ns:
            self._say(
                f"{display(path)} is sent with another modification time: its own is out of range"
            )
        return mtime


@define(eq=False, repr=False, slots=False)
class Rescan(Scan):
    """Reads the part of a tree that differs from `before`, the last scan; `seen` gets all
    directories.

    `same` is called with the prefix and the files of each directory that is as it was, `found`
    returns what another process finds.
    """

    _before: SeenDirectories
    _same: Callable[[bytes, Sequence[bytes]], object]
    _found: FoundBeside
    _changed: set[bytes] = field(init=False, factory=set)

    def changed(self, root: int) -> ChangedPart | None:
        """Return what was changed below the descriptor `root`.

        None where that does not tell: files with several names may be in unchanged directories as
        well. Raises as `run`.
        """
        try:
            tree = self.run(root)
        except _Linked:
            return None
        gone = self._before.digests.keys() - self._seen.digests.keys()
        if not gone.isdisjoint(self._before.linked):
            tree.store.close()
            return None
        paths = sorted({*self._changed, *gone}, key=lambda path: path.split(b"/"))
        return ChangedPart(tree, paths)

    def _passed(self, path: Path) -> Sequence[bytes] | None:
        frame = self._found(b"/".join(path)) if path else None
        if frame is None or b"/".join(path[:-1]) in self._changed:
            return None
        self._seen.take(frame)
        if self._is_changed(frame.path):
            del self._seen.digests[frame.path]  # it is looked at again
            return None
        self._same(frame.path + b"/", frame.files)
        return frame.directories

    def _look(self, listing: Listing) -> None:
        path, entries = self._at, stat_results(listing, self._skip)
        self._seen.add(path, listing, entries)
        # what a further listing has is not known with the first one
        if listing.count >= BATCH or self._is_changed(path):
            # a name may go between the looks at two directories that a file is in
            if path in self._seen.linked or path in self._before.linked:
                raise _Linked
            self._changed.add(path)
            self._make_parents(path)
            self._add_directory(listing)
            self._add_entries(listing, entries)
            return
        self._same(listing.prefix, listing.files)
        if not path or dirname(path) in self._changed:
            self._add_directory(listing)

    def _is_changed(self, path: bytes) -> bool:
        return path in self._changed or not self._seen.is_same(path, self._before)

    def _make_parents(self, path: bytes) -> None:
        """Add the directories above a path to the tree, whatever is said of them."""
        missing = []
        while (path := dirname(path)) and self._tree.find(path) is None:
            missing.append(path)
        for each in reversed(missing):
            self._tree.add(each, DirectoryNode(0, 0))


def stat_stamp(found: os.stat_result) -> bytes:
    """Return what of a stat result changes with a file's contents, metadata or names."""
    return _STAMP.pack(
        found.st_size,
        found.st_mtime_ns & _WORD,
        found.st_ctime_ns,
        found.st_mode,
        found.st_uid,
        found.st_gid,
        found.st_nlink,
    )


def seen_as(found: os.stat_result) -> tuple[Identity, bytes]:
    """Return what a stat result says of a file, as `FileNode.seen_as` has it."""
    return (found.st_dev, found.st_ino), stat_stamp(found)


def stamp_ctime(stamp: bytes) -> int:
    """Return the ctime of a stamp (ns since 1970)."""
    ctime: int = _CTIME.unpack_from(stamp, _CTIME_AT)[0]
    return ctime


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
    is_same = stat.S_ISLNK(found.st_mode) and node.mtime == clamped_mtime(found)
    return is_same and node.target == os.readlink(name, dir_fd=fd)


def _is_directory_as(listing: Listing, node: DirectoryNode, attributes: AttributeReader) -> bool:
    mode, _ = member_mode(stat.S_IMODE(listing.stat.st_mode))
    try:
        value, mode = attributes.read(listing.fd, listing.stat, mode)
    except OSError as error:
        unreadable(b"/".join(listing.path), error)
    return node.meta == (mode, clamped_mtime(listing.stat), value)


def clamped_mtime(found: os.stat_result) -> int:
    """Return the time of the last modification (ns since 1970) within the range of moves."""
    return min(max(found.st_mtime_ns, -MAX_MTIME), MAX_MTIME)
