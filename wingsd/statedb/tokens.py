"""The tokens in the state database: those that were used, and those that are revoked.

Blocking, for one thread at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

from wingsd.statedb.activity import ActivityRows

__all__ = ["TokenRows"]

#: Uses that no token has.
_UNLIMITED = 1 << 62


class TokenRows(ActivityRows):
    """The rows of tokens. `now` is the time of a call, in seconds since the epoch."""

    def use_token(self, digest: str, expires: float) -> bool:
        """Mark a transfer's token as used; return False if it was used, or may have been."""
        cursor = self._execute(
            "INSERT OR IGNORE INTO tokens (digest, expires) SELECT ?, ?"
            " WHERE ? > (SELECT until FROM forgotten WHERE kind = 'tokens')",
            digest,
            expires,
            expires,
        )
        return cursor.rowcount == 1

    def use_url(
        self, digest: str, expires: float, most: int, address: str, *, resumes: bool
    ) -> bool:
        """Count a use of a signed URL; return False where there were `most` (0: no limit).

        With `resumes` it is not counted, and allowed, from the address of the first use. False as
        well where it may have been used.
        """
        if (
            resumes
            and address
            and self._rows(
                "SELECT 1 FROM tokens WHERE digest = ? AND address = ?", digest, address
            )
        ):
            return True
        cursor = self._execute(
            "INSERT INTO tokens (digest, expires, address) SELECT ?, ?, ?"
            " WHERE ? > (SELECT until FROM forgotten WHERE kind = 'tokens')"
            " ON CONFLICT (digest) DO UPDATE SET uses = uses + 1 WHERE uses < ?",
            digest,
            expires,
            address,
            expires,
            most or _UNLIMITED,
        )
        return cursor.rowcount == 1

    def was_used(self, digest: str, expires: float) -> bool:
        """Return whether a transfer's token was used, or may have been."""
        found = self._execute(
            "SELECT 1 FROM tokens WHERE digest = ? UNION ALL"
            " SELECT 1 FROM forgotten WHERE kind = 'tokens' AND until >= ?",
            digest,
            expires,
        )
        return found.fetchone() is not None

    def deny(self, now: float, keys: Sequence[str]) -> None:
        """Add console tokens that the Panel has revoked, by their `jti` or their user's key.

        All or none are added.
        """
        # Without the transaction, each row would wait for the disk.
        with self._errors(), self._transaction():
            self._opened.executemany(
                "INSERT INTO denied (jti, at) VALUES (?, ?)"
                " ON CONFLICT DO UPDATE SET at = max(at, excluded.at)",
                [(key, now) for key in keys],
            )

    def denied(self) -> dict[str, float]:
        """Return the time at which each `jti`, and each user's key, was revoked."""
        return dict(self._rows("SELECT jti, at FROM denied"))

    def denied_before(self) -> float:
        """Return the time up to which revocations have been deleted."""
        ((until,),) = self._rows("SELECT until FROM forgotten WHERE kind = 'denied'")
        return float(until)
