"""Data arrives whole by every cipher, in whatever pieces, and waits as few bytes."""

from __future__ import annotations

import asyncio
import os
import struct
from sys import getsizeof
from typing import Any

import asyncssh
import pytest
from asyncssh import encryption
from asyncssh.constants import MSG_CHANNEL_DATA
from asyncssh.encryption import ChachaEncryption, GCMEncryption
from asyncssh.packet import String, UInt32

from tests.sftp.server.harness import INIT, Served, opening, reading, serving
from wingsd.sftp.messages import FrameReader, Start
from wingsd.sftp.server import main, packets
from wingsd.sftp.server.ciphers import ChaCha, Gcm
from wingsd.sftp.server.connection import FIRST_WINDOW, SshConnection
from wingsd.sftp.server.main import ssh_options

CIPHERS = ["aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com"]


def request(number: int, path: bytes = b"/") -> bytes:
    """Return a request for the real path of a path."""
    return String(struct.pack(">BI", packets.REALPATH, number) + String(path))


#: Answers of 2 MiB, of which no more than half are made before they are read.
READS = opening(b"/a") + 8 * reading()


class Answers(asyncssh.SSHClientSession[bytes]):
    """Collects the ids of answers."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self._frames = FrameReader(packets.MAX_PACKET)

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        for frame in self._frames.feed(data):
            self.ids.append(int.from_bytes(frame[1:5], "big"))


@serving()
async def test_single_bytes_wait_together_until_answers_are_read(served: Served) -> None:
    (served.files / "a").write_bytes(bytes(packets.MAX_DATA))
    async with served.connection(encryption_algs=[CIPHERS[1]]) as connection:
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
        own = served.own
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
@serving()
async def test_data_that_no_channel_takes_ends_the_connection(
    served: Served, payload: bytes
) -> None:
    async with served.connection(encryption_algs=[CIPHERS[0]]) as connection:
        await connection.create_session(Answers, subsystem="sftp", encoding=None)
        connection.send_packet(MSG_CHANNEL_DATA, payload)
        await connection.wait_closed()
    await served.serves()


@serving()
async def test_more_data_than_the_window_ends_the_connection(served: Served) -> None:
    async with served.connection(encryption_algs=[CIPHERS[0]]) as connection:
        chan, _ = await connection.create_session(Answers, subsystem="sftp", encoding=None)
        chan.pause_reading()
        with_length = UInt32(packets.MAX_PACKET) + bytes(100_000)
        chan._send_window = 1 << 30
        own = served.own
        (channel,) = own._channels
        own.call(lambda: setattr(channel, "_window", 50_000))
        chan.write(with_length)
        await connection.wait_closed()


@pytest.mark.promise("sftp-memory-is-bounded")
@pytest.mark.parametrize(("size", "window"), [(4_000, 1 << 18), (32 << 10, 2 << 20)])
@serving()
async def test_a_client_that_sends_large_requests_may_send_more_of_them(
    served: Served, size: int, window: int
) -> None:
    async with served.client() as sftp, sftp.open("/a", "wb", block_size=size) as file:
        await file.write(bytes(1 << 20))
        own = served.own
        (channel,) = own._channels
        assert channel._most == window
        assert channel._window >= window // 2


@pytest.mark.promise("sftp-memory-is-bounded")
@serving()
async def test_a_large_window_is_one_of_a_few_and_given_back(served: Served) -> None:
    async def window(served: Served) -> int:
        async with served.client() as sftp, sftp.open("/a", "wb", block_size=32 << 10) as file:
            await file.write(bytes(1 << 20))
            own = served.own
            (channel,) = own._channels
            most = channel._most
        await served.emptied()
        return most

    windows = served.server.windows
    while windows.acquire(blocking=False):
        pass
    assert await window(served) == FIRST_WINDOW
    windows.release()
    assert [await window(served) for _ in range(2)] == [2 << 20] * 2


@serving()
async def test_a_request_that_is_larger_than_the_window_of_its_channel_is_done(
    served: Served,
) -> None:
    data = os.urandom(packets.MAX_DATA)
    async with served.connection() as connection:
        *_, last = [await connection.start_sftp_client() for _ in range(10)]
        async with last.open("/a", "wb", encoding=None, block_size=0) as file:
            await file.write(data)
    assert (served.files / "a").read_bytes() == data


@pytest.mark.promise("sftp-survives-any-bytes")
@pytest.mark.parametrize(
    "packet",
    [UInt32(1 << 30) + bytes(400_000), UInt32(64) + bytes(80)],
    ids=["without an end", "changed"],
)
@serving()
async def test_a_wrong_packet_ends_the_connection(served: Served, packet: bytes) -> None:
    async with served.connection(encryption_algs=[CIPHERS[0]]) as connection:
        await connection.create_session(Answers, subsystem="sftp", encoding=None)
        assert connection._transport is not None
        connection._transport.write(packet)
        await connection.wait_closed()


ALL_CIPHERS = [*CIPHERS, "aes128-ctr"]
SIZE = 200_000


def reads(count: int) -> bytes:
    """Return requests that read the file `a` so many times."""
    each = [reading(SIZE, number) for number in range(1, count + 1)]
    return INIT + opening(b"/a", request=0) + b"".join(each)


class Collector(asyncssh.SSHClientSession[bytes]):
    """Collects what comes, up to the end of the channel."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.pieces: list[int] = []
        self.over = asyncio.Event()

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        self.data += data
        self.pieces.append(len(data))

    def connection_lost(self, exc: Exception | None) -> None:
        self.over.set()


