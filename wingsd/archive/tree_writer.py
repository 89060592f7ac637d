"""Writes members below one directory, and nowhere else.

A server that comes in several archives at a time may have a file in one of them and its other
name in another. They are kept on the disk, as there may be any number.

Everything is reached by directory descriptors and no symlink is ever followed, so whatever an
archive says, nothing outside the root is touched. What is there already is never written into: a
file that is in the way is unlinked, since it may be a hard link to another.
"""

from __future__ import annotations

import errno
import os
import stat
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from struct import Struct
from tempfile import SpooledTemporaryFile
from threading import Lock
from typing import NoReturn

from wingsd.archive.directories import DirectoryMetadata, OpenDirectories
from wingsd.archive.errors import ArchiveError
from wingsd.archive.policy import MemberRefused, display
from wingsd.archive.quota import DEFAULT, ArchiveLimits
from wingsd.archive.tree_range import Path
from wingsd.errors import StorageError
from wingsd.util.os_errors import disk_advice

__all__ = ["DeferredLinks", "TreeWriter"]

_SPOOLED = 1 << 19
_HEAD = Struct("<II")


class DeferredLinks:
    """Those of one tree, from any of the threads that write it; `close` must be called.

    `place` is a directory's path on the disk that is to keep them.
    """

    def __init__(self, place: str) -> None:
        self._file = SpooledTemporaryFile(_SPOOLED, dir=place)  # noqa: SIM115 - closed by close
        self._lock = Lock()
        self._is_open = True

    def keep(self, path: Path, target: Path) -> bool:
        """Keep that `path` is to be one more name of `target`; return whether it is kept.

        Raises OSError where the disk fails.
        """
        name, other = b"/".join(path), b"/".join(target)
        with self._lock:
            if self._is_open:
                self._file.write(_HEAD.pack(len(name), len(other)) + name + other)
            return self._is_open

    def take(self) -> Iterator[tuple[Path, Path]]:
        """Yield each in the order in which they came; none is kept any more."""
        self._is_open = False
        self._file.seek(0)
        while head := self._file.read(_HEAD.size):
            name, other = _HEAD.unpack(head)
            yield _path(self._file.read(name)), _path(self._file.read(other))

    def close(self) -> None:
        """Let go of the file."""
        with suppress(OSError):
            self._file.close()


def _path(name: bytes) -> Path:
    return tuple(name.split(b"/"))


_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_IMPLIED_MODE = 0o755


