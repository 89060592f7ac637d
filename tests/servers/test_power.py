"""Starting, stopping and killing servers."""

from __future__ import annotations

import json

import pytest
from twisted.internet.defer import Deferred

from tests.servers.harness import UUID, FakeNode, Outcome, configuration, do, running
from tests.support import FakeContainers
from tests.support.environment import FakeProcess
from tests.support.logged_errors import Logged
from wingsd.docker.runtime import ContainerUsage, LayerProgress, Watcher
from wingsd.errors import (
    BadRequest,
    Conflict,
    EnvironmentFailed,
    PanelUnreachable,
    ServerNotRunning,
)
from wingsd.panel.schemas import Stop
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.servers.server import KILL_TIMEOUT


def test_a_start_comes_from_fresh_settings_and_is_up_with_its_done_line(node: FakeNode) -> None:
    server = node.server()
    fresh = node.panel.known[UUID] = configuration(done=("ready",))
    do(server, PowerAction.START).value()
    assert node.panel.calls == [("describe", UUID)]
    assert node.called("recreate", "start") == ["recreate", "start"]
    assert node.environment.containers[UUID] is fresh.settings
    assert server.state is PowerState.STARTING
    node.process().say(b"up\r\nrea")
    assert server.state is PowerState.STARTING
    node.process().say(b"dy\r\n")
    assert node.told("status") == ["starting", "running"]
    assert node.output == ["up", "ready"]


def test_its_last_stop_and_start_are_timed(node: FakeNode) -> None:
    server = node.server(configuration(done=("ready",)))
    assert server.restart_seconds == 0
    do(server, PowerAction.START).value()
    node.clock.advance(20)
    assert server.restart_seconds == 0
    node.process().say(b"ready\r\n")
    node.clock.advance(3600)
    node.environment.faults["command"] = EnvironmentFailed("the engine is away")
    do(server, PowerAction.STOP).error(EnvironmentFailed)
    assert server.restart_seconds == 20, "it was not stopped"
    del node.environment.faults["command"]
    node.environment.stubborn.add(UUID)
    stopping = do(server, PowerAction.STOP)
    node.clock.advance(7)
    node.process().end(0)
    stopping.value()
    assert server.restart_seconds == 27
    do(server, PowerAction.START).value()
    node.clock.advance(5)
    do(server, PowerAction.KILL).value()
    assert server.restart_seconds == 27, "it was never ready"


def test_a_start_shows_the_pull_of_its_image(node: FakeNode) -> None:
    server = node.server()
    layer = LayerProgress("one", "pulling", 1, 2)
    left = LayerProgress("one", "")
    node.environment.pull_lines = ("", "Downloading [=>] 1 MB/2 MB", layer, left, None)
    do(server, PowerAction.START).value()
    begun, ended = [line for line in node.told("console output") if "Docker" in line]
    assert "Pulling Docker container image, this could take a few minutes to complete..." in begun
    assert "Finished pulling Docker container image" in ended
    assert node.told("install output") == ["Downloading [=>] 1 MB/2 MB"]
    pulled = {"bytes_processed": 1, "bytes_total": 2, "progress": 1, "total": 2}
    (name, progress), completed = (event[1:] for event in node.events if "pull" in event[0])
    assert (name, json.loads(progress)) == ("one", {"status": "pulling", **pulled})
    assert completed == ("one",)


def test_without_a_done_line_it_is_up_at_once(node: FakeNode) -> None:
    server = node.server(configuration(done=()))
    do(server, PowerAction.START).value()
    assert server.state is PowerState.RUNNING


def test_an_invalid_done_line_is_logged(node: FakeNode) -> None:
    server = node.server(configuration(done=("regex:(",)))
    do(server, PowerAction.START).value()
    assert server.state is PowerState.STARTING
    assert "is invalid" in node.told("daemon message")[0]


