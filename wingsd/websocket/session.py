"""What a browser may see and do, and what it is answered: the rules of a console's WebSocket.

Pure: messages and events come in, steps to take come out; the time, in seconds since the epoch,
is handed in. The rules are those that the Panel's page counts on and Wings follows, but for three
of our own: a browser without a permission is told so, one whose token lapsed is greeted anew with
the next, and one that shows no token at all is sent away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import attrs

from wingsd.auth.tokens import (
    EXPIRED,
    ConsoleToken,
    DenyList,
    TokenExpired,
    TokenInvalid,
    console_token,
)
from wingsd.errors import BadRequest, Conflict, ServerNotRunning, Unauthorized, WingsdError
from wingsd.events import (
    BACKUP_COMPLETED,
    DELETED,
    INSTALL_OUTPUT,
    STATS,
    STATUS,
    TRANSFER_LOGS,
    TRANSFER_STATUS,
)
from wingsd.websocket.messages import (
    AUTH,
    AUTH_SUCCESS,
    DAEMON_ERROR,
    JWT_ERROR,
    SEND_COMMAND,
    SEND_LOGS,
    SEND_STATS,
    SET_STATE,
    THROTTLED,
    TOKEN_EXPIRED,
    TOKEN_EXPIRING,
    Message,
    MessageRateLimits,
)

__all__ = [
    "LOOK_EVERY",
    "ChangePower",
    "Close",
    "Command",
    "LastTransfer",
    "SendLogs",
    "Session",
    "Step",
]

#: Seconds between two calls of `Session.look`.
LOOK_EVERY = 30.0
#: Seconds before its end at which a token is called expiring.
EXPIRING = 60.0
#: Looks after which a browser must have shown a token.
LOOKS_WITHOUT_TOKEN = 2

GOING_AWAY = 1001
POLICY_VIOLATION = 1008

# The Panel's page looks for these words and then asks for another token; see tokens.EXPIRED.
_DENIED = "jwt: created too far in past (denylist)"

_POWER = {
    "start": "control.start",
    "stop": "control.stop",
    "restart": "control.restart",
    "kill": "control.stop",
}
_SHOWN_WITH = {
    TRANSFER_LOGS: "admin.websocket.transfer",
    INSTALL_OUTPUT: "admin.websocket.install",
}
# The Panel's page connects again on this one and on `processing`, which follows: once is enough.
_NOT_SENT = (TRANSFER_STATUS, ("pending",))
_GONE = "the server is not on this node any more"


class PermissionMissing(BadRequest):
    """The console's user lacks a permission (400)."""

    code = "permission-missing"


class ServerMoved(Conflict):
    """The server has moved to another node (409)."""

    code = "server-moved"


@attrs.frozen
class ChangePower:
    """Have the server do this: start, stop, restart or kill. `user` is who asks."""

    action: str
    user: str


@attrs.frozen
class Command:
    """Type this line into the server's console."""

    line: str


@attrs.frozen
class SendLogs:
    """Send the last lines of the console; with `transfer` those of the transfer as well."""

    transfer: bool = False


@attrs.frozen
class Close:
    """Close the connection, with a code and a reason of RFC 6455."""

    code: int
    reason: str


Step = Message | ChangePower | Command | SendLogs | Close


class LastTransfer(Protocol):
    """The server's last transfer from this node or to it."""

    @property
    def has_moved(self) -> bool:
        """Whether it has just taken the server to another node."""

    def repeat(self, user: str, issued: float) -> str:
        """Return the state to send to a user once more, empty for none.

        Their token was `issued` then, in seconds since the epoch.
        """


