"""A server as the Panel and its people see it: console, figures, settings, its end."""

from __future__ import annotations

import json
import os
from typing import Any

import attrs
import pytest

from tests.servers.harness import (
    OTHER,
    UUID,
    FakeNode,
    Outcome,
    configuration,
    running,
    with_settings,
)
from tests.support import Hang
from tests.support.logged_errors import Logged
from tests.support.workers import HeldWorkers
from wingsd.config import Registry, ThrottlesConfig
from wingsd.docker.runtime import ContainerUsage, DiskIo, NetworkUsage
from wingsd.egg_files.rewriters import public_configuration
from wingsd.errors import BadRequest, EnvironmentFailed, PanelUnreachable, ServerNotRunning
from wingsd.events import SUSPENDED
from wingsd.panel.schemas import Build, ConfigurationFile, Image, Mount, Replacement
from wingsd.servers.console import WINDOW
from wingsd.servers.files import LEAST_REQUESTED_AGE
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.servers.server import THROTTLING, Server

LINES = ThrottlesConfig().lines
USAGE = ContainerUsage(1000, 2000, 12.5, NetworkUsage(30, 40, 3, 4), DiskIo(50, 60), 5000)


def test_an_impossible_variable_fails_its_server_alone(node: FakeNode) -> None:
    node.panel.known[OTHER] = configuration(OTHER)
    (node.data / OTHER).mkdir()
    server = node.server(configuration(environment={"STARTUP=sh -c evil;": "x"}))
    assert len(node.servers.all()) == 2
    Outcome.of(server.power(PowerAction.START)).error(EnvironmentFailed)
    (message,) = node.told("daemon message")
    assert message.startswith("The start failed: ")
    assert "'STARTUP=sh -c evil;' cannot be the name of an environment variable" in message
    assert server.state is PowerState.OFFLINE
    other = node.servers.get(OTHER)
    Outcome.of(other.power(PowerAction.START)).value()
    assert other.state is PowerState.STARTING


def test_lines_are_sent_and_kept(node: FakeNode) -> None:
    server = running(node)
    node.process().say(b"one\r\ntw")
    node.process().say(b"o\r\nthree")
    assert node.told("console output") == ["one", "two"]
    node.process().end()
    assert node.told("console output") == ["one", "two", "three"]
    assert server.console.lines(2) == ["two", "three"]


def test_what_others_say_is_escaped_in_a_message_of_the_node(node: FakeNode) -> None:
    server = node.server()
    node.environment.faults["recreate"] = EnvironmentFailed("no \x1b[2J\nimage\u202e")
    Outcome.of(server.power(PowerAction.START)).error(EnvironmentFailed)
    (message,) = node.told("daemon message")
    assert message.endswith("no \\x1b[2J\\nimage\\u202e")


@pytest.mark.promise("missing-mount-is-named")
def test_what_a_server_starts_without_is_said_in_its_console(node: FakeNode) -> None:
    server = node.server()
    node.environment.left_out = ["The mount at /data is left out."]
    Outcome.of(server.power(PowerAction.START)).value()
    assert node.told("daemon message") == ["The mount at /data is left out."]
    assert server.console.lines(9) == ["[wingsd] The mount at /data is left out."]


def test_each_run_has_a_console_of_its_own(node: FakeNode) -> None:
    server = running(node)
    node.process().end()
    assert server.console.lines(9) == ["up"]
    Outcome.of(server.power(PowerAction.START)).value()
    assert server.console.lines(9) == []


def test_a_flood_is_cut_and_reported_at_its_end(node: FakeNode) -> None:
    server = running(node)
    node.clock.advance(1)
    for _ in range(4):
        node.process().say(b"flood\n" * 10 * LINES)
    assert node.output == ["flood"] * LINES
    assert node.daemon_lines == [THROTTLING], "once, and when it begins"
    node.clock.pump([WINDOW] * 12)
    notice = f"[wingsd] {39 * LINES} lines were left out"
    assert node.output[LINES:] == [notice]
    node.process().say(b"calm\n")
    assert server.console.lines(2) == [notice, "calm"]
    assert node.clock.getDelayedCalls() == []


def test_a_flood_that_ends_with_the_server_is_reported(node: FakeNode) -> None:
    running(node)
    node.clock.advance(1)
    node.process().say(b"flood\n" * (LINES + 1))
    node.process().end()
    assert node.told("console output")[-1] == "[wingsd] 1 lines were left out"
    assert node.clock.getDelayedCalls() == []


@pytest.mark.promise("console-flood-hides-no-state")
def test_a_done_line_in_a_flood_counts(node: FakeNode) -> None:
    server = node.server()
    Outcome.of(server.power(PowerAction.START)).value()
    node.process().say(b"flood\n" * 2 * LINES + b"up\n")
    assert "up" not in node.told("console output")
    assert server.state is PowerState.RUNNING


