"""A point of the game's history; its world is griefed, and rewound while a player waits."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

import attrs

from demo.node import RunningNode
from demo.output import Failed, check, line
from demo.players import Player
from demo.watch import Watch
from tests.support import Panel

__all__ = ["Rewinding"]

_GRIEF = "world/griefed"


@attrs.frozen
class Rewinding:
    """The rewind of `server`, which runs on `node` with a `player` in it, and its page `watch`.

    What is griefed of its world is the file `treasure`, and one that is added.
    """

    panel: Panel
    server: str
    node: RunningNode
    watch: Watch
    player: Player
    treasure: str

    async def run(self) -> None:
        """Make a point, grief the world, and rewind it. Raises `Failed`."""
        point = await self._make()
        await self._grief()
        await self._rewind(point)

    async def _make(self) -> int:
        await self.node.wingsctl("history", "make", self.server)
        found = json.loads(await self.node.wingsctl("history", self.server, "--json"))
        newest = found["points"][0]
        line("history", f"point {newest['number']}: {newest['files']} files, while the game runs")
        return int(newest["number"])

    async def _grief(self) -> None:
        await self._ask("files/delete", {"root": "/", "files": [self.treasure]})
        await self._ask("files/create-directory", {"name": _GRIEF, "path": "/"})
        home = self.node.files(self.server)
        gone = not (home / self.treasure).exists() and (home / _GRIEF).is_dir()
        check("griefed", gone, f"{self.treasure} is deleted, {_GRIEF} is made")

    async def _rewind(self, point: int) -> None:
        order = ("rewind", self.server, "--to", str(point), "--yes", "--json")
        done = json.loads(await self.node.wingsctl(*order))
        text = f"{done['changes']} changes, the server was off for {done['seconds_off']:.1f} s"
        check("wingsctl", not done["differing"], text)
        await self.player.heard_again()
        await self.watch.saw("daemon message", "The server is rewound to")
        home = self.node.files(self.server)
        whole = (home / self.treasure).exists() and not (home / _GRIEF).exists()
        check("world", whole, f"{self.treasure} is there, {_GRIEF} is not")
        check("player", True, f"waited for {self.player.silence:.1f} s, stop and start included")

    async def _ask(self, path: str, body: dict[str, Any]) -> None:
        whole = f"/api/servers/{self.server}/{path}"
        status, told = await self.panel.ask(self.node.node, "POST", whole, body)
        if status not in (HTTPStatus.ACCEPTED, HTTPStatus.NO_CONTENT):
            raise Failed(f"POST {whole}: {status}, {told}")
