"""How often a move goes on that does not get on: bounds for what a destination can ask for."""

from __future__ import annotations

from wingsd.errors import StorageError, WingsdError
from wingsd.transfers.outgoing.attached import AttachedFile
from wingsd.transfers.peer.move_answers import MoveProgress, ResumeNeeded, failure_of

__all__ = ["RepeatLimits"]

#: How often a round is sent again whose root differs, or in which a file was changed.
DIFFERENCES = 3
#: How often the destination is asked what it holds, and takes no batch after that.
RESUMPTIONS = 10
#: How often the commit is asked for, and comes to nothing.
SETBACKS = 5


class RepeatLimits:
    """How often a move goes on that does not get on."""

    def __init__(self) -> None:
        self._differences = self._resumptions = self._changes = self._setbacks = 0

    def count(self, needed: ResumeNeeded) -> None:
        """Count a resumption. Raises its error where there were too many."""
        self._resumptions += 1
        if needed.code == "move-root-mismatch":
            self._differences += 1
        if self._differences > DIFFERENCES or self._resumptions > RESUMPTIONS:
            raise needed.error

    def count_change(self, changed: WingsdError) -> None:
        """Count a file that was changed. Raises `changed` where there were too many."""
        self._changes += 1
        if self._changes > DIFFERENCES:
            raise changed

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