def test_commands_are_typed_while_it_runs(node: FakeNode) -> None:
    server = running(node)
    Outcome.of(server.command("say hello")).value()
    assert node.process().commands == ["say hello"]
    node.process().end()
    error = Outcome.of(server.command("say hello")).error(ServerNotRunning)
    assert (error.status, error.message) == (
        502,
        "Cannot send commands to a stopped server instance.",
    )


@pytest.mark.parametrize(
    ("said", "asked", "logs", "from_engine"),
    [
        (b"", 5, ["old", "older"], True),
        (b"new\n", 5, ["new"], False),
    ],
)
def test_old_lines_come_from_the_engine_where_there_are_no_new(
    node: FakeNode, said: bytes, asked: int, logs: list[str], from_engine: bool
) -> None:
    server = node.server()
    Outcome.of(server.power(PowerAction.START)).value()
    node.environment.consoles[UUID] = b"old\r\nolder\r\n"
    node.process().say(said)
    assert Outcome.of(server.logs(asked)).value() == logs
    assert node.called("logs") == (["logs"] if from_engine else [])


def test_what_was_found_running_has_its_beginning_in_the_engine(node: FakeNode) -> None:
    node.environment.run(configuration().settings)
    node.environment.consoles[UUID] = b"old\n"
    server = node.server()
    node.process().say(b"new\n")
    assert server.console.lines(9) == ["new"]
    assert Outcome.of(server.logs(9)).value() == ["old", "new"]
    assert Outcome.of(server.logs(1)).value() == ["new"]
    node.environment.faults["logs"] = EnvironmentFailed("away")
    assert Outcome.of(server.logs(9)).value() == ["new"]


def test_an_end_after_the_stop_command_is_not_a_crash(node: FakeNode) -> None:
    server = running(node)
    Outcome.of(server.command("stop")).value()
    assert node.told("status") == ["stopping", "offline"]
    assert node.daemon_lines == []
    assert node.called("start") == []


def test_a_stop_command_that_cannot_be_typed_leaves_it_running(node: FakeNode) -> None:
    server = running(node)
    node.environment.faults["command"] = EnvironmentFailed("the engine is away")
    Outcome.of(server.command("stop")).error(EnvironmentFailed)
    assert node.told("status") == ["stopping", "running"]
    node.environment.faults.clear()
    node.process().end(1)
    assert node.called("start") == ["start"], "that end is a crash"


@pytest.mark.promise("container-is-made-again")
def test_files_are_measured_again_after_a_removal_that_is_rolled_back(node: FakeNode) -> None:
    server = node.server()
    Outcome.of(server.remove_environment()).value()
    Outcome.of(server.restore_environment()).value()
    (node.data / UUID / "world").write_bytes(bytes(700))
    server.files.measure()
    assert server.disk_bytes == 700


def test_files_that_are_made_during_a_deletion_are_not_measured(node: FakeNode) -> None:
    server = node.server()
    before = server.disk_bytes
    hang = node.environment.faults["remove"] = Hang()
    removing = Outcome.of(server.remove_environment())
    Outcome.of(server.files.make()).value()  # as by an installation that was under way
    (node.data / UUID / "world").write_bytes(bytes(700))
    server.files.measure()
    hang.release()
    removing.value()
    assert server.disk_bytes == before


@pytest.mark.promise("container-is-made-again")
def test_a_container_that_cannot_be_restored_is_logged(node: FakeNode, logged: Logged) -> None:
    node.environment.faults["create"] = EnvironmentFailed("no image")
    Outcome.of(node.server().restore_environment()).value()
    assert any("the next start does it" in line for line in logged.lines)


def test_usage_is_published_while_the_server_runs(node: FakeNode) -> None:
    server = running(node)
    node.process().use(USAGE)
    (stats,) = node.told("stats")
    assert json.loads(stats) == {
        "memory_bytes": 1000,
        "memory_limit_bytes": 2000,
        "cpu_absolute": 12.5,
        "cpu_limit_absolute": 100 * (os.cpu_count() or 1),
        "network": {"rx_bytes": 30, "tx_bytes": 40, "rx_packets": 3, "tx_packets": 4},
        "disk_io": {"read_bytes": 50, "write_bytes": 60},
        "uptime": 5000,
        "state": "running",
        "disk_bytes": 0,
    }
    assert server.stats() == stats
    assert server.figures.usage == USAGE
    node.process().end()
    offline = json.loads(node.told("stats")[-1])
    assert (offline["memory_bytes"], offline["uptime"]) == (0, 0)
    assert offline["disk_io"] == {"read_bytes": 0, "write_bytes": 0}
    assert offline["state"] == "offline"
    assert server.figures.usage == ContainerUsage()


