"""The measured daemons, and their Panel."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import trustme

from tests.support import Panel, process_configuration, server_settings
from tests.support.node_process import NodeProcess, reactor

__all__ = ["BenchNode", "Site", "reactor"]


class BenchNode(NodeProcess):
    """A node in `directory`, with the files of its servers in `data`.

    Docker is off, so that no engine's time is in what is measured. With `engine` it is on, and
    looks for an engine there.
    """

    def __init__(
        self,
        site: Site,
        directory: Path,
        data: Path | None = None,
        engine: str = "",
        *,
        proxied: bool = False,
    ) -> None:
        super().__init__(directory, site.panel, site.authority, proxied=proxied)
        self._is_proxied = proxied
        self.volumes = data or self.volumes
        self.node.reachable = True
        self.site = site
        self._engine = engine

    def command(self, *options: str, **changes: Any) -> list[str]:
        """Return a command that is executed: a fork of a process with all imports costs less."""
        return [sys.executable, *super().command(*options, **changes)]

    async def run(self, **transfers: Any) -> None:
        """Start it, with these of `system.transfers`; return when it knows its servers."""
        self.transfers = transfers
        await self.start_loaded(docker={"enabled": bool(self._engine), "socket": self._engine})

    async def listening(self) -> None:
        """Return when the daemon listens; the Panel then has the address."""
        await super().listening()
        if not self._is_proxied:
            self.node.address = self.url


class Site:
    """A Panel, and the authority of its nodes' certificates; `pem` has one of them."""

    def __init__(self, directory: Path) -> None:
        self.panel = Panel()
        self.ca, self.pem = directory / "ca.pem", directory / "node.pem"
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(str(self.ca))
        issued = self.authority.issue_cert("127.0.0.1")
        issued.private_key_and_cert_chain_pem.write_to_path(str(self.pem))

    async def open(self) -> None:
        """Open the Panel's port."""
        await self.panel.listen(reactor)

    def add_server(self, number: int, node: Any) -> str:
        """Put one more server on a node; return its UUID."""
        uuid = self.server_uuid(number)
        self.panel.add_server(server_settings(uuid), node, process_configuration())
        return uuid

    @staticmethod
    def server_uuid(number: int) -> str:
        """Return the UUID of the server with that number."""
        return str(UUID(int=(8 << 76) | (4 << 60) | number, version=4))

    async def close(self) -> None:
        """End the Panel."""
        await self.panel.close()
