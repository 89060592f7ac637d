"""The listening socket of SFTP, and the process that serves it while clients are connected.

The daemon waits until the socket has a first connection. Then it starts the process, which accepts
this one and all later ones, until it ends by itself. Logins and servers are the daemon's.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime, ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.config import Config
from wingsd.errors import HostKeyUnusable, InvalidData
from wingsd.sandbox.launch import command
from wingsd.sftp import messages
from wingsd.sftp.host_key import HostKey, load_host_key
from wingsd.sftp.logins import SftpLogins
from wingsd.sftp.past import PastRequests
from wingsd.sftp.sessions import SftpSessions
from wingsd.threadio import Workers
from wingsd.util.deferreds import failure_logger
from wingsd.util.reactor import Reactor, Timer
from wingsd.util.retry import Backoff

_BACKLOG = 128
#: Pauses before a process is started again that has failed, and the seconds after which it counts
#: as one that did not fail at its start.
_RESTARTS = Backoff(1.0, 60.0)
_STEADY_AFTER = 60.0
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
#: Seconds for the process to close its connection when it is to end, and then to end itself.
_CLOSE_TIMEOUT, _END_TIMEOUT = 3.0, 4.0
#: Bytes of what it has written to stderr, from the end, and lines of that.
_MAX_STDERR = 4096
_LINES = 3


@attrs.frozen(eq=False, repr=False)
class StartedProcess:
    """A running process, and the daemon's ends of its connections. Methods block."""

    _process: subprocess.Popen[bytes]
    control: socket.socket
    #: By which it is answered about the past of servers.
    answers: socket.socket
    #: What it writes to stderr, and stdout.
    _log: int

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
            self.answers.close()
        if status == 0:
            return ""
        how = f"signal {-status}" if status < 0 else f"status {status}"
        lines = said.decode("utf-8", "replace").strip().splitlines()[-_LINES:]
        return ": ".join((how, *(line.strip() for line in lines)))


def start_process(listener: socket.socket) -> StartedProcess:
    """Start the process that serves a listening socket. Blocking. Raises OSError."""
    own, other = socket.socketpair()
    answers, asked = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    log = os.memfd_create("sftp-stderr")
    try:
        with other, asked:
            fds = (listener.fileno(), other.fileno(), asked.fileno())
            process = subprocess.Popen(  # noqa: S603
                command("wingsd.sftp.server.main", *fds),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=_ENVIRONMENT,
                pass_fds=fds,
            )
    except BaseException:
        own.close()
        answers.close()
        os.close(log)
        raise
    return StartedProcess(process, own, answers, log)


