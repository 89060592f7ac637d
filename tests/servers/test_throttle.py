"""How much of a flood is passed on."""

from __future__ import annotations

from wingsd.servers.console import BYTES, LINES, LONGEST_EPISODE, WINDOW, Throttle

LINE = b"x"


def test_what_is_no_flood_passes() -> None:
    throttle = Throttle()
    for window in range(5):
        assert throttle.admit([LINE] * LINES, window * WINDOW) == LINES
    assert not throttle.active


def test_a_flood_is_cut_off_in_each_window() -> None:
    throttle = Throttle()
    assert throttle.admit([LINE] * (LINES + 5), 0) == LINES
    assert throttle.admit([LINE], WINDOW / 2) == 0
    assert throttle.admit([LINE] * 3, WINDOW) == 3


def test_long_lines_are_a_flood_too() -> None:
    throttle = Throttle()
    line = b"x" * (BYTES // 4)
    assert throttle.admit([line] * 10, 0) == 4
    assert throttle.admit([line], WINDOW) == 1


def test_an_episode_is_over_after_a_quiet_window() -> None:
    throttle = Throttle()
    throttle.admit([LINE] * (LINES + 5), 0)
    throttle.admit([LINE] * 2, WINDOW / 2)
    assert throttle.active
    assert throttle.ended(WINDOW) == 0
    assert throttle.ended(3 * WINDOW) == 7
    assert throttle.ended(3 * WINDOW) == 0
    assert not throttle.active


def test_an_endless_flood_is_reported_now_and_then() -> None:
    throttle = Throttle()
    told = []
    for window in range(250):
        now = window * WINDOW
        told.append(throttle.ended(now))
        throttle.admit([LINE] * (LINES + 1), now)
    episodes = [count for count in told if count]
    assert len(episodes) == 3
    assert all(abs(count - LONGEST_EPISODE / WINDOW) <= 1 for count in episodes)