class TreeWriter:
    """A tree being written below `root`, a directory's path or descriptor.

    `owner` (user id, group id) is given to everything; None leaves it to the process. Names are
    paths from `policy.member_path`, modes already judged, times in nanoseconds. `finish` applies
    the directories' modes and times, kept in the memory that `limits` has for them and for the
    rest in `root` itself; `close` must be called in any case.

    Every method raises ArchiveError where the archive is at fault, StorageError where the disk
    is, both with the member's name.

    Several may write one tree at the same time, each in its thread: all with the same `late`, and
    all but the first with the first's `metadata`, which alone calls `finish`. What one of them has
    written no other replaces, and a hard link may come before its file.
    """

    def __init__(
        self,
        root: int | str | bytes,
        owner: tuple[int, int] | None,
        limits: ArchiveLimits = DEFAULT,
        *,
        late: DeferredLinks | None = None,
        metadata: DirectoryMetadata | None = None,
    ) -> None:
        self.root = os.dup(root) if isinstance(root, int) else _open_root(root)
        #: How many directories this writer has made, those on the way to members among them.
        self.directories = 0
        self._owner = None if owner is None or self._is_own(owner) else owner
        self._umask = _umask()
        self._late = late
        self._is_first = metadata is None
        # by its descriptor, as its name may be another's meanwhile
        self.metadata = metadata or DirectoryMetadata(
            f"/proc/self/fd/{self.root}", limits.directory_memory
        )
        self._directories = OpenDirectories(self.root, self._implied, self.metadata.lock)

    def file(self, path: Path, mode: int, mtime: int, pieces: Iterable[memoryview]) -> None:
        """Write a regular file. Errors of `pieces` pass as they are."""
        fd = self._create(path, mode)
        try:
            for piece in pieces:
                self._write(fd, piece, path)
            self._dress(fd, path, mode, mtime)
        finally:
            self._call(path, os.close, fd)

    def sparse_file(
        self,
        path: Path,
        mode: int,
        mtime: int,
        size: int,
        segments: array[int],
        pieces: Iterable[memoryview],
    ) -> None:
        """Write a regular file of `size` bytes that has data only in `segments`, else holes.

        Offsets and lengths as `tar.Member` has them: in order, apart, adding up to `pieces`.
        """
        fd = self._create(path, mode)
        try:
            for offset, part in _placed(segments, pieces):
                self._call(path, os.lseek, fd, offset, os.SEEK_SET)
                self._write(fd, part, path)
            self._call(path, os.ftruncate, fd, size)
            self._dress(fd, path, mode, mtime)
        finally:
            self._call(path, os.close, fd)

    def directory(self, path: Path, mode: int, mtime: int) -> None:
        """Make a directory, or keep the one that is there; `()` is the root."""
        if path:
            self._call(path, self._make_directory, path, mode, mtime)
        else:
            with self.metadata.lock:
                self.metadata.again(path, mode, mtime)

    def symlink(self, path: Path, mtime: int, text: bytes) -> None:
        """Make a symlink; its text is neither read nor followed."""
        self._call(path, self._make_symlink, path, mtime, text)

    def hard_link(self, path: Path, target: Path) -> None:
        """Make one more name for the file `target`, which is below the root as well."""
        try:
            try:
                self._make_hard_link(path, target)
            except FileNotFoundError:
                if self._late is None or not self._late.keep(path, target):
                    raise
        except FileNotFoundError:
            raise ArchiveError(
                f"{_shown(path)} is a hard link to {_shown(target)}, which is not there"
            ) from None
        except OSError as error:
            self._fail(error, path)

    def finish(self) -> None:
        """Give directories their owners, modes and times: the deepest first, the root last."""
        path: Path = ()
        try:
            for path, mode, mtime in self.metadata.in_order():
                self._finish_directory(path, mode, mtime)
        except OSError as error:
            self._fail(error, path)

    def file_system(self) -> os.statvfs_result:
        """Tell how full the file system is that the tree is on."""
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

    def _is_own(self, owner: tuple[int, int]) -> bool:
        # below a set-group-id directory files get that directory's group instead
        inherits = os.fstat(self.root).st_mode & stat.S_ISGID
        return owner == (os.geteuid(), os.getegid()) and not inherits

    def _implied(self, path: Path) -> None:
        self.directories += 1
        self.metadata.made(path, _IMPLIED_MODE, None)

    def _create(self, path: Path, mode: int) -> int:
        try:
            parent = self._parent(path)
            try:
                return os.open(path[-1], _CREATE, mode, dir_fd=parent)
            except FileExistsError:
                self._make_way(path, parent)
                return os.open(path[-1], _CREATE, mode, dir_fd=parent)
        except OSError as error:
            self._fail(error, path)

    def _make_way(self, path: Path, parent: int) -> None:
        if self._late is not None:
            raise ArchiveError(
                f"{_shown(path)} comes more than once, and of several streams nobody can say "
                "which has the right one; send it in one of them"
            )
        os.unlink(path[-1], dir_fd=parent)

    def _parent(self, path: Path) -> int:
        if not path:
            raise ArchiveError("the archive's root directory is not a directory in it")
        return self._directories.get(path[:-1])

    def _write(self, fd: int, piece: memoryview, path: Path) -> None:
        try:
            written = os.write(fd, piece)
            while written < len(piece):
                written += os.write(fd, piece[written:])
        except OSError as error:
            self._fail(error, path)

    def _dress(self, fd: int, path: Path, mode: int, mtime: int) -> None:
        """Owner before mode, as giving a file away may take bits of its mode."""
        try:
            if self._owner is not None:
                os.fchown(fd, *self._owner)
            if mode & self._umask:
                os.fchmod(fd, mode)
            os.utime(fd, ns=(mtime, mtime))
        except OSError as error:
            self._fail(error, path)

    def _make_directory(self, path: Path, mode: int, mtime: int) -> None:
        parent = self._parent(path)
        with self.metadata.lock:
            # open to the process alone until its own mode comes at the end
            try:
                os.mkdir(path[-1], 0o700, dir_fd=parent)
            except FileExistsError:
                found = os.stat(path[-1], dir_fd=parent, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    self.metadata.again(path, mode, mtime)
                    return
                self._make_way(path, parent)
                os.mkdir(path[-1], 0o700, dir_fd=parent)
            self.directories += 1
            self.metadata.made(path, mode, mtime)

    def _make_symlink(self, path: Path, mtime: int, text: bytes) -> None:
        parent = self._parent(path)
        name = path[-1]
        try:
            os.symlink(text, name, dir_fd=parent)
        except FileExistsError:
            self._make_way(path, parent)
            os.symlink(text, name, dir_fd=parent)
        if self._owner is not None:
            os.chown(name, *self._owner, dir_fd=parent, follow_symlinks=False)
        os.utime(name, ns=(mtime, mtime), dir_fd=parent, follow_symlinks=False)

    def _make_hard_link(self, path: Path, target: Path) -> None:
        if not target:
            raise MemberRefused(b"/".join(path), "it is a hard link to the root directory")
        source = self._directories.get(target[:-1], make=False)
        found = os.stat(target[-1], dir_fd=source, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            raise MemberRefused(b"/".join(path), "it is a hard link to a directory")
        if path == target:
            return
        parent = self._parent_beside(path, source)
        try:
            _link(target[-1], source, path[-1], parent)
        except FileExistsError:
            if os.path.samestat(found, os.stat(path[-1], dir_fd=parent, follow_symlinks=False)):
                return
            self._make_way(path, parent)
            _link(target[-1], source, path[-1], parent)

    def _parent_beside(self, path: Path, other: int) -> int:
        if not path:
            return self._parent(path)
        return self._directories.get(path[:-1], keep=other)

    def _finish_directory(self, path: Path, mode: int, mtime: int | None) -> None:
        fd = self._directories.get(path, make=False)
        if self._owner is not None:
            os.fchown(fd, *self._owner)
        os.fchmod(fd, mode)
        if mtime is not None:
            os.utime(fd, ns=(mtime, mtime))

    def _call(self, path: Path, work: Callable[..., object], *args: object) -> None:
        try:
            work(*args)
        except OSError as error:
            self._fail(error, path)

    def _fail(self, error: OSError, path: Path) -> NoReturn:
        """Tell whose fault it is, and for the disk's what to do."""
        name = _shown(path)
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise ArchiveError(
                f"{name} leads through {self._obstacle(path)}, which is never followed"
            ) from error
        if error.errno == errno.EISDIR:
            raise ArchiveError(f"{name} would replace a directory by something else") from error
        raise StorageError(f"{name} could not be written: {disk_advice(error)}") from error

    def _obstacle(self, path: Path) -> str:
        """Find what lies in the way of `path`, for a person to read."""
        for end in range(1, len(path)):
            with suppress(OSError):
                parent = self._directories.get(path[: end - 1], make=False)
                found = os.stat(path[end - 1], dir_fd=parent, follow_symlinks=False)
                if not stat.S_ISDIR(found.st_mode):
                    kind = "symlink" if stat.S_ISLNK(found.st_mode) else "file"
                    return f"the {kind} {_shown(path[:end])}"
        return "a symlink or a file"


def _open_root(root: str | bytes) -> int:
    try:
        return os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise StorageError(f"{os.fsdecode(root)}: {disk_advice(error)}") from error


def _umask() -> int:
    """Return the process's umask as the kernel tells it: asking for it by umask(2) sets it.

    All bits where it is not told, so that every mode is set once more.
    """
    with suppress(OSError), open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"Umask:"):
                return int(line.split()[1], 8) | stat.S_ISVTX
    return 0o7777


def _link(target: bytes, source: int, name: bytes, parent: int) -> None:
    os.link(target, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)


def _placed(
    segments: array[int], pieces: Iterable[memoryview]
) -> Iterator[tuple[int, memoryview]]:
    """Cut `pieces` at the borders of the segments, each part with its offset in the file."""
    layout = zip(segments[::2], segments[1::2], strict=True)
    offset = room = 0
    for piece in pieces:
        rest = piece
        while rest:
            while not room:
                offset, room = next(layout)
            part, rest = rest[:room], rest[room:]
            yield offset, part
            offset += len(part)
            room -= len(part)


def _shown(path: Path) -> str:
    return display(b"/".join(path) or b".")
