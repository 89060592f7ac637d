"""The rate limits of a browser's messages: token buckets, with the figures of Wings since 1.12.

Without them one browser can keep a node busy (CVE-2025-69199). Times are those of the reactor.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from wingsd.websocket.messages import AUTH, SEND_COMMAND, SEND_LOGS

__all__ = ["MessageRateLimits", "RateLimit"]

#: Messages at once, and then per second. Of these two a page is told `global`.
ALL_MESSAGES = (10, 5.0)
#: The same for the messages with a limit of their own, and for all others together.
EACH = {AUTH: (2, 0.2), SEND_LOGS: (2, 0.2), SEND_COMMAND: (10, 1.0)}
OTHERS = (4, 1.0)


class RateLimit:
    """A token bucket: `burst` messages at once, and then `rate` per second."""

    def __init__(self, burst: int, rate: float) -> None:
        self._burst = burst
        self._rate = rate
        self._left = float(burst)
        self._at: float | None = None
        #: Whether the last message was refused.
        self.refusing = False

    def allows(self, now: float) -> bool:
        """Count a message at the time `now` (seconds), and return whether it may pass."""
        passed = 0.0 if self._at is None else max(now - self._at, 0.0)
        self._left = min(self._left + passed * self._rate, self._burst)
        self._at = now
        self.refusing = self._left < 1
        if not self.refusing:
            self._left -= 1
        return not self.refusing


class MessageRateLimits:
    """The rate limits of one browser."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._all = RateLimit(*ALL_MESSAGES)
        self._others = RateLimit(*OTHERS)
        self._each = {event: RateLimit(*limits) for event, limits in EACH.items()}

    def refuse_any(self) -> str | None:
        """Count a message of any kind; see `refuse`."""
        return self._refusal(self._all, "global")

    def refuse(self, event: str) -> str | None:
        """Count a message; return None to pass it, or a text to drop it.

        The text names the limit for the browser; it is empty when that was sent already.
        """
        return self._refusal(self._each.get(event, self._others), event)

    def _refusal(self, limit: RateLimit, name: str) -> str | None:
        known = limit.refusing
        if limit.allows(self._clock.seconds()):
            return None
        return "" if known else name
