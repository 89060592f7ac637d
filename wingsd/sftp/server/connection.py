"""One SSH connection: its login, which the daemon decides on, and its channels."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import asyncssh
import attrs

from wingsd.config.sections import SftpConfig
from wingsd.sftp.messages import (
    Begin,
    Closed,
    FileEvent,
    Granted,
    Log,
    Login,
    Refused,
)
from wingsd.sftp.server.access import SessionAccess, SiteFiles
from wingsd.sftp.server.channel import SftpChannel
from wingsd.sftp.server.control import DaemonLink
from wingsd.sftp.server.handles import HandleBudget
from wingsd.sftp.server.operations import Operations
from wingsd.sftp.server.path_operations import ListingLimits
from wingsd.sftp.server.send_backlog import SendBacklog
from wingsd.sftp.server.ssh import SshConnection
from wingsd.sftp.server.threads import ConnectionThread, FileThreads
from wingsd.sftp.server.traffic import Traffic
from wingsd.sftp.server.turns import Turns
from wingsd.sftp.server.usage import ServerUsage

__all__ = ["SftpConnection", "Site"]

#: Bytes that a client may send in a connection's first channel before it is told that they were
#: read, and those of one packet.
_WINDOW = 2 << 20
_PACKET = 128 << 10


@attrs.define(eq=False)
class Site:
    """What all connections share; any thread may call its methods.

    `loop` is that of `link`.
    """

    config: SftpConfig
    files: SiteFiles
    link: DaemonLink
    loop: asyncio.AbstractEventLoop
    threads: FileThreads
    budget: HandleBudget
    passwords: bool
    turns: Turns
    usages: dict[str, ServerUsage] = attrs.field(factory=dict)
    traffic: Traffic = attrs.field(factory=Traffic)

    def usage(self, server: str) -> ServerUsage:
        """Return the usage of a server."""
        return self.usages.setdefault(server, ServerUsage())

    def fault(self, error: BaseException) -> None:
        """Log a fault of this program."""
        text = f"a request of SFTP failed: {type(error).__name__}: {error}"
        self.link.post(Log("error", text))

    async def login(self, login: Login) -> Granted | Refused:
        """Have the daemon check a login, in the loop of any connection."""
        asking = asyncio.run_coroutine_threadsafe(self.link.login(login), self.loop)
        return await asyncio.wrap_future(asking)


class SftpConnection(asyncssh.SSHServer):
    """A connection with the number `number`. `ended` is called when nothing is done for it.

    All but `begin`, `disconnect` and `abort` is called in the loop of its `thread`.
    """

    def __init__(
        self,
        number: int,
        site: Site,
        thread: ConnectionThread,
        logged_in: Callable[[], None],
        ended: Callable[[], None],
    ) -> None:
        self.number = number
        self._site = site
        self._thread = thread
        self._logged_in = logged_in
        self._ended = ended
        self._conn: SshConnection
        #: Whether it has begun.
        self.was_made = False
        #: Set at its end.
        self.over = asyncio.Event()
        #: Set when its session has begun: channels wait for that.
        self._begun = asyncio.Event()
        self._keys: dict[tuple[str, str], Granted] = {}
        #: Passwords and keys that were asked about: a client need not await the answers.
        self._asked: Counter[str] = Counter()
        #: The last login that was granted, of which the signature is checked afterwards.
        self._granted: Granted | None = None
        self._access: SessionAccess | None = None
        self._channels: set[SftpChannel] = set()
        self._backlog: SendBacklog
        self._lost = self._aborted = False

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """Begin."""
        assert isinstance(conn, SshConnection)  # noqa: S101
        self._conn = conn
        self.was_made = True
        self._backlog = SendBacklog(conn, self._hold)
        if self._aborted:
            conn.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End, when its channels have ended."""
        self._lost = True
        if self._access is not None:
            self._access.close("the connection is closed")
        # Those that were just being opened never begin.
        self._channels = {each for each in self._channels if each.was_made}
        self._check_end()

    def begin(self) -> None:
        """Let channels open, from any thread."""
        self._thread.call(self._begun.set)

    def disconnect(self, why: str) -> None:
        """Close the connection, for a reason that the client is told, from any thread."""
        if self._access is not None:
            self._access.close(why)
        self._thread.call(lambda: self._disconnect(why))

    def _disconnect(self, why: str) -> None:
        if self.was_made and not self._lost:
            self._conn.disconnect(asyncssh.DISC_BY_APPLICATION, why)

    def abort(self) -> None:
        """Close the connection at once, from any thread."""
        self._aborted = True
        self._thread.call(self._abort)

    def _abort(self) -> None:
        if self.was_made and not self._lost:
            self._conn.abort()

    def _hold(self, held: bool) -> None:
        for channel in tuple(self._channels):
            channel.hold(held=held)

    def _check_end(self) -> None:
        if self._lost and not self._channels:
            self._site.link.post(Closed(self.number))
            self._ended()
            self.over.set()

    # Login

    def begin_auth(self, username: str) -> bool:
        """Demand a login."""
        self._granted = None
        return True

    def password_auth_supported(self) -> bool:
        """Return whether passwords are accepted."""
        return self._site.passwords

    def public_key_auth_supported(self) -> bool:
        """Accept public keys."""
        return True

    async def validate_password(self, username: str, password: str) -> bool:
        """Have a password checked."""
        if not self._site.passwords:
            return False
        most = self._site.config.limits.authentication_password_attempts
        answer = await self._ask("password", username, password, most)
        self._judge(answer, is_last=self._asked["password"] >= most)
        return self._granted is not None

    def change_password(self, username: str, old_password: str, new_password: str) -> bool:
        """Refuse it, as a wrong password: users change theirs in the Panel."""
        most = self._site.config.limits.authentication_password_attempts
        self._asked["password"] += 1
        self._judge(Refused(0), is_last=self._asked["password"] >= most)
        return False

    async def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Have a public key checked, before it is known that the client has the private one.

        A client asks first, and then signs with a key that was granted: it is checked once.
        """
        text = key.export_public_key("openssh").decode("utf-8", "replace").strip()
        known: Granted | Refused | None = self._keys.get((username, text))
        most = self._site.config.limits.authentication_pubkey_attempts
        if known is None:
            known = await self._ask("public_key", username, text, most)
            if isinstance(known, Granted):
                self._keys[username, text] = known
        self._judge(known, is_last=self._asked["public_key"] >= most)
        return self._granted is not None

    async def _ask(self, kind: str, username: str, proof: str, most: int) -> Granted | Refused:
        link = self._site.link
        self._asked[kind] += 1
        ip, port, *_ = self._conn.get_extra_info("peername") or ("", 0)
        version = str(self._conn.get_extra_info("client_version") or "")
        login = Login(
            link.number(), self.number, kind, username, proof, str(ip), int(port), version
        )
        if self._asked[kind] > most:
            return Refused(login.request, final=True)
        return await self._site.login(login)

    def _judge(self, answer: Granted | Refused, *, is_last: bool) -> None:
        if isinstance(answer, Granted):
            self._granted = answer
            return
        self._granted = None
        if answer.final or is_last:
            self._conn.disconnect(
                asyncssh.DISC_NO_MORE_AUTH_METHODS_AVAILABLE, "Too many authentication failures"
            )

    def auth_completed(self) -> None:
        """Begin the session, with what the login grants."""
        granted, site = self._granted, self._site
        if granted is None:
            self._conn.abort()
            return
        server, number = granted.server, self.number

        def report(event: str, path: str, target: str) -> None:
            if event != "read" or site.config.activity.log_file_reads:
                site.link.post(FileEvent(number, event, path, target), now=False)

        self._access = SessionAccess(granted, site.files, site.usage(server), report)
        self._keys.clear()
        self._logged_in()
        site.link.post(Begin(number, granted.request))

    # Channels

    def session_requested(
        self,
    ) -> bool | tuple[asyncssh.SSHServerChannel[bytes], Awaitable[SftpChannel]]:
        """Return another channel, which opens when the session has begun."""
        access, site = self._access, self._site
        if access is None or access.is_closed():
            return False
        if len(self._channels) >= site.config.limits.max_channels_per_connection:
            return False
        config = site.config

        def operations() -> Operations:
            limits = ListingLimits(
                config.directory_entry_limit, config.directory_entry_send_amount
            )
            most = config.limits.max_handles_per_channel
            return Operations(access, site.budget, most, limits)

        share = len(self._channels) + 1
        session = SftpChannel(
            operations,
            self._conn,
            site.threads,
            site.traffic,
            site.fault,
            self._channel_ended,
            share,
        )
        session.hold(held=self._backlog.is_full)
        self._channels.add(session)
        channel = self._conn.create_server_channel(None, "strict", _WINDOW // share, _PACKET)
        # Or it would keep them, as many as a client sends.
        channel._process_env_request = _refuse_environment  # type: ignore[method-assign,assignment]
        return channel, self._when_begun(session)

    async def _when_begun(self, session: SftpChannel) -> SftpChannel:
        await self._begun.wait()
        return session

    def _channel_ended(self, channel: SftpChannel) -> None:
        self._channels.discard(channel)
        self._check_end()


def _refuse_environment(_: object) -> bool:
    return False
