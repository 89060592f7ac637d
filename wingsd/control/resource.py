"""The base of the control socket's paths, and transfers as JSON."""

from __future__ import annotations

from typing import Any

from wingsd.api.resource import Public
from wingsd.http.request import StreamingRequest
from wingsd.statedb.records import Direction, Report, TransferRecord
from wingsd.transfers.step_log import Progress
from wingsd.transfers.steps import ReceiveStep, SendStep

__all__ = ["ControlEndpoint", "Json", "ending", "past", "report", "running"]

Json = dict[str, Any]


class ControlEndpoint(Public):
    """A path of the control socket. The mode of the socket limits who can call it."""

    def authorize(self, request: StreamingRequest) -> None:
        """Accept every client. Bodies are stored only where this method exists."""


def running(progress: Progress, now: float) -> Json:
    """Return a transfer in progress; `now` is Unix time."""
    is_incoming = isinstance(progress.step, ReceiveStep)
    return {
        "transfer": progress.entry,
        "server": progress.server,
        "direction": (Direction.IN if is_incoming else Direction.OUT).value,
        "by_hand": progress.is_direct,
        "storage_pool": progress.pool or None,
        "state": progress.step.state.name.lower(),
        "step": progress.step.name.lower(),
        "doing": progress.step_text,
        "begun": now - progress.seconds,
        "bytes": progress.bytes,
        # The directory may grow after it was measured.
        "total_bytes": max(progress.total, progress.bytes) if progress.total else None,
        "bytes_per_second": progress.rate,
    }


def ending(entry: TransferRecord, started: float) -> Json:
    """Return a transfer of the database that has not ended and is not in progress.

    It began before this daemon `started` (Unix time), or it is about to end.
    """
    kind = ReceiveStep if entry.direction is Direction.IN else SendStep
    step = kind[entry.step]
    return {
        "transfer": entry.id,
        "server": entry.server,
        "direction": entry.direction.value,
        "by_hand": entry.direct,
        "storage_pool": entry.pool or None,
        "state": step.state.name.lower(),
        "step": step.name.lower(),
        "doing": (
            "finding out its result after the restart of this node"
            if entry.begun < started
            else "ending"
        ),
        "begun": entry.begun,
        "bytes": 0,
        "total_bytes": None,
        "bytes_per_second": 0.0,
    }


def past(entry: TransferRecord) -> Json:
    """Return a transfer that has ended."""
    return {
        "transfer": entry.id,
        "server": entry.server,
        "direction": entry.direction.value,
        "by_hand": entry.direct,
        "storage_pool": entry.pool or None,
        "outcome": None if entry.outcome is None else entry.outcome.value,
        "reason": entry.reason,
        "step": entry.step.lower(),
        "begun": entry.begun,
        "ended": entry.changed,
        "bytes": entry.bytes,
        "files": entry.files,
    }


def report(waiting: Report) -> Json:
    """Return a report that the Panel has not confirmed yet."""
    return {
        "server": waiting.server,
        "outcome": waiting.outcome.value,
        "since": waiting.created,
        "attempts": waiting.attempts,
        "answer": waiting.answer,
    }
