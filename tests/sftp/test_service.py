"""What the daemon does with the messages of the SFTP process, and its end of the connection."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock

from tests.servers.harness import FakeNode
from tests.support.configurations import config
from tests.support.logged_errors import Logged
from tests.support.reactor import reactor, until
from wingsd.config import SftpConfig
from wingsd.sftp import service as module
from wingsd.sftp.messages import (
    Closed,
    Disconnect,
    Login,
    Rejected,
    SftpMessage,
    Transmitted,
    Unconfined,
    encode,
)
from wingsd.sftp.service import ProcessLink, SftpService
from wingsd.threadio import Workers


@pytest.fixture
def service() -> SftpService:
    others: Any = Mock()
    return SftpService(config(), others, Mock(count=0), others, others, others)


def test_that_a_process_is_not_confined_is_logged_once(
    service: SftpService, logged: Logged
) -> None:
    for _ in range(3):
        service._received(Unconfined())
    assert len([line for line in logged.lines if "not confined" in line]) == 1


def test_a_login_whose_check_breaks_off_is_refused_at_once(
    service: SftpService, logged: Logged
) -> None:
    others: Any = service
    others._link = Mock()
    others._logins.check = AsyncMock(side_effect=RuntimeError("unforeseen"))
    service._received(Login(7, 1, "password", "anna.12345678", "right", "192.0.2.7", 50_000))
    ((refused,), _) = others._link.send.call_args
    assert (type(refused), refused.request) == (Rejected, 7)
    assert len(logged.take(RuntimeError)) == 1


def test_bytes_of_one_process_after_the_other_are_added(service: SftpService) -> None:
    for received, sent in ((10, 20), (5, 0), (1, 2)):
        service._received(Transmitted(received, sent))
    assert service.moved == {"in": 16, "out": 22}


class Connected:
    """A link whose process is the socket `process`."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.received: list[SftpMessage] = []
        self.ends: list[str] = []
        self.link = ProcessLink(self.received.append, self.ends.append, self.clock)
        own, self.process = socket.socketpair()
        with own:
            factory: Any = Factory.forProtocol(lambda: self.link)
            reactor.adoptStreamConnection(own.fileno(), socket.AF_UNIX, factory)


@pytest.fixture
def connected() -> Iterator[Connected]:
    made = Connected()
    yield made
    made.process.close()


async def test_what_the_process_says_at_its_end_is_received(connected: Connected) -> None:
    connected.link.close()
    connected.link.close()
    await until(lambda: select.select([connected.process], [], [], 0)[0])
    assert connected.process.recv(1) == b""
    connected.process.send(encode(Closed(7)))
    connected.process.close()
    await until(lambda: connected.ends == [""])
    assert [each.connection for each in connected.received if isinstance(each, Closed)] == [7]
    assert not connected.clock.getDelayedCalls()


async def test_a_process_that_reads_nothing_is_cut_off(connected: Connected) -> None:
    connected.link.send(Disconnect(1, "x" * (4 << 20)))
    connected.link.close()
    connected.clock.advance(2.9)
    assert connected.ends == []
    connected.clock.advance(0.2)
    await until(lambda: connected.ends == [""])


async def test_a_process_that_sends_no_message_is_cut_off(connected: Connected) -> None:
    connected.link.send(Disconnect(1, "x" * (4 << 20)))
    connected.process.send(b"\0\0\0\1x")
    await until(lambda: len(connected.ends) == 1)
    assert "no message" in connected.ends[0]


async def test_what_cannot_be_started_is_tried_again_by_a_later_connection(
    tmp_path: Path, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(listening: socket.socket) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    node = FakeNode(tmp_path, sftp=SftpConfig(bind_address="127.0.0.1", bind_port=port))
    workers = Workers(reactor, "disk", 1)
    monkeypatch.setattr(module, "start_process", fails)
    others: Any = Mock(count=0)
    listener = SftpService(node.config, others, others, others, workers, reactor)
    workers.start()
    listener.open()
    try:
        with socket.create_connection(("127.0.0.1", port)):
            await until(lambda: any("Too many open files" in line for line in logged.lines))
        assert any("is started again for the next connection" in line for line in logged.lines)
        assert listener.port == port
    finally:
        await listener.stop()
        workers.stop()
        node.close()
