"""Questions to the Docker engine about the node."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.support.docker_engine import Engine
from tests.support.logged_errors import Logged
from tests.support.reactor import reactor
from wingsd.docker.async_engine import AsyncEngine
from wingsd.docker.engine import DockerClient
from wingsd.docker.runtime import engine_address
from wingsd.docker.usage import engine_disk, prune_images, running_containers
from wingsd.node.engine import PATIENCE, NodeEngine
from wingsd.node.errors import EngineUnavailable, PruneInProgress
from wingsd.threadio import Workers

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


async def test_one_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    workers = Workers(reactor, "engine", 1)
    workers.start()
    try:
        node = NodeEngine(AsyncEngine(workers, f"unix://{tmp_path}/docker.sock"), reactor)
        with pytest.raises(EngineUnavailable) as raised:
            await node.disk()
        assert "does not answer" in raised.value.detail
    finally:
        workers.stop()
