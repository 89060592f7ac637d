"""What `wingsctl` shows, as JSON, see docs/control.md: keys are promised, and only added to."""

from __future__ import annotations

from typing import Any

from wingsd.journal.entries import Direction, Entry, Report
from wingsd.transfers.lifecycle import ReceiveStep, SendStep
from wingsd.transfers.progress import Progress

__all__ = ["ending", "past", "report", "running"]

Json = dict[str, Any]


def running(progress: Progress, now: float) -> Json:
    """Return a transfer under way; `now` in seconds since the epoch."""
    coming = isinstance(progress.step, ReceiveStep)
    return {
        "transfer": progress.entry,
        "server": progress.server,
        "direction": (Direction.IN if coming else Direction.OUT).value,
        "by_hand": progress.by_hand,
        "storage_pool": progress.pool or None,
        "state": progress.step.state.name.lower(),
        "step": progress.step.name.lower(),
        "doing": progress.words,
        "begun": now - progress.seconds,
        "bytes": progress.bytes,
        # A tree may grow between being measured and being read.
        "total_bytes": max(progress.total, progress.bytes) if progress.total else None,
        "bytes_per_second": progress.rate,
    }


def ending(entry: Entry, started: float) -> Json:
    """Return a transfer that is under way no more, but not at its end either.

    That may be one of before, whose end is to be found out, since this daemon has `started`.
    """
    kind = ReceiveStep if entry.direction is Direction.IN else SendStep
    step = kind[entry.step]
    return {
        "transfer": entry.id,
        "server": entry.server,
        "direction": entry.direction.value,
        "by_hand": entry.by_hand,
        "storage_pool": entry.pool or None,
        "state": step.state.name.lower(),
        "step": step.name.lower(),
        "doing": (
            "finding out what became of it when this node was restarted"
            if entry.begun < started
            else "being brought to its end"
        ),
        "begun": entry.begun,
        "bytes": 0,
        "total_bytes": None,
        "bytes_per_second": 0.0,
    }


def past(entry: Entry) -> Json:
    """Return a transfer that has ended."""
    return {
        "transfer": entry.id,
        "server": entry.server,
        "direction": entry.direction.value,
        "by_hand": entry.by_hand,
        "storage_pool": entry.pool or None,
        "outcome": None if entry.outcome is None else entry.outcome.value,
        "reason": entry.reason,
        "step": entry.step.lower(),
        "begun": entry.begun,
        "ended": entry.changed,
        "bytes": entry.bytes,
        "files": entry.files,
    }


def report(told: Report) -> Json:
    """Return a report that the Panel has not heard yet."""
    return {
        "server": told.server,
        "outcome": told.outcome.value,
        "since": told.created,
        "attempts": told.attempts,
        "answer": told.answer,
    }