@pytest.mark.parametrize("state", ["starting", "running"])
def test_what_runs_is_not_started_again(node: FakeNode, state: str) -> None:
    server = node.server()
    do(server, PowerAction.START).value()
    if state == "running":
        node.process().say(b"up\n")
    assert "server is running" in str(do(server, PowerAction.START).error(Conflict))
    assert server.state.value == state
    assert node.called("start") == ["start"]


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("panel", PanelUnreachable("down", "x")),
        ("recreate", EnvironmentFailed("no image")),
        ("start", EnvironmentFailed("no port")),
    ],
)
def test_a_start_that_fails_says_so_and_leaves_it_offline(
    node: FakeNode, where: str, error: PanelUnreachable | EnvironmentFailed
) -> None:
    server = node.server()
    if isinstance(error, EnvironmentFailed):
        node.environment.faults[where] = error
    else:
        node.panel.faults["describe"] = error
    assert do(server, PowerAction.START).error(type(error)) is error
    # As with Wings: before `offline`, `stopping` says that a failed start is no crash.
    between = [] if where == "panel" else ["stopping"]
    assert node.told("status") == ["starting", *between, "offline"]
    assert node.told("daemon message") == [f"The start failed: {error}"]
    # What may run although the engine said otherwise is removed; what never began is not.
    assert node.called("remove") == (["remove"] if where == "start" else [])
    node.environment.faults.clear()
    node.panel.faults.clear()
    do(server, PowerAction.START).value()
    assert server.state is PowerState.STARTING


def test_an_internal_error_is_logged_and_shown_in_brief(node: FakeNode, logged: Logged) -> None:
    server = node.server()
    node.panel.faults["describe"] = RuntimeError("a mistake")
    do(server, PowerAction.START).error(RuntimeError)
    assert server.state is PowerState.OFFLINE
    assert "unexpectedly" in node.told("daemon message")[0]
    assert logged.take(RuntimeError)


