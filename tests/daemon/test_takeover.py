"""wingsd takes over a node from a family's daemon, with its games running, and gives it back.

The node is as the other daemon left it: its configuration, files and containers. What that daemon
would make of it afterwards is judged by the rules of its sources.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.support.browser import Browser, browse
from tests.support.configurations import merged
from tests.support.docker_engine import Engine
from tests.support.node_process import LOOPBACK, TWISTD, NodeProcess
from tests.support.panel import Panel
from tests.support.reactor import until
from tests.support.settings import process_configuration, server_settings
from tests.support.wings_node import (
    DIALECTS,
    Dialect,
    Fate,
    Places,
    WingsNode,
    configuration_faults,
    fates,
    read_states,
)
from wingsd.docker.container import OWN_LABELS

#: Echoes what is typed, and ends by the command "stop"; deaf to signals.
GAME = (
    "trap '' INT TERM; echo up; "
    'while read line; do echo "got $line"; [ "$line" = stop ] && exit 0; done'
)
BY_COMMAND = process_configuration(
    startup={"done": ["up"], "user_interaction": [], "strip_ansi": False},
    stop={"type": "command", "value": "stop"},
)
BUILD = {
    "memory_limit": 64,
    "swap": 0,
    "io_weight": 500,
    "cpu_limit": 50,
    "threads": None,
    "disk_space": 0,
    "oom_disabled": False,
}


class TakenOver(NodeProcess):
    """A node that another daemon ran, with its servers, on an engine; and its Panel."""

    wings: WingsNode

    def __init__(self, directory: Path, engine: Engine) -> None:
        self.panel = Panel()
        super().__init__(directory, self.panel)
        self.engine = engine

    async def left_by(self, dialect: Dialect, **system: Any) -> None:
        """Make the node and its network, as of a daemon of this family."""
        await self.listen_panel()
        credentials = {
            "uuid": self.uuid,
            "token_id": self.node.token_id,
            "token": self.node.token,
            "remote": self.panel.url,
            "api": {"ssl": {"enabled": True, "cert": str(self.cert), "key": str(self.key)}},
        }
        own = {
            "control": {"socket": str(self.control)},
            "system": {"transfers": {"ca_file": str(self.ca)}, **system},
        }
        places = Places.below(self.directory / "wings")
        self.wings = WingsNode(places, dialect, self.engine, credentials, own)
        self.node.family = dialect.family

    def new_server(self, **settings: Any) -> dict[str, Any]:
        """Return the settings of a new server of this node, whose container may be made."""
        uuid = self.engine.will_make_container(str(uuid4()))
        usual: dict[str, Any] = {"build": BUILD, "invocation": GAME}
        allocations = {"default": {"ip": "127.0.0.1", "port": 25565}, "mappings": []}
        described = server_settings(
            uuid,
            image=self.engine.image,
            **usual | settings,
            allocations=allocations | {"force_outgoing_ip": False},
        )
        described["allocations"]["mappings"] = {}
        self.panel.add_server(described, self.node, BY_COMMAND)
        return described

    def command(self, *options: str, **changes: Any) -> list[str]:
        """Return the command that runs the daemon with the other's configuration as it is."""
        path = str(self.wings.config_file)
        return [TWISTD, "-n", "--pidfile", "", "wingsd", "--config", path, *options]

    async def take_over(self) -> None:
        """Start wingsd; return when it has its servers, and has told the Panel of its start."""
        since = len(self.panel.calls)
        self.spawn(self.command(*LOOPBACK))
        await self.listening()
        self.node.address = self.url
        await self.wait_for_line("servers loaded")
        if not any(call.path.endswith("/reset") for call in self.panel.calls[since:]):
            await self.panel.called("/reset")

    async def leave(self) -> None:
        """End wingsd."""
        self.signal("TERM")
        await self.ended()

    async def ask(self, path: str, method: str = "GET", body: Any = None) -> Any:
        status, answer = await self.panel.ask(self.node, method, path, body)
        assert status < 300, (path, status, answer)
        return answer

    async def state(self, uuid: str) -> str:
        return str((await self.ask(f"/api/servers/{uuid}"))["state"])

    async def watch(self, uuid: str) -> Browser:
        """Return a browser that shows the server's console."""
        return await browse(self, uuid, ("*", "admin.websocket.install"))

    def fates(self, *servers: str) -> list[Fate]:
        found = fates(self.engine.client, self.wings.config, list(servers))
        return [found[server] for server in servers]

    async def close(self) -> None:
        await super().close()
        await self.panel.close()


