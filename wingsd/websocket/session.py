"""The session of a console's WebSocket: authentication, permissions and answers.

Pure: messages, events and the time (seconds since the epoch) in, steps out. The rules are those of
the Panel's page and of Wings, with three additions: a missing permission is an error message, a
new token after an expired one gets the initial messages again, and a browser that does not
authenticate is closed.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from wingsd import events
from wingsd.auth.tokens import EXPIRED, ConsoleToken, DenyList, console_token
from wingsd.config import CALAGOPUS, PELICAN
from wingsd.errors import (
    BadRequest,
    PermissionMissing,
    ServerMoved,
    ServerNotRunning,
    TokenExpired,
    TokenInvalid,
    Unauthorized,
    WingsdError,
)
from wingsd.servers.server import Server
from wingsd.websocket import messages
from wingsd.websocket.messages import Message
from wingsd.websocket.recent_transfers import FAILED, RecentTransfers

#: Messages at once, and then per second. To a page, these two are `global`.
ALL_MESSAGES = (10, 5.0)
#: The same for the messages with a limit of their own, and for all others together.
EACH = {messages.AUTH: (2, 0.2), messages.SEND_LOGS: (2, 0.2), messages.SEND_COMMAND: (10, 1.0)}
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
    """The rate limits of one browser. `now` returns seconds of a clock that only goes forward."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
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
        if limit.allows(self._now()):
            return None
        return "" if known else name


_META_CALAGOPUS = "meta.calagopus"
_READ_CONSOLE = "control.read-console"
#: Events about the changes of files.
_OPERATIONS = (
    events.OPERATION_ABORTED,
    events.OPERATION_COMPLETED,
    events.OPERATION_ERROR,
    events.OPERATION_PROGRESS,
)
#: Events about backups before and after their end.
_BACKUPS = (events.BACKUP_DELETED, events.BACKUP_PROGRESS, events.BACKUP_STARTED)
#: Events about the restoring of a backup, but its end.
_RESTORES = (events.BACKUP_RESTORE_PROGRESS, events.BACKUP_RESTORE_STARTED)
_PERMISSIONS = {
    **dict.fromkeys(_BACKUPS, "backups.read"),
    events.TRANSFER_LOGS: "admin.websocket.transfer",
    events.TRANSFER_PROGRESS: "admin.websocket.transfer",
    events.INSTALL_OUTPUT: "admin.websocket.install",
    **dict.fromkeys(_OPERATIONS, "files.read"),
    **dict.fromkeys(_RESTORES, "backups.read"),
}
#: Events that quote the console, or are shown in it.
_CONSOLE = (events.CONSOLE_OUTPUT, events.DAEMON_MESSAGE, events.FEATURE_MATCH)

#: Events that only Calagopus' page has.
_CALAGOPUS = (
    *_BACKUPS,
    *_OPERATIONS,
    *_RESTORES,
    events.IMAGE_PULL_COMPLETED,
    events.IMAGE_PULL_PROGRESS,
    events.PENDING_RESTART,
    events.TRANSFER_PROGRESS,
)


def may_see(token: ConsoleToken, event: str) -> bool:
    """Return whether the token's user may see the event of that name."""
    if event.startswith(events.BACKUP_COMPLETED):
        return token.allows("backup.read") or token.allows("backups.read")
    if event in _CONSOLE:
        return may_read_console(token)
    if event in _CALAGOPUS and not is_for_calagopus(token):
        return False
    return event not in _PERMISSIONS or token.allows(_PERMISSIONS[event])


def may_read_console(token: ConsoleToken) -> bool:
    """Return whether the token's user may read the console."""
    return not is_for_calagopus(token) or token.allows(_READ_CONSOLE)


def is_for_calagopus(token: ConsoleToken) -> bool:
    """Return whether the token is of Calagopus' Panel."""
    return _META_CALAGOPUS in token.permissions


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


#: Seconds between two calls of `Session.check`.
CHECK_INTERVAL = 30.0
#: Seconds before its end at which a token is reported as expiring.
EXPIRING = 60.0
#: Checks until which a browser must have authenticated.
CHECKS_WITHOUT_TOKEN = 2

GOING_AWAY = 1001
POLICY_VIOLATION = 1008

# On this text the Panel's page requests another token; see tokens.EXPIRED.
_DENIED = "jwt: created too far in past (denylist)"

_POWER = {
    "start": "control.start",
    "stop": "control.stop",
    "restart": "control.restart",
    "kill": "control.stop",
}
# The Panel's page connects again on this one and on `processing`, which follows: one is enough.
_NOT_SENT = (events.TRANSFER_STATUS, ("pending",))
# On these it does not connect again.
_STAYS_ON = ("starting", "success")
#: The text of Wings.
_UNEXPECTED = "an unexpected error was encountered while handling this request"
#: The text of Calagopus' nodes.
_NO_CONSOLE = (
    "You are missing the `control.read-console` permission to view server logs and console output."
)
_GONE = "the server is not on this node any more"


