"""What holds a descriptor until it is closed, or its context ends."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

__all__ = ["OpenDescriptor"]


class OpenDescriptor:
    """Holds one descriptor, which is its own to close. To be used as a context."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """Return the descriptor, -1 when it is closed."""
        return self._fd

    def close(self) -> None:
        """Close it; a second time nothing is done."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
