"""The rounds of a move: how each is sent, what is shown of it, and when they end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast
from unittest.mock import Mock

import attrs
import pytest
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, execute, succeed
from twisted.internet.task import Clock

from tests.support.logged_errors import Logged
from tests.support.recording_observer import RecordingObserver
from wingsd.config import LiveMovesConfig, MovesConfig
from wingsd.errors import (
    DestinationError,
    DestinationRefused,
    DestinationUnreachable,
    FinalPassStalled,
    SeedAdopted,
    StorageError,
)
from wingsd.moves import stop_rule
from wingsd.moves.filling import LEAST_SIZE
from wingsd.moves.stop_rule import RoundFigures
from wingsd.servers.operations import Operations
from wingsd.servers.power_states import PowerState
from wingsd.statedb import Direction, MoveRecord
from wingsd.transfers.outgoing import move_round, rounds
from wingsd.transfers.outgoing.attached import BatchSize
from wingsd.transfers.outgoing.move import MoveSending
from wingsd.transfers.outgoing.move_round import ClosedRound, PlannedRound, RoundSender
from wingsd.transfers.outgoing.rounds import TURN_LASTS, LivePolicy, SeedPolicy
from wingsd.transfers.peer.moves import ROUND_PATIENCE, BegunAnswer
from wingsd.util.retry import Backoff


class Threads:
    """Runs work at once."""

    def run(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        return execute(work, *args, **kwargs)


@attrs.define(slots=False)
class Source:
    """A source with nothing to send, and what was asked of it."""

    size = round = last = unread = left = hot = 0
    walk_seconds = 0.0
    can_go_on = True
    is_same: bool = True
    is_broken: bool = False
    calls: list[str] = attrs.field(factory=list)

    def scan(self, *, running: bool, goes_on: bool) -> None:
        self.calls.append("scan")

    def plan(self, numbers: object, *, leave_hot: bool) -> None:
        self.calls.append("plan")

    def walk_again(self) -> bool:
        self.calls.append("walk")
        return self.is_same

    def next_shape(self) -> None:
        self.calls.append("shape")

    def next_data(self) -> None:
        self.calls.append("data")
        if self.is_broken:
            raise LookupError

    def root(self) -> bytes:
        return b"root"

    def unproven(self, *, is_same: bool) -> str:
        return "" if is_same else "world/file"

    def closed(self) -> None:
        self.calls.append("closed")


class Client:
    """A destination that takes all."""

    yields = False

    def __init__(self) -> None:
        self.is_closed = False
        self.looks = 0

    async def look(self) -> None:
        self.looks += 1
        if self.looks == 1:
            raise DestinationUnreachable("it is away")

    async def close_round(self, number: int, last: int, root: bytes) -> None:
        self.is_closed = True

    def interrupt(self) -> None:
        pass


def sender(
    source: Any, client: Any = None, threads: Any = None, clock: Clock | None = None
) -> RoundSender:
    client, threads = client or Client(), threads or Threads()
    size = BatchSize(1 << 20)
    parts = Mock(packers=threads, followers=threads, reactor=clock or Clock(), senders=set())
    parts.config.moves = MovesConfig()
    return RoundSender(client, source, parts, size, 2, zstd=False)


@pytest.mark.parametrize("is_same", [True, False])
async def test_a_stopped_server_is_walked_through_again_while_it_is_sent(is_same: bool) -> None:
    source = Source(is_same=is_same)
    rounds = sender(source)
    await rounds.plan(None, running=False)
    closed = await rounds.send()
    assert source.calls == ["scan", "plan", "walk", "shape", "data", "closed"]
    assert closed.unproven == ("" if is_same else "world/file")


async def test_batches_of_many_moves_take_the_memory_of_one() -> None:
    sizes: list[int] = []

    class Sized(Source):
        def next_data(self) -> None:
            sizes.append(self.size)

    parts = Mock(packers=Threads(), followers=Threads(), reactor=Clock(), senders=set())
    parts.config.moves = MovesConfig(batch=6)
    client, size = cast(Any, Client()), BatchSize(6 * MIB, first=6 * MIB)
    rounds = RoundSender(client, cast(Any, Sized()), parts, size, 2, zstd=False)
    for others in (0, 2, 100):
        parts.senders = {object() for _ in range(others)}
        await rounds.plan(None, running=True)
        await rounds.send()
        assert len(parts.senders) == others
    assert sizes == [6 * MIB, 2 * MIB, LEAST_SIZE]


@pytest.mark.promise("move-passes-strict-proxies")
@pytest.mark.parametrize(("slow", "running"), [("scan", True), ("next_data", False)])
async def test_while_it_reads_the_destination_hears_of_it(slow: str, running: bool) -> None:
    source, client, clock = Source(), Client(), Clock()
    reading: Deferred[None] = Deferred()

    class ReadsOn(Threads):
        def run(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
            name = getattr(work, "func", work).__name__
            return reading if name == slow else super().run(work, *args, **kwargs)

    rounds = sender(source, client, ReadsOn(), clock)

    async def send() -> None:
        await rounds.plan(None, running=running)
        await rounds.send()

    sending = Deferred.fromCoroutine(send())
    clock.pump([move_round.ASKED_EVERY] * 3)
    assert client.looks == 3
    reading.callback(None)
    await sending
    assert clock.getDelayedCalls() == []


class Watched:
    """The last round of a stopped server whose work does not end, by a clock."""

    def __init__(self) -> None:
        self.clock, self.interrupted = Clock(), 0
        self.source, self.client = Mock(read=0, files=0, steps=(0,)), Mock(steps=0)
        self.client.interrupt = self._interrupt
        self.working: Deferred[None] = Deferred()
        parts = Mock(reactor=self.clock)
        parts.config.moves = MovesConfig()
        url, request = "http://node.invalid/", '{"order": {"bytes": 0, "version": 1}}'
        record = MoveRecord(1, "s", Direction.OUT, "m", "k", "t", url, request=request)
        begun = BegunAnswer("m", 1, 1 << 20, 1)
        self.move = MoveSending(Mock(), parts, record, begun, (), False, False)
        self.move._client = self.client
        self.move._source = self.source
        self.move._deliver_once = self._work  # type: ignore[method-assign]

    async def _work(self) -> None:
        await self.working

    def _interrupt(self) -> None:
        self.interrupted += 1
        self.working.errback(CancelledError())

    def read(self) -> None:
        self.source.read += 1

    def scan(self) -> None:
        self.source.steps = (self.source.steps[0] + 1,)

    def close_there(self) -> None:
        self.client.steps += 1


@pytest.mark.promise("stuck-final-round-is-given-up")
@pytest.mark.parametrize("goes_on", [Watched.read, Watched.scan, Watched.close_there])
async def test_a_last_round_is_given_up_when_neither_node_makes_progress(
    goes_on: Callable[[Watched], None],
) -> None:
    watched = Watched()
    delivering = Deferred.fromCoroutine(watched.move.send(print, 120))
    for _ in range(10):
        watched.clock.pump([1.0] * 100)
        goes_on(watched)
    assert not delivering.called
    watched.clock.pump([1.0] * 119)
    assert watched.interrupted == 0
    watched.clock.pump([1.0] * 2)
    assert watched.interrupted == 1
    with pytest.raises(FinalPassStalled):
        await delivering
    assert watched.clock.getDelayedCalls() == []


# The rounds of a running server's move: what the console shows of them, and when they end


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
        return PlannedRound(0.25, self.sizes.pop(0), 0, 0)

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
    # Programs get the same, and the first round has what changes all the time.
    assert shown.shown == [(1, None), (2, 11.25)]
    assert (shown.rounds.round, shown.rounds.downtime) == (2, 4.125)
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
        self.planned = PlannedRound(0.0, 0, 0, 0)
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
        self.planned = PlannedRound(0.2, read, left, left)
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


# The rounds of a seed by a clock in memory: when they begin, what is said, and how they end


GONE = DestinationUnreachable("the destination cannot be reached", "connection refused")


@pytest.fixture(autouse=True)
def _without_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "ROUND_PAUSES", Backoff(60.0, 3600.0))


class Move:
    """A move whose rounds take no time, unless a test says so."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.plan = PlannedRound(0.5, 8 * MIB, MIB, MIB)
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
        self.full: StorageError | None = None
        self.read = 0
        self.container_seconds = 0.25

    def wait_for(self, seconds: float | None) -> None:
        self.patience.append(seconds)

    async def look_again(self, *, has_failed: bool, starts_over: bool) -> None:
        self.looks.append(has_failed)
        self.starts_over.append(starts_over)

    async def rest(self) -> None:
        if self.full is not None:
            raise self.full

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
    def __init__(
        self,
        until: float | None = None,
        clock: Clock | None = None,
        turns: DeferredSemaphore | None = None,
        *,
        is_eager: bool = False,
    ) -> None:
        self.clock = clock or Clock()
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
        turns = turns or DeferredSemaphore(1)
        self.rounds = SeedPolicy(
            move, server, steps, LiveMovesConfig(), until, now, turns, is_eager
        )
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


