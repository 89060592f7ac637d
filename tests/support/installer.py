"""Installers in memory, and installations that use them: for tests without an engine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import attrs

from tests.support.faults import Hang
from wingsd.callbacks import CallbackQueue
from wingsd.config import Config
from wingsd.docker.installer_spec import installer_environment
from wingsd.docker.runtime import InstallerState, PullListener, Watcher
from wingsd.errors import EnvironmentFailed
from wingsd.panel.schemas import InstallScript, Settings
from wingsd.servers.install_files import InstallLog, ScriptDirectories
from wingsd.servers.installation import InstallParts
from wingsd.servers.installations import Installations
from wingsd.servers.taken_over import TakenOver
from wingsd.statedb import StateDatabase
from wingsd.threadio import Workers

__all__ = ["FakeInstaller", "FakeScript", "fake_installations"]


@attrs.define(eq=False)
class FakeScript:
    """An installer's container, and the `Running` that wingsd holds of it."""

    uuid: str
    script: InstallScript
    #: The host's directory with the script.
    directory: str
    #: What it has written.
    output: bytes = b""
    watcher: Watcher | None = None
    status: int | None = None
    out_of_memory: bool = False
    has_started: bool = False
    #: Whether Wings made it.
    is_foreign: bool = False
    was_lost: bool = False

    @property
    def runs(self) -> bool:
        return self.has_started and self.status is None

    def say(self, data: bytes) -> None:
        self.output += data
        if self.watcher is not None:
            self.watcher.output(data)

    def end(self, status: int | None = 0, *, out_of_memory: bool = False) -> None:
        """End by itself; None is a container that somebody has removed."""
        self.status = -1 if status is None else status
        self.out_of_memory = out_of_memory
        watcher, self.watcher = self.watcher, None
        if watcher is not None:
            watcher.ended(status, out_of_memory=out_of_memory)

    def detach(self) -> None:
        self.watcher = None

    async def command(self, line: str) -> None:
        raise NotImplementedError

    signal = command

    async def stop(self) -> None:
        raise NotImplementedError

    kill = stop


class FakeInstaller:
    """An `Installer` in memory. Scripts do nothing by themselves; `calls` are by method's name."""

    def __init__(self) -> None:
        self.enabled = True
        self.scripts: dict[str, FakeScript] = {}
        self.calls: list[str] = []
        #: What a method, by name, meets until it is taken out.
        self.faults: dict[str, EnvironmentFailed | Hang] = {}
        #: What a script has written before `start` returns.
        self.first_output = b""
        #: The lines of each pull.
        self.pulls: tuple[str | None, ...] = ("", "Downloading [=>] 1 MB/2 MB", None)

    async def _called(self, name: str) -> None:
        self.calls.append(name)
        fault = self.faults.get(name)
        if isinstance(fault, Hang):
            await fault.wait()
        elif fault is not None:
            raise fault

    async def create(
        self, settings: Settings, script: InstallScript, directory: str, listener: PullListener
    ) -> None:
        await self._called("create")
        for line in self.pulls:
            listener(line)
        self.scripts[settings.uuid] = FakeScript(settings.uuid, script, directory)

    async def start(self, uuid: str, watcher: Watcher) -> FakeScript:
        await self._called("start")
        script = self.scripts[uuid]
        script.has_started, script.watcher = True, watcher
        if self.first_output:
            script.say(self.first_output)
        return script

    async def find(self, uuid: str) -> InstallerState | None:
        await self._called("find")
        script = self.scripts.get(uuid)
        if script is None:
            return None
        return InstallerState(
            script.has_started,
            script.runs,
            script.status,
            script.out_of_memory,
            is_foreign=script.is_foreign,
            image=script.script.container_image,
            entrypoint=script.script.entrypoint,
        )

    async def adopt(self, uuid: str, watcher: Watcher) -> FakeScript | None:
        await self._called("adopt")
        script = self.scripts.get(uuid)
        if script is None or not script.runs:
            return None
        script.watcher = watcher
        return script

    async def copy_output(self, uuid: str, write: Callable[[bytes], object]) -> None:
        await self._called("copy_output")
        if uuid in self.scripts:
            write(self.scripts[uuid].output)

    async def remove(self, uuid: str) -> None:
        await self._called("remove")
        script = self.scripts.pop(uuid, None)
        if script is not None and script.runs:
            script.end(137)

    async def all(self) -> list[str]:
        await self._called("all")
        return [*self.scripts]


def fake_installations(
    config: Config,
    panel: Any,
    database: StateDatabase,
    disk: Workers,
    reactor: Any,
    installer: Any = None,
    *,
    shows_outcome: bool = False,
) -> Installations:
    """Return installations of a node, with an installer in memory unless another is given."""
    parts = InstallParts(
        panel=panel,
        installer=installer or FakeInstaller(),
        scripts=ScriptDirectories(config.system.tmp_directory),
        log=partial(InstallLog.configured, config),
        variables=partial(installer_environment, config),
        database=database,
        disk=disk,
        reactor=reactor,
        throttles=config.throttles,
        limit=config.docker.installer_limits.timeout,
    )
    callbacks = CallbackQueue(panel, database, reactor)
    taken_over = TakenOver(parts, config.system.root_directory)
    return Installations(parts, callbacks, taken_over, shows_outcome=shows_outcome)
