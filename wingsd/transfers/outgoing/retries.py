"""Limits for what a destination can make a source repeat in a move, and the watch of progress."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from http import HTTPStatus
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from wingsd.errors import StorageError, WingsdError
from wingsd.transfers.errors import DestinationRefused
from wingsd.transfers.peer.move_answers import ProgressAnswer, ResumeNeeded, failure_of

__all__ = ["RepeatLimits", "StallWatch"]

#: How often a round is sent again whose root differs, or in which a file was changed.
DIFFERENCES = 3
#: How often the destination is asked what it holds, and takes no batch after that.
RESUMPTIONS = 10
#: How often the move is resumed until a round is closed, even if batches were taken.
AGAIN = 200
#: By how many the pieces of backups and the log that are taken in part may exceed whole ones.
PARTS = 200
#: How often the rest is sent after a commit that came to nothing, for whatever reason.
REOPENED = 20
#: How often the commit is asked for, and comes to nothing.
SETBACKS = 5


class RepeatLimits:
    """Counts what is repeated in one move, and ends the move where it is too often."""

    def __init__(self) -> None:
        self._differences = self._resumptions = self._changes = self._setbacks = 0
        self._again = self._parts = self._reopened = 0

    def count(self, needed: ResumeNeeded) -> None:
        """Count a resumption. Raises its error where there were too many."""
        self._resumptions += 1
        if needed.code == "move-root-mismatch":
            self._differences += 1
        if self._differences > DIFFERENCES or self._resumptions > RESUMPTIONS:
            raise needed.error
        self.count_again()

    def count_again(self) -> None:
        """Count that a round is begun anew. Raises an error where it was too often."""
        self._again += 1
        if self._again > AGAIN:
            raise DestinationRefused(
                "the destination node had the move resumed too often",
                f"{AGAIN} times, and no round was completed; see that node's log and its disk",
                HTTPStatus.BAD_GATEWAY,
            )

    def count_piece(self, file: str, *, is_whole: bool) -> None:
        """Count a piece that was taken. Raises an error where too many were taken in part."""
        self._parts = max(self._parts - 1, 0) if is_whole else self._parts + 1
        if self._parts > PARTS:
            raise DestinationRefused(
                "the destination node takes backups or the log only in small pieces",
                f"of most pieces of {file} it took a part; see its log, and whether a proxy "
                "in front of it cuts requests",
                HTTPStatus.BAD_GATEWAY,
            )

    def count_change(self, changed: WingsdError) -> None:
        """Count a file that was changed. Raises `changed` where there were too many."""
        self._changes += 1
        if self._changes > DIFFERENCES:
            raise changed

    def count_reopened(self) -> None:
        """Count that the rest is sent after a commit. Raises an error where it was too often."""
        self._reopened += 1
        if self._reopened > REOPENED:
            raise DestinationRefused(
                "the destination node does not commit the move",
                f"the commit was asked for {REOPENED} times, and it needed something else each "
                "time; see that node's log",
                HTTPStatus.BAD_GATEWAY,
            )

    def count_setback(self, progress: ProgressAnswer) -> None:
        """Count a commit that came to nothing. Raises its error where there were too many."""
        self._setbacks += 1
        if self._setbacks > SETBACKS:
            raise failure_of(progress)

    def count_damage(self, path: str) -> None:
        """Count that a file arrived damaged. Raises an error where that was too often."""
        self._changes += 1
        if self._changes > DIFFERENCES:
            raise StorageError(
                f"{path} arrives damaged again and again; check both nodes' disks and memory"
            )

    def progressed(self) -> None:
        """A batch was taken."""
        self._resumptions = 0

    def closed(self) -> None:
        """A round was closed."""
        self._again = 0


#: Seconds between two looks.
EVERY = 1.0


class StallWatch:
    """Calls `interrupt` when `mark` has returned the same for `patience` seconds, until `stop`."""

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        patience: float,
        mark: Callable[[], Hashable],
        interrupt: Callable[[], object],
    ) -> None:
        self.patience = patience
        #: Whether there was no progress for `patience` seconds.
        self.is_over = False
        self._clock = clock
        self._mark = mark
        self._interrupt = interrupt
        self._last: Hashable = mark()
        self._since = clock.seconds()
        self._looking = LoopingCall(self._look)
        self._looking.clock = clock
        started: Deferred[Any] = self._looking.start(EVERY, now=False)
        started.addErrback(lambda failure: self._log.failure("watching a move failed", failure))

    def stop(self) -> None:
        """Look no more."""
        if self._looking.running:
            self._looking.stop()

    def _look(self) -> None:
        now = self._mark()
        if now != self._last and not self.is_over:
            self._last, self._since = now, self._clock.seconds()
        if self._clock.seconds() - self._since >= self.patience:
            self.is_over = True
            # again and again: what is interrupted may go on with something else
            self._interrupt()
