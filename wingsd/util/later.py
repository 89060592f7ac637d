"""Objects that are made when they are first used, and with them what they import."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from wingsd.errors import WingsdError
from wingsd.util.text import reading_advice

__all__ = ["Later", "not_prepared"]

T = TypeVar("T")


class Later(Generic[T]):
    """What `make` returns, made once. `made` is None before that."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self.made: T | None = None

    def get(self) -> T:
        """Return it. Raises `WingsdError` when its modules cannot be read now."""
        if self.made is None:
            try:
                self.made = self._make()
            except (OSError, ImportError) as error:
                raise not_prepared(error) from error
        return self.made


def not_prepared(error: OSError | ImportError) -> WingsdError:
    """Return the error of a call whose modules could not be imported."""
    if isinstance(error, OSError):  # all descriptors are in use, for one
        why = reading_advice(error)
    else:
        why = f"{error}; restart wingsd if its files were replaced"
    return WingsdError("this call could not be prepared", why)
