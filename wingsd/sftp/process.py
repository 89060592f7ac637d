"""Starts the SFTP process, and connects the daemon to it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable

from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime, ITCPTransport
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.python.failure import Failure

from wingsd.errors import InvalidData
from wingsd.sftp.messages import MAX_FROM_SERVER, Decoder, Message, encode

__all__ = ["LinkFactory", "ProcessLink", "StartedProcess", "start_process"]

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
        received: Callable[[Message], None],
        lost: Callable[[str], None],
        clock: IReactorTime,
    ) -> None:
        self._received = received
        self._lost = lost
        self._clock = clock
        self._cut: IDelayedCall | None = None
        self._why = ""
        self._decoder = Decoder(MAX_FROM_SERVER)

    def send(self, message: Message) -> None:
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
