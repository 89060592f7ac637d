"""The running SFTP process, and what its sessions need of the daemon: logins and servers.

It is imported with the first connection.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime, ITCPTransport
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.config import Config
from wingsd.config.sections import SftpConfig
from wingsd.errors import InvalidData
from wingsd.sftp.host_key import HostKey
from wingsd.sftp.logins import SftpLogins
from wingsd.sftp.messages import (
    MAX_FROM_SERVER,
    Begin,
    ChangedSettings,
    Closed,
    Decoder,
    FileEvent,
    Log,
    Login,
    Rejected,
    SftpMessage,
    Start,
    Transmitted,
    Unconfined,
    Used,
    encode,
)
from wingsd.sftp.sessions import SftpSessions
from wingsd.threadio import Workers
from wingsd.util.reactor import Reactor

__all__ = ["SftpCounts", "SftpService"]

#: It has the daemon's module path; environment variables and other directories are ignored.
_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from wingsd.sftp.server.main import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)
#: With more arenas, each thread would have a heap of its own. What is sent is allocated in pieces
#: of up to half a MiB and freed again: were the memory given back to the kernel each time, a
#: download would spend a quarter of its time on pages that the kernel has to clear.
#: asyncssh looks for a home directory, in which it reads nothing.
_ENVIRONMENT = {
    "HOME": "/nonexistent",
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": str(4 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 20),
}
#: Seconds for the process to close its connection when it is told to end, and then to end itself.
_CLOSE_TIMEOUT, _END_TIMEOUT = 3.0, 4.0
#: Bytes of what it has written to stderr, from the end, and lines of that.
_MAX_STDERR = 4096
_LINES = 3


class StartedProcess:
    """A running process, and the daemon's end of its connection. Methods block."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, log: int) -> None:
        self._process = process
        self.control = control
        self._log = log

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def end(self) -> str:
        """Wait for its end, and enforce it; return what it died of, empty for an end in order."""
        try:
            status = self._process.wait(_END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        try:
            size = os.fstat(self._log).st_size
            said = os.pread(self._log, _MAX_STDERR, max(size - _MAX_STDERR, 0))
        finally:
            os.close(self._log)
        if status == 0:
            return ""
        how = f"signal {-status}" if status < 0 else f"status {status}"
        lines = said.decode("utf-8", "replace").strip().splitlines()[-_LINES:]
        return ": ".join((how, *(line.strip() for line in lines)))


def start_process(listener: socket.socket) -> StartedProcess:
    """Start the process that serves a listening socket. Blocking. Raises OSError."""
    path = json.dumps([entry for entry in sys.path if os.path.isabs(entry)])
    own, other = socket.socketpair()
    log = os.memfd_create("sftp-stderr")
    try:
        with other:
            fds = (listener.fileno(), other.fileno())
            words = (path, *map(str, fds))
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-I", "-B", "-W", "ignore", "-c", _CODE, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=_ENVIRONMENT,
                pass_fds=fds,
            )
    except BaseException:
        own.close()
        os.close(log)
        raise
    return StartedProcess(process, own, log)


class LinkFactory(ServerFactory):
    """The factory of one connection."""

    noisy = False

    def __init__(self, link: ProcessLink) -> None:
        self._link = link

    def buildProtocol(self, addr: IAddress | None) -> ProcessLink:
        """Return the protocol of the connection."""
        return self._link


class ProcessLink(Protocol):
    """The connection to the SFTP process. `received` gets each message, `lost` its end."""

    transport: ITCPTransport | None

    def __init__(
        self,
        received: Callable[[SftpMessage], None],
        lost: Callable[[str], None],
        clock: IReactorTime,
    ) -> None:
        self._received = received
        self._lost = lost
        self._clock = clock
        self._cut: IDelayedCall | None = None
        self._why = ""
        self._decoder = Decoder(MAX_FROM_SERVER)

    def send(self, message: SftpMessage) -> None:
        """Send a message."""
        if self.transport is not None:
            self.transport.write(encode(message))

    def close(self) -> None:
        """End what is sent, at which the process ends; what it still has to say is received.

        A process that reads nothing, or does not end, is cut off after some seconds.
        """
        if self.transport is not None and self._cut is None:
            self._cut = self._clock.callLater(_CLOSE_TIMEOUT, self.transport.abortConnection)
            self.transport.loseWriteConnection()

    def dataReceived(self, data: bytes) -> None:
        """Handle the messages that are complete."""
        try:
            for message in self._decoder.feed(data):
                self._received(message)
        except InvalidData as error:
            self._why = f"it sent what is no message: {error}"
            if self.transport is not None:
                self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell the end."""
        self.transport = None
        if self._cut is not None and self._cut.active():
            self._cut.cancel()
        self._lost(self._why)


@attrs.define(eq=False, repr=False)
class SftpCounts:
    """The open sessions, and since the daemon's start the refused logins and the bytes.

    `refused` is by the kind of login. `moved` has the bytes of requests (`in`) and of answers
    (`out`) of all processes.
    """

    sessions: int = 0
    refused: dict[str, int] = attrs.field(
        factory=lambda: dict.fromkeys(("password", "public_key"), 0)
    )
    moved: dict[str, int] = attrs.field(factory=lambda: dict.fromkeys(("in", "out"), 0))
    #: What the running process has reported of itself.
    _reported: dict[str, int] = attrs.field(factory=dict, init=False)

    def add(self, totals: Mapping[str, int]) -> None:
        """Count the bytes that the running process reports since its start."""
        for direction, total in totals.items():
            if direction in self.moved:
                self.moved[direction] += total - self._reported.get(direction, 0)
                self._reported[direction] = total

    def refuse(self, kind: str) -> None:
        """Count a refused login."""
        self.refused[kind] = self.refused.get(kind, 0) + 1

    def process_ended(self) -> None:
        """Have the next process begin with nothing."""
        self._reported.clear()


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
            self._link.send(ChangedSettings(settings.read_only, settings.passwords))

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

    def _received(self, message: SftpMessage) -> None:
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
        if isinstance(answer, Rejected):
            self._counts.refuse(login.kind)
        if link is None or link is not self._link:
            return  # The process has ended meanwhile.
        if isinstance(answer, Rejected):
            link.send(answer)
        else:
            self._sessions.grant(answer)

    def _check_failed(self, failure: Failure, login: Login, link: ProcessLink | None) -> None:
        if not failure.check(CancelledError):
            self._log.failure("sftp: the check of a login failed", failure)
            if link is not None and link is self._link:
                link.send(Rejected(login.request))

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
