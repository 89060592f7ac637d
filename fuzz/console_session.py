"""A browser's messages: without a valid token they do nothing, and every answer can be sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from twisted.internet.task import Clock

from fuzz.findings import Finding
from tests.support.state import Node
from tests.support.tokens import console_claims, signed
from wingsd.auth.tokens import DenyList
from wingsd.config import PTERODACTYL
from wingsd.events import EventBus
from wingsd.servers import PowerState
from wingsd.websocket.messages import Message
from wingsd.websocket.recent_transfers import RecentTransfers
from wingsd.websocket.session import (
    ChangePower,
    Close,
    Command,
    MessageRateLimits,
    SendLogs,
    Session,
    Step,
)

__all__ = ["WORDS", "one", "seeds"]

WORDS = [
    b'{"event":"auth","args":["%TOKEN%"]}',
    b'{"event":"auth","args":["%SMALL%"]}',
    b'{"event":"set state","args":["start"]}',
    b'{"event":"send command","args":["say"]}',
    b'{"event":"send logs","args":[null]}',
    b'{"event":"send stats"}',
    b"LOOK",
    b"LATER",
    b"DENY",
    b"EVENT ",
    b"PACKED \x92\xa9send logs\x91\xc0",
    b"PACKED \x92\xb0configure socket\x92\xb1transmission mode\xa6binary",
    b"LEFT",
    b"\\ud800",
    b"eyJhbGciOiJIUzI1NiJ9.e30.",
    b"eyJhbGciOiJub25lIn0.e30.",
]

_UUID = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"
_NOW = 1_700_000_000
_NODE = Node("https://node.invalid:8080")


def _token(*permissions: str) -> bytes:
    claims = console_claims("http://panel.invalid", _NODE, _UUID, "user", permissions, _NOW - 30)
    # Far in the future, since PyJWT looks at the real clock; the session at the one handed in.
    return signed(claims, {"exp": 10**11, "jti": "j", "unique_id": "u"}, _NODE.token).encode()


_TOKENS = {
    b"%TOKEN%": _token("*", "admin.websocket.errors"),
    b"%SMALL%": _token("websocket.connect"),
}


class _Server:
    state = PowerState.OFFLINE
    pending_restart = disowned = False

    def stats(self) -> str:
        return "{}"


def one(data: bytes) -> None:
    """Run a session, with a message in each line; some words stand for other events."""
    denied = DenyList(_NOW - 60)
    has_left = data.startswith(b"LEFT")
    clock = Clock()
    limits = MessageRateLimits(clock.seconds)
    server: Any = None if has_left else _Server()
    transfers = RecentTransfers(EventBus(), clock, clock.seconds, 10)
    session = Session(_UUID, _NODE.token, PTERODACTYL, denied, limits, server, transfers)
    now, let_in, full = float(_NOW), False, False
    for line in data.split(b"\n"):
        if line == b"LOOK":
            steps = session.check(now)
        elif line == b"LATER":
            now += 60
            clock.advance(60)
            continue
        elif line == b"DENY":
            denied.deny(["j"], now)
            let_in = full = False
            continue
        elif line.startswith(b"EVENT "):
            steps = session.event(line[6:].decode("utf-8", "surrogateescape"), ("a",), now)
        elif line.startswith(b"PACKED "):
            steps = session.receive(line[7:], now, binary=True)
        else:
            for word, token in _TOKENS.items():
                line = line.replace(word, token)  # noqa: PLW2901
            steps = session.receive(line, now)
        _check(steps, let_in and not has_left, full and not has_left)
        if any(step == Message("auth success") for step in steps):
            let_in, full = True, _TOKENS[b"%TOKEN%"] in line


def _check(steps: list[Step], let_in: bool, full: bool) -> None:
    for step in steps:
        match step:
            case Message():
                again = Message.decode(step.encode())
                if again.event.encode("utf-8", "replace") != step.event.encode("utf-8", "replace"):
                    raise Finding(f"{step} arrives as {again}")
                if Message.decode(step.encode(binary=True), binary=True) != again:
                    raise Finding(f"{step} does not arrive as {again} in MessagePack")
            case SendLogs() if not let_in:
                raise Finding("the console is told to somebody who showed no token")
            case ChangePower() | Command() if not full:
                raise Finding(f"{step} is done for somebody without the permission")
            case Close(code, reason) if code < 1000 or len(reason.encode()) > 123:  # noqa: PLR2004
                raise Finding(f"{step} cannot be sent")


def seeds() -> Iterator[bytes]:
    """Yield sessions of the Panel's page."""
    auth = b'{"event":"auth","args":["%TOKEN%"]}'
    small = b'{"event":"auth","args":["%SMALL%"]}'
    state, command = (
        b'{"event":"set state","args":["%b"]}',
        b'{"event":"send command","args":["x"]}',
    )
    logs, stats = b'{"event":"send logs","args":[null]}', b'{"event":"send stats","args":[null]}'
    yield b"\n".join([auth, logs, stats, state % b"start", command, b"LOOK", auth])
    yield b"\n".join([b"LOOK", small, b"EVENT status", state % b"kill", command, b"EVENT deleted"])
    yield b"\n".join([auth, b"DENY", b"LATER", command, b"EVENT stats", b"LOOK", auth])
    yield b"\n".join([b"LOOK", b"LOOK", *[state % b"bad"] * 12])
    yield b"\n".join([b"LEFT", auth, logs, stats, state % b"start", command, b"LOOK"])
