"""Paths of the control socket: the parts of the node that they use, and the JSON they answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from wingsd.api.resource import Public, Services
from wingsd.http.request import StreamingRequest
from wingsd.panel.client import Panel
from wingsd.statedb.records import Direction, Report, TransferRecord
from wingsd.threadio import Workers
from wingsd.transfers.panel_callbacks import CallbackQueue
from wingsd.transfers.step_log import Progress
from wingsd.transfers.steps import ReceiveStep, SendStep
from wingsd.transfers.storage.staging import Staging

__all__ = ["ControlContext", "ControlEndpoint", "ending", "past", "report", "running"]


@attrs.frozen
class ControlContext:
    """`services` are those that the Panel's calls are made on, `disk` threads for short work.

    `address` returns where the node listens, as a URL; `now` gives seconds since the epoch.
    """

    reactor: Any
    services: Services
    panel: Panel
    outbox: CallbackQueue
    staging: Staging
    disk: Workers
    address: Callable[[], str]
    now: Callable[[], float] = time.time
    #: When this daemon was started: in the same seconds, and in those of `reactor`.
    begun: float = attrs.field(factory=time.time)
    started: float = attrs.field(
        default=attrs.Factory(lambda self: self.reactor.seconds(), takes_self=True)
    )


class ControlEndpoint(Public):
    """A path that is answered by what the node's `rooms` tell."""

    def __init__(self, rooms: ControlContext, parts: Mapping[str, bytes]) -> None:
        super().__init__(rooms.services, parts)
        self.rooms = rooms

    def authorize(self, request: StreamingRequest) -> None:
        """Let everybody pass, and have a body kept."""


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


def ending(entry: TransferRecord, started: float) -> Json:
    """Return a transfer that is under way no more, but not at its end either.

    That may be one of before, whose end is to be found out, since this daemon has `started`.
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
            "finding out what became of it when this node was restarted"
            if entry.begun < started
            else "being brought to its end"
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


def report(told: Report) -> Json:
    """Return a report that the Panel has not heard yet."""
    return {
        "server": told.server,
        "outcome": told.outcome.value,
        "since": told.created,
        "attempts": told.attempts,
        "answer": told.answer,
    }
