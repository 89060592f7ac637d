"""Which points are kept as time goes on."""

from __future__ import annotations

from itertools import pairwise

from wingsd.history.format import Point, PointLabel
from wingsd.history.policy import surplus

MINUTE, HOUR, DAY = 60, 3600, 86_400
KEEP = {HOUR: 12, DAY: 24, 30 * DAY: 30}
BEGIN = 1_800_000_000


def point(number: int, seconds: int) -> Point:
    return Point(number, seconds * 10**9, PointLabel.RUNNING, b"", 0, 0)


def test_points_thin_out_and_stay_in_each_span() -> None:
    points: list[Point] = []
    for step in range(40 * 24 * 12):
        now = BEGIN + step * 5 * MINUTE
        points.append(point(step + 1, now))
        gone = surplus(points, KEEP, now * 10**9)
        points = [each for each in points if each.number not in gone]
        assert len(points) <= sum(KEEP.values())
    ages = [now - each.time // 10**9 for each in reversed(points)]
    assert ages[:12] == [each * 5 * MINUTE for each in range(12)]
    for span, count in KEEP.items():
        slot = span // count
        assert sum(age < span for age in ages) >= count
        # at any time of a span, a point is at most two slots away
        near = [0, *(age for age in ages if age <= span)]
        assert max(b - a for a, b in pairwise(near)) <= 2 * slot


def test_the_newest_point_and_those_of_the_future_stay() -> None:
    old, new = point(1, BEGIN), point(2, BEGIN + 1)
    assert surplus([old, new], {HOUR: 1}, (BEGIN + 10 * DAY) * 10**9) == [1]
    assert surplus([old, new], KEEP, (BEGIN - DAY) * 10**9) == []
    assert surplus([], KEEP, 0) == []
