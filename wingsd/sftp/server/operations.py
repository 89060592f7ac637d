"""The requests of one channel: each is done, and answered with its result or a status.

Blocking: `answer` is called in a thread, for one request after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import chain, islice
from threading import Lock
from typing import TypeVar

import attrs

from wingsd.config import SftpConfig
from wingsd.errors import (
    DirectoryMissing,
    DiskLimitExceeded,
    FileMissing,
    Forbidden,
    HandleInvalid,
    IsDirectory,
    NameConflict,
    NotDirectory,
    ReadOnly,
    SftpPermissionMissing,
    TooManyHandles,
    WingsdError,
)
from wingsd.files.changes import delete
from wingsd.files.progress import Progress
from wingsd.filesystem.directory import Directory, Entry, OpenFile
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.writable_file import MAX_FILE_SIZE, OpenFiles, WritableFile
from wingsd.sftp.server import answers, packets
from wingsd.sftp.server.access import (
    CREATE_FILES,
    DELETE_FILES,
    LIST_FILES,
    READ_FILES,
    UPDATE_FILES,
    SessionAccess,
)
from wingsd.sftp.server.packets import (
    EXTENDED,
    Attributes,
    Extended,
    HandleRequest,
    Open,
    PathRequest,
    ReadRequest,
    Request,
    SetAttributes,
    TwoPaths,
    WriteRequest,
)

__all__ = [
    "SECOND",
    "HandleBudget",
    "Handles",
    "ListedDirectory",
    "SftpOperations",
    "error_status",
    "file_mode",
]

T = TypeVar("T")
#: Nanoseconds.
SECOND = 1_000_000_000
_MODE = 0o644
#: What the owner can always do with a file, or the server's program could not use it.
_OWNER_BITS = 0o600
_DIRECTORY_MODE = 0o755
#: The first that an error is an instance of counts.
_STATUSES: tuple[tuple[type[WingsdError], int], ...] = (
    (FileMissing, answers.NO_SUCH_FILE),
    (DirectoryMissing, answers.NO_SUCH_FILE),
    (DiskLimitExceeded, answers.QUOTA_EXCEEDED),
    (Forbidden, answers.PERMISSION_DENIED),
    (ReadOnly, answers.UNSUPPORTED),
    (WingsdError, answers.FAILURE),
)


class _SessionProgress(Progress):
    """Work that ends when the session is closed."""

    def __init__(self, access: SessionAccess) -> None:
        super().__init__()
        self._access = access

    def cancelled(self) -> bool:
        return self._access.is_closed()

    def check(self) -> None:
        self._access.check_open(changes=True)


def file_mode(mode: int | None) -> int:
    """Return the permission bits of a file for those that a client sent; 0644 for none."""
    bits = (mode or 0) & 0o777
    return bits | _OWNER_BITS if bits else _MODE


class HandleBudget:
    """Counts the handles of all channels, at most `most`. Any thread may call it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._lock = Lock()

    def take(self) -> None:
        """Count one more. Raises `TooManyHandles`."""
        with self._lock:
            if self._count >= self._most:
                raise TooManyHandles(self._most)
            self._count += 1

    def release(self) -> None:
        """Count one less."""
        with self._lock:
            self._count -= 1


@attrs.define(eq=False)
class ListedDirectory:
    """A directory that is listed: the entries that are still to be sent."""

    directory: Directory
    entries: Iterator[Entry]

    def close(self) -> None:
        """Close it."""
        self.entries = iter(())  # which holds a descriptor of its own
        self.directory.close()


@attrs.frozen(eq=False)
class _Open:
    item: OpenFile | WritableFile | ListedDirectory
    path: ServerPath
    appends: bool = False


