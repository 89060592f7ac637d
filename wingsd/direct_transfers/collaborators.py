"""What servers are moved by hand with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from wingsd.config import Config
from wingsd.events import EventBus
from wingsd.servers import Servers
from wingsd.statedb import Journal
from wingsd.threadio import Workers
from wingsd.transfers.incoming.manager import Receiver
from wingsd.transfers.outgoing.manager import Sender
from wingsd.transfers.peer.tls import Trust
from wingsd.util.observer import Observer

__all__ = ["HandMeans"]


@attrs.frozen
class HandMeans:
    """`disk` are threads for short work on the disk, `now` gives seconds since the epoch."""

    reactor: Any
    config: Config
    servers: Servers
    receiver: Receiver
    sender: Sender
    journal: Journal
    bus: EventBus
    trust: Trust
    disk: Workers
    now: Callable[[], float]
    observer: Observer = attrs.field(factory=Observer)
