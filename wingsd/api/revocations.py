"""Revokes tokens for consoles, for this daemon and for later ones."""

from __future__ import annotations

from collections.abc import Callable

from wingsd.auth.tokens import DenyList
from wingsd.statedb import StateDatabase

__all__ = ["Revocations"]


class Revocations:
    """Revokes tokens for consoles, now and for later daemons; `now` is Unix time."""

    def __init__(
        self, denied: DenyList, database: StateDatabase, now: Callable[[], float]
    ) -> None:
        self._denied = denied
        self._database = database
        self._now = now

    async def revoke(self, keys: tuple[str, ...]) -> None:
        """Refuse tokens that were issued until now, by their `jti` or by `user_key`.

        Raises `StorageError` where that cannot be recorded.
        """
        self._denied.deny(keys, self._now())
        # After the answer the Panel relies on it, also when this process is restarted.
        await self._database.deny(keys)
