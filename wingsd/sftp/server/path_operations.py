"""Operations on paths: directories are listed, files renamed, deleted and linked.

Blocking. Methods return the bytes of an answer, and raise the errors of `wingsd.errors`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import chain, islice

import attrs

from wingsd.errors import DirectoryMissing, FileMissing, IsDirectory, NameConflict, NotDirectory
from wingsd.files.changes import delete
from wingsd.files.progress import Progress
from wingsd.filesystem import Directory, ServerPath, ServerRoot
from wingsd.sftp.server import answers, packets
from wingsd.sftp.server.access import (
    CREATE_FILES,
    DELETE_FILES,
    LIST_FILES,
    UPDATE_FILES,
    SessionAccess,
)
from wingsd.sftp.server.file_operations import SECOND, file_mode
from wingsd.sftp.server.handles import Handles, ListedDirectory
from wingsd.sftp.server.packets import (
    Attributes,
    Extended,
    HandleRequest,
    PathRequest,
    SetAttributes,
    TwoPaths,
)

__all__ = ["ListingLimits", "PathOperations"]

_DIRECTORY_MODE = 0o755


@attrs.frozen
class ListingLimits:
    """The number of entries of one directory that are listed, and of those in one answer."""

    entries: int
    each: int


class _SessionProgress(Progress):
    """Work that ends when the session is closed."""

    def __init__(self, access: SessionAccess) -> None:
        super().__init__()
        self._access = access

    def cancelled(self) -> bool:
        return self._access.is_closed()

    def check(self) -> None:
        self._access.check_open(changes=True)


class PathOperations:
    """What is done with the paths of one server on behalf of one channel."""

    def __init__(self, access: SessionAccess, handles: Handles, listing: ListingLimits) -> None:
        self._access = access
        self._handles = handles
        self._listing = listing
        self.calls: Mapping[int, Callable[..., bytes]] = {
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
        }
        self.extensions: Mapping[bytes, Callable[[Extended], bytes]] = {
            b"posix-rename@openssh.com": self._posix_rename,
            b"hardlink@openssh.com": self._hardlink,
            b"statvfs@openssh.com": self._statvfs,
            b"fstatvfs@openssh.com": self._statvfs,
            b"lsetstat@openssh.com": self._lsetstat,
        }

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
        entries = islice(visible, self._listing.entries)
        handle = self._handles.add(ListedDirectory(directory, entries), path)
        return answers.handle(request.id, handle)

    def _readdir(self, request: HandleRequest) -> bytes:
        self._access.check(LIST_FILES, changes=False)
        listed = self._handles.get(request.handle, ListedDirectory)
        found = list(islice(listed.entries, self._listing.each))
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
