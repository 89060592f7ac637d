"""The rounds of a seed by a clock in memory: when they begin, what is said, and how they end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast
from unittest.mock import Mock

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock

from tests.support.logged_errors import Logged
from tests.support.recording_observer import RecordingObserver
from wingsd.config import LiveMovesConfig
from wingsd.errors import (
    DestinationError,
    DestinationRefused,
    DestinationUnreachable,
    SeedAdopted,
    StorageError,
)
from wingsd.moves.stop_rule import RoundFigures
from wingsd.transfers.outgoing import rounds
from wingsd.transfers.outgoing.move_round import ClosedRound, PlannedRound
from wingsd.transfers.outgoing.rounds import SeedPolicy
from wingsd.transfers.peer.moves import ROUND_PATIENCE
from wingsd.util.retry import Backoff

MIB = 1 << 20
GONE = DestinationUnreachable("the destination cannot be reached", "connection refused")


@pytest.fixture(autouse=True)
def _without_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "ROUND_PAUSES", Backoff(60.0, 3600.0))


class Move:
    """A move whose rounds take no time, unless a test says so."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.plan = PlannedRound(0.5, 8 * MIB, MIB)
        #: What each round meets that begins, and when they began.
        self.faults: list[Exception] = []
        self.began: list[float] = []
        #: How the rounds are asked to begin after a failure, and what is waited for.
        self.looks: list[bool] = []
        self.starts_over: list[bool] = []
        self.patience: list[float | None] = []
        #: Whether each leaves out what changes all the time.
        self.leaves: list[bool] = []
        self.sending: Callable[[], Deferred[None]] = lambda: succeed(None)
        self.over: DestinationError | KeyError | None = None
        self.read = 0
        self.container_seconds = 0.25

    def wait_for(self, seconds: float | None) -> None:
        self.patience.append(seconds)

    async def look_again(self, *, has_failed: bool, starts_over: bool) -> None:
        self.looks.append(has_failed)
        self.starts_over.append(starts_over)

    async def ended(self) -> DestinationError | None:
        if isinstance(self.over, KeyError):
            raise self.over
        return self.over

    async def plan_round(self, *, leave_hot: bool) -> PlannedRound:
        self.leaves.append(leave_hot)
        self.began.append(self.clock.seconds())
        if self.faults:
            raise self.faults.pop(0)
        return self.plan

    async def send_round(self, *, leave_hot: bool) -> ClosedRound:
        await self.sending()
        self.read += self.plan.unread
        figures = RoundFigures(self.plan.unread, 1.0, 4 * MIB, 2.0)
        return ClosedRound(len(self.began), b"root", figures)


class Copied:
    uuid = "s"
    restart_seconds = 2.0


class Seed:
    def __init__(self, until: float | None = None) -> None:
        self.clock = Clock()
        self.move = Move(self.clock)
        self.said: list[str] = []
        self.heard = RecordingObserver()
        #: Seconds by which the time of day has been set.
        self.is_set_by = 0.0

        def now() -> float:
            return self.clock.seconds() + self.is_set_by

        steps: Any = Mock(clock=self.clock, seconds=self.clock.seconds, observer=self.heard)
        steps.say = self.said.append
        move, server = cast(Any, self.move), cast(Any, Copied())
        self.rounds = SeedPolicy(move, server, steps, LiveMovesConfig(), until, now)
        self.running: Deferred[None] = Deferred()

    def run(self) -> None:
        self.running = Deferred.fromCoroutine(self.rounds.run())

    def advance(self, seconds: float) -> None:
        self.clock.pump([1.0] * int(seconds))

    def failure(self, kind: type[Exception]) -> Any:
        found: list[Any] = []
        self.running.addErrback(found.append)
        assert found[0].check(kind)
        return found[0].value


@pytest.fixture
def seed() -> Seed:
    return Seed()


