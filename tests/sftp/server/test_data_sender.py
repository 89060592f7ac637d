"""What a channel sends arrives whole, whatever window and packets its client has."""

from __future__ import annotations

import asyncio
import os
import struct
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from tests.sftp.server.harness import Served, serve
from wingsd.sftp.messages import FrameReader, Start
from wingsd.sftp.server import main, packets
from wingsd.sftp.server.connection import SshConnection
from wingsd.sftp.server.main import ssh_options

CIPHERS = ["aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes128-ctr"]
SIZE = 200_000
FIRST_HANDLE = (0).to_bytes(8, "big")


def string(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


def packet(kind: int, request: int, body: bytes) -> bytes:
    return string(struct.pack(">BI", kind, request) + body)


def reading(count: int) -> bytes:
    """Return requests that read the file `a` so many times."""
    opening = packet(packets.OPEN, 0, string(b"/a") + struct.pack(">II", packets.READ, 0))
    read = string(FIRST_HANDLE) + struct.pack(">QI", 0, SIZE)
    reads = [packet(packets.READ_DATA, number, read) for number in range(1, count + 1)]
    return struct.pack(">IBI", 5, packets.INIT, 3) + opening + b"".join(reads)


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
        chan.write(reading(count))
        chan.write_eof()
        await session.over.wait()
        assert chan.get_exit_status() == 0
    return session


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize(("window", "size"), [(3_000, 1_000), (100_000, 32 << 10), (1 << 31, 999)])
def test_all_answers_come_before_the_end_by_any_window(
    tmp_path: Path, cipher: str, window: int, size: int
) -> None:
    async def test(served: Served) -> None:
        data = os.urandom(SIZE)
        (served.files / "a").write_bytes(data)
        session = await answered(served, 3, cipher, window=window, max_pktsize=size)
        assert max(session.pieces) <= size
        frames = list(FrameReader(packets.MAX_PACKET).feed(bytes(session.data)))[2:]
        assert [int.from_bytes(frame[1:5], "big") for frame in frames] == [1, 2, 3]
        assert all(frame[9:] == data for frame in frames)

    serve(tmp_path, test)


@pytest.mark.parametrize("cipher", CIPHERS)
def test_data_comes_in_full_packets_and_a_short_answer_in_one(tmp_path: Path, cipher: str) -> None:
    async def test(served: Served) -> None:
        (served.files / "a").write_bytes(bytes(SIZE))
        session = await answered(served, 2, cipher, window=1 << 30, max_pktsize=32 << 10)
        assert set(session.pieces[2:-1]) == {32 << 10}
        async with (
            served.connection(encryption_algs=[cipher]) as connection,
            connection.start_sftp_client() as sftp,
        ):
            await sftp.mkdir("/first")
            before = connection._recv_seq
            await sftp.mkdir("/second")
            assert connection._recv_seq == before + 1

    serve(tmp_path, test)


@pytest.mark.parametrize("cipher", CIPHERS)
def test_new_keys_of_the_servers_own_wish_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cipher: str
) -> None:
    def options(start: Start) -> asyncssh.SSHServerConnectionOptions:
        return asyncssh.SSHServerConnectionOptions(ssh_options(start), rekey_bytes=200_000)

    monkeypatch.setattr(main, "ssh_options", options)
    exchanges: list[int] = []
    begin = SshConnection._send_kexinit

    def noting(connection: SshConnection) -> None:
        exchanges.append(1)
        begin(connection)

    monkeypatch.setattr(SshConnection, "_send_kexinit", noting)
    data = os.urandom(10 * SIZE)

    async def test(served: Served) -> None:
        (served.files / "a").write_bytes(data)
        async with (
            served.client(encryption_algs=[cipher]) as sftp,
            sftp.open("/a", "rb") as file,
        ):
            found: object = await file.read()
            assert found == data
        assert len(exchanges) > 4

    serve(tmp_path, test)
