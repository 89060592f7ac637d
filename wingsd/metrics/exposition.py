"""What Prometheus reads: the counters, and gauges looked up when it asks.

`prometheus_client.twisted` has a resource for that. It makes the answer in a thread of the
reactor's pool, while the reactor changes what is being read, and it needs the installed reactor to
be imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Protocol

import attrs
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Info,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.logger import Logger

from wingsd import __version__
from wingsd.metrics.recorder import DIRECTIONS, Recorder
from wingsd.threadio import Workers
from wingsd.transfers.steps import ReceiveStep, SendStep, State
from wingsd.util.text import reading_advice

__all__ = ["Exposition", "Gauges", "Sources"]

_LIVE = (State.PENDING, State.PROCESSING)
#: The steps that a transfer under way may be in.
_STEPS = [
    *(("in", step.name.lower()) for step in ReceiveStep if step.state in _LIVE),
    *(("out", step.name.lower()) for step in SendStep if step.state in _LIVE),
]


class WaitingTransfers(Protocol):
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

    received: WaitingTransfers
    sent: WaitingTransfers
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


#: Seconds for the filesystem to tell its size: a network's may be gone.
DISK_WITHIN = 2


class Exposition:
    """What `recorder` has counted, what `sources` know, and what the process is.

    `data` is the directory of the servers' files, looked at in the threads of `disk`.
    """

    _log = Logger()

    def __init__(
        self, recorder: Recorder, sources: Sources, disk: Workers, data: str, reactor: Any
    ) -> None:
        self._disk = disk
        self._data = data
        self._reactor = reactor
        self._registry = registry = recorder.registry
        # Who waits for the one look at the disk that there is at a time: each takes a thread, and
        # keeps it while the disk hangs.
        self._looking: set[Deferred[os.statvfs_result]] = set()
        self._is_asked = False
        self._has_told = True
        self._gauges = Gauges(recorder, sources)
        registry.register(self._gauges)
        build = Info("wingsd_build", "What is running.", registry=registry)
        build.info({"version": __version__})
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

    async def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the exposition and its content type, as the header `accept` wants it."""
        self._gauges.disk = await self._look_at_disk()
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):
            # Of a version that is none; RFC 9110 leaves it to the server what to answer then.
            encode, content_type = choose_encoder("")
        registry: Any = _WithoutCreated(self._registry)
        return encode(registry), content_type

    async def _look_at_disk(self) -> os.statvfs_result | None:
        looking: Deferred[os.statvfs_result] = Deferred()
        self._looking.add(looking)
        if not self._is_asked:
            self._is_asked = True
            self._disk.run(os.statvfs, self._data).addBoth(self._disk_told)
        try:
            found = await looking.addTimeout(DISK_WITHIN, self._reactor)
        except TimedOut:
            self._say_untold(f"no answer within {DISK_WITHIN} s")
        except OSError as error:
            self._say_untold(reading_advice(error))
        else:
            self._has_told = True
            return found
        finally:
            self._looking.discard(looking)
        return None

    def _disk_told(self, found: Any) -> None:
        self._is_asked = False
        for looking in tuple(self._looking):
            looking.callback(found)

    def _say_untold(self, why: str) -> None:
        # Once: it is asked every few seconds.
        if self._has_told:
            self._has_told = False
            self._log.warn("{data} does not tell its size: {why}", data=self._data, why=why)


class _WithoutCreated:
    """A registry without the library's own series of when each of the others was first made.

    They double the number of series, and the process's start tells the same. To have the library
    leave them out is a setting for the whole process.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            created = f"{metric.name}_created"
            metric.samples = [sample for sample in metric.samples if sample.name != created]
            yield metric
