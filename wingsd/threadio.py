"""Threads: bounded byte streams to and from them, rate limits, and pools of workers.

`Workers` runs blocking functions in threads and returns their results as Deferreds. `Feed` is a
stream of bytes from the reactor to a thread, `Outflow` one from a thread to the reactor, both with
bounded buffers; a `TokenBucket` limits the rate of many of them together. Nothing else in wingsd
starts a thread for the reactor or calls the reactor from one.
"""

from __future__ import annotations

import os
import sys
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Condition
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IConsumer,
    IProducer,
    IPushProducer,
    IReactorFromThreads,
    IReactorTime,
)
from twisted.internet.threads import blockingCallFromThread, deferToThreadPool
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from wingsd.util.deferreds import Changes
from wingsd.util.reactor import Timer

#: The file for a thread's name in `top -H` and `ps -L`; the kernel keeps 15 bytes.
_COMM = Path("/proc/thread-self/comm")


class Thread(threading.Thread):
    """A daemon thread with its name known to the kernel, and with the nice value `nice`.

    With `idle_io` its reads and writes come after those of all others, where the kernel's I/O
    scheduler heeds that: BFQ does, and mq-deadline as far as it has priorities. Threads that it
    starts inherit both. A higher nice value of the daemon is kept, as an
    unprivileged process may not lower it.
    """

    def __init__(
        self, target: Callable[[], object], name: str, *, nice: int = 0, idle_io: bool = False
    ) -> None:
        super().__init__(target=target, name=name, daemon=True)
        self._nice = nice
        self._idle_io = idle_io

    def run(self) -> None:
        """Set name and priorities, then call the target."""
        # All are optional: there may be no /proc, or a sandbox forbids the call.
        with suppress(OSError):
            if sys.version_info < (3, 14):  # which does so itself
                _COMM.write_text(self.name)
        # On Linux each thread has a nice value of its own, setpriority(2), and an I/O class.
        thread = threading.get_native_id()
        with suppress(OSError):
            if self._nice > os.getpriority(os.PRIO_PROCESS, thread):
                os.setpriority(os.PRIO_PROCESS, thread, self._nice)
        if self._idle_io:
            with suppress(ImportError, OSError):
                import psutil  # noqa: PLC0415

                with suppress(psutil.Error):
                    psutil.Process(thread).ionice(psutil.IOPRIO_CLASS_IDLE)
        super().run()


P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """A pool of threads for one kind of blocking work, all with the nice value `nice`.

    With `idle_io` their reads and writes come after those of all others.

    A thread stays in its pool, so other work keeps its own priority. `when_idle` is called
    on the reactor when no work is left.
    """

    def __init__(
        self,
        reactor: IReactorFromThreads,
        name: str,
        threads: int,
        *,
        nice: int = 0,
        idle_io: bool = False,
        when_idle: Callable[[], object] | None = None,
    ) -> None:
        self._reactor = reactor
        self._when_idle = when_idle
        self._unfinished = 0
        self._pool = ThreadPool(0, threads, name)

        def thread(*, target: Callable[[], object], name: str) -> Thread:
            # A daemon thread: one that hangs (an engine or a disk that does not answer) must not
            # keep the process from ending. Twisted's name for it is too long for the kernel.
            return Thread(target, f"wingsd-{self._pool.name}", nice=nice, idle_io=idle_io)

        self._pool.threadFactory = thread  # type: ignore[assignment]

    def start(self) -> None:
        """Start the pool."""
        self._pool.start()

    def stop(self) -> None:
        """Stop the pool. A thread that is still busy ends after its work; it is not waited for."""
        if self._pool.working:
            # It waits for all of them, so not on the reactor.
            Thread(self._pool.stop, "wingsd-stop").start()
        else:
            self._pool.stop()

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Call `work` in a thread of this pool; return its result."""
        self._unfinished += 1
        result = deferToThreadPool(self._reactor, self._pool, work, *args, **kwargs)
        return result.addBoth(self._finished)

    def _finished(self, result: T) -> T:
        self._unfinished -= 1
        if self._unfinished == 0 and self._when_idle is not None:
            self._when_idle()
        return result


def relayed(reactor: IReactorFromThreads, function: Callable[P, object]) -> Callable[P, None]:
    """Return a function for any thread that calls `function` on the reactor."""

    def relay(*args: P.args, **kwargs: P.kwargs) -> None:
        reactor.callFromThread(function, *args, **kwargs)

    return relay


def awaited(reactor: IReactorFromThreads, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Return in a thread what a coroutine of the reactor returns, or raise its error."""
    calling: Any = blockingCallFromThread  # whose types take no type variable
    found: T = calling(reactor, lambda: Deferred.fromCoroutine(work()))
    return found


