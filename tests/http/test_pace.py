"""What is too slow: bytes against the time in which they could have come."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from fcntl import ioctl
from select import select
from termios import FIONREAD

import pytest
from twisted.internet.task import Clock

from tests.transfers.peers import fall_silent
from wingsd.http.body_sender import DeliveryWatchdog
from wingsd.http.request import RateWatchdog

pytestmark = pytest.mark.promise("slow-sender-frees-its-slot")


class Client:
    """One that is held to 10 bytes a second over 60 s."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.faults: list[str] = []
        self.pace = RateWatchdog(self.clock, 10, 60, self.faults.append)

    def send(self, each_second: int, seconds: int) -> None:
        for _ in range(seconds):
            self.pace.count(each_second)
            self.clock.advance(1)


@pytest.mark.parametrize("each_second", [0, 1, 9])
def test_one_that_is_too_slow_is_found_when_the_stretch_ends_and_once(each_second: int) -> None:
    client = Client()
    client.send(10, 60)
    client.send(each_second, 59)
    assert client.faults == []
    client.send(each_second, 1)
    (fault,) = client.faults
    assert f"{each_second * 60} bytes" in fault
    assert "the minimum is 600" in fault
    client.send(0, 6000)
    assert len(client.faults) == 1
    assert client.clock.getDelayedCalls() == []


def test_a_pause_within_the_stretch_is_no_fault() -> None:
    client = Client()
    client.send(0, 50)
    client.send(600, 1)
    client.send(0, 58)
    client.send(600, 1)
    client.send(0, 50)
    assert client.faults == []


def test_the_time_in_which_a_client_must_wait_does_not_count() -> None:
    client = Client()
    for _ in range(59):
        client.send(1, 1)
        client.pace.pause()
        client.clock.advance(1000)
        client.pace.pause()
        client.pace.resume()
        client.pace.resume()
    assert client.faults == []
    client.clock.advance(1)
    assert len(client.faults) == 1


class Downloader:
    """A client over TCP that is held to 10 bytes a second over 60 s of its downloads."""

    def __init__(self, rate: int = 10) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.client = socket.create_connection(listener.getsockname())
            self.server = listener.accept()[0]
        self.server.setblocking(False)
        self.sent = self.taken = 0
        self.clock = Clock()
        self.faults: list[str] = []
        self.watchdog = DeliveryWatchdog(self.clock, self, rate, 60, self.faults.append)
        self.watchdog.start()

    def __enter__(self) -> Downloader:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.server.close()

    def getHandle(self) -> socket.socket:
        return self.server

    def fill(self) -> None:
        """Have the kernel buffer as much as it does."""
        with suppress(BlockingIOError):
            while True:
                self.send(bytes(1 << 16))

    def send(self, data: bytes) -> None:
        self.sent += self.server.send(data)

    def take(self) -> None:
        """Receive what there is, and wait until the server's kernel knows."""
        self.taken += len(self.client.recv(1 << 20))
        while self.acknowledged < self.taken:
            select([], [], [], 0.001)

    @property
    def acknowledged(self) -> int:
        return self.sent - self.watchdog.undelivered()

    def fall_silent(self) -> None:
        """Stop the client's acknowledgements, and send it more than its kernel has taken."""
        fall_silent(self.client)
        while self.acknowledged < self.taken + self._unread():
            select([], [], [], 0.001)
        self.fill()

    def _unread(self) -> int:
        """Return the bytes that the client's kernel has."""
        return int.from_bytes(ioctl(self.client.fileno(), FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.root
@pytest.mark.promise("slow-downloads-cost-little")
def test_a_client_that_takes_nothing_is_found_though_the_kernel_has_taken_much() -> None:
    with Downloader() as downloader:
        downloader.fill()
        downloader.take()
        downloader.fall_silent()
        downloader.clock.advance(60)
        assert downloader.faults == []
        assert downloader.watchdog.undelivered() > 0
        downloader.clock.advance(60)
        (fault,) = downloader.faults
        assert fault == "0 bytes were received in 60 s, the minimum is 600"
        assert downloader.clock.getDelayedCalls() == []
