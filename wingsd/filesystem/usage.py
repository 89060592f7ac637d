"""The bytes of a server's files against its disk limit, counted while they are written."""

from __future__ import annotations

from threading import Lock
from typing import Protocol

from wingsd.errors import DiskLimitExceeded
from wingsd.util.text import readable_size

__all__ = ["Unlimited", "Usage", "UsageCounter"]


class Usage(Protocol):
    """Counts what is written to and deleted from one server's directory. Any thread may call it.

    Sizes are in bytes. A file with holes counts with them, and one with several names once.
    """

    def add(self, size: int) -> None:
        """Count bytes that are about to be written. Raises DiskLimitExceeded; none count then."""

    def free(self, size: int) -> None:
        """Count bytes that were deleted, or were not written after all."""


class Unlimited:
    """Counts nothing: for files that are no server's, and while nothing is limited."""

    def add(self, size: int) -> None:
        """Count nothing."""

    def free(self, size: int) -> None:
        """Count nothing."""


class UsageCounter:
    """The bytes that a server's files take, and may take.

    `used` is None before they were measured: until then nothing is limited. `limit` is None for no
    limit. Only what grows is refused, so that files can be deleted above the limit.
    """

    def __init__(self, used: int | None = None, limit: int | None = None) -> None:
        self.limit = limit
        self._used = used
        self._lock = Lock()

    @property
    def used(self) -> int | None:
        """The bytes, None before they were measured. It may be set to what was measured."""
        return self._used

    @used.setter
    def used(self, size: int | None) -> None:
        with self._lock:
            self._used = size

    def add(self, size: int) -> None:
        """Count bytes that are about to be written. Raises DiskLimitExceeded; none count then."""
        with self._lock:
            if self._used is None or size <= 0:
                return
            total, limit = self._used + size, self.limit
            if limit is not None and total > limit:
                raise DiskLimitExceeded(
                    f"the server's files would take {readable_size(total)}, and its disk limit is "
                    f"{readable_size(limit)}"
                )
            self._used = total

    def free(self, size: int) -> None:
        """Count bytes that were deleted, or were not written after all."""
        with self._lock:
            if self._used is not None:
                self._used = max(self._used - size, 0)
