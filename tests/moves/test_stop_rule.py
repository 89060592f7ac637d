"""A running server is stopped when that is short enough, or does not get shorter."""

from __future__ import annotations

import pytest

from wingsd.config import LiveMovesConfig
from wingsd.moves.stop_rule import RoundFigures, StopReason, StopRule

MB = 1_000_000


def rule(*changed: float, **limits: float) -> StopRule:
    """Return the rule after rounds that read at 100 MB/s and sent these shares at 10 MB/s."""
    made = StopRule(LiveMovesConfig(**limits))  # type: ignore[arg-type]
    for share in changed:
        sent = int(100 * MB * share)
        made.add(RoundFigures(100 * MB, 1.0, sent, sent / (10 * MB)))
    return made


def test_the_prediction_is_walking_reading_and_sending_what_changes() -> None:
    assert rule(1.0, 0.1).predict(0.3, 50 * MB) == pytest.approx(0.3 + 0.5 + 0.5 + 0.5)


def test_the_slower_of_the_last_two_rounds_counts() -> None:
    made = rule(1.0)
    made.add(RoundFigures(100 * MB, 2.0, 100 * MB, 4.0))
    assert made.predict(0.0, 100 * MB) == pytest.approx(2.0 + 10.0 + 0.5)


def test_rounds_that_leave_out_what_changes_all_the_time_tell_nothing_about_it() -> None:
    # 2 GB of hot files: both rounds that had them sent 1 %, and 20 rounds since read 3 KB each.
    made = rule(1.0)
    for _ in range(2):
        made.add(RoundFigures(2000 * MB, 4.0, 20 * MB, 2.0))
    for _ in range(20):
        made.add(RoundFigures(3000, 0.05, 3000, 0.05))
    assert made.predict(0.3, 2000 * MB) == pytest.approx(0.3 + 4.0 + 2.0 + 0.5)


def test_rounds_without_a_pause_send_less_than_a_minute_has_changed() -> None:
    # In a minute 60 MB are changed: they take 6 s, and the 6 MB of these 6 s less than a second.
    made = rule(1.0)
    assert made.predict(0.1, 60 * MB) == pytest.approx(0.1 + 0.6 + 6.0 + 0.5)
    assert made.foresee(0.1, 60 * MB, 0, 60.0) < 0.1 + 0.5 + 0.1
    # All of a file that changes all the time is read, however short the round.
    hot = made.foresee(0.1, 60 * MB, 60 * MB, 60.0)
    assert hot == pytest.approx(0.1 + 0.6 + 0.5 + 0.14, abs=0.01)


def test_it_stops_when_the_target_is_met() -> None:
    decision = rule(1.0, 0.01).decide(0.3, 10 * MB, 60)
    assert decision.reason is StopReason.TARGET
    assert decision.downtime <= 2.0


def test_it_goes_on_while_the_prediction_gets_better() -> None:
    made = rule(1.0)
    for size in (1000, 500, 300, 200):
        assert made.decide(0.3, size * MB, 60).reason is None
        made.add(RoundFigures(100 * MB, 1.0, 100 * MB, 10.0))


def test_it_stops_when_two_more_rounds_have_not_helped() -> None:
    made = rule(1.0)
    reasons = []
    for _ in range(4):
        reasons.append(made.decide(0.3, 500 * MB, 60).reason)
        made.add(RoundFigures(100 * MB, 1.0, 100 * MB, 10.0))
    assert reasons == [None, None, None, StopReason.NO_GAIN]


@pytest.mark.parametrize(
    ("limits", "seconds", "reason"),
    [
        ({"max_rounds": 1}, 0, StopReason.MAX_ROUNDS),
        ({"max_seconds": 60}, 60, StopReason.MAX_SECONDS),
        ({"max_seconds": 0, "max_rounds": 0}, 10**9, None),
    ],
)
def test_it_stops_at_its_limits(
    limits: dict[str, float], seconds: float, reason: StopReason | None
) -> None:
    assert rule(1.0, **limits).decide(0.3, 500 * MB, seconds).reason is reason


def test_it_does_not_stop_above_the_longest_downtime_and_says_so() -> None:
    decision = rule(1.0, max_rounds=1, max_downtime=5).decide(0.3, 500 * MB, 60)
    assert (decision.reason, decision.is_too_long) == (None, True)


def test_a_server_that_has_ended_is_not_asked_for_its_downtime() -> None:
    decision = rule(1.0, max_downtime=1).decide(0.3, 500 * MB, 60, has_ended=True)
    assert decision.reason is StopReason.ENDED
    assert decision.downtime > 1
