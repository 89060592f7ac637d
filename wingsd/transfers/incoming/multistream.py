"""The group of requests that one server arrives by, which share a token.

Which requests belong to a group is checked by `StreamRegistry`. A token is good for one transfer:
further requests with it are only accepted for the transfer that it was used for. They come at the
same time, so any of them may be here before the first; it is held until the first comes, and not
read.

A request that does not belong to the group is refused alone, and does not end the transfer. Its
sender, if it is the group's as well, fails the transfer because of the refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import attrs
from twisted.internet.defer import Deferred, DeferredLock, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from wingsd.auth.tokens import TransferToken, token_was_used
from wingsd.config import StreamsConfig
from wingsd.errors import (
    BadRequest,
    DaemonStopping,
    StreamMismatch,
    StreamMissing,
    UploadTruncated,
    WingsdError,
)
from wingsd.statedb import StateDatabase
from wingsd.transfers.coordinator import ReceivingCoordinator
from wingsd.transfers.incoming.uploads import FIRST, IncomingUpload, UploadTransfer, name_of
from wingsd.transfers.manager import IncomingTransfers

__all__ = ["COUNT", "NUMBER", "StreamGroup", "StreamGroups", "StreamRegistry"]


#: The headers of the first request and of the others.
COUNT = "Multiplex-Stream-Count"
NUMBER = "Multiplex-Stream"
_MOST_DIGITS = 6


@attrs.define(eq=False, repr=False, slots=False)
class StreamGroups:
    """All groups, by the digests of their tokens."""

    receiver: IncomingTransfers
    database: StateDatabase
    limits: StreamsConfig
    reactor: IReactorTime

    def __attrs_post_init__(self) -> None:
        self._open: dict[str, StreamGroup] = {}

    def of(self, token: TransferToken) -> StreamGroup:
        """Return the group of the requests with this token."""
        group = self._open.get(token.digest)
        if group is None:
            group = self._open[token.digest] = StreamGroup(token, self)
        return group

    def discard(self, group: StreamGroup) -> None:
        """Forget a group, all of whose requests have ended or are read."""
        if self._open.get(group.token.digest) is group:
            del self._open[group.token.digest]

    def stop(self) -> None:
        """Refuse the requests that wait for the first of their group."""
        for group in tuple(self._open.values()):
            group.refuse_waiting(DaemonStopping())


class StreamGroup:
    """The requests with one token. For the transfer it is an `UploadGroup`."""

    _log = Logger()

    def __init__(self, token: TransferToken, groups: StreamGroups) -> None:
        self.token = token
        self._groups = groups
        self._registry = StreamRegistry(groups.limits.most)
        self._others: dict[int, IncomingUpload] = {}
        self._outcomes: list[Deferred[None]] = []
        #: The first request, when it has come, or the request that fails in its place.
        self._first: IncomingUpload | None = None
        #: How many requests are being checked.
        self._checking = 0
        self._error: WingsdError | None = None
        self._is_over = False
        self._gathering: Deferred[Sequence[IncomingUpload]] | None = None
        self._timer: IDelayedCall | None = None
        self._on_failed: Callable[[WingsdError], object] = lambda error: None
        self._admitting = DeferredLock()
        self._admitted = False

    # What the requests call

    async def admit(self) -> None:
        """Use up the token, once for all requests; nothing is read before.

        Raises `Unauthorized` where it was used before.
        """
        async with self._admitting:
            if not self._admitted:
                token = self.token
                if not await self._groups.database.use_token(token.digest, token.expires):
                    raise token_was_used()
                self._admitted = True

    async def open(
        self,
        count: str,
        upload: IncomingUpload,
        coordinator: Callable[[], ReceivingCoordinator | None] = lambda: None,
    ) -> Deferred[None]:
        """Accept the first request, with `count` in its header, and receive the server.

        Return what fires when the server is here and the Panel knows, and fails with the
        `WingsdError` that the sender is to read.

        Raises a `WingsdError` where no transfer can begin; the requests that came before it then
        fail with the same. `coordinator` returns the coordinator of the transfer, None for the
        Panel.
        """
        with self._check():
            self._refuse_second(count)
            try:
                await self._refuse_used()
                self._refuse_second(count)
                token, receiver = self.token, self._groups.receiver
                transfer = receiver.open(UploadTransfer, token.server, coordinator(), token.issued)
            except WingsdError as error:
                self.refuse_waiting(error)
                raise
            self._begin(count, upload)
        return Deferred.fromCoroutine(self._receive(transfer, upload))

    async def join(self, number: str, count: str, upload: IncomingUpload) -> Deferred[None]:
        """Accept another request, with `number` and `count` in its headers; see `open`.

        Raises the `WingsdError` that its sender is to read where it does not belong to the group.
        """
        with self._check():
            if self._first is None:
                await self._refuse_used()
            if self._is_over:
                raise self._error or token_was_used()
            if self._error is not None:
                raise self._error
            each = self._registry.further(number, count)
            upload.when_gone(partial(self._on_gone, each))
            self._others[each] = upload
            outcome: Deferred[None] = Deferred()
            self._outcomes.append(outcome)
            self._continue_if_complete()
        return outcome

    def refuse_waiting(self, error: WingsdError) -> None:
        """Fail the requests that wait for the first one, if it has not come, with `error`."""
        if self._first is None:
            self._is_over, self._error = True, error
            self._conclude(error)
            self._close()

    # What the transfer calls

    def gathered(self) -> Deferred[Sequence[IncomingUpload]]:
        """Return the other uploads by their numbers, when all are here."""
        if self._error is not None:
            return fail(self._error)
        if self._registry.is_complete:
            return succeed(self._in_order())
        self._gathering = Deferred()
        return self._gathering

    def stop(self, error: WingsdError) -> None:
        """Read none of the other uploads further."""
        for upload in self._others.values():
            upload.stop(error)

    def when_failed(self, callback: Callable[[WingsdError], object]) -> None:
        """Call back when one of them has failed."""
        self._on_failed = callback

    # Arrival

    async def _refuse_used(self) -> None:
        # Before there is a transfer: a request with a used token says nothing about the server,
        # and is not reported to the Panel.
        if await self._groups.database.was_used(self.token.digest, self.token.expires):
            raise token_was_used()

    def _refuse_second(self, count: str) -> None:
        if self._first is None:
            return
        if self._error is not None:
            raise self._error
        if self._registry.others:
            self._registry.first(count)

    @contextmanager
    def _check(self) -> Iterator[None]:
        self._checking += 1
        try:
            yield
        finally:
            self._checking -= 1
            if not self._checking and self._timer is None and self._first is None:
                self._close()

    def _begin(self, count: str, upload: IncomingUpload) -> None:
        self._first = upload
        self._stop_timer()
        try:
            self._registry.first(count)
        except WingsdError as error:
            self._fail(error)  # Raised when they are gathered.
        self._continue_if_complete()

    def _continue_if_complete(self) -> None:
        """Continue the transfer when all requests are here, or wait for the others."""
        if self._error is not None:
            return
        if self._registry.is_complete:
            self._stop_timer()
            gathering = self._gathering
            if gathering is not None and not gathering.called:
                gathering.callback(self._in_order())
        elif self._timer is None:
            within = self._groups.limits.within
            self._timer = self._groups.reactor.callLater(within, self._on_timeout)

    def _in_order(self) -> list[IncomingUpload]:
        return [self._others[number] for number in sorted(self._others)]

    def _on_gone(self, number: int) -> None:
        error = UploadTruncated(
            "the sender disconnected before the answer", "send the server again"
        )
        error.add_context(name_of(number))
        if self._first is not None:
            self._fail(error)
        elif not self._is_over:
            # No transfer has begun: the Panel hears of it only when the first request comes.
            self._others.pop(number, None)
            self._registry.leave(number)
            self._error = self._error or error

    def _on_timeout(self) -> None:
        self._timer = None
        error = self._registry.missing(self._groups.limits.within)
        if self._first is not None:
            self._fail(error)
        elif self.token.direct:
            # There is no Panel to report to.
            self.refuse_waiting(error)
        elif self._others and self._error is None:
            Deferred.fromCoroutine(self._fail_without_first(error))
        else:
            self._close()

    # The end

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
        self._on_failed(error)

    async def _fail_without_first(self, error: WingsdError) -> None:
        """Fail as any transfer does of which a request is missing."""
        self._error = error
        # The upload is not read: the transfer meets the error first.
        self._first = upload = self._others[min(self._others)]
        try:
            receiver, token = self._groups.receiver, self.token
            transfer = receiver.open(UploadTransfer, token.server, ordered=token.issued)
            await transfer.run(upload, self)
        except WingsdError as failure:
            if failure is not error:
                self._log.warn(
                    "{server}: transfer failed: {error}", server=self.token.server, error=failure
                )
        except Exception:
            self._log.failure("{server}: transfer failed unexpectedly", server=self.token.server)
        await self._end(error)

    async def _receive(self, transfer: UploadTransfer, upload: IncomingUpload) -> None:
        try:
            await transfer.run(upload, self)
        except Exception as error:
            await self._end(error if isinstance(error, WingsdError) else _internal_error())
            raise
        await self._end(None)

    async def _end(self, error: WingsdError | None) -> None:
        self._is_over = True
        self._error = self._error or error
        if self._registry.others or self._outcomes:
            # However early it ended, a late request must not begin another transfer.
            try:
                await self.admit()
            except WingsdError as failure:
                self._log.warn(
                    "{server}: transfer failed: {error}", server=self.token.server, error=failure
                )
        self._conclude(error)
        self._close()

    def _conclude(self, error: WingsdError | None) -> None:
        outcomes, self._outcomes = self._outcomes, []
        for outcome in outcomes:
            outcome.callback(None) if error is None else outcome.errback(error)

    def _close(self) -> None:
        self._stop_timer()
        self._groups.discard(self)

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()


def _internal_error() -> WingsdError:
    return WingsdError("internal error", "see the log of this node")


class StreamRegistry:
    """The streams of one transfer; `most` is how many this node accepts beside the first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._numbers: set[int] = set()
        #: How many others there are; None until the first has come.
        self.others: int | None = None

    @property
    def is_complete(self) -> bool:
        """True when all are here."""
        return self.others is not None and len(self._numbers) == self.others

    def first(self, count: str) -> None:
        """Add the first request, with `count` in its header, which it may leave out.

        Raises `StreamMismatch`.
        """
        if self.others is not None:
            raise StreamMismatch(f"{FIRST} was sent twice; each stream is sent once")
        # From here on it has come, even if it is refused.
        self.others = 0
        others = _number(COUNT, count or "0")
        if others > self._most:
            raise StreamMismatch(
                f"{COUNT} is {others}, and this node accepts at most "
                f"{self._most} (system.transfers.streams.most)"
            )
        self.others = others
        for number in sorted(self._numbers):
            self._expect(number)

    def further(self, header: str, count: str = "") -> int:
        """Add another stream, with `header`; return its number.

        `count` is the value of the first request's header. Raises `StreamMismatch`.
        """
        number = _number(NUMBER, header)
        if count:
            raise StreamMismatch(f"a request has {COUNT} or {NUMBER}, not both")
        self._expect(number)
        if number in self._numbers:
            raise StreamMismatch(f"{name_of(number)} was sent twice; each stream is sent once")
        self._numbers.add(number)
        return number

    def leave(self, number: int) -> None:
        """Remove a stream whose sender has disconnected before any was read."""
        self._numbers.discard(number)

    def missing(self, within: float) -> BadRequest:
        """Return the error of streams that have not come `within` so many seconds."""
        if self.others is None:
            what = f"{FIRST}, the one with {COUNT},"
        else:
            what = ", ".join(map(name_of, self._absent()))
        return StreamMissing(
            f"{what} did not arrive within {within:g} s (system.transfers.streams.within)"
        )

    def _absent(self) -> Iterator[int]:
        return (number for number in range(self.others or 0) if number not in self._numbers)

    def _expect(self, number: int) -> None:
        if self.others is None:
            if number >= self._most:
                raise StreamMismatch(
                    f"{name_of(number)} is beyond the last: this node accepts {self._most} "
                    f"besides "
                    "the first, counted from 0 (system.transfers.streams.most)"
                )
        elif number >= self.others:
            known = f"0 to {self.others - 1}" if self.others else "none"
            raise StreamMismatch(f"{name_of(number)} is not announced: {FIRST} announces {known}")


def _number(header: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS):
        raise StreamMismatch(f"the header {header} is {text[:40]!r}: expected a number")
    return int(text)
