"""Project quotas: the file system's own limit for what the directory of a server takes.

Each server's directory has a project, whose hard limit is the server's disk limit. The number of
the project is kept by the directory alone, and goes with it wherever it is renamed to; it is
derived from the server's UUID, so a lost one is found again. A directory that has a project but
does not pass it on is being worked on: its contents do not all have it yet.

Blocking: run it in a thread, but for `open` at the daemon's start.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from threading import Lock

import attrs
from twisted.logger import Logger

from wingsd.errors import StorageError
from wingsd.filesystem.walk import Listing, opened, walk
from wingsd.util.project_quota import (
    Project,
    is_enforced,
    project_of,
    project_usage,
    set_limit,
    set_project,
)

__all__ = ["FIRST_PROJECT", "ProjectQuotas", "project_number"]

#: Above the numbers that administrators choose, and those of Wings, which are ids of its Panel.
FIRST_PROJECT = 1 << 30
#: The numbers that a server may have, one after the other.
_ATTEMPTS = 64
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, opening a FIFO would block that has taken a file's place.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_NO_QUOTAS = (
    "its file system has no project quotas; ext4: tune2fs -O project,quota -Q prjquota DEVICE "
    "while it is not mounted, then mount it with prjquota; XFS: mount it with prjquota. It also "
    "needs Linux 5.14"
)
_NOT_ENFORCED = "its project quotas only count; mount its file system with prjquota"
_NOT_PERMITTED = (
    "quotactl_fd(2) is not permitted: the daemon needs CAP_SYS_ADMIN, and a system call filter "
    "that allows quotactl_fd; docs/privileges.md has a drop-in for the service"
)
_INHERITED = (
    "{path} has a project of its own that it passes on, so no server could be moved into it; "
    "remove that by: chattr -P -p 0 {path}"
)


def project_number(uuid: str, attempt: int = 0) -> int:
    """Return the number to try for a server's project, from `FIRST_PROJECT` to twice of it."""
    derived = int(uuid.replace("-", "")[-8:], 16) + attempt
    return FIRST_PROJECT + derived % FIRST_PROJECT


class ProjectQuotas:
    """The projects of the servers in `data`, which is `system.data`.

    Until `open`, and where it finds no quotas, nothing is done. Methods with a `path` take that of
    a server's directory, and raise `StorageError`.
    """

    _log = Logger()

    def __init__(self, data: str, *, enabled: bool) -> None:
        self._data = data
        self._enabled = enabled
        #: Whether the file system limits servers.
        self.active = False
        #: The servers by their projects, as far as known: no two have the same.
        self._servers: dict[int, str] = {}
        self._lock = Lock()

    def open(self, staging: str) -> None:
        """Find out whether the quotas work, and log it if they are enabled.

        `staging` is the directory from which servers are moved into place.
        """
        if not self._enabled:
            return
        why = self._obstacle(staging)
        self.active = not why
        if why:
            self._log.error(
                "project quotas are not used (system.quotas.enabled): {data}: {why}. Disk limits "
                "are held by counting alone",
                data=self._data,
                why=why,
            )
        else:
            self._log.info("project quotas limit the servers in {data}", data=self._data)

    def _obstacle(self, staging: str) -> str:
        """Return why there are no quotas, empty if there are."""
        try:
            with _opened(self._data) as fd:
                if not is_enforced(fd):
                    return _NOT_ENFORCED
                project_usage(fd, FIRST_PROJECT)
            for path in (self._data, staging):
                with _opened(path) as fd:
                    if project_of(fd).passed_on:
                        return _INHERITED.format(path=path)
        except PermissionError:
            return _NOT_PERMITTED
        except FileNotFoundError as error:
            return error.strerror or str(error)
        except OSError as error:
            return f"{_NO_QUOTAS} ({error.strerror})"
        return ""

    def prepare(self, uuid: str, path: str) -> None:
        """Give a directory that was just made its project, without a limit yet.

        A failure is left to `assign`.
        """
        if self.active:
            with suppress(StorageError), _directory(path) as fd:
                self._assign(uuid, fd)

    def apply(self, uuid: str, path: str, limit: int | None) -> bool:
        """Limit a server's directory to `limit` bytes, None for no limit.

        Return False where it, or what is below it, has no project yet: then nothing is done. A
        limit below what is used prevents writing until enough was deleted.
        """
        if not self.active:
            return True
        with _directory(path) as fd:
            with self._lock:
                project = project_of(fd)
                if not project.passed_on or not self._is_own(uuid, project.id):
                    return limit is None and not project.id
            set_limit(fd, project.id, limit or 0)
            return True

    def assign(self, uuid: str, path: str) -> None:
        """Give a server's directory, and all below it, a project. It takes as long as a count."""
        if self.active:
            with _directory(path) as fd:
                self._assign(uuid, fd)

    def used(self, path: str) -> int:
        """Return the bytes that a server's blocks take, 0 where it has no project."""
        if not self.active:
            return 0
        with _directory(path) as fd:
            project = project_of(fd).id
            return project_usage(fd, project).bytes if project else 0

    def release(self, uuid: str, path: str) -> None:
        """End the limit of a server that is being deleted, as far as possible."""
        if self.active:
            with suppress(StorageError), _directory(path) as fd, self._lock:
                project = project_of(fd).id
                if self._is_own(uuid, project):
                    set_limit(fd, project, 0)
                    self._servers.pop(project, None)

    # Projects

    def _assign(self, uuid: str, root: int) -> None:
        with self._lock:
            found = project_of(root)
            if self._is_own(uuid, found.id):
                project = found
            else:
                project = Project(self._free_number(uuid, root))
                # From here on the number is in use. It is passed on once all below has it.
                set_project(root, project)
        if not project.passed_on:
            # An earlier server with this number may have left one.
            set_limit(root, project.id, 0)
            _assign_below(root, project.id, everywhere=True)
            set_project(root, Project(project.id, passed_on=True))
            # What was made in the root meanwhile.
            _assign_below(root, project.id, everywhere=False)

    def _is_own(self, uuid: str, number: int) -> bool:
        """Return whether a directory's project can have been given to it here.

        Its owner can change it, to that of another server or of something else.
        """
        attempt = (number - project_number(uuid)) % FIRST_PROJECT
        if number < FIRST_PROJECT or attempt >= _ATTEMPTS:
            return False
        return self._servers.setdefault(number, uuid) == uuid

    def _free_number(self, uuid: str, fd: int) -> int:
        attempt = 0
        while True:
            number = project_number(uuid, attempt)
            known = self._servers.get(number)
            if known in (None, uuid) and not project_usage(fd, number).inodes:
                self._servers[number] = uuid
                return number
            attempt += 1


