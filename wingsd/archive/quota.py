"""Limits of an archive: the server's disk space, the node's reserve, and its own bounds."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence

from attrs import evolve, frozen

from wingsd.archive.errors import ArchiveError, DiskLimitExceeded
from wingsd.archive.policy import display
from wingsd.archive.tar.headers import Member
from wingsd.config import TransfersConfig
from wingsd.errors import StorageError

__all__ = [
    "DEFAULT",
    "ENTRY_SIZE",
    "FREE_ENTRIES",
    "STEP",
    "ArchiveLimits",
    "ArchiveQuota",
    "counted_entries",
    "demand_room",
]

FREE_ENTRIES = 50_000
"""The directories, symlinks and further names of hard-linked files, of one server and together,
that count nothing against its disk limit."""

ENTRY_SIZE = 4096
"""Bytes that each one beyond them counts: what a directory takes of common file systems."""

_MIB = 1 << 20


@frozen
class ArchiveLimits:
    """The limits of one extraction; `config.Transfers` has what a node may say of them."""

    #: Bytes that the data of all files may have together, with the holes of sparse ones; a file
    #: that comes twice counts twice, and `counted_entries` is added. None is no limit.
    disk: int | None
    #: Bytes of the file system that stay free, and never more than a twentieth of it; 0 leaves it
    #: to the file system to say when it is full.
    reserve: int
    #: Inodes of the file system that stay free, and never more than a twentieth of them.
    inode_reserve: int
    #: Members of the archive, those left out among them.
    members: int
    #: Bytes of memory for directories that are named after what is in them.
    directory_memory: int

    @classmethod
    def configured(cls, transfers: TransfersConfig) -> ArchiveLimits:
        """Return those of a node; what a server may have is said by `for_server`."""
        return cls(
            disk=None,
            reserve=transfers.disk_reserve * _MIB,
            inode_reserve=transfers.inode_reserve,
            members=transfers.max_members,
            directory_memory=transfers.directory_memory * _MIB,
        )

    def for_server(self, disk_space: int) -> ArchiveLimits:
        """Return them for a server with a `build.disk_space` of so many MiB.

        0 is no limit, as Wings has it; what is below 0 as well.
        """
        return evolve(self, disk=self.disk_of(disk_space))

    @staticmethod
    def disk_of(disk_space: int) -> int | None:
        """Return the bytes that a `build.disk_space` is, None where it is no limit."""
        return disk_space * _MIB if disk_space > 0 else None


def counted_entries(count: int) -> int:
    """Return the bytes that so many directories and links of a server count together."""
    return max(count - FREE_ENTRIES, 0) * ENTRY_SIZE


DEFAULT = ArchiveLimits.configured(TransfersConfig())
"""Those of a node whose configuration says nothing of them."""


STEP = 8 << 20
"""Bytes after which the file system is asked again: so much may one extraction be off by, between
two looks, for what all others on the node write meanwhile."""

_BLOCK = 4096  # what the least file or segment takes of a common file system
_SHARE = 20
_INODES = 1024
_LINKS = (b"1", b"2")


class ArchiveQuota:
    """Keeps account of what one archive takes.

    `file_system` tells of the file system that is written to, as os.statvfs does. Where a server
    comes in several archives at a time, each has its own in `together`, and the limits are for all
    of them. Every method raises DiskLimitExceeded where the server may not have so much,
    StorageError where the node has not.
    """

    def __init__(
        self,
        limits: ArchiveLimits,
        file_system: Callable[[], os.statvfs_result],
        together: Sequence[ArchiveQuota] = (),
    ) -> None:
        self._limit = limits.disk
        self._most = limits.members
        self._reserve = limits.reserve
        self._inode_reserve = limits.inode_reserve
        self._file_system = file_system
        self._together = together
        self._members = 0
        self._claimed = 0
        self._links = 0
        self._directories = 0
        self._unseen = 0

    def claim(self, member: Member, directories: int = 0) -> None:
        """Take what a member says it has, before anything of it is written.

        `directories` is how many were made for this archive so far: the name of a single member
        may bring some hundred.

        Data that is not written counts as well: it has to be read, and could go on for ever.
        Raises ArchiveError for one member too many.
        """
        self._members += 1
        self._claimed += member.size
        if member.typeflag in _LINKS:
            self._links += 1
        made, self._directories = directories - self._directories, directories
        self._check(member.name)
        taken = member.size if member.segments is None else _on_disk(member.segments)
        # its last block, and a directory's only one; its name takes something too
        self._unseen += taken + (1 + made) * _BLOCK + len(member.name)
        if self._unseen >= STEP:
            self._look(member.name, taken)

    def end(self, directories: int) -> None:
        """Take the directories that were made for the last member."""
        self._directories = directories
        self._check(b".")

    def _check(self, name: bytes) -> None:
        members, claimed = self._members, self._claimed
        entries = self._links + self._directories
        if self._together:
            # No lock: each number is written by one thread alone, and of two that claim at once
            # at least the one that looks later sees both.
            members = sum(space._members for space in self._together)
            claimed = sum(space._claimed for space in self._together)
            entries = sum(space._links + space._directories for space in self._together)
        counted = counted_entries(entries)
        claimed += counted
        if members > self._most:
            raise ArchiveError(
                f"it holds more than {self._most} files, directories and links; "
                "raise system.transfers.max_members on this node if it is to be received"
            )
        if self._limit is not None and claimed > self._limit:
            why = (
                f" ({entries} directories and links among them, of which those beyond the first "
                f"{FREE_ENTRIES} count 4 KiB each)"
                if counted
                else ""
            )
            raise DiskLimitExceeded(
                f"with {display(name)} the server's files have {_mib_above(claimed)} "
                f"MiB, and it may have {self._limit // _MIB} MiB{why}; raise its disk limit "
                "in the Panel, or delete files, and transfer it again"
            )

    def watched(self, member: Member, data: Iterable[memoryview]) -> Iterable[memoryview]:
        """Return the data of a claimed member, which stops where the disk fills up meanwhile."""
        return data if member.size < STEP else self._watched(member.name, data)

    def _watched(self, name: bytes, data: Iterable[memoryview]) -> Iterator[memoryview]:
        for piece in data:
            self._unseen += len(piece)
            if self._unseen >= STEP:
                self._look(name, 0)
            yield piece

    def _look(self, name: bytes, more: int) -> None:
        """Ask how much is free, and whether `more` bytes leave enough of it."""
        self._unseen = 0
        if self._reserve or self._inode_reserve:
            found = self._file_system()
            demand_room(found, self._reserve, display(name), more, self._inode_reserve)


def demand_room(
    found: os.statvfs_result, reserve: int, name: str, more: int = 0, inodes: int = _INODES
) -> None:
    """Raise StorageError where `more` bytes for `name` would leave less than `reserve` bytes.

    So it does where less than `inodes` inodes are free. Of a file system that is `found` to be
    small a twentieth is enough, of both.
    """
    free = found.f_bavail * found.f_frsize
    reserve = min(reserve, found.f_blocks * found.f_frsize // _SHARE)
    if reserve and free - more < reserve:
        raise StorageError(
            f"the disk is full: {name} takes {_mib_above(more)} MiB more, "
            f"{free // _MIB} MiB are free, and {_mib_above(reserve)} MiB of them are kept "
            "(system.transfers.disk_reserve); free space on this node and send the server "
            "again"
        )
    # a file system that makes its inodes as they are needed tells of none
    inodes = min(inodes, found.f_files // _SHARE)
    if found.f_files and found.f_favail < inodes:
        raise StorageError(
            f"the disk is full: {found.f_favail} of its {found.f_files} inodes are free, and "
            f"{inodes} of them are kept (system.transfers.inode_reserve); every file, directory "
            "and symlink takes one: delete files on this node and send the server again"
        )


def _on_disk(segments: array[int]) -> int:
    """Return about how much the data of a sparse file takes: whole blocks for each segment."""
    return sum(-(-length // _BLOCK) * _BLOCK for length in segments[1::2])


def _mib_above(size: int) -> int:
    return -(-size // _MIB)
