"""What follows from a program's end that nobody has asked for."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred

from tests.servers.harness import UUID, FakeNode, Outcome, configuration, do, running
from tests.support.logged_errors import Logged
from wingsd.config import CrashDetectionConfig
from wingsd.docker.runtime import ContainerUsage
from wingsd.errors import EnvironmentFailed, PanelUnreachable
from wingsd.panel.schemas import Configuration
from wingsd.servers.console import daemon_line
from wingsd.servers.operations import Operation
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.servers.server import (
    FAILED,
    LINE_MAX,
    CrashDecision,
    ProgramEnd,
    Server,
    decide,
)

pytestmark = pytest.mark.promise("crashed-server-is-restarted")

DETECTED = "---------- Detected server process in a crashed state! ----------"
DISABLED = "Aborting automatic restart, crash detection is disabled for this instance."
TOO_SOON = "Aborting automatic restart, last crash occurred less than 60 seconds ago."

ON = CrashDetectionConfig()
OFF = CrashDetectionConfig(enabled=False)
CLEAN_IS_NONE = CrashDetectionConfig(detect_clean_exit_as_crash=False)
ALWAYS = CrashDetectionConfig(timeout=0)


@pytest.mark.parametrize(
    ("rules", "enabled", "end", "since", "decision"),
    [
        (ON, None, ProgramEnd(1), None, CrashDecision.RESTART),
        (ON, None, ProgramEnd(0), None, CrashDecision.RESTART),
        (ON, False, ProgramEnd(1), None, CrashDecision.DISABLED),
        (OFF, None, ProgramEnd(1), None, CrashDecision.DISABLED),
        (OFF, True, ProgramEnd(1), None, CrashDecision.RESTART),
        (OFF, None, ProgramEnd(0), None, CrashDecision.DISABLED),
        (CLEAN_IS_NONE, None, ProgramEnd(0), None, CrashDecision.CLEAN),
        (CLEAN_IS_NONE, None, ProgramEnd(0, out_of_memory=True), None, CrashDecision.RESTART),
        (CLEAN_IS_NONE, None, ProgramEnd(0), 5, CrashDecision.CLEAN),
        (CLEAN_IS_NONE, None, ProgramEnd(2), None, CrashDecision.RESTART),
        (ON, None, ProgramEnd(1), 0, CrashDecision.TOO_SOON),
        (ON, None, ProgramEnd(1), 59.9, CrashDecision.TOO_SOON),
        (ON, None, ProgramEnd(1), 60, CrashDecision.RESTART),
        (ALWAYS, None, ProgramEnd(1), 0, CrashDecision.RESTART),
    ],
)
def test_the_rules_are_those_of_wings(
    rules: CrashDetectionConfig,
    enabled: bool | None,
    end: ProgramEnd,
    since: float | None,
    decision: CrashDecision,
) -> None:
    assert decide(rules, enabled=enabled, end=end, since_restart=since) is decision


@pytest.fixture
def server(node: FakeNode) -> Server:
    return running(node)


def test_a_container_that_is_gone_counts_as_exit_code_1(node: FakeNode, server: Server) -> None:
    node.process().end(None)
    assert any("Exit code: 1" in line for line in node.daemon_lines)


def test_a_crashed_server_is_started_again(node: FakeNode, server: Server) -> None:
    node.panel.calls.clear()
    node.process().end(3)
    assert node.told("status") == ["offline", "starting"]
    crash = [DETECTED, "Exit code: 3", "Out of memory: false"]
    assert node.daemon_lines[:3] == crash
    assert node.panel.calls == [("describe", UUID)], "its settings are fetched again"
    assert node.called("recreate", "start") == ["recreate", "start"]
    assert server.state is PowerState.STARTING


def test_a_second_crash_is_not_followed_by_a_start_until_a_minute_has_passed(
    node: FakeNode, server: Server
) -> None:
    node.process().end(1)
    node.clock.advance(40)
    node.process().end(1)
    assert node.daemon_lines[-1:] == [TOO_SOON]
    assert server.console.lines(1) == [daemon_line("Pterodactyl", TOO_SOON)], (
        "who opens the console later sees why"
    )
    do(server, PowerAction.START).value()
    # The refused restart does not count: the first one does.
    node.clock.advance(21)
    node.process().end(1)
    assert server.state is PowerState.STARTING
    assert node.called("start") == ["start"] * 3


def test_the_setting_of_the_server_comes_before_that_of_the_node(
    node: FakeNode, server: Server
) -> None:
    settings = attrs.evolve(server.configuration.settings, crash_detection_enabled=False)
    server.configuration = Configuration(settings, server.configuration.process)
    node.process().end(1)
    assert node.daemon_lines == [DISABLED]
    assert server.state is PowerState.OFFLINE


def test_an_end_that_was_asked_for_is_no_crash(node: FakeNode, server: Server) -> None:
    node.environment.stubborn.add(UUID)
    stopping = do(server, PowerAction.STOP)
    node.process().end(1)
    stopping.value()
    assert node.daemon_lines == []
    do(server, PowerAction.START).value()
    node.events.clear()
    do(server, PowerAction.KILL).value()
    assert node.daemon_lines == crashes(node) == []
    assert server.state is PowerState.OFFLINE


def test_a_deleted_server_has_not_crashed(node: FakeNode, server: Server) -> None:
    Outcome.of(node.servers.delete(UUID)).value()
    assert node.daemon_lines == []
    assert node.called("start") == []


def test_a_hold_prevents_the_restart_and_is_named(node: FakeNode, server: Server) -> None:
    server.place_hold(Operation.TRANSFER_OUT, "the server is being transferred")
    node.process().end(1)
    assert node.called("start") == []
    assert "being transferred" in node.told("daemon message")[0]
    assert node.daemon_lines[-1:] == [FAILED]
    server.release()
    do(server, PowerAction.START).value()
    node.process().end(1)
    assert server.state is PowerState.STARTING, "no restart has come before this one"


def test_a_suspended_server_is_not_started_again(node: FakeNode, server: Server) -> None:
    server.configuration = configuration(suspended=True)
    node.process().end(1)
    assert node.called("start") == []
    assert "suspended" in node.told("daemon message")[0]


def crashes(node: FakeNode) -> list[Any]:
    return [json.loads(text) for text in node.told("crashed")]


def test_each_crash_is_published_with_the_last_lines_of_its_run(
    node: FakeNode, server: Server
) -> None:
    node.process().say(b"one\ntwo\n" + b"x" * 1000 + b"\n")
    node.process().end(3)
    first = {
        "exit_code": 3,
        "out_of_memory": False,
        "reason": "",
        "restarted": True,
        "lines": ["two", "x" * LINE_MAX],
    }
    assert crashes(node) == [first]
    node.process().end(137, out_of_memory=True)
    assert crashes(node)[1] == {
        "exit_code": 137,
        "out_of_memory": True,
        "reason": "The server was killed: out of memory; raise its memory limit, or have its "
        "program take less.",
        "restarted": False,
        "lines": [],
    }


@pytest.mark.promise("kill-is-explained")
@pytest.mark.parametrize(
    ("of_node", "says", "counted"),
    [
        (False, "killed: out of memory, it used 1.2 GiB of 1.2 GiB;", "memory_limit"),
        (
            True,
            "killed: the memory of the node ran out, it used 1.0 GiB of 1.2 GiB;",
            "node_memory",
        ),
    ],
)
def test_a_kill_for_memory_is_said_with_its_figures(
    node: FakeNode, server: Server, of_node: bool, says: str, counted: str
) -> None:
    node.process().use(ContainerUsage(1 << 30, (12 << 30) // 10))
    node.process().end(137, out_of_memory=True, of_node=of_node)
    (told, *_) = node.told("daemon message")
    assert says in told
    assert crashes(node)[0]["reason"] == told
    assert {name: n for name, n in server.figures.crashes.items() if n} == {counted: 1}
    assert server.figures.oom_kills == 1
    node.process().end(1)
    assert crashes(node)[1]["reason"] == ""
    assert server.figures.crashes["exit"] == 1
    assert (server.figures.starts, server.figures.oom_kills) == (2, 1)


def test_without_crash_detection_a_kill_is_said_as_well(node: FakeNode, server: Server) -> None:
    settings = attrs.evolve(server.configuration.settings, crash_detection_enabled=False)
    server.configuration = Configuration(settings, server.configuration.process)
    node.process().end(137, out_of_memory=True)
    assert "was killed: out of memory" in node.told("daemon message")[0]
    assert any("was killed" in line for line in server.console.lines(9))


@pytest.mark.parametrize("where", ["panel", "recreate", "start"])
def test_a_restart_that_fails_says_why_and_is_not_repeated(
    node: FakeNode, server: Server, where: str
) -> None:
    if where == "panel":
        node.panel.faults["describe"] = PanelUnreachable("down", "x")
    else:
        node.environment.faults[where] = EnvironmentFailed("no image")
    node.process().end(1)
    assert node.told("daemon message")[0].startswith("The start failed: ")
    assert node.daemon_lines[-1:] == [FAILED]
    assert server.state is PowerState.OFFLINE
    assert node.called("start") == (["start"] if where == "start" else [])


def test_who_starts_it_faster_is_not_disturbed(node: FakeNode, server: Server) -> None:
    waiting: Deferred[None] = Deferred()
    node.panel.faults["describe"] = waiting
    node.process().end(1)
    do(server, PowerAction.KILL).value()
    del node.panel.faults["describe"]
    starting = do(server, PowerAction.START)
    starting.value()
    assert waiting.called
    assert server.state is PowerState.STARTING
    assert node.called("start") == ["start"]


def test_a_node_that_ends_starts_nothing_again(node: FakeNode, server: Server) -> None:
    node.panel.faults["describe"] = Deferred()
    node.process().end(1)
    Outcome.of(node.servers.stop()).value()
    assert node.called("start") == []
    assert node.daemon_lines[-1:] != [FAILED]


def test_the_exit_code_and_the_reason_are_logged(
    node: FakeNode, server: Server, logged: Logged
) -> None:
    node.process().end(9, out_of_memory=True)
    node.process().end(9)
    ended = [line for line in logged.lines if "its program" in line and "exit code" in line]
    assert ended == [
        f"{UUID}: its program was killed, out of memory, exit code 9: it is started again",
        f"{UUID}: its program ended by itself, exit code 9: {CrashDecision.TOO_SOON.value}",
    ]
