"""The daemon's end of its connection to the SFTP process."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock

from tests.support.reactor import reactor, until
from wingsd.sftp.messages import Closed, Disconnect, SftpMessage, encode
from wingsd.sftp.service import ProcessLink


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
