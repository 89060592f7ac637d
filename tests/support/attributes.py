"""POSIX ACLs as the kernel has them, and readers of attributes, for tests."""

from __future__ import annotations

import os
from collections.abc import Mapping
from struct import iter_unpack, pack

from wingsd.filesystem.attributes import EVERYTHING, AttributeReader, AttributesKept

__all__ = ["ACCESS", "DEFAULT", "OWN", "acl", "entries", "reading"]

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
OWN = 0xFFFFFFFE
"""A node's own user or group, between two nodes."""

_NO_ID = 0xFFFFFFFF
_NOTHING: Mapping[int, int] = {}


def acl(
    *,
    users: Mapping[int, int] = _NOTHING,
    groups: Mapping[int, int] = _NOTHING,
    owner: int = 6,
    group: int | None,
    mask: int | None = None,
    other: int = 0,
) -> bytes:
    """Return an ACL of these permissions, those of users and groups by their numbers."""
    found = [(1, owner, _NO_ID), *((2, users[each], each) for each in sorted(users))]
    if group is not None:
        found.append((4, group, _NO_ID))
    found += [(8, groups[each], each) for each in sorted(groups)]
    if mask is not None:
        found.append((16, mask, _NO_ID))
    found.append((32, other, _NO_ID))
    return pack("<I", 2) + b"".join(pack("<HHI", *each) for each in found)


def entries(value: bytes) -> list[tuple[int, ...]]:
    """Return the entries of an ACL, sorted."""
    return sorted(iter_unpack("<HHI", value[4:]))


def reading(root: int, kept: AttributesKept = EVERYTHING) -> AttributeReader:
    """Return what reads the attributes of files below a directory."""
    found = os.fstat(root)
    return AttributeReader((found.st_uid, found.st_gid), kept)
