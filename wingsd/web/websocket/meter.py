"""How often a browser may ask for something: a token bucket for each kind of message. Pure."""

from __future__ import annotations

from wingsd.web.websocket.messages import AUTH, SEND_COMMAND, SEND_LOGS

__all__ = ["Meter", "Meters"]

#: Messages at once, and then per second; the figures are those of Pelican's Wings.
ALL_MESSAGES = (10, 5.0)
_EACH = {AUTH: (2, 0.2), SEND_LOGS: (2, 0.2), SEND_COMMAND: (10, 1.0)}
_OTHERS = (4, 1.0)


class Meter:
    """Lets `burst` pass at once, and then `rate` per second."""

    def __init__(self, burst: int, rate: float) -> None:
        self._burst = burst
        self._rate = rate
        self._left = float(burst)
        self._at: float | None = None
        #: Whether the last one was refused.
        self.refusing = False

    def allows(self, now: float) -> bool:
        """Count one at the time `now` (seconds), and return whether it may pass."""
        passed = 0.0 if self._at is None else max(now - self._at, 0.0)
        self._left = min(self._left + passed * self._rate, self._burst)
        self._at = now
        self.refusing = self._left < 1
        if not self.refusing:
            self._left -= 1
        return not self.refusing


class Meters:
    """The meters of one browser."""

    def __init__(self) -> None:
        self._all = Meter(*ALL_MESSAGES)
        self._others = Meter(*_OTHERS)
        self._each = {event: Meter(*limits) for event, limits in _EACH.items()}

    def refuse_any(self, now: float) -> str | None:
        """Count a message of any kind; see `refuse`."""
        return _refusal(self._all, "global", now)

    def refuse(self, event: str, now: float) -> str | None:
        """Count a message; None lets it pass, a text throws it away.

        The text is what the browser is told is too much; it is empty when it knows already.
        """
        return _refusal(self._each.get(event, self._others), event, now)


def _refusal(meter: Meter, what: str, now: float) -> str | None:
    known = meter.refusing
    if meter.allows(now):
        return None
    return "" if known else what
