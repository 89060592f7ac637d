"""What the servers of a node live on."""

from __future__ import annotations

from typing import Any

import attrs

from wingsd.bridge import Workers
from wingsd.config import Config
from wingsd.environment.interface import Environment
from wingsd.events import EventBus
from wingsd.panel import Panel
from wingsd.pools import Rewriters

__all__ = ["Means"]


@attrs.frozen
class Means:
    """`owner` is the uid and gid of every server's files, `disk` the threads for work on them.

    `rewriters` are threads of their own: parsing egg files takes as long as the servers' users
    make it take, within bounds, and must keep nothing else waiting.
    """

    reactor: Any
    config: Config
    panel: Panel
    environment: Environment
    bus: EventBus
    disk: Workers
    rewriters: Rewriters
    owner: tuple[int, int]
