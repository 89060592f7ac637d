"""Time that passes, whatever the wall clock is set to.

Twisted measures its timeouts by the wall clock: one that is set an hour forward (by NTP, or since
a virtual machine was paused) ends every transfer as stalled, and one that is set back keeps every
silent peer for as long.
"""

from __future__ import annotations

import time
from typing import Any

from twisted.internet.base import ReactorBase

__all__ = ["steady"]


def steady(reactor: Any) -> None:
    """Have the reactor measure by a clock that nobody sets.

    To be called before anything waits for it. `seconds()` is then no time of day. A reactor with
    a clock of its own keeps it.
    """
    if getattr(type(reactor), "seconds", None) is ReactorBase.seconds:
        reactor.seconds = time.monotonic
