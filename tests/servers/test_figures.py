"""What is counted of a server, its rates, and when it is said that it was throttled."""

from __future__ import annotations

import pytest

from tests.servers.harness import UUID, FakeNode, do, running
from wingsd.docker.runtime import ContainerUsage, DiskIo, NetworkUsage
from wingsd.servers.figures import SAY_AGAIN_AFTER, Rates, ServerFigures, rates
from wingsd.servers.power_states import PowerAction


def moved(uptime: int, disk: DiskIo | None, network: NetworkUsage | None) -> ContainerUsage:
    return ContainerUsage(uptime=uptime, disk_io=disk, network=network)


def test_rates_are_between_two_readings_of_a_run() -> None:
    before = moved(1000, DiskIo(100, 200), NetworkUsage(10, 20, 0, 0))
    after = moved(3000, DiskIo(300, 200), NetworkUsage(30, 26, 0, 0))
    assert rates(before, after) == Rates(read=100, written=0, received=10, sent=3)
    assert rates(before, moved(3000, None, after.network)) == Rates(received=10, sent=3)
    for now in (before, ContainerUsage()):
        assert rates(after, now) == Rates(), "of another run, or at the same time"
    assert rates(ContainerUsage(), after) == Rates()


def killed(figures: ServerFigures, *kills: int | None) -> int:
    for each in kills:
        figures.take(ContainerUsage(oom_kills=each), 0)
    return figures.oom_kills


def test_kills_are_counted_over_runs() -> None:
    figures = ServerFigures()
    assert killed(figures, 2, 2, 3) == 1, "those from before the daemon saw it do not count"
    figures.killed()
    assert figures.oom_kills == 1, "its last reading had it"
    figures.end()
    figures.begin()
    assert killed(figures, 1, 1, None) == 2
    figures.killed()
    assert figures.oom_kills == 2, "one of the last readings had it"
    figures.take(ContainerUsage(uptime=31_000), 0)
    figures.killed()
    figures.end()
    assert (figures.oom_kills, figures.starts) == (3, 1)
    assert figures.usage == ContainerUsage()


def throttled(node: FakeNode, *seconds: float, since: int = 0) -> list[str]:
    """Let a minute pass for each of so many throttled seconds; return what was said."""
    node.events.clear()
    total = 0.0
    for minute, more in enumerate(seconds, since + 1):
        total += more
        node.clock.advance(60)
        usage = ContainerUsage(uptime=60_000 * minute, throttled_seconds=total)
        node.process().use(usage)
    return [args[1] for name, *args in node.events if name == "explained"]


def test_a_server_that_was_throttled_for_a_tenth_of_a_minute_is_told_once_an_hour(
    node: FakeNode,
) -> None:
    server = running(node)
    first, second = throttled(node, 6, 6.1, *[20.0] * 59, 0, 12)
    assert first.startswith(
        "The server was throttled for 6 s of the last minute by its CPU limit;"
    )
    assert second.startswith("The server was throttled for 12 s")
    assert first in "\n".join(server.console.lines(200))
    assert SAY_AGAIN_AFTER == 60 * 60


@pytest.mark.parametrize("seconds", [None, 0.0, 5.9])
def test_another_is_not(node: FakeNode, seconds: float | None) -> None:
    running(node)
    for minute in range(1, 4):
        total = None if seconds is None else minute * seconds
        node.process().use(ContainerUsage(uptime=minute * 60_000, throttled_seconds=total))
    assert not [event for event in node.events if event[0] == "explained"]


def test_the_time_before_this_daemon_is_no_last_minute(node: FakeNode) -> None:
    assert running(node)
    node.process().use(ContainerUsage(uptime=3_600_000, throttled_seconds=3000.0))
    assert not [event for event in node.events if event[0] == "explained"]


def test_lines_and_starts_are_counted(node: FakeNode) -> None:
    server = running(node)
    node.process().say(b"one\ntwo\n")
    assert (server.figures.lines, server.figures.starts) == (3, 1), "it had said that it is up"
    do(server, PowerAction.RESTART).value()
    assert server.figures.starts == 2
    assert server.uuid == UUID
