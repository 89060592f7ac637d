"""Clients that mean harm: each gets a clear answer, and the others are served meanwhile."""

from __future__ import annotations

import asyncio
import os
import resource
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncssh
import pytest

from tests.sftp.server.harness import NAME, PASSWORD, Served, serve
from wingsd.config import SftpConfig, SftpLimits
from wingsd.sftp.messages import FrameReader
from wingsd.sftp.server import packets

INIT = struct.pack(">IBI", 5, packets.INIT, 3)
FIRST = (0).to_bytes(8, "big")


def string(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


def packet(kind: int, body: bytes, request: int = 1) -> bytes:
    return string(struct.pack(">BI", kind, request) + body)


def opening(path: bytes, flags: int, request: int = 1) -> bytes:
    return packet(packets.OPEN, string(path) + struct.pack(">II", flags, 0), request)


class Raw:
    """A channel of SFTP in which a test sends bytes as it likes."""

    def __init__(self, process: asyncssh.SSHClientProcess[bytes]) -> None:
        self._process = process

    def send(self, data: bytes) -> None:
        self._process.stdin.write(data)

    async def answer(self) -> tuple[int, int, bytes]:
        """Return the type of an answer, its number, and what follows."""
        (length,) = struct.unpack(">I", await self._process.stdout.readexactly(4))
        kind, request = struct.unpack(">BI", await self._process.stdout.readexactly(5))
        return kind, request, await self._process.stdout.readexactly(length - 5)

    async def kinds(self, count: int) -> Counter[int]:
        """Return the types of so many answers."""
        frames, found = FrameReader(packets.MAX_PACKET), Counter[int]()
        while found.total() < count:
            data = await self._process.stdout.read(1 << 16)
            found.update(frame[0] for frame in frames.feed(data))
        return found

    async def status(self) -> int:
        """Return the code of an answer that is a status."""
        kind, _, body = await self.answer()
        assert kind == 101
        return int.from_bytes(body[:4], "big")

    async def end(self) -> int | None:
        """Return the exit status of the channel when it is closed."""
        await self._process.wait_closed()
        return self._process.exit_status


@asynccontextmanager
async def raw(served: Served, *, begin: bool = True) -> AsyncIterator[Raw]:
    async with served.connection() as connection:
        process: asyncssh.SSHClientProcess[bytes] = await connection.create_process(
            subsystem="sftp", encoding=None
        )
        channel = Raw(process)
        if begin:
            channel.send(INIT)
            assert (await channel.answer())[:2] == (2, 3)
        yield channel


async def is_served(served: Served) -> None:
    """Check that a client that means no harm is served."""
    async with served.client() as sftp:
        assert await sftp.realpath(".") == "/"


def test_wrong_passwords_by_the_hundred_end_their_connections_and_no_other(tmp_path: Path) -> None:
    async def attempts(served: Served) -> int:
        class Guessing(asyncssh.SSHClient):
            def __init__(self) -> None:
                self.guesses = 0

            def password_auth_requested(self) -> str:
                self.guesses += 1
                return f"wrong {self.guesses}"

        client = Guessing()
        with pytest.raises(asyncssh.DisconnectError):
            async with served.connection(password=None, client_factory=lambda: client):
                pass
        return client.guesses

    async def test(served: Served) -> None:
        async with served.client() as sftp:
            counts = await asyncio.gather(*(attempts(served) for _ in range(10)))
            counts += await asyncio.gather(*(attempts(served) for _ in range(10)))
            assert counts == [6] * 20
            assert await sftp.realpath(".") == "/"
        assert len(served.daemon.logins) == 121

    serve(tmp_path, test)


def test_many_wrong_keys_are_asked_about_up_to_the_limit(tmp_path: Path) -> None:
    keys = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(30)]

    async def test(served: Served) -> None:
        with pytest.raises(asyncssh.DisconnectError):
            async with served.connection(client_keys=keys, password=None):
                pass
        assert len(served.daemon.logins) == 20
        await is_served(served)

    serve(tmp_path, test)


