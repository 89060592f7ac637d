"""Starting, stopping and killing servers: the order, the states, and times."""

from __future__ import annotations

import json

import pytest
from twisted.internet.defer import CancelledError, Deferred

from tests.servers.harness import UUID, FakeNode, Outcome, configuration, do, running
from tests.support import Hang
from tests.support.environment import FakeContainers, FakeProcess
from tests.support.logged_errors import Logged
from wingsd.docker.runtime import ContainerUsage, LayerProgress, Watcher
from wingsd.errors import (
    BadRequest,
    Conflict,
    ConsoleBlocked,
    EnvironmentFailed,
    PanelUnreachable,
    ServerNotRunning,
)
from wingsd.events import SUSPENDED
from wingsd.panel.schemas import Stop
from wingsd.servers.operations import Operation
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.servers.server import KILL_TIMEOUT, Server


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


def test_a_start_finds_out_that_the_server_was_suspended(node: FakeNode) -> None:
    server = node.server()
    node.panel.known[UUID] = configuration(suspended=True)
    do(server, PowerAction.START).error(BadRequest)
    assert node.told("status") == ["starting", "offline"]
    assert node.called("recreate", "start") == []
    assert server.suspended
    assert node.told(SUSPENDED) == [""], "which closes consoles"


@pytest.mark.parametrize(
    ("kind", "value", "how"),
    [
        ("command", "quit", ("command", "quit")),
        ("command", "^C", ("signal", "SIGINT")),
        ("command", "", ("stop",)),
        ("signal", "C", ("signal", "SIGINT")),
        ("signal", "^C", ("signal", "SIGINT")),
        ("signal", "sigint", ("signal", "SIGINT")),
        ("signal", "SIGTERM", ("signal", "SIGTERM")),
        ("signal", "SIGABRT", ("signal", "SIGABRT")),
        ("signal", "SIGUSR1", ("signal", "SIGKILL")),
        ("signal", "", ("signal", "SIGKILL")),
        ("stop", "whatever", ("stop",)),
        ("", "", ("stop",)),
        ("nonsense", "x", ("stop",)),
    ],
)
def test_a_server_stops_in_its_own_way(
    node: FakeNode, kind: str, value: str, how: tuple[str, ...]
) -> None:
    server = running(node, Stop(kind, value))
    do(server, PowerAction.STOP).value()
    name, *argument = how
    assert (name, UUID, *argument) in node.environment.calls
    assert node.told("status") == ["stopping", "offline"]
    assert node.told("daemon message") == []
    assert node.clock.getDelayedCalls() == []


def test_a_stop_of_an_offline_server_does_nothing(node: FakeNode) -> None:
    server = node.server()
    do(server, PowerAction.STOP).value()
    do(server, PowerAction.KILL).value()
    Outcome.of(server.stop_within(60)).value()
    assert node.events == []
    do(server, PowerAction.RESTART).value()
    assert server.state is PowerState.STARTING
    do(server, PowerAction.STOP).value()
    assert node.told("status") == ["starting", "stopping", "offline"]


def test_a_server_that_does_not_stop_in_time_is_killed(node: FakeNode) -> None:
    server = running(node, stubborn=True)
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


def test_a_done_line_during_a_stop_changes_nothing(node: FakeNode) -> None:
    server = node.server()
    do(server, PowerAction.START).value()
    node.environment.stubborn.add(UUID)
    stopping = do(server, PowerAction.STOP)
    node.process().say(b"up\n")
    assert server.state is PowerState.STOPPING
    node.process().end()
    stopping.value()


def test_a_kill_during_a_stop_works_at_once(node: FakeNode) -> None:
    server = running(node, stubborn=True)
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


def test_a_restart_is_a_stop_and_a_start(node: FakeNode) -> None:
    server = running(node)
    do(server, PowerAction.RESTART).value()
    assert node.told("status") == ["stopping", "offline", "starting"]
    assert node.called("command", "recreate", "start") == ["command", "recreate", "start"]


