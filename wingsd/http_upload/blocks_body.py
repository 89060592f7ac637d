"""A request's body that is in memory, so that it can be sent again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from wingsd.threadio import Share, TokenBucket

__all__ = ["Block", "BlocksBody"]

Block = bytes | memoryview


@implementer(IPushProducer)
class BlocksBody:
    """Sends `blocks` at the rate of `bucket`; see `RequestBody`. For one request.

    `yields` is whether it leaves a part of the rate to others.
    """

    def __init__(
        self, blocks: Sequence[Block], bucket: TokenBucket | None = None, *, yields: bool = False
    ) -> None:
        self._blocks = iter(blocks)
        self._left = len(blocks)
        self._bucket = bucket
        self._yields = yields
        self._share: Share | None = None
        self._consumer: Callable[[bytes], None] | None = None
        self._finished: Callable[[], None] | None = None
        self._is_running = True

    def start(self, consumer: Callable[[bytes], None], finished: Callable[[], None]) -> None:
        """Deliver the blocks to `consumer`; right after the last one call `finished`."""
        self._consumer, self._finished = consumer, finished
        if self._bucket is not None:
            self._share = self._bucket.join(self._deliver, yields=self._yields)
        self._deliver()

    def pauseProducing(self) -> None:
        """Pause delivery."""
        self._is_running = False

    def resumeProducing(self) -> None:
        """Resume delivery."""
        self._is_running = True
        self._deliver()

    def stopProducing(self) -> None:
        """Deliver nothing more."""
        self.close()

    def close(self) -> None:
        """Deliver nothing more."""
        self._consumer = self._finished = None
        # The exchange that has this is in a cycle, and would keep the blocks until it is found.
        self._blocks, self._left = iter(()), 0
        if self._share is not None:
            self._share.leave()

    def _deliver(self) -> None:
        while self._consumer is not None and self._is_running:
            if self._share is not None and self._share.held:
                return
            finished = self._finished
            if self._left:
                self._left -= 1
                self._hand_over(bytes(next(self._blocks)))
            if not self._left and finished is not None and self._finished is not None:
                self.close()
                finished()

    def _hand_over(self, block: bytes) -> None:
        assert self._consumer is not None  # noqa: S101 - by `_deliver`
        if self._share is not None:
            self._share.take(len(block))
        self._consumer(block)