def test_connections_that_say_nothing_leave_room_for_others(tmp_path: Path) -> None:
    async def test(served: Served) -> None:
        silent = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(100)]
        await is_served(served)
        for _, writer in silent:
            writer.close()

    serve(tmp_path, test)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0" * 100_000,
        b"SSH-2.0-x\r\n" + b"\xff" * 100,
    ],
    ids=["HTTP", "zeros", "a packet of 4 GiB"],
)
def test_what_is_not_ssh_is_cut_off(tmp_path: Path, data: bytes) -> None:
    async def test(served: Served) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(data)
        with suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 10)
        writer.close()
        await is_served(served)

    serve(tmp_path, test)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff" + bytes(1000),  # 4 GiB that never come
        bytes(4),
        string(b"\x01"),
        opening(b"a", 1),  # before the beginning
    ],
)
def test_a_packet_that_lies_about_its_length_closes_the_channel(
    tmp_path: Path, data: bytes
) -> None:
    async def test(served: Served) -> None:
        async with raw(served, begin=False) as channel:
            channel.send(data)
            assert await channel.end() == 1
        await is_served(served)

    serve(tmp_path, test)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (packets.OPEN, b""),
        (packets.OPEN, b"\xff\xff\xff\xffa"),
        (packets.WRITE_DATA, string(FIRST) + bytes(8) + b"\0\0\xff\xffshort"),
        (packets.MKDIR, string(b"made") + struct.pack(">II", 0x80000000, 0xFFFFFFFF)),
        (packets.EXTENDED, string(b"posix-rename@openssh.com") + string(b"a")),
    ],
)
def test_a_field_that_is_cut_is_a_bad_message(tmp_path: Path, kind: int, body: bytes) -> None:
    async def test(served: Served) -> None:
        async with raw(served) as channel:
            channel.send(packet(kind, body))
            assert await channel.status() == packets.BAD_MESSAGE

    serve(tmp_path, test)
    assert list((tmp_path / "files").iterdir()) == []


def test_handles_by_the_ten_thousand_are_refused_above_the_limit(tmp_path: Path) -> None:
    async def test(served: Served) -> None:
        (served.files / "file").write_text("x")
        async with raw(served) as channel:
            channel.send(b"".join(opening(b"/file", 1, number) for number in range(10_000)))
            found = await channel.kinds(10_000)
            assert found == {102: 128, 101: 10_000 - 128}
            channel.send(packet(packets.CLOSE, string(FIRST)))
            assert await channel.status() == packets.OK
            channel.send(opening(b"/file", 1))
            assert (await channel.answer())[0] == 102

    serve(tmp_path, test)


def test_all_channels_together_have_a_limit_of_handles(tmp_path: Path) -> None:
    limits = SftpLimits(max_handles_total=3)

    async def test(served: Served) -> None:
        (served.files / "file").write_text("x")
        async with raw(served) as first, raw(served) as second:
            for channel, kind in ((first, 102), (second, 102), (first, 102), (second, 101)):
                channel.send(opening(b"/file", 1))
                assert (await channel.answer())[0] == kind

    serve(tmp_path, test, sftp=SftpConfig(limits=limits))


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b"\0",
        b"a\0b",
        b"x" * 256,
        b"deep/" * 3000,
        b"../../../../etc/passwd",
        b"/out/passwd",
        b"\xff\xfe",
        b"loop/x",
    ],
)
def test_a_hostile_name_is_refused_or_leads_into_the_servers_directory(
    tmp_path: Path, name: bytes
) -> None:
    async def test(served: Served) -> None:
        (served.files / "out").symlink_to("/etc")
        (served.files / "loop").symlink_to("loop")
        async with raw(served) as channel:
            for sent in (
                opening(name, 0x1A),
                packet(packets.MKDIR, string(name) + bytes(4)),
                packet(packets.RENAME, string(b"/loop") + string(name)),
                packet(packets.REMOVE, string(name)),
            ):
                channel.send(sent)
                assert (await channel.answer())[0] in (101, 102)

    before = sorted(os.listdir("/etc"))
    serve(tmp_path, test)
    assert sorted(os.listdir("/etc")) == before
    assert sorted(os.listdir(tmp_path)) == [".sftp", "files"]


def test_a_client_that_reads_no_answers_costs_little_memory(tmp_path: Path) -> None:
    async def test(served: Served) -> None:
        with (served.files / "big").open("wb") as file:
            file.truncate(1 << 30)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        async with served.connection() as connection:
            chan, _ = await connection.create_session(
                asyncssh.SSHClientSession, subsystem="sftp", encoding=None, window=1 << 16
            )
            chan.pause_reading()
            chan.write(INIT + opening(b"/big", 1))
            body = string(FIRST) + struct.pack(">QI", 0, packets.MAX_DATA)
            chan.write(packet(packets.READ_DATA, body) * 4000)
            await is_served(served)
            chan.abort()
        growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert growth < 64 << 10  # KiB; the answers would be a GiB

    serve(tmp_path, test)


def test_requests_without_an_end_are_not_taken_in_before_answers_are_read(tmp_path: Path) -> None:
    async def test(served: Served) -> None:
        async with served.connection(username=NAME, password=PASSWORD) as connection:
            chan, _ = await connection.create_session(
                asyncssh.SSHClientSession, subsystem="sftp", encoding=None, window=1 << 10
            )
            chan.pause_reading()
            chan.write(INIT)
            chan.write(packet(packets.REALPATH, string(b"/")) * 1_000_000)
            await is_served(served)
            assert chan.get_write_buffer_size() > 0
            chan.abort()

    serve(tmp_path, test)
