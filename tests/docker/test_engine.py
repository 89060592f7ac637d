"""The engine's address, its calls in order, and what it says of itself and of containers."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred

from tests.support.docker_engine import Engine
from tests.support.docker_engine import Engine as RealEngine
from tests.support.reactor import reactor
from tests.support.recording_observer import RecordingObserver
from wingsd.docker import async_engine as calls_module
from wingsd.docker import engine as engine_calls
from wingsd.docker import engine as engine_module
from wingsd.docker.async_engine import AsyncEngine
from wingsd.docker.containers import DockerContainers
from wingsd.docker.engine import (
    console_lines,
    container_state,
    foreign_container,
    information,
    parse_time,
)
from wingsd.docker.runtime import ContainerState, engine_address
from wingsd.errors import EnvironmentFailed
from wingsd.threadio import Workers
from wingsd.util.observer import ENGINE, Observer


@pytest.mark.parametrize(
    ("socket", "environ", "url"),
    [
        ("", {}, "unix:///var/run/docker.sock"),
        ("", {"DOCKER_HOST": ""}, "unix:///var/run/docker.sock"),
        ("", {"DOCKER_HOST": "tcp://engine:2375"}, "tcp://engine:2375"),
        ("/run/podman.sock", {"DOCKER_HOST": "tcp://engine:2375"}, "unix:///run/podman.sock"),
        ("unix:///run/docker.sock", {}, "unix:///run/docker.sock"),
        ("tcp://127.0.0.1:2375", {}, "tcp://127.0.0.1:2375"),
    ],
)
def test_the_engines_address(socket: str, environ: dict[str, str], url: str) -> None:
    assert engine_address(socket, environ) == url


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


def test_the_engine_is_described(engine: Engine) -> None:
    server = engine.server()
    engine.client.create_container(engine.image.removeprefix("~"), name=server.uuid)
    told = information(engine_address("", os.environ), Observer())
    assert told.version == engine.client.version()["Version"]
    found = told.containers
    assert found.total >= found.stopped >= 1
    assert found.total == found.running + found.paused + found.stopped
    assert told.cgroups.version in ("1", "2")
    assert told.storage.driver == engine.client.info()["Driver"]
    assert told.runc.version


def test_one_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    heard = RecordingObserver()
    with pytest.raises(EnvironmentFailed) as caught:
        information(f"unix://{tmp_path}/docker.sock", heard)
    assert "gives no information: No such file or directory" in caught.value.detail
    ((peer, operation, _, error),) = heard.calls
    # As it is, for whoever counts: the engine has not refused, it has not answered.
    assert (peer, operation, isinstance(error, EnvironmentFailed)) == (
        ENGINE,
        "information",
        False,
    )
    assert error is not None


class Sparing:
    """An engine that leaves out what it can."""

    def __init__(self, _: str) -> None:
        self.closed = False

    def version(self) -> dict[str, Any]:
        return {}

    def info(self) -> dict[str, Any]:
        return {"DriverStatus": None, "RuncCommit": None, "Containers": 3}

    def close(self) -> None:
        self.closed = True


def test_what_it_leaves_out_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "DockerClient", Sparing)
    heard = RecordingObserver()
    told = information("unix:///x", heard)
    assert [(operation, error) for _, operation, _, error in heard.calls] == [
        ("information", None)
    ]
    assert (told.version, told.storage.filesystem, told.runc.version) == ("", "", "")
    assert (told.containers.total, told.containers.running) == (3, 0)


HOME = "/var/lib/pterodactyl/volumes/uuid"
INSPECTED: dict[str, Any] = {
    "Id": "0123",
    "State": {
        "Status": "exited",
        "Running": False,
        "OOMKilled": True,
        "ExitCode": 137,
        "StartedAt": "2026-11-25T09:16:14.15351676Z",
        "Pid": 4711,
    },
    "HostConfig": {"NetworkMode": "host"},
    "Config": {"StopSignal": "SIGINT"},
    "Mounts": [
        {"Type": "bind", "Source": "/mnt/maps", "Destination": "/home/container/maps"},
        {"Type": "bind", "Source": HOME, "Destination": "/home/container"},
        {"Type": "bind", "Source": "/run/ids/uuid", "Destination": "/etc/machine-id"},
    ],
}


def test_what_an_inspection_says() -> None:
    assert container_state(INSPECTED) == ContainerState(
        id="0123",
        home=HOME,
        machine_id="/run/ids/uuid",
        running=False,
        exit_status=137,
        out_of_memory=True,
        pid=4711,
        has_machine_network=True,
        started=datetime(2026, 11, 25, 9, 16, 14, 153516, UTC),
        stop_signal="SIGINT",
    )


@pytest.mark.parametrize(
    "inspected",
    [
        {"Id": "0123"},
        {"Id": "0123", "State": None, "Config": None, "Mounts": None},
        {"Id": "0123", "State": {"StartedAt": "0001-01-01T00:00:00Z"}, "Mounts": []},
        {"Id": "0123", "Config": {"StopSignal": ""}, "Mounts": [{"Destination": "/data"}]},
    ],
)
def test_what_an_inspection_leaves_out(inspected: dict[str, Any]) -> None:
    assert container_state(inspected) == ContainerState(id="0123")


@pytest.mark.parametrize("status", ["removing", "dead"])
def test_what_the_engine_is_removing_is_seen(status: str) -> None:
    assert container_state({"Id": "0123", "State": {"Status": status}}).is_removed


@pytest.mark.parametrize("home", [HOME, HOME + "/", "/var/lib/pterodactyl//volumes/./uuid"])
def test_the_files_say_that_it_is_ours(home: str) -> None:
    assert foreign_container(ContainerState("0123", home=home), "uuid", HOME) == ""


@pytest.mark.parametrize(
    ("home", "words"),
    [
        ("/srv/node2/uuid", "the files at /srv/node2/uuid"),
        (HOME + "-2", "the files at"),
        ("", "no server's files"),
    ],
)
def test_other_files_say_that_it_is_not(home: str, words: str) -> None:
    why_not = foreign_container(ContainerState("0123", home=home), "uuid", HOME)
    assert "named uuid" in why_not
    assert words in why_not
    assert HOME in why_not


@pytest.mark.parametrize("text", [None, "", "soon", "0001-01-01T00:00:00Z", "2026-01-01T00:00:00"])
def test_an_invalid_time_is_none(text: object) -> None:
    assert parse_time(text) is None


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        (b"", []),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        (b"one\n\nthree", ["one", "", "three"]),
        (b"50%\r100%\r\n", ["50%100%"]),
        ("ä\u2028ö\x0bü\n".encode(), ["ä\u2028ö\x0bü"]),
        (b"\xff\n", ["\ufffd"]),
    ],
)
def test_the_lines_of_a_console(written: bytes, lines: list[str]) -> None:
    assert console_lines(written) == lines


@given(st.binary())
def test_any_bytes_are_read_as_lines(written: bytes) -> None:
    assert not any("\n" in line or "\r" in line for line in console_lines(written))
