"""Calls to the engine keep their order, whatever becomes of those who wait for them."""

from __future__ import annotations

from threading import Event
from typing import Any
from unittest.mock import Mock

import pytest
from twisted.internet.defer import CancelledError, Deferred

from tests.support.docker_engine import Engine as RealEngine
from tests.support.reactor import reactor
from tests.support.recording_observer import RecordingObserver
from wingsd.docker import async_engine as calls_module
from wingsd.docker import engine as engine_calls
from wingsd.docker.async_engine import AsyncEngine
from wingsd.docker.containers import DockerContainers
from wingsd.errors import EnvironmentFailed
from wingsd.threadio import Workers
from wingsd.util.observer import ENGINE


class Client:
    """A client that only notes that it was closed."""

    closed = 0

    def __init__(self, address: str) -> None:
        self.address = address

    def close(self) -> None:
        Client.closed += 1


class Gate:
    """Work in a thread that takes as long as the test wants."""

    def __init__(self) -> None:
        self.entered: Deferred[None] = Deferred()
        self._open = Event()

    def __call__(self, *_: Any) -> str:
        reactor.callFromThread(self.entered.callback, None)
        assert self._open.wait(30)
        return "done"

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def faked(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> AsyncEngine:
    monkeypatch.setattr(engine_calls, "DockerClient", Client)
    monkeypatch.setattr(Client, "closed", 0)
    return AsyncEngine(workers, "unix:///faked")


def in_turn(faked: AsyncEngine, name: str, work: Any) -> Deferred[Any]:
    async def operation() -> Any:
        async with faked.exclusive_session(name) as session:
            return await session.call(work)

    return Deferred.fromCoroutine(operation())


async def test_one_name_is_served_in_order_and_others_meanwhile(faked: AsyncEngine) -> None:
    gate = Gate()
    first = in_turn(faked, "a", gate)
    second = in_turn(faked, "a", lambda client: client.address)
    await gate.entered
    assert await in_turn(faked, "b", lambda _: "other") == "other"
    assert not second.called
    gate.open()
    assert await first == "done"
    assert await second == "unix:///faked"
    assert Client.closed == 3
    assert faked._locks == {}


async def test_a_cancelled_call_keeps_its_lock_until_its_thread_ends(faked: AsyncEngine) -> None:
    gate = Gate()
    first = in_turn(faked, "a", gate)
    second = in_turn(faked, "a", lambda _: "second")
    await gate.entered
    first.cancel()
    with pytest.raises(CancelledError):
        await first
    assert await in_turn(faked, "b", lambda _: "other") == "other"
    assert not second.called
    assert Client.closed == 1
    gate.open()
    assert await second == "second"
    assert Client.closed == 3
    assert faked._locks == {}


async def test_a_cancelled_waiter_is_skipped(faked: AsyncEngine) -> None:
    gate = Gate()
    first = in_turn(faked, "a", gate)
    second = in_turn(faked, "a", lambda _: pytest.fail("nobody wants this any more"))
    third = in_turn(faked, "a", lambda _: "third")
    await gate.entered
    second.cancel()
    with pytest.raises(CancelledError):
        await second
    gate.open()
    assert await first == "done"
    assert await third == "third"
    assert faked._locks == {}


async def test_a_failure_ends_the_turn_too(faked: AsyncEngine) -> None:
    with pytest.raises(EnvironmentFailed, match="unix:///faked does not answer: Connection refus"):
        await in_turn(faked, "a", Mock(side_effect=OSError(111, "Connection refused")))
    assert await in_turn(faked, "a", lambda _: "next") == "next"
    assert faked._locks == {}


async def test_nothing_is_left_when_a_creation_is_cancelled_and_removed(
    engine: RealEngine, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, create = Gate(), engine_calls.create_container

    def slowly(client: Any, spec: Any) -> Any:
        gate()
        return create(client, spec)

    monkeypatch.setattr(engine_calls, "create_container", slowly)
    server = engine.server()
    environment = DockerContainers(engine.config_without_network(), workers, reactor)
    creating = Deferred.fromCoroutine(environment.create(server))
    await gate.entered
    creating.cancel()
    with pytest.raises(CancelledError):
        await creating
    removing = Deferred.fromCoroutine(environment.remove(server.uuid))
    assert not removing.called
    gate.open()
    await removing
    assert not engine.client.containers(all=True, filters={"name": server.uuid})


async def test_call_times_are_recorded(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_calls, "DockerClient", Client)
    heard = RecordingObserver()
    faked = AsyncEngine(workers, "unix:///faked", heard)
    error = OSError(111, "Connection refused")

    def look(_: Any) -> str:
        return "found"

    assert await in_turn(faked, "a", look) == "found"

    def remove(_: Any) -> None:
        raise error

    with pytest.raises(EnvironmentFailed):
        await in_turn(faked, "a", remove)
    calls = [(peer, operation, why) for peer, operation, _, why in heard.calls]
    assert calls == [(ENGINE, "look", None), (ENGINE, "remove", error)]


async def test_time_without_a_thread_is_not_the_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_calls, "DockerClient", Client)
    heard, now, gate = RecordingObserver(), [0.0], Gate()
    monkeypatch.setattr(calls_module, "monotonic", lambda: now[0])
    one = Workers(reactor, "one", 1)
    one.start()
    faked = AsyncEngine(one, "unix:///faked", heard)

    def look(_: Any) -> None:
        now[0] += 1

    first, second = in_turn(faked, "a", gate), in_turn(faked, "b", look)
    await gate.entered
    now[0] += 100
    gate.open()
    await first
    await second
    one.stop()
    assert [(name, seconds) for _, name, seconds, _ in heard.calls] == [
        ("other", 100),
        ("look", 1),
    ]
