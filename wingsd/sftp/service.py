"""The running SFTP process, and what its sessions need of the daemon: logins and servers.

It is imported with the first connection.
"""

from __future__ import annotations

import socket
from collections.abc import Collection

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.config import Config
from wingsd.config.sections import SftpConfig
from wingsd.errors import InvalidData
from wingsd.sftp.counts import SftpCounts
from wingsd.sftp.host_key import HostKey
from wingsd.sftp.logins import SftpLogins
from wingsd.sftp.messages import (
    Begin,
    Closed,
    FileEvent,
    Log,
    Login,
    Message,
    Refused,
    Settings,
    Start,
    Transmitted,
    Unconfined,
    Used,
)
from wingsd.sftp.process import LinkFactory, ProcessLink, StartedProcess, start_process
from wingsd.sftp.sessions import SftpSessions
from wingsd.threadio import Workers
from wingsd.util.reactor import Reactor

__all__ = ["SftpService"]


class SftpService:
    """Runs one SFTP process at a time, and handles its messages."""

    _log = Logger()

    def __init__(
        self,
        config: Config,
        logins: SftpLogins,
        sessions: SftpSessions,
        disk: Workers,
        reactor: Reactor,
    ) -> None:
        self._system = config.system
        self._sftp = config.system.sftp
        self._logins = logins
        self._sessions = sessions
        self._disk = disk
        self._reactor = reactor
        self._counts = SftpCounts()
        self._was_unconfined = False
        self._process: StartedProcess | None = None
        self._link: ProcessLink | None = None
        self._stopping = False

    @property
    def process_id(self) -> int | None:
        """The id of the running process, None for none."""
        return None if self._process is None else self._process.pid

    @property
    def counts(self) -> SftpCounts:
        """What has happened since the daemon's start."""
        self._counts.sessions = self._sessions.count
        return self._counts

    def use(self, settings: SftpConfig) -> None:
        """Take over the settings that change while the process runs."""
        self._sftp = settings
        if self._link is not None:
            self._link.send(Settings(settings.read_only, settings.passwords))

    def close_user(self, user: str, servers: Collection[str]) -> int:
        """Close a user's sessions of these servers, of all when there are none; return how many.

        UUIDs are in lower case.
        """
        return self._sessions.close_user(user, servers)

    def check_server(self, server: str) -> None:
        """Ask the Panel soon whether the users of a server's sessions may go on."""
        self._sessions.check_server(server)

    def stop(self) -> bool:
        """Have the process end, and with it `run`; return whether there is one."""
        self._stopping = True
        if self._link is not None:
            self._link.close()
        return self._process is not None

    async def run(self, listening: socket.socket, key: HostKey) -> str:
        """Run the process to its end; return why it failed, empty for an end in order."""
        try:
            process = self._process = await self._disk.run(start_process, listening)
        except OSError as error:
            return f"it cannot be started: {error}"
        ended: Deferred[str] = Deferred()
        link = self._link = ProcessLink(self._received, ended.callback, self._reactor)
        with process.control:
            self._reactor.adoptStreamConnection(
                process.control.fileno(), socket.AF_UNIX, LinkFactory(link)
            )
        self._sessions.send = link.send
        user, system = self._system.user, self._system
        link.send(
            Start(key.private, system.openat_mode, user.uid, user.gid, system.data, self._sftp)
        )
        if self._stopping:
            link.close()
        why = await ended
        self._link = None
        died = await self._disk.run(process.end)
        self._process = None
        self._sessions.all_ended()
        self._counts.process_ended()
        return why or died

    def _received(self, message: Message) -> None:
        match message:
            case Login():
                checking = Deferred.fromCoroutine(self._check(message))
                checking.addErrback(self._check_failed, message, self._link)
            case Begin():
                self._sessions.begin(message.connection, message.request)
            case Closed():
                self._sessions.ended(message.connection)
            case Used():
                self._sessions.used(message.server, message.total)
            case Transmitted():
                self._counts.add({"in": message.received, "out": message.sent})
            case FileEvent():
                self._sessions.file_event(message)
            case Unconfined():
                self._log_unconfined()
            case Log():
                self._write(message)
            case _:
                raise InvalidData("a message is not for this side")

    async def _check(self, login: Login) -> None:
        link = self._link
        answer = await self._logins.check(login)
        if isinstance(answer, Refused):
            self._counts.refuse(login.kind)
        if link is None or link is not self._link:
            return  # The process has ended meanwhile.
        if isinstance(answer, Refused):
            link.send(answer)
        else:
            self._sessions.grant(answer)

    def _check_failed(self, failure: Failure, login: Login, link: ProcessLink | None) -> None:
        if not failure.check(CancelledError):
            self._log.failure("sftp: the check of a login failed", failure)
            if link is not None and link is self._link:
                link.send(Refused(login.request))

    def _log_unconfined(self) -> None:
        # Once: a process follows each idle one.
        if not self._was_unconfined:
            self._was_unconfined = True
            self._log.warn(
                "sftp: its process is not confined to the files of servers: the kernel has no "
                "Landlock, or a sandbox forbids it"
            )

    def _write(self, line: Log) -> None:
        write = {"debug": self._log.debug, "info": self._log.info, "warn": self._log.warn}
        write.get(line.level, self._log.error)("sftp: {text}", text=line.text)
