"""What the servers of a node live on."""

from __future__ import annotations

from typing import Any

import attrs

from wingsd.config import Config
from wingsd.docker.runtime import Environment
from wingsd.egg_files.rewriters import Rewriters
from wingsd.events import EventBus
from wingsd.panel.client import Panel
from wingsd.threadio import Workers

__all__ = ["ServerCollaborators"]


@attrs.frozen
class ServerCollaborators:
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
