"""The open directory of one server: all actions on its files on behalf of users.

Each method opens the directory in question below the root (`openers`) and does one thing with one
name in it, by calls that follow no symlink. So it cannot matter what the server's program does in
its directory meanwhile. Symlinks on the way to a directory are followed inside the root; one at
the end of a path is itself meant, and is neither read nor written through. A copy is made within
the kernel; on file systems that can (btrfs, XFS) it shares its blocks with the original.

Blocking: run it in a thread. Methods raise the errors of `errors`, and StorageError where the disk
fails.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from attrs import evolve

from wingsd.errors import (
    DirectoryMissing,
    DiskLimitExceeded,
    FileMissing,
    FileTypeRefused,
    FileWorkCancelled,
    NameConflict,
    NotDirectory,
    PastReadOnly,
    PathInvalid,
    StorageError,
)
from wingsd.filesystem.attributes import set_mode_at
from wingsd.filesystem.directory import (
    Directory,
    Entry,
    OpenFile,
    entry_at,
    open_regular,
    regular_descriptor,
)
from wingsd.filesystem.new_file import (
    DEFAULTS,
    NewFile,
    NewFileOptions,
    OpenDescriptor,
    Owner,
    PartialFile,
    check_new_name,
    rename_exclusively,
)
from wingsd.filesystem.open_directories import closing_descriptor
from wingsd.filesystem.openers import NEW_FILE, NEW_FILE_MODE, DirectoryOpener
from wingsd.filesystem.past import PAST, Past, in_point, is_past, past_directory
from wingsd.filesystem.paths import ServerPath, file_error, file_errors
from wingsd.filesystem.removal import TreeRemover
from wingsd.filesystem.usage import DirectoryUsage, UsageCounter
from wingsd.filesystem.walk import ENTRY_SIZE, FREE_ENTRIES
from wingsd.filesystem.writable_file import OpenFiles, WritableFile
from wingsd.util.text import display, readable_size, reading_advice

#: Bytes between two looks at whether the copy was cancelled.
_STEP = 64 << 20
_BLOCK = 1 << 20
#: The file systems of the two files, or the kernel, cannot do it.
_UNSUPPORTED = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def copy_data(source: int, target: int, size: int, cancelled: Callable[[], bool]) -> None:
    """Copy the first `size` bytes of a file to an empty one; both are descriptors.

    A file that becomes shorter meanwhile gives a shorter copy. Raises OSError, and
    FileWorkCancelled.
    """
    offset = 0
    while offset < size:
        start, end = _next_data(source, offset, size)
        offset = start
        while offset < end:
            if cancelled():
                raise FileWorkCancelled
            copied = _copied(source, target, offset, min(end - offset, _STEP))
            if not copied:
                os.ftruncate(target, min(size, os.fstat(source).st_size))
                return
            offset += copied
    os.ftruncate(target, size)


def _next_data(source: int, offset: int, size: int) -> tuple[int, int]:
    """Return where the next data begins and ends, `size` twice where there is none."""
    try:
        start = os.lseek(source, offset, os.SEEK_DATA)
        return min(start, size), min(os.lseek(source, start, os.SEEK_HOLE), size)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size, size
        if error.errno in _UNSUPPORTED:
            return offset, size
        raise


def _copied(source: int, target: int, offset: int, size: int) -> int:
    """Copy a part; return its bytes, 0 at the end of the file."""
    try:
        return os.copy_file_range(source, target, size, offset, offset)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    data = os.pread(source, min(size, _BLOCK), offset)
    return os.pwrite(target, data, offset) if data else 0


_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_DIRECTORY_MODE = 0o755
#: A name that is to be renamed to is in use, and cannot be replaced.
_IN_USE = (errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR)


class ServerRoot(OpenDescriptor):
    """The files below one directory. To be used as a context, for one action.

    What is made belongs to `owner`, or to the process for None, and counts in `usage`. An action
    that is under way when the whole directory is replaced goes on in the old one. `past` is that
    of the server, None where it has none: it is read, and never changed.
    """

    def __init__(
        self,
        directory: str,
        opener: DirectoryOpener,
        owner: Owner | None = None,
        usage: UsageCounter | None = None,
        past: Past | None = None,
    ) -> None:
        """Open the directory, which may not be a symlink. Raises StorageError."""
        try:
            super().__init__(os.open(directory, _LIST))
        except OSError as error:
            raise StorageError.reading(f"{directory}: {reading_advice(error)}") from error
        self._opener = opener
        self._owner = owner
        self._usage = DirectoryUsage(usage or UsageCounter(), os.path.dirname(directory))
        self.past = past
        #: Directories that this action has made.
        self._made = 0

    # The past

    def past_of(self, path: ServerPath) -> Past | None:
        """Return the past where a path leads there; None for the server's own files."""
        return self.past if is_past(path) and self._shows_past() else None

    def _shows_past(self) -> bool:
        """Return whether there is a past, and no file of the server that has its name."""
        if self.past is None:
            return False
        with file_errors(PAST):
            try:
                os.lstat(PAST, dir_fd=self._fd)
            except FileNotFoundError:
                return True
        return False

    def past_entry(self) -> Entry | None:
        """Return the past as an entry of the server's directory; None where it has none."""
        return past_directory(PAST, os.fstat(self._fd).st_mtime_ns) if self._shows_past() else None

    def places(self, path: ServerPath) -> tuple[ServerPath, ...]:
        """Return the paths by which it is judged whether users may use one.

        These are itself, and where it really is when symlinks lead there. In the past, both are
        taken as they were in the server's directory, too. Raises as `real_path`.
        """
        if self.past_of(path) is None:
            return path, self.real_path(path)
        if len(path.parts) == 1:  # the past itself
            return (path,)
        return path, in_point(path), in_point(self.real_path(path))

    def _check_changes(self, path: ServerPath) -> None:
        """Raise PastReadOnly for what is in the past."""
        if self.past_of(path) is not None:
            raise PastReadOnly(_shown(path))

    # Reading

    def stat(self, path: ServerPath) -> Entry:
        """Return the entry of a path; a symlink is itself meant. Raises FileMissing."""
        if (past := self.past_of(path)) is not None:
            return past.stat(path)
        with self._parent(path) as parent:
            return entry_at(parent, path.name)

    def directory(self, path: ServerPath) -> Directory:
        """Open a directory to be listed.

        Raises DirectoryMissing where there is none, also where a symlink to one is.
        """
        if (past := self.past_of(path)) is not None:
            return past.directory(path)
        try:
            with self._parent(path) as parent:
                fd = os.open(path.name or b".", _LIST, dir_fd=parent)
        except FileMissing as error:
            raise DirectoryMissing(error.detail) from error
        return Directory(fd, path)

    def open_file(self, path: ServerPath) -> OpenFile:
        """Open a regular file for reading.

        Raises FileMissing, IsDirectory, and FileTypeRefused for all else, symlinks included.
        """
        if (past := self.past_of(path)) is not None:
            return past.open_file(path)
        with self._parent(path) as parent:
            return open_regular(parent, path.name or b".")

    def link_text(self, path: ServerPath) -> bytes:
        """Return the text of a symlink. Raises FileMissing, and FileTypeRefused for all else."""
        if (past := self.past_of(path)) is not None:
            return past.link_text(path)
        with self._parent(path) as parent:
            try:
                return os.readlink(path.name or b".", dir_fd=parent)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                raise FileTypeRefused(f"{_shown(path)} is not a symlink") from error

    def real_path(self, path: ServerPath) -> ServerPath:
        """Return the path without the symlinks that lead to its directory.

        The last name stays, and so do those that do not exist. Raises FileMissing where the path
        leads out of the server's directory.
        """
        if (past := self.past_of(path)) is not None:
            return past.real_path(path)
        above = path.parent
        while True:
            try:
                fd = self._opener.directory(self._fd, above)
                break
            except (FileNotFoundError, NotADirectoryError) as error:
                if above.is_root:
                    raise file_error(error, path) from error
                above = above.parent
            except OSError as error:
                raise file_error(error, path) from error
        with closing_descriptor(fd), file_errors(path):
            links = (b"/proc/self/fd/%d" % each for each in (self._fd, fd))
            top, place = map(os.readlink, links)
        if place != top and not place.startswith(top + b"/"):
            raise FileMissing(f"{_shown(path)} was moved")
        names = place[len(top) :].split(b"/")
        return ServerPath((*filter(None, names), *path.parts[len(above.parts) :]))

    def file_system(self) -> os.statvfs_result:
        """Return the statvfs result of the file system that the directory is on."""
        with file_errors(ServerPath()):
            return os.statvfs(self._fd)

    # Writing

    def check_space(self, size: int) -> None:
        """Raise DiskLimitExceeded unless so many bytes more fit: the limit, and the disk."""
        self._usage.add(size)
        self._usage.free(size)
        self.check_disk(size)

    def check_disk(self, size: int) -> None:
        """Raise DiskLimitExceeded unless the disk has so many bytes."""
        found = self.file_system()
        if size > found.f_bavail * found.f_frsize:
            raise DiskLimitExceeded(f"{readable_size(size)} do not fit on the disk of the node")

    def new_file(self, path: ServerPath, options: NewFileOptions = DEFAULTS) -> NewFile:
        """Begin a file, also in place of one; directories on the way to it are made.

        Raises NameConflict for a directory, FileTypeRefused for a symlink, a FIFO, a socket or a
        device, and DiskLimitExceeded.
        """
        if path.is_root:
            raise NameConflict.writing(_shown(path))
        self._check_changes(path)
        return NewFile(
            self._made_directory(path.parent), path.name, self._owner, self._usage, options
        )

    def writable_file(
        self, path: ServerPath, files: OpenFiles, *, mode: int | None = None
    ) -> WritableFile:
        """Open a regular file to be written in place, one of `files`; with a `mode`, create it.

        Directories on the way to a new one are made. Raises FileMissing, FileTypeRefused,
        FileInUse, and NameConflict for a directory, and for a name in use that is to be created.
        """
        if path.is_root:
            raise NameConflict.writing(_shown(path))
        self._check_changes(path)
        if mode is None:
            with self._parent(path) as parent:
                fd = regular_descriptor(parent, path.name, os.O_RDWR, NameConflict.writing)[0]
                return WritableFile(fd, path.name, self._usage, files)
        check_new_name(path.name)
        try:
            try:
                fd = self._opener.new_file(self._fd, path)
            except FileExistsError:
                raise
            except OSError:  # such as its directory that is missing
                with closing_descriptor(self._made_directory(path.parent)) as parent:
                    fd = os.open(path.name, NEW_FILE, NEW_FILE_MODE, dir_fd=parent)
            self._give(fd, mode & 0o777)
            return WritableFile(fd, path.name, self._usage, files)
        except FileExistsError as error:
            raise NameConflict.renaming(display(path.name)) from error
        except OSError as error:
            raise file_error(error, path) from error

    def partial_file(self, path: ServerPath, user: str, *, make: bool = True) -> PartialFile:
        """Open what a user has uploaded of a file; see `PartialFile`.

        Directories on the way are made, unless `make` is false: then raises FileMissing.
        """
        self._check_changes(path)
        if make:
            parent = self._made_directory(path.parent)
        else:
            with file_errors(path):
                parent = self._opener.directory(self._fd, path.parent)
        return PartialFile(parent, path.name, user, self._owner, self._usage, make=make)

    def write(
        self,
        path: ServerPath,
        pieces: Iterable[bytes | memoryview],
        options: NewFileOptions = DEFAULTS,
    ) -> Entry:
        """Write a file of these bytes; see `new_file`. Errors of `pieces` pass as they are."""
        with self.new_file(path, options) as file:
            for piece in pieces:
                file.write(piece)
            return Entry.of(path.name, file.commit())

    def copy(
        self,
        source: ServerPath,
        target: ServerPath,
        options: NewFileOptions = DEFAULTS,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Entry:
        """Copy a regular file; holes stay holes. The copy has its mode, unless `options` have one.

        Raises what `open_file` and `new_file` do, and FileWorkCancelled.
        """
        if (past := self.past_of(source)) is not None:
            found = past.stat(source)
            if not found.is_regular:
                raise FileTypeRefused(f"{_shown(source)} is not a regular file")
            write = partial(past.write, source, cancelled=cancelled)
            return self.write_past(found, target, options, write)
        with self.open_file(source) as original:
            size = original.entry.size
            mode = original.entry.permissions if options.mode is None else options.mode
            with self.new_file(target, evolve(options, size=size, mode=mode)) as copy:
                with file_errors(target):
                    copy_data(original.fileno(), copy.fileno(), size, cancelled)
                return Entry.of(target.name, copy.commit())

    def write_past(
        self,
        found: Entry,
        target: ServerPath,
        options: NewFileOptions,
        write: Callable[[int], None],
    ) -> Entry:
        """Make a file of one of the past; `write` gets a descriptor. Raises as `copy`."""
        mode = found.permissions if options.mode is None else options.mode
        with self.new_file(target, evolve(options, size=found.size, mode=mode)) as copy:
            with file_errors(target):
                write(copy.fileno())
            return Entry.of(target.name, copy.commit())

    def make_directory(self, path: ServerPath) -> Entry:
        """Make a directory and those on the way to it; an existing one is kept.

        Raises NameConflict for something else of that name, NotDirectory for a file on the way.
        """
        self._check_changes(path)
        try:
            with closing_descriptor(self._made_directory(path)) as fd:
                return Entry.of(path.name, os.fstat(fd))
        except NotDirectory as error:
            with suppress(FileMissing):
                self.stat(path)
                raise NameConflict.creating(_shown(path)) from error
            raise

    def make_symlink(self, path: ServerPath, text: bytes) -> Entry:
        """Make a symlink with this text, which is not resolved.

        Raises NameConflict where the name is in use, FileMissing, PathInvalid and NameTooLong.
        """
        if path.is_root or not text or b"\0" in text:
            raise PathInvalid("a symlink needs a name and a target.")
        self._check_changes(path)
        with self._parent(path) as parent:
            try:
                os.symlink(text, path.name, dir_fd=parent)
            except FileExistsError as error:
                raise NameConflict.renaming(_shown(path)) from error
            if self._owner is not None:
                os.chown(path.name, *self._owner, dir_fd=parent, follow_symlinks=False)
            return entry_at(parent, path.name)

    def link(self, source: ServerPath, target: ServerPath) -> None:
        """Make a hard link `target` to the regular file `source`.

        Raises FileMissing, FileTypeRefused, NameConflict for a name in use, and PathInvalid.
        """
        if target.is_root:
            raise NameConflict.renaming(_shown(target))
        check_new_name(source.name)
        check_new_name(target.name)
        self._check_changes(source)
        self._check_changes(target)
        with self._parent(source) as parent, self._parent(target) as directory:
            if not entry_at(parent, source.name).is_regular:
                raise FileTypeRefused(f"{_shown(source)} is not a regular file")
            try:
                os.link(
                    source.name,
                    target.name,
                    src_dir_fd=parent,
                    dst_dir_fd=directory,
                    follow_symlinks=False,
                )
            except FileExistsError as error:
                raise NameConflict.renaming(_shown(target)) from error
            except OSError as error:
                if error.errno in (errno.EXDEV, errno.EMLINK):
                    raise PathInvalid("this file cannot have another name there.") from error
                raise

    def rename(self, source: ServerPath, target: ServerPath, *, replace: bool = False) -> None:
        """Rename a file, a directory or a symlink; directories on the way to `target` are made.

        Raises FileMissing; NameConflict where `target` exists, with `replace` only for a
        directory that is not empty; PathInvalid for a directory into itself, for the server's
        directory, and from one file system to another.
        """
        if source.is_root or target.is_root:
            raise PathInvalid("the server's own directory cannot be renamed.")
        check_new_name(source.name)
        check_new_name(target.name)
        if source.contains(target) and source != target:
            raise PathInvalid("a directory cannot be moved into itself.")
        self._check_changes(source)
        self._check_changes(target)
        with self._parent(source) as parent:
            os.lstat(source.name, dir_fd=parent)
            with closing_descriptor(self._made_directory(target.parent)) as directory:
                try:
                    if not replace:
                        rename_exclusively(parent, source.name, directory, target.name)
                        return
                    with self._usage.going(directory, target.name):
                        os.rename(
                            source.name, target.name, src_dir_fd=parent, dst_dir_fd=directory
                        )
                except OSError as error:
                    if error.errno in _IN_USE:
                        raise NameConflict.renaming(_shown(target)) from error
                    if error.errno == errno.EINVAL:
                        raise PathInvalid("a directory cannot be moved into itself.") from error
                    if error.errno in (errno.EXDEV, errno.EBUSY):
                        raise PathInvalid("it cannot be moved to another file system.") from error
                    raise

    def remove(self, path: ServerPath, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Delete a file, a symlink, or a directory with all below it.

        Raises FileMissing, PathInvalid for the server's directory and for mount points, and
        FileWorkCancelled.
        """
        if path.is_root:
            raise PathInvalid("the server's own directory cannot be deleted.")
        self._check_changes(path)
        with self._parent(path) as parent:
            try:
                TreeRemover(self._opener, parent, self._usage, cancelled).remove(path.name)
            except OSError as error:
                if error.errno in (errno.EXDEV, errno.EBUSY):
                    raise PathInvalid("a mount point is not deleted.") from error
                if error.errno == errno.ENOTEMPTY:
                    raise PathInvalid("files are created there while it is deleted.") from error
                raise

    def set_mode(self, path: ServerPath, mode: int) -> None:
        """Set the permission bits of a file or a directory.

        Set-id and sticky bits are left out, as in Wings. Raises FileMissing, FileTypeRefused for a
        symlink, a FIFO, a socket or a device, and PathInvalid for the server's directory.
        """
        if path.is_root:
            raise PathInvalid("the mode of the server's directory is not changed.")
        self._check_changes(path)
        with self._parent(path) as parent:
            set_mode_at(parent, path.name, mode)

    def set_times(self, path: ServerPath, accessed: int, modified: int) -> None:
        """Set the times of an entry, in nanoseconds since 1970. Raises FileMissing."""
        self._check_changes(path)
        with self._parent(path) as parent:
            name = path.name or b"."
            os.utime(name, ns=(accessed, modified), dir_fd=parent, follow_symlinks=False)

    # Directories on the way

    @contextmanager
    def _parent(self, path: ServerPath) -> Iterator[int]:
        """Open the directory of a path; OSError of this context becomes an error of wingsd."""
        try:
            if len(path.parts) <= 1:  # nothing is on the way
                yield self._fd
                return
            parent = self._opener.directory(self._fd, path.parent)
            try:  # Not by `closing_descriptor`: each request passes here.
                yield parent
            finally:
                os.close(parent)
        except OSError as error:
            raise file_error(error, path) from error

    def _made_directory(self, path: ServerPath) -> int:
        """Return a descriptor of a directory, which is made if it is missing.

        Raises NotDirectory where the path leads through something else, and DiskLimitExceeded.
        """
        above = path
        missing: list[bytes] = []
        while True:
            try:
                fd = self._opener.directory(self._fd, above)
                break
            except FileNotFoundError as error:
                if above.is_root:
                    raise file_error(error, path) from error
                missing.append(above.name)
                above = above.parent
            except NotADirectoryError as error:
                raise NotDirectory(_shown(path)) from error
            except OSError as error:
                raise file_error(error, path) from error
        try:
            while missing:
                child = self._made_child(fd, missing.pop())
                os.close(fd)
                fd = child
        except BaseException as error:
            os.close(fd)
            if isinstance(error, OSError):
                if error.errno in (errno.ENOTDIR, errno.ELOOP):
                    raise NotDirectory(_shown(path)) from error
                raise file_error(error, path) from error
            raise
        return fd

    def _made_child(self, parent: int, name: bytes) -> int:
        """Make a directory, which counts as in `survey`. Raises DiskLimitExceeded."""
        self._made += 1
        if self._made > FREE_ENTRIES:
            self._usage.add(ENTRY_SIZE)
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            # Made by another thread meanwhile, or a symlink that leads nowhere.
            return os.open(name, _LIST, dir_fd=parent)
        fd = os.open(name, _LIST, dir_fd=parent)
        self._give(fd, _DIRECTORY_MODE)
        return fd

    def _give(self, fd: int, mode: int) -> None:
        """Give what was just made its owner and mode. After an error it is closed."""
        try:
            if self._owner is not None:
                os.fchown(fd, *self._owner)
            os.fchmod(fd, mode)
        except BaseException:
            os.close(fd)
            raise


def _shown(path: ServerPath) -> str:
    return display(bytes(path) or b"/")
