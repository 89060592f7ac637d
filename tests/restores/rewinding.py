"""A node in this process that rewinds a server to points of its history."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.restores.node import RestoreHarness
from tests.support.node_in_process import NodeInProcess, description
from tests.support.reactor import until
from tests.support.sample_server import UUID
from wingsd.config import HistoryConfig
from wingsd.panel.schemas import configuration_from_panel
from wingsd.restores.rewinding import OVER, Rewind, Rewinds

__all__ = ["LATER", "THEN", "RewindHarness", "rewinding"]

#: What the server had at the point, and what it has later.
THEN = {"server.properties": b"motd=old\n", "world/level.dat": b"level" * 1000}
LATER = {"world/level.dat": b"broken", "new": b"came later"}


@attrs.define(eq=False)
class RewindHarness(RestoreHarness):
    """The node; its server has the files of `THEN` at the point 1, and those of `LATER` now."""

    settings: dict[str, Any] = attrs.field(factory=dict, init=False)

    def open(self, **settings: Any) -> None:
        """Make the node; another one is to be closed before."""
        histories = self.directory / "history"
        histories.mkdir(exist_ok=True)
        history = HistoryConfig(directory=str(histories))
        self.node = NodeInProcess(self.directory, self.workers, history=history)
        self.node.panel.restored = self._restored
        self.settings = settings or self.settings
        configuration = configuration_from_panel(description(**self.settings))
        self.node.panel.known[UUID] = configuration
        self.node.servers.loaded = True

    async def enter(self) -> None:
        """Load the server, as the boot of a daemon does, after what was to be recovered."""
        stopped = self.node.rewinds.recover(self.node.store.rewinds())
        self.server = self.node.servers.get_or_add(self.node.panel.known[UUID])
        self.node.bus.subscribe(UUID, self.events.append)
        ran = await self.node.running.load()
        rewound = await self.node.rewinds.settle()
        self.node.running.start({*ran, *stopped} - rewound, self.node.servers, stopped)

    @property
    def rewinds(self) -> Rewinds:
        return self.node.rewinds.get()

    async def prepare(self) -> None:
        """Make a point of the files of `THEN`, and the files `LATER`."""
        await self.enter()
        shutil.rmtree(self.home)
        self.home.mkdir()
        self.write(THEN)
        made = await self.node.histories.get().make(self.server)
        assert made is not None
        assert made.number == 1
        (self.home / "server.properties").unlink()
        self.write(LATER)

    def write(self, files: dict[str, bytes]) -> None:
        for name, content in files.items():
            path = self.home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    async def rewind(self, number: int | None = 1, *, is_dry_run: bool = False) -> Rewind:
        """Rewind the server, and return when that is over."""
        made = await self.rewinds.begin(self.server, number, is_dry_run=is_dry_run)
        return await self.over(made)

    async def over(self, rewind: Rewind) -> Rewind:
        await until(lambda: rewind.state in OVER)
        tasks = self.rewinds._tasks
        await until(lambda: not tasks._running)
        return rewind

    async def die(self) -> None:
        """Close the node as if it was killed, its server's program with it; make another one."""
        self.node.cut_off()
        await self.node.close()
        self.events.clear()
        self.open()

    def said(self, text: str) -> bool:
        return any(text in line for line in self.told("daemon message"))

    async def close(self) -> None:
        await self.node.rewinds.stop()
        await self.node.histories.stop()
        await self.node.close()
        self.workers.stop()


@pytest.fixture
def rewinding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RewindHarness]:
    # Its file system is trusted without a measurement, and nothing is waited for.
    monkeypatch.setattr("wingsd.moves.unchanged.measure", lambda directory, kernel: "")
    monkeypatch.setattr("wingsd.history.capture._PAUSE", 0.02)
    made = RewindHarness(tmp_path)
    pytest_twisted.blockon(Deferred.fromCoroutine(made.prepare()))
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))
