"""The measured daemons, and their Panel."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from uuid import UUID

import trustme

from tests.daemon.daemon import Daemon, reactor
from tests.support import Panel, process_configuration, server_settings

__all__ = ["BenchNode", "Site", "reactor"]


class BenchNode(Daemon):
    """A node in `directory`, with the files of its servers in `data`.

    Docker is off, so that no engine's time is in what is measured. With `engine` it is on, and
    looks for an engine there.
    """

    def __init__(
        self, site: Site, directory: Path, data: Path | None = None, engine: str = ""
    ) -> None:
        directory.mkdir(parents=True)
        super().__init__(directory)
        # An installed package has its modules compiled. The first start here compiles them.
        self.variables["PYTHONDONTWRITEBYTECODE"] = ""
        self.data = data or directory / "volumes"
        self.node = site.panel.add_node("https://127.0.0.1:1", reachable=True, ca=str(site.ca))
        self._site = site
        self._engine = engine

    async def start(self, **transfers: Any) -> None:
        """Start it, with these keys of `system.transfers`; return when it knows its servers."""
        tls = {"enabled": True, "cert": str(self._site.pem), "key": str(self._site.pem)}
        configuration = {
            "token_id": self.node.token_id,
            "token": self.node.token,
            "remote": self._site.panel.url,
            "api": {"ssl": tls},
            "system": {
                "data": str(self.data),
                "root_directory": str(self.directory),
                "username": "",
                "user": {"uid": os.getuid(), "gid": os.getgid()},
                "transfers": {"ca_file": str(self._site.ca), **transfers},
            },
            "docker": {"enabled": bool(self._engine), "socket": self._engine},
        }
        self.spawn(self.command(configuration, "-e", "tcp:0:interface=127.0.0.1"))
        self.node.address = await self.listening()
        await self.wait_for_line("servers loaded")


class Site:
    """A Panel, and the certificate of all of its nodes."""

    def __init__(self, directory: Path) -> None:
        self.panel = Panel()
        self.ca, self.pem = directory / "ca.pem", directory / "node.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca))
        issued = authority.issue_cert("127.0.0.1")
        issued.private_key_and_cert_chain_pem.write_to_path(str(self.pem))

    async def open(self) -> None:
        """Have the Panel listen."""
        await self.panel.listen(reactor)

    def add_server(self, number: int, node: Any) -> str:
        """Put one more server on a node; return its UUID."""
        uuid = str(UUID(int=(8 << 76) | (4 << 60) | number, version=4))
        self.panel.add_server(server_settings(uuid), node, process_configuration())
        return uuid

    async def close(self) -> None:
        """End the Panel."""
        await self.panel.close()
