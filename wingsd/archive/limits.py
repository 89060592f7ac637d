"""What one archive may take of this node, whatever it says."""

from __future__ import annotations

from attrs import evolve, frozen

from wingsd.config import Transfers

__all__ = ["DEFAULT", "ENTRY_SIZE", "FREE_ENTRIES", "Limits", "counted_entries"]

FREE_ENTRIES = 50_000
"""The directories, symlinks and further names of hard-linked files, of one server and together,
that count nothing against its disk limit."""

ENTRY_SIZE = 4096
"""Bytes that each one beyond them counts: what a directory takes of common file systems."""

_MIB = 1 << 20


@frozen
class Limits:
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
    def configured(cls, transfers: Transfers) -> Limits:
        """Return those of a node; what a server may have is said by `for_server`."""
        return cls(
            disk=None,
            reserve=transfers.disk_reserve * _MIB,
            inode_reserve=transfers.inode_reserve,
            members=transfers.max_members,
            directory_memory=transfers.directory_memory * _MIB,
        )

    def for_server(self, disk_space: int) -> Limits:
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


DEFAULT = Limits.configured(Transfers())
"""Those of a node whose configuration says nothing of them."""
