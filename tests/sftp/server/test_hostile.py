"""Clients that mean harm: each gets a clear answer, and the others are served meanwhile."""

from __future__ import annotations

import asyncio
import os
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncssh
import pytest

from tests.sftp.server.harness import FIRST_HANDLE, INIT, Served, opening, packet, serving, string
from wingsd.sftp.messages import FrameReader
from wingsd.sftp.server import packets


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


@serving()
async def test_what_is_not_ssh_is_cut_off(served: Served) -> None:
    for data in (b"GET / HTTP/1.1\r\n\r\n", bytes(100_000), b"SSH-2.0-x\r\n" + b"\xff" * 100):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(data)
        with suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 10)
        writer.close()
    await served.serves()


@pytest.mark.promise("sftp-survives-any-bytes")
@serving()
async def test_a_packet_that_lies_about_its_length_closes_the_channel(served: Served) -> None:
    never_whole, before_the_beginning = b"\xff\xff\xff\xff" + bytes(1000), opening(b"a")
    for data in (never_whole, bytes(4), string(b"\x01"), before_the_beginning, INIT * 2):
        async with raw(served, begin=False) as channel:
            channel.send(data)
            assert await channel.end() == 1
    await served.serves()


@serving()
async def test_a_field_that_is_cut_is_a_bad_message(served: Served) -> None:
    async with raw(served) as channel:
        for kind, body in (
            (packets.OPEN, b""),
            (packets.OPEN, b"\xff\xff\xff\xffa"),
            (packets.WRITE_DATA, string(FIRST_HANDLE) + bytes(8) + b"\0\0\xff\xffshort"),
            (packets.MKDIR, string(b"made") + struct.pack(">II", 0x80000000, 0xFFFFFFFF)),
            (packets.EXTENDED, string(b"posix-rename@openssh.com") + string(b"a")),
        ):
            channel.send(packet(kind, body))
            assert await channel.status() == packets.BAD_MESSAGE
    assert list(served.files.iterdir()) == []


@serving()
async def test_handles_by_the_ten_thousand_are_refused_above_the_limit(served: Served) -> None:
    (served.files / "file").write_text("x")
    async with raw(served) as channel:
        channel.send(b"".join(opening(b"/file", request=number) for number in range(10_000)))
        found = await channel.kinds(10_000)
        assert found == {102: 128, 101: 10_000 - 128}
        channel.send(packet(packets.CLOSE, string(FIRST_HANDLE)))
        assert await channel.status() == packets.OK
        channel.send(opening(b"/file"))
        assert (await channel.answer())[0] == 102


NAMES = [
    *(b"", b"\0", b"a\0b", b"x" * 256, b"deep/" * 3000, b"../../../../etc/passwd"),
    *(b"/out/passwd", b"\xff\xfe", b"loop/x"),
]


@serving()
async def test_a_hostile_name_is_refused_or_leads_into_the_servers_directory(
    served: Served, tmp_path: Path
) -> None:
    before = sorted(os.listdir("/etc"))
    (served.files / "out").symlink_to("/etc")
    (served.files / "loop").symlink_to("loop")
    async with raw(served) as channel:
        for name in NAMES:
            for sent in (
                opening(name, 0x1A),
                packet(packets.MKDIR, string(name) + bytes(4)),
                packet(packets.RENAME, string(b"/loop") + string(name)),
                packet(packets.REMOVE, string(name)),
            ):
                channel.send(sent)
                assert (await channel.answer())[0] in (101, 102), name
    assert sorted(os.listdir("/etc")) == before
    assert sorted(os.listdir(tmp_path)) == [".sftp", "files"]
