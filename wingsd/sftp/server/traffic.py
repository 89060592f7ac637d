"""Counts the bytes of requests and answers."""

from __future__ import annotations

from threading import Lock

__all__ = ["Traffic"]


class Traffic:
    """The bytes since the process's start. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._received = self._sent = 0

    def count(self, received: int, sent: int) -> None:
        """Count bytes of requests that were done, and of their answers."""
        with self._lock:
            self._received += received
            self._sent += sent

    @property
    def totals(self) -> tuple[int, int]:
        """The bytes of requests, and of answers."""
        with self._lock:
            return self._received, self._sent
