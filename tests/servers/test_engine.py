"""Servers on a real engine: a whole life, and one that outlives its node."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import attrs
import pytest
from twisted.internet.defer import Deferred

from tests.servers.harness import BY_COMMAND, PanelInMemory
from tests.support.docker_engine import Engine
from tests.support.installer import fake_installations
from tests.support.reactor import reactor
from wingsd.config import User
from wingsd.docker.containers import DockerContainers
from wingsd.egg_files.rewriters import Rewriters
from wingsd.errors import DiskLimitExceeded, EnvironmentFailed
from wingsd.events import Event, EventBus
from wingsd.panel.schemas import Configuration, Image, Process, Settings, Startup
from wingsd.servers.console import daemon_line
from wingsd.servers.files import ServerDirectories, ServerStorage
from wingsd.servers.installations import Installations
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.servers.registry import Servers
from wingsd.servers.server import STOPPING, Server, ServerParts
from wingsd.statedb import StateDatabase, Store
from wingsd.threadio import Workers

#: Echoes what is typed, and ends by the command "stop"; deaf to signals.
OBEDIENT = (
    "trap '' INT TERM; echo up; "
    'while read line; do echo "got $line"; [ "$line" = stop ] && exit 0; done'
)
#: Writes 3 MiB, and ends by the command "stop".
FILLING = (
    "trap '' INT TERM; echo up; dd if=/dev/zero of=/home/container/big bs=1M count=3; "
    'while read line; do [ "$line" = stop ] && exit 0; done'
)
STUBBORN = "trap '' INT TERM; echo up; while :; do read line; done"


class EngineNode:
    """A node on the engine, its Panel in memory, and what the bus tells of one server."""

    def __init__(self, engine: Engine) -> None:
        self.settings = engine.server(OBEDIENT)
        self.panel = PanelInMemory()
        self.workers = Workers(reactor, "servers-test", 4)
        self.events: list[tuple[str, ...]] = []
        self._waiting: list[tuple[tuple[str, ...], Deferred[None]]] = []
        self.bus = EventBus()
        self.bus.subscribe(self.settings.uuid, self._note)
        config = engine.config_without_network()
        self.config = attrs.evolve(
            config,
            system=attrs.evolve(
                config.system,
                stop_timeout=1,
                log_directory=str(engine.volumes / "logs"),
                tmp_directory=str(engine.volumes / "tmp"),
                user=User(os.getuid(), os.getgid()),
            ),
        )
        self.say(self.settings)
        self.workers.start()
        self.store = Store(str(engine.volumes / "state"))
        self.store.open()

    def say(self, settings: Settings) -> None:
        """Let the Panel describe the server so from now on."""
        described = Configuration(settings, Process(Startup(("up",)), BY_COMMAND))
        self.panel.known[settings.uuid] = described

    def make_servers(self) -> Servers:
        """Return a node as it starts."""
        parts = ServerParts(
            self.config,
            self.panel,  # type: ignore[arg-type]
            DockerContainers(self.config, self.workers, reactor),
            self.bus,
            ServerStorage(
                ServerDirectories(self.config.system.data, (os.getuid(), os.getgid())),
                self.workers,
                self.workers,
            ),
            Rewriters(self.workers, self.workers),
            reactor,
        )
        return Servers(parts, self.make_installations())

    def make_installations(self) -> Installations:
        database = StateDatabase(self.store, self.workers, time.time)
        containers = DockerContainers(self.config, self.workers, reactor)
        self.installations = fake_installations(
            self.config, self.panel, database, self.workers, reactor, containers
        )
        return self.installations

    async def reinstall(self, server: Server) -> None:
        """Begin to install a server of the last node again."""
        await self.installations.repeat(server, reinstall=True)

    def event(self, *event: str) -> Deferred[None]:
        """Return what fires with the next event of that name and text."""
        waiting: Deferred[None] = Deferred()
        self._waiting.append((event, waiting))
        return waiting.addTimeout(60, reactor)

    async def starts(self, server: Server, action: PowerAction) -> None:
        up = self.event("status", "running")
        await server.power(action)
        await up

    def _note(self, event: Event) -> None:
        told = (event.name, *event.args)
        self.events.append(told)
        for wanted, waiting in tuple(self._waiting):
            if told[: len(wanted)] == wanted:
                self._waiting.remove((wanted, waiting))
                waiting.callback(None)


@pytest.fixture
def node(engine: Engine) -> Iterator[EngineNode]:
    made = EngineNode(engine)
    yield made
    made.store.close()
    made.workers.stop()


async def test_a_server_starts_restarts_and_is_deleted(node: EngineNode) -> None:
    uuid, servers = node.settings.uuid, node.make_servers()
    await servers.boot()
    server = servers.get(uuid)
    await node.starts(server, PowerAction.START)
    answered = node.event("console output", "got hello")
    await server.command("hello")
    await answered
    assert server.console.lines(9) == ["up", "hello", "got hello"]
    await node.starts(server, PowerAction.RESTART)
    assert server.console.lines(9) == ["up"]
    assert ("daemon message",) not in {event[:1] for event in node.events}
    await servers.delete(uuid)
    assert node.events[-1] == ("deleted",)
    assert not os.path.exists(servers.directory(uuid))
    await servers.stop()


@pytest.mark.promise("growing-server-is-stopped")
async def test_a_server_that_fills_its_directory_is_stopped(node: EngineNode) -> None:
    node.config = attrs.evolve(
        node.config, system=attrs.evolve(node.config.system, disk_check_interval=1)
    )
    build = attrs.evolve(node.settings.build, disk_space=1)
    node.say(attrs.evolve(node.settings, invocation=FILLING, build=build))
    uuid, servers = node.settings.uuid, node.make_servers()
    await servers.boot()
    ended = node.event("status", "offline")
    await servers.get(uuid).power(PowerAction.START)
    await ended
    assert ("console output", daemon_line("Pterodactyl", STOPPING)) in node.events
    with pytest.raises(DiskLimitExceeded):
        await servers.get(uuid).power(PowerAction.START)
    await servers.delete(uuid)
    await servers.stop()


@pytest.mark.promise("failed-installation-is-explained")
async def test_a_server_without_its_image_starts_when_it_is_there(
    node: EngineNode, engine: Engine
) -> None:
    name = f"{engine.image.removeprefix('~')}-later"
    node.say(attrs.evolve(node.settings, container=Image(f"~{name}")))
    uuid, servers = node.settings.uuid, node.make_servers()
    await servers.boot()
    server = servers.get(uuid)
    with pytest.raises(EnvironmentFailed, match=f"there is no image {name} on this node"):
        await server.power(PowerAction.START)
    engine.tag(name)
    await node.starts(server, PowerAction.START)
    await servers.delete(uuid)
    await servers.stop()


#: Crashes by the command "crash", and by "eat" fills its memory, of which it has 64 MB.
CRASHING = """echo up; while read line; do
case $line in crash) exit 3;; eat) exec dd if=/dev/zero of=/dev/null bs=512M;; esac; done"""


@pytest.mark.promise("crashed-server-is-restarted")
async def test_a_crashed_server_is_started_again_and_memory_is_named(node: EngineNode) -> None:
    node.say(attrs.evolve(node.settings, invocation=CRASHING))
    uuid, servers = node.settings.uuid, node.make_servers()
    await servers.boot()
    server = servers.get(uuid)
    await node.starts(server, PowerAction.START)
    up = node.event("status", "running")
    await server.command("crash")
    await up
    refused = "Aborting automatic restart, last crash occurred less than 60 seconds ago."
    told = node.event("console output", daemon_line("Pterodactyl", refused))
    await server.command("eat")
    await told
    for line in (
        "Exit code: 3",
        "Out of memory: false",
        "Exit code: 137",
        "Out of memory: true",
    ):
        assert ("console output", daemon_line("Pterodactyl", line)) in node.events
    await servers.delete(uuid)
    await servers.stop()


async def test_a_server_outlives_its_node_and_is_killed_by_the_next(node: EngineNode) -> None:
    node.say(attrs.evolve(node.settings, invocation=STUBBORN))
    uuid, servers = node.settings.uuid, node.make_servers()
    await servers.boot()
    up = node.event("status", "running")
    await servers.get(uuid).power(PowerAction.START)
    await up
    await servers.stop()
    node.events.clear()

    later = node.make_servers()
    await later.boot()
    server = later.get(uuid)
    assert node.events[0] == ("status", "running")
    assert await server.logs(9) == ["up"]
    await server.stop_within(0.5)
    assert server.state is PowerState.OFFLINE
    messages = [event[1] for event in node.events if event[0] == "daemon message"]
    assert messages == ["The server has not stopped within 0.5 s and is killed."]
    await later.stop()
