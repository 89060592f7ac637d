"""Containers of a real engine: made, rehearsed, and their images pulled."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable
from ipaddress import ip_network
from itertools import count
from typing import Any, TypeVar
from uuid import uuid4

import attrs
import pytest
from docker import APIClient
from docker.errors import ImageNotFound
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, gatherResults

from tests.docker.image_registry import Registry as FakeRegistry
from tests.support.docker_engine import NO_REGISTRY, Engine
from tests.support.image import image_tar
from tests.support.logged_errors import Logged
from tests.support.reactor import reactor
from wingsd.config import Config, Interfaces, Registry
from wingsd.docker import engine as engine_calls
from wingsd.docker.container import FORMER_DEFAULTS, installer_name, rehearsal_spec
from wingsd.docker.containers import (
    PULL_REPORT,
    DockerContainers,
    ImagesAndNetworks,
    PullProgress,
    follow,
)
from wingsd.docker.engine import container_state
from wingsd.docker.runtime import ContainerRuntime, ContainerState, LayerProgress
from wingsd.errors import EnvironmentFailed
from wingsd.panel.schemas import Allocations, Build, Default, Image, InstallScript, Mount, Settings
from wingsd.threadio import Workers

T = TypeVar("T")


def with_docker(config: Config, **docker: Any) -> Config:
    return attrs.evolve(config, docker=attrs.evolve(config.docker, **docker))


def with_network(config: Config, **network: Any) -> Config:
    return with_docker(config, network=attrs.evolve(config.docker.network, **network))


async def both(first: Awaitable[T], second: Awaitable[T]) -> list[T]:
    """Return the results of two operations that are under way at the same time."""

    async def as_coroutine(operation: Awaitable[T]) -> T:
        return await operation

    operations = [Deferred.fromCoroutine(as_coroutine(each)) for each in (first, second)]
    return list(await gatherResults(operations, consumeErrors=True))


async def refusal(environment: ContainerRuntime, server: Settings) -> str:
    """Return the detail of the error that creating the container of `server` ends in."""
    with pytest.raises(EnvironmentFailed) as failed:
        await environment.create(server)
    assert failed.value.message == "the server's environment could not be configured"
    return failed.value.detail


async def test_the_engine_takes_every_field(engine: Engine, workers: Workers) -> None:
    config, server = engine.config(), engine.server()
    server = attrs.evolve(
        server,
        environment={"max_players": 20.0, "pvp": True},
        labels={"tier": 2},
        build=attrs.evolve(server.build, threads="0", swap=128, oom_disabled=True),
        allocations=attrs.evolve(server.allocations, mappings={"127.0.0.1": (25565,)}),
    )
    assert await DockerContainers(config, workers, reactor).create(server)

    made = engine.client.inspect_container(server.uuid)
    settings, host = made["Config"], made["HostConfig"]
    assert made["Name"] == f"/{server.uuid}"
    assert made["State"]["Status"] == "created"
    assert settings["Image"] == engine.image.removeprefix("~")
    assert (settings["User"], settings["Hostname"]) == ("1234:1234", server.uuid)
    assert settings["Tty"]
    assert settings["OpenStdin"]
    assert settings["AttachStdin"]
    assert settings["AttachStdout"]
    assert settings["AttachStderr"]
    assert {"TZ=UTC", "MAX_PLAYERS=20", "PVP=true", "SERVER_MEMORY=64"} < set(settings["Env"])
    gateway = config.docker.network.interface
    assert f"SERVER_IP={gateway}" in settings["Env"]
    assert settings["Labels"] == {
        "tier": "2",
        "Service": "Pterodactyl",
        "ContainerType": "server_process",
        "Node": "",
    }
    assert host["PortBindings"]["25565/udp"] == [{"HostIp": gateway, "HostPort": "25565"}]
    assert (host["Memory"], host["MemoryReservation"]) == (73_600_000, 64_000_000)
    assert host["MemorySwap"] == 73_600_000 + 128_000_000
    assert (host["CpuQuota"], host["CpuPeriod"], host["CpuShares"]) == (50_000, 100_000, 1024)
    assert (host["CpusetCpus"], host["PidsLimit"]) == ("0", 512)
    assert host["ReadonlyRootfs"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert {"mknod", "net_raw", "setfcap"} < {name.lower() for name in host["CapDrop"]}
    assert host["Tmpfs"] == {"/tmp": "rw,exec,nosuid,size=100M"}
    assert host["LogConfig"]["Type"] == "local"
    assert host["NetworkMode"] == config.docker.network.name
    assert host["Dns"] == ["1.1.1.1", "1.0.0.1"]


async def test_a_container_that_exists_is_kept(engine: Engine, workers: Workers) -> None:
    environment, server = DockerContainers(engine.config(), workers, reactor), engine.server()
    assert await environment.create(server)
    before = engine.client.inspect_container(server.uuid)["Id"]
    other = attrs.evolve(server, invocation="exit 1")
    assert not await environment.create(other)
    assert engine.client.inspect_container(server.uuid)["Id"] == before


async def test_of_two_at_once_one_creates_the_container(engine: Engine, workers: Workers) -> None:
    environment, server = DockerContainers(engine.config(), workers, reactor), engine.server()
    made = await both(environment.create(server), environment.create(server))
    assert sorted(made) == [False, True]


@pytest.mark.promise("container-is-made-again")
async def test_a_container_that_is_being_made_is_used(engine: Engine, workers: Workers) -> None:
    config, server = engine.config(), engine.server()

    async def create() -> str:
        # Each knows nothing of the other, as a daemon of its own.
        await DockerContainers(config, workers, reactor).create(server)
        found: str = engine.client.inspect_container(server.uuid)["Id"]
        return found

    for _ in range(5):
        assert len(set(await both(create(), create()))) == 1
        engine.client.remove_container(server.uuid)


async def test_a_container_that_the_engine_is_removing_is_made_again(
    engine: Engine, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment, server = DockerContainers(engine.config(), workers, reactor), engine.server()
    assert await environment.create(server)
    look = engine_calls.look

    def look_at_its_removal(client: APIClient, name: str) -> ContainerState | None:
        """Return what the engine says while it removes the container, and have that done."""
        monkeypatch.setattr(engine_calls, "look", look)
        inspected = client.inspect_container(name)
        inspected["State"].update(Status="removing", Dead=True)
        client.remove_container(name)
        return container_state(inspected)

    monkeypatch.setattr(engine_calls, "look", look_at_its_removal)
    assert await environment.create(server)
    assert engine.client.inspect_container(server.uuid)["State"]["Status"] == "created"


@pytest.mark.promise("container-is-made-again")
async def test_a_taken_name_is_logged(
    engine: Engine, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wingsd.docker.containers.CREATE_TIMEOUT", 0.3)
    monkeypatch.setattr("wingsd.docker.engine.create_container", lambda *_: None)
    environment = DockerContainers(engine.config(), workers, reactor)
    assert "neither made nor removed" in await refusal(environment, engine.server())


async def test_two_servers_at_once_share_a_new_network(engine: Engine, workers: Workers) -> None:
    config = engine.config()
    environment = DockerContainers(config, workers, reactor)
    made = await both(environment.create(engine.server()), environment.create(engine.server()))
    assert made == [True, True]
    name = config.docker.network.name
    assert len(engine.client.networks(names=[name])) == 1
    network = engine.client.inspect_network(name)
    v4, v6 = config.docker.network.interfaces.v4, config.docker.network.interfaces.v6
    assert network["IPAM"]["Config"] == [
        {"Subnet": v4.subnet, "Gateway": v4.gateway},
        {"Subnet": v6.subnet, "Gateway": v6.gateway},
    ]
    assert network["EnableIPv6"]
    bridge = config.docker.network.bridge_name
    assert network["Options"]["com.docker.network.bridge.name"] == bridge


async def test_removing_what_runs_and_what_is_gone(engine: Engine, workers: Workers) -> None:
    environment = DockerContainers(engine.config(), workers, reactor)
    server = engine.server("while read line; do :; done")
    await environment.create(server)
    engine.client.start(server.uuid)
    await both(environment.remove(server.uuid), environment.remove(server.uuid))
    assert not engine.client.containers(all=True, filters={"name": server.uuid})
    await environment.remove(server.uuid)
    assert await environment.create(server)


async def test_a_forced_outgoing_address_gets_its_bridge(engine: Engine, workers: Workers) -> None:
    config, server = engine.config(), engine.server()
    ip = config.docker.network.interface
    name = engine.will_make_network("ip-" + ip.replace(".", "-"))
    forced = attrs.evolve(server, allocations=Allocations(True, Default(ip, 25565)))
    assert await DockerContainers(config, workers, reactor).create(forced)
    host = engine.client.inspect_container(server.uuid)["HostConfig"]
    assert host["NetworkMode"] == name
    options = engine.client.inspect_network(name)["Options"]
    assert options["com.docker.network.host_ipv4"] == ip
    assert not engine.client.networks(names=[config.docker.network.name])


@pytest.mark.promise("missing-mount-is-named")
async def test_allowed_mounts_are_made(engine: Engine, workers: Workers, logged: Logged) -> None:
    shared = engine.volumes / "shared"
    shared.mkdir()
    (shared / "map").write_text("of the node\n")
    (shared / "out").symlink_to("/etc")
    (engine.volumes / "in").symlink_to("shared")
    server = attrs.evolve(
        engine.server("read line < /data/map; echo $line; echo x > /data/map"),
        mounts=(
            Mount(str(engine.volumes / "in"), "/data", read_only=True),
            Mount("/etc", "/host"),
            Mount(str(shared / "out"), "/link"),
        ),
    )
    config = attrs.evolve(engine.config(), allowed_mounts=(str(engine.volumes),))
    left_out = await DockerContainers(config, workers, reactor).recreate(server)
    _, output = engine.run(server)
    assert "of the node" in output
    places = [line.partition(" is left out: ")[0] for line in left_out]
    assert places == ["The mount at /host", "The mount at /link"]
    assert not any("/etc" in line for line in left_out), "users do not see paths of the node"
    assert "Read-only file system" in output
    assert any("mount of /etc left out" in line for line in logged.lines)
    link = f"mount of {shared / 'out'} (/etc) left out"
    assert any(link in line for line in logged.lines)
    mounts = engine.client.inspect_container(server.uuid)["HostConfig"]["Mounts"]
    places = ["/home/container", "/etc/machine-id", "/data"]
    assert [mount["Target"] for mount in mounts] == places
    assert mounts[2]["Source"] == os.path.realpath(shared)


async def test_a_failed_pull_uses_what_is_here(
    engine: Engine, workers: Workers, logged: Logged
) -> None:
    image = engine.tag(f"{NO_REGISTRY}/wingsd-test/busybox:1")
    server = engine.server("echo works", image=image)
    assert await DockerContainers(engine.config(), workers, reactor).create(server)
    assert engine.run(server) == (0, "works\r\n")
    assert any("the local image is used" in line for line in logged.lines)


async def test_an_image_is_pulled_with_the_registrys_credentials(
    engine: Engine, workers: Workers, logged: Logged
) -> None:
    registry = FakeRegistry("group/busybox", image_tar(), "the user", "the password")
    try:
        image = engine.will_have_image(f"{registry.host}/group/busybox:latest")
        server = attrs.evolve(engine.server(image=image))
        config = engine.config()
        anonymous = DockerContainers(config, workers, reactor)
        assert "no basic auth credentials" in await refusal(anonymous, server)
        registries = {registry.host: Registry("the user", "the password")}
        known = DockerContainers(with_docker(config, registries=registries), workers, reactor)
        # An image without a command: the engine refuses the container only after the pull.
        assert "no command specified" in await refusal(known, server)
    finally:
        await registry.stop()
    assert any(f"{image} is up to date" in line for line in logged.lines)
    assert "the password" not in "\n".join(logged.lines)


@pytest.mark.parametrize("socket", ["/nonexistent/docker.sock", "tcp://127.0.0.1:1", "what://"])
async def test_an_engine_that_does_not_answer(workers: Workers, socket: str) -> None:
    config = Config(token_id="id", token="secret", remote="http://panel")
    environment = DockerContainers(with_docker(config, socket=socket), workers, reactor)
    server = Settings("6f1ad85f-8ee2-46ae-9b45-7ee3f65bd0a4")
    server = attrs.evolve(server, container=attrs.evolve(server.container, image="any"))
    assert socket in await refusal(environment, server)
    with pytest.raises(EnvironmentFailed, match="does not answer"):
        await environment.remove(server.uuid)


@pytest.mark.promise("engine-networks-are-respected")
@pytest.mark.parametrize("written", [True, False])
async def test_a_network_of_the_former_default_is_used_on(
    engine: Engine,
    workers: Workers,
    monkeypatch: pytest.MonkeyPatch,
    logged: Logged,
    written: bool,
) -> None:
    former = engine.config()
    name = engine.will_make_network(f"{former.docker.network.name}-later")
    monkeypatch.setitem(FORMER_DEFAULTS, name, former.docker.network.name)
    # The default of today, where the file names no network or, beside it, only the bridge's name.
    later = with_network(
        former, name=name if written else "games", network_mode=name, bridge_name="wt-later"
    )
    server, added, third = engine.server(), engine.server(), engine.server()
    await DockerContainers(former, workers, reactor).create(server)

    environment = DockerContainers(later, workers, reactor)
    await environment.recreate(server)
    await environment.create(added)
    await environment.rehearse(third)
    for made in (server, added):
        found = engine.client.inspect_container(made.uuid)["HostConfig"]["NetworkMode"]
        assert found == former.docker.network.name
    assert engine.run(server)[0] == 0
    assert not engine.client.networks(names=[f"^{name}$"])
    (line,) = [line for line in logged.lines if "stays in use" in line]
    assert former.docker.network.name in line


@pytest.mark.promise("engine-networks-are-respected")
async def test_without_a_network_of_the_former_default_one_of_todays_is_made(
    engine: Engine, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, server = engine.config(), engine.server()
    name = config.docker.network.name
    monkeypatch.setitem(FORMER_DEFAULTS, name, f"{name}-former")
    await DockerContainers(config, workers, reactor).create(server)
    assert engine.client.inspect_container(server.uuid)["HostConfig"]["NetworkMode"] == name
    # Where both are there, it is today's.
    engine.client.create_network(engine.will_make_network(f"{name}-former"))
    await DockerContainers(config, workers, reactor).recreate(server)
    assert engine.client.inspect_container(server.uuid)["HostConfig"]["NetworkMode"] == name


@pytest.mark.promise("engine-networks-are-respected")
@pytest.mark.parametrize("what", ["v4", "v6", "bridge"])
async def test_a_network_in_the_way_is_named_with_what_both_have(
    engine: Engine, workers: Workers, what: str
) -> None:
    config = engine.config()
    theirs = config.docker.network
    await DockerContainers(config, workers, reactor).create(engine.server())
    free = attrs.evolve(engine, token=uuid4().hex, subnet=None).config().docker.network
    v4, v6 = free.interfaces.v4, free.interfaces.v6
    match what:
        case "v4":
            v4 = theirs.interfaces.v4
            given = f"the IPv4 subnet {v4.subnet}"
            key = "docker.network.interfaces.v4"
        case "v6":
            v6 = theirs.interfaces.v6
            given = f"the IPv6 subnet {ip_network(v6.subnet)}"
            key = "docker.network.interfaces.v6"
        case _:
            free = attrs.evolve(free, bridge_name=theirs.bridge_name)
            given = f"the bridge {theirs.bridge_name}"
            key = "docker.network.bridge_name"
    mine = attrs.evolve(free, interfaces=Interfaces(v4, v6))
    detail = await refusal(
        DockerContainers(with_docker(config, network=mine), workers, reactor), engine.server()
    )
    assert detail.startswith(f"the network {mine.name} could not be created: ")
    assert f"the network {theirs.name} is in its way with {given} ({key} asks for " in detail
    assert f"docker network rm {theirs.name}" in detail
    assert detail.count("docker.network.") == 1


@pytest.mark.promise("engine-networks-are-respected")
async def test_an_interface_in_a_networks_way_is_named(engine: Engine, workers: Workers) -> None:
    config = with_network(engine.config(), bridge_name="lo")
    detail = await refusal(DockerContainers(config, workers, reactor), engine.server())
    assert "existing interface lo is not a bridge" in detail
    assert "the bridge lo (docker.network.bridge_name)" in detail


async def test_an_administrators_network_that_is_missing(engine: Engine, workers: Workers) -> None:
    config = with_network(engine.config(), network_mode="wingsd-test-none")
    detail = await refusal(DockerContainers(config, workers, reactor), engine.server())
    assert "names the network wingsd-test-none, which does not exist" in detail


def containers(engine: Engine, server: str) -> list[str]:
    """Return the containers whose names begin with the server's."""
    found = engine.client.containers(all=True, filters={"name": f"^/{server}"})
    return [name.lstrip("/") for each in found for name in each["Names"]]


