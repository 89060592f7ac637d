"""An observer and an activity log that record every call."""

from __future__ import annotations

from collections.abc import Mapping

from wingsd.activity import ActivityLog
from wingsd.util.observer import Observer, Passage


class RecordingObserver(Observer):
    """Every call, in order, with transfers as they were at that moment."""

    def __init__(self) -> None:
        #: Steps that were left, and the seconds that they took.
        self.steps: list[tuple[str, float]] = []
        self.begun: list[Passage] = []
        #: Direction, error, and the bytes moved, None without a transfer.
        self.over: list[tuple[str, Exception | None, int | None]] = []
        #: Peer, operation, seconds and error.
        self.calls: list[tuple[str, str, float, Exception | None]] = []
        self.answers: list[Exception] = []
        #: How often moves went on, and the bytes that they sent twice.
        self.resumed = self.again = 0
        #: Bytes of the rounds of running servers, and predicted and real downtimes.
        self.rounds: list[int] = []
        self.predicted: list[float] = []
        self.downtimes: list[float] = []

    def transfer_begun(self, transfer: Passage) -> None:
        self.begun.append(transfer)

    def step_left(self, transfer: Passage) -> None:
        self.steps.append((transfer.step, transfer.step_seconds))

    def transfer_over(
        self, direction: str, error: Exception | None, transfer: Passage | None = None
    ) -> None:
        if transfer is not None:
            assert transfer in self.begun
        self.over.append((direction, error, None if transfer is None else transfer.moved))

    def called(self, peer: str, operation: str, seconds: float, error: Exception | None) -> None:
        self.calls.append((peer, operation, seconds, error))

    def move_resumed(self) -> None:
        self.resumed += 1

    def sent_again(self, size: int) -> None:
        self.again += size

    def round_sent(self, size: int, *, is_first: bool) -> None:
        self.rounds.append(size)

    def downtime_predicted(self, seconds: float) -> None:
        self.predicted.append(seconds)

    def downtime_measured(self, seconds: float) -> None:
        self.downtimes.append(seconds)

    def answered(self, error: Exception) -> None:
        self.answers.append(error)


# An activity log that keeps what is reported, for tests of those who report


class RecordedActivity(ActivityLog):
    """The activity of one server: event, metadata, user and address of each entry.

    `times` are those that were given with them, in seconds since the epoch.
    """

    def __init__(self, server: str) -> None:
        self.entries: list[tuple[str, dict[str, object], str | None, str | None]] = []
        self.times: list[float | None] = []
        self._server = server

    def record(
        self,
        server: str,
        event: str,
        metadata: Mapping[str, object],
        user: str | None = None,
        ip: str | None = None,
        at: float | None = None,
    ) -> None:
        assert server == self._server
        self.entries.append((event, dict(metadata), user, ip))
        self.times.append(at)
