"""The journal, from the reactor: each call goes through one thread, in order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from twisted.internet.defer import Deferred

from wingsd.statedb.records import Account, Described, Direction, Entry, Order, Outcome, Report
from wingsd.statedb.store import Store
from wingsd.threadio import Workers

__all__ = ["StateDatabase"]


class StateDatabase:
    """The journal in `store`. `worker` has one thread; `now` gives seconds since the epoch.

    Every Deferred fails with `StorageError` where the disk does not do its part; what it guards
    must then not be done.
    """

    def __init__(self, store: Store, worker: Workers, now: Callable[[], float]) -> None:
        self._store = store
        self._worker = worker
        self._now = now

    def seconds_since(self, time: float) -> float:
        """Return how long ago that was, in seconds; below 0 where the clock was set back."""
        return self._now() - time

    def close(self) -> Deferred[None]:
        """Close the store behind all that is still to be written.

        Not from another thread: SQLite crashes when that closes what the journal's own works on.
        """
        return self._worker.run(self._store.close)

    # Transfers

    def begin(
        self, server: str, direction: Direction, step: str, *, by_hand: bool = False
    ) -> Deferred[int]:
        """Note a new transfer; the Deferred gives its id."""
        return self._worker.run(
            self._store.begin, server, direction, step, self._now(), by_hand=by_hand
        )

    def enter(self, transfer: int, step: str) -> Deferred[None]:
        """Note that a transfer enters a step; when the Deferred fires, it may."""
        return self._worker.run(self._store.enter, transfer, step, self._now())

    def note_terms(
        self,
        transfer: int,
        pool: str = "",
        removals: Sequence[str] = (),
        inode: int | None = None,
    ) -> Deferred[None]:
        """Note what `Entry` has by these names, all of it at once."""
        return self._worker.run(self._store.note_terms, transfer, pool, removals, inode)

    def end(self, transfer: int, outcome: Outcome, account: Account = Account()) -> Deferred[None]:
        """Note how a transfer ended."""
        return self._worker.run(self._store.end, transfer, outcome, self._now(), account)

    def unfinished(self) -> Deferred[list[Entry]]:
        """Return the transfers that have not ended, oldest first."""
        return self._worker.run(self._store.transfers, unfinished=True)

    def past(self, most: int, server: str | None = None) -> Deferred[list[Entry]]:
        """Return the last `most` that have ended, of one server or of all, the latest first."""
        return self._worker.run(self._store.past, most, server)

    # Moves by hand

    def describe(self, server: str, digest: str, description: str) -> Deferred[None]:
        """Note what a server is that comes by the token with that digest."""
        return self._worker.run(self._store.describe, server, digest, description)

    def arrived(self, server: str) -> Deferred[None]:
        """Note that a server which was described is here, whole."""
        return self._worker.run(self._store.arrived, server, self._now())

    def described(self) -> Deferred[list[Described]]:
        """Return the servers that were described."""
        return self._worker.run(self._store.described)

    def hand_over(self, server: str) -> Deferred[None]:
        """Note that a server which arrived is described by the Panel now."""
        return self._worker.run(self._store.hand_over, server)

    def undescribe(self, server: str) -> Deferred[None]:
        """Forget what was described of a server."""
        return self._worker.run(self._store.undescribe, server)

    def order(self, transfer: int, order: Order) -> Deferred[None]:
        """Note what was asked for with a transfer."""
        return self._worker.run(self._store.order, transfer, order)

    def ordered(self, transfer: int) -> Deferred[Order | None]:
        """Return that, as long as the transfer has not ended."""
        return self._worker.run(self._store.ordered, transfer)

    # Reports to the Panel

    def add_report(
        self, server: str, outcome: Outcome, backups: Sequence[str] | None = None
    ) -> Deferred[Report]:
        """Note what the Panel is to be told, before it is."""
        return self._worker.run(self._store.add_report, server, outcome, self._now(), backups)

    def note_attempt(self, report: Report, answer: str) -> Deferred[None]:
        """Note one more attempt to tell it, and what came of that."""
        return self._worker.run(self._store.note_attempt, report.id, answer)

    def settle(self, report: Report, answer: str) -> Deferred[None]:
        """Note that it need not be told any more, and why."""
        return self._worker.run(self._store.settle, report.id, answer, self._now())

    def unsettled(self) -> Deferred[list[Report]]:
        """Return the reports still to be told, oldest first."""
        return self._worker.run(self._store.reports, unsettled=True)

    # Tokens

    def use_token(self, digest: str, expires: float) -> Deferred[bool]:
        """Use up a transfer's token; the Deferred gives False when it was used before."""
        return self._worker.run(self._store.use_token, digest, expires)

    def was_used(self, digest: str, expires: float) -> Deferred[bool]:
        """Return whether a transfer's token was used up."""
        return self._worker.run(self._store.was_used, digest, expires)

    def deny(self, jtis: Iterable[str]) -> Deferred[None]:
        """Note console tokens that the Panel has taken back."""
        return self._worker.run(self._store.deny, list(jtis), self._now())

    def denied(self) -> Deferred[dict[str, float]]:
        """Return when each `jti` was taken back."""
        return self._worker.run(self._store.denied)

    # What is kept for some time

    def ages(self, names: Collection[str]) -> Deferred[dict[str, float]]:
        """Return for how many seconds each has been kept; to be asked daily, and of all."""
        return self._worker.run(self._store.ages, names, self._now())

    def forget(self) -> Deferred[None]:
        """Delete what nobody needs any more."""
        return self._worker.run(self._store.forget, self._now())
