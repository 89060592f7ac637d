"""SFTP on a node: its logins, its sessions and its listener."""

from __future__ import annotations

import time

from wingsd.app.wiring.node_calls import NodeCallsWiring
from wingsd.config import Config
from wingsd.sftp.listener import SftpListener
from wingsd.sftp.logins import SftpLogins
from wingsd.sftp.sessions import SftpSessions
from wingsd.util.reactor import Reactor

__all__ = ["SftpWiring"]


class SftpWiring(NodeCallsWiring):
    """The objects of a node's SFTP."""

    def __init__(self, config: Config, endpoint: str, reactor: Reactor, path: str = "") -> None:
        """Raises `ConfigError` when the configuration names invalid files."""
        super().__init__(config, endpoint, reactor, path)
        self.sftp_sessions = SftpSessions(
            config, self.servers, self.denied, self.reports.activity, self._bus, reactor
        )
        logins = SftpLogins(
            config, self.panel, self.servers, self.denied, reactor.seconds, time.time
        )
        self.sftp = SftpListener(config, logins, self.sftp_sessions, self.pools.disk, reactor)
        self.live.follow(self.sftp.use)
