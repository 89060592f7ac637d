"""The messages of a browser's WebSocket.

Their form and names are those of the Panel's page, and of Wings.
"""

from __future__ import annotations

import json

import attrs

from wingsd.errors import BadRequest, InvalidData
from wingsd.util import media
from wingsd.util.media import MediaType

# Sent by browsers.
AUTH = "auth"
SET_STATE = "set state"
SEND_COMMAND = "send command"
SEND_LOGS = "send logs"
SEND_STATS = "send stats"
#: These are Calagopus' page's; the last one asks for binary messages.
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


@attrs.frozen(repr=False)
class Message:
    """One message, in either direction."""

    event: str
    args: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """All arguments joined, as the arguments of a browser's message are read."""
        return "".join(self.args)

    def encode(self, *, binary: bool = False) -> bytes:
        """Return the message as JSON, or for a binary message as MessagePack.

        In MessagePack it is a list of the event and the list of its arguments, as Calagopus' nodes
        and pages send it. Any text can be encoded.
        """
        if binary:
            return media.encode([self.event, self.args], MediaType.MESSAGE_PACK)
        text = json.dumps({"event": self.event, "args": self.args}, ensure_ascii=False)
        return text.encode("utf-8", "replace")

    @classmethod
    def decode(cls, payload: bytes, *, binary: bool = False) -> Message:
        """Return the message that a browser sent. Raises `BadRequest`.

        The Panel's page sends `[null]` where it has no text to send.
        """
        event, args = _unpacked(payload) if binary else _parsed(payload)
        if not isinstance(event, str):
            raise _not_a_message('its "event" is not a text')
        args = args or []
        if not isinstance(args, list) or not all(isinstance(arg, str | None) for arg in args):
            raise _not_a_message('its "args" are not a list of texts')
        return cls(event, tuple(arg or "" for arg in args))


def _parsed(payload: bytes) -> tuple[object, object]:
    """Return the event and the arguments of a message in JSON."""
    try:
        data = json.loads(payload.decode())
    except (ValueError, RecursionError) as error:
        raise _not_a_message("it is not JSON") from error
    return (data.get("event"), data.get("args")) if isinstance(data, dict) else (None, None)


def _unpacked(payload: bytes) -> tuple[object, object]:
    """Return the event and the arguments of a message in MessagePack: a list of both."""
    try:
        data = media.decode(payload, MediaType.MESSAGE_PACK)
    except InvalidData as error:
        raise _not_a_message(f"it is not MessagePack: {error}") from error
    if not isinstance(data, list) or len(data) != 2:  # noqa: PLR2004
        raise _not_a_message("it is not a list of an event and its arguments")
    return data[0], data[1]


def _not_a_message(why: str) -> BadRequest:
    return BadRequest(
        "this message cannot be read",
        f'{why}; send {{"event": "...", "args": ["..."]}}, or ["...", ["..."]] in MessagePack',
    )
