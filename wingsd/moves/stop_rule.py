"""The rule that ends the rounds of a running server, by the predicted downtime.

After each walk of the tree it is known how much has to be read once more, and from the rounds
before how fast that goes. The server is stopped when the last round would take less than the
target, or when more rounds no longer help. Pure: figures in, decisions out.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from attrs import define, field, frozen

from wingsd.config import LiveMovesConfig

ALL_EVERY = 10
"""Rounds of a server that is followed for long of which one also has its hot files."""

#: Seconds of a last round that no figure shows: the commit, and what the stop itself writes.
FIXED = 0.5
#: Rounds after which the prediction must still get better, and by how much within two rounds.
CONVERGES_AFTER = 3
CONVERGES_BY = 0.8
#: Bytes by which a round shows a rate: with fewer it says how long a request takes.
ENOUGH = 16 << 20


@frozen
class RoundFigures:
    """One round: the bytes and the seconds of its reading and of its sending."""

    read_bytes: int
    read_seconds: float
    sent_bytes: int
    send_seconds: float


class StopReason(Enum):
    """The reasons why the server is stopped now, in words for its console."""

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

    limits: LiveMovesConfig
    _rounds: int = field(default=0, init=False)
    #: The last three predictions that were decided on.
    _predicted: deque[float] = field(factory=lambda: deque(maxlen=3), init=False)
    #: Bytes and seconds of the last two rounds that tell how fast files are read, and sent.
    _reads: list[tuple[int, float]] = field(factory=list, init=False)
    _sends: list[tuple[int, float]] = field(factory=list, init=False)
    #: Bytes that rounds have read and sent; each has read at most half as much as the one before.
    _shares: list[tuple[int, int]] = field(factory=list, init=False)

    def add(self, figures: RoundFigures) -> None:
        """Take the figures of a round that was sent."""
        self._rounds += 1
        self._reads = _with(self._reads, figures.read_bytes, figures.read_seconds)
        self._sends = _with(self._sends, figures.sent_bytes, figures.send_seconds)
        if read := figures.read_bytes:
            larger = [each for each in self._shares if each[0] >= 2 * read]
            self._shares = [*larger, (read, figures.sent_bytes)]

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
        """Return the seconds for which the server would be down if it were stopped now.

        Without the time that its program needs to stop and to start.
        """
        reading = _time(to_read, self._reads)
        sending = _time(to_read * self._changed(to_read), self._sends)
        return walk_seconds + reading + sending + FIXED

    def foresee(self, walk_seconds: float, to_read: int, hot: int, seconds: float) -> float:
        """Return what `predict` will after some rounds that follow each other without a pause.

        In the last `seconds` files of `to_read` bytes were changed. Those of the `hot` ones among
        them are changed in any time, however short; the less time a round takes, the less is
        changed in all others, and the less is to be sent.
        """
        downtime = self.predict(walk_seconds, to_read)
        sending = _time(to_read * self._changed(to_read), self._sends)
        for _ in range(CONVERGES_AFTER):
            share = min(downtime / max(seconds, downtime), 1.0)
            reading = _time(hot + (to_read - hot) * share, self._reads)
            downtime = walk_seconds + reading + share * sending + FIXED
        return downtime

    def _changed(self, to_read: int) -> float:
        """The share of `to_read` bytes to be sent, as in the last round that read as many.

        Files that change all the time are left out of most rounds: what these have sent says
        nothing about them.
        """
        alike = [each for each in self._shares if 2 * each[0] >= to_read]
        if not self._shares:
            return 1.0
        read, sent = alike[-1] if alike else self._shares[0]
        return min(sent / read, 1.0)

    def _reason(self, downtime: float, seconds: float) -> StopReason | None:
        limits, predicted = self.limits, self._predicted
        if downtime <= limits.target_downtime:
            return StopReason.TARGET
        # The prediction before a round is compared with that of two rounds earlier.
        is_compared = len(predicted) == predicted.maxlen and self._rounds > CONVERGES_AFTER
        if is_compared and downtime >= CONVERGES_BY * predicted[0]:
            return StopReason.NO_GAIN
        if limits.max_rounds and self._rounds >= limits.max_rounds:
            return StopReason.MAX_ROUNDS
        if limits.max_seconds and seconds >= limits.max_seconds:
            return StopReason.MAX_SECONDS
        return None


def _with(measured: list[tuple[int, float]], size: int, seconds: float) -> list[tuple[int, float]]:
    """Return the last two measurements that tell a rate: of `ENOUGH` bytes, or of the most."""
    if not (size and seconds):
        return measured
    measured = [*measured, (size, seconds)]
    enough = min(ENOUGH, max(measured)[0])
    return [each for each in measured if each[0] >= enough][-2:]


def _time(size: float, measured: list[tuple[int, float]]) -> float:
    """Return the seconds for `size` bytes at the slower rate; 0 before any measurement."""
    return max((size * seconds / done for done, seconds in measured), default=0.0)