def test_the_disk_is_measured_at_boot_after_runs_and_when_stale(node: FakeNode) -> None:
    world = node.data / UUID / "world"
    world.parent.mkdir()
    world.write_bytes(b"x" * 1000)
    server = running(node)
    assert server.disk_bytes == 1000
    world.write_bytes(b"x" * 2000)
    server.details()
    assert server.disk_bytes == 1000
    node.process().end()
    assert server.disk_bytes == 2000
    world.write_bytes(b"x" * 3000)
    node.clock.advance(151)
    server.details()
    assert server.details().utilization.disk_bytes == 3000


@pytest.mark.promise("size-is-counted-alike")
def test_the_size_is_known_before_the_engine_has_answered(node: FakeNode) -> None:
    node.panel.known[UUID] = configuration()
    (node.data / UUID).mkdir()
    (node.data / UUID / "world").write_bytes(b"x" * 1000)
    node.environment.faults["adopt"] = Hang()
    booting = Outcome.of(node.servers.boot())
    assert not booting.over
    assert node.servers.get(UUID).disk_bytes == 1000


def test_who_asks_about_a_server_that_fills_learns_its_size_soon(node: FakeNode) -> None:
    server = running(node)
    (node.data / UUID / "world").write_bytes(b"x" * 1000)
    node.clock.advance(LEAST_REQUESTED_AGE)
    assert server.details().utilization.disk_bytes == 0
    node.clock.advance(1)
    server.details()
    assert server.details().utilization.disk_bytes == 1000


def test_a_server_that_runs_is_measured_though_nobody_asks(node: FakeNode) -> None:
    server = running(node)
    (node.data / UUID / "world").write_bytes(b"x" * 1000)
    node.clock.advance(151)
    node.process().use(USAGE)
    assert server.disk_bytes == 1000