def test_a_start_waits_for_a_stop(node: FakeNode) -> None:
    server = running(node, stubborn=True)
    stopping, starting = do(server, PowerAction.STOP), do(server, PowerAction.START)
    node.clock.advance(10)
    assert not starting.over
    node.process().end()
    stopping.value()
    starting.value()
    assert node.told("status") == ["stopping", "offline", "starting"]


@pytest.mark.parametrize("wait", [0, 30])
def test_a_start_waits_for_another_action_within_its_time(node: FakeNode, wait: int) -> None:
    server = running(node, stubborn=True)
    stopping, starting = do(server, PowerAction.STOP), do(server, PowerAction.START, wait)
    node.clock.advance(wait + 1)
    assert "another power action" in str(starting.error(Conflict))
    node.process().end()
    stopping.value()
    assert node.told("status") == ["stopping", "offline"]


@pytest.mark.parametrize("action", [PowerAction.STOP, PowerAction.KILL])
@pytest.mark.parametrize("where", ["panel", "recreate", "start"])
def test_an_unfinished_start_is_cancelled(node: FakeNode, where: str, action: PowerAction) -> None:
    server = node.server()
    if where == "panel":
        node.panel.faults["describe"] = Deferred()
    else:
        node.environment.faults[where] = Hang()
    starting = do(server, PowerAction.START)
    do(server, action).value()
    assert "was cancelled" in str(starting.error(Conflict))
    between = [] if where == "panel" else ["stopping"]
    assert node.told("status") == ["starting", *between, "offline"]
    assert node.called("remove") == (["remove"] if where == "start" else [])
    assert node.clock.getDelayedCalls() == []
    node.panel.faults.clear()
    node.environment.faults.clear()
    do(server, PowerAction.START).value()


def test_a_cancelled_start_is_undone(node: FakeNode) -> None:
    server = node.server()
    node.environment.faults["recreate"] = Hang()
    starting = do(server, PowerAction.START)
    starting.deferred.cancel()
    starting.error(CancelledError)
    assert server.state is PowerState.OFFLINE
    node.environment.faults.clear()
    do(server, PowerAction.START).value()


def test_a_held_server_can_only_be_ended(node: FakeNode) -> None:
    server = running(node)
    server.place_hold(Operation.TRANSFER_OUT, "the server is being transferred")
    for action in (PowerAction.START, PowerAction.RESTART):
        error = do(server, action).error(Conflict)
        assert error.message == "server is currently being transferred"
    do(server, PowerAction.STOP).value()
    do(server, PowerAction.STOP).error(Conflict)
    server.release()
    do(server, PowerAction.START).value()


def test_a_server_taken_while_it_is_being_started_does_not_start(node: FakeNode) -> None:
    server = node.server()
    waiting = node.panel.faults["describe"] = Deferred()
    starting = do(server, PowerAction.START)
    server.place_hold(Operation.TRANSFER_OUT, "the server is being transferred")
    waiting.callback(None)
    starting.error(Conflict)
    assert node.called("recreate", "start") == []
    assert server.state is PowerState.OFFLINE


AWAY = EnvironmentFailed("the engine is away")


@pytest.fixture
def server(node: FakeNode) -> Server:
    """A server of which the engine has not told yet that it runs."""
    node.environment.run(configuration().settings)
    node.environment.faults["adopt"] = AWAY
    server = node.server()
    assert server.state is PowerState.OFFLINE
    return server


@pytest.mark.parametrize(
    ("action", "how"),
    [(PowerAction.STOP, "command"), (PowerAction.RESTART, "command"), (PowerAction.KILL, "kill")],
)
def test_a_server_adopted_late_is_stopped_and_killed(
    node: FakeNode, server: Server, action: PowerAction, how: str
) -> None:
    node.environment.faults.clear()
    do(server, action).value()
    assert node.called("command", "kill") == [how]


