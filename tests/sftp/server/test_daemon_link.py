"""The SFTP process's side of its connection to the daemon."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

import pytest

from wingsd.sftp.messages import (
    Begin,
    FileEvent,
    Granted,
    Log,
    Login,
    Rejected,
    SftpMessage,
    encode,
)
from wingsd.sftp.server.main import DaemonLink, LinkHandler


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
