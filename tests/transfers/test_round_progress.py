"""The rounds of a running server's move: what the console shows of them, and when they end."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.support.recording_observer import RecordingObserver
from wingsd.config import LiveMovesConfig
from wingsd.moves import stop_rule
from wingsd.moves.stop_rule import RoundFigures
from wingsd.servers.operations import Operations
from wingsd.servers.power_states import PowerState
from wingsd.transfers.outgoing.move_round import ClosedRound, PlannedRound
from wingsd.transfers.outgoing.rounds import LivePolicy

MIB = 1 << 20
FIGURES = RoundFigures(8 * MIB, 1.0, 8 * MIB, 8.0)


class Runs:
    state = PowerState.RUNNING
    restart_seconds = 1.5
    operations = Operations()


def policy(
    move: Any, config: LiveMovesConfig, observer: RecordingObserver, said: list[str]
) -> LivePolicy:
    """Return the rounds of a double of a move, to which they also announce the stop."""
    steps: Any = Mock(clock=move.clock, seconds=move.clock.seconds, observer=observer)
    steps.say = said.append
    server: Any = Runs()
    rounds = LivePolicy(move, server, steps, config, Mock())
    rounds._announce = move.announce  # type: ignore[method-assign]
    return rounds


class Shown:
    """Three plans, of which the second one is too much; keeps what the console shows."""

    def __init__(self) -> None:
        self.read = 0
        self.container_seconds = 0.0
        self.sizes = [MIB, 8 * MIB, MIB]
        self.lines: list[str] = []
        self.told: list[float] = []
        #: Whether each plan leaves out what changes all the time.
        self.leaves: list[bool] = []
        self.said: list[str] = []
        self.heard = RecordingObserver()
        config = LiveMovesConfig(target_downtime=5)
        self.clock = Clock()
        #: The round and the predicted downtime that programs get.
        self.shown: list[tuple[int, float | None]] = []
        self.rounds = policy(self, config, self.heard, self.said)

    async def plan_round(self, *, leave_hot: bool) -> PlannedRound:
        self.lines.append(self.rounds.progress)
        self.leaves.append(leave_hot)
        self.read = 100 * MIB
        return PlannedRound(0.25, self.sizes.pop(0), 0)

    async def send_round(self, *, leave_hot: bool) -> ClosedRound:
        for _ in range(2):
            self.lines.append(self.rounds.progress)
            self.read += MIB // 4
            self.clock.advance(2)
        self.shown.append((self.rounds.round, self.rounds.downtime))
        return ClosedRound(1, b"", FIGURES)

    async def may_be_stopped(self, _: object) -> bool:
        self.container_seconds = 0.75
        return True

    async def announce(self, seconds: float) -> None:
        self.told.append(seconds)


@pytest.mark.promise("shown-figures-are-true")
async def test_it_has_the_round_the_rest_and_the_predicted_downtime() -> None:
    shown = Shown()
    await shown.rounds.run()
    assert shown.lines == [
        "Following: looking for what has to be sent",
        "Following [                         ] 0 B / 1.0 MiB in round 1",
        "Following [======                   ] 256.0 KiB / 1.0 MiB in round 1"
        ", 128.0 KiB/s, 6 s left",
        "Following: looking for what has to be sent after round 1",
        "Following [                         ] round 2, 8.0 MiB left, about 11.2 s of downtime",
        "Following [                         ] round 2, 7.8 MiB left, about 11.2 s of downtime",
        "Following: looking for what has to be sent after round 2",
    ]
    # 1.875 s for the rest, 1.5 s for its program, and the rehearsed container.
    assert shown.told == [4.125]
    assert shown.heard.predicted == [11.25, 3.375, 4.125]
    assert shown.said[-1].endswith("about 4.1 s of downtime")


@pytest.mark.promise("shown-figures-are-true")
async def test_programs_get_the_round_and_the_predicted_downtime() -> None:
    shown = Shown()
    await shown.rounds.run()
    assert shown.shown == [(1, None), (2, 11.25)]
    assert (shown.rounds.round, shown.rounds.downtime) == (2, 4.125)


async def test_the_first_round_has_what_changes_all_the_time() -> None:
    shown = Shown()
    await shown.rounds.run()
    assert shown.leaves == [False, True, True]


class Game:
    """A game on a simulated clock that changes `rate` bytes a second of one file of 1 GB.

    The disk reads 1 GB a second, the line carries 30 MB; each request takes 0.05 s.
    """

    size, line, request = 10**9, 30e6, 0.05

    def __init__(self, rate: float, max_downtime: int) -> None:
        self.rate = rate
        self.read = self.rounds = 0
        self.clock = Clock()
        self.announced = self.container_seconds = 0.0
        self.sent_at: float | None = None
        self.planned = PlannedRound(0.0, 0, 0)
        config = LiveMovesConfig(target_downtime=1, max_downtime=max_downtime)
        rounds = policy(self, config, RecordingObserver(), [])
        self.running = Deferred.fromCoroutine(rounds.run())

    def play(self, minutes: int) -> bool:
        """Return whether the server was stopped within so many minutes."""
        while not self.running.called and self.clock.seconds() < 60 * minutes:
            self.clock.advance(0.5)
        return self.running.called

    @property
    def changed(self) -> float:
        if self.sent_at is None:
            return self.size
        return min(self.rate * (self.clock.seconds() - self.sent_at), self.size)

    @property
    def downtime(self) -> float:
        """The seconds of the last round, were the server stopped now."""
        rest = 0.2 + self.size / 1e9 + self.changed / self.line + stop_rule.FIXED
        return rest + Runs.restart_seconds

    async def plan_round(self, *, leave_hot: bool) -> PlannedRound:
        self.clock.rightNow += 0.2
        leaves = leave_hot and self.rounds > 2
        read, left = (3000, self.size) if leaves else (self.size, 0)
        self.planned = PlannedRound(0.2, read, left)
        return self.planned

    async def send_round(self, *, leave_hot: bool) -> ClosedRound:
        read, sent = self.planned.unread, 3000.0
        began = self.clock.seconds()
        if not self.planned.left:
            sent, self.sent_at = self.changed, began
        reading, sending = read / 1e9 + self.request, sent / self.line + self.request
        self.clock.rightNow += max(reading, sending)
        self.rounds += 1
        figures = RoundFigures(read, reading, int(sent), sending)
        return ClosedRound(self.rounds, b"", figures)

    async def may_be_stopped(self, _: object) -> bool:
        return True

    async def announce(self, seconds: float) -> None:
        self.announced = seconds


def test_a_server_whose_hot_files_are_left_out_is_stopped_within_its_longest_downtime() -> None:
    game = Game(5e6, max_downtime=5)
    assert game.play(minutes=5)
    assert game.downtime - Runs.restart_seconds < 5
    assert game.downtime / 2 < game.announced < game.downtime * 2


def test_a_server_that_would_be_down_for_too_long_runs_on_until_it_is_quieter() -> None:
    # Each minute it changes what takes ten seconds to send, and 50 MB in the time of a round.
    game = Game(25e6, max_downtime=3)
    assert not game.play(minutes=20)
    assert 20 <= game.rounds < 60, "two or three rounds a minute"
    game.rate = 5e6
    assert game.play(minutes=40)
    assert game.downtime - Runs.restart_seconds < 3
    assert game.downtime / 2 < game.announced < game.downtime * 2
