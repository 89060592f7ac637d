"""Starting, stopping and killing servers."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from tests.servers.harness import UUID, House, Outcome, configuration, do, running
from tests.support import FakeEnvironment
from tests.support.environment import FakeProcess
from tests.support.logged_errors import LoggedErrors
from wingsd.docker.runtime import Usage, Watcher
from wingsd.errors import BadRequest, Conflict, EnvironmentFailed, ServerNotRunning
from wingsd.panel.errors import PanelUnreachable
from wingsd.panel.schemas import Stop
from wingsd.servers.power import KILL_TIMEOUT
from wingsd.servers.power_states import PowerAction, PowerState

# Starting


def test_a_start_comes_from_fresh_settings_and_is_up_with_its_done_line(house: House) -> None:
    server = house.server()
    fresh = house.panel.known[UUID] = configuration(done=("ready",))
    do(server, PowerAction.START).value()
    assert house.panel.calls == [("describe", UUID)]
    assert house.called("recreate", "start") == ["recreate", "start"]
    assert house.environment.containers[UUID] is fresh.settings
    assert server.state is PowerState.STARTING
    house.process().say(b"up\r\nrea")
    assert server.state is PowerState.STARTING
    house.process().say(b"dy\r\n")
    assert house.told("status") == ["starting", "running"]
    assert house.told("console output") == ["up", "ready"]


def test_without_a_done_line_it_is_up_at_once(house: House) -> None:
    server = house.server(configuration(done=()))
    do(server, PowerAction.START).value()
    assert server.state is PowerState.RUNNING


def test_a_done_line_that_is_no_expression_is_told(house: House) -> None:
    server = house.server(configuration(done=("regex:(",)))
    do(server, PowerAction.START).value()
    assert server.state is PowerState.STARTING
    assert "is invalid" in house.told("daemon message")[0]


@pytest.mark.parametrize("state", ["starting", "running"])
def test_what_runs_is_not_started_again(house: House, state: str) -> None:
    server = house.server()
    do(server, PowerAction.START).value()
    if state == "running":
        house.process().say(b"up\n")
    assert "running already" in str(do(server, PowerAction.START).error(Conflict))
    assert server.state.value == state
    assert house.called("start") == ["start"]


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("panel", PanelUnreachable("down", "x")),
        ("recreate", EnvironmentFailed("no image")),
        ("start", EnvironmentFailed("no port")),
    ],
)
def test_a_start_that_fails_says_so_and_leaves_it_offline(
    house: House, where: str, error: PanelUnreachable | EnvironmentFailed
) -> None:
    server = house.server()
    if isinstance(error, EnvironmentFailed):
        house.environment.faults[where] = error
    else:
        house.panel.faults["describe"] = error
    assert do(server, PowerAction.START).error(type(error)) is error
    assert house.told("status") == ["starting", "offline"]
    assert house.told("daemon message") == [f"The start was not done: {error}"]
    # What may run although the engine said otherwise is removed; what never began is not.
    assert house.called("remove") == (["remove"] if where == "start" else [])
    house.environment.faults.clear()
    house.panel.faults.clear()
    do(server, PowerAction.START).value()
    assert server.state is PowerState.STARTING


def test_a_mistake_of_ours_is_logged_whole_and_told_in_few_words(
    house: House, logged_errors: LoggedErrors
) -> None:
    server = house.server()
    house.panel.faults["describe"] = RuntimeError("a mistake")
    do(server, PowerAction.START).error(RuntimeError)
    assert server.state is PowerState.OFFLINE
    assert "unexpectedly" in house.told("daemon message")[0]
    assert logged_errors.take(RuntimeError)


def test_a_program_that_ends_before_the_engine_has_answered(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = house.server(configuration(done=()))
    start = FakeEnvironment.start

    async def start_and_end(
        environment: FakeEnvironment, uuid: str, watcher: Watcher
    ) -> FakeProcess:
        process = await start(environment, uuid, watcher)
        process.say(b"no such file\n")
        process.end(127)
        return process

    monkeypatch.setattr(FakeEnvironment, "start", start_and_end)
    do(server, PowerAction.START).value()
    assert house.told("status") == ["starting", "offline"]
    assert house.told("console output") == ["no such file"]
    assert "exit status 127" in house.told("daemon message")[0]
    Outcome.of(server.command("x")).error(ServerNotRunning)


def test_what_runs_unknown_to_the_node_is_taken_up_and_not_started(house: House) -> None:
    house.environment.faults["adopt"] = EnvironmentFailed("the engine is away")
    server = house.server()
    house.environment.run(configuration().settings)
    assert "engine is away" in str(do(server, PowerAction.START).error(EnvironmentFailed))
    house.environment.faults.clear()
    assert "running already" in str(do(server, PowerAction.START).error(Conflict))
    assert server.state is PowerState.RUNNING
    assert house.called("recreate", "start") == []


def test_a_start_that_failed_is_heard_of_no_more(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = house.server()
    watchers: list[Watcher] = []

    async def fail(_: FakeEnvironment, uuid: str, watcher: Watcher) -> FakeProcess:
        watchers.append(watcher)
        raise EnvironmentFailed("no port")

    monkeypatch.setattr(FakeEnvironment, "start", fail)
    do(server, PowerAction.START).error(EnvironmentFailed)
    house.events.clear()
    watchers[0].output(b"up\n")
    watchers[0].usage(Usage(memory_bytes=1))
    watchers[0].ended(1, out_of_memory=False)
    assert house.events == []
    assert server.state is PowerState.OFFLINE


def test_suspended_servers_do_not_start(house: House) -> None:
    server = house.server(configuration(suspended=True))
    for action in (PowerAction.START, PowerAction.RESTART):
        error = do(server, action).error(BadRequest)
        assert error.message == "Cannot start or restart a server that is suspended."
    assert house.told("status") == []
    assert house.environment.calls == []


def test_who_was_suspended_since_is_found_out_by_the_start(house: House) -> None:
    server = house.server()
    house.panel.known[UUID] = configuration(suspended=True)
    do(server, PowerAction.START).error(BadRequest)
    assert house.told("status") == ["starting", "offline"]
    assert house.called("recreate", "start") == []
    assert server.suspended


# Stopping


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
def test_a_server_is_stopped_in_its_own_way(
    house: House, stop: Stop, call: tuple[str, ...]
) -> None:
    server = running(house, stop)
    do(server, PowerAction.STOP).value()
    assert call in house.environment.calls
    assert house.told("status") == ["stopping", "offline"]
    assert house.told("daemon message") == []
    assert house.clock.getDelayedCalls() == []


def test_one_that_is_still_starting_is_told_to_stop_all_the_same(house: House) -> None:
    server = house.server()
    do(server, PowerAction.START).value()
    do(server, PowerAction.STOP).value()
    assert house.told("status") == ["starting", "stopping", "offline"]


def test_what_is_offline_needs_no_stop(house: House) -> None:
    server = house.server()
    do(server, PowerAction.STOP).value()
    do(server, PowerAction.KILL).value()
    assert house.events == []


def test_who_does_not_stop_in_time_is_killed(house: House) -> None:
    server = running(house)
    house.environment.stubborn.add(UUID)
    stopping = do(server, PowerAction.STOP)
    house.clock.advance(599)
    assert server.state is PowerState.STOPPING
    house.clock.advance(2)
    stopping.value()
    assert house.told("status") == ["stopping", "offline"]
    assert house.told("daemon message") == [
        "The server has not stopped within 600 s and is killed."
    ]
    assert house.clock.getDelayedCalls() == []


def test_a_kill_during_a_stop_works_at_once(house: House) -> None:
    server = running(house)
    house.environment.stubborn.add(UUID)
    stopping = do(server, PowerAction.STOP)
    do(server, PowerAction.KILL).value()
    stopping.value()
    assert house.told("status") == ["stopping", "offline"]
    assert house.told("daemon message") == []
    assert house.clock.getDelayedCalls() == []


@pytest.mark.parametrize("action", [PowerAction.STOP, PowerAction.KILL])
def test_an_engine_that_cannot_be_asked_leaves_it_running(
    house: House, action: PowerAction
) -> None:
    server = running(house)
    for name in ("command", "kill"):
        house.environment.faults[name] = EnvironmentFailed("the engine is away")
    do(server, action).error(EnvironmentFailed)
    assert house.told("status") == ["stopping", "running"]
    assert "the engine is away" in house.told("daemon message")[0]
    house.process().end(1)
    assert "exit status 1" in house.told("daemon message")[1]


def test_a_kill_that_kills_nothing_is_a_failure(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = running(house)

    async def nothing(_: FakeProcess) -> None:
        pass

    monkeypatch.setattr(FakeProcess, "kill", nothing)
    killing = do(server, PowerAction.KILL)
    house.clock.advance(KILL_TIMEOUT + 1)
    assert "has not reported its end" in str(killing.error(EnvironmentFailed))


def test_one_that_is_up_before_the_engine_says_that_it_runs_can_be_spoken_to(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = house.server()
    start, answer = FakeEnvironment.start, Deferred[None]()

    async def slow_answer(fake: FakeEnvironment, uuid: str, watcher: Watcher) -> FakeProcess:
        process = await start(fake, uuid, watcher)
        process.say(b"up\n")
        await answer
        return process

    monkeypatch.setattr(FakeEnvironment, "start", slow_answer)
    starting = do(server, PowerAction.START)
    assert house.told("status") == ["starting"]
    answer.callback(None)
    starting.value()
    assert house.told("status") == ["starting", "running"]
    Outcome.of(server.command("list")).value()