@pytest.fixture
def node(tmp_path: Path, engine: Engine) -> Iterator[TakenOver]:
    made = TakenOver(tmp_path / "node", engine)
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))


@pytest.fixture(params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return DIALECTS[request.param]


@pytest.mark.promise("takeover-keeps-servers-running")
async def test_a_game_runs_on_and_back_again(node: TakenOver, dialect: Dialect) -> None:
    await node.left_by(dialect)
    settings = node.new_server()
    uuid = settings["uuid"]
    node.wings.lay_out(uuid, states={uuid: "running"})
    process = node.wings.run(settings)["State"]["Pid"]
    before = node.wings.kept()
    await check_announced(node)
    await node.take_over()
    await node.wait_for_line(f"{uuid}: running")
    await check_console(node, uuid)
    await check_log(node, uuid)
    assert node.wings.kept() == before
    assert configuration_faults(node.wings.config_file.read_text()) == []
    await node.leave()
    assert node.wings.kept() == before
    assert node.fates(uuid) == [Fate.ATTACHED]
    running = node.engine.client.inspect_container(uuid)["State"]
    assert (running["Running"], running["Pid"]) == (True, process)


async def check_announced(node: TakenOver) -> None:
    """See what an operator is told before."""
    found = (await node.wingsctl("check-config", str(node.wings.config_file), "--json")).json
    assert found["usable"], found
    assert found["notes"] == ["running servers, which run on under wingsd: 1"]


async def check_console(node: TakenOver, uuid: str) -> None:
    """See what it wrote under the other daemon, and what it answers now; and its usage."""
    lines = (await node.ask(f"/api/servers/{uuid}/logs"))["data"]
    assert "up" in lines
    browser = await node.watch(uuid)
    browser.send("send command", "hello")
    await browser.wait_for("console output", "got hello")
    await browser.wait_for("stats")
    used = (await node.ask(f"/api/servers/{uuid}"))["utilization"]
    assert used["memory_bytes"] > 0
    assert used["uptime"] > 0
    await browser.close()


async def check_log(node: TakenOver, uuid: str) -> None:
    """Read the log of its installation, of which Panels show the output."""
    shown = await node.ask(f"/api/servers/{uuid}/install-logs")
    assert shown == {"data": "all done\n"}


@pytest.mark.promise("takeover-keeps-servers-running")
@pytest.mark.parametrize("dialect", ["pelican"], indirect=True)
async def test_its_servers_are_stopped_started_and_left_to_the_other(
    node: TakenOver, dialect: Dialect
) -> None:
    await node.left_by(dialect)
    settings, other = node.new_server(), node.new_server()
    uuid, idle = settings["uuid"], other["uuid"]
    node.wings.lay_out(uuid, idle, states={uuid: "running", idle: "offline"})
    theirs = node.wings.run(settings)
    before = node.wings.kept()
    await node.take_over()
    await node.wait_for_line(f"{uuid}: running")
    browser = await node.watch(uuid)
    await node.panel.power(uuid, "stop")
    await browser.wait_for("status", "offline")
    await browser.close()
    assert node.fates(uuid, idle) == [Fate.OFFLINE, Fate.OFFLINE]
    await node.panel.power(uuid, "start")
    browser = await node.watch(uuid)
    await browser.wait_for("status", "running")
    ours = node.engine.client.inspect_container(uuid)
    assert ours["Id"] != theirs["Id"]
    assert ours["Config"]["Labels"] == theirs["Config"]["Labels"] | {"Node": node.uuid}
    await browser.close()
    await node.leave()
    assert node.fates(uuid, idle) == [Fate.ATTACHED, Fate.OFFLINE]
    changed = node.wings.kept().items() ^ before.items()
    assert {name for name, _ in changed} == {str(node.wings.root / "states.json")}
    # The machine is restarted.
    node.engine.client.kill(uuid)
    assert node.fates(uuid, idle) == [Fate.STARTED, Fate.OFFLINE]
    owners = {path.stat().st_uid for path in (node.wings.data / uuid).rglob("*")}
    assert owners == {node.wings.config["system"]["user"]["uid"]}


@pytest.mark.promise("takeover-keeps-servers-running")
@pytest.mark.parametrize("dialect", ["pterodactyl"], indirect=True)
async def test_what_ran_under_the_other_is_started_after_a_restart_of_the_machine(
    node: TakenOver, dialect: Dialect
) -> None:
    await node.left_by(dialect)
    settings, other = node.new_server(), node.new_server()
    uuid, idle = settings["uuid"], other["uuid"]
    node.wings.lay_out(uuid, idle, states={uuid: "running", idle: "stopping"})
    node.wings.run(settings)
    node.engine.client.kill(uuid)
    await node.take_over()
    await node.wait_for_line(f"{uuid}: running")
    assert [await node.state(each) for each in (uuid, idle)] == ["running", "offline"]
    await until(lambda: read_states(node.wings.root)[uuid] == "running")


@pytest.mark.promise("takeover-keeps-servers-running")
@pytest.mark.parametrize("dialect", ["pterodactyl", "calagopus"], indirect=True)
async def test_an_installation_goes_on_and_is_reported(node: TakenOver, dialect: Dialect) -> None:
    await node.left_by(dialect)
    settings = node.new_server()
    uuid = settings["uuid"]
    node.wings.lay_out(states={})
    go = node.wings.data / uuid / "go"
    script = "echo one; until [ -e /mnt/server/go ]; do echo tick; sleep 0.1; done; echo two\n"
    theirs = node.wings.install(settings, script)
    assert OWN_LABELS.keys().isdisjoint(theirs["Config"]["Labels"])
    node.spawn(node.command(*LOOPBACK))
    await node.listening()
    node.node.address = node.url
    await node.wait_for_line("its installation was begun by another daemon")
    assert node.panel.installed(uuid) is None
    browser = await node.watch(uuid)
    await browser.wait_for("install output", "tick")
    go.touch()
    await browser.wait_for("install output", "two")
    await node.panel.called("/reset")
    assert node.panel.installed(uuid) is True
    shown = await node.ask(f"/api/servers/{uuid}/install-logs")
    lines = shown["data"].split()
    assert (lines[0], lines[-1]) == ("one", "two")
    await browser.close()
    assert not (node.wings.scripts / uuid).exists()
    left = node.engine.client.containers(all=True, filters={"name": f"{uuid}_installer"})
    assert left == []


@pytest.mark.promise("takeover-keeps-servers-running")
@pytest.mark.parametrize(("family", "resolves"), [("pterodactyl", True), ("calagopus", False)])
async def test_servers_are_found_where_their_directory_is_a_symlink(
    node: TakenOver, family: str, *, resolves: bool
) -> None:
    """Wings resolves `system.data`, Calagopus' daemon does not."""
    await node.left_by(DIALECTS[family])
    settings = node.new_server()
    uuid = settings["uuid"]
    node.wings.lay_out(uuid, states={})
    disk = node.directory / "disk"
    node.wings.data.rename(disk)
    node.wings.data.symlink_to(disk)
    if resolves:
        node.wings.data = disk
    node.wings.run(settings)
    await node.take_over()
    await node.wait_for_line(f"{uuid}: running")


@pytest.mark.promise("takeover-keeps-servers-running")
async def test_calagopus_may_put_the_servers_name_before_the_uuid(node: TakenOver) -> None:
    """A second container beside it would have the same files."""
    dialect = DIALECTS["calagopus"]
    node_key = {"docker": {"server_name_in_container_name": True}}
    await node.left_by(attrs.evolve(dialect, keys=merged(dialect.keys, node_key)))
    settings = node.new_server()
    uuid = settings["uuid"]
    node.wings.lay_out(uuid, states={uuid: "running"})
    name = f"a-server.{uuid}"
    node.wings.run(settings, name=name)
    await node.take_over()
    await node.wait_for_line(f"{uuid}: running")
    browser = await node.watch(uuid)
    await node.panel.power(uuid, "restart")
    await browser.wait_for("status", "starting")
    await browser.wait_for("console output", "up")
    await browser.close()
    listed = node.engine.client.containers(all=True, filters={"name": uuid})
    assert [each["Names"] for each in listed] == [[f"/{uuid}"]]
