"""Ranges of a file that is downloaded, so that a client can resume: RFC 9110, section 14."""

from __future__ import annotations

import re
from email.utils import formatdate

import attrs

from wingsd.errors import RangeNotSatisfiable

__all__ = ["Validators", "requested_range"]

#: More digits than the size of any file has are not converted.
_RANGE = re.compile(r"bytes=\s*(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))\s*")

#: The first and the last second of the years that a date can have, 1 to 9999.
_FIRST, _LAST = -62_135_596_800, 253_402_300_799


@attrs.frozen(eq=False, repr=False)
class Validators:
    """What tells one version of a file from another: its size, and its mtime in nanoseconds."""

    size: int
    modified: int

    @property
    def etag(self) -> str:
        """The value of the header `ETag`."""
        return f'"{self.modified:x}-{self.size:x}"'

    @property
    def last_modified(self) -> str:
        """The value of the header `Last-Modified`."""
        seconds = self.modified // 1_000_000_000
        return formatdate(min(max(seconds, _FIRST), _LAST), usegmt=True)

    def match(self, condition: str) -> bool:
        """Return whether an `If-Range` is about this version; without one every version is."""
        return condition.strip() in ("", self.etag, self.last_modified)


def requested_range(header: str, condition: str, validators: Validators) -> range | None:
    """Return the bytes that a `Range` with this `If-Range` asks for; None for the whole file.

    A header with several ranges, or one that is invalid, is ignored as the RFC allows. Raises
    `RangeNotSatisfiable`.
    """
    found = _RANGE.fullmatch(header)
    if found is None or not validators.match(condition):
        return None
    begin, end, last = found.groups()
    size = validators.size
    if last is not None:
        start, stop = max(size - int(last), 0), size
    else:
        start = int(begin)
        stop = min(int(end) + 1, size) if end else size
        if end and int(end) < start:
            return None
    if start >= size or start >= stop:
        raise RangeNotSatisfiable(size)
    return range(start, stop)
