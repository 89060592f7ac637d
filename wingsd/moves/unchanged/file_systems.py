"""File systems on which the rule of `UnchangedFiles` holds: measured, and not of an excluded kind.

The rule needs that each change of a file changes its ctime. On ext4, XFS and btrfs the first store
into a clean page of a shared mapping changes ctime, further ones do not until the page is written
back, and syncfs(2) makes them do so again. On tmpfs it does not. No process can set ctime there.

For all threads: each method of `MeasuredFileSystems` does one thing with a dict.
"""

from __future__ import annotations

import mmap
import os
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import attrs
from attrs import frozen

from wingsd.errors import StorageError
from wingsd.filesystem.syscalls import syncfs
from wingsd.filesystem.walk import opened
from wingsd.util.text import escaped

__all__ = [
    "KERNEL",
    "PROBE_NAME",
    "KernelCalls",
    "MeasuredFileSystems",
    "file_system_type",
    "measure",
]

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

PROBE_NAME = b".wingsd-ctime"
"""The file that is made in the directory and removed again."""

_PAGE = mmap.PAGESIZE
#: Seconds between changes. Before Linux 6.13 ctime moves in steps of 1 to 10 ms.
_PAUSE = 0.03
#: Nanoseconds by which ctime may differ from the clock of this node.
_CLOCK = 1_000_000_000
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
#: On these others than this kernel change files, or a file is one of another file system.
_EXCLUDED = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "ceph", "fuse", "fuseblk", "virtiofs", "overlay"),
        *("9p", "afs", "coda", "gfs2", "gpfs", "lustre", "ocfs2", "orangefs", "vboxsf"),
        *("aufs", "ecryptfs", "hostfs"),
    )
)


@frozen(eq=False, repr=False)
class KernelCalls:
    """Clocks in nanoseconds, and others. All but `boot_id` and `pause` take a descriptor.

    `boot_id` returns 16 bytes that are others after each boot. `finish_writes` waits for a
    write(2) of which a file has only a part yet.
    """

    wall_time: Callable[[], int]
    monotonic: Callable[[], int]
    boot_id: Callable[[], bytes]
    pause: Callable[[float], None]
    sync: Callable[[int], None]
    stat: Callable[[int], os.stat_result]
    finish_writes: Callable[[int], None]


def _boot_id() -> bytes:
    return uuid.UUID(_BOOT_ID.read_text(encoding="ascii").strip()).bytes


def _finish_writes(fd: int) -> None:
    """Wait for the lock of the file's inode, which write(2) holds from its ctime to its last byte.

    ext4 and btrfs lock it to look for a hole, but not to read; XFS locks it to read.
    """
    with suppress(OSError):  # the file is empty, or the file system has no such call
        os.lseek(fd, 0, os.SEEK_HOLE)
    os.lseek(fd, 0, os.SEEK_SET)


KERNEL = KernelCalls(
    wall_time=time.time_ns,
    monotonic=time.monotonic_ns,
    boot_id=_boot_id,
    pause=time.sleep,
    sync=syncfs,
    stat=os.fstat,
    finish_writes=_finish_writes,
)
"""The kernel that runs."""


def measure(directory: int, kernel: KernelCalls) -> str:
    """Return why the rule does not hold on the file system of a directory, empty if it does.

    Takes a third of a second, and four times as long as a flush of the file system.
    """
    try:
        _remove(directory)
        try:
            with ExitStack() as stack:
                fd = os.open(PROBE_NAME, _FLAGS, 0o600, dir_fd=directory)
                stack.callback(os.close, fd)
                os.write(fd, bytes(2 * _PAGE))
                mapping = stack.enter_context(mmap.mmap(fd, 2 * _PAGE))
                return _measured(fd, mapping, kernel)
        finally:
            _remove(directory)
    except (OSError, ValueError) as error:
        return f"it could not be measured: {escaped(str(error))}"


