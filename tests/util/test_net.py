"""A listening port of a process that can open nothing more."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.tcp import Port
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from wingsd.util.net import ACCEPTS, PAUSE, limit_accepts


class Full:
    """A listening socket that cannot give the connections that it has, as long as `error` is."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real
        self.error = errno.EMFILE

    def accept(self) -> Any:
        if self.error:
            raise OSError(self.error, "no more")
        return self._real.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.fixture
def port() -> Iterator[Any]:
    """Yield one that rests when it is full, which it is, and for which a client waits."""
    reactor = MemoryReactorClock()
    port: Any = Port(
        0, Factory.forProtocol(Protocol), 4 * ACCEPTS, interface="127.0.0.1", reactor=reactor
    )
    port.startListening()
    limit_accepts(port, reactor)
    port.socket = Full(port.socket)
    with socket.create_connection(("127.0.0.1", port.getHost().port)):
        yield port
    if port.connected:
        port.stopListening()
        reactor.advance(0)
    for connection in reactor.getReaders():
        connection.connectionLost(Failure(ConnectionDone()))


def is_told(port: Any) -> bool:
    return port in port.reactor.getReaders()


@pytest.mark.promise("exhausted-descriptors-recover")
@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
def test_a_full_process_pauses_accepting(port: Any, error: int) -> None:
    port.socket.error = error
    for _ in range(3):
        assert is_told(port)
        port.doRead()
        assert not is_told(port)
        port.reactor.advance(PAUSE)
    assert is_told(port)


def test_accepting_resumes_after_the_pause(port: Any) -> None:
    port.doRead()
    port.socket.error = 0
    port.reactor.advance(PAUSE)
    port.doRead()
    assert port.sessionno == 1
    assert is_told(port)
    assert port.reactor.getDelayedCalls() == []


def test_a_port_closed_during_the_pause_stays_closed(port: Any) -> None:
    port.doRead()
    port.stopListening()
    port.reactor.advance(0)
    port.reactor.advance(PAUSE)
    assert not port.connected
    assert not is_told(port)


@pytest.mark.promise("floods-delay-others-a-second")
def test_few_connections_are_taken_in_one_turn(port: Any) -> None:
    port.socket.error = 0
    address = ("127.0.0.1", port.getHost().port)
    others = [socket.create_connection(address) for _ in range(2 * ACCEPTS)]
    for turn in (1, 2):
        port.doRead()
        assert port.sessionno == turn * ACCEPTS
    for other in others:
        other.close()
