"""What servers are moved by hand with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from wingsd.config import Config
from wingsd.events import EventBus
from wingsd.servers import Servers
from wingsd.statedb import StateDatabase
from wingsd.threadio import Workers
from wingsd.transfers.incoming.manager import IncomingTransfers
from wingsd.transfers.outgoing.manager import OutgoingTransfers
from wingsd.transfers.peer.tls import PeerTls
from wingsd.util.observer import Observer

__all__ = ["DirectTransferCollaborators"]


@attrs.frozen
class DirectTransferCollaborators:
    """`disk` are threads for short work on the disk, `now` gives seconds since the epoch."""

    reactor: Any
    config: Config
    servers: Servers
    receiver: IncomingTransfers
    sender: OutgoingTransfers
    journal: StateDatabase
    bus: EventBus
    trust: PeerTls
    disk: Workers
    now: Callable[[], float]
    observer: Observer = attrs.field(factory=Observer)
