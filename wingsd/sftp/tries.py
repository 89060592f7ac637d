"""Wrong passwords and keys: kept for seconds, and counted, so that the Panel is not flooded.

Clients with an agent offer each of their keys, and open several connections with the same wrong
password at once. Programs that guess passwords make thousands of connections.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable

from wingsd.config.sections import SftpLimits

__all__ = ["LoginTries"]

#: Seconds for which a refusal is kept, and how many refusals and addresses are.
REFUSAL_KEPT = 10.0
_MAX_REFUSALS = 4096
_MAX_COUNTED = 4096
#: Refused passwords of one address for all user names, as a multiple of those for one; and refused
#: keys of one address, as a multiple of those of one connection.
_NAMES = 10
#: Blocked addresses that were reported.
_MAX_REPORTED = 1024
#: What refused keys are counted by in place of a user name, which has no NUL.
_KEYS = "\0keys"


class LoginTries:
    """Logins whose password or key was wrong. Secrets are kept as keyed hashes only.

    `seconds` is a clock.
    """

    def __init__(self, limits: SftpLimits, seconds: Callable[[], float]) -> None:
        self._most = limits.authentication_password_attempts
        self._most_keys = limits.authentication_pubkey_attempts * _NAMES
        self._cooldown = limits.authentication_cooldown
        self._seconds = seconds
        self._key = secrets.token_bytes(32)
        self._refused: OrderedDict[bytes, float] = OrderedDict()
        self._counted: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()
        self._reported: OrderedDict[str, float] = OrderedDict()

    def is_refused(self, username: str, secret: str) -> bool:
        """Return whether this very login was refused seconds ago."""
        at = self._refused.get(self._digest(username, secret))
        return at is not None and self._seconds() - at < REFUSAL_KEPT

    def is_blocked(self, block: str, username: str) -> bool:
        """Return whether an address has had too many passwords refused."""
        return (
            self._count((block, username)) >= self._most
            or self._count((block, "")) >= self._most * _NAMES
        )

    def is_blocked_for_keys(self, block: str) -> bool:
        """Return whether an address has had too many public keys refused."""
        return self._count((block, _KEYS)) >= self._most_keys

    def is_to_be_reported(self, block: str) -> bool:
        """Return whether a login that a block refuses is the address's first for a cooldown."""
        now = self._seconds()
        at = self._reported.get(block)
        if at is not None and now - at < self._cooldown:
            return False
        self._reported[block] = now
        self._reported.move_to_end(block)
        if len(self._reported) > _MAX_REPORTED:
            self._reported.popitem(last=False)
        return True

    def refused(self, block: str, username: str, secret: str, *, is_password: bool) -> None:
        """Note a wrong password, or a wrong key."""
        digest = self._digest(username, secret)
        self._refused[digest] = self._seconds()
        self._refused.move_to_end(digest)
        if len(self._refused) > _MAX_REFUSALS:
            self._refused.popitem(last=False)
        if is_password:
            self._note((block, username), self._most)
            self._note((block, ""), self._most * _NAMES)
        else:
            self._note((block, _KEYS), self._most_keys)

    def granted(self, block: str, username: str) -> None:
        """Forget the tries of an address for this user name."""
        self._counted.pop((block, username), None)

    def _digest(self, username: str, secret: str) -> bytes:
        text = f"{len(username)} {username} {secret}".encode("utf-8", "surrogatepass")
        return hmac.new(self._key, text, hashlib.sha256).digest()

    def _count(self, key: tuple[str, str]) -> int:
        times = self._counted.get(key)
        if times is None:
            return 0
        oldest = self._seconds() - self._cooldown
        while times and times[0] <= oldest:
            times.popleft()
        return len(times)

    def _note(self, key: tuple[str, str], most: int) -> None:
        times = self._counted.setdefault(key, deque(maxlen=most))
        times.append(self._seconds())
        self._counted.move_to_end(key)
        if len(self._counted) > _MAX_COUNTED:
            self._counted.popitem(last=False)