@attrs.define(eq=False, repr=False)
class Session:
    """The session of one browser.

    `uuid` is that of the server that is watched, `key` the `token` of a node of `family`. `server`
    is None when it has left this node: then only the final state of its transfer is sent.
    """

    _uuid: str
    #: The node's token, by which those of users are checked. It may be replaced.
    key: str
    _family: str
    _denied: DenyList
    _limits: MessageRateLimits
    _server: Server | None
    _transfers: RecentTransfers
    _token: ConsoleToken | None = attrs.field(default=None, init=False)
    _notified: str = attrs.field(default="", init=False)
    _is_leaving: bool = attrs.field(default=False, init=False)
    _checks: int = attrs.field(default=0, init=False)
    _has_left: bool = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._has_left = self._server is None

    @property
    def admitted(self) -> bool:
        """True if a valid token has been received."""
        return self._token is not None

    @property
    def user(self) -> str:
        """The UUID of the user, in lower case; empty without a token."""
        return self._token.user.lower() if self._token else ""

    # Input

    def receive(self, payload: bytes, now: float, *, binary: bool = False) -> list[Step]:
        """Handle a message of the browser, a text or a binary one."""
        excess = self._limits.refuse_any()
        if excess is not None:
            return _throttled(excess)
        try:
            message = Message.decode(payload, binary=binary)
            excess = self._limits.refuse(message.event)
            return self._handle(message, now) if excess is None else _throttled(excess)
        except Unauthorized as error:
            return [Message(messages.JWT_ERROR, (str(error), error.code))]
        except WingsdError as error:
            return [self.failure(error)]

    def event(self, name: str, args: tuple[str, ...], now: float) -> list[Step]:
        """Handle an event of the server."""
        if self._has_left or name in (events.CRASHED, events.EXPLAINED, events.STAYS_OFF):
            return []
        if name == events.SUSPENDED:
            return suspension(self._family)
        if name == events.TRANSFER_REPORTED:
            # Since the failure, it may have asked the Panel too early.
            return self._question() if self.admitted and not self._invalid_reason(now) else []
        steps: list[Step] = []
        if self._token is not None:
            reason = self._invalid_reason(now)
            if reason:
                steps += self._notify_once(reason)
            elif (name, args) != _NOT_SENT and may_see(self._token, name):
                steps.append(Message(name, args))
                if name == events.TRANSFER_STATUS and args[0] not in _STAYS_ON:
                    self._note_leaving(self.user)
        if name == events.DELETED:
            # A browser that has not yet authenticated has not got the final state.
            has_moved = self._is_away and self._transfers.has_moved(self._uuid)
            self._has_left = self._token is None and has_moved
            if not self._has_left:
                steps.append(Close(GOING_AWAY, _GONE))
        return steps

    def check(self, now: float) -> list[Step]:
        """Check the token for expiry; to be called every `CHECK_INTERVAL` seconds."""
        if self._has_left:
            return [Close(GOING_AWAY, _GONE)]
        if self._token is None:
            self._checks += 1
            if self._checks < CHECKS_WITHOUT_TOKEN:
                return []
            return [Close(POLICY_VIOLATION, "no valid token was sent")]
        reason = self._invalid_reason(now)
        if reason == EXPIRED:
            self._notified = ""  # Sent at every check, for a page that has got no other token.
        if not reason and self._token.expires - now <= EXPIRING:
            reason = messages.TOKEN_EXPIRING
        return self._notify_once(reason) if reason else []

    def failure(self, error: Exception) -> Message:
        """Return the message for a failed request.

        Details of a failure on this node are for administrators; those of an invalid request are
        for its sender.
        """
        allowed = self._token is not None and self._token.allows("admin.websocket.errors")
        if not isinstance(error, WingsdError):
            text = f"{type(error).__name__}: {error}" if allowed else _UNEXPECTED
            return Message(messages.DAEMON_ERROR, (text, WingsdError.code))
        theirs = error.status < 500 or isinstance(error, ServerNotRunning)  # noqa: PLR2004
        text = str(error) if theirs or allowed else error.message
        return Message(messages.DAEMON_ERROR, (text, error.code))

    # Rules

    def _handle(self, message: Message, now: float) -> list[Step]:
        if message.event == messages.AUTH:
            return self._authenticate(message.text, now)
        reason = self._invalid_reason(now)
        if self._token is None or reason:
            raise TokenInvalid(reason)
        server = self._server
        if self._has_left or server is None:
            return _refuse(message)
        return _answer(self._token, server, message)

    def _authenticate(self, text: str, now: float) -> list[Step]:
        token = console_token(text, self.key, self._family)
        if self._denied.refuses(token):
            raise TokenInvalid(_DENIED)
        if token.expires <= now:
            raise TokenExpired(EXPIRED)
        if token.server != self._uuid:
            raise TokenInvalid("jwt: server uuid mismatch", "the token is for another server")
        if not token.allows("websocket.connect"):
            raise TokenInvalid("jwt: missing connect permission")
        # A browser that only renews its token has the state already.
        initial: list[Step] = []
        if self._invalid_reason(now):
            initial = self._missed_end(token)
            if not self._has_left and self._server is not None:
                initial = [*_state(token, self._server), *initial]
        self._token, self._notified = token, ""
        return [Message(messages.AUTH_SUCCESS), *initial]

    def _missed_end(self, token: ConsoleToken) -> list[Step]:
        state = self._transfers.missed(self._uuid, token.issued, is_here=not self._is_away)
        if not state:
            return []
        user = token.user.lower()
        if state != FAILED or user not in self._transfers.heard(self._uuid):
            self._note_leaving(user)
            return [Message(events.TRANSFER_STATUS, (state,))]
        # The page connects again since it was sent `failed`; or it is the user's second one, and
        # was not.
        return self._question()

    def _question(self) -> list[Step]:
        """Return the message by which a page asks the Panel, and does not connect again."""
        return [] if self._family == CALAGOPUS else [Message(events.INSTALL_COMPLETED, ("",))]

    def _note_leaving(self, user: str) -> None:
        """Note that the page was sent a state on which it connects again.

        It reads no later one on this WebSocket.
        """
        if not self._is_leaving:
            self._is_leaving = True
            self._transfers.heard(self._uuid).add(user)

    @property
    def _is_away(self) -> bool:
        """True if the server is not here, or the Panel has it on another node, or may have."""
        return self._server is None or self._server.disowned

    def _invalid_reason(self, now: float) -> str:
        """Return why the token is missing or invalid; empty when it is valid."""
        if self._token is None:
            return "jwt: no jwt present"
        if self._denied.refuses(self._token):
            return _DENIED
        return EXPIRED if self._token.expires <= now else ""

    def _notify_once(self, what: str) -> list[Step]:
        if self._notified == what:
            return []
        self._notified = what
        if what == EXPIRED:
            return [Message(messages.TOKEN_EXPIRED)]
        if what == messages.TOKEN_EXPIRING:
            return [Message(messages.TOKEN_EXPIRING)]
        return [Message(messages.JWT_ERROR, (what,))]