# Streams of bytes between the reactor and threads, bounded in both directions.

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

    Twisted's own are no replacement. `protocols.htb` uses the wall clock, fails for bytes that it
    delays (it joins them as text), polls in every turn of the reactor, and serves streams in the
    order in which they ask. `policies.ThrottlingFactory` checks once a second and then pauses all.

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
        self._timer = Timer(reactor)

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
        if not self._timer.is_running:
            # The bucket was idle: there are tokens of one tick.
            self._filled = max(self._filled, self._reactor.seconds() - TICK)
            self._fill()
            self._timer.start(TICK, self._tick)

    def remove(self, share: Share) -> None:
        """Remove the share of an ended stream."""
        if share not in self._shares:
            return
        del self._shares[share]
        self._filled -= share.tokens / self._rate
        if not self._shares:
            self._timer.cancel()

    def _tick(self) -> None:
        if not any(share.is_active for share in self._shares):
            return
        self._timer.start(TICK, self._tick)
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
        """True if the stream must wait until `resume` is called."""
        return self.tokens < 0

    @property
    def is_active(self) -> bool:
        """True if the stream can use new tokens."""
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


#: Bytes of a block in a feed: TLS delivers 16 KiB at a time, and taking the lock and waking the
#: thread for each costs more than copying them once.
BLOCK = 256 * 1024
#: Waiting bytes at which a feed pauses its producer, and at which it resumes it.
FEED_HIGH_MARK = 4 * 1024 * 1024
FEED_LOW_MARK = 2 * 1024 * 1024


@implementer(IConsumer)
class Feed:
    """A bounded stream of bytes: written by the reactor, read by one thread.

    The producer is paused at `FEED_HIGH_MARK` waiting bytes and resumed at `FEED_LOW_MARK`. The
    thread reads `blocks()`, which end where `divide` was called, and continues with `next_part()`.
    """

    def __init__(self, reactor: IReactorFromThreads) -> None:
        self._reactor = reactor
        self._producer: IPushProducer | None = None
        self._paused = False
        self._small: list[bytes] = []
        self._small_size = 0
        # All below is shared with the thread and guarded by this.
        self._changed = Condition()
        #: Blocks, and before those of each further part its label, in a tuple.
        self._blocks: deque[bytes | tuple[object]] = deque()
        self._size = 0
        self._finished = False
        self._error: BaseException | None = None
        self._wake_at_low = False

    # The reactor's side

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """Register `producer`, which must be a push producer."""
        if not streaming or self._producer is not None:
            raise RuntimeError("a feed takes one push producer")
        self._producer = IPushProducer(producer)

    def unregisterProducer(self) -> None:
        """Unregister the producer."""
        self._producer = None

    def write(self, data: bytes) -> None:
        """Add bytes to the stream; pause the producer at the high mark."""
        self._small.append(data)
        self._small_size += len(data)
        if self._small_size >= BLOCK:
            self._flush()

    def divide(self, label: object) -> None:
        """Start another part, with the name `label`."""
        self._flush()
        with self._changed:
            self._blocks.append((label,))
            self._changed.notify()

    def finish(self) -> None:
        """End the stream; it is complete."""
        self._flush()
        with self._changed:
            self._finished = True
            self._changed.notify()

    def fail(self, error: BaseException) -> None:
        """Raise `error` in the thread, in place of the waiting bytes."""
        with self._changed:
            if self._error is None and not self._finished:
                self._error = error
            self._changed.notify()

    def _flush(self) -> None:
        if not self._small:
            return
        block = b"".join(self._small)
        self._small.clear()
        self._small_size = 0
        with self._changed:
            if self._finished:
                return
            self._blocks.append(block)
            self._size += len(block)
            full = self._size >= FEED_HIGH_MARK
            self._wake_at_low = self._wake_at_low or full
            self._changed.notify()
        # Even if it is paused already: the transport resumes itself after some writes.
        if full and self._producer is not None:
            self._paused = True
            self._producer.pauseProducing()

    def _resume(self) -> None:
        if self._paused and self._producer is not None:
            self._paused = False
            self._producer.resumeProducing()

    # The side of the thread

    def close(self) -> None:
        """Discard the stream, after a failure of the reading side."""
        with self._changed:
            self._finished = True
            self._blocks.clear()
            self._changed.notify()

    def blocks(self) -> Iterator[bytes]:
        """Yield the part's bytes as they arrive; raise the error given to `fail`."""
        while (block := self._next()) is not None:
            yield block

    def next_part(self) -> object | None:
        """Skip to the next part; wait for it and return its label, None after the last.

        Raises the error given to `fail`.
        """
        for _ in self.blocks():
            pass
        with self._changed:
            division = self._blocks.popleft() if self._blocks else None
        return division[0] if isinstance(division, tuple) else None

    def _next(self) -> bytes | None:
        with self._changed:
            while not (self._blocks or self._finished or self._error):
                self._changed.wait()
            if self._error is not None:
                raise self._error
            if not self._blocks:
                return None
            block = self._blocks[0]
            if isinstance(block, tuple):
                return None
            self._blocks.popleft()
            self._size -= len(block)
            wake = self._wake_at_low and self._size <= FEED_LOW_MARK
            if wake:
                self._wake_at_low = False
        if wake:
            self._reactor.callFromThread(self._resume)
        return block


