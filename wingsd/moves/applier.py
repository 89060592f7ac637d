"""Applies frames below a directory. Blocking. No symlink is followed, and nothing else is touched.

Each shape frame may be applied once more after it was, or while it was, as after a crash: with
`again`. Until `finish` directories have mode 0700, files that come in parts 0600, and nothing has
extended attributes or ACLs: a default ACL would be inherited by what comes later.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection
from contextlib import suppress

from wingsd.errors import StorageError
from wingsd.filesystem.attributes import (
    clear_attributes,
    is_own,
    process_umask,
    set_mode_at,
    write_attributes,
)
from wingsd.filesystem.new_file import Owner
from wingsd.filesystem.open_directories import OpenDirectories, closing_descriptor
from wingsd.filesystem.openers import DirectoryOpener
from wingsd.filesystem.removal import TreeRemover
from wingsd.filesystem.usage import DirectoryUsage, UsageCounter
from wingsd.moves.batch import (
    BlockRun,
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
from wingsd.moves.nodes import DirectoryNode, FileNode
from wingsd.moves.tree import MoveTree
from wingsd.util.durable import storage_errors
from wingsd.util.text import disk_advice, display

_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_WRITE = os.O_WRONLY | os.O_NOFOLLOW
_OWN = 0o700
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
_ZEROS = bytes(64 << 10)


class TreeApplier:
    """Writes below the descriptor `root`; files without a path wait in the descriptor `aside`.

    Both are directories on one file system, and stay the caller's. `owner` gets all files, None
    for the process's own ids. `close` must be called. All methods raise StorageError.
    """

    def __init__(
        self, root: int, aside: int, owner: Owner | None, opener: DirectoryOpener
    ) -> None:
        self._root = root
        self._aside = aside
        self._given = owner or (os.geteuid(), os.getegid())
        self._owner = None if owner is None or is_own(owner, root) else owner
        self._umask = process_umask()
        self._opener = opener
        self._directories = OpenDirectories(root, lambda path: None)
        #: How many files and directories lack attributes that they should have, by `finish`.
        self.without_attributes = 0
        #: The file that was written last, by its number.
        self._file = (0, -1)

    def close(self) -> None:
        """Close every descriptor."""
        self._close_file()
        self._directories.close()

    def shape(self, frame: Shape, *, makes: bool, again: bool) -> None:
        """Apply a shape frame; `makes` is whether it makes a name."""
        self._close_file()
        try:
            self._shape(frame, makes, again)
        except OSError as error:
            raise _failed(frame.path, error) from error

    def _shape(self, frame: Shape, makes: bool, again: bool) -> None:
        match frame:
            case DirectoryFrame(path):
                if makes:
                    self._directory(path, again)
            case FileFrame(path=path, size=size):
                with closing_descriptor(self._made(path) if makes else self._opened(path)) as fd:
                    os.ftruncate(fd, size)
            case LinkFrame(path, target, mtime):
                self._link(path, target, mtime)
            case HardFrame(path, first):
                self._hard(path, first)
            case TakeFrame() | PutFrame():
                self._move(frame, again)
            case GoneFrame(path):
                with suppress(FileNotFoundError):
                    parent, name = self._directories.place(path)
                    usage = DirectoryUsage(UsageCounter())
                    TreeRemover(self._opener, parent, usage, lambda: False).remove(name)
                # descriptors of what is gone
                self._directories.close()

    def _directory(self, path: bytes, again: bool) -> None:
        parent, name = self._directories.place(path)
        try:
            os.mkdir(name, _OWN, dir_fd=parent)
        except FileExistsError:
            if not again:
                raise
        self._chown(name, parent)

    def _link(self, path: bytes, target: bytes, mtime: int) -> None:
        parent, name = self._directories.place(path)
        _unlink(name, parent)
        os.symlink(target, name, dir_fd=parent)
        self._chown(name, parent)
        os.utime(name, ns=(mtime, mtime), dir_fd=parent, follow_symlinks=False)

    def _hard(self, path: bytes, first: bytes) -> None:
        directory, target = self._directories.place(first)
        with closing_descriptor(os.dup(directory)) as source:
            parent, name = self._directories.place(path)
            _unlink(name, parent)
            os.link(target, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)

    def _move(self, frame: TakeFrame | PutFrame, again: bool) -> None:
        is_take, slot = isinstance(frame, TakeFrame), (self._aside, b"%d" % frame.slot)
        try:
            file = self._directories.place(frame.path)
        except FileNotFoundError:
            if again and is_take and _exists(*slot):
                return  # it was done before, and the directory has gone since
            raise
        source, target = (file, slot) if is_take else (slot, file)
        if again and not _exists(*source) and _exists(*target):
            return  # it was done before
        os.rename(source[1], target[1], src_dir_fd=source[0], dst_dir_fd=target[0])
        if again:
            # A crash may leave both names of a file, and rename(2) does nothing then.
            _unlink(source[1], source[0])

    def content(self, run: BlockRun, tree: MoveTree, *, is_new: bool = False) -> None:
        """Write blocks that have arrived.

        With `is_new` they are of a file that comes as a whole and was not there: it has one name.
        """
        frame = run.frame
        try:
            if isinstance(frame, WholeFrame):
                path = frame.path
                node = None if is_new else tree.find(path)
                is_linked = isinstance(node, FileNode) and len(node.names) > 1
                self._whole(frame, run.data, is_linked=is_linked)
                return
            held = tree.numbered(frame.number)
            path = held.names[0]
            if self._file[0] != frame.number:
                self._close_file()
                self._file = (frame.number, self._opened(path))
            at = run.first * held.block_size
            if isinstance(frame, ZeroFrame):
                end = min((run.first + run.count) * held.block_size, held.size)
                write_zeros(self._file[1], at, end)
            else:
                write_at(self._file[1], run.data, at)
        except OSError as error:
            raise _failed(path, error) from error

    def _whole(self, frame: WholeFrame, data: memoryview, *, is_linked: bool) -> None:
        fd = self._opened(frame.path) if is_linked else self._made(frame.path, frame.mode)
        try:
            if is_linked:
                os.ftruncate(fd, 0)
            write_at(fd, data, 0)
            if is_linked or frame.mode & self._umask:
                os.fchmod(fd, frame.mode)
            os.utime(fd, ns=(frame.mtime, frame.mtime))
        finally:
            os.close(fd)

    def open_file(self, path: bytes) -> int | None:
        """Return a new descriptor to read a file, None where there is no regular file."""
        try:
            fd = self._opened(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in _NO_FILE:
                return None
            raise _failed(path, error) from error
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        return None

    def empty_slots(self, kept: Collection[int] = ()) -> None:
        """Remove the files that wait without a path, but for those in the slots `kept`."""
        names = {str(slot) for slot in kept}
        with storage_errors("files taken out of the tree could not be removed"):
            for name in os.listdir(self._aside):
                if name not in names:
                    os.unlink(name, dir_fd=self._aside)

    def finish(self, tree: MoveTree) -> None:
        """Give files and directories what is still missing, the deepest directories first.

        These are modes, times and attributes.
        """
        self._close_file()
        self.without_attributes = 0
        # those that the walk is in
        directories: list[tuple[bytes, DirectoryNode]] = []
        path = b""
        try:
            for path, node in tree.walk(plain=False):
                # all is below the first one, the root
                while len(directories) > 1 and not path.startswith(directories[-1][0] + b"/"):
                    above, directory = directories.pop()
                    self._set(self._open_directory(above), directory)
                if isinstance(node, DirectoryNode):
                    directories.append((path, node))
                elif (
                    isinstance(node, FileNode)
                    and (node.number or node.attributes)
                    and node.names[0] == path
                ):
                    self._set(self._opened(path), node)
            for above, directory in reversed(directories):
                self._set(self._open_directory(above), directory)
        except OSError as error:
            raise _failed(path, error) from error
        self._directories.close()

    def reopen(self, tree: MoveTree) -> None:
        """Undo `finish`, as far as it keeps this process from writing, or would be inherited."""
        path = b""
        try:
            for path, node in tree.walk(plain=False):
                # a shape that is still to be applied may make it
                with suppress(FileNotFoundError):
                    if isinstance(node, DirectoryNode) and node.mode & _OWN != _OWN:
                        self._open_up(path)
                    if isinstance(node, DirectoryNode | FileNode) and node.attributes:
                        self._clear(path, node)
        except OSError as error:
            raise _failed(path, error) from error

    def _clear(self, path: bytes, node: DirectoryNode | FileNode) -> None:
        is_directory = isinstance(node, DirectoryNode)
        opened = self._open_directory(path) if is_directory else self.open_file(path)
        if opened is not None:
            with closing_descriptor(opened) as fd:
                clear_attributes(fd)
                os.fchmod(fd, _OWN if is_directory else node.mode)

    def _open_up(self, path: bytes) -> None:
        if path:
            parent, name = self._directories.place(path)
            set_mode_at(parent, name, _OWN)
        else:
            os.fchmod(self._root, _OWN)

    def _set(self, fd: int, node: FileNode | DirectoryNode) -> None:
        """Give an open file or directory what it still lacks, and close it."""
        with closing_descriptor(fd):
            if not node.attributes:
                os.fchmod(fd, node.mode)
            elif not write_attributes(fd, node.attributes, node.mode, self._given):
                self.without_attributes += 1
            os.utime(fd, ns=(node.mtime, node.mtime))

    def _open_directory(self, path: bytes) -> int:
        parts = tuple(path.split(b"/")) if path else ()
        return os.open(b".", os.O_RDONLY, dir_fd=self._directories.get(parts, make=False))

    def _made(self, path: bytes, mode: int = 0o600) -> int:
        """Return a descriptor of a new file, in place of one that has the path."""
        parent, name = self._directories.place(path)
        try:
            fd = os.open(name, _MAKE, mode, dir_fd=parent)
        except FileExistsError:
            _unlink(name, parent)
            fd = os.open(name, _MAKE, mode, dir_fd=parent)
        if self._owner is not None:
            os.fchown(fd, *self._owner)
        return fd

    def _opened(self, path: bytes, flags: int = _WRITE) -> int:
        """Open a file; if necessary it has permissions for that meanwhile."""
        parent, name = self._directories.place(path)
        try:
            return os.open(name, flags, dir_fd=parent)
        except PermissionError:
            mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
            set_mode_at(parent, name, 0o600)
            try:
                return os.open(name, flags, dir_fd=parent)
            finally:
                set_mode_at(parent, name, mode)

    def _chown(self, name: bytes, parent: int) -> None:
        if self._owner is not None:
            os.chown(name, *self._owner, dir_fd=parent, follow_symlinks=False)

    def _close_file(self) -> None:
        if self._file[0]:
            os.close(self._file[1])
            self._file = (0, -1)


def _exists(parent: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _unlink(name: bytes, parent: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=parent)


def write_at(fd: int, data: memoryview, at: int) -> None:
    """Write all of some data at a place of a file."""
    while data:
        written = os.pwrite(fd, data, at)
        data = data[written:]
        at += written


def write_zeros(fd: int, at: int, end: int) -> None:
    """Write zeros, but not into holes."""
    while at < end:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
            stop = min(os.lseek(fd, at, os.SEEK_HOLE), end)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole follows
                return
            if error.errno != errno.EINVAL:
                raise
            stop = end  # the file system knows no holes
        while at < stop:
            at += os.pwrite(fd, _ZEROS[: stop - at], at)


def _failed(path: bytes, error: OSError) -> StorageError:
    return StorageError(
        f"{display(path or b'.')} could not be written: {disk_advice(error)}",
    )
