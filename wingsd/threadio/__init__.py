"""Threads: bounded byte streams to and from them, rate limits, and pools of workers.

`Workers` runs blocking functions in threads and gives their results back as Deferreds. `Feed`
carries a stream of bytes from the reactor into a thread, `Outflow` one from a thread to the
reactor, neither ever holding more than it should; a `TokenBucket` keeps many of them to one rate.
Nothing else in wingsd starts a reactor-side thread or calls into the reactor from one.
"""

from wingsd.threadio.rate_limit import Share, TokenBucket
from wingsd.threadio.streams import (
    BLOCK,
    FEED_HIGH_MARK,
    FEED_LOW_MARK,
    Feed,
    Outflow,
    OutflowClosed,
)
from wingsd.threadio.workers import Workers, relayed

__all__ = [
    "BLOCK",
    "FEED_HIGH_MARK",
    "FEED_LOW_MARK",
    "Feed",
    "Outflow",
    "OutflowClosed",
    "Share",
    "TokenBucket",
    "Workers",
    "relayed",
]
