"""Two real daemons on one machine, their Panel, and a server that is to move."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import trustme

from tests.daemon.daemon import Daemon, reactor
from tests.daemon.house import UUID
from wingsd.testing import Panel, process_configuration, server_settings
from wingsd.testing.line import SlowLine
from wingsd.transfers.firstminute import MINUTE

__all__ = ["Pair", "Peer"]

#: Bytes a second: an archive of some MiB is under way for long.
SLOW = 256 * 1024.0
FAST = float("inf")


class Peer(Daemon):
    """One of the nodes, behind a line that can be made slow."""

    def __init__(
        self, directory: Path, panel: Panel, authority: trustme.CA, port: int, pool: str = ""
    ) -> None:
        directory.mkdir()
        super().__init__(directory)
        #: Its name at the Panel, and the storage pool that its volume is then shared by.
        self.uuid, self.pool = str(uuid5(NAMESPACE_URL, directory.name)), pool
        home = directory.parent if pool else directory
        self.volumes = home / "volumes"
        self.staging = home / f".volumes.staging{f'.{self.uuid}' if pool else ''}"
        self.authority = directory.parent / "ca.pem"
        self._panel = panel
        self._pem = directory / "node.pem"
        issued = authority.issue_cert("127.0.0.1")
        issued.private_key_and_cert_chain_pem.write_to_path(str(self._pem))
        self.node = panel.add_node(
            "https://127.0.0.1:1", reachable=True, ca=str(self.authority), port=port
        )
        self.line: SlowLine | None = None
        #: More of `system.transfers` in its configuration.
        self.transfers: dict[str, Any] = {}
        #: The log lines of the daemons before this one.
        self.past: list[str] = []

    def configuration(self) -> dict[str, Any]:
        """Return what the Panel would print for this node."""
        shared = {"storage_pool": {"enabled": True, "pool_name": self.pool}} if self.pool else {}
        return {
            "uuid": self.uuid,
            "token_id": self.node.token_id,
            "token": self.node.token,
            "remote": self._panel.url,
            "api": {"ssl": {"enabled": True, "cert": str(self._pem), "key": str(self._pem)}},
            "system": {
                "data": str(self.volumes),
                "root_directory": str(self.directory),
                "backup_directory": str(self.directory / "backups"),
                "log_directory": str(self.directory / "logs"),
                "username": "",
                "user": {"uid": os.getuid(), "gid": os.getgid()},
                "transfers": {"ca_file": str(self.authority), **shared, **self.transfers},
            },
            "docker": {"enabled": False},
            "control": {"socket": str(self.control)},
        }

    async def start(self, **changes: Any) -> None:
        """Start it, whole keys replaced; return when it knows its servers."""
        self.past += self.log
        self.spawn(self.command(self.configuration() | changes, "-e", "tcp:0:interface=127.0.0.1"))
        await self._reachable()
        await self.wait_for_line("servers loaded")

    async def start_alone(self, **changes: Any) -> None:
        """Start it where no Panel answers; return when it listens."""
        remote = {"remote": "http://127.0.0.1:9"}
        configuration = self.configuration() | remote | changes
        self.past += self.log
        self.spawn(self.command(configuration, "-e", "tcp:0:interface=127.0.0.1"))
        await self._reachable()

    async def _reachable(self) -> None:
        port = int((await self.listening()).rpartition(":")[2])
        if self.line is None:
            self.line = SlowLine(reactor, port, FAST)
            self.node.address = f"https://127.0.0.1:{self.line.entrance}"
        # The address stays when the node is started again.
        self.line.port = port

    async def close(self) -> None:
        """End it."""
        await super().close()
        if self.line is not None:
            await self.line.close()

    def age(self) -> None:
        """While it is not running, have its transfers begun a minute before.

        What the Panel denies is then over, and it need not be asked again for a minute.
        """
        with closing(sqlite3.connect(self.directory / "wingsd.db")) as journal, journal:
            journal.execute("UPDATE transfers SET begun = begun - ?", (MINUTE,))

    def files(self) -> Path:
        """Return where the server's files are, or would be."""
        return self.volumes / UUID

    def left(self) -> list[str]:
        """Return what there is of the server in this node's directories."""
        found = []
        # Unlike Path.rglob, it minds nothing that vanishes meanwhile.
        for directory, directories, files in os.walk(self.directory):
            names = [name for name in (*directories, *files) if UUID in name]
            found += [os.path.relpath(f"{directory}/{name}", self.directory) for name in names]
        return sorted(found)

    def states(self) -> list[str]:
        """Return the states of transfers that the log tells."""
        marked = (line.partition(f"{UUID}: state ")[2] for line in self.log)
        return [state.partition(":")[0] for state in marked if state]


class Pair:
    """A source and a destination; with `pools`, the name that each has for their one volume."""

    def __init__(self, directory: Path, pools: tuple[str, str] = ("", "")) -> None:
        self.panel = Panel()
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(directory / "ca.pem"))
        here, there = pools
        self.source = Peer(directory / "source", self.panel, authority, 25565, here)
        self.destination = Peer(directory / "destination", self.panel, authority, 25566, there)

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
        """Start the Panel and both nodes, each with changes to its configuration."""
        await self.panel.listen(reactor)
        await self.source.start(**(source or {}))
        await self.destination.start(**(destination or {}))

    @property
    def has_it(self) -> Peer:
        """The node that has the server, by the Panel's word."""
        at_source = self.panel.node_of(UUID) is self.source.node
        return self.source if at_source else self.destination

    async def transfer(self, **fields: Any) -> None:
        """Have the Panel begin the move; `fields` are put into what the source is told."""
        await self.panel.transfer(UUID, self.destination.node, **fields)

    async def cancel(self, peer: Peer) -> int:
        """Have the Panel cancel the move at one of the nodes; return the answer's status."""
        path = f"/api/servers/{UUID}/transfer"
        if peer is self.destination:
            path = f"/api/transfers/{UUID}"
        status, _ = await self.panel.ask(peer.node, "DELETE", path)
        return status

    async def close(self) -> None:
        """End everything."""
        await self.source.close()
        await self.destination.close()
        await self.panel.close()