@pytest.mark.promise("rehearsal-starts-nothing")
async def test_nothing_is_left_but_the_network(engine: Engine, workers: Workers) -> None:
    config, server = engine.config(), engine.server()
    environment = DockerContainers(config, workers, reactor)
    await environment.rehearse(server)
    assert containers(engine, server.uuid) == []
    assert engine.client.networks(names=[config.docker.network.name])
    assert not (engine.volumes.parent / f"{engine.volumes.name}.machine-id").exists()


async def test_what_an_earlier_daemon_has_left_is_removed(
    engine: Engine, workers: Workers
) -> None:
    config, server = engine.config(), engine.server()
    environment = DockerContainers(config, workers, reactor)
    await environment.rehearse(server)
    spec = rehearsal_spec(config, server)
    name = engine.will_make_container(spec.name)
    engine.client.create_container_from_config(spec.body, name)
    await environment.rehearse(server)
    assert containers(engine, server.uuid) == []
    engine.client.create_container_from_config(spec.body, name)
    for _ in range(2):
        await environment.end_rehearsal(server.uuid)
        assert containers(engine, server.uuid) == []


@pytest.mark.promise("rehearsal-before-the-stop")
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
async def test_a_port_that_is_taken_is_told_with_its_number(
    engine: Engine, workers: Workers, protocol: str
) -> None:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    config, server = engine.config_without_network(), engine.server("sleep 60")
    environment = DockerContainers(config, workers, reactor)
    with socket.socket(socket.AF_INET, kind) as program:
        program.bind(("127.0.0.2", 0))
        if protocol == "tcp":
            program.listen()
        port = program.getsockname()[1]
        allocations = attrs.evolve(server.allocations, mappings={"127.0.0.2": (port,)})
        server = attrs.evolve(server, allocations=allocations)
        why = f"the port {port}/{protocol} of 127.0.0.2 is in use on this machine"
        with pytest.raises(EnvironmentFailed, match=why) as raised:
            await environment.rehearse(server)
        assert raised.value.is_final
        assert containers(engine, server.uuid) == []
        # Of a server that moves from another node on this machine, it may be its own.
        await environment.create(server)
        engine.client.start(server.uuid)
        await environment.rehearse(server)
    engine.client.stop(server.uuid, timeout=0)
    await environment.rehearse(server)


