"""How long points are kept: how many of each span of time. Plain values, no clock and no disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wingsd.history.format import Point

_SECOND = 1_000_000_000


def surplus(points: Sequence[Point], keep: Mapping[int, int], now: int) -> list[int]:
    """Return the numbers of the points that no rule keeps, the oldest first.

    Each rule is a span in seconds before `now` (ns since 1970), and how many points it keeps: the
    span is divided into so many slots, and the newest point of each is kept. A slot begins at a
    multiple of its length, so that a point stays the one of its slot as time goes on. The newest
    point is kept in any case, and so are all in the future, by a clock that was set back.
    """
    kept = {max(points, key=lambda point: point.number).number} if points else set[int]()
    for span, count in keep.items():
        length = max(span * _SECOND // count, 1)
        # the slot in which the span begins counts no more: there are `count` others
        first = now // length - count + 1
        newest: dict[int, Point] = {}
        for point in sorted(points, key=lambda point: point.number):
            if point.time // length >= first:
                newest[point.time // length] = point
        kept |= {point.number for point in newest.values()}
    kept |= {point.number for point in points if point.time > now}
    return sorted(point.number for point in points if point.number not in kept)