def test_a_server_that_takes_long_to_measure_is_measured_less_often(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = node.server()
    workers = HeldWorkers()
    monkeypatch.setattr(server.files._walks, "_disk", workers)
    server.files.measure()
    node.clock.advance(0.1)
    server.details()
    workers.held[0].result.callback(1000)
    for seconds, measured in ((99, 1), (2, 2)):
        node.clock.advance(seconds)
        server.details()
        assert len(workers.held) == measured


@pytest.mark.promise("shown-figures-are-true")
def test_an_unknown_size_is_none_here_and_0_for_the_panel(node: FakeNode, logged: Logged) -> None:
    (node.data / "elsewhere").mkdir()
    (node.data / UUID).symlink_to("elsewhere")
    server = node.server()
    assert any(line.startswith(f"{UUID}: measuring") for line in logged.lines)
    assert server.disk_bytes is None
    assert server.details().utilization.disk_bytes == 0
    assert json.loads(server.stats())["disk_bytes"] == 0


def test_sync_fetches_the_settings_again(node: FakeNode) -> None:
    server = node.server()
    fresh = node.panel.known[UUID] = configuration(done=())
    Outcome.of(server.sync()).value()
    assert server.configuration is fresh
    node.panel.faults["describe"] = PanelUnreachable("down", "x")
    Outcome.of(server.sync()).error(PanelUnreachable)
    assert server.configuration is fresh


def test_a_server_that_becomes_suspended_is_stopped(node: FakeNode) -> None:
    server = running(node, stubborn=True)
    node.panel.known[UUID] = configuration(suspended=True)
    Outcome.of(server.sync()).value()
    assert server.suspended
    assert node.told("status") == ["stopping"]
    node.clock.advance(61)
    assert node.told("status") == ["stopping", "offline"]


def test_the_eggs_files_are_rewritten_before_each_start(node: FakeNode) -> None:
    replacements = (
        Replacement("port", replace_with=25570),
        Replacement("ip", replace_with="{{config.docker.interface}}"),
    )
    files = (
        ConfigurationFile("server.properties", "properties", replacements),
        ConfigurationFile("no.thing", "nonsense", replacements),
    )
    server = node.server(configuration(configs=files))
    Outcome.of(server.power(PowerAction.START)).value()
    written = (node.data / UUID / "server.properties").read_text()
    assert written == "port=25570\nip=172.18.0.1\n"
    (message,) = node.told("daemon message")
    assert message.startswith('"no.thing"')
    assert server.state is PowerState.STARTING


@pytest.mark.promise("secrets-are-not-shown")
def test_an_egg_sees_no_secret_of_the_node(node: FakeNode) -> None:
    registries = {"registry.invalid": Registry("somebody", "a password")}
    docker = attrs.evolve(node.config.docker, registries=registries)
    seen = public_configuration(attrs.evolve(node.config, docker=docker))
    assert seen["docker"]["network"]["interface"] == "172.18.0.1"
    for secret in ("a secret", "an id", "a password"):
        assert secret not in repr(seen)


UPDATE = ("update", UUID)


def test_changed_limits_are_applied_while_it_runs(node: FakeNode) -> None:
    server = running(node)
    node.panel.known[UUID] = with_settings(build=Build(memory_limit=512))
    Outcome.of(server.sync()).value()
    assert node.environment.calls.count(UPDATE) == 1
    assert node.environment.containers[UUID].build.memory_limit == 512
    Outcome.of(server.sync()).value()
    assert node.environment.calls.count(UPDATE) == 1


def test_limits_given_with_the_call_are_applied_without_asking_the_panel(node: FakeNode) -> None:
    server = running(node)
    asked = len(node.panel.calls)
    Outcome.of(server.sync(with_settings(build=Build(cpu_limit=30)))).value()
    assert node.environment.containers[UUID].build.cpu_limit == 30
    assert server.configuration.settings.build.cpu_limit == 30
    assert len(node.panel.calls) == asked


def test_a_server_that_is_offline_gets_its_limits_at_the_next_start(node: FakeNode) -> None:
    server = node.server()
    Outcome.of(server.sync(with_settings(build=Build(cpu_limit=30)))).value()
    assert UPDATE not in node.environment.calls


def test_limits_that_the_engine_refuses_are_told_in_the_console(node: FakeNode) -> None:
    server = running(node)
    node.environment.faults["update"] = EnvironmentFailed("Docker refuses: too little")
    Outcome.of(server.sync(with_settings(build=Build(memory_limit=1)))).value()
    (message,) = node.told("daemon message")
    assert message.endswith("take effect at its next start: Docker refuses: too little")
    del node.environment.faults["update"]
    node.environment.update_warnings.append("no weight")
    Outcome.of(server.sync(with_settings(build=Build(io_weight=10)))).value()
    assert node.told("daemon message")[-1].endswith("not applied to the running server: no weight")
    assert server.state is PowerState.RUNNING


def test_a_suspended_server_says_so_to_this_node_and_is_not_started(node: FakeNode) -> None:
    server = node.server()
    Outcome.of(server.sync(configuration(suspended=True))).value()
    assert node.told(SUSPENDED) == [""]
    for action in (PowerAction.START, PowerAction.RESTART):
        Outcome.of(server.power(action)).error(BadRequest)
    for action in (PowerAction.STOP, PowerAction.KILL):
        Outcome.of(server.power(action)).value()
    assert server.details().is_suspended
    node.panel.known[UUID] = configuration()
    Outcome.of(server.sync()).value()
    assert server.state is PowerState.OFFLINE
    Outcome.of(server.power(PowerAction.START)).value()


@pytest.mark.parametrize("suspended", [True, False])
def test_a_server_that_runs_suspended_at_the_nodes_start_is_stopped(
    node: FakeNode, suspended: bool
) -> None:
    node.panel.known[UUID] = configuration(suspended=suspended)
    (node.data / UUID).mkdir()
    node.environment.run(configuration().settings)
    Outcome.of(node.servers.boot()).value()
    assert (UUID in node.environment.running) is not suspended


def changed(node: FakeNode, server: Server, **settings: Any) -> list[str]:
    """Return what is told when the Panel changes the settings to these."""
    node.events.clear()
    node.panel.known[UUID] = with_settings(**settings)
    Outcome.of(server.sync()).value()
    return node.told("pending restart")


def test_settings_that_only_a_start_applies_are_pending(node: FakeNode) -> None:
    server = running(node)
    for settings in (
        {"invocation": "other"},
        {"environment": {"A": "1"}},
        {"container": Image("other")},
        {"mounts": (Mount("/a", "/b"),)},
        {"build": Build(oom_disabled=True)},
    ):
        assert changed(node, server, **settings) == ["true"]
        assert changed(node, server, **settings) == []
        assert server.pending_restart
        # The Panel has the first ones again.
        assert changed(node, server) == ["false"]
        assert not server.pending_restart
    assert changed(node, server, build=Build(memory_limit=5, cpu_limit=3)) == []
    assert changed(node, server, suspended=True) == []


def test_the_next_start_has_them(node: FakeNode) -> None:
    server = running(node)
    changed(node, server, invocation="other")
    Outcome.of(server.power(PowerAction.KILL)).value()
    assert node.told("pending restart") == ["true", "false"]
    assert changed(node, server, invocation="third") == []
    Outcome.of(server.power(PowerAction.START)).value()
    assert node.told("pending restart") == []
    assert changed(node, server, invocation="third") == []
    assert changed(node, server, invocation="fourth") == ["true"]
