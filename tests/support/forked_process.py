"""Processes that a template forks, for tests: started, signalled and awaited as by the reactor."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

__all__ = ["ForkedProcess"]

reactor: Any = installed_reactor
_PROGRAM = Path(__file__).with_name("daemon_template.py")


class _Template:
    """The template of this process's daemons; it ends with this process."""

    def __init__(self) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # -P: in this program's directory are modules with names of the standard library.
            command = [sys.executable, "-P", str(_PROGRAM), str(theirs.fileno())]
            # As those of an installed package, modules are compiled only once.
            environment = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}
            # In a group of its own: a command that is stopped from the terminal ends its daemons.
            self._process = subprocess.Popen(
                command, env=environment, pass_fds=[theirs.fileno()], process_group=0
            )


@cache
def _template() -> _Template:
    return _Template()


class _Receiver(Protocol):
    """Hands on what comes on a socket, and that it is closed."""

    def __init__(self, received: Callable[[bytes], object], closed: Callable[[], object]) -> None:
        self._received = received
        self._closed = closed

    def dataReceived(self, data: bytes) -> None:
        self._received(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._closed()


class ForkedProcess:
    """A process of `twistd` or of `wingsctl`, by the words of its command.

    `received` gets its output, and its errors as well if `failed` does not get them. `ended` gets
    its exit status, or the negative number of a signal, when the process has ended and its output
    is closed.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        directory: Path,
        received: Callable[[bytes], object],
        ended: Callable[[int], object],
        failed: Callable[[bytes], object] | None = None,
    ) -> None:
        self._ended = ended
        self._open = 0
        self._status = b""
        request = {
            "arguments": list(command),
            "environment": dict(environment),
            "directory": str(directory),
        }
        with ExitStack() as ends:
            (output, theirs), (errors, their_errors), (report, their_report) = (
                map(ends.enter_context, socket.socketpair()) for _ in range(3)
            )
            given = [theirs, their_errors if failed else theirs, their_report]
            descriptors = [end.fileno() for end in given]
            socket.send_fds(_template().channel, [json.dumps(request).encode()], descriptors)
            for end in given:
                end.close()
            #: The process id.
            self.pid = int(_line(report))
            # Not by its id, which another process gets when this one has ended.
            self._handle: int | None = None
            with suppress(ProcessLookupError):
                self._handle = os.pidfd_open(self.pid)
            self._adopt(output, received)
            self._adopt(report, self._note_status)
            if failed:
                self._adopt(errors, failed)

    def _adopt(self, end: socket.socket, received: Callable[[bytes], object]) -> None:
        self._open += 1
        end.setblocking(False)
        factory = Factory.forProtocol(lambda: _Receiver(received, self._note_closed))
        factory.noisy = False
        reactor.adoptStreamConnection(end.fileno(), socket.AF_UNIX, factory)

    def _note_status(self, data: bytes) -> None:
        self._status += data

    def _note_closed(self) -> None:
        self._open -= 1
        if not self._open:
            if self._handle is not None:
                os.close(self._handle)
                self._handle = None
            self._ended(os.waitstatus_to_exitcode(int(self._status)))

    def signalProcess(self, name: str) -> None:
        """Send it a signal, such as "HUP". Raises `ProcessExitedAlready`."""
        if self._status or self._handle is None:
            raise ProcessExitedAlready
        try:
            signal.pidfd_send_signal(self._handle, getattr(signal, f"SIG{name}"))
        except ProcessLookupError:  # Its status is on the way.
            raise ProcessExitedAlready from None


def _line(report: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        byte = report.recv(1)
        if not byte:
            raise RuntimeError("the template of daemons has ended")
        line += byte
    return line
