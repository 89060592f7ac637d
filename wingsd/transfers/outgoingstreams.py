"""The uploads that one server is sent by: one, or several at the same time. All go, or none.

A destination that joins them, as wingsd does, answers all of them when it has all. Calagopus'
nodes answer each by itself, and some of them take the server for whole when the first request is,
though others still come: to them the first is ended last, when the others have their answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from wingsd.archive import Packed
from wingsd.bridge import Outflow, OutflowClosed
from wingsd.errors import DestinationSilent
from wingsd.transfers.cargo import Cargo
from wingsd.transfers.destination import Destination
from wingsd.transfers.formdata import FormFrame
from wingsd.transfers.interrupt import fires_within
from wingsd.transfers.means import SendingMeans

__all__ = ["OutgoingStreams"]

#: Seconds that the first request waits for the answers to the others, when all of them are sent: a
#: node that joins them without saying so gives none before it has the first.
HOLD_BACK = 60.0


class _Stream:
    """One of them. `number` is None for the first, of `others` more."""

    def __init__(
        self,
        cargo: Cargo,
        destination: Destination,
        means: SendingMeans,
        number: int | None,
        others: int,
        pool: Sequence[tuple[str, str]],
    ) -> None:
        self.cargo = cargo
        self.frame = FormFrame(f"archive.{cargo.form.archive.suffix}")
        self.body = Outflow(means.reactor, bucket=means.bucket)
        #: Bytes of the server's files that have been read.
        self.read = 0
        headers: list[tuple[str, str]] = []
        if number is not None:
            headers = [("Multiplex-Stream", str(number))]
        elif others:
            headers = [("Multiplex-Stream-Count", str(others))]
        self.upload = destination.upload(
            self.frame.content_type,
            self.body,
            means.stall_timeout,
            [*headers, *pool],
            may_be_early=bool(pool),
        )

    def write(self, note: Callable[[str], None], ends: bool) -> Packed | None:
        """Write the body, in a worker thread."""
        packed = self.cargo.write(self.frame, self.body.write, note, self._note_progress)
        if ends:
            self.end()
        return packed

    def end(self) -> None:
        """Write the end of it."""
        self.body.write(self.frame.end())
        self.body.finish()

    def _note_progress(self, read: int) -> None:
        # Called in the packing thread; the reactor only looks at the number.
        self.read = read


class OutgoingStreams:
    """The uploads of all `cargoes`, begun at once.

    `joined` tells that the destination gives them one answer. `pool` are headers that tell of a
    storage pool; who has the files in that need not take what is sent.
    """

    def __init__(
        self,
        cargoes: Sequence[Cargo],
        destination: Destination,
        means: SendingMeans,
        *,
        joined: bool,
        pool: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._means = means
        self._need_not_take = bool(pool)
        self._joined = joined or len(cargoes) == 1
        self._error: BaseException | None = None
        others = len(cargoes) - 1
        self._streams = [
            _Stream(each, destination, means, number - 1 if number else None, others, pool)
            for number, each in enumerate(cargoes)
        ]
        for stream in self._streams:
            stream.upload.answer.addErrback(self._fail)

    async def send(self, note: Callable[[str], None]) -> list[Packed]:
        """Send all; return when their last bytes are on their way.

        `note` gets a line for each member that is left out or sent otherwise. Raises what the
        first of them to fail has failed with; all others have then ended as well.
        """
        first, *others = self._streams
        jobs = [self._run(stream, stream.write, note, True) for stream in others]
        jobs.insert(0, self._run(first, first.write, note, self._joined))
        done = await DeferredList(jobs)
        if not self._joined and self._error is None:
            answers = DeferredList([stream.upload.answer for stream in others])
            await fires_within(answers, HOLD_BACK, self._means.reactor)
            if self._error is None:
                await self._run(first, first.end)
        if self._error is not None:
            raise self._error
        return [packed for _, packed in done if packed is not None]

    async def answered(self) -> None:
        """Return when the destination has taken all; raise the reason why it has not.

        That is `DestinationSilent` when it does not answer in `answer_timeout`.
        """
        limit, clock = self._means.answer_timeout, self._means.reactor
        timer = (
            clock.callLater(limit, self._fail, Failure(DestinationSilent(limit)))
            if limit
            else None
        )
        await DeferredList([stream.upload.answer for stream in self._streams])
        if timer is not None and timer.active():
            timer.cancel()
        if self._error is not None:
            raise self._error

    def abort(self) -> None:
        """Close all connections at once."""
        for stream in self._streams:
            stream.upload.abort()

    @property
    def begun(self) -> bool:
        """Whether the destination may have the headers of any."""
        return any(stream.upload.begun for stream in self._streams)

    @property
    def body_sent(self) -> bool:
        """Whether the last byte of each was handed over: only now can the node have it all."""
        return all(stream.upload.body_sent for stream in self._streams)

    @property
    def bytes_out(self) -> int:
        """How many bytes have gone so far."""
        return sum(stream.body.bytes_out for stream in self._streams)

    @property
    def read(self) -> int:
        """How many bytes of the server's files have been read."""
        return sum(stream.read for stream in self._streams)

    def _run(self, stream: _Stream, work: Callable[..., Any], *args: object) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._working(stream, work, *args))

    async def _working(self, stream: _Stream, work: Callable[..., Any], *args: object) -> Any:
        """Have a thread write for a stream; where that fails, all fail, and None is returned."""
        try:
            return await self._means.packers.run(work, *args)
        except OutflowClosed as closed:
            await stream.upload.answer  # which tells why
            if not self._need_not_take:
                self._fail(Failure(closed))
        except Exception:
            self._fail(Failure())
        return None

    def _fail(self, failure: Failure) -> None:
        if self._error is None:
            self._error = failure.value
            self.abort()