def test_a_round_begins_every_minute(seed: Seed) -> None:
    seed.run()
    seed.advance(200)
    assert seed.move.began == [0, 60, 120, 180]
    assert seed.rounds.figures.rounds == 4
    assert (seed.rounds.figures.age, seed.rounds.figures.trouble) == (20.0, "")
    assert seed.move.looks == [False] * 4
    assert seed.heard.rounds == [4 * MIB] * 4


def test_what_changes_all_the_time_is_sent_twice_in_ten_rounds(seed: Seed) -> None:
    seed.run()
    seed.advance(60 * 20)
    assert seed.move.leaves == [False, False, *[True] * 8, False, False, *[True] * 8, False]


def test_rounds_leave_half_of_the_time_free(seed: Seed) -> None:
    def takes(seconds: float) -> Callable[[], Deferred[None]]:
        def sending() -> Deferred[None]:
            return pausing(seed.clock, seconds)

        return sending

    seed.move.sending = takes(500)
    seed.run()
    # The first one sends all, and says nothing of the next.
    seed.advance(562)
    assert seed.move.began == [0, 560]
    seed.advance(1000)
    assert seed.move.began == [0, 560, 1560]


def pausing(clock: Clock, seconds: float) -> Deferred[None]:
    over: Deferred[None] = Deferred()
    clock.callLater(seconds, over.callback, None)
    return over


def test_the_figures_tell_what_is_missing_and_how_long_the_server_would_be_down(
    seed: Seed,
) -> None:
    seed.run()
    first = seed.rounds.figures
    assert (first.changed, first.missing, first.downtime) == (9 * MIB, MIB, None)
    sending: Deferred[None] = Deferred()
    seed.move.sending = lambda: sending
    seed.advance(60)
    seed.move.read += 3 * MIB
    now = seed.rounds.figures
    # What changes all the time is left out, and the rest of the round is still to be read.
    assert (now.changed, now.missing) == (9 * MIB, 6 * MIB)
    # Half a second of walking, 9 MiB to read and half of them to send, what is fixed, the
    # container there, and a stop and start of its program.
    assert now.downtime == pytest.approx(0.5 + 9 / 8 + 9 / 2 / 2 + 0.5 + 0.25 + 2.0)
    assert seed.heard.predicted == [now.downtime]
    sending.callback(None)
    assert seed.rounds.figures.missing == MIB


def test_what_a_failed_round_has_not_sent_is_missing_until_the_next_one_is_planned(
    seed: Seed,
) -> None:
    before = seed.rounds.figures
    assert before.missing is None, "nothing is planned yet"
    sending: Deferred[None] = Deferred()
    seed.move.sending = lambda: sending
    seed.run()
    seed.move.read += 3 * MIB
    seed.move.faults = [GONE]
    sending.errback(GONE)
    assert (seed.rounds.figures.missing, seed.rounds.figures.age) == (6 * MIB, None)
    seed.move.sending = lambda: succeed(None)
    seed.advance(60)
    assert len(seed.move.began) == 2
    assert seed.rounds.figures.missing == 6 * MIB, "the second round could not be planned"
    seed.advance(120)
    assert (seed.rounds.figures.missing, seed.rounds.figures.trouble) == (MIB, "")


def test_pauses_grow_while_the_destination_is_away_and_what_is_wrong_is_said(seed: Seed) -> None:
    seed.run()
    seed.move.faults = [GONE] * 4
    seed.advance(60 + 60 + 120 + 240 + 480)
    assert seed.move.began == [0, 60, 120, 240, 480, 960]
    assert seed.move.looks == [False, False, True, True, True, True]
    failed = [line for line in seed.said if "follows the server again in" in line]
    assert len(failed) == 4
    assert failed[1].startswith("the copy is 2 min old, and follows the server again in 2 min: ")
    assert "connection refused" in failed[0]
    # It goes on as before, and says so.
    assert seed.rounds.figures.trouble == ""
    assert "the destination has a whole copy" in seed.said[-1]
    seed.advance(60)
    assert seed.move.began[-1] == 1020


