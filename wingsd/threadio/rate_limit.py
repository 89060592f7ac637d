"""Rate limit: a token bucket that many streams share fairly.

Twisted's own are no replacement. `protocols.htb` uses the wall clock, fails for bytes that it
delays (it joins them as text), polls in every turn of the reactor, and serves streams in the order
in which they ask. `protocols.policies.ThrottlingFactory` checks once a second and then pauses all.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["Share", "TokenBucket"]

#: Seconds between two distributions of tokens.
TICK = 0.02
#: Seconds of tokens that active streams may save up: they compensate for turns of the reactor
#: longer than a tick, and are the largest burst.
BURST = 0.1


class TokenBucket:
    """Limits all streams that have a share in it to `rate` bytes a second together.

    A stream takes one token for each byte passed, and is held while it is in debt. New tokens are
    distributed to the active streams evenly; those that one cannot use go to the others (max-min
    fairness). No timer runs while no stream is active.

    Streams that yield get at most the part `yielded` of the tokens together, as long as others can
    use the rest.
    """

    def __init__(self, reactor: IReactorTime, rate: float, yielded: float = 1.0) -> None:
        self._reactor = reactor
        self._rate = rate
        self._yielded = yielded
        self._shares: dict[Share, None] = {}
        #: The time up to which tokens have been distributed.
        self._filled: float = reactor.seconds() - TICK
        self._next: IDelayedCall | None = None

    def join(self, resume: Callable[[], object], *, yields: bool = False) -> Share:
        """Return the share of one more stream; `resume` ends each time it was held.

        `yields` is whether it leaves a part to those that do not.
        """
        share = Share(self, resume, yields=yields)
        self._shares[share] = None
        debt = self._filled - self._reactor.seconds()
        if debt > 0:
            # The debt of ended streams: else many short ones would pass at any rate.
            self._filled -= debt
            share.take(debt * self._rate)
        return share

    def start_ticking(self) -> None:
        """Start the timer, after a stream took tokens."""
        if self._next is None:
            # The bucket was idle: there are tokens of one tick.
            self._filled = max(self._filled, self._reactor.seconds() - TICK)
            self._fill()
            self._next = self._reactor.callLater(TICK, self._tick)

    def remove(self, share: Share) -> None:
        """Remove the share of an ended stream."""
        if share not in self._shares:
            return
        del self._shares[share]
        self._filled -= share.tokens / self._rate
        if not self._shares and self._next is not None:
            self._next.cancel()
            self._next = None

    def _tick(self) -> None:
        self._next = None
        if not any(share.is_active for share in self._shares):
            return
        self._next = self._reactor.callLater(TICK, self._tick)
        held = [share for share in self._shares if share.held]
        self._fill()
        for share in held:
            # A stream resumed before may have ended this one.
            if share in self._shares and not share.held:
                share.resume()

    def _fill(self) -> None:
        now = self._reactor.seconds()
        tokens = (now - self._filled) * self._rate
        if tokens <= 0:  # ended streams left a debt
            return
        self._filled = now
        active = []
        for share in self._shares:
            if share.is_active:
                active.append(share)
            else:
                tokens += share.tokens
                share.tokens = 0.0
        self._divide(tokens, active)

    def _divide(self, tokens: float, active: list[Share]) -> None:
        most = self._rate * BURST / max(len(active), 1)
        yielding = [share for share in active if share.yields]
        others = [share for share in active if not share.yields]
        if yielding and others:
            part = tokens * min(self._yielded, len(yielding) / len(active))
            left = tokens - part + _give(part, most, yielding)
            tokens = _give(left, most, others)  # which they cannot use
            _give(tokens, most, yielding)
        else:
            _give(tokens, most, active)
        for share in active:
            share.has_taken = False


def _give(tokens: float, most: float, shares: list[Share]) -> float:
    """Give tokens to shares, of which each has at most `most` then; return what is left."""
    # The stream that can take the fewest comes first and leaves the rest to the others.
    shares.sort(key=lambda share: share.tokens, reverse=True)
    for number, share in enumerate(shares):
        free = most - share.tokens
        given = max(0.0, min(free, tokens / (len(shares) - number)))
        tokens -= given
        share.tokens += given
    return tokens


class Share:
    """One stream's share of a bucket. `tokens` are bytes, negative for a debt."""

    def __init__(self, bucket: TokenBucket, resume: Callable[[], object], *, yields: bool) -> None:
        self._bucket = bucket
        self.resume = resume
        self.yields = yields
        self.tokens = 0.0
        #: Whether tokens were taken since the last distribution.
        self.has_taken = False

    @property
    def held(self) -> bool:
        """Whether the stream must wait until `resume` is called."""
        return self.tokens < 0

    @property
    def is_active(self) -> bool:
        """Whether the stream can use new tokens."""
        return self.has_taken or self.held

    def take(self, size: float) -> None:
        """Take the tokens for `size` bytes; the stream may then be held."""
        self.tokens -= size
        self.has_taken = True
        self._bucket.start_ticking()

    def leave(self) -> None:
        """Give up the share and its debt. May be called twice."""
        self._bucket.remove(self)
        self.tokens = 0.0