class Handles:
    """The handles of one channel, at most `most`; `budget` counts those of all channels.

    `files` are the server's files that are open in this process.
    """

    def __init__(self, most: int, budget: HandleBudget, files: OpenFiles) -> None:
        self._most = most
        self._budget = budget
        self._files = files
        self._open: dict[bytes, _Open] = {}
        self._next = 0

    def reserve(self) -> None:
        """Raise `TooManyHandles` where no other can be opened."""
        if len(self._open) >= self._most:
            raise TooManyHandles(self._most)

    def add(
        self,
        item: OpenFile | WritableFile | ListedDirectory,
        path: ServerPath,
        *,
        appends: bool = False,
    ) -> bytes:
        """Return the handle of what was opened, which is closed where there are too many."""
        try:
            self.reserve()
            self._budget.take()
        except BaseException:
            item.close()
            raise
        if isinstance(item, OpenFile):
            self._files.add(item.fileno())
        handle = self._next.to_bytes(8, "big")
        self._next += 1
        self._open[handle] = _Open(item, path, appends)
        return handle

    def get(self, handle: bytes, kind: type[T]) -> T:
        """Return what is open by a handle, if it is of this kind. Raises `HandleInvalid`."""
        found = self._open.get(handle)
        if found is None or not isinstance(found.item, kind):
            raise HandleInvalid
        return found.item

    def readable(self, handle: bytes) -> OpenFile | WritableFile:
        """Return the open file by a handle. Raises `HandleInvalid`."""
        found = self._open.get(handle)
        if found is None or isinstance(found.item, ListedDirectory):
            raise HandleInvalid
        return found.item

    def is_directory(self, handle: bytes) -> bool:
        """Return whether a directory is open by a handle."""
        found = self._open.get(handle)
        return found is not None and isinstance(found.item, ListedDirectory)

    def path(self, handle: bytes) -> ServerPath:
        """Return the path that it was opened by. Raises `HandleInvalid`."""
        try:
            return self._open[handle].path
        except KeyError:
            raise HandleInvalid from None

    def appends(self, handle: bytes) -> bool:
        """Return whether all is written to the end of the file."""
        found = self._open.get(handle)
        return found is not None and found.appends

    def close(self, handle: bytes) -> None:
        """Close one. Raises `HandleInvalid`."""
        found = self._open.pop(handle, None)
        if found is None:
            raise HandleInvalid
        self._budget.release()
        if isinstance(found.item, OpenFile):
            self._files.discard(found.item.fileno())
        found.item.close()

    def close_all(self) -> None:
        """Close all of them."""
        for handle in tuple(self._open):
            with suppress(OSError):  # of a disk that fails
                self.close(handle)


def error_status(error: WingsdError) -> int:
    """Return the status of SFTP for an error."""
    return next(status for kind, status in _STATUSES if isinstance(error, kind))


