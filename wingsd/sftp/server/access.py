"""What one connection may do with the files of its server: permissions, denylists and states."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from wingsd.errors import (
    FileDenied,
    FileMissing,
    Forbidden,
    ReadOnly,
    SftpPermissionMissing,
)
from wingsd.files.denylist import Denylist
from wingsd.files.guard import Guard
from wingsd.filesystem import Directory, DirectoryOpener, Entry, Owner, ServerPath, ServerRoot
from wingsd.sftp.messages import Granted
from wingsd.sftp.server.usage import ServerUsage

__all__ = [
    "CREATE_FILES",
    "DELETE_FILES",
    "LIST_FILES",
    "READ_FILES",
    "UPDATE_FILES",
    "SessionAccess",
    "SiteFiles",
]

#: The permissions, by the names of Pterodactyl; those of Calagopus are in the plural.
LIST_FILES = "file.read"
READ_FILES = "file.read-content"
UPDATE_FILES = "file.update"
CREATE_FILES = "file.create"
DELETE_FILES = "file.delete"


class SiteFiles:
    """How files are opened, and whose they become. `read_only` changes while the process runs."""

    def __init__(self, opener: DirectoryOpener, owner: Owner | None, *, read_only: bool) -> None:
        self.opener = opener
        self.owner = owner
        self.read_only = read_only


class SessionAccess:
    """The access of one connection. Any thread may call it; methods but `close` block.

    `report` is called in a thread with an event, a path, and the target of a rename.
    """

    def __init__(
        self,
        granted: Granted,
        site: SiteFiles,
        usage: ServerUsage,
        report: Callable[[str, str, str], None],
    ) -> None:
        self.usage = usage
        self._ignored = Denylist(granted.ignored)
        self._denied = Denylist(granted.denied)
        self._directory = granted.directory
        self._permissions = frozenset(granted.permissions)
        self._site = site
        self._report = report
        #: Why nothing more may be done; empty as long as it may.
        self._closed = ""

    def close(self, why: str) -> None:
        """Have everything refused from now on, also what is under way."""
        self._closed = why

    def is_closed(self) -> bool:
        """Return whether it was closed."""
        return bool(self._closed)

    def check(self, permission: str, *, changes: bool = True) -> None:
        """Raise `SftpPermissionMissing`, `ReadOnly` for changes, and `Forbidden` when closed."""
        self.check_open(changes=changes)
        if not self._allows(permission):
            raise SftpPermissionMissing(permission)

    def check_open(self, *, changes: bool) -> None:
        """Raise `ReadOnly` for changes, and `Forbidden` when closed."""
        if self._closed:
            raise Forbidden(self._closed)
        if changes and self._site.read_only:
            raise ReadOnly

    def _allows(self, permission: str) -> bool:
        plural = permission.replace("file.", "files.", 1)
        return not self._permissions.isdisjoint(("*", permission, plural))

    @contextmanager
    def files(self) -> Iterator[tuple[ServerRoot, Guard]]:
        """Open the server's directory, and what guards it."""
        site = self._site
        with ServerRoot(self._directory, site.opener, site.owner, self.usage) as root:
            yield root, Guard(root, self._denied, self._ignored)

    def hidden(self, root: ServerRoot) -> Guard:
        """Return what denies the files that the user may not see (Calagopus' `ignored_files`)."""
        return Guard(root, self._ignored)

    def check_visible(self, root: ServerRoot, path: ServerPath) -> None:
        """Raise `FileMissing` for a file that the user may not see."""
        if self.hidden(root).denies(path):
            raise FileMissing(str(path))

    def visible(self, root: ServerRoot, directory: Directory, path: ServerPath) -> Iterator[Entry]:
        """Return the entries of a directory that the user may see; it was opened by `path`."""
        entries = directory.entries()
        if self._ignored.is_empty:
            return entries
        # A directory that a symlink leads to counts where it really is as well.
        places = {path, root.real_path(path.child(b"_")).parent}
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

    def report(self, event: str, path: ServerPath, target: ServerPath | None = None) -> None:
        """Report what was done, for the activity log."""
        self._report(event, f"/{path}", "" if target is None else f"/{target}")