@pytest.mark.promise("rehearsal-before-the-stop")
async def test_a_missing_image_is_told(engine: Engine, workers: Workers) -> None:
    server = engine.server(image="~wingsd-test/none")
    with pytest.raises(EnvironmentFailed, match="there is no image wingsd-test/none") as raised:
        await DockerContainers(engine.config(), workers, reactor).rehearse(server)
    assert raised.value.is_final


@pytest.mark.promise("rehearsal-before-the-stop")
async def test_it_is_told_whether_a_pull_fails_for_good(
    engine: Engine, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = engine.server(image="wingsd-test/none")
    for why, is_final in (
        ("manifest for busybox:none not found: manifest unknown", True),
        ("pull access denied for x, repository does not exist or may require login", True),
        ("no matching manifest for linux/arm64/v8 in the manifest list entries", True),
        ("failed to resolve reference: docker.io/library/x:1: not found", True),
        ("dial tcp: lookup registry-1.docker.io: no such host", False),
        ("toomanyrequests: You have reached your pull rate limit", False),
    ):

        async def fails(*_: object, why: str = why) -> str:
            return why

        monkeypatch.setattr(ImagesAndNetworks, "_pull", fails)
        with pytest.raises(EnvironmentFailed, match="could not be pulled") as raised:
            await DockerContainers(engine.config(), workers, reactor).rehearse(server)
        assert raised.value.is_final is is_final, why


@pytest.mark.promise("rehearsal-before-the-stop")
async def test_what_the_engine_refuses_is_told_and_left_nowhere(
    engine: Engine, workers: Workers
) -> None:
    server = attrs.evolve(engine.server(), build=Build(memory_limit=64, threads="no-cpu"))
    with pytest.raises(EnvironmentFailed) as raised:
        await DockerContainers(engine.config(), workers, reactor).rehearse(server)
    assert raised.value.is_final
    assert containers(engine, server.uuid) == []


async def test_a_rehearsed_image_is_not_pulled_again_soon(
    engine: Engine, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = engine.tag(f"{NO_REGISTRY}/busybox:latest")
    server = attrs.evolve(engine.server(), container=Image(name))
    environment = DockerContainers(engine.config(), workers, reactor)
    pulled: list[str] = []
    pull = ImagesAndNetworks._pull

    async def noted(self: object, session: object, uuid: str, *more: object) -> str:
        pulled.append(uuid)
        return await pull(self, session, uuid, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(ImagesAndNetworks, "_pull", noted)
    await environment.rehearse(server)
    await environment.create(server)
    await environment.recreate(server)
    assert pulled == [server.uuid]
    monkeypatch.setattr("wingsd.docker.containers.monotonic", lambda: float("inf"))
    await environment.recreate(server)
    assert pulled == [server.uuid] * 2


async def test_a_rehearsed_image_that_was_removed_is_pulled(
    engine: Engine, workers: Workers
) -> None:
    name = engine.tag(f"{NO_REGISTRY}/gone:latest")
    server = attrs.evolve(engine.server(), container=Image(name))
    environment = DockerContainers(engine.config(), workers, reactor)
    await environment.rehearse(server)
    engine.client.remove_image(name)
    with pytest.raises(ImageNotFound):
        engine.client.inspect_image(name)
    with pytest.raises(EnvironmentFailed, match="could not be pulled"):
        await environment.create(server)


async def test_an_installation_pulls_an_image_that_was_rehearsed(
    engine: Engine, workers: Workers
) -> None:
    name = engine.tag(f"{NO_REGISTRY}/both:latest")
    server = attrs.evolve(engine.server(), container=Image(name))
    environment = DockerContainers(engine.config(), workers, reactor)
    engine.will_make_container(installer_name(server.uuid))
    shown: list[object] = []
    await environment.rehearse(server)
    await environment.create_installer(
        server, InstallScript(name, "sh", ""), str(engine.volumes), shown.append
    )
    assert shown[0] == ""  # The beginning of a pull.


async def test_an_installers_name_that_stays_taken_is_named(
    engine: Engine, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wingsd.docker.containers.CREATE_TIMEOUT", 0.3)
    monkeypatch.setattr("wingsd.docker.engine.create_container", lambda *_: None)
    server = engine.server()
    creating = DockerContainers(engine.config(), workers, reactor).create_installer(
        server, InstallScript(engine.image, "sh", ""), str(engine.volumes), lambda _: None
    )
    with pytest.raises(EnvironmentFailed) as raised:
        await creating
    assert raised.value.detail == (
        f"the name {server.uuid}_installer is taken on this Docker engine; see the engine's log, "
        "and restart it"
    )


LINES: list[dict[str, Any]] = [
    {"status": "Pulling from group/java", "id": "21"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "one"},
    {"status": "Already exists", "progressDetail": {}, "id": "two"},
    {"status": "Downloading", "progressDetail": {"current": 0, "total": 5e6}, "id": "one"},
    {"status": "Downloading", "progressDetail": {"current": 2.5e6, "total": 5e6}, "id": "one"},
    {"status": "Download complete", "progressDetail": {}, "id": "one"},
    {"status": "Extracting", "progressDetail": {"current": 1, "total": 9}, "id": "one"},
    {"status": "Pull complete", "progressDetail": {}, "id": "one"},
    {"status": "Digest: sha256:0123"},
]


def progress_after(lines: int) -> PullProgress:
    progress = PullProgress()
    for line in LINES[:lines]:
        progress.update(line)
    return progress


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (0, "0 of 0 layers, 0.0 of 0.0 MB"),
        (1, "0 of 0 layers, 0.0 of 0.0 MB"),
        (3, "1 of 2 layers, 0.0 of 0.0 MB"),
        (5, "1 of 2 layers, 2.5 of 5.0 MB"),
        (7, "1 of 2 layers, 5.0 of 5.0 MB"),
        (9, "2 of 2 layers, 5.0 of 5.0 MB"),
    ],
)
def test_progress_is_in_layers_and_megabytes(lines: int, words: str) -> None:
    assert str(progress_after(lines)) == words
    assert progress_after(lines).error == ""


def layers_shown(progress: PullProgress, *, at_end: bool = False) -> list[LayerProgress]:
    shown: list[str | LayerProgress | None] = []
    (progress.end if at_end else progress.show)(shown.append)
    return [news for news in shown if isinstance(news, LayerProgress)]


def test_the_latest_progress_of_each_layer_is_shown_once() -> None:
    progress = progress_after(5)
    assert layers_shown(progress) == [LayerProgress("one", "pulling", 2_500_000, 5_000_000)]
    assert layers_shown(progress) == []
    for line in LINES[5:7]:
        progress.update(line)
    assert layers_shown(progress) == [LayerProgress("one", "extracting", 1, 9)]
    progress.update(LINES[7])
    assert layers_shown(progress) == [LayerProgress("one", "")]
    # The other layer was there, and needs no end.
    assert layers_shown(progress, at_end=True) == []


def test_no_layer_is_left_under_way_by_a_pull_that_fails() -> None:
    progress = progress_after(5)
    layers_shown(progress)
    progress.update({"error": "no space left"})
    assert layers_shown(progress, at_end=True) == [LayerProgress("one", "")]


def test_the_first_error_of_a_pull_is_kept() -> None:
    progress = progress_after(5)
    progress.update({"errorDetail": {"message": "no space left"}, "error": "no space left"})
    progress.update({"error": "and another"})
    assert progress.error == "no space left"


def test_a_pull_is_followed_some_seconds_at_a_time() -> None:
    clock = count()
    progress = PullProgress()
    lines = iter([{"status": "Pulling fs layer", "id": str(n)} for n in range(PULL_REPORT + 3)])
    assert follow(progress, lines, lambda: float(next(clock)))
    assert str(progress).startswith(f"0 of {PULL_REPORT} layers")
    assert not follow(progress, lines, lambda: float(next(clock)))
    assert str(progress).startswith(f"0 of {PULL_REPORT + 3} layers")


@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "id": st.sampled_from("ab"),
                "status": st.sampled_from(["Downloading", "Extracting", "Pull complete", ""]),
                "progressDetail": st.none()
                | st.fixed_dictionaries({}, optional={"current": st.integers(0)}),
            },
        )
    )
)
def test_no_line_of_the_engine_upsets_the_progress(lines: list[dict[str, Any]]) -> None:
    progress = PullProgress()
    assert not follow(progress, iter(lines), lambda: 0.0)
    assert "layers" in str(progress)
