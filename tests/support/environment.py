"""What servers run in, in memory: for tests that want containers without an engine.

`FakeContainers` keeps what a real one would, and records what it is asked. The processes in it
do nothing by themselves: the test says what they write, use and end with.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime

import attrs

from tests.support.faults import Hang
from wingsd.docker.container import OWN_LABELS, check_variables
from wingsd.docker.engine import console_lines
from wingsd.docker.runtime import (
    ContainerRuntime,
    ContainerState,
    ContainerUsage,
    LayerProgress,
    PullListener,
    Watcher,
)
from wingsd.errors import EnvironmentFailed
from wingsd.panel.schemas import Build, InstallScript, Settings

#: The exit status of a process that was killed, 128 + SIGKILL.
KILLED = 137


@attrs.define(eq=False)
class FakeProcess:
    """A process that runs in a `FakeContainers`; also the `Running` that wingsd holds of it."""

    uuid: str
    _environment: FakeContainers
    #: None when nobody watches: detached, or ended.
    watcher: Watcher | None
    was_lost: bool = attrs.field(default=False, init=False)
    #: The console lines typed into it, without their ends.
    commands: list[str] = attrs.field(factory=list, init=False)

    def say(self, data: bytes) -> None:
        self._environment.consoles[self.uuid] += data
        if self.watcher is not None:
            self.watcher.output(data)

    def use(self, usage: ContainerUsage) -> None:
        if self.watcher is not None:
            self.watcher.usage(usage)

    def end(
        self, status: int | None = 0, *, out_of_memory: bool = False, of_node: bool = False
    ) -> None:
        self._environment.running.pop(self.uuid, None)
        watcher, self.watcher = self.watcher, None
        if watcher is not None:
            watcher.ended(status, out_of_memory=out_of_memory, of_node=of_node)

    @property
    def runs(self) -> bool:
        return self._environment.running.get(self.uuid) is self

    async def command(self, line: str) -> None:
        """Take a line; one of the environment's `quit_commands` ends the process."""
        await self._environment.called("command", self.uuid, line)
        if not self.runs:
            raise EnvironmentFailed(f"the container {self.uuid} is not running")
        self.commands.append(line)
        if line in self._environment.quit_commands:
            self._obey(0)

    async def signal(self, name: str) -> None:
        """End by any signal, unless stubborn."""
        await self._environment.called("signal", self.uuid, name)
        self._obey(KILLED if name == "SIGKILL" else 0, always=name == "SIGKILL")

    async def stop(self) -> None:
        """End, unless stubborn."""
        await self._environment.called("stop", self.uuid)
        self._obey(0)

    async def kill(self) -> None:
        """End in any case."""
        await self._environment.called("kill", self.uuid)
        self._obey(KILLED, always=True)

    def detach(self) -> None:
        self._environment.calls.append(("detach", self.uuid))
        self.watcher = None

    def _obey(self, status: int, *, always: bool = False) -> None:
        if self.runs and (always or self.uuid not in self._environment.stubborn):
            self.end(status)


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