def test_rounds_of_many_servers_begin_together_and_take_turns() -> None:
    clock, turns = Clock(), DeferredSemaphore(1)
    first, second = (Seed(clock=clock, turns=turns) for _ in range(2))
    first.run()
    clock.advance(25)
    second.run()
    second.move.sending = first.move.sending = lambda: pausing(clock, 10)
    clock.pump([1.0] * 300)
    # The first ones do not wait, and send all.
    assert (first.move.began[0], second.move.began[0]) == (0, 25)
    later = sorted(each for each in first.move.began + second.move.began if each >= 180)
    assert later[:4] == [180, 190, 240, 250]


def test_a_round_that_takes_long_holds_up_no_other() -> None:
    clock, turns = Clock(), DeferredSemaphore(1)
    long, short = (Seed(clock=clock, turns=turns) for _ in range(2))
    long.run()
    short.run()
    over: Deferred[None] = Deferred()
    long.move.sending = lambda: over
    clock.pump([1.0] * 200)
    assert long.move.began == [0, 60]
    assert short.move.began == [0, 60 + TURN_LASTS, 120, 180]
    over.callback(None)
    clock.pump([1.0] * 200)
    assert turns.tokens == 1
    assert len(long.move.began) > 2


def test_rounds_come_soon_for_a_command_while_the_server_would_be_down_for_long() -> None:
    seed = Seed(is_eager=True)
    seed.run()
    seed.advance(130)
    # That little of it changes all the time is known from the fourth round on.
    assert seed.move.began == [0, 2, 6, 14, 30, 120]
    seed = Seed(is_eager=True)
    seed.move.plan = PlannedRound(0.5, 0, 0, 0)
    seed.run()
    seed.advance(130)
    assert seed.move.began == [0, 2, 60, 120]


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
    # Half a second of walking, 9 MiB to read, half of what changes in a round of 2.2 seconds to
    # send, of that in a minute; what is fixed, the container there, and a stop and start of its
    # program.
    a_round = 9 / 2 / 2 * 2.2 / 60
    expected = 0.5 + 9 / 8 + a_round + 0.5 + 0.25 + 2.0
    assert now.downtime == pytest.approx(expected, abs=0.001)
    assert seed.heard.predicted == [now.downtime]
    sending.callback(None)
    assert seed.rounds.figures.missing == MIB


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


def test_where_a_disk_is_full_between_two_rounds_the_next_one_reads_all_files(seed: Seed) -> None:
    seed.move.full = StorageError("names and digests: No space left on device")
    seed.run()
    assert "No space left" in seed.rounds.figures.trouble
    seed.move.full = None
    seed.advance(120)
    assert seed.move.starts_over == [False, True, False]
    assert seed.rounds.figures.trouble == ""


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
