"""The SFTP process: accepts connections from the listening socket that the daemon opened.

It ends when no client has been connected for a while, and when the daemon ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import sys
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from threading import Lock, Semaphore
from typing import Any

import asyncssh

from wingsd.errors import InvalidData
from wingsd.filesystem.openers import directory_opener
from wingsd.sandbox.confinement import confine_to
from wingsd.sftp import messages
from wingsd.sftp.server.access import ServerUsage
from wingsd.sftp.server.ciphers import use_fast_ciphers
from wingsd.sftp.server.connection import SftpConnection
from wingsd.sftp.server.past import PastAnswers, PastThreads
from wingsd.sftp.server.turns import Turns, cpu_time
from wingsd.util.addresses import address_block

#: As Wings has them: a client that works there finds nothing else here.
_KEX = (
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
    "diffie-hellman-group14-sha256",
)
_CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
)
_MACS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-256")
_VERSION = "Go"
#: Seconds: to log in; of a pause when no connection can be accepted; between two lines of the log
#: about that; between two reports of usage; for work that is under way at the end.
_LOGIN_TIMEOUT = 60
_PAUSE = 0.5
_LOG_INTERVAL = 60.0
_REPORT_INTERVAL = 0.5
_END_TIMEOUT = 2.0
#: Connections accepted in one turn of the loop, and threads for requests that last.
_ACCEPTS = 16
_THREADS = 32
#: Channels whose clients may send more than at first, 24 MiB in all.
_LARGE_WINDOWS = 12
#: Where libraries are that modules load.
_LIBRARIES = ("/usr/lib", "/usr/lib64", "/usr/local/lib")
#: Characters of a line of the log that a library writes, from its end.
_MAX_LOGGED = 4000
#: Seconds for which messages that are in no hurry wait for others.
_DELAY = 0.2


class DaemonLink(asyncio.Protocol):
    """The connection to the daemon.

    Only `login` and `post` may be called by other threads than that of its loop.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._outgoing: deque[messages.SftpMessage] = deque()
        self._is_due = False
        self._closed = asyncio.Event()
        self.started: asyncio.Future[messages.Start] = asyncio.get_running_loop().create_future()
        #: Fires when the daemon has gone, or sends what is no message.
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        #: Handles messages that nothing waits for.
        self.received: Callable[[messages.SftpMessage], None] = lambda _: None
        self._frames = messages.FrameReader(messages.MAX_FROM_DAEMON)
        self._transport: asyncio.Transport | None = None
        self._asked: dict[int, Future[messages.Granted | messages.Rejected]] = {}

    async def login(self, login: messages.Login) -> messages.Granted | messages.Rejected:
        """Ask the daemon to check a login, in the loop of any connection."""
        answer: Future[messages.Granted | messages.Rejected] = Future()
        self._asked[login.request] = answer
        try:
            self.post(login)
            return await asyncio.wrap_future(answer)
        finally:
            self._asked.pop(login.request, None)

    def send(self, *sent: messages.SftpMessage) -> None:
        """Send messages; nothing is sent when the daemon has gone.

        asyncio warns of what is written to a lost connection, and each warning is a message, too.
        """
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(map(messages.encode, sent)))

    def post(self, message: messages.SftpMessage, *, now: bool = True) -> None:
        """Send a message, after those that were posted before it, from any thread.

        One that need not be sent `now` waits a moment, so that many of them wake the loop once.
        """
        self._outgoing.append(message)
        with suppress(RuntimeError):  # the loop is closed: the process ends
            if now:
                self._loop.call_soon_threadsafe(self._send_posted)
            elif not self._is_due:
                self._is_due = True
                self._loop.call_soon_threadsafe(self._loop.call_later, _DELAY, self._send_posted)

    def _send_posted(self) -> None:
        self._is_due = False  # before what is posted from now on is left out
        if posted := [self._outgoing.popleft() for _ in range(len(self._outgoing))]:
            self.send(*posted)

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Handle the messages that are complete."""
        try:
            for frame in self._frames.feed(data):
                self._received(messages.decode(frame))
        except InvalidData:
            self.connection_lost(None)

    def eof_received(self) -> bool:
        """End the process, of which the daemon still reads what it has to say."""
        self._end()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        """End the process."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        self._closed.set()
        self._end()

    def _end(self) -> None:
        for answer in tuple(self._asked.values()):
            answer.cancel()
        if not self.lost.done():
            self.lost.set_result(None)

    async def close(self) -> None:
        """Close the connection when all is sent, within a moment."""
        self._send_posted()
        if self._transport is not None:
            self._transport.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), _DELAY)

    def _received(self, message: messages.SftpMessage) -> None:
        match message:
            case messages.Start():
                if not self.started.done():
                    self.started.set_result(message)
            case messages.Granted() | messages.Rejected():
                answer = self._asked.pop(message.request, None)
                if answer is not None and answer.set_running_or_notify_cancel():
                    answer.set_result(message)
            case _:
                self.received(message)


