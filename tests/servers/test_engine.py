"""Servers and installations on a real engine, and those that outlive their node."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from docker.errors import NotFound
from twisted.internet.defer import Deferred

from tests.servers.harness import BY_COMMAND, PanelInMemory
from tests.support.docker_engine import NO_REGISTRY, Engine
from tests.support.harness import Harness
from tests.support.reactor import reactor, until
from wingsd.config import User
from wingsd.errors import DiskLimitExceeded, EnvironmentFailed
from wingsd.events import Event
from wingsd.panel.schemas import Configuration, Image, InstallScript, Process, Settings, Startup
from wingsd.servers.console import daemon_line
from wingsd.servers.operations import Operation
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.servers.server import STOPPING, Server
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
        config = engine.config_without_network()
        self.config = attrs.evolve(
            config,
            system=attrs.evolve(
                config.system,
                stop_timeout=1,
                root_directory=str(engine.volumes / "state"),
                log_directory=str(engine.volumes / "logs"),
                tmp_directory=str(engine.volumes / "tmp"),
                user=User(os.getuid(), os.getgid()),
            ),
        )
        self.say(self.settings)
        self.workers.start()

    def say(self, settings: Settings) -> None:
        """Let the Panel describe the server so from now on."""
        described = Configuration(settings, Process(Startup(("up",)), BY_COMMAND))
        self.panel.known[settings.uuid] = described

    async def boot(self) -> Server:
        """Be a daemon at its start; return its server."""
        self.daemon = Harness(self.config, self.workers, self.panel, None)
        self.daemon.bus.subscribe(self.settings.uuid, self._note)
        self.servers, self.store = self.daemon.servers, self.daemon.store
        await self.servers.boot()
        return self.servers.get(self.settings.uuid)

    async def stop(self) -> None:
        await self.servers.stop()
        await self.daemon.running.stop()
        self.store.close()

    async def reinstall(self, server: Server) -> None:
        """Begin to install a server again."""
        await self.daemon.installations.repeat(server, reinstall=True)

    async def install(self, image: str, entrypoint: str, script: str) -> None:
        """Have the server installed again by a script, to its end."""
        self.panel.script = InstallScript(image, entrypoint, script)
        server, ended = await self.boot(), self.event("install completed")
        await self.reinstall(server)
        await ended

    async def begin_install(self, image: str) -> None:
        """Have the server installed by a script that waits, until it has begun."""
        self.panel.script = InstallScript(image, "sh", WAITING)
        await self.reinstall(await self.boot())
        await until(lambda: any(event[0] == "install output" for event in self.events))

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
    pytest_twisted.blockon(Deferred.fromCoroutine(made.stop()))
    made.workers.stop()


async def test_a_server_starts_restarts_and_is_deleted(node: EngineNode) -> None:
    uuid, server = node.settings.uuid, await node.boot()
    await node.starts(server, PowerAction.START)
    answered = node.event("console output", "got hello")
    await server.command("hello")
    await answered
    assert server.console.lines(9) == ["up", "hello", "got hello"]
    await node.starts(server, PowerAction.RESTART)
    assert server.console.lines(9) == ["up"]
    assert ("daemon message",) not in {event[:1] for event in node.events}
    await node.servers.delete(uuid)
    assert node.events[-1] == ("deleted",)
    assert not os.path.exists(node.servers.directory(uuid))


@pytest.mark.promise("growing-server-is-stopped")
async def test_a_server_that_fills_its_directory_is_stopped(node: EngineNode) -> None:
    node.config = attrs.evolve(
        node.config, system=attrs.evolve(node.config.system, disk_check_interval=1)
    )
    build = attrs.evolve(node.settings.build, disk_space=1)
    node.say(attrs.evolve(node.settings, invocation=FILLING, build=build))
    uuid, server = node.settings.uuid, await node.boot()
    ended = node.event("status", "offline")
    await server.power(PowerAction.START)
    await ended
    assert ("console output", daemon_line("Pterodactyl", STOPPING)) in node.events
    with pytest.raises(DiskLimitExceeded):
        await server.power(PowerAction.START)
    await node.servers.delete(uuid)


@pytest.mark.promise("failed-installation-is-explained")
async def test_a_server_without_its_image_starts_when_it_is_there(
    node: EngineNode, engine: Engine
) -> None:
    name = f"{engine.image.removeprefix('~')}-later"
    node.say(attrs.evolve(node.settings, container=Image(f"~{name}")))
    uuid, server = node.settings.uuid, await node.boot()
    with pytest.raises(EnvironmentFailed, match=f"there is no image {name} on this node"):
        await server.power(PowerAction.START)
    engine.tag(name)
    await node.starts(server, PowerAction.START)
    await node.servers.delete(uuid)


#: Crashes by the command "crash", and by "eat" fills its memory, of which it has 64 MB.
CRASHING = """echo up; while read line; do
case $line in crash) exit 3;; eat) exec dd if=/dev/zero of=/dev/null bs=512M;; esac; done"""


@pytest.mark.promise("crashed-server-is-restarted")
async def test_a_crashed_server_is_started_again_and_memory_is_named(node: EngineNode) -> None:
    node.say(attrs.evolve(node.settings, invocation=CRASHING))
    uuid, server = node.settings.uuid, await node.boot()
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
    await node.servers.delete(uuid)


async def test_a_server_outlives_its_node_and_is_killed_by_the_next(node: EngineNode) -> None:
    node.say(attrs.evolve(node.settings, invocation=STUBBORN))
    await node.starts(await node.boot(), PowerAction.START)
    await node.stop()
    node.events.clear()
    server = await node.boot()
    assert node.events[0] == ("status", "running")
    assert await server.logs(9) == ["up"]
    await server.stop_within(0.5)
    assert server.state is PowerState.OFFLINE
    messages = [event[1] for event in node.events if event[0] == "daemon message"]
    assert messages == ["The server has not stopped within 0.5 s and is killed."]


#: Waits for a file in the server's directory, so that a test can look at its container.
WAITING = """echo "begun as $(id -u), $SERVER_PORT $GREETING"\r
echo made > /mnt/server/world\r
until [ -e /mnt/server/go ]; do sleep 0.05; done\r
echo done\r
exit 3\r
"""


def inspected(engine: Engine, node: EngineNode) -> dict[str, Any]:
    found: dict[str, Any] = engine.client.inspect_container(f"{node.settings.uuid}_installer")
    return found


def log_of(node: EngineNode) -> str:
    path = Path(node.config.system.log_directory) / "install" / f"{node.settings.uuid}.log"
    return path.read_bytes().decode()


def assert_nothing_left(engine: Engine, node: EngineNode) -> None:
    with pytest.raises(NotFound):
        inspected(engine, node)
    assert os.listdir(node.config.system.tmp_directory) == []
    assert node.store.installations() == []


async def test_a_script_runs_in_the_container_that_wings_gives_it(
    node: EngineNode, engine: Engine
) -> None:
    node.panel.script = InstallScript(engine.image, "sh", WAITING, {"greeting": "hello"})
    uuid, server = node.settings.uuid, await node.boot()
    home = engine.volumes / uuid
    begun = node.event("install output", "begun as 0, 25565 hello")
    await node.reinstall(server)
    await begun
    container = inspected(engine, node)
    config, host = container["Config"], container["HostConfig"]
    assert config["Cmd"] == ["sh", "/mnt/install/install.sh"]
    assert (config["Hostname"], config["User"], config["Tty"]) == ("installer", "", True)
    assert config["Labels"] == {
        "Service": "Pterodactyl",
        "ContainerType": "server_installer",
        "Daemon": "wingsd",
    }
    assert {mount["Target"]: mount["Source"] for mount in host["Mounts"]} == {
        "/mnt/server": str(home),
        "/mnt/install": f"{node.config.system.tmp_directory}/{uuid}",
    }
    # The larger of the server's 64 MB and the node's 1024, and of 50 % and 100 %.
    assert host["Memory"] > 1_000_000_000
    assert host["PidsLimit"] == 4096
    assert host["CpuQuota"] == 100_000
    assert (host["Privileged"], host["ReadonlyRootfs"], host["CapDrop"]) == (False, False, None)
    assert host["PortBindings"] in ({}, None)
    ended = node.event("install completed")
    (home / "go").touch()
    await ended
    assert node.panel.calls[-1] == ("reinstalled", uuid, True)
    outputs = [event[1] for event in node.events if event[0] == "install output"]
    assert outputs[:2] == ["begun as 0, 25565 hello", "done"]
    assert "exit code 3" in outputs[2]
    log = log_of(node)
    assert "  GREETING=hello\n" in log
    assert "begun as 0, 25565 hello\r\ndone\r\n[wingsd] The installation script ended" in log
    assert (home / "world").read_text() == "made\n"
    assert_nothing_left(engine, node)


@pytest.mark.parametrize(
    ("image", "entrypoint", "why"),
    [
        ("", "nosuchshell", "nosuchshell"),
        (f"{NO_REGISTRY}/missing:1", "sh", "could not be pulled"),
        ("~wingsd-test/missing:1", "sh", "there is no image"),
    ],
)
async def test_what_cannot_be_run_is_named(
    node: EngineNode, engine: Engine, image: str, entrypoint: str, why: str
) -> None:
    await node.install(image or engine.image, entrypoint, "exit 0")
    assert node.panel.calls[-1] == ("reinstalled", node.settings.uuid, False)
    assert why in [event[1] for event in node.events if event[0] == "daemon message"][-1]
    assert why in log_of(node)
    assert_nothing_left(engine, node)


async def test_a_script_of_a_megabyte_runs_and_all_its_output_is_in_the_log(
    node: EngineNode, engine: Engine
) -> None:
    line = "echo " + "x" * 60 + "\r\n"
    script = line * (1_048_576 // len(line)) + "echo the end\r\n"
    await node.install(engine.image, "sh", script)
    assert node.panel.calls[-1] == ("reinstalled", node.settings.uuid, True)
    assert log_of(node).endswith("x\r\nthe end\r\n")
    assert log_of(node).count("x" * 60) == script.count("echo x")
    assert_nothing_left(engine, node)


@pytest.mark.parametrize("ends", ["before the next node", "after it has begun"])
async def test_the_next_node_goes_on_with_a_script(
    node: EngineNode, engine: Engine, ends: str
) -> None:
    uuid = node.settings.uuid
    await node.begin_install(engine.image)
    await node.stop()
    if ends == "before the next node":
        (engine.volumes / uuid / "go").touch()
        await until(lambda: not inspected(engine, node)["State"]["Running"])
    ended = node.event("install completed")
    server = await node.boot()
    if ends == "after it has begun":
        assert server.operations.runs(Operation.INSTALL)
        (engine.volumes / uuid / "go").touch()
    await ended
    assert node.panel.calls[-1] in [("reinstalled", uuid, True), ("reset",)]
    assert "begun as 0" in log_of(node)
    assert "done\r\n" in log_of(node)
    assert_nothing_left(engine, node)


async def test_a_deletion_stops_a_script_and_leaves_nothing(
    node: EngineNode, engine: Engine
) -> None:
    uuid = node.settings.uuid
    await node.begin_install(engine.image)
    await node.servers.delete(uuid)
    assert_nothing_left(engine, node)
    assert not any("installed" in call[0] for call in node.panel.calls)


async def test_an_installer_of_another_node_is_named_and_stays(
    node: EngineNode, engine: Engine
) -> None:
    uuid = node.settings.uuid
    name = engine.will_make_container(f"{uuid}_installer")
    engine.client.create_container(engine.image.removeprefix("~"), name=name)
    await node.install(engine.image, "sh", "exit 0")
    assert node.panel.calls[-1] == ("reinstalled", uuid, False)
    assert "it is not this node's" in log_of(node)
    assert inspected(engine, node)["State"]["Status"] == "created"
