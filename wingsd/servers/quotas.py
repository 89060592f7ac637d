"""Project quotas: limits that the file system itself enforces for servers' directories.

Each server's directory has a project, whose hard limit is the server's disk limit. The number of
the project is kept by the directory alone, and goes with it wherever it is renamed to; it is
derived from the server's UUID, so a lost one is found again. A directory that has a project but
does not pass it on is being worked on: its contents do not all have it yet.

No library has the calls of the kernel: quotactl_fd(2), which Linux has since 5.14, and the ioctl
requests FS_IOC_FSGETXATTR and FS_IOC_FSSETXATTR of linux/fs.h. The functions for them take a
descriptor of any file there, and raise OSError: EPERM without CAP_SYS_ADMIN, ENOSYS where the file
system or the kernel lacks them.

Blocking: run it in a thread, but for `open` at the daemon's start.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from threading import Lock

import attrs
from twisted.logger import Logger

from wingsd.errors import StorageError
from wingsd.filesystem.open_directories import closing_descriptor
from wingsd.filesystem.walk import Listing, opened, walk

_libc = ctypes.CDLL(None, use_errno=True)

#: System calls have had the same number everywhere since Linux 5.1, but for these, where an
#: architecture's own offset comes before it.
_NUMBER = 443
_OFFSETS = {"alpha": 110, "mips": 4000, "mips64": 5000}


def syscall_number(machine: str) -> int:
    """Return the number of quotactl_fd(2) on an architecture, named as uname(2) does."""
    return _NUMBER + _OFFSETS.get(machine, 0)


_QUOTACTL_FD = syscall_number(os.uname().machine)

# linux/quota.h: commands for project quotas (PRJQUOTA), each in the upper bits. ext4 and XFS both
# answer them; Q_XSETQLIM does the same as Q_SETQUOTA.
_PRJQUOTA = 2
_GET_QUOTA = 0x800007
_SET_QUOTA = 0x800008
# linux/dqblk_xfs.h: Q_XGETQSTATV.
_GET_STATE = 0x5808
# if_dqblk: hard and soft limit in KiB, bytes in use, the same for inodes, two times, and which of
# these are valid.
_DQBLK = struct.Struct("=8QI4x")
_BLOCK = 1024
_BLOCK_LIMITS = 1
# fs_quota_statv: its version and the flags. It may become longer in a later kernel.
_STATE_SIZE = 512
_STATE = struct.Struct("=bxH")
_STATE_VERSION = 1
_ENFORCED = 1 << 5

# linux/fs.h: fsxattr has flags, two sizes of extents, the project, another size, and padding.
_FSXATTR = struct.Struct("=5I8x")
# The size of that and a direction are in the number of a request; these differ where the
# direction's bits do (powerpc, mips, alpha, sparc).
_GET_ATTRIBUTES, _SET_ATTRIBUTES = (
    (0x401C581F, 0x801C5820)
    if os.uname().machine.startswith(("ppc", "mips", "alpha", "sparc"))
    else (0x801C581F, 0x401C5820)
)
_PASS_ON = 0x200


@attrs.frozen(repr=False)
class Project:
    """The project of a file, 0 for none; `passed_on` to what is made in a directory."""

    id: int
    passed_on: bool = False


@attrs.frozen(repr=False)
class ProjectUsage:
    """The usage of a project on one file system: bytes of blocks, inodes, and its limit in bytes.

    A limit of 0 means no limit.
    """

    bytes: int
    inodes: int
    limit: int


def project_of(fd: int) -> Project:
    """Return the project of an open file or directory."""
    flags, _, _, project, _ = _attributes(fd)
    return Project(project, bool(flags & _PASS_ON))


def set_project(fd: int, project: Project) -> None:
    """Set the project of an open file or directory; nothing is written if it has it already.

    A file has none to pass on.
    """
    flags, extent, extents, old, cow_extent = _attributes(fd)
    new = flags | _PASS_ON if project.passed_on else flags & ~_PASS_ON
    if (new, project.id) != (flags, old):
        packed = _FSXATTR.pack(new, extent, extents, project.id, cow_extent)
        fcntl.ioctl(fd, _SET_ATTRIBUTES, packed)


def is_enforced(fd: int) -> bool:
    """Return whether the file system limits projects, and not only counts what they use."""
    state = ctypes.create_string_buffer(_STATE_SIZE)
    _STATE.pack_into(state, 0, _STATE_VERSION, 0)
    _quotactl(fd, _GET_STATE, 0, state)
    return bool(_STATE.unpack_from(state)[1] & _ENFORCED)


def project_usage(fd: int, project: int) -> ProjectUsage:
    """Return what a project uses; nothing for one that the file system does not know."""
    block = ctypes.create_string_buffer(_DQBLK.size)
    try:
        _quotactl(fd, _GET_QUOTA, project, block)
    except FileNotFoundError:
        return ProjectUsage(0, 0, 0)
    hard, _, used, _, _, inodes, *_ = _DQBLK.unpack(block.raw)
    return ProjectUsage(used, inodes, hard * _BLOCK)


def set_limit(fd: int, project: int, limit: int) -> None:
    """Set the hard limit of a project in bytes, 0 for none; it may be below what is used."""
    packed = _DQBLK.pack(-(-limit // _BLOCK), 0, 0, 0, 0, 0, 0, 0, _BLOCK_LIMITS)
    _quotactl(fd, _SET_QUOTA, project, ctypes.create_string_buffer(packed, _DQBLK.size))


def _attributes(fd: int) -> tuple[int, ...]:
    return _FSXATTR.unpack(fcntl.ioctl(fd, _GET_ATTRIBUTES, bytes(_FSXATTR.size)))


def _quotactl(fd: int, command: int, project: int, data: ctypes.Array[ctypes.c_char]) -> None:
    number = ctypes.c_uint(command << 8 | _PRJQUOTA)
    if _libc.syscall(_QUOTACTL_FD, fd, number, ctypes.c_uint(project), data) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


#: Above the numbers that administrators choose, and those of Wings, which are ids of its Panel.
FIRST_PROJECT = 1 << 30
#: The numbers that a server may have, one after the other.
_ATTEMPTS = 64
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_OWN_DIRECTORY = _DIRECTORY | os.O_NOFOLLOW
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
    "that allows quotactl_fd; docs/systemd.md has a drop-in for the service"
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
            with closing_descriptor(os.open(self._data, _DIRECTORY)) as fd:
                if not is_enforced(fd):
                    return _NOT_ENFORCED
                project_usage(fd, FIRST_PROJECT)
            for path in (self._data, staging):
                with closing_descriptor(os.open(path, _DIRECTORY)) as fd:
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

    def adopt(self, uuid: str, path: str, staged: str) -> None:
        """Give all in a directory the project of a server's, so that it can be moved into that.

        The server has no limit from then on, until `apply`: old and new files count for it.
        """
        if not self.active:
            return
        with _directory(path) as fd, _directory(staged) as new:
            with self._lock:
                project = project_of(fd)
                if not project.passed_on or not self._is_own(uuid, project.id):
                    return
            set_limit(fd, project.id, 0)
            _assign_below(new, project.id, everywhere=True)
            set_project(new, project)

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
        with closing_descriptor(os.open(name, _OWN_DIRECTORY, dir_fd=parent)) as fd:
            return project_of(fd) != project
    except OSError:
        return False


def _set_below(parent: int, name: bytes, project: Project) -> None:
    try:
        fd = os.open(name, _FILE, dir_fd=parent)
    except OSError:
        return  # It is gone, or another kind of file has taken its place.
    with closing_descriptor(fd):
        _set(fd, project)


def _set(fd: int, project: Project) -> None:
    try:
        set_project(fd, project)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOTTY, errno.EROFS):
            raise
