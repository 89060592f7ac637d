"""Servers with a Panel and an environment in memory, a test clock and real files."""

from __future__ import annotations

import os
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tests.support import FakeContainers, SynchronousWorkers
from tests.support.environment import FakeProcess
from tests.support.faults import meet
from tests.support.harness import Harness, node_config
from tests.support.reactor import ClockedReactor
from wingsd.config import CrashDetectionConfig, TransfersConfig
from wingsd.egg_files.rewriters import Rewriters
from wingsd.events import Event
from wingsd.panel.schemas import (
    Build,
    Configuration,
    InstallScript,
    Process,
    Settings,
    Startup,
    Stop,
)
from wingsd.servers.power_states import PowerAction
from wingsd.servers.server import Server

UUID = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"
OTHER = "11111111-6e2b-4c43-9d57-0c4c5e1c7f10"

#: How the node's own lines in a console begin.
DAEMON = "\x1b[33m\x1b[1m[Pterodactyl Daemon]:\x1b[39m "
DAEMON_END = "\x1b[0m"

BY_COMMAND = Stop("command", "stop")

T = TypeVar("T")


def configuration(
    uuid: str = UUID,
    *,
    suspended: bool = False,
    done: tuple[str, ...] = ("up",),
    stop: Stop = BY_COMMAND,
    environment: dict[str, Any] | None = None,
    disk_space: int = 0,
    skip_egg_scripts: bool = False,
    **process: Any,
) -> Configuration:
    """Return a server that is up with the line "up" and stops by the command "stop"."""
    return Configuration(
        Settings(
            uuid,
            suspended=suspended,
            skip_egg_scripts=skip_egg_scripts,
            environment=environment or {},
            build=Build(disk_space=disk_space),
        ),
        Process(Startup(done), stop, **process),
        {"uuid": uuid, "suspended": suspended},
    )


def with_settings(**settings: Any) -> Configuration:
    known = configuration()
    return attrs.evolve(known, settings=attrs.evolve(known.settings, **settings))


class PanelInMemory:
    """What servers ask of a Panel. `faults` are raised, by the call's name, or waited for."""

    def __init__(self) -> None:
        self.known: dict[str, Configuration] = {}
        self.script = InstallScript("installer:1", "bash", "echo hello\r\necho there\r\n")
        self.calls: list[tuple[Any, ...]] = []
        self.faults: dict[str, Exception | Deferred[None]] = {}

    async def _called(self, name: str, *args: Any) -> None:
        self.calls.append((name, *args))
        await meet(self.faults.get(name))

    async def describe(self, uuid: str) -> Configuration:
        await self._called("describe", uuid)
        return self.known[uuid]

    async def servers(self) -> list[Configuration]:
        await self._called("servers")
        return list(self.known.values())

    async def reset(self) -> None:
        await self._called("reset")

    async def install_script(self, uuid: str) -> InstallScript:
        await self._called("install_script", uuid)
        return self.script

    async def installed(self, uuid: str, *, successful: bool, reinstall: bool = False) -> None:
        how = "reinstalled" if reinstall else "installed"
        await self._called(how, uuid, successful)


@attrs.define(eq=False)
class Outcome:
    """How something asynchronous ends, looked at while the test holds the clock."""

    _ended: list[object] = attrs.field(factory=list)

    @classmethod
    def of(cls, work: Awaitable[Any]) -> Outcome:
        outcome = cls()
        outcome.deferred = Deferred.fromCoroutine(work)  # type: ignore[arg-type]
        outcome.deferred.addBoth(outcome._ended.append)
        return outcome

    deferred: Deferred[Any] = attrs.field(init=False)

    @property
    def over(self) -> bool:
        return bool(self._ended)

    def value(self) -> Any:
        (ended,) = self._ended
        if isinstance(ended, Failure):
            ended.raiseException()
        return ended

    def error(self, kind: type[T]) -> T:
        (ended,) = self._ended
        assert isinstance(ended, Failure)
        assert isinstance(ended.value, kind), ended.getTraceback()
        return ended.value


