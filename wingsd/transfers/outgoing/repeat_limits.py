"""How often a move goes on that does not get on: bounds for what a destination can ask for."""

from __future__ import annotations

from http import HTTPStatus

from wingsd.errors import StorageError, WingsdError
from wingsd.transfers.errors import DestinationRefused
from wingsd.transfers.outgoing.attached import AttachedFile
from wingsd.transfers.peer.move_answers import MoveProgress, ResumeNeeded, failure_of

__all__ = ["RepeatLimits"]

#: How often a round is sent again whose root differs, or in which a file was changed.
DIFFERENCES = 3
#: How often the destination is asked what it holds, and takes no batch after that.
RESUMPTIONS = 10
#: How often a round is begun anew in all, also where batches were taken, until it is closed.
AGAIN = 200
#: How many pieces of files beside the server more are taken in part than as a whole.
PARTS = 200
#: How often the rest is sent after a commit that came to nothing, for whatever reason.
REOPENED = 20
#: How often the commit is asked for, and comes to nothing.
SETBACKS = 5


class RepeatLimits:
    """How often a move goes on that does not get on."""

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
                "the destination node takes batches and loses them again and again",
                f"a round was begun {AGAIN} times and not closed; see that node's log and disk",
                HTTPStatus.BAD_GATEWAY,
            )

    def count_piece(self, file: AttachedFile, *, is_whole: bool) -> None:
        """Count a piece that was taken. Raises an error where too many were taken in part."""
        self._parts = max(self._parts - 1, 0) if is_whole else self._parts + 1
        if self._parts > PARTS:
            raise DestinationRefused(
                "the destination node takes files beside the server in parts alone",
                f"of most pieces of {file.name} a part was taken; see its log, and whether a "
                "proxy in front of it cuts requests",
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
                "the destination node does not commit what it has",
                f"the commit was asked for {REOPENED} times, and it needed something else each "
                "time; see that node's log",
                HTTPStatus.BAD_GATEWAY,
            )

    def count_setback(self, progress: MoveProgress) -> None:
        """Count a commit that came to nothing. Raises its error where there were too many."""
        self._setbacks += 1
        if self._setbacks > SETBACKS:
            raise failure_of(progress)

    def count_damage(self, file: AttachedFile) -> None:
        """Count that a file arrived damaged. Raises an error where that was too often."""
        self._changes += 1
        if self._changes > DIFFERENCES:
            raise StorageError(
                f"{file.path} arrives damaged again and again; check both nodes' disks and memory"
            )

    def progressed(self) -> None:
        """A batch was taken."""
        self._resumptions = 0

    def closed(self) -> None:
        """A round was closed."""
        self._again = 0
