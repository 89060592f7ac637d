"""How many messages of a browser are taken, and what it is told of the others."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from wingsd.websocket.session import MessageRateLimits, RateLimit

pytestmark = pytest.mark.promise("websocket-floods-are-closed")


def test_a_clock_that_goes_back_gives_nothing_and_takes_nothing() -> None:
    limit = RateLimit(2, 1.0)
    assert [limit.allows(at) for at in (100.0, 50.0, 50.0)] == [True, True, False]
    assert limit.allows(51.0)


@pytest.mark.parametrize(
    ("event", "burst", "every"),
    [
        ("auth", 2, 5.0),
        ("send logs", 2, 5.0),
        ("send command", 10, 1.0),
        ("send stats", 4, 1.0),
        ("set state", 4, 1.0),
        ("no such event", 4, 1.0),
    ],
)
def test_each_event_has_the_burst_and_the_rate_of_wings(
    event: str, burst: int, every: float
) -> None:
    clock = Clock()
    limits = MessageRateLimits(clock.seconds)
    assert [limits.refuse(event) for _ in range(burst + 1)] == [*[None] * burst, event]
    clock.advance(every - 0.1)
    assert limits.refuse(event) == ""
    clock.advance(0.2)
    assert [limits.refuse(event), limits.refuse(event)] == [None, event]


def test_other_events_share_a_limit_and_all_have_one_in_common() -> None:
    limits = MessageRateLimits(Clock().seconds)
    assert [limits.refuse("send stats") for _ in range(5)][-1] == "send stats"
    assert limits.refuse("set state") == ""
    assert limits.refuse("send command") is None
    assert [limits.refuse_any() for _ in range(12)][-3:] == [None, "global", ""]
