"""Threads: bounded byte streams to and from them, rate limits, and pools of workers.

`Workers` runs blocking functions in threads and returns their results as Deferreds. `Feed` is a
stream of bytes from the reactor to a thread, `Outflow` one from a thread to the reactor, both with
bounded buffers; a `TokenBucket` limits the rate of many of them together. Nothing else in wingsd
starts a thread for the reactor or calls the reactor from one.
"""

from wingsd.threadio.streams import (
    BLOCK,
    FEED_HIGH_MARK,
    FEED_LOW_MARK,
    ByteSource,
    Feed,
    Outflow,
    OutflowClosed,
    Share,
    TokenBucket,
)
from wingsd.threadio.workers import Workers, relayed

__all__ = [
    "BLOCK",
    "FEED_HIGH_MARK",
    "FEED_LOW_MARK",
    "ByteSource",
    "Feed",
    "Outflow",
    "OutflowClosed",
    "Share",
    "TokenBucket",
    "Workers",
    "relayed",
]
