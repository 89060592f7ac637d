"""When the rounds of a running server end: how long it would be down, and whether to go on.

After each walk of the tree it is known how much has to be read once more, and from the rounds
before how fast that goes. The server is stopped when the last round would take less than the
target, or when more rounds no longer help. Pure: figures in, decisions out.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from attrs import define, field, frozen

__all__ = ["RoundFigures", "StopDecision", "StopLimits", "StopReason", "StopRule"]

#: Seconds of a last round that no figure tells: the commit, and what the stop itself writes.
FIXED = 0.5
#: Rounds after which the prediction must still get better, and by how much within two rounds.
CONVERGES_AFTER = 3
CONVERGES_BY = 0.8


@frozen
class StopLimits:
    """Until when rounds are sent. All times are in seconds; 0 is no limit.

    `target` is the downtime that is good enough. Above `max_downtime` the server is not stopped.
    """

    target: float = 2.0
    max_downtime: float = 0.0
    max_rounds: int = 30
    max_seconds: float = 86_400.0


@frozen
class RoundFigures:
    """One round: seconds of its walk, of its reading and its sending, and the bytes of these."""

    walk_seconds: float
    read_bytes: int
    read_seconds: float
    sent_bytes: int
    send_seconds: float


class StopReason(Enum):
    """Why the server is stopped now, in words for its console."""

    TARGET = "the rest can be sent within the target"
    NO_GAIN = "more rounds do not make it less"
    MAX_ROUNDS = "the limit of rounds is reached"
    MAX_SECONDS = "the limit of time is reached"
    ENDED = "the server has ended"


@frozen
class StopDecision:
    """`reason` is None to send another round; `downtime` is the prediction in seconds.

    With `is_too_long` the server would have been stopped if not for `max_downtime`.
    """

    downtime: float
    reason: StopReason | None
    is_too_long: bool = False


@define(eq=False)
class StopRule:
    """The rule for one move. `add` takes each round that was sent, `decide` the walk after it."""

    limits: StopLimits
    _rounds: list[RoundFigures] = field(factory=list, init=False)
    _predicted: list[float] = field(factory=list, init=False)

    def add(self, figures: RoundFigures) -> None:
        """Take the figures of a round that was sent."""
        self._rounds.append(figures)

    def decide(
        self,
        walk_seconds: float,
        to_read: int,
        seconds: float,
        *,
        has_ended: bool = False,
    ) -> StopDecision:
        """Return whether to stop the server, after a walk that found `to_read` bytes to be read.

        `seconds` is the time since the first round ended. Call it once after each round.
        """
        downtime = self.predict(walk_seconds, to_read)
        self._predicted.append(downtime)
        if has_ended:
            return StopDecision(downtime, StopReason.ENDED)
        reason = self._reason(downtime, seconds)
        limit = self.limits.max_downtime
        if reason is not None and limit and downtime > limit:
            return StopDecision(downtime, None, is_too_long=True)
        return StopDecision(downtime, reason)

    def predict(self, walk_seconds: float, to_read: int) -> float:
        """Return the seconds for which the server would be down if it were stopped now."""
        last = self._rounds[-2:]
        read_rate = _slowest([(each.read_bytes, each.read_seconds) for each in last])
        line_rate = _slowest([(each.sent_bytes, each.send_seconds) for each in last])
        to_send = to_read * self._changed
        return walk_seconds + _time(to_read, read_rate) + _time(to_send, line_rate) + FIXED

    @property
    def _changed(self) -> float:
        """The share of what was read that had to be sent, in the last round."""
        if not self._rounds or not self._rounds[-1].read_bytes:
            return 1.0
        last = self._rounds[-1]
        return min(last.sent_bytes / last.read_bytes, 1.0)

    def _reason(self, downtime: float, seconds: float) -> StopReason | None:
        limits, predicted = self.limits, self._predicted
        if downtime <= limits.target:
            return StopReason.TARGET
        # The prediction before a round is compared with that of two rounds earlier.
        if len(predicted) > CONVERGES_AFTER and downtime >= CONVERGES_BY * predicted[-3]:
            return StopReason.NO_GAIN
        if limits.max_rounds and len(self._rounds) >= limits.max_rounds:
            return StopReason.MAX_ROUNDS
        if limits.max_seconds and seconds >= limits.max_seconds:
            return StopReason.MAX_SECONDS
        return None


def _slowest(measured: Sequence[tuple[int, float]]) -> float:
    """Return the lowest rate in bytes a second, 0 where none was measured."""
    return min((size / seconds for size, seconds in measured if size and seconds), default=0.0)


def _time(size: float, rate: float) -> float:
    return size / rate if rate else 0.0
