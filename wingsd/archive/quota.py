"""Limits of extraction: the server's disk limit, the node's reserve, and the archive's members."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence

from attrs import evolve, frozen

from wingsd.archive.tar_reader import Member
from wingsd.config import TransfersConfig
from wingsd.errors import ArchiveError, DiskLimitExceeded, StorageError
from wingsd.filesystem.walk import FREE_ENTRIES, counted_entries
from wingsd.util.text import display

_MIB = 1 << 20


@frozen(repr=False)
class ArchiveLimits:
    """The limits of one extraction; `TransfersConfig` has those of a node."""

    #: Bytes of all files' data together, with the holes of sparse ones; a file that comes twice
    #: counts twice, and `counted_entries` is added. None for no limit.
    disk: int | None
    #: Bytes of the file system that stay free, at most a twentieth of it; 0 for none.
    reserve: int
    #: Inodes of the file system that stay free, at most a twentieth of them.
    inode_reserve: int
    #: Members of the archive, including those left out.
    members: int
    #: Bytes of memory for directories that come after their contents.
    directory_memory: int
    #: Frees room on the file system, and returns whether there was any to be freed. It is called
    #: in any thread, and as long as the reserve is touched.
    make_room: Callable[[], bool] = lambda: False

    @classmethod
    def configured(cls, transfers: TransfersConfig) -> ArchiveLimits:
        """Return the limits of a node; `for_server` adds a server's disk limit."""
        return cls(
            disk=None,
            reserve=transfers.disk_reserve * _MIB,
            inode_reserve=transfers.inode_reserve,
            members=transfers.max_members,
            directory_memory=transfers.directory_memory * _MIB,
        )

    def for_server(self, disk_space: int) -> ArchiveLimits:
        """Return the limits for a server with a `build.disk_space` of so many MiB.

        0 and less is no limit, as in Wings.
        """
        return evolve(self, disk=self.disk_bytes(disk_space))

    @staticmethod
    def disk_bytes(disk_space: int) -> int | None:
        """Return a `build.disk_space` in bytes, None for no limit."""
        return disk_space * _MIB if disk_space > 0 else None


DEFAULT = ArchiveLimits.configured(TransfersConfig())
"""The limits of a node with default configuration."""


STEP = 8 << 20
"""Bytes after which the free space is checked again: what others write between two checks is
missed until the next."""

_BLOCK = 4096  # bytes of the smallest file or segment on a common file system
_SHARE = 20
_DEFAULT_INODES = 1024
_LINKS = (b"1", b"2")


