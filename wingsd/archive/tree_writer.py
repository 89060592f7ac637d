"""Writes the members of archives below one directory, and nowhere else.

Files are reached by directory descriptors and no symlink is followed, so no archive can touch
anything outside the root. Existing files are never written into but unlinked, as they may be hard
links to others.
"""

from __future__ import annotations

import errno
import marshal
import os
import stat
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from tempfile import SpooledTemporaryFile
from threading import Lock
from typing import NoReturn

from wingsd.archive.quota import DEFAULT, ArchiveLimits
from wingsd.errors import ArchiveError, MemberRefused, StorageError
from wingsd.filesystem.attributes import is_own, process_umask, write_attributes
from wingsd.filesystem.open_directories import OpenDirectories, Path
from wingsd.util.durable import storage_errors
from wingsd.util.text import disk_advice, display

_SPOOLED = 1 << 19


class DeferredLinks:
    """Hard links of one tree whose files may come later, in another archive of the same server.

    They are kept in a file in the directory `place`, as there may be any number. Any thread may
    add some. `close` must be called.
    """

    def __init__(self, place: str) -> None:
        self._file = SpooledTemporaryFile(_SPOOLED, dir=place)  # noqa: SIM115 - closed by close
        self._lock = Lock()
        self._is_open = True

    def add(self, path: Path, target: Path) -> bool:
        """Add a hard link `path` to `target`; return False after `take`.

        Raises OSError where the disk fails.
        """
        with self._lock:
            if self._is_open:
                self._file.write(marshal.dumps((path, target)))
            return self._is_open

    def take(self) -> Iterator[tuple[Path, Path]]:
        """Yield all links in the order in which they were added; no more are accepted."""
        self._is_open = False
        self._file.seek(0)
        with suppress(EOFError):
            while True:
                yield marshal.load(self._file)  # noqa: S302 - this process has written it

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):
            self._file.close()


DirectoryEntry = tuple[Path, int, int | None, bytes]

_CHUNK = 1 << 16
_OVERHEAD = 300  # bytes of the smallest entry of `_updated` in CPython 3.11


class DirectoryMetadata:
    """The metadata of directories: `mode`, `attributes`, and `mtime`, None for any.

    Times are in nanoseconds.

    An archive may have any number of directories, so they are kept on the disk: in a file without
    a name in the directory `place`, read backwards at the end, so that a directory comes before
    its parents. `memory` is the most bytes for those of `update`. `close` must be called.

    Threads that share it hold `lock` while they make a directory and add it: else its contents
    could be added before it, and the order at the end would be wrong.
    """

    def __init__(self, place: str, memory: int) -> None:
        self.lock = Lock()
        self._file = SpooledTemporaryFile(_SPOOLED, dir=place)  # noqa: SIM115 - closed by close
        self._offsets = array("q", [0])
        #: Directories that are not in the file yet, and about how many bytes of memory they take.
        self._chunk: list[DirectoryEntry] = []
        self._size = 0
        self._updated: dict[Path, tuple[int, int, bytes]] = {}
        self._memory_left = memory

    def add(self, path: Path, mode: int, mtime: int | None, attributes: bytes = b"") -> None:
        """Add a directory that was just made, after its parents.

        Raises OSError where the disk fails.
        """
        self._chunk.append((path, mode, mtime, attributes))
        self._size += _taken(path) + len(attributes)
        if self._size >= _CHUNK:
            self._file.write(marshal.dumps(self._chunk))
            self._offsets.append(self._file.tell())
            self._chunk.clear()
            self._size = 0

    def update(self, path: Path, mode: int, mtime: int, attributes: bytes = b"") -> None:
        """Set the metadata of a directory that exists already; the last call counts.

        It is kept in memory. Raises ArchiveError where that is used up.
        """
        if path not in self._updated:
            self._memory_left -= _taken(path)
        self._memory_left -= len(attributes)
        if self._memory_left < 0:
            raise ArchiveError(
                "too many directories come after their contents, or twice; write the archive "
                "with directories first, as tar does, or raise "
                "system.transfers.directory_memory on this node"
            )
        self._updated[path] = (mode, mtime, attributes)

    def in_order(self) -> Iterator[DirectoryEntry]:
        """Yield every directory once, before its parents, the root at the end.

        May be called once. Raises OSError where the disk fails.
        """
        updated = self._updated
        for path, *metadata in self._added_backwards():
            yield path, *updated.pop(path, metadata)
        # those that existed before the archive
        for path in sorted(updated, reverse=True):
            yield path, *updated[path]

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # unwritten data is not needed any more
            self._file.close()

    def _added_backwards(self) -> Iterator[DirectoryEntry]:
        yield from reversed(self._chunk)
        for start, end in zip(self._offsets[-2::-1], self._offsets[:0:-1], strict=True):
            self._file.seek(start)
            chunk = self._file.read(end - start)
            yield from reversed(marshal.loads(chunk))  # noqa: S302 - this process has written it


def _taken(path: Path) -> int:
    """Return about the bytes of memory that a directory takes."""
    return _OVERHEAD + sum(len(part) + 41 for part in path)


