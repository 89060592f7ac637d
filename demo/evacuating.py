"""A node with eight games empties itself by `wingsctl evacuate`; a page shows them."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from html import escape
from pathlib import Path
from typing import Any
from uuid import UUID

from twisted.internet.defer import Deferred, gatherResults
from twisted.web.resource import Resource
from twisted.web.server import Site

from demo.game import Game
from demo.node import RunningNode, free_port
from demo.output import Failed, check, heading, line
from demo.players import Player
from demo.process import Process
from demo.testbed import Testbed
from demo.watch import until
from tests.support import server_settings
from tests.support.application_api import KEY

__all__ = ["Evacuating"]

_GAMES = 8
SERVERS = [str(UUID(int=(8 << 76) | (4 << 60) | number)) for number in range(1, _GAMES + 1)]
_PAGE = """<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="1">
<title>Eight games</title><style>body {{ font: 16px sans-serif; margin: 3em }}
td {{ padding: .3em 1.5em .3em 0 }}</style><h1>Eight games</h1><table>{rows}</table>"""


class _Page(Resource):
    """A table of the games: their node, and for how long a player got no answer."""

    isLeaf = True

    def __init__(self, evacuating: Evacuating) -> None:
        Resource.__init__(self)
        self._evacuating = evacuating

    def render_GET(self, request: Any) -> bytes:
        """Return the table."""
        cells = [[escape(each) for each in row] for row in self._evacuating.rows()]
        rows = "".join(f"<tr><td>{'<td>'.join(row)}" for row in cells)
        request.setHeader("Content-Type", "text/html; charset=utf-8")
        return _PAGE.format(rows=rows).encode()


class Evacuating:
    """The steps. `step` is the title of the current one."""

    def __init__(self, reactor: Any, game: Game) -> None:
        self.testbed = Testbed(reactor, game, SERVERS)
        self.step = ""
        self._reactor = reactor
        self._game = game
        self._panel = self.testbed.panel
        self._players: dict[str, Player] = {}
        self._key = self.testbed.directory / "panel.key"
        self._plan = self.testbed.directory / "evacuation.json"

    async def run(self, keep: bool) -> None:
        """Run and print all steps. Raises `Failed` at the first unexpected result."""
        a, b = self.testbed.a, self.testbed.b
        self._begin("Two nodes, one Panel, and eight games on node A")
        await self.testbed.start()
        await self._install(a)
        page: Any = self._reactor.listenTCP(0, Site(_Page(self)), interface="127.0.0.1")
        line("page", f"http://127.0.0.1:{page.getHost().port}")
        try:
            self._begin("The nodes are paired")
            await self._pair(a, b)
            self._begin("The plan")
            await self._evacuate(a, "--to", b.node.address, "--dry-run")
            self._begin("Node A empties itself, while the games are played")
            await self._evacuate(a, "--to", b.node.address)
            await self._verify(b)
            if keep:
                self._suggest(b)
                await Deferred()
        finally:
            await page.stopListening()

    async def clean_up(self) -> None:
        """Remove everything that was created."""
        for player in self._players.values():
            player.leave()
        await self.testbed.clean_up()

    def rows(self) -> list[tuple[str, ...]]:
        """Return the rows of the page."""
        found: list[tuple[str, ...]] = []
        for number, (uuid, player) in enumerate(self._players.items(), 1):
            at = "B" if self._panel.node_of(uuid) is self.testbed.b.node else "A"
            moving = "moving" if self._panel.in_transfer(uuid) else f"on node {at}"
            silence = f"{player.silence:.1f} s without an answer at most"
            found.append((f"game {number}", moving, silence))
        return found

    def _begin(self, step: str) -> None:
        self.step = step
        heading(step)

    async def _install(self, node: RunningNode) -> None:
        game, script = self._game, {"entrypoint": "/bin/sh", "script": self._game.script}
        for number, uuid in enumerate(SERVERS):
            port, name = free_port(), f"game {number + 1}"
            settings = server_settings(
                uuid, image=f"~{game.image}", invocation=game.invocation, name=name, port=port
            )
            self._panel.add_allocation(node.node, port, uuid)
            # Both nodes are on one machine, where each port is used once.
            other = free_port()
            self._panel.add_allocation(self.testbed.b.node, other)
            await self._panel.create_server_on(node.node, settings, game.process, script=script)
            await until(self._reactor, partial(self._panel.installed, uuid), "an installation")
            await self._panel.power(uuid, "start")
            player = Player(
                self._reactor, lambda each: game.ask(self._reactor, each), [port, other]
            )
            self._players[uuid] = player
            await player.join()
        line("games", f"{len(SERVERS)}, each with a player who asks it ten times a second")

    async def _pair(self, source: RunningNode, destination: RunningNode) -> None:
        address = destination.node.address
        told = await destination.wingsctl("pair", "--url", address)
        words = next(each for each in told.splitlines() if "pair --accept" in each)
        await source.wingsctl(*shlex.split(words)[1:])
        line("paired", f"node {source.name} may send copies to node {destination.name}")
        self._key.write_text(KEY)
        self._key.chmod(0o600)

    def _words(self, node: RunningNode, *words: str) -> list[str]:
        command = [sys.executable, "-m", "wingsd.cli", "--socket", str(node.control), "evacuate"]
        command += ["--plan", str(self._plan), "--panel-key-file", str(self._key)]
        return [*command, "--family", "pelican", *words]

    async def _evacuate(self, node: RunningNode, *words: str) -> None:
        process = Process(self._reactor, self._words(node, *words), Path.cwd())
        status = await process.ended
        if status:
            raise Failed(f"wingsctl evacuate ended with the status {status}")

    async def _verify(self, node: RunningNode) -> None:
        for uuid in SERVERS:
            await until(self._reactor, partial(self._runs, uuid, node), "the start of a game")
        await gatherResults(
            [Deferred.fromCoroutine(each.heard_again()) for each in self._players.values()]
        )
        here = [uuid for uuid in SERVERS if self._panel.node_of(uuid) is node.node]
        check("Panel says", here == SERVERS, f"{len(here)} games are on node {node.name}")
        for number, player in enumerate(self._players.values(), 1):
            player.leave()
            check(f"game {number}", player.answers, f"{player.silence:.1f} s without an answer")

    @staticmethod
    def _runs(server: str, node: RunningNode) -> bool:
        return f"{server}: running" in node.log

    def _suggest(self, node: RunningNode) -> None:
        heading("Everything keeps running; Ctrl-C ends and removes it. To bring the games back:")
        a = self.testbed.a
        wingsctl = f"{sys.executable} -m wingsd.cli --socket"
        print(f"{wingsctl} {a.control} pair --url {a.node.address}")
        print(f"{wingsctl} {node.control} pair --accept ...   # as it has printed")
        back = ["--back", str(self._plan), "--to", a.node.address, "--family", "pelican"]
        print(shlex.join([*self._words(node)[:6], "--panel-key-file", str(self._key), *back]))