class FakeNode:
    """A node on a clock of the test's; `system` are keys of its configuration.

    A program that ends with the exit status 0 has not crashed, so that tests can end one.
    """

    def __init__(self, directory: Path, **system: Any) -> None:
        self.data = directory / "volumes"
        self.data.mkdir()
        self.clock = ClockedReactor()
        self.panel = PanelInMemory()
        self.environment = FakeContainers()
        self.events: list[tuple[str, ...]] = []
        usual: dict[str, Any] = {
            "stop_timeout": 600,
            "websocket_log_count": 150,
            "crash_detection": CrashDetectionConfig(detect_clean_exit_as_crash=False),
        }
        self.config = node_config(directory, TransfersConfig(durable=False), **usual | system)
        self._open()

    def _open(self, rewriters: Rewriters | None = None) -> None:
        workers: Any = SynchronousWorkers()
        self.daemon = Harness(
            self.config,
            workers,
            self.panel,
            self.environment,
            clock=self.clock,
            rewriters=rewriters,
        )
        self.daemon.database.now = self.clock.seconds
        self.bus, self.store = self.daemon.bus, self.daemon.store
        self.servers, self.installations = self.daemon.servers, self.daemon.installations
        for uuid in (UUID, OTHER):
            self.bus.subscribe(uuid, self._note)

    def restart(self, rewriters: Rewriters | None = None) -> None:
        """Be the next daemon; the containers are those that there were."""
        self.close()
        self._open(rewriters)

    def close(self) -> None:
        """Let go of the containers, as the end of a daemon does."""
        Deferred.fromCoroutine(self.servers.stop())
        Outcome.of(self.daemon.running.stop()).value()
        self.store.close()

    def _note(self, event: Event) -> None:
        self.events.append((event.name, *event.args))

    def server(self, known: Configuration | None = None) -> Server:
        """Return a server that is loaded, with its directory, offline."""
        known = known or configuration()
        uuid = known.settings.uuid
        self.panel.known[uuid] = known
        (self.data / uuid).mkdir(exist_ok=True)
        Outcome.of(self.servers.boot()).value()
        self.events.clear()
        self.environment.calls.clear()
        self.panel.calls.clear()
        return self.servers.get(uuid)

    def unfinished(self) -> list[str]:
        """Return the servers with an installation that is recorded as under way."""
        return [record.server for record in self.store.installations()]

    def scripts(self) -> list[str]:
        """Return the names below `system.tmp_directory`."""
        top = self.data.parent / "tmp"
        return os.listdir(top) if top.is_dir() else []

    def process(self, uuid: str = UUID) -> FakeProcess:
        return self.environment.running[uuid]

    def told(self, name: str) -> list[str]:
        """Return the texts of the events of that name, in order."""
        return [" ".join(args) for told, *args in self.events if told == name]

    @property
    def daemon_lines(self) -> list[str]:
        """The console lines that the node itself has written, without their form."""
        told = [line for line in self.told("console output") if line.startswith(DAEMON)]
        return [line.removeprefix(DAEMON).removesuffix(DAEMON_END) for line in told]

    @property
    def output(self) -> list[str]:
        """The console lines of the program."""
        return [line for line in self.told("console output") if not line.startswith(DAEMON)]

    def called(self, *names: str) -> list[str]:
        """Return which of those methods of the environment were called, in order."""
        return [call[0] for call in self.environment.calls if call[0] in names]


def boot(node: FakeNode) -> Outcome:
    return Outcome.of(node.servers.boot())


def do(server: Server, action: PowerAction, wait_seconds: float = 30) -> Outcome:
    return Outcome.of(server.power(action, wait_seconds))


def running(node: FakeNode, stop: Stop = BY_COMMAND, *, stubborn: bool = False) -> Server:
    """Return a server that has been started and is up; a stubborn one goes on when stopped."""
    server = node.server(configuration(stop=stop))
    do(server, PowerAction.START).value()
    node.process().say(b"up\n")
    if stubborn:
        node.environment.stubborn.add(UUID)
    node.events.clear()
    node.environment.calls.clear()
    return server
