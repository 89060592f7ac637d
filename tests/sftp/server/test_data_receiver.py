"""What a client sends arrives whole in whatever pieces, and waits as few bytes."""

from __future__ import annotations

import asyncio
import os
import struct
from pathlib import Path
from sys import getsizeof

import asyncssh
import pytest
from asyncssh.constants import MSG_CHANNEL_DATA
from asyncssh.packet import String, UInt32

from tests.sftp.server.harness import Served, serve
from wingsd.sftp.messages import FrameReader
from wingsd.sftp.server import packets
from wingsd.sftp.server.connection import FIRST_WINDOW

CIPHERS = ["aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com"]
INIT = struct.pack(">IBI", 5, packets.INIT, 3)


def request(number: int, path: bytes = b"/") -> bytes:
    """Return a request for the real path of a path."""
    return String(struct.pack(">BI", packets.REALPATH, number) + String(path))


#: Answers of 2 MiB, of which no more than half are made before they are read.
READS = String(
    struct.pack(">BI", packets.OPEN, 1) + String(b"/a") + struct.pack(">II", packets.READ, 0)
) + 8 * String(
    struct.pack(">BI", packets.READ_DATA, 1)
    + String(bytes(8))
    + struct.pack(">QI", 0, packets.MAX_DATA)
)


class Answers(asyncssh.SSHClientSession[bytes]):
    """Collects the ids of answers."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self._frames = FrameReader(packets.MAX_PACKET)

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        for frame in self._frames.feed(data):
            self.ids.append(int.from_bytes(frame[1:5], "big"))


@pytest.mark.parametrize("cipher", CIPHERS)
def test_single_bytes_wait_together_until_answers_are_read(tmp_path: Path, cipher: str) -> None:
    async def test(served: Served) -> None:
        (served.files / "a").write_bytes(bytes(packets.MAX_DATA))
        async with served.connection(encryption_algs=[cipher]) as connection:
            chan, session = await connection.create_session(
                Answers, subsystem="sftp", encoding=None, window=1 << 10
            )
            assert isinstance(session, Answers)
            chan.pause_reading()
            chan.write(INIT + READS)
            long = b"/" * 4_000
            many = (FIRST_WINDOW >> 1) // len(request(1, long))
            total = many * len(request(1, long)) + 50 * len(request(1))
            chan.write(b"".join(request(number, long) for number in range(many)))
            (own,) = served.server._connections.values()
            (channel,) = own._channels
            for number in range(many, many + 50):
                for byte in request(number):
                    chan.write(bytes((byte,)))
            while len(channel._frames) < total:
                await asyncio.sleep(0.01)
            assert getsizeof(channel._frames._buffer) < 2 * total
            assert not channel._chan._recv_buf
            chan.resume_reading()
            while len(session.ids) < many + 50 + 10:
                await asyncio.sleep(0.01)
            assert session.ids[10:] == list(range(many + 50))

    serve(tmp_path, test)


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize(
    "payload",
    [
        UInt32(7) + String(b"to no channel"),
        UInt32(0) + UInt32(100) + b"shorter than it says",
        UInt32(0) + UInt32(3) + b"longer than it says",
        UInt32(0) + UInt32(0xFFFFFFFF),
        UInt32(0) + b"\0",
        b"\0\0",
    ],
    ids=["unknown channel", "too short", "too long", "no data", "no length", "no number"],
)
def test_data_that_no_channel_takes_ends_the_connection(
    tmp_path: Path, cipher: str, payload: bytes
) -> None:
    async def test(served: Served) -> None:
        async with served.connection(encryption_algs=[cipher]) as connection:
            await connection.create_session(Answers, subsystem="sftp", encoding=None)
            connection.send_packet(MSG_CHANNEL_DATA, payload)
            await connection.wait_closed()
        async with served.client() as sftp:
            assert await sftp.realpath(".") == "/"

    serve(tmp_path, test)


@pytest.mark.parametrize("cipher", CIPHERS)
def test_more_data_than_the_window_ends_the_connection(tmp_path: Path, cipher: str) -> None:
    async def test(served: Served) -> None:
        async with served.connection(encryption_algs=[cipher]) as connection:
            chan, _ = await connection.create_session(Answers, subsystem="sftp", encoding=None)
            chan.pause_reading()
            with_length = UInt32(packets.MAX_PACKET) + bytes(100_000)
            chan._send_window = 1 << 30
            (own,) = served.server._connections.values()
            (channel,) = own._channels
            own.call(lambda: setattr(channel, "_window", 50_000))
            chan.write(with_length)
            await connection.wait_closed()

    serve(tmp_path, test)


@pytest.mark.promise("sftp-memory-is-bounded")
@pytest.mark.parametrize(("size", "window"), [(4_000, 1 << 18), (32 << 10, 2 << 20)])
def test_a_client_that_sends_large_requests_may_send_more_of_them(
    tmp_path: Path, size: int, window: int
) -> None:
    async def test(served: Served) -> None:
        async with served.client() as sftp, sftp.open("/a", "wb", block_size=size) as file:
            await file.write(bytes(1 << 20))
            (own,) = served.server._connections.values()
            (channel,) = own._channels
            assert channel._most == window
            assert channel._window >= window // 2

    serve(tmp_path, test)


@pytest.mark.promise("sftp-memory-is-bounded")
def test_a_large_window_is_one_of_a_few_and_given_back(tmp_path: Path) -> None:
    async def window(served: Served) -> int:
        async with served.client() as sftp, sftp.open("/a", "wb", block_size=32 << 10) as file:
            await file.write(bytes(1 << 20))
            (own,) = served.server._connections.values()
            (channel,) = own._channels
            most = channel._most
        while served.server._connections:
            await asyncio.sleep(0.01)
        return most

    async def test(served: Served) -> None:
        windows = served.server.windows
        while windows.acquire(blocking=False):
            pass
        assert await window(served) == FIRST_WINDOW
        windows.release()
        assert [await window(served) for _ in range(2)] == [2 << 20] * 2

    serve(tmp_path, test)


def test_a_request_that_is_larger_than_the_window_of_its_channel_is_done(tmp_path: Path) -> None:
    data = os.urandom(packets.MAX_DATA)

    async def test(served: Served) -> None:
        async with served.connection() as connection:
            *_, last = [await connection.start_sftp_client() for _ in range(10)]
            async with last.open("/a", "wb", encoding=None, block_size=0) as file:
                await file.write(data)
        assert (served.files / "a").read_bytes() == data

    serve(tmp_path, test)


@pytest.mark.promise("sftp-survives-any-bytes")
def test_a_packet_that_does_not_end_ends_the_connection(tmp_path: Path) -> None:
    async def test(served: Served) -> None:
        async with served.connection(encryption_algs=[CIPHERS[0]]) as connection:
            await connection.create_session(Answers, subsystem="sftp", encoding=None)
            assert connection._transport is not None
            connection._transport.write(UInt32(1 << 30) + bytes(400_000))
            await connection.wait_closed()

    serve(tmp_path, test)


def test_a_changed_packet_ends_the_connection(tmp_path: Path) -> None:
    async def test(served: Served) -> None:
        async with served.connection(encryption_algs=[CIPHERS[0]]) as connection:
            await connection.create_session(Answers, subsystem="sftp", encoding=None)
            assert connection._transport is not None
            connection._transport.write(UInt32(64) + bytes(80))
            await connection.wait_closed()

    serve(tmp_path, test)
