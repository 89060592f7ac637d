"""Project quotas of the kernel: the project of a file, and what a project uses and may use.

A project is a number that files and directories have on ext4 and XFS, beside owner and group. What
is made in a directory that passes its project on belongs to it as well, and the file system counts
and limits the blocks of each project.

No library has these calls: quotactl_fd(2), which Linux has since 5.14, and the ioctl requests
FS_IOC_FSGETXATTR and FS_IOC_FSSETXATTR of linux/fs.h. Functions take a descriptor of any file
there, block for a moment, and raise OSError: EPERM without CAP_SYS_ADMIN, ENOSYS where the file
system or the kernel lacks them.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct

import attrs

__all__ = [
    "Project",
    "ProjectUsage",
    "is_enforced",
    "project_of",
    "project_usage",
    "set_limit",
    "set_project",
    "syscall_number",
]

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
    """What a project has on one file system: bytes of blocks, inodes, and its limit in bytes.

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
