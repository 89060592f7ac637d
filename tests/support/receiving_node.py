"""A node as a process with a Panel of its own, and a server on its way to it."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from twisted.internet.threads import deferToThread

from tests.support.node_process import NodeProcess
from tests.support.panel import Panel
from tests.support.sample_server import UUID, sha256
from tests.support.settings import process_configuration, server_settings


class ReceivingNode(NodeProcess):
    """The node. The Panel's transfer from `source`, which is only a name, is open."""

    def __init__(self, directory: Path) -> None:
        panel = Panel()
        super().__init__(directory, panel)
        self.source = panel.add_node("https://source.invalid:8080")
        self.expect(UUID)

    def expect(self, server: str, **settings: Any) -> None:
        """Have the Panel move a new server from the source to this node."""
        self.panel.add_server(server_settings(server, **settings), self.source)
        self.panel.open_transfer(server, self.node)

    def own(self, server: str, **settings: Any) -> Path:
        """Have a server with a list of files that its users may not see; return its directory."""
        egg = {"id": server, "file_denylist": ["*.key"]}
        described = server_settings(server, **settings) | {"egg": egg}
        self.panel.add_server(described, self.node, process_configuration())
        home = self.volumes / server
        home.mkdir(parents=True)
        return home

    async def close(self) -> None:
        await super().close()
        await self.panel.close()

    def token(self, server: str = UUID, **claims: Any) -> str:
        return self.panel.transfer_token(server, self.node, **claims)

    async def curl(
        self, *arguments: str, token: str | None = None, path: str = "/api/transfers"
    ) -> tuple[int, Any]:
        """Send a request with curl, a POST by default; return status and decoded body."""
        token = token or self.token()
        status, body = await self.fetch(path, "-X", "POST", *arguments, token=token)
        return status, json.loads(body) if body else None

    async def upload(
        self, data: bytes, checksum: str | None = None, token: str | None = None
    ) -> tuple[int, Any]:
        """Send an archive as the document's curl example does."""
        path = self.directory / "server-archive.tar.gz"
        path.write_bytes(data)
        checksum = sha256(data) if checksum is None else checksum
        form = ("-F", f"archive=@{path}", "-F", f"checksum={checksum}")
        return await self.curl(*form, token=token)

    async def served_certificate(self) -> str:
        url = urlsplit(self.url)
        address = (url.hostname or "", url.port or 0)
        pem: str = await deferToThread(ssl.get_server_certificate, address)
        return pem

    async def failure_reported(self, since: int = 0) -> None:
        """Return when the Panel knows of it, and another transfer of the server may begin."""
        await self.wait_for_line(f"{UUID}: the failed transfer is cleaned up", since)
        await self.wait_for_line(f"{UUID}: the failure was reported to the Panel", since)