def test_a_transfer_stops_it_before_its_container_goes(node: FakeNode, server: Server) -> None:
    node.environment.faults.clear()
    Outcome.of(server.stop_within(60)).value()
    assert node.called("command", "kill") == ["command"]
    assert node.environment.running == {}


@pytest.mark.parametrize("action", list(PowerAction))
def test_actions_wait_for_an_unreachable_engine(server: Server, action: PowerAction) -> None:
    do(server, action).error(EnvironmentFailed)


def test_a_server_that_stops_in_time_is_not_killed(node: FakeNode) -> None:
    server = running(node, stubborn=True)
    server.place_hold(Operation.TRANSFER_OUT, "the server is being transferred")
    stopping = Outcome.of(server.stop_within(60))
    node.clock.advance(59)
    node.process().end()
    stopping.value()
    assert node.called("command", "kill") == ["command"]
    assert node.clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (None, "60 s"),
        (ConsoleBlocked("it did not read its console"), "did not read its console"),
    ],
    ids=["no reaction", "console not read"],
)
def test_a_server_that_does_not_stop_within_a_time_is_killed(
    node: FakeNode, fault: ConsoleBlocked | None, words: str
) -> None:
    server = running(node, stubborn=True)
    if fault is not None:
        node.environment.faults["command"] = fault
    stopping = Outcome.of(server.stop_within(60))
    assert node.told("status")[-1] == "stopping"
    node.clock.advance(61)
    stopping.value()
    assert server.state is PowerState.OFFLINE
    assert words in node.told("daemon message")[0]


def test_a_start_under_way_is_cancelled(node: FakeNode) -> None:
    server = node.server()
    node.environment.faults["recreate"] = Hang()
    starting = do(server, PowerAction.START)
    Outcome.of(server.stop_within(60)).value()
    starting.error(Conflict)
    assert server.state is PowerState.OFFLINE


@pytest.mark.parametrize("seconds", [20, 70])
def test_a_stop_under_way_is_waited_for_within_the_same_time(node: FakeNode, seconds: int) -> None:
    server = running(node, stubborn=True)
    earlier = do(server, PowerAction.STOP)
    stopping = Outcome.of(server.stop_within(60))
    node.clock.advance(seconds)
    if seconds < 60:
        assert not stopping.over
        node.process().end()
    earlier.value()
    stopping.value()
    assert node.called("kill") == ([] if seconds < 60 else ["kill"])
    assert node.clock.getDelayedCalls() == []


def test_a_restart_under_way_ends_offline(node: FakeNode) -> None:
    server = running(node, stubborn=True)
    restarting = do(server, PowerAction.RESTART)
    server.place_hold(Operation.TRANSFER_OUT, "the server is being transferred")
    stopping = Outcome.of(server.stop_within(60))
    node.process().end()
    restarting.error(Conflict)
    stopping.value()
    assert server.state is PowerState.OFFLINE


@pytest.mark.parametrize("earlier", [False, True])
def test_a_cancelled_stop_does_not_kill(node: FakeNode, earlier: bool) -> None:
    server = running(node, stubborn=True)
    stop = do(server, PowerAction.STOP) if earlier else None
    stopping = Outcome.of(server.stop_within(60))
    stopping.deferred.cancel()
    stopping.error(CancelledError)
    node.clock.advance(120)
    assert node.called("kill") == []
    node.process().end()
    assert server.state is PowerState.OFFLINE
    assert node.told("daemon message") == []
    if stop is not None:
        stop.value()
    do(server, PowerAction.START).value()


def test_a_stop_cancelled_during_its_command_leaves_the_server_running(node: FakeNode) -> None:
    server = running(node)
    node.environment.faults["command"] = Hang()
    stopping = Outcome.of(server.stop_within(60))
    stopping.deferred.cancel()
    stopping.error(CancelledError)
    assert server.state is PowerState.RUNNING
    # It may have heard it: no crash.
    node.process().end()
    assert node.told("daemon message") == []
