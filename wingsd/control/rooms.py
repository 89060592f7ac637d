"""The rooms of the node that an operator may look into."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import attrs

from wingsd.bridge import Workers
from wingsd.panel import Panel
from wingsd.transfers.outbox import Outbox
from wingsd.transfers.staging import Staging
from wingsd.web.services import Services

__all__ = ["Rooms"]


@attrs.frozen
class Rooms:
    """`services` are those that the Panel's calls are made on, `disk` threads for short work.

    `address` returns where the node listens, as a URL; `now` gives seconds since the epoch.
    """

    reactor: Any
    services: Services
    panel: Panel
    outbox: Outbox
    staging: Staging
    disk: Workers
    address: Callable[[], str]
    now: Callable[[], float] = time.time
    #: When this daemon was started: in the same seconds, and in those of `reactor`.
    begun: float = attrs.field(factory=time.time)
    started: float = attrs.field(
        default=attrs.Factory(lambda self: self.reactor.seconds(), takes_self=True)
    )