class ProcessLink(Protocol):
    """The connection to the SFTP process. `received` gets each message, `lost` its end."""

    transport: ITCPTransport | None

    def __init__(
        self,
        received: Callable[[messages.SftpMessage], None],
        lost: Callable[[str], None],
        clock: IReactorTime,
    ) -> None:
        self._received = received
        self._lost = lost
        self._cut = Timer(clock)
        self._why = ""
        self._frames = messages.FrameReader(messages.MAX_FROM_SERVER)

    def send(self, message: messages.SftpMessage) -> None:
        """Send a message."""
        if self.transport is not None:
            self.transport.write(messages.encode(message))

    def close(self) -> None:
        """End what is sent, at which the process ends; what it still has to say is received.

        A process that reads nothing, or does not end, is cut off after some seconds.
        """
        if self.transport is not None and not self._cut.is_running:
            self._cut.start(_CLOSE_TIMEOUT, self.transport.abortConnection)
            self.transport.loseWriteConnection()

    def dataReceived(self, data: bytes) -> None:
        """Handle the messages that are complete."""
        try:
            for frame in self._frames.feed(data):
                self._received(messages.decode(frame))
        except InvalidData as error:
            self.cut_off(str(error))

    def cut_off(self, why: str) -> None:
        """Close the connection of a process that has sent what is no message."""
        self._why = f"it sent what is no message: {why}"
        if self.transport is not None:
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell the end."""
        self.transport = None
        self._cut.cancel()
        self._lost(self._why)


class _FirstConnection(FileDescriptor):
    """Waits until a listening socket has a connection: `found` fires, or is cancelled."""

    def __init__(self, listening: socket.socket, reactor: Reactor) -> None:
        super().__init__(reactor)
        self._listening = listening
        self._reactor = reactor
        self.found: Deferred[None] = Deferred(lambda _: reactor.removeReader(self))
        reactor.addReader(self)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._listening.fileno()

    def doRead(self) -> None:
        """End the wait."""
        self._reactor.removeReader(self)
        self.found.callback(None)


@attrs.define(eq=False, repr=False, slots=False)
class SftpService:
    """SFTP on this node. Without a host key, or where the port is in use, it is off.

    It runs one process at a time, and handles its messages for `sessions`.
    """

    _log = Logger()

    _config: Config
    _logins: SftpLogins
    sessions: SftpSessions
    _past: PastRequests
    _disk: Workers
    _reactor: Reactor

    def __attrs_post_init__(self) -> None:
        self._system = self._config.system
        self._sftp = self._system.sftp
        #: By the kind of login, those refused since the daemon's start.
        self.refused = Counter(password=0, public_key=0)
        #: The bytes of requests and of answers since then.
        self.moved = {"in": 0, "out": 0}
        self._was_unconfined = False
        self._process: StartedProcess | None = None
        self._link: ProcessLink | None = None
        self._listening: socket.socket | None = None
        self._serving: Deferred[None] | None = None
        self._stopping = False

    @property
    def port(self) -> int:
        """The port that is listened on, 0 for none."""
        return 0 if self._listening is None else int(self._listening.getsockname()[1])

    def use(self, config: Config) -> None:
        """Take over the settings that change while the node runs."""
        self._sftp = config.system.sftp
        if self._link is not None:
            self._link.send(messages.ChangedSettings(self._sftp.read_only, self._sftp.passwords))

    # Start and end

    def open(self) -> None:
        """Listen. What prevents it is logged, and the node runs without SFTP."""
        if not self._sftp.enabled:
            return
        try:
            self._listening = _listen(self._sftp.bind_address, self._sftp.bind_port)
        except OSError as error:
            self._log.error(
                "sftp: SFTP is off: cannot listen on {address}:{port}: {why}",
                address=self._sftp.bind_address,
                port=self._sftp.bind_port,
                why=_advice(error),
            )
            return
        self._serving = Deferred.fromCoroutine(self._run(self._listening))
        self._serving.addErrback(failure_logger(self._log, "sftp: SFTP is off: it failed"))

    async def stop(self) -> None:
        """Close all sessions, and end the process."""
        self._stopping = True
        serving = self._serving
        if serving is None:
            return
        if self._link is not None:
            self._link.close()
        if self._process is None:  # else the coroutine ends with its process
            serving.cancel()
        await serving

    async def _run(self, listening: socket.socket) -> None:
        try:
            with listening:
                key = await self._host_key()
                if key is not None:
                    await self._serve(listening, key)
        finally:
            self._listening = None

    async def _host_key(self) -> HostKey | None:
        try:
            key = await self._disk.run(load_host_key, self._system.data)
        except HostKeyUnusable as error:
            self._log.error("sftp: no host key: {error}", error=error)
            return None
        if key.replaced:
            self._log.error(
                "sftp: the host key was an empty file, so a new one was made: clients warn their "
                "users until they accept it, or the old key is restored from a backup; the empty "
                "file is {replaced} now",
                replaced=key.replaced,
            )
        self._log.info(
            "sftp: serves {address}:{port} with the {made}host key {key}",
            address=self._sftp.bind_address,
            port=self.port,
            made="new " if key.is_new else "",
            key=key.public,
        )
        return key

    # The process

    async def _serve(self, listening: socket.socket, key: HostKey) -> None:
        """Start the process with each first connection, until the end of the node."""
        pauses = iter(_RESTARTS)
        while not self._stopping:
            await _FirstConnection(listening, self._reactor).found
            started = self._reactor.seconds()
            why = await self._run_process(listening, key)
            if not why or self._stopping:
                continue
            if self._reactor.seconds() - started > _STEADY_AFTER:
                pauses = iter(_RESTARTS)
            pause = next(pauses)
            self._log.error(
                "sftp: the process that serves SFTP has failed, and all sessions with it; it is "
                "started again for the next connection, after {pause:.0f} s: {why}",
                pause=pause,
                why=why,
            )
            await deferLater(self._reactor, pause)

    async def _run_process(self, listening: socket.socket, key: HostKey) -> str:
        """Run the process to its end; return why it failed, empty for an end in order."""
        try:
            process = self._process = await self._disk.run(start_process, listening)
        except OSError as error:
            return f"it cannot be started: {error}"
        ended: Deferred[str] = Deferred()
        link = self._link = ProcessLink(self._received, ended.callback, self._reactor)
        factory: Any = Factory.forProtocol(lambda: link)
        with process.control:
            self._reactor.adoptStreamConnection(process.control.fileno(), socket.AF_UNIX, factory)
        self.sessions.send = link.send
        user, system = self._system.user, self._system
        link.send(
            messages.Start(
                key.private, system.openat_mode, user.uid, user.gid, system.data, self._sftp
            )
        )
        if self._stopping:
            link.close()
        why = await ended
        self._link = None
        died = await self._disk.run(process.end)
        self._process = None
        self.sessions.all_ended()
        self._past.all_closed()
        return why or died

    def _received(self, message: messages.SftpMessage) -> None:
        match message:
            case messages.Login():
                checking = Deferred.fromCoroutine(self._check(message))
                checking.addErrback(self._check_failed, message.request, self._link)
            case messages.Begin():
                self.sessions.begin(message.connection, message.request)
            case messages.Closed():
                self.sessions.ended(message.connection)
            case messages.Used():
                self.sessions.used(message.server, message.total)
            case messages.Transmitted():
                self.moved["in"] += message.received
                self.moved["out"] += message.sent
            case messages.FileEvent():
                self.sessions.file_event(message)
            case messages.Unconfined():
                self._warn_unconfined()
            case messages.PastWanted() | messages.PastClosed():
                self._receive_past(message)
            case messages.Log():
                write = {"debug": self._log.debug, "info": self._log.info, "warn": self._log.warn}
                write.get(message.level, self._log.error)("sftp: {text}", text=message.text)
            case _:
                raise InvalidData("a message is not for this side")

    def _warn_unconfined(self) -> None:
        if not self._was_unconfined:  # once: a process follows each idle one
            self._was_unconfined = True
            self._log.warn(
                "sftp: its process is not confined to the files of servers: the kernel has no "
                "Landlock, or a sandbox forbids it"
            )

    def _receive_past(self, message: messages.PastWanted | messages.PastClosed) -> None:
        if isinstance(message, messages.PastClosed):
            self._past.closed(message.request)
        elif self._process is not None:
            answering = self._past.answer(message, self._process.answers)
            Deferred.fromCoroutine(answering).addErrback(self._cut_off)

    def _cut_off(self, failure: Failure) -> None:
        """End a process that sends what makes no sense."""
        failure.trap(InvalidData)
        if self._link is not None:
            self._link.cut_off(failure.getErrorMessage())

    async def _check(self, login: messages.Login) -> None:
        link = self._link
        answer = await self._logins.check(login)
        if isinstance(answer, messages.Rejected):
            self.refused[login.kind] += 1
        if link is None or link is not self._link:
            return  # The process has ended meanwhile.
        if isinstance(answer, messages.Rejected):
            link.send(answer)
        else:
            self.sessions.grant(answer)

    def _check_failed(self, failure: Failure, request: int, link: ProcessLink | None) -> None:
        if not failure.check(CancelledError):
            self._log.failure("sftp: the check of a login failed", failure)
            if link is not None and link is self._link:
                link.send(messages.Rejected(request))


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


def _advice(error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.errno != errno.EADDRINUSE:
        return reason
    return (
        f"{reason}; another program has the port, such as Wings, which must not run beside "
        "wingsd: `ss -ltnp` shows which it is. End it, or set system.sftp.bind_port, and restart "
        "the node"
    )
