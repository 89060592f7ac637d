"""What the node is doing at this moment, looked at when somebody asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Protocol

import attrs
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from wingsd.metrics.recorder import DIRECTIONS, Recorder
from wingsd.transfers.lifecycle import ReceiveStep, SendStep, State

__all__ = ["Gauges", "Sources"]

_LIVE = (State.PENDING, State.PROCESSING)
#: The steps that a transfer under way may be in.
_STEPS = [
    *(("in", step.name.lower()) for step in ReceiveStep if step.state in _LIVE),
    *(("out", step.name.lower()) for step in SendStep if step.state in _LIVE),
]


class Transfers(Protocol):
    """The transfers of one direction."""

    @property
    def waiting(self) -> int:
        """How many of them wait for their turn."""


class Reports(Protocol):
    """What the Panel is still to be told."""

    @property
    def depth(self) -> int:
        """How many reports there are."""


@attrs.frozen
class Sources:
    """Where what is exposed is looked up: transfers `received` and `sent`, and `reports`."""

    received: Transfers
    sent: Transfers
    reports: Reports


class Gauges(Collector):
    """Collects what the sources and the recorder know at that moment.

    `disk` is what os.statvfs said of the servers' filesystem just before, None when it did not.
    """

    def __init__(self, recorder: Recorder, sources: Sources) -> None:
        self._recorder = recorder
        self._sources = sources
        self.disk: os.statvfs_result | None = None

    def collect(self) -> Iterator[Metric]:
        """Return all of it."""
        yield from self._under_way()
        yield self._moved()
        yield self._waiting()
        yield GaugeMetricFamily(
            "wingsd_outbox_reports",
            "Ends of transfers that the Panel has not heard of yet.",
            value=self._sources.reports.depth,
        )
        if self.disk is not None:
            yield from _filesystem(self.disk)

    def _under_way(self) -> Iterator[Metric]:
        number = GaugeMetricFamily(
            "wingsd_transfers_in_flight",
            "Transfers under way, by the step that they are in.",
            labels=["direction", "step"],
        )
        longest = GaugeMetricFamily(
            "wingsd_transfer_step_age_seconds",
            "For how long the transfer has been in a step that has been in it for longest.",
            labels=["direction", "step"],
        )
        found: dict[tuple[str, str], list[float]] = {labels: [] for labels in _STEPS}
        for each in self._recorder.under_way:
            found[each.direction, each.step].append(each.step_seconds)
        for labels, seconds in found.items():
            number.add_metric(labels, len(seconds))
            longest.add_metric(labels, max(seconds, default=0.0))
        yield number
        yield longest

    def _moved(self) -> Metric:
        moved = CounterMetricFamily(
            "wingsd_transfer_bytes",
            "Bytes of servers and what goes along, as they went over the network.",
            labels=["direction"],
        )
        for direction in DIRECTIONS:
            moved.add_metric([direction], self._recorder.moved(direction))
        return moved

    def _waiting(self) -> Metric:
        waiting = GaugeMetricFamily(
            "wingsd_transfers_waiting",
            "Transfers that wait for their turn to receive or to send.",
            labels=["direction"],
        )
        waiting.add_metric(["in"], self._sources.received.waiting)
        waiting.add_metric(["out"], self._sources.sent.waiting)
        return waiting


def _filesystem(found: os.statvfs_result) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "wingsd_data_size_bytes",
        "The size of the filesystem that the servers' files are on.",
        value=found.f_blocks * found.f_frsize,
    )
    yield GaugeMetricFamily(
        "wingsd_data_available_bytes",
        "What is free of it for those who are not root.",
        value=found.f_bavail * found.f_frsize,
    )
