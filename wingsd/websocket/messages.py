"""The messages of a browser's WebSocket, and their rate limits.

Their form and names are those of the Panel's page, and of Wings.
"""

from __future__ import annotations

import json

import attrs

from wingsd.errors import BadRequest

__all__ = [
    "AUTH",
    "AUTH_SUCCESS",
    "CONFIGURE_SOCKET",
    "DAEMON_ERROR",
    "JWT_ERROR",
    "PING",
    "PONG",
    "SEND_COMMAND",
    "SEND_LOGS",
    "SEND_STATS",
    "SEND_STATUS",
    "SET_STATE",
    "THROTTLED",
    "TOKEN_EXPIRED",
    "TOKEN_EXPIRING",
    "Message",
    "MessageRateLimits",
    "RateLimit",
]

# Sent by browsers.
AUTH = "auth"
SET_STATE = "set state"
SEND_COMMAND = "send command"
SEND_LOGS = "send logs"
SEND_STATS = "send stats"
#: These are Calagopus' page's; the last one asks for binary messages, which it does without.
SEND_STATUS = "send status"
PING = "ping"
CONFIGURE_SOCKET = "configure socket"
# Sent to browsers, beside the events of the server (`wingsd.events`).
AUTH_SUCCESS = "auth success"
JWT_ERROR = "jwt error"
DAEMON_ERROR = "daemon error"
TOKEN_EXPIRING = "token expiring"  # noqa: S105 - an event's name
TOKEN_EXPIRED = "token expired"  # noqa: S105 - an event's name
THROTTLED = "throttled"
PONG = "pong"


@attrs.frozen
class Message:
    """One message, in either direction."""

    event: str
    args: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """All arguments joined, as the arguments of a browser's message are read."""
        return "".join(self.args)

    def encode(self) -> bytes:
        """Return the message as JSON; any text can be encoded."""
        text = json.dumps({"event": self.event, "args": self.args}, ensure_ascii=False)
        return text.encode("utf-8", "replace")

    @classmethod
    def decode(cls, payload: bytes) -> Message:
        """Return the message that a browser sent. Raises `BadRequest`.

        The Panel's page sends `[null]` where it has no text to send.
        """
        try:
            data = json.loads(payload.decode())
        except (ValueError, RecursionError) as error:
            raise _not_a_message("it is not JSON") from error
        if not isinstance(data, dict) or not isinstance(data.get("event"), str):
            raise _not_a_message('its "event" is not a text')
        args = data.get("args") or []
        if not isinstance(args, list) or not all(isinstance(arg, str | None) for arg in args):
            raise _not_a_message('its "args" are not a list of texts')
        return cls(data["event"], tuple(arg or "" for arg in args))


def _not_a_message(why: str) -> BadRequest:
    return BadRequest(
        "this message cannot be read", f'{why}; send {{"event": "...", "args": ["..."]}}'
    )


#: Messages at once, and then per second; the figures are those of Pelican's Wings.
ALL_MESSAGES = (10, 5.0)
_EACH = {AUTH: (2, 0.2), SEND_LOGS: (2, 0.2), SEND_COMMAND: (10, 1.0)}
_OTHERS = (4, 1.0)


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

    def __init__(self) -> None:
        self._all = RateLimit(*ALL_MESSAGES)
        self._others = RateLimit(*_OTHERS)
        self._each = {event: RateLimit(*limits) for event, limits in _EACH.items()}

    def refuse_any(self, now: float) -> str | None:
        """Count a message of any kind; see `refuse`."""
        return _refusal(self._all, "global", now)

    def refuse(self, event: str, now: float) -> str | None:
        """Count a message; return None to pass it, or a text to drop it.

        The text names the limit for the browser; it is empty when that was sent already.
        """
        return _refusal(self._each.get(event, self._others), event, now)


def _refusal(limit: RateLimit, name: str, now: float) -> str | None:
    known = limit.refusing
    if limit.allows(now):
        return None
    return "" if known else name
