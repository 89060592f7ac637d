"""The requests of an upload: one, or several at the same time.

A destination that joins them, as wingsd does, answers all of them when it has all. Calagopus'
nodes answer each by itself, and some of them take the server for complete when the first request
is, although others are still coming: for them the first is ended last, when the others have their
answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore
from twisted.python.failure import Failure

from wingsd.archive import Part, split
from wingsd.threadio import Outflow, OutflowClosed, TokenBucket, Workers
from wingsd.transfers.cancellation import CancelScope, slots_held
from wingsd.transfers.errors import DestinationTimeout
from wingsd.transfers.outgoing.payload import Payload
from wingsd.transfers.outgoing.standstill import StandstillNotice
from wingsd.transfers.upload_form import FormFrame
from wingsd.util.deferreds import fires_within
from wingsd.util.reactor import ThreadedReactor

if TYPE_CHECKING:
    from wingsd.archive.pack import Packed
    from wingsd.transfers.peer.client import PeerClient

__all__ = ["OutgoingStreams", "Uploader"]

#: Seconds that the first request waits for the answers to the others, when all of them are sent: a
#: node that joins them without saying so gives none before it has the first.
HOLD_BACK = 60.0


@attrs.frozen(eq=False, repr=False)
class Uploader:
    """How this node uploads servers. Timeouts are in seconds.

    `packers` are the threads that write bodies, with as many `slots`: a transfer without one does
    not connect yet. `followers` read servers that run.
    """

    reactor: ThreadedReactor
    packers: Workers
    followers: Workers
    slots: DeferredSemaphore
    #: How long a destination may acknowledge nothing of what it is sent.
    stall_timeout: float
    #: How long the answer is waited for when all is sent; 0 for ever.
    answer_timeout: float = 0
    #: The largest number of streams beside the first.
    max_streams: int = 0
    #: The rate limit of all uploads together; None without one.
    bucket: TokenBucket | None = None

    def slots_held(self, streams: int, scope: CancelScope) -> AbstractAsyncContextManager[int]:
        """Hold the slots for so many streams beside the first."""
        return slots_held(self.slots, 1 + streams, scope)

    def split(self, directory: str, count: int, limit: int | None) -> Deferred[list[Part]]:
        """Divide a directory into `count` parts of at most `limit` bytes of file data."""
        return self.packers.run(split, directory, count, limit)

    def body(self) -> Outflow:
        """Return a new body, sent at the rate limit."""
        return Outflow(self.reactor, bucket=self.bucket)


class _Stream:
    """One request. `number` is None for the first, of `others` more."""

    def __init__(
        self,
        payload: Payload,
        destination: PeerClient,
        uploader: Uploader,
        number: int | None,
        others: int,
        pool: Sequence[tuple[str, str]],
    ) -> None:
        self.payload = payload
        self.frame = FormFrame(f"archive.{payload.format.archive.suffix}")
        self.body = uploader.body()
        #: Bytes of the server's files that have been read.
        self.read = 0
        #: How many of them have been read.
        self.files = 0
        headers: list[tuple[str, str]] = []
        if number is not None:
            headers = [("Multiplex-Stream", str(number))]
        elif others:
            headers = [("Multiplex-Stream-Count", str(others))]
        self.request = destination.upload(
            self.frame.content_type,
            self.body,
            uploader.stall_timeout,
            [*headers, *pool],
            may_be_early=bool(pool),
        )

    def write(self, warn: Callable[[str], None], ends: bool) -> Packed | None:
        """Write the body, in a worker thread."""
        packed = self.payload.write(self.frame, self.body.write, warn, self._set_progress)
        if ends:
            self.end()
        return packed

    def end(self) -> None:
        """Write the end of the body."""
        self.body.write(self.frame.end())
        self.body.finish()

    def _set_progress(self, read: int, files: int) -> None:
        # Called in the packing thread; the reactor only looks at the numbers.
        self.read, self.files = read, files


class OutgoingStreams:
    """The requests for all `payloads`, begun at once.

    `joined` tells that the destination gives them one answer. `pool` are headers about a storage
    pool; a destination that has the files in it need not read the body.
    """

    def __init__(
        self,
        payloads: Sequence[Payload],
        destination: PeerClient,
        uploader: Uploader,
        *,
        joined: bool,
        pool: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._uploader = uploader
        self._may_be_left = bool(pool)
        self._joined = joined or len(payloads) == 1
        self._error: BaseException | None = None
        others = len(payloads) - 1
        self._streams = [
            _Stream(each, destination, uploader, number - 1 if number else None, others, pool)
            for number, each in enumerate(payloads)
        ]
        for stream in self._streams:
            stream.request.answer.addErrback(self._fail)

    async def send(self, warn: Callable[[str], None]) -> list[Packed]:
        """Send all; return when their last bytes are on their way.

        `warn` gets a line for each member that is left out or sent otherwise. Raises the error of
        the first request to fail; all others have then ended as well.
        """
        streams = self._streams
        notice = StandstillNotice(
            self._uploader.reactor,
            lambda: self.bytes_out,
            lambda: any(stream.body.is_paused for stream in streams),
            warn,
        )
        try:
            return await self._send(warn)
        finally:
            notice.stop()

    async def _send(self, warn: Callable[[str], None]) -> list[Packed]:
        first, *others = self._streams
        jobs = [self._run(stream, stream.write, warn, True) for stream in others]
        jobs.insert(0, self._run(first, first.write, warn, self._joined))
        done = await DeferredList(jobs)
        if not self._joined and self._error is None:
            answers = DeferredList([stream.request.answer for stream in others])
            await fires_within(answers, HOLD_BACK, self._uploader.reactor)
            if self._error is None:
                await self._run(first, first.end)
        if self._error is not None:
            raise self._error
        return [packed for _, packed in done if packed is not None]

    async def answered(self) -> None:
        """Return when the destination has accepted all; raise the reason why it has not.

        That is `DestinationTimeout` when it does not answer in `answer_timeout`.
        """
        limit, clock = self._uploader.answer_timeout, self._uploader.reactor
        timer = (
            clock.callLater(limit, self._fail, Failure(DestinationTimeout(limit)))
            if limit
            else None
        )
        await DeferredList([stream.request.answer for stream in self._streams])
        if timer is not None and timer.active():
            timer.cancel()
        if self._error is not None:
            raise self._error

    def abort(self) -> None:
        """Close all connections at once."""
        for stream in self._streams:
            stream.request.abort()

    @property
    def begun(self) -> bool:
        """Whether the destination may have the headers of any."""
        return any(stream.request.begun for stream in self._streams)

    @property
    def body_sent(self) -> bool:
        """Whether the last byte of each was handed over: only now can the node have it all."""
        return all(stream.request.body_sent for stream in self._streams)

    @property
    def bytes_out(self) -> int:
        """The number of bytes sent so far."""
        return sum(stream.body.bytes_out for stream in self._streams)

    @property
    def read(self) -> int:
        """The number of bytes read of the server's files."""
        return sum(stream.read for stream in self._streams)

    @property
    def files(self) -> int:
        """The number of the server's files that have been read."""
        return sum(stream.files for stream in self._streams)

    def _run(self, stream: _Stream, work: Callable[..., Any], *args: object) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._work(stream, work, *args))

    async def _work(self, stream: _Stream, work: Callable[..., Any], *args: object) -> Any:
        """Have a thread write for a stream; where that fails, all fail, and None is returned."""
        try:
            return await self._uploader.packers.run(work, *args)
        except OutflowClosed as closed:
            await stream.request.answer  # which has the reason
            if not self._may_be_left:
                self._fail(Failure(closed))
        except Exception:
            self._fail(Failure())
        return None

    def _fail(self, failure: Failure) -> None:
        if self._error is None:
            self._error = failure.value
            self.abort()
