"""A node with other collaborators than the daemon's: the base of the harnesses of one node."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import attrs
from twisted.internet.defer import Deferred, succeed

from tests.support.database import opened
from tests.support.reactor import reactor
from tests.support.recording_observer import RecordingObserver
from tests.support.workers import CutOffWorkers, SynchronousWorkers
from wingsd.api.context import NodeContext
from wingsd.app.wiring import build_node
from wingsd.config import Config, MachineIdConfig, SystemConfig, TransfersConfig, User
from wingsd.egg_files.rewriters import Rewriters
from wingsd.events import Event, EventBus
from wingsd.statedb import MoveRecord, TransferRecord
from wingsd.threadio import Workers
from wingsd.transfers.recovery import Recovery


class CallRecorder:
    """The calls of several fakes, in one order, and what each call meets by its name.

    `before` is called first, `faults` are raised, `waits` are awaited.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.before: dict[str, Callable[[], object]] = {}
        self.faults: dict[str, Exception] = {}
        self.waits: dict[str, Deferred[None]] = {}

    def record(self, name: str) -> None:
        self.calls.append(name)
        self.before.get(name, lambda: None)()
        if name in self.faults:
            raise self.faults[name]

    async def call(self, name: str) -> None:
        """Record a call that takes its time before it fails."""
        self.calls.append(name)
        self.before.get(name, lambda: None)()
        await self.wait(name)
        if name in self.faults:
            raise self.faults[name]

    def wait(self, name: str) -> Deferred[None]:
        return self.waits.get(name, succeed(None))

    def release(self) -> None:
        for waiting in self.waits.values():
            if not waiting.called:
                waiting.callback(None)


class TransferEvents:
    """The statuses and the lines that the console of a server gets."""

    def __init__(self, bus: EventBus, server: str) -> None:
        self.states: list[str] = []
        self.lines: list[str] = []
        bus.subscribe(server, self._note)

    def _note(self, event: Event) -> None:
        where = {"transfer status": self.states, "transfer logs": self.lines}
        where.get(event.name, []).extend(event.args)


class _OnePool:
    """One pool in place of each of `Pools`; the database is used in the caller's thread."""

    def __init__(self, workers: Workers, rewriters: Rewriters | None) -> None:
        self._shared = CutOffWorkers(workers)
        rewriting = cast("Workers", self._shared)
        self.rewriters = rewriters or Rewriters(rewriting, rewriting)
        self.database = CutOffWorkers(SynchronousWorkers())

    def __getattr__(self, name: str) -> CutOffWorkers:
        return self._shared

    def cut_off(self) -> None:
        """Have whatever waits for one of these threads wait for good."""
        self._shared.cut_off()
        self.database.cut_off()

    def stop(self) -> None:
        """Nothing to stop: whoever started the threads stops them."""


def node_config(
    directory: Path, transfers: TransfersConfig | None = None, **options: Any
) -> Config:
    """Return the configuration of a node that has all of its files below `directory`.

    `options` are of `Config`, or of its `system`.
    """
    transfers = transfers or TransfersConfig()
    system: dict[str, Any] = {
        "root_directory": str(directory),
        "data": str(directory / "volumes"),
        "backup_directory": str(directory / "backups"),
        "log_directory": str(directory / "logs"),
        "machine_id": MachineIdConfig(directory=str(directory / "machine-id")),
        "tmp_directory": str(directory / "tmp"),
        "user": User(os.getuid(), os.getgid()),
        "transfers": attrs.evolve(transfers, disk_reserve=0, inode_reserve=0),
    }
    keys = attrs.fields_dict(SystemConfig).keys() & options.keys()
    given = {key: options.pop(key) for key in keys}
    usual: dict[str, Any] = {
        "token_id": "id",
        "token": "secret",
        "remote": "https://panel.invalid",
    }
    return Config(system=SystemConfig(**system | given), **usual | options)


class Harness(NodeContext):
    """A node, where tests have a part in place of the Panel and of containers.

    Its files, its state database and its threads are real.
    """

    def __init__(
        self,
        config: Config,
        workers: Workers,
        panel: Any,
        environment: Any,
        servers: Any = None,
        *,
        port: int = 0,
        clock: Any = reactor,
        rewriters: Rewriters | None = None,
    ) -> None:
        """None for the Panel or the environment is the daemon's own."""
        heard: Any = RecordingObserver()
        pools: Any = _OnePool(workers, rewriters)
        self.heard = heard
        made = build_node(
            config,
            f"tcp:{port}:interface=127.0.0.1",
            clock,
            pools=pools,
            observer=heard,
            panel=panel,
            containers=environment,
            servers=servers,
        )
        vars(self).update(vars(made.context))
        made.context = self  # of which tests replace parts
        self.node, self.pools = made, pools
        self.http = made.http
        self.volume = self.receiver.parts.volume
        self.bus = self.sender.parts.step_logs.bus
        opened(self.store)
        if not config.system.transfers.durable and (connection := self.store._connection):
            connection.execute("PRAGMA synchronous = OFF")
        self.data = Path(config.system.data)
        self.backup_directory = Path(config.system.backup_directory)
        self.logs = Path(config.system.log_directory)

    def make_recovery(
        self, unfinished: list[TransferRecord], moves: Sequence[MoveRecord] = ()
    ) -> Recovery:
        return self.node.recovery(unfinished, moves)

    def cut_off(self) -> None:
        """Have what is under way not continue, as after a kill."""
        self.callbacks.stop()
        self.pools.cut_off()

    def left(self) -> list[str]:
        """Return the names in the directories of servers and of staging."""
        places = (self.data, Path(self.staging.path))
        names = [path.name for place in places for path in place.iterdir()]
        return sorted(name for name in names if name != ".lock")