class ArchiveQuota:
    """Counts what one archive takes, and refuses what exceeds the limits.

    `file_system` returns the statvfs result of the file system that is written to. Where a server
    comes in several archives at the same time, `together` has the quotas of all, and the limits
    are for all of them. Every method raises DiskLimitExceeded beyond the server's limit, and
    StorageError beyond the node's.
    """

    def __init__(
        self,
        limits: ArchiveLimits,
        file_system: Callable[[], os.statvfs_result],
        together: Sequence[ArchiveQuota] = (),
    ) -> None:
        self._limits = limits
        self._file_system = file_system
        self._together = together
        self._members = 0
        self._reserved = 0
        self._links = 0
        self._directories = 0
        self._unchecked = 0

    def reserve(self, member: Member, directories: int = 0) -> None:
        """Count the size in a member's header, before any of its data is written.

        `directories` is how many were made for this archive so far: the name of one member may
        need hundreds. Data that is not written counts as well, as it is read and might be endless.
        Raises ArchiveError for one member too many.
        """
        self._members += 1
        self._reserved += member.size
        if member.typeflag in _LINKS:
            self._links += 1
        made, self._directories = directories - self._directories, directories
        self._check(member.name)
        taken = member.size
        if member.segments is not None:  # on disk, whole blocks for each segment
            taken = sum(-(-length // _BLOCK) * _BLOCK for length in member.segments[1::2])
        # the last block, one block for each directory, and the name
        self._unchecked += taken + (1 + made) * _BLOCK + len(member.name)
        if self._unchecked >= STEP:
            self._check_free_space(member.name, taken)

    def end(self, directories: int) -> None:
        """Count the directories that were made for the last member."""
        self._directories = directories
        self._check(b".")

    def _check(self, name: bytes) -> None:
        members, reserved = self._members, self._reserved
        entries = self._links + self._directories
        if self._together:
            # No lock: each number is written by one thread alone, and of two that reserve at the
            # same time at least the later one sees both.
            members = sum(quota._members for quota in self._together)
            reserved = sum(quota._reserved for quota in self._together)
            entries = sum(quota._links + quota._directories for quota in self._together)
        counted = counted_entries(entries)
        reserved += counted
        most, limit = self._limits.members, self._limits.disk
        if members > most:
            raise ArchiveError(
                f"the archive has more than {most} files, directories and links; "
                "raise system.transfers.max_members on this node if it is to be received"
            )
        if limit is not None and reserved > limit:
            reason = (
                f" (of its {entries} directories and links, those beyond the first "
                f"{FREE_ENTRIES} count 4 KiB each)"
                if counted
                else ""
            )
            raise DiskLimitExceeded(
                f"with {display(name)} the server's files take {_mib_above(reserved)} "
                f"MiB, its disk limit is {limit // _MIB} MiB{reason}; raise its disk limit "
                "in the Panel, or delete files, and try again"
            )

    def watched(self, member: Member, data: Iterable[memoryview]) -> Iterable[memoryview]:
        """Return a reserved member's data; iterating fails where the disk fills up meanwhile."""
        return data if member.size < STEP else self._watched(member.name, data)

    def _watched(self, name: bytes, data: Iterable[memoryview]) -> Iterator[memoryview]:
        for piece in data:
            self._unchecked += len(piece)
            if self._unchecked >= STEP:
                self._check_free_space(name, 0)
            yield piece

    def _check_free_space(self, name: bytes, more: int) -> None:
        """Check that `more` bytes leave enough free space."""
        self._unchecked = 0
        reserve, inodes = self._limits.reserve, self._limits.inode_reserve
        while reserve or inodes:
            found = self._file_system()
            try:
                require_free_space(found, reserve, display(name), more, inodes)
            except StorageError:
                if not self._limits.make_room():
                    raise
            else:
                return


def free_bytes(directory: str) -> int:
    """Return the bytes of a directory's file system that are free. Raises OSError."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def kept_free(found: os.statvfs_result, reserve: int) -> int:
    """Return the bytes of a file system that stay free: `reserve`, at most a twentieth of it."""
    return min(reserve, found.f_blocks * found.f_frsize // _SHARE)


def require_free_space(
    found: os.statvfs_result,
    reserve: int,
    name: str,
    more: int = 0,
    inodes: int = _DEFAULT_INODES,
    files: int = 0,
    *,
    others: int = 0,
    freed: int = 0,
) -> None:
    """Raise StorageError where `more` bytes for `name` would leave less than `reserve` bytes free.

    It also raises where `files` more would leave fewer than `inodes` inodes free. A twentieth of
    the file system is enough for both. `found` is its statvfs result. `others` are bytes that are
    promised to others, `freed` those that can be freed.
    """
    free = found.f_bavail * found.f_frsize + freed
    reserve = kept_free(found, reserve)
    if reserve and free - more - others < reserve:
        promised = f" {_mib_above(others)} MiB of them for servers that arrive," if others else ""
        raise StorageError(
            f"the disk is full: {name} takes {_mib_above(more)} MiB more, "
            f"{free // _MIB} MiB are free,{promised} and {_mib_above(reserve)} MiB must stay free "
            "(system.transfers.disk_reserve); free space on this node and try again"
        )
    # a file system that makes inodes on demand reports none
    inodes = min(inodes, found.f_files // _SHARE)
    if inodes and found.f_favail - files < inodes:
        raise StorageError(
            f"the disk is full: {found.f_favail} of its {found.f_files} inodes are free, and "
            f"{inodes} must stay free (system.transfers.inode_reserve); every file, directory "
            "and symlink takes one: delete files on this node and try again"
        )


def _mib_above(size: int) -> int:
    return -(-size // _MIB)
