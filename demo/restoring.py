"""A backup of the game while it runs, whose world is then broken on purpose and restored."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import attrs

from demo.node import RunningNode
from demo.output import Failed, check, mib
from demo.watch import Watch, until
from tests.support import Panel

__all__ = ["Restoring"]

BACKUP = "5f3c2d6e-8a41-4b7f-9c0d-1e2f3a4b5c70"


@attrs.frozen
class Restoring:
    """The backup of `server`, which runs on `node`, and its page `watch`.

    What a user deletes of its world is the file `treasure`.
    """

    reactor: Any
    panel: Panel
    server: str
    node: RunningNode
    watch: Watch
    treasure: str

    async def run(self) -> None:
        """Make the backup, break the world, and restore it. Raises `Failed`."""
        await self._make()
        await self._break()
        await self._restore()

    async def _make(self) -> None:
        known = self.panel.backups.add(BACKUP, self.server)
        await self._ask("backup", {"adapter": "wings", "uuid": BACKUP, "ignore": ""})
        told = await until(self.reactor, lambda: known.told, "the report of the backup")
        text = f"made while the game runs: {mib(told['size'])}, {told['checksum_type']}"
        check("backup", told["successful"], text)

    async def _break(self) -> None:
        await self._ask("files/delete", {"root": "/", "files": [self.treasure]})
        gone = not (self.node.files(self.server) / self.treasure).exists()
        check("broken", gone, f"a user deletes {self.treasure} of the running game")

    async def _restore(self) -> None:
        await self.panel.restore(self.server, BACKUP, truncate_directory=True)
        await until(
            self.reactor,
            lambda: not self.panel.restoring(self.server),
            "the report of the restore",
        )
        check("Panel", self.panel.restored(self.server), "got a report of success")
        await self.watch.saw("daemon message", "Completed server restoration from local backup.")
        check("page", True, "Completed server restoration from local backup.")

    async def _ask(self, path: str, body: dict[str, Any]) -> None:
        whole = f"/api/servers/{self.server}/{path}"
        status, told = await self.panel.ask(self.node.node, "POST", whole, body)
        if status not in (HTTPStatus.ACCEPTED, HTTPStatus.NO_CONTENT):
            raise Failed(f"POST {whole}: {status}, {told}")
