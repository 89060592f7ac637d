"""Messages between the daemon and the SFTP process: checked in both directions."""

from __future__ import annotations

import asyncio
import logging
import struct
from functools import partial

import attrs
import pytest

from wingsd.config import SftpConfig, SftpLimits
from wingsd.errors import InvalidData
from wingsd.sftp.messages import (
    MAX_FROM_SERVER,
    Begin,
    FileEvent,
    FrameReader,
    Granted,
    Log,
    Login,
    Rejected,
    ServerState,
    SftpMessage,
    Start,
    Transmitted,
    Unconfined,
    Used,
    decode,
    encode,
)
from wingsd.sftp.server.main import DaemonLink, LinkHandler

MESSAGES: list[SftpMessage] = [
    Login(1, 2, "password", "anna.5b0c7a6e", "pässwörd \ud800", "192.0.2.1", 5, "SSH-2.0-x"),
    Granted(1, "user", "server", "/data", ("*",), ("*.key",), ()),
    ServerState("server", -5, None, 1 << 40),
    Start("pem", "auto", 988, 988, "/srv", SftpConfig(limits=SftpLimits(max_handles_total=7))),
    Transmitted(1 << 40, 0),
    Unconfined(),
    Used("server", -(1 << 40)),
]


def test_messages_come_back_as_they_were_in_any_pieces() -> None:
    stream = b"".join(map(encode, MESSAGES))
    frames = FrameReader(MAX_FROM_SERVER)
    pieces = (stream[at : at + 1] for at in range(len(stream)))
    found = [decode(frame) for piece in pieces for frame in frames.feed(piece)]
    assert [attrs.asdict(each) for each in found] == [attrs.asdict(each) for each in MESSAGES]


@pytest.mark.promise("sftp-process-is-confined")
@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"nonsense",
        b'["Nothing", {}]',
        b'["Used", {"server": 5, "total": 1}]',
        b'["Used", {"server": "x", "total": true}]',
        b"[" * 100_000,
    ],
)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidData):
        decode(*FrameReader(MAX_FROM_SERVER).feed(struct.pack(">I", len(body)) + body))


def test_a_message_too_long_is_refused_by_its_length() -> None:
    with pytest.raises(InvalidData):
        list(FrameReader(MAX_FROM_SERVER).feed(struct.pack(">I", MAX_FROM_SERVER + 1)))


class Link(DaemonLink):
    def __init__(self) -> None:
        super().__init__()
        self.sent: list[SftpMessage] = []
        self.turns = 0

    def send(self, *messages: SftpMessage) -> None:
        self.sent += messages

    def _send_posted(self) -> None:
        self.turns += 1
        super()._send_posted()


async def _posts() -> None:
    link = Link()
    events = [FileEvent(1, "create", f"/{number}") for number in range(100)]

    def post() -> None:
        for event in events:
            link.post(event, now=False)

    await asyncio.to_thread(post)
    assert link.sent == []
    await asyncio.to_thread(link.post, Begin(2, 3))
    await asyncio.sleep(0)
    assert link.sent[:-1] == events
    assert isinstance(link.sent[-1], Begin)
    link.post(events[0], now=False)
    while len(link.sent) < len(events) + 2:
        await asyncio.sleep(0.01)
    assert link.turns <= 3


def test_messages_of_threads_are_sent_together_and_in_order() -> None:
    asyncio.run(_posts())


class LostTransport(asyncio.Transport):
    """A transport whose peer has gone: as asyncio's, it warns of what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes += 1
        assert self.writes < 100, "it writes for ever"
        logging.getLogger("asyncio").warning("socket.send() raised exception.")

    def is_closing(self) -> bool:
        return self.writes > 0


def test_warnings_of_a_lost_daemon_are_no_messages_to_it() -> None:
    async def run() -> None:
        link, transport = DaemonLink(), LostTransport()
        link.connection_made(transport)
        handler = LinkHandler(link)
        logging.getLogger().addHandler(handler)
        try:
            for _ in range(3):
                link.post(Log("warn", "text"))
            await asyncio.sleep(0)
        finally:
            logging.getLogger().removeHandler(handler)
        assert transport.writes == 1

    asyncio.run(run())


def _login(number: int) -> Login:
    return Login(number, 1, "password", "anna", "secret", "127.0.0.1", 1234, "client")


async def _asked(link: DaemonLink, number: int) -> None:
    while number not in link._asked:
        await asyncio.sleep(0.01)


def test_a_login_gets_its_own_answer_in_the_thread_that_waits_for_it() -> None:
    async def run() -> None:
        link = Link()
        waiting = [
            asyncio.create_task(asyncio.to_thread(partial(asyncio.run, link.login(_login(each)))))
            for each in (1, 2)
        ]
        await asyncio.gather(_asked(link, 1), _asked(link, 2))
        granted = encode(Granted(1, "user", "server", "/srv", ("*",)))
        rejected = encode(Rejected(2))
        # The second answer to a request is for nothing that waits.
        link.data_received(rejected * 2 + granted * 2)
        assert list(map(encode, await asyncio.gather(*waiting))) == [granted, rejected]
        assert not link._asked
        assert {*map(encode, link.sent)} == {encode(_login(1)), encode(_login(2))}

    asyncio.run(run())


def test_a_login_that_is_given_up_or_loses_the_daemon_waits_no_longer() -> None:
    async def run() -> None:
        link = Link()
        for number, end in ((1, None), (2, link.eof_received)):
            waiting = asyncio.create_task(link.login(_login(number)))
            await _asked(link, number)
            if end is None:
                waiting.cancel()
            else:
                end()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert not link._asked
            link.data_received(encode(Rejected(number)))  # too late

    asyncio.run(run())
