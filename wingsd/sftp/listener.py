"""The listening socket of SFTP, and the process that serves it while somebody is connected.

The daemon waits until the socket has a first connection. Then it starts the process, which accepts
this one and all later ones, until it ends by itself.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from wingsd.config import Config
from wingsd.errors import HostKeyUnusable
from wingsd.sftp.host_key import HostKey, load_host_key
from wingsd.sftp.service import SftpCounts, SftpService
from wingsd.threadio import Workers
from wingsd.util.reactor import Reactor
from wingsd.util.retry import Backoff

__all__ = ["SftpListener"]

_BACKLOG = 128
#: Pauses before a process is started again that has failed, and the seconds after which it counts
#: as one that did not fail at its start.
_RESTARTS = Backoff(1.0, 60.0)
_STEADY_AFTER = 60.0


@implementer(IReadDescriptor)
class _FirstConnection:
    """Waits until a listening socket has a connection."""

    def __init__(self, listening: socket.socket, reactor: Reactor) -> None:
        self._listening = listening
        self._reactor = reactor
        self._waiting: Deferred[None] = Deferred(lambda _: reactor.removeReader(self))

    def wait(self) -> Deferred[None]:
        """Return a Deferred that fires when there is one; it can be cancelled."""
        self._reactor.addReader(self)
        return self._waiting

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._listening.fileno()

    def doRead(self) -> None:
        """End the wait."""
        self._reactor.removeReader(self)
        self._waiting.callback(None)

    def connectionLost(self, reason: Failure) -> None:
        """Do nothing: the socket is closed by its owner."""

    def logPrefix(self) -> str:
        """Return what Twisted names it by."""
        return "sftp"


class SftpListener:
    """SFTP on this node. Without a host key, or where the port is in use, it is off."""

    _log = Logger()

    def __init__(
        self,
        config: Config,
        service: SftpService,
        disk: Workers,
        reactor: Reactor,
    ) -> None:
        self._system = config.system
        self._sftp = config.system.sftp
        self._service = service
        self._disk = disk
        self._reactor = reactor
        self._listening: socket.socket | None = None
        self._serving: Deferred[None] | None = None
        self._stopping = False

    @property
    def port(self) -> int:
        """The port that is listened on, 0 for none."""
        return 0 if self._listening is None else int(self._listening.getsockname()[1])

    @property
    def process_id(self) -> int | None:
        """The id of the running process, None for none."""
        return self._service.process_id

    @property
    def counts(self) -> SftpCounts:
        """What has happened since the daemon's start."""
        return self._service.counts

    def use(self, config: Config) -> None:
        """Take over the settings that change while the node runs."""
        self._sftp = config.system.sftp
        self._service.use(self._sftp)

    def close_user(self, user: str, servers: Collection[str]) -> int:
        """Close a user's sessions of these servers, of all when there are none; return how many.

        UUIDs are in lower case.
        """
        return self._service.close_user(user, servers)

    def check_server(self, server: str) -> None:
        """Ask the Panel soon whether the users of a server's sessions may go on."""
        self._service.check_server(server)

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
        self._serving.addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("sftp: SFTP is off: it failed", failure)

    async def stop(self) -> None:
        """Close all sessions, and end the process."""
        self._stopping = True
        serving = self._serving
        if serving is None:
            return
        if not self._service.stop():  # else the coroutine ends with its process
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
            await _FirstConnection(listening, self._reactor).wait()
            started = self._reactor.seconds()
            why = await self._service.run(listening, key)
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
