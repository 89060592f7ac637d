"""Two nodes as processes, their Panel, and a server that moves between them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import trustme

from tests.support.node_process import NodeProcess
from tests.support.panel import Panel
from tests.support.sample_server import UUID
from tests.support.settings import process_configuration, server_settings


class TwoNodes:
    """A source and a destination; with `pools`, the name that each has for their one volume."""

    def __init__(self, directory: Path, pools: tuple[str, str] = ("", "")) -> None:
        self.panel = Panel()
        authority = trustme.CA()
        self.source, self.destination = (
            NodeProcess(
                directory / name, self.panel, authority, proxied=True, port=port, pool=pool
            )
            for name, port, pool in zip(
                ("source", "destination"), (25565, 25566), pools, strict=True
            )
        )

    def add_server(self, size: int = 100_000, **settings: Any) -> None:
        """Put a server on the source; `size` bytes of it do not compress."""
        process = settings.pop("process", process_configuration())
        self.panel.add_server(server_settings(UUID, **settings), self.source.node, process)
        world = self.source.files() / "world"
        world.mkdir(parents=True)
        (world / "region.mca").write_bytes(hashlib.shake_128(b"seed").digest(size))
        (world / "same.mca").hardlink_to(world / "region.mca")
        (world / "empty").mkdir()
        (self.source.files() / "latest").symlink_to("world/region.mca")

    async def start(
        self, source: dict[str, Any] | None = None, destination: dict[str, Any] | None = None
    ) -> None:
        if not self.source.files().exists():
            self.add_server()
        await self.source.start_loaded(**(source or {}))
        await self.destination.start_loaded(**(destination or {}))

    @property
    def owner(self) -> NodeProcess:
        """The node that has the server, according to the Panel."""
        at_source = self.panel.node_of(UUID) is self.source.node
        return self.source if at_source else self.destination

    async def transfer(self, **fields: Any) -> None:
        await self.panel.transfer(UUID, self.destination.node, **fields)

    async def cancel(self, node: NodeProcess) -> int:
        path = f"/api/servers/{UUID}/transfer"
        if node is self.destination:
            path = f"/api/transfers/{UUID}"
        status, _ = await self.panel.ask(node.node, "DELETE", path)
        return status

    async def close(self) -> None:
        await self.source.close()
        await self.destination.close()
        await self.panel.close()
