"""Rehearsals: whether a server's container can be made, on a real engine."""

from __future__ import annotations

import socket

import attrs
import pytest
from docker.errors import ImageNotFound

from tests.support.docker_engine import NO_REGISTRY, Engine
from tests.support.reactor import reactor
from wingsd.docker.container import installer_name, rehearsal_spec
from wingsd.docker.containers import DockerContainers, ImagesAndNetworks
from wingsd.errors import EnvironmentFailed
from wingsd.panel.schemas import Build, Image, InstallScript
from wingsd.threadio import Workers


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


async def test_the_servers_own_container_runs_on(engine: Engine, workers: Workers) -> None:
    config, server = engine.config(), engine.server("sleep 60")
    environment = DockerContainers(config, workers, reactor)
    await environment.create(server)
    engine.client.start(server.uuid)
    await environment.rehearse(server)
    assert containers(engine, server.uuid) == [server.uuid]
    assert engine.client.inspect_container(server.uuid)["State"]["Running"]


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
@pytest.mark.parametrize(
    ("why", "is_final"),
    [
        ("manifest for busybox:none not found: manifest unknown", True),
        ("pull access denied for x, repository does not exist or may require login", True),
        ("no matching manifest for linux/arm64/v8 in the manifest list entries", True),
        ("failed to resolve reference: docker.io/library/x:1: not found", True),
        ("dial tcp: lookup registry-1.docker.io: no such host", False),
        ("toomanyrequests: You have reached your pull rate limit", False),
    ],
)
async def test_it_is_told_whether_a_pull_fails_for_good(
    engine: Engine, workers: Workers, monkeypatch: pytest.MonkeyPatch, why: str, is_final: bool
) -> None:
    async def fails(*_: object) -> str:
        return why

    monkeypatch.setattr(ImagesAndNetworks, "_pull", fails)
    server = engine.server(image="wingsd-test/none")
    with pytest.raises(EnvironmentFailed, match="could not be pulled") as raised:
        await DockerContainers(engine.config(), workers, reactor).rehearse(server)
    assert raised.value.is_final is is_final


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