def test_a_file_that_cannot_be_read_is_named_and_tried_again(seed: Seed) -> None:
    seed.move.faults = [StorageError("world/level.dat: Input/output error")]
    seed.run()
    assert "level.dat" in seed.rounds.figures.trouble
    assert seed.said[0].startswith("the copy was not seen whole yet, and follows the server again")
    seed.advance(60)
    assert seed.rounds.figures.rounds == 1


def test_a_fault_of_the_program_does_not_end_it(seed: Seed, logged: Logged) -> None:
    seed.run()
    seed.move.faults = [KeyError("a fault")]
    seed.advance(60)
    trouble = "internal error: see the log of this node (internal-error)"
    assert seed.rounds.figures.trouble == trouble
    assert "follows the server again in 1 min" in seed.said[-1]
    assert any("s: a round of its copy failed" in line for line in logged.lines)
    seed.advance(60)
    assert seed.rounds.figures.trouble == ""
    # nothing counts then that was known of the files
    assert seed.move.starts_over == [False, False, True]
    seed.move.over = KeyError("a fault")
    seed.advance(60)
    assert seed.move.began == [0, 60, 120, 180]
    assert len(logged.take(KeyError)) > 1


def test_only_the_destinations_word_ends_it(seed: Seed) -> None:
    seed.run()
    refused = DestinationRefused("the destination node says no", "", 502)
    seed.move.faults = [refused]
    seed.advance(60)
    assert not seed.running.called
    seed.move.over = DestinationRefused("the copy is gone", "", 410)
    seed.move.faults = [refused]
    seed.advance(60)
    assert "the copy is gone" in str(seed.failure(DestinationRefused))
    # The usual patience counts again, for whatever follows.
    assert seed.move.patience == [ROUND_PATIENCE, None]


def test_the_destinations_word_ends_it_in_a_pause(seed: Seed) -> None:
    seed.run()
    seed.move.plan = PlannedRound(0.5, 0, 0)
    seed.move.over = DestinationRefused("the transfer was cancelled there", "", 502)
    seed.advance(11)
    assert seed.move.began == [0]
    assert "cancelled there" in str(seed.failure(DestinationRefused))


def test_it_is_over_with_the_first_whole_round_after_its_time() -> None:
    seed = Seed(until=90.0)
    seed.run()
    seed.advance(89)
    assert seed.move.began == [0, 60]
    seed.move.faults = [GONE]
    seed.advance(2)
    assert seed.move.began == [0, 60, 90]
    assert not seed.running.called
    seed.advance(60)
    assert seed.move.began == [0, 60, 90, 150]
    assert seed.running.called


@pytest.mark.promise("seed-switch-waits")
def test_a_clock_that_is_set_moves_the_end_also_in_a_pause() -> None:
    seed = Seed(until=3600.0)
    seed.run()
    seed.is_set_by = -7200.0
    seed.advance(3700)
    assert not seed.running.called
    began = len(seed.move.began)
    seed.is_set_by = 7200.0
    seed.advance(11)
    assert seed.running.called
    assert len(seed.move.began) == began + 1


@pytest.mark.parametrize("moment", ["in a pause", "in a round"])
def test_it_ends_for_a_transfer_of_the_server(seed: Seed, moment: str) -> None:
    sending: Deferred[None] = Deferred()
    seed.run()
    if moment == "in a round":
        seed.move.sending = lambda: sending
        seed.advance(60)
    seed.rounds.stop(SeedAdopted())
    if moment == "in a round":
        assert not seed.running.called
        sending.errback(CancelledError())
    assert seed.failure(SeedAdopted)


def test_people_hear_of_it_once_an_hour(seed: Seed) -> None:
    seed.run()
    seed.advance(3 * 3600)
    assert len(seed.said) == 4
    assert "9.0 MiB to read" in seed.said[-1]
