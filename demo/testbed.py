"""The demo's test bed: a Panel, two nodes, one engine, and a game, all removed at the end."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import trustme
from twisted.internet.threads import deferToThread

from demo.engine import Engine
from demo.game import Game
from demo.node import RunningNode
from demo.output import line
from tests.support import Panel

__all__ = ["Testbed"]

CACHE = Path(__file__).parent.parent / ".cache"
#: Lines of a node's log that are shown when something went wrong.
_LOG_LINES = 25


class Testbed:
    """Panel, nodes, engine and game.

    `servers` are the servers whose containers are removed at the end.
    """

    def __init__(self, reactor: Any, game: Game, servers: Sequence[str]) -> None:
        self.reactor = reactor
        self.game = game
        self._servers = servers
        # Cleaned up in reverse order.
        self._cleanup = AsyncExitStack()
        self.directory = CACHE / "demo"
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        self._later(deferToThread, shutil.rmtree, self.directory, ignore_errors=True)
        self.panel = Panel()
        authority = trustme.CA()
        self.a, self.b = (
            RunningNode(reactor, name, self.directory / name, self.panel, authority)
            for name in ("A", "B")
        )
        self.engine: Engine

    async def start(self) -> None:
        """Start everything, and print it. Raises `Failed`."""
        self.engine = engine = await deferToThread(Engine)
        self._later(self._remove_from_engine)
        line("engine", f"Docker {engine.version}, one for both nodes")
        line("game", self.game.title)
        origin = await deferToThread(self.game.make_image, engine, CACHE)
        line("image", f"{self.game.image}, {origin}")
        line("Panel", await self.panel.listen(self.reactor))
        self._later(self.panel.close)
        for node in (self.a, self.b):
            node.configure(self.panel.url)
            self._later(node.stop)
            pid = await node.start()
            line(f"node {node.name}", f"{node.node.address} (twistd -n wingsd, process {pid})")

    def _later(self, undo: Callable[..., Awaitable[Any]], *args: Any, **options: Any) -> None:
        self._cleanup.push_async_callback(undo, *args, **options)

    async def clean_up(self) -> None:
        """Remove everything that was made. Raises `Failed` when a node does not end well."""
        await self._cleanup.aclose()

    async def _remove_from_engine(self) -> None:
        await deferToThread(self.engine.remove_containers, self._servers)
        if not self.game.keeps_image:
            await deferToThread(self.engine.remove_image, self.game.image)
        await deferToThread(self.engine.close)

    def log_tails(self) -> str:
        """Return the ends of both nodes' logs."""
        tails = []
        for node in (self.a, self.b):
            tails += [f"--- node {node.name}", *node.log.splitlines()[-_LOG_LINES:]]
        return "\n".join(tails)
