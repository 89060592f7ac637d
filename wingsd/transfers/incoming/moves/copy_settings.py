"""What a partial copy is opened with: its limits, its owner, and the present boot."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID

import attrs

from wingsd.moves.tree import MoveLimits

__all__ = ["CopySettings", "boot_id"]

_BOOT = Path("/proc/sys/kernel/random/boot_id")


@attrs.frozen(eq=False, repr=False)
class CopySettings:
    """The limits and the owner of a copy, and the bytes and inodes that stay free.

    `attributes` is whether the source knows extended attributes.
    """

    limits: MoveLimits
    owner: tuple[int, int]
    reserve: int
    inode_reserve: int
    attributes: bool = True


def boot_id() -> bytes:
    """Return the 16 bytes that name the present boot; random ones where the kernel has none."""
    try:
        return UUID(_BOOT.read_text().strip()).bytes
    except (OSError, ValueError):
        return os.urandom(16)