def _remove(directory: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(PROBE_NAME, dir_fd=directory)


def _measured(fd: int, mapping: mmap.mmap, kernel: KernelCalls) -> str:
    def store(page: int, value: int) -> Callable[[], object]:
        return lambda: mapping.__setitem__(page * _PAGE, value)

    # With large folios the first store into one page may let stores into others pass as well: all
    # of them are dirty then, and a flush cleans all.
    changes: list[tuple[str, bool, Callable[[], object]]] = [
        (f"a store into a mapping after flush {flush}", True, store(flush % 2, flush))
        for flush in range(1, 5)
    ]
    changes += [
        ("a write", False, lambda: os.pwrite(fd, b"\0", 0)),
        ("a new size", False, lambda: os.ftruncate(fd, _PAGE + 1)),
        ("setting its times back", False, lambda: os.utime(fd, ns=(0, 0))),
    ]
    for what, after_flush, change in changes:
        if after_flush:
            kernel.sync(fd)
        before = os.fstat(fd).st_ctime_ns
        kernel.pause(_PAUSE)
        change()
        ctime = os.fstat(fd).st_ctime_ns
        if ctime <= before:
            return f"{what} does not change a file's ctime"
        if abs(kernel.wall_time() - ctime) > _CLOCK:
            return f"{what} sets a ctime that is not the time of this node's clock"
    return ""


def file_system_type(fd: int) -> str:
    """Return the name of the type of an open file's file system, empty if it is not known."""
    mount = ""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii").splitlines():
        if line.startswith("mnt_id:"):
            mount = line.split()[1]
    for row in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields, _, after = row.partition(b" - ")
        if fields.split(maxsplit=1)[0] == mount.encode():
            return os.fsdecode(after.split(maxsplit=1)[0])
    return ""


@attrs.define(eq=False, repr=False, slots=False)
class MeasuredFileSystems:
    """File systems, by device number, and why the rule does not hold there.

    Without `is_allowed` (`system.transfers.live.trust`) nothing is measured and nothing trusted.
    `on_distrust` is called from the thread that finds that the rule does not hold.
    """

    _is_allowed: bool = attrs.field(default=True, kw_only=True)
    _kernel: KernelCalls = attrs.field(default=KERNEL, kw_only=True)
    _type_of: Callable[[int], str] = attrs.field(default=file_system_type, kw_only=True)
    _on_distrust: Callable[[], object] = attrs.field(default=lambda: None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        self._objections: dict[int, str] = {}

    def measure(self, directory: int) -> str:
        """Measure the file system of a directory, in it; return the objection. Blocking.

        What was distrusted stays so.
        """
        device = os.fstat(directory).st_dev
        if self._is_allowed and not self._objections.get(device):
            found = self._excluded(directory) or measure(directory, self._kernel)
            self._objections[device] = found
        return self.objection(directory)

    def measure_in(self, path: str) -> str:
        """Measure the file system of a directory by its path; without it, nothing is trusted."""
        try:
            with opened(path) as directory:
                return self.measure(directory)
        except StorageError as error:
            return str(error)

    def objection(self, root: int) -> str:
        """Return why nothing is trusted in the directory `root`, empty if the rule holds."""
        if not self._is_allowed:
            return "system.transfers.live.trust is never"
        found = self._objections.get(os.fstat(root).st_dev)
        if found is None:
            return self._excluded(root) or "its file system has not been measured"
        return found or self._excluded(root)

    def distrust(self, root: int, reason: str) -> None:
        """Trust nothing on the file system of `root` from now on."""
        self._objections[os.fstat(root).st_dev] = reason
        self._on_distrust()

    def _excluded(self, fd: int) -> str:
        try:
            name = self._type_of(fd)
        except OSError as error:
            return f"the type of its file system cannot be read: {error}"
        if not name:
            return "the type of its file system is not known"
        if name in _EXCLUDED or name.startswith("fuse."):
            return f"its file system is of the type {name}"
        return ""