class SftpServer:
    """The connections of this process, accepted from `listener`, and the state that they share.

    `past` has what the daemon answers about the past of servers, None where they have none.
    Their threads may use that; `link` and `turns` are made in the loop of this server.
    """

    def __init__(
        self,
        listener: socket.socket,
        link: DaemonLink,
        start: messages.Start,
        turns: Turns,
        past: PastAnswers | None = None,
    ) -> None:
        self.link = link
        self.turns = turns
        self.config = start.sftp
        self.passwords = start.sftp.passwords
        #: How files are opened, and whose they become.
        self.opener = directory_opener(start.openat_mode)
        self.owner = None if start.uid < 0 else (start.uid, start.gid)
        self.read_only = start.sftp.read_only
        #: For requests that last, and for those that read the past.
        self.threads = ThreadPoolExecutor(_THREADS, "wingsd-sftp")
        self.readers = PastThreads(_THREADS)
        self.past = past
        #: Counts the handles of all channels.
        self.budget = Semaphore(start.sftp.limits.max_handles_total)
        #: Large windows that other channels may have.
        self.windows = Semaphore(_LARGE_WINDOWS)
        #: The numbers of logins.
        self.logins = count(1)
        self.usages: dict[str, ServerUsage] = {}
        #: Bytes of requests and of answers.
        self._traffic = (0, 0)
        self._lock = Lock()
        self._listener = listener
        self._options = ssh_options(start)
        self._loop = asyncio.get_running_loop()
        self._numbers = count(1)
        self._connections: dict[int, SftpConnection] = {}
        #: Those that have not logged in, by their numbers, oldest first, with the blocks of their
        #: addresses.
        self._half_open: dict[int, str] = {}
        self._reported: dict[str, int] = {}
        self._idle_since = self._loop.time()
        self._logged_full = float("-inf")

    def usage(self, server: str) -> ServerUsage:
        """Return the usage of a server."""
        return self.usages.setdefault(server, ServerUsage())

    def count(self, received: int, sent: int) -> None:
        """Count bytes of requests that were done, and of their answers."""
        with self._lock:
            requests, answers = self._traffic
            self._traffic = requests + received, answers + sent

    def fault(self, error: BaseException) -> None:
        """Log a fault of this program."""
        text = f"a request of SFTP failed: {type(error).__name__}: {error}"
        self.link.post(messages.Log("error", text))

    def start(self) -> None:
        """Accept connections."""
        self.link.received = self._received
        self._loop.add_reader(self._listener.fileno(), self._accept)

    async def run(self) -> None:
        """Return when no client has been connected for a while, or the daemon has ended."""
        lost = self.link.lost
        while not lost.done():
            await asyncio.wait((lost,), timeout=_REPORT_INTERVAL)
            self._report_usage()
            if self._connections:
                self._idle_since = self._loop.time()
            elif self._loop.time() - self._idle_since > self.config.idle_timeout:
                return

    async def stop(self) -> None:
        """Accept no more, and close all connections.

        The listening socket is closed at once: a daemon that is started again needs the port.
        """
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()
        for connection in tuple(self._connections.values()):
            connection.disconnect("this node is shutting down")
        end = self._loop.time() + _END_TIMEOUT
        while self._connections and self._loop.time() < end:
            await asyncio.sleep(0.02)
        self._report_usage()

    def _report_usage(self) -> None:
        for server, usage in tuple(self.usages.items()):
            usage.files.look()
            total = usage.total
            if self._reported.get(server, 0) != total:
                self._reported[server] = total
                self.link.send(messages.Used(server, total))
        with self._lock:
            traffic, self._traffic = self._traffic, (0, 0)
        if any(traffic):
            self.link.send(messages.Transmitted(*traffic))

    def _received(self, message: messages.SftpMessage) -> None:
        """Do what the daemon wants. Raises `InvalidData`."""
        match message:
            case messages.ChangedSettings():
                self.read_only = message.read_only
                self.passwords = message.passwords
            case messages.ServerState():
                self.usage(message.server).correct(message)
            case messages.Begun():
                if (connection := self._connections.get(message.connection)) is not None:
                    connection.begin()
            case messages.Disconnect():
                if (connection := self._connections.get(message.connection)) is not None:
                    connection.disconnect(message.why)
            case _:
                raise InvalidData("a message is not for this side")

    # Connections

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            try:
                accepted, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # no descriptors, or no memory
                self._loop.remove_reader(self._listener.fileno())
                self._loop.call_later(_PAUSE, self._resume)
                return
            self._begin(accepted, address_block(str(address[0])))

    def _resume(self) -> None:
        if self._listener.fileno() >= 0 and not self.link.lost.done():
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _begin(self, accepted: socket.socket, block: str) -> None:
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        limits = self.config.limits
        if len(self._connections) >= limits.max_connections:
            accepted.close()
            self._log_full(limits.max_connections)
            return
        self._make_place(limits.max_half_open, block)
        number = next(self._numbers)
        self._half_open[number] = block
        connection = self._connections[number] = SftpConnection(number, self)
        try:
            connection.start(accepted, self._options)
        except RuntimeError as error:  # as many threads as there may be
            accepted.close()
            self._forget(number)
            self.fault(error)

    def note_login(self, number: int) -> None:
        """Note that a connection has logged in, from its thread."""
        self._call(self._half_open.pop, number, None)

    def note_end(self, number: int) -> None:
        """Note that nothing is done for a connection any more, from its thread."""
        self._call(self._forget, number)

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function in the loop of this server, from another thread."""
        with suppress(RuntimeError):  # the loop is closed: the process ends
            self._loop.call_soon_threadsafe(function, *arguments)

    def _forget(self, number: int) -> None:
        self._half_open.pop(number, None)
        self._connections.pop(number, None)

    def _log_full(self, most: int) -> None:
        now = self._loop.time()
        if now - self._logged_full > _LOG_INTERVAL:
            self._logged_full = now
            text = f"connections are refused: {most} are open, system.sftp.limits.max_connections"
            self.link.send(messages.Log("warn", text))

    def _make_place(self, most: int, block: str) -> None:
        """Close the oldest connection without a login, of the address that has the most."""
        counts = Counter(self._half_open.values())
        if counts[block] >= max(most // 2, 1):
            closing = block
        elif len(self._half_open) >= most:
            closing = counts.most_common(1)[0][0]
        else:
            return
        oldest = next(number for number, each in self._half_open.items() if each == closing)
        del self._half_open[oldest]
        self._connections[oldest].abort()


class LinkHandler(logging.Handler):
    """Sends what libraries log to the daemon's log."""

    def __init__(self, link: DaemonLink) -> None:
        super().__init__(logging.WARNING)
        self._link = link

    def emit(self, record: logging.LogRecord) -> None:
        """Post a record to the daemon."""
        level = "warn" if record.levelno < logging.ERROR else "error"
        self._link.post(messages.Log(level, self.format(record)[-_MAX_LOGGED:]))


