"""Questions to the Docker engine about the node."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import attrs
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.support.docker_engine import Engine
from tests.support.fixtures import workers
from tests.support.logged_errors import Logged
from tests.support.reactor import reactor
from wingsd.config import Config, StoragePool
from wingsd.docker.async_engine import AsyncEngine
from wingsd.docker.container import ContainerSpec, container_spec, installer_spec, rehearsal_spec
from wingsd.docker.engine import DockerClient, engine_disk, prune_images, running_containers
from wingsd.docker.runtime import ServerContainer, engine_address
from wingsd.errors import EngineUnavailable, EnvironmentFailed, PanelUnreachable, PruneInProgress
from wingsd.node.engine import HOUR, PATIENCE, NodeEngine, OrphanedContainers
from wingsd.panel.schemas import InstallScript
from wingsd.threadio import Workers

__all__ = ["workers"]

PRUNED = {"ImagesDeleted": None, "SpaceReclaimed": 17}


class Session:
    """A session whose calls the test answers."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Deferred[Any]]] = []

    def session(self) -> Session:
        return self

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def call(self, work: Callable[..., Any]) -> Any:
        self.calls.append((work.__name__, Deferred()))
        return await self.calls[-1][1]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def session() -> Session:
    return Session()


@pytest.fixture
def node(session: Session, clock: Clock) -> NodeEngine:
    fake: Any = session
    return NodeEngine(fake, clock)


def asked(asking: Any) -> Deferred[Any]:
    return Deferred.fromCoroutine(asking)


async def test_many_questions_are_one_call(node: NodeEngine, session: Session) -> None:
    asking = [asked(node.disk()) for _ in range(200)]
    assert [name for name, _ in session.calls] == ["engine_disk"]
    session.calls[0][1].callback("sizes")
    assert {await each for each in asking} == {"sizes"}


async def test_an_engine_that_does_not_answer_is_an_error_in_time(
    node: NodeEngine, session: Session, clock: Clock
) -> None:
    for _ in range(2):
        asking = asked(node.disk())
        clock.advance(PATIENCE)
        with pytest.raises(EngineUnavailable):
            await asking
    assert len(session.calls) == 1


async def test_a_second_click_joins_the_removal(node: NodeEngine, session: Session) -> None:
    first, second = asked(node.prune()), asked(node.prune())
    assert len(session.calls) == 1
    session.calls[0][1].callback(PRUNED)
    assert (await first, await second) == (PRUNED, PRUNED)


async def test_a_long_removal_goes_on_and_the_next_call_has_its_result(
    node: NodeEngine, session: Session, clock: Clock
) -> None:
    for _ in range(2):
        asking = asked(node.prune())
        clock.advance(PATIENCE)
        with pytest.raises(PruneInProgress):
            await asking
    session.calls[0][1].callback(PRUNED)
    assert await node.prune() == PRUNED
    assert len(session.calls) == 1
    asked(node.prune())
    assert len(session.calls) == 2


async def test_a_long_removal_that_fails_is_logged(
    node: NodeEngine, session: Session, clock: Clock, logged: Logged
) -> None:
    asking = asked(node.prune())
    clock.advance(PATIENCE)
    with pytest.raises(PruneInProgress):
        await asking
    session.calls[0][1].errback(EngineUnavailable("the disk is broken"))
    assert [line for line in logged.lines if "the disk is broken" in line]


def client() -> DockerClient:
    return DockerClient(engine_address("", os.environ))


def test_the_engines_disk_is_added_up(engine: Engine) -> None:
    server = engine.server()
    engine.client.create_container(engine.image.removeprefix("~"), name=server.uuid)
    found = engine_disk(client())
    assert 1 <= found.images_active <= found.images_total
    assert found.images_size > 0
    assert found.build_cache_size >= 0


def test_containers_that_run_are_listed(engine: Engine) -> None:
    server, image = engine.server(), engine.image.removeprefix("~")
    engine.client.create_container(image, ["/bin/busybox", "sleep", "60"], name=server.uuid)
    assert server.uuid not in [each.name for each in running_containers(client())]
    engine.client.start(server.uuid)
    (found,) = [each for each in running_containers(client()) if each.name == server.uuid]
    assert (found.image, found.status.split()[0]) == (image, "Up")
    assert len(found.id) == 12


def test_images_that_nothing_uses_are_removed(engine: Engine) -> None:
    """Only those with a label of this test: the engine has images of other tests as well."""
    label = {"wingsd-test-prune": engine.server().uuid}
    engine.client.create_container(
        engine.image.removeprefix("~"), name=engine.will_make_container("prune-test"), labels=label
    )
    image = engine.client.commit("prune-test")["Id"]
    (key, value) = next(iter(label.items()))
    removed = prune_images(client(), {"label": f"{key}={value}"})
    assert image in [each.get("Deleted") for each in removed["ImagesDeleted"]]
    assert removed["SpaceReclaimed"] >= 0


async def test_one_that_is_not_there_is_said_so(tmp_path: Path, workers: Workers) -> None:
    node = NodeEngine(AsyncEngine(workers, f"unix://{tmp_path}/docker.sock"), reactor)
    with pytest.raises(EngineUnavailable) as raised:
        await node.disk()
    assert "does not answer" in raised.value.detail


# Containers without a server


@attrs.define(eq=False)
class KnownServers:
    """The servers of a node, and of its Panel; those with a transfer that has not ended."""

    known: set[str] = attrs.field(factory=set)
    listed: set[str] = attrs.field(factory=set)
    moving: set[str] = attrs.field(factory=set)
    loaded: bool = True
    asked: list[str] = attrs.field(factory=list)
    is_away: bool = False

    def knows(self, uuid: str) -> bool:
        return uuid in self.known

    async def owns(self, uuid: str) -> bool:
        self.asked.append(uuid)
        if self.is_away:
            raise PanelUnreachable("the Panel did not answer", "refused")
        return uuid in self.listed

    async def unfinished(self) -> list[Any]:
        return [Moving(uuid) for uuid in self.moving]