class Session:
    """One browser's. `key` is the node's `token`; `status` and `stats` tell the server's.

    When the server `has_left`, the browser is sent the end of its `transfer` and nothing else.
    """

    def __init__(
        self,
        server: str,
        key: str,
        denied: DenyList,
        status: Callable[[], str],
        stats: Callable[[], str],
        transfer: LastTransfer | None = None,
        *,
        has_left: bool = False,
    ) -> None:
        self._server = server
        self._key = key
        self._denied = denied
        self._status = status
        self._stats = stats
        self._transfer = transfer
        self._has_left = has_left
        self._meters = MessageRateLimits()
        self._token: ConsoleToken | None = None
        self._told = ""
        self._looks = 0

    @property
    def admitted(self) -> bool:
        """Whether a good token has been shown."""
        return self._token is not None

    # What comes in

    def receive(self, payload: bytes, now: float) -> list[Step]:
        """Take a message of the browser's."""
        excess = self._meters.refuse_any(now)
        if excess is not None:
            return _throttled(excess)
        try:
            message = Message.decode(payload)
            excess = self._meters.refuse(message.event, now)
            return self._obey(message, now) if excess is None else _throttled(excess)
        except Unauthorized as error:
            return [Message(JWT_ERROR, (str(error), error.code))]
        except WingsdError as error:
            return [self.failure(error)]

    def event(self, name: str, args: tuple[str, ...], now: float) -> list[Step]:
        """Take an event of the server's."""
        if self._has_left:
            return []
        steps: list[Step] = []
        if self._token is not None:
            lapse = self._lapse(now)
            if lapse:
                steps += self._tell_once(lapse)
            elif (name, args) != _NOT_SENT and self._may_see(self._token, name):
                steps.append(Message(name, args))
        if name == DELETED:
            # One whose token is still on its way has not seen how the transfer ended.
            self._has_left = self._token is None and self._has_moved
            if not self._has_left:
                steps.append(Close(GOING_AWAY, _GONE))
        return steps

    def look(self, now: float) -> list[Step]:
        """See whether the token still holds; to be called every `LOOK_EVERY` seconds."""
        if self._has_left:
            return [Close(GOING_AWAY, _GONE)]
        if self._token is None:
            self._looks += 1
            if self._looks < LOOKS_WITHOUT_TOKEN:
                return []
            return [Close(POLICY_VIOLATION, "no good token was sent")]
        lapse = self._lapse(now)
        if lapse == EXPIRED:
            self._told = ""  # Told at every look, for the page that got no other token so far.
        if not lapse and self._token.expires - now <= EXPIRING:
            lapse = TOKEN_EXPIRING
        return self._tell_once(lapse) if lapse else []

    def failure(self, error: WingsdError) -> Message:
        """Return what is said of something that could not be done.

        Details of what failed on this node are for administrators; who asked for something that
        cannot be is told what to do.
        """
        theirs = error.status < 500 or isinstance(error, ServerNotRunning)  # noqa: PLR2004
        allowed = self._token is not None and self._token.allows("admin.websocket.errors")
        text = str(error) if theirs or allowed else error.message
        return Message(DAEMON_ERROR, (text, error.code))

    # How it is judged

    def _obey(self, message: Message, now: float) -> list[Step]:
        if message.event == AUTH:
            return self._authenticate(message.text, now)
        lapse = self._lapse(now)
        if self._token is None or lapse:
            raise TokenInvalid(lapse)
        if self._has_left:
            return _refuse(message)
        if message.event == SET_STATE:
            return [self._power(self._token, message.text)]
        if message.event == SEND_COMMAND:
            _demand(self._token, "control.console")
            return [Command(message.text)]
        if message.event == SEND_LOGS:
            return [SendLogs(self._may_see(self._token, TRANSFER_LOGS))]
        if message.event == SEND_STATS:
            return [Message(STATS, (self._stats(),))]
        raise BadRequest(f"this node knows no message {message.event[:40]!r}")

    def _authenticate(self, text: str, now: float) -> list[Step]:
        token = console_token(text, self._key)
        if self._denied.refuses(token):
            raise TokenInvalid(_DENIED)
        if token.expires <= now:
            raise TokenExpired(EXPIRED)
        if token.server != self._server:
            raise TokenInvalid("jwt: server uuid mismatch", "the token is for another server")
        if not token.allows("websocket.connect"):
            raise TokenInvalid("jwt: missing connect permission")
        # One that only renews its token knows the state already.
        greeting = self._greeting(token) if self._lapse(now) else []
        self._token, self._told = token, ""
        return [Message(AUTH_SUCCESS), *greeting]

    def _greeting(self, token: ConsoleToken) -> list[Step]:
        state = self._transfer.repeat(token.user, token.issued) if self._transfer else ""
        end: list[Step] = [Message(TRANSFER_STATUS, (state,))] if state else []
        return end if self._has_left else [*self._state(), *end]

    def _state(self) -> list[Step]:
        status = self._status()
        state: list[Step] = [Message(STATUS, (status,))]
        # Of a server that runs they come by themselves.
        return [*state, Message(STATS, (self._stats(),))] if status == "offline" else state

    @property
    def _has_moved(self) -> bool:
        return self._transfer is not None and self._transfer.has_moved

    def _lapse(self, now: float) -> str:
        """Return why nothing may be seen or done now; empty when it may."""
        if self._token is None:
            return "jwt: no jwt present"
        if self._denied.refuses(self._token):
            return _DENIED
        return EXPIRED if self._token.expires <= now else ""

    def _tell_once(self, what: str) -> list[Step]:
        if self._told == what:
            return []
        self._told = what
        if what == EXPIRED:
            return [Message(TOKEN_EXPIRED)]
        if what == TOKEN_EXPIRING:
            return [Message(TOKEN_EXPIRING)]
        return [Message(JWT_ERROR, (what,))]

    @staticmethod
    def _may_see(token: ConsoleToken, name: str) -> bool:
        if name.startswith(BACKUP_COMPLETED):
            return token.allows("backup.read")
        return name not in _SHOWN_WITH or token.allows(_SHOWN_WITH[name])

    @staticmethod
    def _power(token: ConsoleToken, action: str) -> ChangePower:
        if action not in _POWER:
            known = ", ".join(_POWER)
            raise BadRequest(f"a server cannot be told to {action[:40]!r}", f"use one of {known}")
        _demand(token, _POWER[action])
        return ChangePower(action, token.user)


def _demand(token: ConsoleToken, permission: str) -> None:
    if not token.allows(permission):
        raise PermissionMissing(f"you do not have the permission {permission} for this server")


def _refuse(message: Message) -> list[Step]:
    """Raise `Conflict`, unless it is what every page asks for when it connects."""
    if message.event in (SEND_LOGS, SEND_STATS):
        return []
    raise ServerMoved("the server has moved to another node", "reload this page")


def _throttled(excess: str) -> list[Step]:
    return [Message(THROTTLED, (excess,))] if excess else []
