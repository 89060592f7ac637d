"""What the extended headers before a member say about it.

Sources of the rules: IEEE Std 1003.1 (pax, "Extended Header"), GNU tar manual ("GNU Extensions").
"""

from __future__ import annotations

from array import array

from wingsd.archive.headers import Member, pax_records, pax_time, sparse_from_list, sparse_number

__all__ = ["KEYS", "Extension"]

KEYS = (b"path", b"linkpath", b"size", b"mtime")
"""The pax keys that are used of those that may also be said globally."""

_SPARSE = b"GNU.sparse."


class Extension:
    """What the extended headers before one member say about it."""

    def __init__(self) -> None:
        self.name = b""
        self.link = b""
        self.records: dict[bytes, bytes] = {}
        self.sparse: dict[bytes, bytes] = {}
        self.segments = array("q")

    def is_empty(self) -> bool:
        """Tell whether there is anything that wants a member."""
        return not (self.name or self.link or self.records or self.sparse)

    def read(self, payload: bytes) -> None:
        """Take a pax header; only what is used of it is kept."""
        for key, value in pax_records(payload):
            if key in KEYS:
                self.records[key] = value
            elif key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                self.segments.append(sparse_number(value))
            elif key == b"GNU.sparse.map":
                self.segments = sparse_from_list(value)
            elif key.startswith(_SPARSE):
                self.sparse[key.removeprefix(_SPARSE)] = value

    def apply(self, member: Member, defaults: dict[bytes, bytes]) -> int:
        """Complete `member`, the more special word winning; return the size as stored.

        An empty value takes back what was said globally (POSIX pax, "Extended Header").
        """
        records = {**defaults, **self.records}
        member.name = self.sparse.get(b"name") or records.get(b"path") or self.name or member.name
        member.link = records.get(b"linkpath") or self.link or member.link
        if mtime := records.get(b"mtime"):
            member.mtime = pax_time(mtime)
        if size := records.get(b"size"):
            member.size = sparse_number(size)
        return member.size