@attrs.frozen
class Moving:
    server: str


def orphans_of(engine: Any, config: Config, known: Any, clock: Any) -> OrphanedContainers:
    return OrphanedContainers(engine, config, known, known, known, clock)


@pytest.mark.promise("orphaned-container-is-named")
async def test_only_this_nodes_containers_without_a_server_are_named(
    engine: Engine, workers: Workers, tmp_path: Path, logged: Logged
) -> None:
    """As the engine has them: of two nodes, in an installation, a rehearsal, and of others."""
    config = engine.config_without_network()
    other = attrs.evolve(config, system=attrs.evolve(config.system, data=str(tmp_path / "other")))
    (tmp_path / "other").mkdir()
    known = KnownServers()

    def make(kind: Callable[..., ContainerSpec], *args: Any, of: Config = config) -> str:
        server = engine.server("exec /bin/busybox sleep 600")
        (tmp_path / "other" / server.uuid).mkdir()
        spec = kind(of, attrs.evolve(server, container=attrs.evolve(server.container)), *args)
        body = {**spec.body, "Image": engine.image.removeprefix("~")}
        engine.client.create_container_from_config(body, engine.will_make_container(spec.name))
        return server.uuid

    known.known.add(make(container_spec))
    known.moving.add(make(container_spec))
    known.listed.add(make(container_spec))
    make(container_spec, of=other)
    make(rehearsal_spec)
    script = InstallScript(engine.image, "/bin/sh", "exit 0")
    make(installer_spec, script, str(tmp_path))
    engine.client.create_container(
        engine.image.removeprefix("~"), name=engine.will_make_container(str(uuid4()))
    )
    orphan = make(container_spec)
    engine.client.start(orphan)
    asked = AsyncEngine(workers, engine_address("", os.environ))
    orphans = orphans_of(NodeEngine(asked, reactor), config, known, reactor)
    await orphans.look()
    (found,) = await orphans.left(PATIENCE)
    assert (found.server, found.status.split()[0]) == (orphan, "Up")
    assert found.removal == f"docker rm --force --volumes {orphan}"
    assert [line for line in logged.lines if found.removal in line]
    assert orphan in known.asked
    assert not known.asked.count(next(iter(known.known)))
    # It is named no more, without another look, as soon as it is not there.
    engine.client.remove_container(orphan, force=True)
    assert await orphans.left(PATIENCE) == []


@pytest.mark.promise("orphaned-container-is-named")
async def test_nodes_of_a_pool_that_share_an_engine_know_theirs_by_the_label(
    engine: Engine, workers: Workers
) -> None:
    pool = StoragePool(enabled=True, pool_name="pool")
    usual = engine.config_without_network()
    transfers = attrs.evolve(usual.system.transfers, storage_pool=pool)
    system = attrs.evolve(usual.system, transfers=transfers)
    nodes = [attrs.evolve(usual, system=system, uuid=str(uuid4())) for _ in range(2)]
    made = []
    for config in nodes:
        server = engine.server()
        spec = container_spec(config, server)
        engine.client.create_container_from_config(spec.body, spec.name)
        made.append(server.uuid)
    asked = NodeEngine(AsyncEngine(workers, engine_address("", os.environ)), reactor)
    for config, uuid in zip(nodes, made, strict=True):
        orphans = orphans_of(asked, config, KnownServers(), reactor)
        await orphans.look()
        assert [each.server for each in await orphans.left(PATIENCE)] == [uuid]


def listed(*names: str, data: str = "/data") -> list[ServerContainer]:
    return [ServerContainer(name, f"{data}/{name}", "Up 3 hours", "image", "") for name in names]


@pytest.mark.promise("orphaned-container-is-named")
async def test_they_are_looked_for_at_the_start_and_each_hour(
    node: NodeEngine, session: Session, clock: Clock, logged: Logged
) -> None:
    config = Config(token_id="id", token="secret", remote="http://panel")
    config = attrs.evolve(config, system=attrs.evolve(config.system, data="/data"))
    one, two = str(uuid4()), str(uuid4())
    known = KnownServers()
    orphans = orphans_of(node, config, known, clock)

    def answer(*names: str) -> None:
        session.calls[-1][1].callback(listed(*names))

    orphans.start()
    answer(one, two)
    # The other one was just being deleted.
    answer(two)
    assert sum(two in line for line in logged.lines) == 1
    assert not [line for line in logged.lines if one in line]
    # It has a server now, of which the Panel was not asked.
    known.known.add(two)
    left = asked(orphans.left(PATIENCE))
    answer(two)
    assert await left == []
    clock.advance(HOUR)
    answer(two)
    assert await orphans.left(PATIENCE) == []
    known.known.clear()
    # The Panel does not answer: it is not certain.
    known.is_away = True
    clock.advance(HOUR)
    answer(two)
    assert sum(two in line for line in logged.lines) == 1
    # Neither does the engine.
    clock.advance(HOUR)
    session.calls[-1][1].errback(EnvironmentFailed("the engine is away"))
    # The Panel has not listed the servers.
    known.loaded, known.is_away = False, False
    count = len(session.calls)
    clock.advance(HOUR)
    assert len(session.calls) == count
    known.loaded = True
    clock.advance(HOUR)
    answer(two)
    answer(two)
    assert sum(two in line for line in logged.lines) == 2
    orphans.stop()
