"""The steps of a session: what a browser's connection, or its server, is to do."""

from __future__ import annotations

import attrs

from wingsd.config import PELICAN
from wingsd.websocket.messages import Message

__all__ = [
    "ChangePower",
    "Close",
    "Command",
    "SendLogs",
    "SetTransmission",
    "Step",
    "suspension",
]

SERVER_SUSPENDED = 4409


@attrs.frozen(repr=False)
class ChangePower:
    """Run a power action (start, stop, restart, kill) for the user with this UUID."""

    action: str
    user: str


@attrs.frozen(repr=False)
class Command:
    """Type this line into the server's console, for the user with this UUID."""

    line: str
    user: str


@attrs.frozen(repr=False)
class SendLogs:
    """Send the last lines of the console, with `transfer` also those of the transfer."""

    transfer: bool = False


@attrs.frozen(repr=False)
class Close:
    """Close the connection, with a code and a reason of RFC 6455."""

    code: int
    reason: str


@attrs.frozen(repr=False)
class SetTransmission:
    """Send binary messages from now on, or texts."""

    binary: bool


Step = Message | ChangePower | Command | SendLogs | SetTransmission | Close


def suspension(family: str) -> list[Step]:
    """Return the steps for the WebSocket of a suspended server, at a node of `family`.

    Pelican's nodes close it (router/router_server_ws.go). Those of Pterodactyl and Calagopus only
    stop the server (server/update.go, routes/api/servers/_server_/sync.rs): their pages open a
    WebSocket that was closed again and again, those of Pterodactyl every second.
    """
    return [Close(SERVER_SUSPENDED, "server is suspended")] if family == PELICAN else []