def ssh_options(start: messages.Start) -> asyncssh.SSHServerConnectionOptions:
    """Return how each connection is served: nothing but logins and channels."""
    return asyncssh.SSHServerConnectionOptions(
        config=None,
        server_host_keys=[asyncssh.import_private_key(start.host_key)],
        send_server_host_keys=False,
        server_version=_VERSION,
        kex_algs=_KEX,
        encryption_algs=_CIPHERS,
        mac_algs=_MACS,
        compression_algs=("none",),
        kbdint_auth=False,
        host_based_auth=False,
        gss_host=None,
        gss_kex=False,
        gss_auth=False,
        allow_pty=False,
        line_editor=False,
        x11_forwarding=False,
        agent_forwarding=False,
        encoding=None,
        login_timeout=_LOGIN_TIMEOUT,
    )


async def _run(listener: socket.socket, control: socket.socket, answers: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    link = DaemonLink()
    await loop.create_connection(lambda: link, sock=control)
    logging.getLogger().addHandler(LinkHandler(link))
    await asyncio.wait((link.started, link.lost), return_when=asyncio.FIRST_COMPLETED)
    if link.lost.done():
        return
    start = link.started.result()
    cores = len(os.sched_getaffinity(0))
    turns = Turns(cpu_time(os.getppid()), cores)  # before /proc is out of reach
    if not confine_to(start.data, {*sys.path, sys.prefix, sys.base_prefix, *_LIBRARIES}):
        link.send(messages.Unconfined())
    use_fast_ciphers()
    server = SftpServer(listener, link, start, turns, PastAnswers(answers, link))
    server.start()
    await server.run()
    await server.stop()
    await link.close()


def _yield_to_the_daemon() -> None:
    """Run only when the daemon's threads need no core, so that no transfer is slowed.

    A low priority is not enough: a transfer is many threads that wait for each other, and one that
    has just become ready would wait for milliseconds until a thread of this process is put aside.
    The kernel compares processes of one control group, and servers are in others: this one does
    not wait for them.
    """
    with suppress(OSError):  # where that is forbidden, it runs as it is
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def main(listener: int, control: int, answers: int) -> None:
    """Serve the connections of a listening socket.

    The daemon is at the other end of `control`, and of `answers`.
    """
    _yield_to_the_daemon()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would have the host key in it
    with (
        socket.socket(fileno=listener) as listening,
        socket.socket(fileno=control) as daemon,
        socket.socket(fileno=answers) as answering,
    ):
        for each in (listening, daemon, answering):
            each.setblocking(False)
        asyncio.run(_run(listening, daemon, answering))
        sys.stderr.flush()
        # A thread that waits for a disk is not waited for.
        os._exit(0)
