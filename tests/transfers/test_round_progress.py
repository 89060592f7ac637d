"""What the console of a running server shows of the rounds of its move."""

from __future__ import annotations

from twisted.internet.task import Clock

from tests.support.recording_observer import RecordingObserver
from wingsd.config import LiveMovesConfig
from wingsd.moves.stop_rule import RoundFigures
from wingsd.servers.operations import Operations
from wingsd.servers.power_states import PowerState
from wingsd.transfers.outgoing.live_rounds import LiveRounds, RoundReporter
from wingsd.transfers.outgoing.move_round import ClosedRound, PlannedRound

MIB = 1 << 20
FIGURES = RoundFigures(0.25, 8 * MIB, 1.0, 8 * MIB, 8.0)


class Runs:
    state = PowerState.RUNNING
    operations = Operations()


class Shown:
    """Three plans, of which the second one is too much; keeps what the console shows."""

    def __init__(self) -> None:
        self.read = 0
        self.sizes = [MIB, 8 * MIB, MIB]
        self.lines: list[str] = []
        self.told: list[float] = []
        #: Whether each plan leaves out what changes all the time.
        self.leaves: list[bool] = []
        reporter = RoundReporter(
            lambda text: None, lambda text: None, RecordingObserver(), self._announce
        )
        config = LiveMovesConfig(target_downtime=5)
        self.rounds = LiveRounds(self, Runs(), config, Clock(), reporter, self._may_stop)

    async def plan_round(self, *, leave_hot: bool) -> PlannedRound:
        self.lines.append(self.rounds.progress)
        self.leaves.append(leave_hot)
        self.read = 100 * MIB
        return PlannedRound(0.25, self.sizes.pop(0), 0)

    async def send_round(self, *, leave_hot: bool) -> ClosedRound:
        for _ in range(2):
            self.lines.append(self.rounds.progress)
            self.read += MIB // 4
        return ClosedRound(1, b"", FIGURES)

    async def _may_stop(self) -> bool:
        return True

    async def _announce(self, seconds: float) -> None:
        self.told.append(seconds)


async def test_it_has_the_round_the_rest_and_the_predicted_downtime() -> None:
    shown = Shown()
    await shown.rounds.run()
    assert shown.lines == [
        "Following: looking for what has to be sent",
        "Following [                         ] round 1, 1.0 MiB left",
        "Following [======                   ] round 1, 768.0 KiB left",
        "Following: looking for what has to be sent after round 1",
        "Following [                         ] round 2, 8.0 MiB left, about 9.8 s of downtime",
        "Following [                         ] round 2, 7.8 MiB left, about 9.8 s of downtime",
        "Following: looking for what has to be sent after round 2",
    ]
    assert shown.told == [1.875]


async def test_the_first_round_has_what_changes_all_the_time() -> None:
    shown = Shown()
    await shown.rounds.run()
    assert shown.leaves == [False, True, True]