@attrs.define(eq=False)
class FakeContainers(ContainerRuntime):
    """`ContainerRuntime` in memory. Scripts do nothing by themselves.

    `calls` has one tuple for every call, refused ones included: the method's name, the server's
    UUID, and a command's line or a signal's name, those of a `Running` among them.
    """

    enabled: bool = attrs.field(default=True, init=False)

    calls: list[tuple[str, ...]] = attrs.field(factory=list, init=False)
    #: The containers by server, each with the settings it was made from.
    containers: dict[str, Settings] = attrs.field(factory=dict, init=False)
    #: The processes that run, by server.
    running: dict[str, FakeProcess] = attrs.field(factory=dict, init=False)
    #: All that was written since the container was made, by server: what `logs` reads.
    consoles: dict[str, bytes] = attrs.field(factory=dict, init=False)
    #: Servers whose name another node's container has taken.
    foreign: set[str] = attrs.field(factory=set, init=False)
    #: Servers whose processes end by themselves or by a kill, and ignore all else.
    stubborn: set[str] = attrs.field(factory=set, init=False)
    #: What an update of limits warns of.
    update_warnings: list[str] = attrs.field(factory=list, init=False)
    #: What of a server's settings its container was made without.
    left_out: list[str] = attrs.field(factory=list, init=False)
    #: What the pull of an image shows.
    pull_lines: Sequence[str | LayerProgress | None] = attrs.field(default=(), init=False)
    #: Console lines that end a process which is not stubborn.
    quit_commands: Collection[str] = attrs.field(default=("stop", "end", "quit"), init=False)
    #: The installers, by server.
    scripts: dict[str, FakeScript] = attrs.field(factory=dict, init=False)
    #: What a script has written before `start_installer` returns.
    first_output: bytes = attrs.field(default=b"", init=False)
    #: The lines of each pull of an installer's image.
    pulls: tuple[str | None, ...] = attrs.field(
        default=("", "Downloading [=>] 1 MB/2 MB", None), init=False
    )
    #: What a method, by name, meets until it is taken out: raised, or waited for before it acts.
    faults: dict[str, EnvironmentFailed | Hang] = attrs.field(factory=dict, init=False)

    def run(self, settings: Settings) -> FakeProcess:
        """Have a server running that nobody watches yet, as after a restart of the daemon."""
        self.containers[settings.uuid] = settings
        self.consoles.setdefault(settings.uuid, b"")
        return self._run(settings.uuid, None)

    async def called(self, name: str, uuid: str, *more: str) -> None:
        self.calls.append((name, uuid, *more))
        await self._meet(name)

    async def _meet(self, name: str) -> None:
        fault = self.faults.get(name)
        if isinstance(fault, Hang):
            await fault.wait()
        elif fault is not None:
            raise fault

    async def create(self, settings: Settings) -> bool:
        await self.called("create", settings.uuid)
        check_variables(settings)
        self._check_owner(settings.uuid)
        if settings.uuid in self.containers:
            return False
        self._make(settings)
        return True

    async def name_conflict(self, uuid: str) -> str:
        await self.called("name_conflict", uuid)
        return f"the container {uuid} is another node's" if uuid in self.foreign else ""

    async def rehearse(self, settings: Settings) -> float:
        await self.called("rehearse", settings.uuid)
        check_variables(settings)
        return 0.75

    async def end_rehearsal(self, uuid: str) -> None:
        await self.called("end_rehearsal", uuid)

    async def recreate(
        self, settings: Settings, listener: PullListener | None = None
    ) -> list[str]:
        await self.called("recreate", settings.uuid)
        if listener is not None:
            for line in self.pull_lines:
                listener(line)
        check_variables(settings)
        self._check_owner(settings.uuid)
        self._check_stopped(settings.uuid)
        self._make(settings)
        return list(self.left_out)

    async def update(self, uuid: str, before: Build, after: Build) -> list[str]:
        """Change the limits of a running container."""
        await self.called("update", uuid)
        if uuid in self.running:
            self.containers[uuid] = attrs.evolve(self.containers[uuid], build=after)
        return list(self.update_warnings)

    async def remove(self, uuid: str) -> None:
        await self.called("remove", uuid)
        self.containers.pop(uuid, None)
        self.consoles.pop(uuid, None)
        if uuid in self.running:
            self.running[uuid].end(KILLED)

    async def start(self, uuid: str, watcher: Watcher) -> FakeProcess:
        """Run what was made; it says nothing until the test does."""
        await self.called("start", uuid)
        self._check_owner(uuid)
        self._check_stopped(uuid)
        if uuid not in self.containers:
            raise EnvironmentFailed(f"there is no container {uuid}")
        return self._run(uuid, watcher)

    async def adopt(self, uuid: str, watcher: Watcher) -> FakeProcess | None:
        """Watch what runs, in place of whoever did before."""
        await self.called("adopt", uuid)
        process = self.running.get(uuid)
        if process is not None:
            process.watcher = watcher
        return process

    async def logs(self, uuid: str, lines: int) -> list[str]:
        await self.called("logs", uuid)
        return console_lines(self.consoles.get(uuid, b""))[-lines:] if lines > 0 else []

    async def create_installer(
        self, settings: Settings, script: InstallScript, directory: str, listener: PullListener
    ) -> None:
        await self.called("create_installer", settings.uuid)
        for line in self.pulls:
            listener(line)
        self.scripts[settings.uuid] = FakeScript(settings.uuid, script, directory)

    async def start_installer(self, uuid: str, watcher: Watcher) -> FakeScript:
        await self.called("start_installer", uuid)
        script = self.scripts[uuid]
        script.has_started, script.watcher = True, watcher
        if self.first_output:
            script.say(self.first_output)
        return script

    async def find_installer(self, uuid: str) -> ContainerState | None:
        await self.called("find_installer", uuid)
        script = self.scripts.get(uuid)
        if script is None:
            return None
        return ContainerState(
            uuid,
            running=script.runs,
            exit_status=script.status,
            out_of_memory=script.out_of_memory,
            started=datetime.now(UTC) if script.has_started else None,
            labels={} if script.is_foreign else OWN_LABELS,
            image=script.script.container_image,
            command=(script.script.entrypoint,),
        )

    async def adopt_installer(self, uuid: str, watcher: Watcher) -> FakeScript | None:
        await self.called("adopt_installer", uuid)
        script = self.scripts.get(uuid)
        if script is None or not script.runs:
            return None
        script.watcher = watcher
        return script

    async def copy_output(self, uuid: str, write: Callable[[bytes], object]) -> None:
        await self.called("copy_output", uuid)
        if uuid in self.scripts:
            write(self.scripts[uuid].output)

    async def remove_installer(self, uuid: str) -> None:
        await self.called("remove_installer", uuid)
        script = self.scripts.pop(uuid, None)
        if script is not None and script.runs:
            script.end(137)

    async def installers(self) -> list[str]:
        await self._meet("installers")
        return [*self.scripts]

    def _make(self, settings: Settings) -> None:
        self.containers[settings.uuid] = settings
        self.consoles[settings.uuid] = b""

    def _run(self, uuid: str, watcher: Watcher | None) -> FakeProcess:
        self.running[uuid] = process = FakeProcess(uuid, self, watcher)
        return process

    def _check_owner(self, uuid: str) -> None:
        if uuid in self.foreign:
            raise EnvironmentFailed(f"the container {uuid} is another node's")

    def _check_stopped(self, uuid: str) -> None:
        if uuid in self.running:
            raise EnvironmentFailed(f"the container {uuid} is running")
