"""How often a destination of a move is asked how far it is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from wingsd.http_client.exchange import Answer
from wingsd.statedb import Direction, MoveRecord
from wingsd.transfers.peer.moves import PROGRESS_EVERY, MoveClient, MoveTrouble

MOST = 1000


class NewEachTime:
    """A destination that answers at once, each time with something new."""

    def __init__(self) -> None:
        self.asked = 0

    async def send(self, _: object) -> Answer:
        self.asked += 1
        said = {"phase": "committing", "tag": f"t{self.asked}"}
        return Answer(200, "OK", [], json.dumps(said).encode(), early=False)


@pytest.mark.promise("tiny-pieces-are-refused")
async def test_a_destination_that_tells_something_new_each_time_is_asked_at_a_rate() -> None:
    clock, node = Clock(), NewEachTime()
    address: Any = None
    send: Any = node.send
    trouble = MoveTrouble(clock, print)
    record = MoveRecord(1, "server", Direction.OUT, "", "key", "token")
    client = MoveClient(address, clock, 60.0, None, record, trouble, 60.0)
    client._send = send  # type: ignore[method-assign]

    async def follow() -> None:
        tag = ""
        for _ in range(MOST):
            tag = (await client.progress(tag, 60.0)).tag

    following = Deferred.fromCoroutine(follow())
    assert node.asked == 1
    for each in range(2, 20):
        clock.advance(PROGRESS_EVERY)
        assert node.asked == each
    following.addErrback(lambda _: None)
    following.cancel()