#: Bytes of a block of output, up to twice as many: the size in which the packing thread writes
#: (`archive.compress.OUTPUT`), so that blocks are not copied.
STEP = 120 * 1024
#: Waiting bytes at which the thread that writes is stopped: 20 ms of a 1 Gbit/s link.
OUTFLOW_HIGH_MARK = 2 * 1024 * 1024


class OutflowClosed(Exception):
    """The stream was closed; raised in the thread that writes it."""


class ByteSource(ABC):
    """Bytes delivered to a consumer on the reactor, as fast as it and a `bucket` take them.

    `yields` is whether a part of the bucket's rate is left to others.
    """

    def __init__(self, bucket: TokenBucket | None = None, *, yields: bool = False) -> None:
        #: Bytes delivered so far.
        self.bytes_out = 0
        self._consumer: Callable[[bytes], None] | None = None
        self._finished: Callable[[], None] | None = None
        self._running = True
        self._bucket = bucket
        self._yields = yields
        self._share: Share | None = None

    @property
    def is_paused(self) -> bool:
        """True if the consumer takes nothing now."""
        return not self._running

    def start(self, consumer: Callable[[bytes], None], finished: Callable[[], None]) -> None:
        """Deliver the bytes to `consumer`; right after the last ones call `finished`.

        Nothing is delivered while this is paused, nor after `close`.
        """
        self._consumer, self._finished = consumer, finished
        if self._bucket is not None:
            self._share = self._bucket.join(self._deliver, yields=self._yields)
        self._deliver()

    def pauseProducing(self) -> None:
        """Pause delivery."""
        self._running = False

    def resumeProducing(self) -> None:
        """Resume delivery."""
        self._running = True
        self._deliver()

    def close(self) -> None:
        """Deliver nothing more. May be called twice."""
        self._end()

    @abstractmethod
    def _take(self) -> tuple[bytes | None, bool]:
        """Return the next block, None when none waits, and whether it is the last.

        `_deliver` is to be called when one waits.
        """

    def _deliver(self) -> None:
        # The consumer and the bucket pause it independently of each other.
        while self._running and (self._share is None or not self._share.held):
            finished = self._finished
            if self._consumer is None or finished is None:
                return
            block, last = self._take()
            if block is None:
                return
            self.bytes_out += len(block)
            if self._share is not None:
                self._share.take(len(block))
            if block:
                self._consumer(block)
            if last and self._finished is not None:
                self._end()
                finished()

    def _end(self) -> None:
        self._consumer = self._finished = None
        if self._share is not None:
            self._share.leave()


