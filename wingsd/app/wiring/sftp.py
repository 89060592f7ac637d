"""SFTP on a node: its listener, and what the first connection needs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from wingsd.app.wiring.node_calls import NodeCallsWiring
from wingsd.config import Config
from wingsd.sftp.listener import SftpListener
from wingsd.util.later import Later
from wingsd.util.reactor import Reactor

if TYPE_CHECKING:
    from wingsd.sftp.service import SftpService

__all__ = ["SftpWiring"]


class SftpWiring(NodeCallsWiring):
    """The objects of a node's SFTP."""

    def __init__(self, config: Config, endpoint: str, reactor: Reactor, path: str = "") -> None:
        """Raises `ConfigError` when the configuration names invalid files."""
        super().__init__(config, endpoint, reactor, path)
        self.sftp = SftpListener(config, Later(self._sftp_service), self.pools.disk, reactor)
        self.live.follow(self.sftp.use)

    def _sftp_service(self) -> SftpService:
        # Here, since a node without connections of SFTP saves what they import.
        from wingsd.sftp.logins import SftpLogins  # noqa: PLC0415
        from wingsd.sftp.service import SftpService  # noqa: PLC0415
        from wingsd.sftp.sessions import SftpSessions  # noqa: PLC0415

        config, reactor, denied = self._config, self._reactor, self.denied
        logins = SftpLogins(config, self.panel, self.servers, denied, reactor.seconds, time.time)
        sessions = SftpSessions(
            config, self.servers, logins, denied, self.reports.activity, self._bus, reactor
        )
        return SftpService(config, logins, sessions, self.pools.disk, reactor)
