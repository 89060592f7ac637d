"""Counters of this node's transfers, requests and errors since its start."""

from __future__ import annotations

import sys
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from twisted.internet.defer import CancelledError

from wingsd.errors import TransferCancelled, WingsdError
from wingsd.util.observer import DIRECTIONS, ENGINE, PANEL, MovedBytes, Passage

__all__ = ["Recorder"]

#: The kinds of bytes that rounds send.
ROUND_KINDS = ("first", "changed")
DOWNTIME_BUCKETS = (0.5, 1, 2, 3, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
#: The label of errors that are in no class of the tree.
UNFORESEEN = "unforeseen"
#: The label of each error, by its code. A subclass that is not here is counted as its base class.
#: Dashboards and alerts name the labels, so they stay when a class or a code is renamed.
_LABELS = {
    WingsdError.code: UNFORESEEN,
    "archive-invalid": "archive_error",
    "archive-not-first": "checksum_first",
    "bad-request": "bad_request",
    "checksum-mismatch": "checksum_mismatch",
    "conflict": "conflict",
    "console-blocked": "console_blocked",
    "content-type-invalid": "wrong_content_type",
    "daemon-restarted": "interrupted",
    "daemon-stopping": "daemon_stopping",
    "destination-disconnected": "destination_lost",
    "destination-failed": "destination_error",
    "destination-refused": "destination_refused",
    "destination-timeout": "destination_silent",
    "destination-unreachable": "destination_unreachable",
    "disk-limit-exceeded": "disk_limit_exceeded",
    "environment-failed": "environment_failed",
    "forbidden": "forbidden",
    "node-token-refused": "token_refused",
    "panel-failed": "panel_error",
    "panel-refused": "panel_refused",
    "panel-unreachable": "panel_unreachable",
    "server-already-exists": "already_here",
    "server-not-assigned": "not_for_this_node",
    "server-not-found": "unknown_server",
    "server-not-running": "not_running",
    "servers-not-loaded": "not_loaded",
    "storage-failed": "storage_error",
    "stream-mismatch": "stream_refused",
    "stream-missing": "stream_missing",
    "too-many-transfers": "too_many_transfers",
    "transfer-cancelled": "transfer_cancelled",
    "transfer-not-committed": "not_open_yet",
    "transfer-revoked": "not_wanted",
    "try-again": "try_again",
    "unauthorized": "not_authorized",
    "unprocessable": "unprocessable",
    "upload-part-missing": "incomplete_upload",
    "upload-truncated": "upload_cut_short",
}
#: All labels.
REASONS = tuple(sorted(_LABELS.values()))


def reason(error: BaseException) -> str:
    """Return the label that the error is counted by."""
    codes = (getattr(kind, "code", "") for kind in type(error).__mro__)
    return next((_LABELS[code] for code in codes if code in _LABELS), UNFORESEEN)


SUCCESS, FAILURE, CANCELLED = OUTCOMES = ("success", "failure", "cancelled")
#: Seconds: from a rename to a large server on a slow line.
STEP_BUCKETS = (0.01, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14400, 28800)
#: Seconds: up to the timeout of the Panel's longest answer.
CALL_BUCKETS = (0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Recorder(MovedBytes):
    """Counts the events of an observer, in its own registry."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = registry = CollectorRegistry()
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        histogram = partial(Histogram, registry=registry)
        self._transfers = counter(
            "wingsd_transfers",
            "Transfers that have ended, to this node (in) and from it (out).",
            ["direction", "outcome"],
        )
        self._failures = counter(
            "wingsd_transfer_failures",
            "Transfers that have failed, by the reason.",
            ["direction", "reason"],
        )
        self._steps = histogram(
            "wingsd_transfer_step_duration_seconds",
            "How long transfers were in each of their steps, from their turn on.",
            ["direction", "step"],
            buckets=STEP_BUCKETS,
        )
        self._resumptions = counter(
            "wingsd_move_resumptions",
            "How often moves from this node went on after a break.",
        )
        self._sent_again = counter(
            "wingsd_move_sent_again_bytes",
            "Bytes of moves from this node that were sent twice.",
        )
        self._rounds = counter(
            "wingsd_move_rounds",
            "Rounds of running servers that were sent from this node.",
        )
        self._round_bytes = counter(
            "wingsd_move_round_bytes",
            "Bytes of files sent in these rounds: the first ones, or what was changed since.",
            ["kind"],
        )
        self._predicted = gauge(
            "wingsd_move_predicted_downtime_seconds",
            "How long the running server that was last looked at would be down for its move.",
        )
        self._downtime = histogram(
            "wingsd_move_downtime_seconds",
            "How long running servers were down for their moves, until the destination had them.",
            buckets=DOWNTIME_BUCKETS,
        )
        self._distrusted = counter(
            "wingsd_move_unseen_changes",
            "Files that were changed without a change of their ctime. It must be 0.",
        )
        self._answers = counter(
            "wingsd_request_errors",
            "Requests of the Panel, of other nodes and of browsers that were answered with an "
            "error, by the reason.",
            ["reason"],
        )
        self._peers = {
            PANEL: _Peer(registry, PANEL, "the Panel"),
            ENGINE: _Peer(registry, ENGINE, "the Docker engine"),
        }
        self._begin_with_zero()

    def _begin_with_zero(self) -> None:
        # Prometheus sees no increase in a series that begins with 1.
        for direction in DIRECTIONS:
            for outcome in OUTCOMES:
                self._transfers.labels(direction, outcome)
            for name in REASONS:
                self._failures.labels(direction, name)
        for name in REASONS:
            self._answers.labels(name)
        for kind in ROUND_KINDS:
            self._round_bytes.labels(kind)

    # Events of an observer

    def step_left(self, transfer: Passage) -> None:
        """Observe the duration of a step that a transfer leaves."""
        self._steps.labels(transfer.direction, transfer.step).observe(transfer.step_seconds)

    def transfer_over(
        self, direction: str, error: Exception | None, transfer: Passage | None = None
    ) -> None:
        """A transfer has ended, well or not."""
        super().transfer_over(direction, error, transfer)
        self._transfers.labels(direction, _outcome(error)).inc()
        if _outcome(error) == FAILURE and error is not None:
            self._failures.labels(direction, reason(error)).inc()

    def move_resumed(self) -> None:
        """A move goes on."""
        self._resumptions.inc()

    def sent_again(self, size: int) -> None:
        """A move is over."""
        self._sent_again.inc(size)

    def round_sent(self, size: int, *, is_first: bool) -> None:
        """A round was sent."""
        self._rounds.inc()
        self._round_bytes.labels(ROUND_KINDS[0 if is_first else 1]).inc(size)

    def downtime_predicted(self, seconds: float) -> None:
        """Set how long a server would be down for its move."""
        self._predicted.set(seconds)

    def downtime_measured(self, seconds: float) -> None:
        """A server has moved."""
        self._downtime.observe(seconds)

    def distrusted(self) -> None:
        """A file was changed without a trace."""
        self._distrusted.inc()

    def called(self, peer: str, operation: str, seconds: float, error: Exception | None) -> None:
        """A call has ended."""
        self._peers[peer].called(operation, seconds, error)

    def answered(self, error: Exception) -> None:
        """A request was answered with an error."""
        self._answers.labels(reason(error)).inc()


class _Peer:
    """The calls to the Panel or to the Docker engine."""

    def __init__(self, registry: CollectorRegistry, name: str, who: str) -> None:
        self._duration = Histogram(
            f"wingsd_{name}_request_duration_seconds",
            f"How long {who} took for each request: ok, refused (it said no), or failed (no "
            "answer that could be used).",
            ["operation", "outcome"],
            buckets=CALL_BUCKETS,
            registry=registry,
        )
        self._last_answer = Gauge(
            f"wingsd_{name}_last_answer_timestamp_seconds",
            f"When {who} last answered, if only to refuse; 0 for never.",
            registry=registry,
        )
        self._last_failure = Gauge(
            f"wingsd_{name}_last_failure_timestamp_seconds",
            f"When a request to {who} last had no answer that could be used; 0 for never.",
            registry=registry,
        )

    def called(self, operation: str, seconds: float, error: Exception | None) -> None:
        if isinstance(error, CancelledError):
            return  # The caller has stopped waiting.
        answered = error is None or isinstance(error, WingsdError) or _is_engine_answer(error)
        outcome = "ok" if error is None else "refused" if answered else "failed"
        self._duration.labels(operation, outcome).observe(seconds)
        (self._last_answer if answered else self._last_failure).set_to_current_time()


def _is_engine_answer(error: Exception) -> bool:
    # Not imported for this: before docker-py is loaded, there is no error of it.
    docker = sys.modules.get("docker.errors")
    return docker is not None and isinstance(error, docker.APIError)


def _outcome(error: Exception | None) -> str:
    if error is None:
        return SUCCESS
    return CANCELLED if isinstance(error, TransferCancelled) else FAILURE
