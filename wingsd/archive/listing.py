"""What is found in one directory, in the order in which it is sent. Pure."""

from __future__ import annotations

import os

from attrs import Factory, frozen

__all__ = ["Listing", "Path"]

Path = tuple[bytes, ...]
"""A directory or file below a root, by the names on the way to it; `()` is the root."""


@frozen
class Listing:
    """One directory: its path, a descriptor and what it tells, and the names in it by kind.

    The descriptor is good until the next listing is asked for. A directory with many names comes
    in several listings, one after the other.
    """

    path: Path
    fd: int
    stat: os.stat_result
    files: list[bytes] = Factory(list)
    symlinks: list[bytes] = Factory(list)
    others: list[bytes] = Factory(list)
    directories: list[bytes] = Factory(list)
    #: Whether it is the directory's first listing.
    is_first: bool = True

    @property
    def prefix(self) -> bytes:
        """What stands before the names in it to make names below the root."""
        return b"".join(part + b"/" for part in self.path)
