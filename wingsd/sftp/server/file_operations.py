"""Operations on files: opened, read and written by handles, their attributes and extensions.

Blocking. Methods return the bytes of an answer, and raise the errors of `wingsd.errors`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

from wingsd.errors import DiskLimitExceeded, FileMissing, NameConflict, SftpPermissionMissing
from wingsd.filesystem import Entry, ServerPath
from wingsd.filesystem.writable_file import MAX_FILE_SIZE, WritableFile
from wingsd.sftp.server import answers, packets
from wingsd.sftp.server.access import (
    CREATE_FILES,
    LIST_FILES,
    READ_FILES,
    UPDATE_FILES,
    SessionAccess,
)
from wingsd.sftp.server.handles import Handles, ListedDirectory
from wingsd.sftp.server.packets import (
    Attributes,
    Extended,
    HandleRequest,
    Open,
    ReadRequest,
    SetAttributes,
    WriteRequest,
)

__all__ = ["SECOND", "FileOperations", "file_mode"]

#: Nanoseconds.
SECOND = 1_000_000_000
_MODE = 0o644
#: What the owner can always do with a file, or the server's program could not use it.
_OWNER_BITS = 0o600


def file_mode(mode: int | None) -> int:
    """Return the permission bits of a file for those that a client sent; 0644 for none."""
    bits = (mode or 0) & 0o777
    return bits | _OWNER_BITS if bits else _MODE


class FileOperations:
    """What is done with the open files of one channel."""

    def __init__(self, access: SessionAccess, handles: Handles, most_handles: int) -> None:
        self._access = access
        self._handles = handles
        self._most_handles = most_handles
        self.calls: Mapping[int, Callable[..., bytes]] = {
            packets.OPEN: self._open,
            packets.CLOSE: self._close,
            packets.READ_DATA: self._read,
            packets.WRITE_DATA: self._write,
            packets.FSTAT: self._fstat,
            packets.FSETSTAT: self._fsetstat,
        }
        self.extensions: Mapping[bytes, Callable[[Extended], bytes]] = {
            b"fsync@openssh.com": self._fsync,
            b"limits@openssh.com": self._limits,
        }

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
        return answers.limits(request.id, self._most_handles)

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