def _answer(token: ConsoleToken, server: Server, message: Message) -> list[Step]:
    """Return the steps for a message of an authenticated browser."""
    steps: list[Step] = []
    match message.event:
        case messages.SET_STATE:
            steps = [_power(token, message.text)]
        case messages.SEND_COMMAND:
            _require(token, "control.console")
            steps = [Command(message.text, token.user)]
        case messages.SEND_LOGS:
            if may_read_console(token):
                steps = [SendLogs(may_see(token, events.TRANSFER_LOGS))]
        case messages.SEND_STATS:
            steps = _stats(token, server)
        case messages.SEND_STATUS:
            steps = [Message(events.STATUS, (server.state.value,))]
        case messages.PING:
            steps = [Message(messages.PONG, message.args)]
        case messages.CONFIGURE_SOCKET:
            steps = _configure(message.args)
        case _:
            raise BadRequest(f"unknown message {message.event[:40]!r}")
    return steps


def _power(token: ConsoleToken, action: str) -> ChangePower:
    if action not in _POWER:
        known = ", ".join(_POWER)
        raise BadRequest(f"unknown power action {action[:40]!r}", f"use one of {known}")
    _require(token, _POWER[action])
    return ChangePower(action, token.user)


def _state(token: ConsoleToken, server: Server) -> list[Step]:
    status = server.state.value
    state: list[Step] = [Message(events.STATUS, (status,))]
    if not may_read_console(token):
        state.append(Message(events.DAEMON_MESSAGE, (_NO_CONSOLE,)))
    # A running server publishes them every second.
    if status == "offline":
        state.append(Message(events.STATS, (server.stats(),)))
    return state


def _stats(token: ConsoleToken, server: Server) -> list[Step]:
    stats: list[Step] = [Message(events.STATS, (server.stats(),))]
    if may_see(token, events.PENDING_RESTART):
        pending = "true" if server.pending_restart else "false"
        stats.append(Message(events.PENDING_RESTART, (pending,)))
    return stats


def _configure(args: tuple[str, ...]) -> list[Step]:
    """Return how messages are to be sent; other settings are ignored, as by Calagopus' nodes."""
    match args:
        case ("transmission mode", ("binary" | "text") as mode, *_):
            return [SetTransmission(binary=mode == "binary")]
    return []


def _require(token: ConsoleToken, permission: str) -> None:
    if not token.allows(permission):
        raise PermissionMissing(f"you do not have the permission {permission} for this server")


def _refuse(message: Message) -> list[Step]:
    """Raise `Conflict`, unless it is a request that every page sends when it connects."""
    if message.event in (messages.SEND_LOGS, messages.SEND_STATS, messages.CONFIGURE_SOCKET):
        return []
    raise ServerMoved("the server has moved to another node", "reload this page")


def _throttled(excess: str) -> list[Step]:
    return [Message(messages.THROTTLED, (excess,))] if excess else []
