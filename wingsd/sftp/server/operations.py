"""The requests of one channel: each is done, and answered with its result or a status.

Blocking: `answer` is called in a thread, for one request after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import chain, islice
from threading import Semaphore
from typing import TYPE_CHECKING, TypeGuard, TypeVar

import attrs

from wingsd.config import SftpConfig
from wingsd.errors import (
    DirectoryMissing,
    DiskLimitExceeded,
    FileMissing,
    Forbidden,
    HandleInvalid,
    InvalidData,
    IsDirectory,
    NameConflict,
    NotDirectory,
    ReadOnly,
    SftpPermissionMissing,
    TooManyHandles,
    WingsdError,
)
from wingsd.files.changes import delete
from wingsd.files.guard import Progress
from wingsd.filesystem.directory import Directory, Entry, OpenFile
from wingsd.filesystem.past import PAST, PastFile
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.writable_file import MAX_FILE_SIZE, OpenFiles, WritableFile
from wingsd.sftp.server import packets
from wingsd.sftp.server.access import (
    CREATE_FILES,
    DELETE_FILES,
    LIST_FILES,
    READ_FILES,
    UPDATE_FILES,
    SessionAccess,
)
from wingsd.sftp.server.packets import Attributes, Request

if TYPE_CHECKING:
    from wingsd.sftp.server.main import SftpServer

T = TypeVar("T")
#: Nanoseconds.
_SECOND = 1_000_000_000
_MODE = 0o644
#: Requests with a path.
_WITH_PATH = frozenset(
    (
        packets.OPEN,
        packets.LSTAT,
        packets.STAT,
        packets.SETSTAT,
        packets.OPENDIR,
        packets.REMOVE,
        packets.MKDIR,
        packets.READLINK,
        packets.SYMLINK,
    )
)
#: What the owner can always do with a file, or the server's program could not use it.
_OWNER_BITS = 0o600
_DIRECTORY_MODE = 0o755
#: The first that an error is an instance of counts.
_STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (FileMissing, packets.NO_SUCH_FILE),
    (DirectoryMissing, packets.NO_SUCH_FILE),
    (DiskLimitExceeded, packets.QUOTA_EXCEEDED),
    (Forbidden, packets.PERMISSION_DENIED),
    (ReadOnly, packets.UNSUPPORTED),
    (InvalidData, packets.BAD_MESSAGE),
    (WingsdError, packets.FAILURE),
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


def _file_mode(mode: int | None) -> int:
    """Return the permission bits of a file for those that a client sent; 0644 for none."""
    bits = (mode or 0) & 0o777
    return bits | _OWNER_BITS if bits else _MODE


@attrs.define(eq=False)
class _ListedDirectory:
    """A directory that is listed: the entries that are still to be sent."""

    directory: Directory
    entries: Iterator[Entry]

    def stat(self) -> Entry:
        """Return its own entry."""
        return self.directory.own_entry()

    def close(self) -> None:
        """Close it."""
        self.entries = iter(())  # which holds a descriptor of its own
        self.directory.close()


_Opened = OpenFile | WritableFile | _ListedDirectory


def _counts(item: _Opened) -> TypeGuard[OpenFile]:
    """Return whether something is a file of the server that is open for reading."""
    return isinstance(item, OpenFile) and not isinstance(item, PastFile)


class Handles:
    """The handles of one channel, within the limits of `config`; `budget` counts all channels'.

    `files` are the server's files that are open in this process.
    """

    def __init__(self, config: SftpConfig, budget: Semaphore, files: OpenFiles) -> None:
        self._limits = config.limits
        self._budget = budget
        self._files = files
        self._open: dict[bytes, _Opened] = {}
        self._next = 0

    def reserve(self) -> None:
        """Raise `TooManyHandles` where no other can be opened in this channel."""
        most = self._limits.max_handles_per_channel
        if len(self._open) >= most:
            raise TooManyHandles(most)

    def add(self, item: _Opened) -> bytes:
        """Return the handle of what was opened after `reserve`.

        It is closed where all channels have too many.
        """
        if not self._budget.acquire(blocking=False):
            item.close()
            raise TooManyHandles(self._limits.max_handles_total)
        if _counts(item):
            self._files.add(item.fileno())
        handle = self._next.to_bytes(8, "big")
        self._next += 1
        self._open[handle] = item
        return handle

    def opened(self, handle: bytes) -> _Opened:
        """Return what is open by a handle. Raises `HandleInvalid`."""
        try:
            return self._open[handle]
        except KeyError:
            raise HandleInvalid from None

    def get(self, handle: bytes, kind: type[T]) -> T:
        """Return what is open by a handle, if it is of this kind. Raises `HandleInvalid`."""
        found = self._open.get(handle)
        if not isinstance(found, kind):
            raise HandleInvalid
        return found

    def close(self, handle: bytes) -> None:
        """Close one. Raises `HandleInvalid`."""
        item = self.opened(handle)
        del self._open[handle]
        self._budget.release()
        if _counts(item):
            self._files.discard(item.fileno())
        item.close()

    def close_all(self) -> None:
        """Close all of them."""
        for handle in tuple(self._open):
            with suppress(OSError):  # of a disk that fails
                self.close(handle)


class SftpOperations:
    """Executes the requests of the client of one channel, with the `access` of its connection."""

    def __init__(self, access: SessionAccess, server: SftpServer) -> None:
        self._access = access
        self._config = server.config
        self._fault = server.fault
        self._has_begun = False
        self._handles = Handles(server.config, server.budget, access.usage.files)
        #: Handles of files to whose ends all is written.
        self._appending: set[bytes] = set()
        #: By the types of requests. What returns None is answered with the status of success.
        self._calls: Mapping[int, Callable[[Request], bytes | None]] = {
            packets.OPEN: self._open,
            packets.CLOSE: self._close,
            packets.READ_DATA: self._read,
            packets.WRITE_DATA: self._write,
            packets.FSTAT: self._fstat,
            packets.FSETSTAT: self._fsetstat,
            packets.LSTAT: partial(self._stat, follow=False),
            packets.STAT: partial(self._stat, follow=True),
            packets.SETSTAT: self._setstat,
            packets.OPENDIR: self._opendir,
            packets.READDIR: self._readdir,
            packets.REMOVE: self._remove,
            packets.MKDIR: self._mkdir,
            packets.RMDIR: self._rmdir,
            packets.REALPATH: self._realpath,
            packets.RENAME: partial(self._rename, replace=False),
            packets.READLINK: self._readlink,
            packets.SYMLINK: self._symlink,
            packets.EXTENDED: self._extended,
        }
        #: By their names, with their versions.
        self._extensions: Mapping[bytes, tuple[bytes, Callable[[Request], bytes | None]]] = {
            b"posix-rename@openssh.com": (b"1", partial(self._rename, replace=True)),
            b"hardlink@openssh.com": (b"1", self._hardlink),
            b"statvfs@openssh.com": (b"2", partial(self._statvfs, is_open=False)),
            b"fstatvfs@openssh.com": (b"2", partial(self._statvfs, is_open=True)),
            b"fsync@openssh.com": (b"1", self._fsync),
            b"lsetstat@openssh.com": (b"1", self._setstat),
            b"limits@openssh.com": (b"1", self._limits),
        }

    def answer(self, packet: bytes) -> bytes:
        """Do one request; return its answer. Raises `InvalidData` for what is no SFTP."""
        request = Request(packet)
        if not self._has_begun or request.kind == packets.INIT:
            return self._begin(request)
        try:
            call = self._calls.get(request.kind)
            if call is None:
                return packets.status(request.id, packets.UNSUPPORTED, "unknown type of request")
            return call(request) or packets.ok(request.id)
        except (WingsdError, InvalidData) as error:
            code = next(code for kind, code in _STATUSES if isinstance(error, kind))
            return packets.status(request.id, code, str(error))
        except OSError as error:
            why = error.strerror or str(error)
            return packets.status(request.id, packets.FAILURE, why)
        except Exception as error:
            self._fault(error)
            return packets.status(request.id, packets.FAILURE, "internal error of the node")

    def waits(self, packet: bytes) -> bool:
        """Return whether a request may wait for the daemon, since it is about the past."""
        return self._access.usage.has_past and packet[0] in _WITH_PATH and PAST in packet

    def _begin(self, request: Request) -> bytes:
        if self._has_begun:
            raise InvalidData("SFTP begins a second time")
        if request.kind != packets.INIT or request.id < packets.VERSION:
            raise InvalidData("the first packet does not begin SFTP 3")
        self._has_begun = True
        return packets.version((name, number) for name, (number, _) in self._extensions.items())

    def close(self) -> None:
        """Close all that is open."""
        self._handles.close_all()

    def _extended(self, request: Request) -> bytes | None:
        found = self._extensions.get(request.string())
        if found is None:
            return packets.status(request.id, packets.UNSUPPORTED, "unknown extension")
        _, call = found
        return call(request)

    # Open files

    def _open(self, request: Request) -> bytes:
        given_path, flags, attributes = request.string(), request.long(), request.attributes()
        path = ServerPath.from_bytes(given_path)
        self._handles.reserve()
        if flags & (packets.WRITE | packets.APPEND):
            handle = self._handles.add(self._open_to_write(path, flags, attributes))
            if flags & packets.APPEND:
                self._appending.add(handle)
            return packets.handle(request.id, handle)
        self._access.check(READ_FILES, changes=False)
        with self._access.files() as (root, guard):
            guard.check(path)
            opened = root.open_file(path)
        handle = self._handles.add(opened)
        self._access.report("read", path)
        return packets.handle(request.id, handle)

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
                    file = root.writable_file(path, files, mode=_file_mode(given.mode))
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
                file = root.writable_file(path, files, mode=_file_mode(given.mode))
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

    def _close(self, request: Request) -> None:
        handle = request.string()
        self._appending.discard(handle)
        self._handles.close(handle)

    def _read(self, request: Request) -> bytes:
        handle, offset, length = request.string(), request.long_long(), request.long()
        self._access.check_open(changes=False)
        file = self._handles.opened(handle)
        if isinstance(file, _ListedDirectory):
            raise HandleInvalid
        if isinstance(file, WritableFile):  # It was opened by another permission.
            self._access.check(READ_FILES, changes=False)
        size = min(length, packets.MAX_DATA)
        found = b"" if offset > MAX_FILE_SIZE else file.read_at(offset, size)
        if not found and size:
            return packets.status(request.id, packets.END, "end of file")
        return packets.data(request.id, found)

    def _write(self, request: Request) -> None:
        handle, offset, data = request.string(), request.long_long(), request.view()
        self._access.check_open(changes=True)
        file = self._handles.get(handle, WritableFile)
        file.write_at(None if handle in self._appending else offset, data)

    def _fsync(self, request: Request) -> None:
        handle = request.string()
        self._access.check_open(changes=True)
        self._handles.get(handle, WritableFile).sync()

    def _limits(self, request: Request) -> bytes:
        return packets.limits(request.id, self._config.limits.max_handles_per_channel)

    def _fstat(self, request: Request) -> bytes:
        handle = request.string()
        self._access.check(LIST_FILES, changes=False)
        return packets.attributes(request.id, self._handles.opened(handle).stat())

    def _fsetstat(self, request: Request) -> None:
        handle, given = request.string(), request.attributes()
        self._access.check_open(changes=True)
        # Who may open a file to write it, may do this as well: clients set the mode and the times
        # of a file that they have just created.
        file = self._handles.get(handle, WritableFile)
        if given.size is not None:
            file.truncate(given.size)
        if given.mode is not None:
            file.set_mode(_file_mode(given.mode))
        if given.accessed is not None and given.modified is not None:
            file.set_times(given.accessed * _SECOND, given.modified * _SECOND)

    # Reading

    def _stat(self, request: Request, *, follow: bool) -> bytes:
        """Follow a symlink to a directory inside, as listing does; another one is itself meant."""
        (path,) = self._paths(request, LIST_FILES)
        with self._access.files() as (root, _):
            self._access.check_visible(root, path)
            entry = root.stat(path)
            if follow and entry.is_symlink:
                with suppress(DirectoryMissing, FileMissing), _directory(root, path) as found:
                    entry = found.own_entry()
        return packets.attributes(request.id, entry)

    def _paths(self, request: Request, permission: str, number: int = 1) -> list[ServerPath]:
        """Return paths, of which something takes a permission."""
        given = [request.string() for _ in range(number)]
        self._access.check(permission, changes=permission != LIST_FILES)
        return [ServerPath.from_bytes(each) for each in given]

    def _opendir(self, request: Request) -> bytes:
        (path,) = self._paths(request, LIST_FILES)
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
        return packets.handle(request.id, self._handles.add(_ListedDirectory(directory, entries)))

    def _readdir(self, request: Request) -> bytes:
        handle = request.string()
        self._access.check(LIST_FILES, changes=False)
        listed = self._handles.get(handle, _ListedDirectory)
        found = list(islice(listed.entries, self._config.directory_entry_send_amount))
        if not found:
            return packets.status(request.id, packets.END, "end of the directory")
        answer, left = packets.listing(request.id, found)
        if left:
            listed.entries = chain(left, listed.entries)
        return answer

    def _realpath(self, request: Request) -> bytes:
        given = request.string()
        self._access.check_open(changes=False)
        return packets.name(request.id, b"/" + bytes(ServerPath.from_bytes(given)))

    def _readlink(self, request: Request) -> bytes:
        (path,) = self._paths(request, LIST_FILES)
        with self._access.files() as (root, _):
            self._access.check_visible(root, path)
            return packets.name(request.id, root.link_text(path))

    def _statvfs(self, request: Request, *, is_open: bool) -> bytes:
        subject, usage = request.string(), self._access.usage
        self._access.check(LIST_FILES, changes=False)
        if is_open:
            self._handles.opened(subject)
        with self._access.files() as (root, _):
            found = root.file_system()
        return packets.file_system(request.id, found, usage.limit, usage.taken)

    # Changes

    def _setstat(self, request: Request) -> None:
        """Set size, mode and times; that of a directory stays 0755, and the owner as well."""
        given_path, given = request.string(), request.attributes()
        path = ServerPath.from_bytes(given_path)
        self._access.check(UPDATE_FILES)
        with self._access.files() as (root, guard):
            entry = root.stat(path)
            guard.check(path, is_directory=entry.is_directory)
            if given.size is not None:
                self._access.check_other_names(entry, path)
                with root.writable_file(path, self._access.usage.files) as file:
                    file.truncate(given.size)
            if given.mode is not None and not path.is_root and not entry.is_symlink:
                mode = _DIRECTORY_MODE if entry.is_directory else _file_mode(given.mode)
                root.set_mode(path, mode)
            if given.accessed is not None and given.modified is not None:
                root.set_times(path, given.accessed * _SECOND, given.modified * _SECOND)

    def _remove(self, request: Request) -> None:
        (path,) = self._paths(request, DELETE_FILES)
        with self._access.files() as (root, guard):
            entry = root.stat(path)
            if entry.is_directory:
                raise IsDirectory(str(path))
            guard.check(path)
            root.remove(path)
        self._access.report("delete", path)

    def _rmdir(self, request: Request) -> None:
        """Delete a directory with all that is in it, as Wings does, but what is denied."""
        (path,) = self._paths(request, DELETE_FILES)
        with self._access.files() as (root, guard):
            if not root.stat(path).is_directory:
                raise NotDirectory(str(path))
            guard.progress = _SessionProgress(self._access)
            delete(guard, [path])
        self._access.report("delete", path)

    def _mkdir(self, request: Request) -> None:
        given, _ = request.string(), request.attributes()
        self._access.check(CREATE_FILES)
        path = ServerPath.from_bytes(given)
        with self._access.files() as (root, guard):
            guard.check(path, is_directory=True)
            with suppress(FileMissing):
                root.stat(path)
                raise NameConflict.creating(str(path))
            root.make_directory(path)
        self._access.report("create-directory", path)

    def _rename(self, request: Request, *, replace: bool) -> None:
        source, target = self._paths(request, UPDATE_FILES, 2)
        with self._access.files() as (root, guard):
            is_directory = root.stat(source).is_directory
            guard.check(source, target, is_directory=is_directory)
            if is_directory:
                guard.progress = _SessionProgress(self._access)
                guard.check_tree(source, target)
            self._access.check_open(changes=True)
            root.rename(source, target, replace=replace)
        self._access.report("rename", source, target)

    def _symlink(self, request: Request) -> None:
        """Make a link with any text; it is never followed outside. The order is OpenSSH's."""
        text = request.string()
        (path,) = self._paths(request, CREATE_FILES)
        with self._access.files() as (root, guard):
            guard.check(path)
            root.make_symlink(path, text)
        self._access.report("create", path)

    def _hardlink(self, request: Request) -> None:
        """Give a file another name: what can be read and changed by it, could be before."""
        source, target = self._paths(request, CREATE_FILES, 2)
        with self._access.files() as (root, guard):
            guard.check(source, target)
            root.link(source, target)
        self._access.report("create", target)


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
