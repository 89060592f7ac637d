"""Revokes tokens for consoles, for this daemon and for later ones."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from wingsd.auth.tokens import DenyList, user_key
from wingsd.statedb import StateDatabase

__all__ = ["Revocations", "UserSessions"]


class UserSessions(Protocol):
    """What users have open: WebSockets of consoles, or sessions of SFTP."""

    def close_user(self, user: str, servers: Collection[str]) -> int:
        """Close what a user has open of these servers, of all when there are none; count it."""


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

    async def revoke_users(
        self, users: Collection[str], servers: Collection[str], sessions: UserSessions
    ) -> int:
        """Refuse the tokens of users for these servers, of all when there are none.

        What they have open of `sessions` is closed. Return how many. Raises `StorageError`.
        """
        names = [(user, server) for user in users for server in (servers or ("",))]
        try:
            await self.revoke(tuple(user_key(*each) for each in names))
        finally:
            # Also where the disk fails: the tokens are refused as long as this daemon runs.
            closed = sum(sessions.close_user(user, servers) for user in users)
        return closed