@contextmanager
def _directory(path: str) -> Iterator[int]:
    """Open a server's directory; errors become `StorageError`."""
    try:
        with opened(path) as fd:
            yield fd
    except OSError as error:
        why = error.strerror or str(error)
        raise StorageError(f"{path}: its project quota cannot be used: {why}") from error


def _assign_below(root: int, number: int, *, everywhere: bool) -> None:
    """Give all below a directory the project `number`; without `everywhere` what lacks it.

    Symlinks and special files cannot be opened for it; they take no blocks that matter. What is on
    another file system is left alone, and so is what may not be changed (an immutable file).
    """
    device = os.fstat(root).st_dev
    directory = Project(number, passed_on=True)

    def select(listing: Listing) -> Listing:
        if listing.stat.st_dev != device:
            return attrs.evolve(listing, files=[], directories=[])
        if everywhere:
            return listing
        lacking = [name for name in listing.directories if _lacks(listing.fd, name, directory)]
        return attrs.evolve(listing, directories=lacking)

    with closing(walk(root, lambda name, why: None, select)) as listings:
        for listing in listings:
            if listing.stat.st_dev != device:
                continue
            if listing.path and listing.is_first:
                _set(listing.fd, directory)
            for name in listing.files:
                _set_below(listing.fd, name, Project(number))


def _lacks(parent: int, name: bytes, project: Project) -> bool:
    try:
        with _opened(name, _DIRECTORY, parent) as fd:
            return project_of(fd) != project
    except OSError:
        return False


def _set_below(parent: int, name: bytes, project: Project) -> None:
    try:
        fd = os.open(name, _FILE, dir_fd=parent)
    except OSError:
        return  # It is gone, or another kind of file has taken its place.
    try:
        _set(fd, project)
    finally:
        os.close(fd)


@contextmanager
def _opened(
    path: str | bytes,
    flags: int = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC,
    parent: int | None = None,
) -> Iterator[int]:
    fd = os.open(path, flags, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)


def _set(fd: int, project: Project) -> None:
    try:
        set_project(fd, project)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOTTY, errno.EROFS):
            raise
