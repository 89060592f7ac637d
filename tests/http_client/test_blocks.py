"""The blocks of a body: what waits for whoever asks takes no more memory than its bytes."""

from __future__ import annotations

import tracemalloc
from typing import Any, cast

from twisted.internet.defer import Deferred

from wingsd.http_client.download import BLOCK, BodyBlocks, GuardedExchange


class TinyPieces:
    """An answer without an end, in pieces of two bytes, as records of TLS may have them."""

    def __init__(self) -> None:
        self._paused = False

    def deliver(self, consumer: Any) -> Deferred[None]:
        consumer.registerProducer(self, True)
        while not self._paused:
            # Each is an object of its own, as those that are received are.
            consumer.write(bytes(bytearray(b"ab")))
        return Deferred()

    def pauseProducing(self) -> None:
        self._paused = True


async def test_a_block_of_tiny_pieces_takes_the_memory_of_its_bytes() -> None:
    blocks = BodyBlocks(cast(GuardedExchange, TinyPieces()))
    tracemalloc.start()
    try:
        block = await blocks.next()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert block == b"ab" * (BLOCK // 2)
    assert peak < 4 * BLOCK