_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_IMPLIED_MODE = 0o755


class TreeWriter:
    """A tree being written below `root`, a directory's path or descriptor.

    All files get `owner` (user id, group id), or the process's own ids for None. Names are paths
    from `policy.member_path`, modes from `policy.member_mode`, times in nanoseconds. `finish` sets
    the directories' modes and times, which are kept in memory up to `limits` and else in a file in
    `root`. `close` must be called in any case.

    Every method raises ArchiveError for a fault of the archive and StorageError for one of the
    disk, both with the member's name.

    Several writers may write one tree at the same time, each in its thread: all with the same
    `deferred_links`, and all but the first with the `metadata` of the first, which alone calls
    `finish`. They do not replace each other's files, and a hard link may come before its file.
    """

    def __init__(
        self,
        root: int | str,
        owner: tuple[int, int] | None,
        limits: ArchiveLimits = DEFAULT,
        *,
        deferred_links: DeferredLinks | None = None,
        metadata: DirectoryMetadata | None = None,
    ) -> None:
        if isinstance(root, int):
            self.root = os.dup(root)
        else:
            with storage_errors(root):
                self.root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        #: How many directories this writer has made, including parents of members.
        self.directories = 0
        #: How many files and directories lack extended attributes or ACLs that they should have.
        self.without_attributes = 0
        self._given = owner or (os.geteuid(), os.getegid())
        self._owner = None if owner is None or is_own(owner, self.root) else owner
        self._umask = process_umask()
        self._deferred_links = deferred_links
        self._is_first = metadata is None
        # by descriptor, as the name may have become another directory's
        self.metadata = metadata or DirectoryMetadata(
            f"/proc/self/fd/{self.root}", limits.directory_memory
        )
        self._directories = OpenDirectories(self.root, self._made_implicitly, self.metadata.lock)

    def file(
        self,
        path: Path,
        mode: int,
        mtime: int,
        pieces: Iterable[memoryview],
        attributes: bytes = b"",
        size: int = 0,
        segments: array[int] | None = None,
    ) -> None:
        """Write a regular file with `attributes` as `filesystem.attributes` has them.

        With `segments` it has `size` bytes, and data only there, else holes: they are offsets and
        lengths as in `tar_headers.Member`, adding up to `pieces`. Errors of `pieces` pass as they
        are.
        """
        fd = self._create(path, mode)
        try:
            if segments is None:
                for piece in pieces:
                    self._write(fd, piece, path)
            else:
                for offset, part in _with_offsets(segments, pieces):
                    self._call(path, os.lseek, fd, offset, os.SEEK_SET)
                    self._write(fd, part, path)
                self._call(path, os.ftruncate, fd, size)
            sets_mode = bool(mode & self._umask)
            self._call(path, self._set_metadata, fd, mode, mtime, attributes, sets_mode)
        finally:
            self._call(path, os.close, fd)

    def directory(self, path: Path, mode: int, mtime: int, attributes: bytes = b"") -> None:
        """Make a directory, or use the existing one; `()` is the root."""
        if path:
            self._call(path, self._make_directory, path, mode, mtime, attributes)
        else:
            with self.metadata.lock:
                self.metadata.update(path, mode, mtime, attributes)

    def symlink(self, path: Path, mtime: int, text: bytes) -> None:
        """Make a symlink; its text is neither read nor followed."""
        self._call(path, self._make_symlink, path, mtime, text)

    def hard_link(self, path: Path, target: Path) -> None:
        """Make a hard link to the file `target`, which is below the root as well."""
        try:
            try:
                self._make_hard_link(path, target)
            except FileNotFoundError:
                if self._deferred_links is None or not self._deferred_links.add(path, target):
                    raise
        except FileNotFoundError:
            raise ArchiveError(
                f"{_shown(path)} is a hard link to {_shown(target)}, which does not exist"
            ) from None
        except OSError as error:
            self._fail(error, path)

    def finish(self) -> None:
        """Give directories their owners, modes and times: the deepest first, the root last."""
        path: Path = ()
        try:
            for path, mode, mtime, attributes in self.metadata.in_order():
                fd = self._directories.get(path, make=False)
                self._set_metadata(fd, mode, mtime, attributes, sets_mode=True)
        except OSError as error:
            self._fail(error, path)

    def file_system(self) -> os.statvfs_result:
        """Return the statvfs result of the tree's file system."""
        try:
            return os.statvfs(self.root)
        except OSError as error:
            self._fail(error, ())

    def close(self) -> None:
        """Close every descriptor."""
        if self._is_first:
            self.metadata.close()
        self._directories.close()
        os.close(self.root)

    def _made_implicitly(self, path: Path) -> None:
        self.directories += 1
        self.metadata.add(path, _IMPLIED_MODE, None)

    def _create(self, path: Path, mode: int) -> int:
        try:
            parent = self._parent(path)
            try:
                return os.open(path[-1], _CREATE, mode, dir_fd=parent)
            except FileExistsError:
                self._remove(path, parent)
                return os.open(path[-1], _CREATE, mode, dir_fd=parent)
        except OSError as error:
            self._fail(error, path)

    def _remove(self, path: Path, parent: int) -> None:
        if self._deferred_links is not None:
            raise ArchiveError(
                f"{_shown(path)} comes more than once: several streams have it, in no order; send "
                "it in one of them"
            )
        os.unlink(path[-1], dir_fd=parent)

    def _parent(self, path: Path, keep: int = -1) -> int:
        if not path:
            raise ArchiveError("the archive has its root directory as a file")
        return self._directories.get(path[:-1], keep=keep)

    def _write(self, fd: int, piece: memoryview, path: Path) -> None:
        try:
            written = os.write(fd, piece)
            while written < len(piece):
                written += os.write(fd, piece[written:])
        except OSError as error:
            self._fail(error, path)

    def _set_metadata(
        self, fd: int, mode: int, mtime: int | None, attributes: bytes, sets_mode: bool
    ) -> None:
        """Set owner, mode and time; the owner first, as chown may clear bits of the mode."""
        if self._owner is not None:
            os.fchown(fd, *self._owner)
        if attributes:
            if not write_attributes(fd, attributes, mode, self._given):
                self.without_attributes += 1
        elif sets_mode:
            os.fchmod(fd, mode)
        if mtime is not None:
            os.utime(fd, ns=(mtime, mtime))

    def _make_directory(self, path: Path, mode: int, mtime: int, attributes: bytes) -> None:
        parent = self._parent(path)
        with self.metadata.lock:
            # closed to others until its own mode is set at the end
            try:
                os.mkdir(path[-1], 0o700, dir_fd=parent)
            except FileExistsError:
                found = os.stat(path[-1], dir_fd=parent, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    self.metadata.update(path, mode, mtime, attributes)
                    return
                self._remove(path, parent)
                os.mkdir(path[-1], 0o700, dir_fd=parent)
            self.directories += 1
            self.metadata.add(path, mode, mtime, attributes)

    def _make_symlink(self, path: Path, mtime: int, text: bytes) -> None:
        parent = self._parent(path)
        name = path[-1]
        try:
            os.symlink(text, name, dir_fd=parent)
        except FileExistsError:
            self._remove(path, parent)
            os.symlink(text, name, dir_fd=parent)
        if self._owner is not None:
            os.chown(name, *self._owner, dir_fd=parent, follow_symlinks=False)
        os.utime(name, ns=(mtime, mtime), dir_fd=parent, follow_symlinks=False)

    def _make_hard_link(self, path: Path, target: Path) -> None:
        if not target:
            raise MemberRefused(
                display(b"/".join(path)), "it is a hard link to the root directory"
            )
        source = self._directories.get(target[:-1], make=False)
        found = os.stat(target[-1], dir_fd=source, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            raise MemberRefused(display(b"/".join(path)), "it is a hard link to a directory")
        if path == target:
            return
        parent = self._parent(path, source)
        try:
            _link(target[-1], source, path[-1], parent)
        except FileExistsError:
            if os.path.samestat(found, os.stat(path[-1], dir_fd=parent, follow_symlinks=False)):
                return
            self._remove(path, parent)
            _link(target[-1], source, path[-1], parent)

    def _call(self, path: Path, work: Callable[..., object], *args: object) -> None:
        try:
            work(*args)
        except OSError as error:
            self._fail(error, path)

    def _fail(self, error: OSError, path: Path) -> NoReturn:
        """Raise ArchiveError or StorageError for an error of the operating system."""
        name = _shown(path)
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise ArchiveError(
                f"the path of {name} leads through {self._obstacle(path)}, which is not followed"
            ) from error
        if error.errno == errno.EISDIR:
            raise ArchiveError(f"{name} would replace a directory") from error
        raise StorageError(f"{name} could not be written: {disk_advice(error)}") from error

    def _obstacle(self, path: Path) -> str:
        """Return the symlink or file in the path, for messages."""
        for end in range(1, len(path)):
            with suppress(OSError):
                parent = self._directories.get(path[: end - 1], make=False)
                found = os.stat(path[end - 1], dir_fd=parent, follow_symlinks=False)
                if not stat.S_ISDIR(found.st_mode):
                    kind = "symlink" if stat.S_ISLNK(found.st_mode) else "file"
                    return f"the {kind} {_shown(path[:end])}"
        return "a symlink or a file"


def _link(target: bytes, source: int, name: bytes, parent: int) -> None:
    os.link(target, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)


def _with_offsets(
    segments: array[int], pieces: Iterable[memoryview]
) -> Iterator[tuple[int, memoryview]]:
    """Cut `pieces` at the ends of the segments; yield each part with its offset in the file."""
    layout = zip(segments[::2], segments[1::2], strict=True)
    offset = left = 0
    for piece in pieces:
        rest = piece
        while rest:
            while not left:
                offset, left = next(layout)
            part, rest = rest[:left], rest[left:]
            yield offset, part
            offset += len(part)
            left -= len(part)


def _shown(path: Path) -> str:
    return display(b"/".join(path) or b".")