@implementer(IPushProducer)
class Outflow(ByteSource):
    """A bounded stream of bytes: written by one thread, delivered to a consumer on the reactor.

    The thread waits at `high_mark` bytes in the buffer until half of them are left. Small writes
    are joined, so the last ones are delivered at `finish`. A `bucket` limits the rate.
    """

    def __init__(
        self,
        reactor: IReactorFromThreads,
        high_mark: int = OUTFLOW_HIGH_MARK,
        bucket: TokenBucket | None = None,
    ) -> None:
        super().__init__(bucket)
        self._reactor = reactor
        self._high_mark = high_mark
        self._low_mark = high_mark // 2
        # Used by the thread only.
        self._small: list[bytes] = []
        self._small_size = 0
        # All below is shared and guarded by this.
        self._changed = Condition()
        self._blocks: deque[bytes] = deque()
        self._size = 0
        self._complete = False
        self._closed = False
        self._call_when_written = False
        self._drains = Changes()

    # The thread's side

    def write(self, data: bytes, /) -> int:
        """Add bytes to the stream; wait at the high mark. Raises `OutflowClosed` after `close`.

        Returns their number, as a file does.
        """
        # Not the newest bytes: the last ones must be delivered together with the end, or the other
        # node could answer a complete upload before this side knows that it is complete.
        if self._small_size >= STEP:
            for block in self._joined():
                self._put(block)
        if self._closed:
            raise OutflowClosed
        self._small.append(data)
        self._small_size += len(data)
        return len(data)

    def fill(self, data: Iterator[bytes]) -> bool:
        """Add blocks of up to a quarter of the high mark; return whether these are all.

        Below that mark it stops. So no thread waits for a slow consumer: call it again, in any
        thread, after `drained`. Raises `OutflowClosed` after `close`.
        """
        for each in data:
            self.write(each)
            if self._size > self._low_mark:
                return False
        return True

    def finish(self) -> None:
        """End the stream; it is complete. Raises `OutflowClosed` after `close`."""
        *blocks, last = self._joined()
        for block in blocks:
            self._put(block)
        self._put(last, last=True)

    def _joined(self) -> Iterator[bytes]:
        data = b"".join(self._small)
        self._small.clear()
        self._small_size = 0
        if len(data) <= 2 * STEP:  # not worth another copy
            yield data
            return
        for at in range(0, len(data), STEP):
            yield data[at : at + STEP]

    def _put(self, block: bytes, *, last: bool = False) -> None:
        with self._changed:
            if self._size >= self._high_mark:
                self._changed.wait_for(lambda: self._closed or self._size <= self._low_mark)
            if self._closed:
                raise OutflowClosed
            self._blocks.append(block)
            self._size += len(block)
            self._complete = last
            call, self._call_when_written = self._call_when_written, False
        if call:
            self._reactor.callFromThread(self._deliver)

    # The reactor's side

    async def drained(self) -> None:
        """Return when half of the buffer is free, or the stream is closed."""
        while self._size > self._low_mark:
            await self._drains.next()

    def stopProducing(self) -> None:
        """Close the stream."""
        self.close()

    def close(self) -> None:
        """Discard the stream; the thread gets `OutflowClosed`."""
        self._end()
        with self._changed:
            self._closed = True
            self._blocks.clear()
            self._size = 0
            self._changed.notify()
        self._drains.changed()

    def _take(self) -> tuple[bytes | None, bool]:
        with self._changed:
            if not self._blocks:
                self._call_when_written = True
                return None, False
            block = self._blocks.popleft()
            self._size -= len(block)
            is_drained = self._size <= self._low_mark
            if is_drained:
                self._changed.notify()
            is_last = self._complete and not self._blocks
        if is_drained:
            self._drains.changed()
        return block, is_last


class InThread(Generic[P, T]):
    """A method of the `store` of an object, called with the same arguments in its `worker`."""

    def __init__(self, method: Callable[Concatenate[Any, P], T]) -> None:
        self._name = method.__name__

    def __get__(self, of: Any, owner: object) -> Callable[P, Deferred[T]]:
        return partial(of.worker.run, getattr(of.store, self._name))


class Timed(Generic[P, T]):
    """The same for a method whose first argument is the time of the call, by its `now`."""

    def __init__(self, method: Callable[Concatenate[Any, float, P], T]) -> None:
        self._name = method.__name__

    def __get__(self, of: Any, owner: object) -> Callable[P, Deferred[T]]:
        return partial(of.worker.run, getattr(of.store, self._name), of.now())
