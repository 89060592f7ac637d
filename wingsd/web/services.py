"""What the Panel's calls are made on: the rooms of the node that the web knows."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import attrs
from twisted.web.resource import IResource

from wingsd.bridge import TokenBucket
from wingsd.byhand import ByHand
from wingsd.config import Config
from wingsd.environment.information import EngineInformation
from wingsd.journal import Journal
from wingsd.servers.registry import Servers
from wingsd.servers.server import Server
from wingsd.tokens import DenyList
from wingsd.transfers.receiver import Receiver
from wingsd.transfers.sender import Sender
from wingsd.transfers.streams import StreamGroups

__all__ = ["Services"]


@attrs.frozen
class Services:
    """`denied` is the deny list of the WebSocket's tokens, and `websocket` makes its resource.

    `websocket_of_moved` makes that of a server which has left this node, by its UUID; it returns
    None where there is no such server.
    `engine` asks the Docker engine about itself, None when there is none; by `download_bucket` all
    servers are received, None without a limit; `now` gives the seconds since the epoch.
    """

    config: Config
    servers: Servers
    sender: Sender
    receiver: Receiver
    streams: StreamGroups
    journal: Journal
    by_hand: ByHand
    denied: DenyList
    websocket: Callable[[Server], IResource]
    websocket_of_moved: Callable[[str], IResource | None] = lambda _: None
    engine: Callable[[], Awaitable[EngineInformation]] | None = None
    download_bucket: TokenBucket | None = None
    now: Callable[[], float] = time.time
