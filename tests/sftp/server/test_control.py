"""The SFTP process's side of its connection to the daemon."""

from __future__ import annotations

import asyncio

from wingsd.sftp.messages import Begin, FileEvent, Message
from wingsd.sftp.server.control import DaemonLink


class Link(DaemonLink):
    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Message] = []
        self.turns = 0

    def send(self, message: Message) -> None:
        self.sent.append(message)

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
