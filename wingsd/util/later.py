"""Objects that are made when they are first used, and with them what they import."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Later"]

T = TypeVar("T")


class Later(Generic[T]):
    """What `make` returns, made once. `made` is None before that."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self.made: T | None = None

    def get(self) -> T:
        """Return it. Raises `OSError`, `ImportError` when its modules cannot be read."""
        if self.made is None:
            self.made = self._make()
        return self.made
