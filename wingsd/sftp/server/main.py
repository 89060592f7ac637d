"""The SFTP process: accepts connections from the listening socket that the daemon opened.

It ends when nobody has been connected for a while, and when the daemon ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import count

import asyncssh

from wingsd.filesystem.openers import directory_opener
from wingsd.sandbox.confinement import confine_to
from wingsd.sftp.messages import (
    Begun,
    ChangedSettings,
    Disconnect,
    Log,
    ServerState,
    Start,
    Transmitted,
    Unconfined,
    Used,
)
from wingsd.sftp.server.access import SiteFiles
from wingsd.sftp.server.ciphers import use_fast_ciphers
from wingsd.sftp.server.connection import SftpConnection, Site, SshConnection
from wingsd.sftp.server.control import DaemonLink
from wingsd.sftp.server.operations import HandleBudget
from wingsd.sftp.server.threads import ConnectionThread, DaemonTime, FileThreads, Turns
from wingsd.util.addresses import address_block

__all__ = ["LinkHandler", "SftpServer", "main", "ssh_options"]

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
#: Where libraries are that modules load.
_LIBRARIES = ("/usr/lib", "/usr/lib64", "/usr/local/lib")
#: Characters of a line of the log that a library writes, from its end.
_MAX_LOGGED = 4000


class SftpServer:
    """The connections of this process, accepted from `listener`."""

    def __init__(
        self,
        listener: socket.socket,
        site: Site,
        options: asyncssh.SSHServerConnectionOptions,
    ) -> None:
        self._listener = listener
        self._site = site
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._numbers = count(1)
        self._connections: dict[int, SftpConnection] = {}
        #: Those that have not logged in, by their numbers, oldest first, with the blocks of their
        #: addresses.
        self._half_open: dict[int, str] = {}
        self._reported: dict[str, int] = {}
        self._transmitted = (0, 0)
        self._idle_since = self._loop.time()
        self._logged_full = float("-inf")

    @property
    def count(self) -> int:
        """The number of connections."""
        return len(self._connections)

    def start(self) -> None:
        """Accept connections."""
        self._site.link.received = self._received
        self._loop.add_reader(self._listener.fileno(), self._accept)

    async def run(self) -> None:
        """Return when nobody has been connected for a while, or the daemon has gone."""
        lost = self._site.link.lost
        while not lost.done():
            await asyncio.wait((lost,), timeout=_REPORT_INTERVAL)
            self._report_usage()
            if self._connections:
                self._idle_since = self._loop.time()
            elif self._loop.time() - self._idle_since > self._site.config.idle_timeout:
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
        for server, usage in tuple(self._site.usages.items()):
            usage.files.look()
            total = usage.total
            if self._reported.get(server, 0) != total:
                self._reported[server] = total
                self._site.link.send(Used(server, total))
        traffic = self._site.traffic.totals
        if traffic != self._transmitted:
            self._transmitted = traffic
            self._site.link.send(Transmitted(*traffic))

    def _received(self, message: ChangedSettings | ServerState | Begun | Disconnect) -> None:
        """Do what the daemon wants."""
        match message:
            case ChangedSettings():
                self._site.files.read_only = message.read_only
                self._site.passwords = message.passwords
            case ServerState():
                self._site.usage(message.server).correct(message)
            case Begun():
                if (connection := self._connections.get(message.connection)) is not None:
                    connection.begin()
            case Disconnect():
                if (connection := self._connections.get(message.connection)) is not None:
                    connection.disconnect(message.why)

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
        if self._listener.fileno() >= 0 and not self._site.link.lost.done():
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _begin(self, accepted: socket.socket, block: str) -> None:
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        limits = self._site.config.limits
        if len(self._connections) >= limits.max_connections:
            accepted.close()
            self._log_full(limits.max_connections)
            return
        self._make_place(limits.max_half_open, block)
        number = next(self._numbers)
        self._half_open[number] = block

        thread = ConnectionThread()
        connection = SftpConnection(
            number,
            self._site,
            thread,
            lambda: self._call(self._half_open.pop, number, None),
            lambda: self._call(self._forget, number),
        )
        self._connections[number] = connection
        try:
            thread.start(lambda: self._serve(accepted, connection))
        except RuntimeError as error:  # as many threads as there may be
            accepted.close()
            self._forget(number)
            self._site.fault(error)

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
            self._site.link.send(Log("warn", text))

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

    async def _serve(self, accepted: socket.socket, connection: SftpConnection) -> None:
        """Serve a connection to its end, in the loop of its thread."""
        loop = asyncio.get_running_loop()
        try:
            options = asyncssh.SSHServerConnectionOptions(
                self._options, server_factory=lambda: connection
            )
            limits = self._site.config.limits
            attempts = (
                limits.authentication_password_attempts + limits.authentication_pubkey_attempts
            )
            await loop.create_connection(
                lambda: SshConnection(loop, options, connection, self._site.turns, attempts),
                sock=accepted,
            )
        except (TimeoutError, OSError, asyncssh.Error):
            pass  # scanners, and clients that go away
        except Exception as error:
            self._site.fault(error)
        if connection.was_made:
            await connection.over.wait()
        else:
            accepted.close()
            self._call(self._forget, connection.number)


class LinkHandler(logging.Handler):
    """Sends what libraries log to the daemon's log."""

    def __init__(self, link: DaemonLink) -> None:
        super().__init__(logging.WARNING)
        self._link = link

    def emit(self, record: logging.LogRecord) -> None:
        """Post a record to the daemon."""
        level = "warn" if record.levelno < logging.ERROR else "error"
        self._link.post(Log(level, self.format(record)[-_MAX_LOGGED:]))


def ssh_options(start: Start) -> asyncssh.SSHServerConnectionOptions:
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


async def _run(listener: socket.socket, control: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    link = DaemonLink()
    await loop.create_connection(lambda: link, sock=control)
    logging.getLogger().addHandler(LinkHandler(link))
    await asyncio.wait((link.started, link.lost), return_when=asyncio.FIRST_COMPLETED)
    if link.lost.done():
        return
    start = link.started.result()
    turns = Turns(_daemon_time(), len(os.sched_getaffinity(0)))  # before /proc is out of reach
    if not confine_to(start.data, {*sys.path, sys.prefix, sys.base_prefix, *_LIBRARIES}):
        link.send(Unconfined())
    site = Site(
        start.sftp,
        SiteFiles(
            directory_opener(start.openat_mode),
            None if start.uid < 0 else (start.uid, start.gid),
            read_only=start.sftp.read_only,
        ),
        link,
        loop,
        FileThreads(_THREADS),
        HandleBudget(start.sftp.limits.max_handles_total),
        start.sftp.passwords,
        turns,
    )
    use_fast_ciphers()
    server = SftpServer(listener, site, ssh_options(start))
    server.start()
    await server.run()
    await server.stop()
    await link.close()


def _daemon_time() -> Callable[[], float]:
    """Return what tells the daemon's CPU time: always the same where that is not known."""
    try:
        return DaemonTime(os.getppid()).seconds
    except OSError:
        return lambda: 0.0


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


def main(listener: int, control: int) -> None:
    """Serve the connections of a listening socket; the daemon is at the other end of `control`."""
    _yield_to_the_daemon()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would have the host key in it
    with socket.socket(fileno=listener) as listening, socket.socket(fileno=control) as daemon:
        listening.setblocking(False)
        daemon.setblocking(False)
        asyncio.run(_run(listening, daemon))
        sys.stderr.flush()
        # A thread that waits for a disk is not waited for.
        os._exit(0)
