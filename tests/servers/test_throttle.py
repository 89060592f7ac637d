"""How much of a flood is passed on."""

from __future__ import annotations

import pytest

from wingsd.config import ThrottlesConfig
from wingsd.servers.console import BYTES, LONGEST_EPISODE, QUIET, SUSTAINED, WINDOW, Throttle

pytestmark = pytest.mark.promise("console-flood-hides-no-state")

LINE = b"x"
RULES = ThrottlesConfig()


def test_the_limit_is_that_of_wings() -> None:
    throttle = Throttle(RULES)
    assert throttle.admit([LINE] * 2001, 0) == 2000
    assert throttle.admit([LINE], 0.05) == 0


@pytest.mark.parametrize(("lines", "in_a_second"), [(500, SUSTAINED), (3000, 3000)])
def test_bursts_are_limited_by_the_second_as_well(lines: int, in_a_second: int) -> None:
    throttle = Throttle(ThrottlesConfig(lines=lines))
    admitted = [throttle.admit([LINE] * 10_000, tenth / 10) for tenth in range(20)]
    assert max(admitted) == lines
    assert sum(admitted[:10]) == sum(admitted[10:]) == in_a_second


def test_without_a_limit_of_lines_that_of_bytes_stays() -> None:
    throttle = Throttle(ThrottlesConfig(enabled=False))
    assert throttle.admit([LINE] * 100_000, 0) == 100_000
    assert throttle.admit([LINE] * 100_000, 0) == BYTES - 100_000


def test_long_lines_are_a_flood_too() -> None:
    throttle = Throttle(RULES)
    line = b"x" * (BYTES // 4)
    assert throttle.admit([line] * 10, 0) == 4
    assert throttle.admit([line], WINDOW) == 1


def test_an_episode_is_over_when_all_has_passed_for_a_while() -> None:
    throttle = Throttle(RULES)
    throttle.admit([LINE] * (RULES.lines + 5), 0)
    throttle.admit([LINE] * 2, 0.5)
    assert throttle.active
    assert throttle.ended(QUIET) == 0
    assert throttle.ended(0.5 + QUIET) == 7
    assert throttle.ended(0.5 + QUIET) == 0
    assert not throttle.active


def test_a_flood_without_end_is_told_of_now_and_then() -> None:
    throttle = Throttle(RULES)
    told = []
    for second in range(32):
        told.append(throttle.ended(second))
        throttle.admit([LINE] * (RULES.lines + 1), second)
    episodes = [count for count in told if count]
    assert len(episodes) == 3
    assert all(abs(count - LONGEST_EPISODE) <= 1 for count in episodes)
