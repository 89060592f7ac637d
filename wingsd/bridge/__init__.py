"""The one place where the reactor and threads meet.

`Workers` runs blocking functions in threads and gives their results back as Deferreds. `Feed`
carries a stream of bytes from the reactor into a thread, `Outflow` one from a thread to the
reactor, neither ever holding more than it should; a `TokenBucket` keeps many of them to one rate.
Nothing else in wingsd starts a reactor-side thread or calls into the reactor from one.
"""

from wingsd.bridge.bucket import Share, TokenBucket
from wingsd.bridge.feed import Feed
from wingsd.bridge.marks import BLOCK, HIGH_MARK, LOW_MARK
from wingsd.bridge.outflow import Outflow, OutflowClosed
from wingsd.bridge.workers import Workers, relayed

__all__ = [
    "BLOCK",
    "HIGH_MARK",
    "LOW_MARK",
    "Feed",
    "Outflow",
    "OutflowClosed",
    "Share",
    "TokenBucket",
    "Workers",
    "relayed",
]