async def answered(served: Served, count: int, cipher: str, **channel: Any) -> Collector:
    """Read the file so many times, and say at once that no more requests follow."""
    async with served.connection(encryption_algs=[cipher]) as connection:
        chan, session = await connection.create_session(
            Collector, subsystem="sftp", encoding=None, **channel
        )
        assert isinstance(session, Collector)
        chan.write(reads(count))
        chan.write_eof()
        await session.over.wait()
        assert chan.get_exit_status() == 0
    return session


@pytest.mark.parametrize(
    ("cipher", "window", "size"),
    zip(ALL_CIPHERS, (3_000, 100_000, 1 << 31), (1_000, 32 << 10, 999), strict=True),
)
@serving()
async def test_all_answers_come_before_the_end_by_any_window(
    served: Served, cipher: str, window: int, size: int
) -> None:
    data = os.urandom(SIZE)
    (served.files / "a").write_bytes(data)
    session = await answered(served, 3, cipher, window=window, max_pktsize=size)
    assert max(session.pieces) <= size
    frames = list(FrameReader(packets.MAX_PACKET).feed(bytes(session.data)))[2:]
    assert [int.from_bytes(frame[1:5], "big") for frame in frames] == [1, 2, 3]
    assert all(frame[9:] == data for frame in frames)


@pytest.fixture
def exchanges(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The exchanges of keys at a server that begins one after each 200 kB."""

    def options(start: Start) -> asyncssh.SSHServerConnectionOptions:
        return asyncssh.SSHServerConnectionOptions(ssh_options(start), rekey_bytes=200_000)

    monkeypatch.setattr(main, "ssh_options", options)
    exchanges: list[int] = []
    begin = SshConnection._send_kexinit

    def noting(connection: SshConnection) -> None:
        exchanges.append(1)
        begin(connection)

    monkeypatch.setattr(SshConnection, "_send_kexinit", noting)
    return exchanges


async def transferred(served: Served, size: int, **options: Any) -> None:
    """Write a file and read it again, as it was written."""
    data = os.urandom(size)
    async with served.client(**options) as sftp:
        async with sftp.open("/a", "wb") as file:
            await file.write(data)
        async with sftp.open("/a", "rb") as file:
            found: object = await file.read()
            assert found == data


@pytest.mark.parametrize("cipher", ALL_CIPHERS)
@serving()
async def test_new_keys_of_the_servers_own_wish_lose_nothing(
    served: Served, exchanges: list[int], cipher: str
) -> None:
    await transferred(served, 10 * SIZE, encryption_algs=[cipher])
    assert len(exchanges) > 4


@pytest.mark.parametrize("name", ["aes128-gcm", "aes256-gcm", "chacha20-poly1305"])
def test_packets_of_the_ciphers_are_read_and_changed_ones_are_not(name: str) -> None:
    algorithm = f"{name}@openssh.com".encode()
    own = encryption.get_encryption_params(algorithm)
    # asyncssh's own, before another is registered in its place
    theirs = ChachaEncryption if name.startswith("chacha") else GCMEncryption
    mine = ChaCha if name.startswith("chacha") else Gcm
    key, nonce = os.urandom(own[0]), b"\xff" * 12  # the counter overflows to 0
    ways = [(mine, theirs), (theirs, mine), (mine, mine)]
    for sender, receiver in [[each.new(name, key, nonce) for each in way] for way in ways]:
        for seq, text in ((7, b"first" * 3), (8, b"other" * 3), (1 << 31, os.urandom(40_000))):
            header = len(text).to_bytes(4, "big")
            packet, tag = sender.encrypt_packet(seq, header, text)
            whole = bytes(packet) + bytes(tag)
            first, rest, tag = whole[:16], whole[16:-16], whole[-16:]
            assert receiver.decrypt_header(seq, first, 4) == (first, header)
            assert receiver.decrypt_packet(seq, first, rest, 4, tag) == text
        packet, tag = sender.encrypt_packet(9, bytes(4), b"last" * 3)
        whole = bytes(packet) + bytes(tag)
        assert receiver.decrypt_header(9, whole[:16], 4)[1] == bytes(4)
        assert receiver.decrypt_packet(9, whole[:16], whole[16:-16], 4, bytes(16)) is None


@pytest.mark.parametrize(
    ("first", "other"), zip(CIPHERS, ["aes256-gcm@openssh.com", "aes128-ctr"], strict=True)
)
@serving()
async def test_new_keys_can_be_of_another_cipher(served: Served, first: str, other: str) -> None:
    data = os.urandom(1_000_000)
    async with (
        served.connection(encryption_algs=[first]) as connection,
        connection.start_sftp_client() as sftp,
    ):
        connection._enc_algs = [other.encode()]
        connection._send_kexinit()
        connection._kexinit_sent = True
        while connection.get_extra_info("send_cipher") != other:
            await asyncio.sleep(0.01)
        async with sftp.open("/a", "wb") as file:
            await file.write(data)
        async with sftp.open("/a", "rb") as file:
            found: object = await file.read()
            assert found == data
