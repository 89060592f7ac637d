"""One rate for many streams: a token bucket that they share fairly.

Twisted has two of the kind. `protocols.htb` measures by the wall clock, fails for bytes where it
holds some back (it joins them as text), has the consumer ask again in every turn of the reactor,
and gives what there is to whoever asks first. `protocols.policies.ThrottlingFactory` looks once a
second, and then stops everybody.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["Share", "TokenBucket"]

#: Seconds after which new tokens are given out.
TICK = 0.02
#: Seconds for which tokens are kept that streams at work have not used: a turn of the reactor that
#: takes longer than a tick is made up for, and so much may come at once.
BURST = 0.1


class TokenBucket:
    """Lets `rate` bytes a second pass, over all streams together that have a share of it.

    A stream takes as many tokens as bytes of it have passed, and waits while it owes some. New
    tokens are for the streams at work, the same for each, and what one of them has no use for is
    the others' (max-min fairness). Nothing runs while no stream takes any.
    """

    def __init__(self, reactor: IReactorTime, rate: float) -> None:
        self._reactor = reactor
        self._rate = rate
        self._shares: dict[Share, None] = {}
        #: Until when tokens have been given out.
        self._filled: float = reactor.seconds() - TICK
        self._next: IDelayedCall | None = None

    def join(self, go_on: Callable[[], object]) -> Share:
        """Return the share of one more stream; `go_on` is called each time that it may go on."""
        share = Share(self, go_on)
        self._shares[share] = None
        debt = self._filled - self._reactor.seconds()
        if debt > 0:
            # Of streams that have ended: forgiven, many short ones would pass at any rate.
            self._filled -= debt
            share.take(debt * self._rate)
        return share

    def note_taken(self) -> None:
        """A share was taken from."""
        if self._next is None:
            # Nobody was there, so there is one tick's worth and no more.
            self._filled = max(self._filled, self._reactor.seconds() - TICK)
            self._fill()
            self._next = self._reactor.callLater(TICK, self._tick)

    def forget(self, share: Share) -> None:
        """A stream has come to its end."""
        if share not in self._shares:
            return
        del self._shares[share]
        self._filled -= share.tokens / self._rate
        if not self._shares and self._next is not None:
            self._next.cancel()
            self._next = None

    def _tick(self) -> None:
        self._next = None
        if not any(share.is_at_work for share in self._shares):
            return
        self._next = self._reactor.callLater(TICK, self._tick)
        held = [share for share in self._shares if share.held]
        self._fill()
        for share in held:
            # Those before it may have had it end.
            if share in self._shares and not share.held:
                share.go_on()

    def _fill(self) -> None:
        now = self._reactor.seconds()
        tokens = (now - self._filled) * self._rate
        if tokens <= 0:  # Streams that have ended still owe some.
            return
        self._filled = now
        at_work = []
        for share in self._shares:
            if share.is_at_work:
                at_work.append(share)
            else:
                tokens += share.tokens
                share.tokens = 0.0
        self._divide(tokens, at_work)

    def _divide(self, tokens: float, at_work: list[Share]) -> None:
        # Who has room for the least comes first, and leaves the rest to the others.
        at_work.sort(key=lambda share: share.tokens, reverse=True)
        for number, share in enumerate(at_work):
            room = self._rate * BURST / len(at_work) - share.tokens
            given = max(0.0, min(room, tokens / (len(at_work) - number)))
            tokens -= given
            share.tokens += given
            share.has_taken = False


class Share:
    """One stream's part in a bucket. `tokens` are bytes, below 0 what the stream owes."""

    def __init__(self, bucket: TokenBucket, go_on: Callable[[], object]) -> None:
        self._bucket = bucket
        self.go_on = go_on
        self.tokens = 0.0
        #: Whether it has been taken from since tokens were last given out.
        self.has_taken = False

    @property
    def held(self) -> bool:
        """Whether the stream has to wait, until `go_on` is called."""
        return self.tokens < 0

    @property
    def is_at_work(self) -> bool:
        """Whether the stream has use for new tokens."""
        return self.has_taken or self.held

    def take(self, size: float) -> None:
        """Take the tokens for `size` bytes; the stream may be held after that."""
        self.tokens -= size
        self.has_taken = True
        self._bucket.note_taken()

    def leave(self) -> None:
        """Have no share any more, and not be held. May be called twice."""
        self._bucket.forget(self)
        self.tokens = 0.0