def test_it_may_end_before_the_engine_answers(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = node.server(configuration(done=()))
    start = FakeContainers.start

    async def start_and_end(
        environment: FakeContainers, uuid: str, watcher: Watcher
    ) -> FakeProcess:
        process = await start(environment, uuid, watcher)
        process.say(b"no such file\n")
        process.end(127)
        return process

    monkeypatch.setattr(FakeContainers, "start", start_and_end)
    do(server, PowerAction.START).value()
    # It crashed, and so did the program that was started again.
    assert node.told("status") == ["starting", "offline", "starting", "offline"]
    assert node.output == ["no such file"] * 2
    assert server.state is PowerState.OFFLINE
    Outcome.of(server.command("x")).error(ServerNotRunning)


def test_what_runs_unknown_to_the_node_is_taken_up_and_not_started(node: FakeNode) -> None:
    node.environment.faults["adopt"] = EnvironmentFailed("the engine is away")
    server = node.server()
    node.environment.run(configuration().settings)
    assert "engine is away" in str(do(server, PowerAction.START).error(EnvironmentFailed))
    node.environment.faults.clear()
    assert "server is running" in str(do(server, PowerAction.START).error(Conflict))
    assert server.state is PowerState.RUNNING
    assert node.called("recreate", "start") == []


def test_late_events_are_ignored(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    server = node.server()
    watchers: list[Watcher] = []

    async def fail(_: FakeContainers, uuid: str, watcher: Watcher) -> FakeProcess:
        watchers.append(watcher)
        raise EnvironmentFailed("no port")

    monkeypatch.setattr(FakeContainers, "start", fail)
    do(server, PowerAction.START).error(EnvironmentFailed)
    node.events.clear()
    watchers[0].output(b"up\n")
    watchers[0].usage(ContainerUsage(memory_bytes=1))
    watchers[0].ended(1, out_of_memory=False)
    assert node.events == []
    assert server.state is PowerState.OFFLINE


def test_suspended_servers_do_not_start(node: FakeNode) -> None:
    server = node.server(configuration(suspended=True))
    for action in (PowerAction.START, PowerAction.RESTART):
        error = do(server, action).error(BadRequest)
        assert error.message == "server is currently in a suspended state"
    assert node.told("status") == []
    assert node.environment.calls == []


def test_a_start_finds_out_that_the_server_was_suspended(node: FakeNode) -> None:
    server = node.server()
    node.panel.known[UUID] = configuration(suspended=True)
    do(server, PowerAction.START).error(BadRequest)
    assert node.told("status") == ["starting", "offline"]
    assert node.called("recreate", "start") == []
    assert server.suspended


@pytest.mark.parametrize(
    ("stop", "call"),
    [
        (Stop("command", "quit"), ("command", UUID, "quit")),
        (Stop("command", "^C"), ("signal", UUID, "SIGINT")),
        (Stop("signal", "C"), ("signal", UUID, "SIGINT")),
        (Stop("signal", "SIGTERM"), ("signal", UUID, "SIGTERM")),
        (Stop("signal", "HUP"), ("signal", UUID, "SIGKILL")),
        (Stop("stop"), ("stop", UUID)),
    ],
)
def test_a_server_stops_in_its_own_way(node: FakeNode, stop: Stop, call: tuple[str, ...]) -> None:
    server = running(node, stop)
    do(server, PowerAction.STOP).value()
    assert call in node.environment.calls
    assert node.told("status") == ["stopping", "offline"]
    assert node.told("daemon message") == []
    assert node.clock.getDelayedCalls() == []


def test_a_starting_server_can_be_stopped(node: FakeNode) -> None:
    server = node.server()
    do(server, PowerAction.START).value()
    do(server, PowerAction.STOP).value()
    assert node.told("status") == ["starting", "stopping", "offline"]


def test_a_stop_of_an_offline_server_does_nothing(node: FakeNode) -> None:
    server = node.server()
    do(server, PowerAction.STOP).value()
    do(server, PowerAction.KILL).value()
    assert node.events == []


def test_a_server_that_does_not_stop_in_time_is_killed(node: FakeNode) -> None:
    server = running(node)
    node.environment.stubborn.add(UUID)
    stopping = do(server, PowerAction.STOP)
    node.clock.advance(599)
    assert server.state is PowerState.STOPPING
    node.clock.advance(2)
    stopping.value()
    assert node.told("status") == ["stopping", "offline"]
    assert node.told("daemon message") == [
        "The server has not stopped within 600 s and is killed."
    ]
    assert node.clock.getDelayedCalls() == []


def test_a_kill_during_a_stop_works_at_once(node: FakeNode) -> None:
    server = running(node)
    node.environment.stubborn.add(UUID)
    stopping = do(server, PowerAction.STOP)
    do(server, PowerAction.KILL).value()
    stopping.value()
    assert node.told("status") == ["stopping", "offline"]
    assert node.told("daemon message") == []
    assert node.clock.getDelayedCalls() == []


@pytest.mark.parametrize("action", [PowerAction.STOP, PowerAction.KILL])
def test_a_silent_engine_leaves_it_running(node: FakeNode, action: PowerAction) -> None:
    server = running(node)
    for name in ("command", "kill"):
        node.environment.faults[name] = EnvironmentFailed("the engine is away")
    do(server, action).error(EnvironmentFailed)
    assert node.told("status") == ["stopping", "running"]
    assert "the engine is away" in node.told("daemon message")[0]
    node.environment.faults.clear()
    node.process().end(1)
    assert node.called("start") == ["start"], "that end is a crash"


def test_a_kill_without_effect_fails(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    server = running(node)

    async def nothing(_: FakeProcess) -> None:
        pass

    monkeypatch.setattr(FakeProcess, "kill", nothing)
    killing = do(server, PowerAction.KILL)
    node.clock.advance(KILL_TIMEOUT + 1)
    assert "has not reported its exit" in str(killing.error(EnvironmentFailed))


def test_one_that_is_up_before_the_engine_says_that_it_runs_can_be_spoken_to(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = node.server()
    start, answer = FakeContainers.start, Deferred[None]()

    async def slow_answer(fake: FakeContainers, uuid: str, watcher: Watcher) -> FakeProcess:
        process = await start(fake, uuid, watcher)
        process.say(b"up\n")
        await answer
        return process

    monkeypatch.setattr(FakeContainers, "start", slow_answer)
    starting = do(server, PowerAction.START)
    assert node.told("status") == ["starting"]
    answer.callback(None)
    starting.value()
    assert node.told("status") == ["starting", "running"]
    Outcome.of(server.command("list")).value()
