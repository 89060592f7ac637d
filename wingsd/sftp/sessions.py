"""The sessions of SFTP: the connected users of each server, and the ends of their sessions.

A session is work on its server's files (`Operation.CHANGE_FILES`): what takes the server for
itself, such as an installation, closes it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack
from math import inf
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from wingsd.activity import ActivityLog
from wingsd.config import PELICAN, Config
from wingsd.errors import (
    InvalidData,
    LoginRefused,
    PanelError,
    ServerNotFound,
    ServersNotLoaded,
    WingsdError,
)
from wingsd.events import DELETED, SUSPENDED, Event, EventBus
from wingsd.servers.operations import Operation
from wingsd.servers.registry import Servers
from wingsd.servers.server import Server
from wingsd.sftp.logins import GrantedLogin, SftpLogins, check_server
from wingsd.sftp.messages import Begun, Disconnect, FileEvent, ServerState, SftpMessage
from wingsd.util.deferreds import failure_logger
from wingsd.util.reactor import Periodic

#: Seconds for which a connection above a limit waits for a place, and those of one user that do.
_PLACE_TIMEOUT = 10.0
_MAX_WAITING = 32
#: Seconds between two looks at the usage and the limits of servers with sessions.
_STATES_EVERY = 1.0
#: Logins of one connection that were granted and not begun: keys that a client has not signed for.
_MAX_GRANTED = 64
#: Connections with such logins, unless more may be half open.
_MIN_CONNECTIONS = 128
#: Seconds from a Panel's call, by which some access to a server has ended, until it is asked
#: whose: Pterodactyl's commits that after the node's answer.
_COMMITTED_WITHIN = 5.0
_CHANGED = "your access to this server has changed; log in again"
_TAKEN = "the server is being installed, restored, moved or deleted"
_EVENTS = frozenset(("write", "create", "create-directory", "delete", "rename", "read"))


@attrs.define(eq=False, repr=False)
class _Session:
    granted: GrantedLogin
    server: Server
    operation: ExitStack
    #: When the Panel is asked again whether its user may go on.
    check_at: float
    #: Why this node closes it; empty while it does not.
    closed_for: str = ""


@attrs.define(eq=False, repr=False, slots=False)
class SftpSessions:
    """The sessions of the running SFTP process; `send` reaches it."""

    _log = Logger()

    _config: Config
    _servers: Servers
    _logins: SftpLogins
    _activity: ActivityLog
    _bus: EventBus
    _reactor: IReactorTime

    def __attrs_post_init__(self) -> None:
        self.send: Callable[[SftpMessage], None] = lambda _: None
        self._sftp = self._config.system.sftp
        self._most_granted = max(_MIN_CONNECTIONS, self._sftp.limits.max_half_open)
        self._granted: dict[int, dict[int, GrantedLogin]] = {}
        self._sessions: dict[int, _Session] = {}
        #: Connections that wait for a place, oldest first, and when they are refused.
        self._waiting: dict[int, tuple[GrantedLogin, IDelayedCall]] = {}
        #: By servers, the bytes that the process has reported, and the state that was sent last.
        self._totals: dict[str, int] = {}
        self._sent: dict[str, tuple[int, int | None, int | None, bool]] = {}
        self._states = Periodic(self._reactor, self._look)
        self._bus.subscribe_to_all(self._event)

    @property
    def count(self) -> int:
        """The number of sessions."""
        return len(self._sessions)

    def server(self, connection: int) -> Server | None:
        """Return the server of a connection, None where its session has ended. From any thread."""
        session = self._sessions.get(connection)
        return None if session is None or session.closed_for else session.server

    def grant(self, granted: GrantedLogin) -> None:
        """Let a connection begin a session with a login; tell the process what it may do."""
        while len(self._granted) >= self._most_granted:
            # Of a connection that was closed while the Panel was asked.
            del self._granted[next(iter(self._granted))]
        of_connection = self._granted.setdefault(granted.login.connection, {})
        if len(of_connection) >= _MAX_GRANTED:
            del of_connection[next(iter(of_connection))]
        of_connection[granted.login.request] = granted
        server = self._servers.get(granted.server)
        self._tell_state(server)
        self.send(granted.message(server))

    def begin(self, connection: int, request: int) -> None:
        """Begin the session of a connection, when it has a place."""
        if connection in self._sessions or connection in self._waiting:
            raise InvalidData("a message is not for this side")  # it has begun
        granted = self._granted.pop(connection, {}).get(request)
        if granted is None:
            self._refuse(connection, LoginRefused("it was not granted"))
        elif full := self._full(granted):
            of_user = sum(each.user == granted.user for each, _ in self._waiting.values())
            if of_user >= _MAX_WAITING:
                self._refuse(connection, LoginRefused(full))
                return
            given_up = self._reactor.callLater(_PLACE_TIMEOUT, self._give_up, connection)
            self._waiting[connection] = granted, given_up
        else:
            self._begin(connection, granted)

    def _give_up(self, connection: int) -> None:
        granted, _ = self._waiting.pop(connection)
        self._refuse(connection, LoginRefused(self._full(granted)))

    def _refuse(self, connection: int, error: WingsdError) -> None:
        self._log.info(
            "sftp: a session is refused after its login: {error}",
            error=error,
        )
        self.send(Disconnect(connection, str(error)))

    def _begin(self, connection: int, granted: GrantedLogin) -> None:
        """Begin a session, unless its server cannot be used any more."""
        try:
            server = self._logins.usable(granted)
        except WingsdError as error:
            self._refuse(connection, error)
            return
        session = _Session(granted, server, ExitStack(), self._next_check())
        self._sessions[connection] = session
        session.operation.enter_context(
            server.operations.during(
                Operation.CHANGE_FILES,
                lambda: self._close(connection, _TAKEN),
            )
        )
        self._log.info(
            "{server}: sftp session of {name!r} (user {user}) from {ip} begins",
            server=granted.server,
            name=granted.login.username,
            user=granted.user,
            ip=granted.login.ip,
        )
        if self._sftp.activity.log_logins:
            self._record(granted, "login", {})
        self.send(Begun(connection))
        if not self._states.running:
            self._states.start(_STATES_EVERY, now=False)

    def _full(self, granted: GrantedLogin) -> str:
        """Return the limit by which a login has no place for a session, empty where it has one."""
        limits = self._sftp.limits
        sessions = [each.granted for each in self._sessions.values()]
        most = limits.max_connections_per_user
        if most and sum(each.user == granted.user for each in sessions) >= most:
            return f"the user has {most} connections already; set the client to use fewer"
        most = limits.max_connections_per_server
        if most and sum(each.server == granted.server for each in sessions) >= most:
            return f"the server has {most} connections already; try again when others have ended"
        return ""

    def ended(self, connection: int) -> None:
        """Note that nothing is done for a connection any more."""
        self._granted.pop(connection, None)
        if connection in self._waiting:
            self._take_waiting(connection)
        session = self._sessions.pop(connection, None)
        if session is None:
            return
        session.operation.close()
        self._log.info(
            "{server}: sftp session of {name!r} ends{why}",
            server=session.granted.server,
            name=session.granted.login.username,
            why=f": {session.closed_for}" if session.closed_for else "",
        )
        for waiting, (granted, _) in tuple(self._waiting.items()):
            if not self._full(granted):
                self._take_waiting(waiting)
                self._begin(waiting, granted)
        if not self._sessions:
            self._states.stop()

    def _take_waiting(self, connection: int) -> None:
        """End the wait of a connection."""
        _, given_up = self._waiting.pop(connection)
        given_up.cancel()

    def all_ended(self) -> None:
        """Note the end of the process."""
        self._granted.clear()
        for connection in tuple(self._waiting):
            self._take_waiting(connection)
        for connection in tuple(self._sessions):
            self.ended(connection)
        self._totals.clear()
        self._sent.clear()

    # What closes sessions

    def close_user(self, user: str, servers: Collection[str]) -> int:
        """Close a user's sessions of these servers, of all when there are none; return how many.

        UUIDs are in lower case.
        """
        closing = [
            connection
            for connection, session in self._sessions.items()
            if session.granted.user == user and (not servers or session.granted.server in servers)
        ]
        for connection in closing:
            self._close(connection, _CHANGED)
        return len(closing)

    def check_server(self, server: str) -> None:
        """Ask the Panel soon whether the users of a server's sessions may go on."""
        soon = self._reactor.seconds() + _COMMITTED_WITHIN
        for session in self._sessions.values():
            if session.granted.server == server:
                session.check_at = min(session.check_at, soon)

    def _next_check(self) -> float:
        interval = self._sftp.check_interval
        return self._reactor.seconds() + interval if interval else inf

    def _check_due(self) -> None:
        """Ask the Panel about the sessions that are due, once for each password or key."""
        now = self._reactor.seconds()
        due: dict[tuple[str, str, str], dict[int, _Session]] = {}
        for connection, session in self._sessions.items():
            if session.check_at <= now and not session.closed_for:
                session.check_at = self._next_check()
                login = session.granted.login
                same = due.setdefault((login.username, login.kind, login.secret), {})
                same[connection] = session
        for same in due.values():
            checking = Deferred.fromCoroutine(self._check(same))
            checking.addErrback(failure_logger(self._log, "sftp: the check of a session failed"))

    async def _check(self, same: dict[int, _Session]) -> None:
        login = next(iter(same.values())).granted.login
        try:
            found = await self._logins.ask_again(login)
        except PanelError as error:
            self._log.debug(
                "sftp: the Panel does not say whether {name!r} may go on: {error}",
                name=login.username,
                error=error,
            )
            return
        for connection, session in same.items():
            if found is not None and session.granted.is_still(found):
                continue
            if self._sessions.get(connection) is session:
                self._close(connection, _CHANGED)

    def _event(self, event: Event) -> None:
        if event.name in (SUSPENDED, DELETED):
            for connection, session in tuple(self._sessions.items()):
                if session.granted.server == event.server:
                    self._close(connection, f"the server is {event.name}")

    def _close(self, connection: int, why: str) -> None:
        session = self._sessions[connection]
        if not session.closed_for:
            session.closed_for = why
            self.send(Disconnect(connection, why))

    # Usage

    def used(self, server: str, total: int) -> None:
        """Count what the process has written and deleted."""
        change, self._totals[server] = total - self._totals.get(server, 0), total
        try:
            self._servers.get(server).files.add(change)
        except (ServerNotFound, ServersNotLoaded):
            return

    def _look(self) -> None:
        """Tell the process what has changed; close what no event has closed."""
        servers = {}
        for connection, session in tuple(self._sessions.items()):
            try:
                check_server(self._servers.get(session.granted.server))
            except WingsdError as error:
                self._close(connection, str(error))
            servers[session.server.uuid] = session.server
        for server in servers.values():
            self._tell_state(server)
        self._check_due()

    def _tell_state(self, server: Server) -> None:
        total, files = self._totals.get(server.uuid, 0), server.files
        state = (total, server.disk_bytes, files.limit, files.has_past)
        if state != self._sent.get(server.uuid):
            self._sent[server.uuid] = state
            self.send(ServerState(server.uuid, *state))

    # Activity

    def file_event(self, event: FileEvent) -> None:
        """Record what a session has done."""
        session = self._sessions.get(event.connection)
        if session is None or event.event not in _EVENTS:
            return
        if event.event == "read" and not self._sftp.activity.log_file_reads:
            return
        metadata: dict[str, Any] = {"files": [event.path]}
        if event.event == "rename":
            names = {"from": event.path, "to": event.target}
            metadata = names if self._config.family == PELICAN else {"files": [names]}
        self._record(session.granted, event.event, metadata)

    def _record(self, granted: GrantedLogin, event: str, metadata: dict[str, Any]) -> None:
        self._activity.record(
            granted.server, f"server:sftp.{event}", metadata, granted.user, granted.login.ip
        )
