"""A server sent by its Panel's order, as each family's gives it, to a node of that family."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet import reactor as installed_reactor

from tests.families.endpoint import Connection, site
from tests.families.nodes import FamilyNode
from tests.families.recordings import BACKUPS, LOG
from tests.support.configurations import config
from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.support.sender import Sender
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL
from wingsd.threadio import TokenBucket, Workers

reactor: Any = installed_reactor
#: What the order of each family's Panel has beside the address and the token.
ORDERS: Mapping[str, Mapping[str, Any]] = {
    PTERODACTYL: {"server_id": UUID},
    PELICAN: {"backups": [*BACKUPS]},
    CALAGOPUS: {
        "backups": [*BACKUPS],
        "archive_format": "tar_zstd",
        "compression_level": "good_speed",
    },
}


class Departure:
    """A node with a server, its backups and the log of its installation, and where it goes.

    With a `rate`, in bytes a second, it is sent no faster.
    """

    def __init__(
        self,
        directory: Path,
        workers: Workers,
        destination: FamilyNode,
        family: str,
        rate: int = 0,
    ) -> None:
        self.sender = Sender(directory, workers, TokenBucket(reactor, rate) if rate else None)
        self.destination = destination
        self._order = ORDERS[family]
        self.log = self.sender.logs / "install" / f"{UUID}.log"
        self.log.parent.mkdir(parents=True)
        self.log.write_bytes(LOG)
        for place, (uuid, data) in zip((UUID, "."), BACKUPS.items(), strict=True):
            file = self.sender.backup_directory / place / f"{uuid}.tar.gz"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)

    async def send(self) -> None:
        """Have the Panel give its order; return when all is over."""
        assert await self.order() == (202, "")
        await until(lambda: not self.sender.transfers.servers)

    async def order(self) -> tuple[int | None, str]:
        """Have the Panel give its order; return the answer."""
        order = {
            "url": self.destination.url,
            "token": "Bearer a.b.c",
            "server": {"uuid": UUID, "start_on_completion": False},
        }
        return await self._ask("POST", json.dumps(order | dict(self._order)).encode())

    async def cancel(self) -> tuple[int | None, str]:
        """Have the Panel cancel it; return the answer."""
        return await self._ask("DELETE", b"")

    async def _ask(self, method: str, body: bytes) -> tuple[int | None, str]:
        node = config()
        servers = type("Servers", (), {"get": lambda _, uuid: self.sender.server})()
        connection = Connection(site(node, servers=servers, sender=self.sender.transfers))
        lines = [f"{method} /api/servers/{UUID}/transfer HTTP/1.1", "Host: node"]
        lines += [f"Authorization: Bearer {node.token}", f"Content-Length: {len(body)}"]
        await connection.send(["\r\n".join([*lines, "", ""]).encode(), body])
        return await connection.answer()

    @property
    def has_moved(self) -> bool:
        """Whether it is the destination's now, as far as the source knows."""
        return self.sender.states[-2:] == ["success", "completed"]

    def stays(self, reason: str) -> bool:
        """Return whether the server stays where it is, all of it, and people read why."""
        sender = self.sender
        return (
            sender.said(reason)
            and sender.states[-2:] == ["failed", "failure"]
            and sender.panel.calls.count("failure") == 1
            and sender.calls[-1] == "restore"
            and sender.server.hold == ""
        )

    async def close(self) -> None:
        await self.sender.close()
        await self.destination.close()
        self.sender.store.close()