class SftpOperations:
    """Does what the client of one channel asks for, with the `access` of its connection."""

    def __init__(
        self,
        access: SessionAccess,
        budget: HandleBudget,
        config: SftpConfig,
    ) -> None:
        self._access = access
        self._config = config
        most = config.limits.max_handles_per_channel
        self._handles = Handles(most, budget, access.usage.files)
        self._calls: Mapping[int, Callable[..., bytes]] = {
            packets.OPEN: self._open,
            packets.CLOSE: self._close,
            packets.READ_DATA: self._read,
            packets.WRITE_DATA: self._write,
            packets.FSTAT: self._fstat,
            packets.FSETSTAT: self._fsetstat,
            packets.LSTAT: self._lstat,
            packets.STAT: self._stat,
            packets.SETSTAT: self._setstat,
            packets.OPENDIR: self._opendir,
            packets.READDIR: self._readdir,
            packets.REMOVE: self._remove,
            packets.MKDIR: self._mkdir,
            packets.RMDIR: self._rmdir,
            packets.REALPATH: self._realpath,
            packets.RENAME: self._rename,
            packets.READLINK: self._readlink,
            packets.SYMLINK: self._symlink,
            EXTENDED: self._extended,
        }
        self._extensions: Mapping[bytes, Callable[[Extended], bytes]] = {
            b"fsync@openssh.com": self._fsync,
            b"limits@openssh.com": self._limits,
            b"posix-rename@openssh.com": self._posix_rename,
            b"hardlink@openssh.com": self._hardlink,
            b"statvfs@openssh.com": self._statvfs,
            b"fstatvfs@openssh.com": self._statvfs,
            b"lsetstat@openssh.com": self._lsetstat,
        }

    def answer(self, request: Request) -> bytes:
        """Do one request; return its answer. Other errors than wingsd's and the disk's pass."""
        call = self._calls.get(request.kind)
        if call is None:
            return answers.status(request.id, answers.UNSUPPORTED, "unknown type of request")
        try:
            return call(request)
        except WingsdError as error:
            return answers.status(request.id, error_status(error), str(error))
        except OSError as error:
            why = error.strerror or str(error)
            return answers.status(request.id, answers.FAILURE, why)

    def close(self) -> None:
        """Close all that is open."""
        self._handles.close_all()

    def _extended(self, request: Extended) -> bytes:
        call = self._extensions.get(request.name)
        if call is None:
            return answers.status(request.id, answers.UNSUPPORTED, "unknown extension")
        return call(request)

    # Open files

    def _open(self, request: Open) -> bytes:
        path, flags = ServerPath.from_bytes(request.path), request.flags
        self._handles.reserve()
        if flags & (packets.WRITE | packets.APPEND):
            file = self._open_to_write(path, flags, request.attributes)
            appends = bool(flags & packets.APPEND)
            return answers.handle(request.id, self._handles.add(file, path, appends=appends))
        self._access.check(READ_FILES, changes=False)
        with self._access.files() as (root, guard):
            guard.check(path)
            opened = root.open_file(path)
        handle = self._handles.add(opened, path)
        self._access.report("read", path)
        return answers.handle(request.id, handle)

    def _open_to_write(self, path: ServerPath, flags: int, given: Attributes) -> WritableFile:
        access, files = self._access, self._access.usage.files
        access.check_open(changes=True)
        if flags & packets.READ:
            access.check(READ_FILES)
        with access.files() as (root, guard):
            guard.check(path)
            entry: Entry | None = None
            if flags & packets.CREATE:
                # Most files are new: this is all that they take.
                with suppress(SftpPermissionMissing, DiskLimitExceeded, NameConflict):
                    access.check(CREATE_FILES)
                    access.usage.check()
                    file = root.writable_file(path, files, mode=file_mode(given.mode))
                    access.report("create", path)
                    return file
            try:
                entry = root.stat(path)
            except FileMissing:
                if not flags & packets.CREATE:
                    raise
            access.check(CREATE_FILES if entry is None else UPDATE_FILES)
            if entry is None or flags & packets.EXCLUSIVE:
                access.usage.check()
                file = root.writable_file(path, files, mode=file_mode(given.mode))
            else:
                access.check_other_names(entry, path)
                # Before it is cut: a file that could not be written again would be lost.
                access.usage.check(entry.size if flags & packets.TRUNCATE else 0)
                file = root.writable_file(path, files)
        if entry is not None and flags & packets.TRUNCATE:
            try:
                file.truncate(0)
            except BaseException:
                file.close()
                raise
        access.report("create" if entry is None else "write", path)
        return file

    def _close(self, request: HandleRequest) -> bytes:
        self._handles.close(request.handle)
        return answers.status(request.id, answers.OK)

    def _read(self, request: ReadRequest) -> bytes:
        self._access.check_open(changes=False)
        file = self._handles.readable(request.handle)
        if isinstance(file, WritableFile):  # It was opened by another permission.
            self._access.check(READ_FILES, changes=False)
        size = min(request.length, packets.MAX_DATA)
        found = b"" if request.offset > MAX_FILE_SIZE else file.read_at(request.offset, size)
        if not found and size:
            return answers.status(request.id, answers.END, "end of file")
        return answers.data(request.id, found)

    def _write(self, request: WriteRequest) -> bytes:
        self._access.check_open(changes=True)
        file = self._handles.get(request.handle, WritableFile)
        appends = self._handles.appends(request.handle)
        file.write_at(None if appends else request.offset, request.data)
        return answers.status(request.id, answers.OK)

    def _fsync(self, request: Extended) -> bytes:
        self._access.check_open(changes=True)
        self._handles.get(request.arguments[0], WritableFile).sync()
        return answers.status(request.id, answers.OK)

    def _limits(self, request: Extended) -> bytes:
        return answers.limits(request.id, self._config.limits.max_handles_per_channel)

    def _fstat(self, request: HandleRequest) -> bytes:
        self._access.check(LIST_FILES, changes=False)
        return answers.attributes(request.id, self._entry(request.handle))

    def _entry(self, handle: bytes) -> Entry:
        if self._handles.is_directory(handle):
            return self._handles.get(handle, ListedDirectory).directory.own_entry()
        return self._handles.readable(handle).stat()

    def _fsetstat(self, request: SetAttributes) -> bytes:
        access, given = self._access, request.attributes
        access.check_open(changes=True)
        # Who may open a file to write it, may do this as well: clients set the mode and the times
        # of a file that they have just created.
        file = self._handles.get(request.subject, WritableFile)
        if given.size is not None:
            file.truncate(given.size)
        if given.mode is not None:
            file.set_mode(file_mode(given.mode))
        if given.accessed is not None and given.modified is not None:
            file.set_times(given.accessed * SECOND, given.modified * SECOND)
        return answers.status(request.id, answers.OK)

    # Reading

    def _lstat(self, request: PathRequest) -> bytes:
        path = self._path(request.path)
        with self._access.files() as (root, _):
            self._access.check_visible(root, path)
            return answers.attributes(request.id, root.stat(path))

    def _stat(self, request: PathRequest) -> bytes:
        """Follow a symlink to a directory inside, as listing does; another one is itself meant."""
        path = self._path(request.path)
        with self._access.files() as (root, _):
            self._access.check_visible(root, path)
            entry = root.stat(path)
            if entry.is_symlink:
                with suppress(DirectoryMissing, FileMissing), _directory(root, path) as found:
                    entry = found.own_entry()
            return answers.attributes(request.id, entry)

    def _path(self, given: bytes) -> ServerPath:
        """Return a path, of which the user may see the attributes."""
        self._access.check(LIST_FILES, changes=False)
        return ServerPath.from_bytes(given)

    def _opendir(self, request: PathRequest) -> bytes:
        path = self._path(request.path)
        self._handles.reserve()
        with self._access.files() as (root, _):
            self._access.check_visible(root, path)
            directory = _directory(root, path)
            try:
                visible = self._access.visible(root, directory, path)
            except BaseException:
                directory.close()
                raise
        entries = islice(visible, self._config.directory_entry_limit)
        handle = self._handles.add(ListedDirectory(directory, entries), path)
        return answers.handle(request.id, handle)

    def _readdir(self, request: HandleRequest) -> bytes:
        self._access.check(LIST_FILES, changes=False)
        listed = self._handles.get(request.handle, ListedDirectory)
        found = list(islice(listed.entries, self._config.directory_entry_send_amount))
        if not found:
            return answers.status(request.id, answers.END, "end of the directory")
        answer, left = answers.listing(request.id, found)
        if left:
            listed.entries = chain(left, listed.entries)
        return answer

    def _realpath(self, request: PathRequest) -> bytes:
        self._access.check_open(changes=False)
        return answers.name(request.id, b"/" + bytes(ServerPath.from_bytes(request.path)))

    def _readlink(self, request: PathRequest) -> bytes:
        path = self._path(request.path)
        with self._access.files() as (root, _):
            self._access.check_visible(root, path)
            return answers.name(request.id, root.link_text(path))

    def _statvfs(self, request: Extended) -> bytes:
        self._access.check(LIST_FILES, changes=False)
        usage = self._access.usage
        if request.name == b"fstatvfs@openssh.com":
            self._handles.path(request.arguments[0])
        with self._access.files() as (root, _):
            found = root.file_system()
        return answers.file_system(request.id, found, usage.limit, usage.used)

    # Changes

    def _setstat(self, request: SetAttributes) -> bytes:
        self._set(ServerPath.from_bytes(request.subject), request.attributes)
        return answers.status(request.id, answers.OK)

    def _lsetstat(self, request: Extended) -> bytes:
        self._set(ServerPath.from_bytes(request.arguments[0]), request.attributes)
        return answers.status(request.id, answers.OK)

    def _set(self, path: ServerPath, given: Attributes) -> None:
        """Set size, mode and times; that of a directory stays 0755, and the owner as well."""
        self._access.check(UPDATE_FILES)
        with self._access.files() as (root, guard):
            entry = root.stat(path)
            guard.check(path, is_directory=entry.is_directory)
            if given.size is not None:
                self._access.check_other_names(entry, path)
                with root.writable_file(path, self._access.usage.files) as file:
                    file.truncate(given.size)
            if given.mode is not None and not path.is_root and not entry.is_symlink:
                mode = _DIRECTORY_MODE if entry.is_directory else file_mode(given.mode)
                root.set_mode(path, mode)
            if given.accessed is not None and given.modified is not None:
                root.set_times(path, given.accessed * SECOND, given.modified * SECOND)

    def _remove(self, request: PathRequest) -> bytes:
        self._access.check(DELETE_FILES)
        path = ServerPath.from_bytes(request.path)
        with self._access.files() as (root, guard):
            entry = root.stat(path)
            if entry.is_directory:
                raise IsDirectory(str(path))
            guard.check(path)
            root.remove(path)
        self._access.report("delete", path)
        return answers.status(request.id, answers.OK)

    def _rmdir(self, request: PathRequest) -> bytes:
        """Delete a directory with all that is in it, as Wings does, but what is denied."""
        self._access.check(DELETE_FILES)
        path = ServerPath.from_bytes(request.path)
        with self._access.files() as (root, guard):
            if not root.stat(path).is_directory:
                raise NotDirectory(str(path))
            delete(root, guard, [path], _SessionProgress(self._access))
        self._access.report("delete", path)
        return answers.status(request.id, answers.OK)

    def _mkdir(self, request: SetAttributes) -> bytes:
        self._access.check(CREATE_FILES)
        path = ServerPath.from_bytes(request.subject)
        with self._access.files() as (root, guard):
            guard.check(path, is_directory=True)
            with suppress(FileMissing):
                root.stat(path)
                raise NameConflict.creating(str(path))
            root.make_directory(path)
        self._access.report("create-directory", path)
        return answers.status(request.id, answers.OK)

    def _rename(self, request: TwoPaths) -> bytes:
        self._move(request.first, request.second, replace=False)
        return answers.status(request.id, answers.OK)

    def _posix_rename(self, request: Extended) -> bytes:
        self._move(*request.arguments, replace=True)
        return answers.status(request.id, answers.OK)

    def _move(self, first: bytes, second: bytes, *, replace: bool) -> None:
        self._access.check(UPDATE_FILES)
        source, target = ServerPath.from_bytes(first), ServerPath.from_bytes(second)
        with self._access.files() as (root, guard):
            is_directory = root.stat(source).is_directory
            guard.check(source, target, is_directory=is_directory)
            if is_directory:
                guard.check_tree(source, target, self._access.is_closed)
            self._access.check_open(changes=True)
            root.rename(source, target, replace=replace)
        self._access.report("rename", source, target)

    def _symlink(self, request: TwoPaths) -> bytes:
        """Make a link with any text; it is never followed outside. The order is OpenSSH's."""
        self._access.check(CREATE_FILES)
        path = ServerPath.from_bytes(request.second)
        with self._access.files() as (root, guard):
            guard.check(path)
            root.make_symlink(path, request.first)
        self._access.report("create", path)
        return answers.status(request.id, answers.OK)

    def _hardlink(self, request: Extended) -> bytes:
        """Give a file another name: what can be read and changed by it, could be before."""
        self._access.check(CREATE_FILES)
        source, target = (ServerPath.from_bytes(each) for each in request.arguments)
        with self._access.files() as (root, guard):
            guard.check(source, target)
            root.link(source, target)
        self._access.report("create", target)
        return answers.status(request.id, answers.OK)


def _directory(root: ServerRoot, path: ServerPath) -> Directory:
    """Open a directory, also by a symlink that leads to one inside. Raises DirectoryMissing."""
    try:
        return root.directory(path)
    except DirectoryMissing:
        # Where an entry of it would really be.
        real = root.real_path(path.child(b"_")).parent
        if real in (path, path.parent):
            raise
        return root.directory(real)
