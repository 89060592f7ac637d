"""The requests that one server comes in: each transfer has them in a `StreamGroup`.

The rules are `streamroll`'s. They share one token, which is good for one transfer: the others are
let in by the transfer that it was used for, and by nothing else. They come at the same time, so
any of them may be here before the first; it is held until that comes, and not read.

One that is none of them is refused alone: whoever has the token, or repeats a request, ends no
transfer by that. To its sender, if it is the others' as well, the refusal of one is the failure of
all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import attrs
from twisted.internet.defer import Deferred, DeferredLock, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from wingsd.auth.tokens import TransferToken, token_was_used
from wingsd.config import StreamsConfig
from wingsd.errors import DaemonStopping, WingsdError
from wingsd.statedb import StateDatabase
from wingsd.transfers.coordinator import ReceivingCoordinator
from wingsd.transfers.errors import UploadTruncated
from wingsd.transfers.incoming.manager import IncomingTransfers
from wingsd.transfers.incoming.transfer import IncomingTransfer
from wingsd.transfers.incoming.uploads import IncomingUpload, StreamRegistry, name_of

__all__ = ["StreamGroup", "StreamGroups"]

Rest = Callable[[], Awaitable[None]]


@attrs.frozen
class _Means:
    receiver: IncomingTransfers
    journal: StateDatabase
    limits: StreamsConfig
    reactor: Any


class StreamGroups:
    """All of them, by their tokens."""

    def __init__(
        self,
        receiver: IncomingTransfers,
        journal: StateDatabase,
        limits: StreamsConfig,
        reactor: Any,
    ) -> None:
        self._means = _Means(receiver, journal, limits, reactor)
        self._open: dict[str, StreamGroup] = {}

    def of(self, token: TransferToken) -> StreamGroup:
        """Return the group of the requests with this token."""
        group = self._open.get(token.digest)
        if group is None:
            group = StreamGroup(token, self._means, self._forget)
            self._open[token.digest] = group
        return group

    def _forget(self, group: StreamGroup) -> None:
        if self._open.get(group.token.digest) is group:
            del self._open[group.token.digest]

    def stop(self) -> None:
        """Hold nobody any more who waits for the first of a transfer."""
        for group in tuple(self._open.values()):
            group.let_go(DaemonStopping())


class StreamGroup:
    """The requests with one token. It is what the transfer has as its `Companions`."""

    _log = Logger()

    def __init__(
        self, token: TransferToken, means: _Means, forget: Callable[[StreamGroup], None]
    ) -> None:
        self.token = token
        self._means = means
        self._forget = forget
        self._roll = StreamRegistry(means.limits.most)
        self._others: dict[int, IncomingUpload] = {}
        self._answers: list[Deferred[None]] = []
        #: The first request, when it has come, or what fails in its place.
        self._first: IncomingUpload | None = None
        self._visitors = 0
        self._error: WingsdError | None = None
        self._is_over = False
        self._gathering: Deferred[Sequence[IncomingUpload]] | None = None
        self._timer: IDelayedCall | None = None
        self._tell_failed: Callable[[WingsdError], object] = lambda error: None
        self._admitting = DeferredLock()
        self._admitted = False

    # What the requests call

    async def admit(self) -> None:
        """Use the token up, once for all of them; nothing is read before.

        Raises `Unauthorized` where it was used before.
        """
        await self._admitting.acquire()
        try:
            if not self._admitted:
                token = self.token
                if not await self._means.journal.use_token(token.digest, token.expires):
                    raise token_was_used()
                self._admitted = True
        finally:
            self._admitting.release()

    async def open(
        self,
        count: str,
        upload: IncomingUpload,
        authority: Callable[[], ReceivingCoordinator | None] = lambda: None,
    ) -> Rest:
        """Take the first request, with `count` in its header; return what receives the server.

        That raises the `WingsdError` that its sender is to read. Raises one as well where no
        transfer can begin; those that came before it then get the same. What `authority` returns
        has the word on the transfer, the Panel where it returns None.
        """
        with self._visit():
            self._refuse_second(count)
            try:
                await self._refuse_used()
                self._refuse_second(count)
                transfer = self._means.receiver.open(self.token.server, authority())
            except WingsdError as error:
                self.let_go(error)
                raise
            self._begin(count, upload)
        return lambda: self._receive(transfer, upload)

    async def join(self, number: str, count: str, upload: IncomingUpload) -> Rest:
        """Take another request, with these in its headers; return what waits for the outcome.

        That raises the `WingsdError` that its sender is to read, as this does where the request is
        not let in.
        """
        with self._visit():
            if self._first is None:
                await self._refuse_used()
            if self._is_over:
                raise self._error or token_was_used()
            if self._error is not None:
                raise self._error
            each = self._roll.further(number, count)
            upload.when_gone(partial(self._leave, each))
            self._others[each] = upload
            answer: Deferred[None] = Deferred()
            self._answers.append(answer)
            self._look()
        return lambda: answer

    def let_go(self, error: WingsdError) -> None:
        """Answer those that wait for the first request, if any do, with `error`."""
        if self._first is None:
            self._is_over, self._error = True, error
            self._answer(error)
            self._close()

    # What the transfer calls

    def gathered(self) -> Deferred[Sequence[IncomingUpload]]:
        """Return the others by their numbers, when all are here."""
        if self._error is not None:
            return fail(self._error)
        if self._roll.is_complete:
            return succeed(self._in_order())
        self._gathering = Deferred()
        return self._gathering

    def stop(self, error: WingsdError) -> None:
        """Read none of them further."""
        for upload in self._others.values():
            upload.stop(error)

    def when_failed(self, tell: Callable[[WingsdError], object]) -> None:
        """Call `tell` when one has failed."""
        self._tell_failed = tell

    # How they come

    async def _refuse_used(self) -> None:
        # Before there is a transfer: what a used token is sent with says nothing about the
        # server, and the Panel is not to hear of it.
        if await self._means.journal.was_used(self.token.digest, self.token.expires):
            raise token_was_used()

    def _refuse_second(self, count: str) -> None:
        if self._first is None:
            return
        if self._error is not None:
            raise self._error
        if self._roll.others:
            self._roll.first(count)

    @contextmanager
    def _visit(self) -> Iterator[None]:
        self._visitors += 1
        try:
            yield
        finally:
            self._visitors -= 1
            if not self._visitors and self._timer is None and self._first is None:
                self._close()

    def _begin(self, count: str, upload: IncomingUpload) -> None:
        self._first = upload
        self._stop_timer()
        try:
            self._roll.first(count)
        except WingsdError as error:
            self._fail(error)  # Raised when they are gathered.
        self._look()

    def _look(self) -> None:
        """Go on when all are here, and wait for the others when they are not."""
        if self._error is not None:
            return
        if self._roll.is_complete:
            self._stop_timer()
            gathering = self._gathering
            if gathering is not None and not gathering.called:
                gathering.callback(self._in_order())
        elif self._timer is None:
            within = self._means.limits.within
            self._timer = self._means.reactor.callLater(within, self._waited_enough)

    def _in_order(self) -> list[IncomingUpload]:
        return [self._others[number] for number in sorted(self._others)]

    def _leave(self, number: int) -> None:
        error = UploadTruncated("the sender went away before its answer", "send the server again")
        error.add_context(name_of(number))
        if self._first is not None:
            self._fail(error)
        elif not self._is_over:
            # Nothing has begun here, so the Panel hears of it only when the first comes.
            self._others.pop(number, None)
            self._roll.leave(number)
            self._error = self._error or error

    def _waited_enough(self) -> None:
        self._timer = None
        error = self._roll.missing(self._means.limits.within)
        if self._first is not None:
            self._fail(error)
        elif self.token.direct:
            # Whoever sends it has no Panel that could be told.
            self.let_go(error)
        elif self._others and self._error is None:
            Deferred.fromCoroutine(self._fail_without_first(error))
        else:
            self._close()

    # How they end

    def _fail(self, error: WingsdError) -> None:
        if self._error is not None or self._is_over:
            return
        self._error = error
        self.stop(error)
        self._stop_timer()
        if self._first is not None:
            self._first.stop(error)
        if self._gathering is not None and not self._gathering.called:
            self._gathering.errback(error)
        self._tell_failed(error)

    async def _fail_without_first(self, error: WingsdError) -> None:
        """Have it fail as any transfer does that a stream of is missing."""
        self._error = error
        # It is not read: the transfer comes to the error first.
        self._first = upload = self._others[min(self._others)]
        try:
            transfer = self._means.receiver.open(self.token.server)
            await transfer.run(upload, self)
        except WingsdError as failure:
            if failure is not error:
                self._log.warn("{server}: {error}", server=self.token.server, error=failure)
        except Exception:
            self._log.failure("{server}: a mistake", server=self.token.server)
        await self._end(error)

    async def _receive(self, transfer: IncomingTransfer, upload: IncomingUpload) -> None:
        try:
            await transfer.run(upload, self)
        except Exception as error:
            await self._end(error if isinstance(error, WingsdError) else _unforeseen())
            raise
        await self._end(None)

    async def _end(self, error: WingsdError | None) -> None:
        self._is_over = True
        self._error = self._error or error
        if self._roll.others or self._answers:
            # However early it ended, none that is late is to be taken for another transfer's.
            try:
                await self.admit()
            except WingsdError as failure:
                self._log.warn("{server}: {error}", server=self.token.server, error=failure)
        self._answer(error)
        self._close()

    def _answer(self, error: WingsdError | None) -> None:
        answers, self._answers = self._answers, []
        for answer in answers:
            answer.callback(None) if error is None else answer.errback(error)

    def _close(self) -> None:
        self._stop_timer()
        self._forget(self)

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()


def _unforeseen() -> WingsdError:
    return WingsdError("an unforeseen error", "the reason is in the log of this node")
