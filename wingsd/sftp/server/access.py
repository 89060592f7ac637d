"""The access of one connection to its server's files: permissions, denylists and states."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from wingsd.errors import (
    DiskLimitExceeded,
    FileDenied,
    FileMissing,
    Forbidden,
    ReadOnly,
    SftpPermissionMissing,
)
from wingsd.files.denylist import Denylist
from wingsd.files.guard import Guard
from wingsd.filesystem.directory import Directory, Entry
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.usage import UsageCounter
from wingsd.filesystem.writable_file import OpenFiles
from wingsd.sftp.messages import FileEvent, Granted, ServerState
from wingsd.sftp.server.past import AskedPast

if TYPE_CHECKING:
    from wingsd.sftp.server.main import SftpServer


class ServerUsage(UsageCounter):
    """The usage of one server's files. Any thread may call it."""

    def __init__(self) -> None:
        super().__init__()
        #: Its files that are open in this process.
        self.files = OpenFiles()
        #: Whether users can read points in time of its files.
        self.has_past = False

    @property
    def taken(self) -> int | None:
        """The bytes that the files take, with those that are deleted and open in this process.

        None before they were measured.
        """
        used = self.used
        return None if used is None else used + self.files.held

    def correct(self, state: ServerState) -> None:
        """Take over the daemon's figures."""
        with self._lock:
            used = state.used
            if used is not None:
                used = max(used + self.total - state.acknowledged, 0)
            self.limit, self._used = state.limit, used
            self.has_past = state.has_past

    def add(self, size: int, held: int = 0) -> None:
        """Count bytes that are about to be written. Raises DiskLimitExceeded; none count then."""
        super().add(size, held + self.files.held)

    def check(self, freed: int = 0) -> None:
        """Raise DiskLimitExceeded where nothing can be stored even when `freed` bytes are gone."""
        limit, taken = self.limit, self.taken
        if limit is not None and taken is not None and taken - freed >= limit:
            raise DiskLimitExceeded(
                "the server's files take as much as its disk limit allows; delete some first"
            )


#: The permissions, by the names of Pterodactyl; those of Calagopus are in the plural.
LIST_FILES = "file.read"
READ_FILES = "file.read-content"
UPDATE_FILES = "file.update"
CREATE_FILES = "file.create"
DELETE_FILES = "file.delete"


class SessionAccess:
    """The access of one connection. Any thread may call it; methods but `close` block.

    `connection` is its number.
    """

    def __init__(self, granted: Granted, server: SftpServer, connection: int) -> None:
        self.usage = server.usage(granted.server)
        self._ignored = Denylist(granted.ignored)
        self._denied = Denylist(granted.denied)
        self._directory = granted.directory
        #: By the names of Pterodactyl, as those that follow.
        self._permissions = {each.replace("files.", "file.", 1) for each in granted.permissions}
        self._server = server
        self.connection = connection
        self._past = None if server.past is None else AskedPast(server.past, self)
        #: Why nothing more may be done; empty as long as it may.
        self._closed = ""

    def close(self, why: str) -> None:
        """Refuse everything from now on, also requests under way."""
        self._closed = why

    def is_closed(self) -> bool:
        """Return whether it was closed."""
        return bool(self._closed)

    def check(self, permission: str, *, changes: bool = True) -> None:
        """Raise `SftpPermissionMissing`, `ReadOnly` for changes, and `Forbidden` when closed."""
        self.check_open(changes=changes)
        if self._permissions.isdisjoint(("*", permission)):
            raise SftpPermissionMissing(permission)

    def check_open(self, *, changes: bool) -> None:
        """Raise `ReadOnly` for changes, and `Forbidden` when closed."""
        if self._closed:
            raise Forbidden(self._closed)
        if changes and self._server.read_only:
            raise ReadOnly

    def report(self, event: str, path: ServerPath, target: ServerPath | None = None) -> None:
        """Report what was done, for the activity log; `target` is that of a rename."""
        if event != "read" or self._server.config.activity.log_file_reads:
            to = "" if target is None else f"/{target}"
            message = FileEvent(self.connection, event, f"/{path}", to)
            self._server.link.post(message, now=False)

    @contextmanager
    def files(self) -> Iterator[tuple[ServerRoot, Guard]]:
        """Open the server's directory, and what guards it."""
        server = self._server
        past = self._past if self.usage.has_past else None
        with ServerRoot(self._directory, server.opener, server.owner, self.usage, past) as root:
            yield root, Guard(root, self._denied, self._ignored)

    def check_visible(self, root: ServerRoot, path: ServerPath) -> None:
        """Raise `FileMissing` for a file of Calagopus' `ignored_files`, which is not shown."""
        if Guard(root, self._ignored).denies(path):
            raise FileMissing(str(path))

    def visible(self, root: ServerRoot, directory: Directory, path: ServerPath) -> Iterator[Entry]:
        """Return the entries of a directory that the user may see; it was opened by `path`."""
        entries = directory.entries()
        if self._ignored.is_empty:
            return entries
        # A directory that a symlink leads to counts where it really is as well.
        places = {each.parent for each in root.places(path.child(b"_"))}
        return (entry for entry in entries if not self._ignores(entry, places))

    def _ignores(self, entry: Entry, places: Iterable[ServerPath]) -> bool:
        return any(
            self._ignored.denies(place.child(entry.name), is_directory=entry.is_directory)
            for place in places
        )

    def check_other_names(self, entry: Entry, path: ServerPath) -> None:
        """Raise `FileDenied` for a file that cannot be written to without another, denied one."""
        if entry.is_regular and entry.links > 1 and not self._denied.is_empty:
            raise FileDenied(f"{path} has other names, which the egg's denylist may have")
