"""Installations on a Docker engine: the script's container, its end, and what is left of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from docker.errors import NotFound

from tests.servers.test_engine import EngineNode, node
from tests.support.docker_engine import NO_REGISTRY, Engine
from tests.support.reactor import until
from wingsd.panel.schemas import InstallScript
from wingsd.servers.operations import Operation

__all__ = ["node"]

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
    uuid, servers = node.settings.uuid, node.make_servers()
    home = engine.volumes / uuid
    node.panel.script = InstallScript(engine.image, "sh", WAITING, {"greeting": "hello"})
    await servers.boot()
    server = servers.get(uuid)
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
    await servers.stop()


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
    uuid, servers = node.settings.uuid, node.make_servers()
    node.panel.script = InstallScript(image or engine.image, entrypoint, "exit 0")
    await servers.boot()
    ended = node.event("install completed")
    await node.reinstall(servers.get(uuid))
    await ended
    assert node.panel.calls[-1] == ("reinstalled", uuid, False)
    assert why in [event[1] for event in node.events if event[0] == "daemon message"][-1]
    assert why in log_of(node)
    assert_nothing_left(engine, node)
    await servers.stop()


async def test_a_script_of_a_megabyte_runs_and_all_its_output_is_in_the_log(
    node: EngineNode, engine: Engine
) -> None:
    uuid, servers = node.settings.uuid, node.make_servers()
    line = "echo " + "x" * 60 + "\r\n"
    script = line * (1_048_576 // len(line)) + "echo the end\r\n"
    node.panel.script = InstallScript(engine.image, "sh", script)
    await servers.boot()
    ended = node.event("install completed")
    await node.reinstall(servers.get(uuid))
    await ended
    assert node.panel.calls[-1] == ("reinstalled", uuid, True)
    assert log_of(node).endswith("x\r\nthe end\r\n")
    assert log_of(node).count("x" * 60) == script.count("echo x")
    assert_nothing_left(engine, node)
    await servers.stop()


@pytest.mark.parametrize("ends", ["before the next node", "after it has begun"])
async def test_the_next_node_goes_on_with_a_script(
    node: EngineNode, engine: Engine, ends: str
) -> None:
    uuid, servers = node.settings.uuid, node.make_servers()
    node.panel.script = InstallScript(engine.image, "sh", WAITING)
    await servers.boot()
    await node.reinstall(servers.get(uuid))
    await until(lambda: any(event[0] == "install output" for event in node.events))
    await servers.stop()
    if ends == "before the next node":
        (engine.volumes / uuid / "go").touch()
        await until(lambda: not inspected(engine, node)["State"]["Running"])
    later = node.make_servers()
    ended = node.event("install completed")
    await later.boot()
    if ends == "after it has begun":
        assert later.get(uuid).operations.runs(Operation.INSTALL)
        (engine.volumes / uuid / "go").touch()
    await ended
    assert node.panel.calls[-1] in [("reinstalled", uuid, True), ("reset",)]
    assert "begun as 0" in log_of(node)
    assert "done\r\n" in log_of(node)
    assert_nothing_left(engine, node)
    await later.stop()


async def test_a_deletion_stops_a_script_and_leaves_nothing(
    node: EngineNode, engine: Engine
) -> None:
    uuid, servers = node.settings.uuid, node.make_servers()
    node.panel.script = InstallScript(engine.image, "sh", WAITING)
    await servers.boot()
    await node.reinstall(servers.get(uuid))
    await until(lambda: any(event[0] == "install output" for event in node.events))
    await servers.delete(uuid)
    assert_nothing_left(engine, node)
    assert not any("installed" in call[0] for call in node.panel.calls)
    await servers.stop()


async def test_an_installer_of_another_node_is_named_and_stays(
    node: EngineNode, engine: Engine
) -> None:
    uuid, servers = node.settings.uuid, node.make_servers()
    name = engine.will_make_container(f"{uuid}_installer")
    engine.client.create_container(engine.image.removeprefix("~"), name=name)
    node.panel.script = InstallScript(engine.image, "sh", "exit 0")
    await servers.boot()
    ended = node.event("install completed")
    await node.reinstall(servers.get(uuid))
    await ended
    assert node.panel.calls[-1] == ("reinstalled", uuid, False)
    assert "it is not this node's" in log_of(node)
    assert inspected(engine, node)["State"]["Status"] == "created"
    await servers.stop()
