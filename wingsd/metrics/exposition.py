"""The text for Prometheus: the counters, and gauges read for each request.

The resource in `prometheus_client.twisted` is not used: it renders in a thread while the reactor
changes the values, and its import installs a reactor.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

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
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from wingsd import __version__
from wingsd.activity.log import ActivityLog
from wingsd.backups.checks import BackupChecks
from wingsd.callbacks import CallbackQueue
from wingsd.errors import StorageError
from wingsd.metrics.recorder import Recorder
from wingsd.node.answers import LatestAnswer
from wingsd.sftp.service import SftpCounts, SftpService
from wingsd.threadio import Workers
from wingsd.transfers.manager import IncomingTransfers, OutgoingTransfers
from wingsd.transfers.step_log import SeedFigures
from wingsd.transfers.steps import ReceiveStep, SendStep, State
from wingsd.util.observer import DIRECTIONS
from wingsd.util.text import reading_advice

__all__ = ["Exposition", "Sources"]


def _by(
    family: type[CounterMetricFamily | GaugeMetricFamily],
    label: str,
    name: str,
    text: str,
    values: Mapping[str, float],
) -> Metric:
    """Return a metric with a value for each value of a label."""
    metric = family(name, text, labels=[label])
    for of, value in values.items():
        metric.add_metric([of], value)
    return metric


def of_seeds(figures: Sequence[SeedFigures]) -> Iterator[Metric]:
    """Return what is known of these copies: their number, and the worst of them."""
    yield GaugeMetricFamily(
        "wingsd_seeds",
        "Copies that follow servers of this node at other nodes.",
        value=len(figures),
    )
    yield GaugeMetricFamily(
        "wingsd_seeds_failing",
        "Those of them whose last round has failed.",
        value=sum(each.trouble != "" for each in figures),
    )
    yield GaugeMetricFamily(
        "wingsd_seed_age_seconds",
        "Time since the last whole round of the oldest copy began; 0 while none is known.",
        value=max((each.age or 0.0 for each in figures), default=0.0),
    )
    missing = [each.missing for each in figures if each.missing is not None]
    if missing or not figures:  # it is absent while nothing is known
        yield GaugeMetricFamily(
            "wingsd_seed_missing_bytes",
            "Bytes that were seen to be changed and are not at the other nodes yet.",
            value=sum(missing),
        )
    yield GaugeMetricFamily(
        "wingsd_seed_predicted_downtime_seconds",
        "The longest time for which one of their servers would be down if it were moved now.",
        value=max((each.downtime or 0.0 for each in figures), default=0.0),
    )


_LIVE = (State.PENDING, State.PROCESSING)
#: The steps of transfers in progress.
_STEPS = [
    *(("in", step.name.lower()) for step in ReceiveStep if step.state in _LIVE),
    ("in", "seed"),
    *(("out", step.name.lower()) for step in SendStep if step.state in _LIVE),
]


@attrs.frozen(eq=False, repr=False)
class Sources:
    """The sources of gauges: transfers in both directions, reports, activity, backups and SFTP."""

    received: IncomingTransfers
    sent: OutgoingTransfers
    reports: CallbackQueue
    activity: ActivityLog
    backups: BackupChecks
    sftp: SftpService


def _of_sftp(counts: SftpCounts) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "wingsd_sftp_sessions", "Connections of SFTP that are logged in.", value=counts.sessions
    )
    yield _by(
        CounterMetricFamily,
        "kind",
        "wingsd_sftp_logins_refused",
        "Passwords and public keys that SFTP clients have shown and that were refused.",
        counts.refused,
    )
    yield _by(
        CounterMetricFamily,
        "direction",
        "wingsd_sftp_bytes",
        "Bytes of SFTP's requests (in, with what is uploaded) and answers (out).",
        counts.moved,
    )


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


@attrs.frozen(eq=False, repr=False)
class DiskState:
    """The state of the disk; `kept` is None where that could not be read."""

    disk: os.statvfs_result
    kept: int | None


#: Seconds for the filesystem to report its size; a network filesystem may be disconnected.
DISK_TIMEOUT = 2


class Exposition(Collector):
    """Renders the metrics of `recorder`, `sources` and the process.

    The size of `data`, the directory of servers, is read in the threads of `disk`, as are the
    bytes of partial copies, by `kept`, which raises `StorageError`.
    """

    _log = Logger()

    def __init__(
        self,
        recorder: Recorder,
        sources: Sources,
        disk: Workers,
        data: str,
        kept: Callable[[], int],
        reactor: IReactorTime,
    ) -> None:
        self._data = data
        self._kept = kept
        self._registry = registry = recorder.registry
        self._disk = LatestAnswer(self._look, disk, reactor)
        self._was_readable = True
        self._recorder = recorder
        self._sources = sources
        #: The state of the disk, None where it is not known.
        self._found: DiskState | None = None
        registry.register(self)
        build = Info("wingsd_build", "What is running.", registry=registry)
        build.info({"version": __version__})
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

    async def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the text and its content type, for the value `accept` of the header."""
        self._found = await self._read_disk()
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):
            # An invalid version: RFC 9110 leaves the format to the server.
            encode, content_type = choose_encoder("")
        registry: Any = _WithoutCreated(self._registry)
        return encode(registry), content_type

    def collect(self) -> Iterator[Metric]:
        """Return the gauges, for the library."""
        yield from self._under_way()
        yield _by(
            CounterMetricFamily,
            "direction",
            "wingsd_transfer_bytes",
            "Bytes of servers and what goes along, as they went over the network.",
            {direction: self._recorder.moved(direction) for direction in DIRECTIONS},
        )
        yield _by(
            GaugeMetricFamily,
            "direction",
            "wingsd_transfers_waiting",
            "Transfers that wait for their turn to receive or to send.",
            {"in": self._sources.received.waiting, "out": self._sources.sent.waiting},
        )
        yield from of_seeds(self._sources.sent.seeds)
        yield GaugeMetricFamily(
            "wingsd_outbox_reports",
            "Ends of transfers that the Panel has not heard of yet.",
            value=self._sources.reports.depth,
        )
        yield from self._activity()
        yield from self._backups()
        yield from _of_sftp(self._sources.sftp.counts)
        if self._found is not None:
            yield from _filesystem(self._found.disk)
        if self._found is not None and self._found.kept is not None:
            yield GaugeMetricFamily(
                "wingsd_move_kept_bytes",
                "What is kept of failed moves to this node for the next transfers of the servers.",
                value=self._found.kept,
            )

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

    def _backups(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "wingsd_backups_damaged",
            "Backups on this node that are not what was made, as far as they were verified.",
            value=len(self._sources.backups.damaged),
        )
        yield CounterMetricFamily(
            "wingsd_backups_verified",
            "Backups that were read to their end to verify them.",
            value=self._sources.backups.count,
        )

    def _activity(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "wingsd_activity_waiting",
            "Entries of the activity log that the Panel has not accepted yet.",
            value=self._sources.activity.waiting,
        )
        yield CounterMetricFamily(
            "wingsd_activity_sent",
            "Entries of the activity log that the Panel has accepted.",
            value=self._sources.activity.sent,
        )
        yield _by(
            CounterMetricFamily,
            "reason",
            "wingsd_activity_dropped",
            "Entries of the activity log that the Panel will not get, by the reason.",
            self._sources.activity.dropped,
        )

    async def _read_disk(self) -> DiskState | None:
        is_fresh = await self._disk.get(DISK_TIMEOUT)
        found = self._disk.value if is_fresh else f"no answer within {DISK_TIMEOUT} s"
        if isinstance(found, DiskState):
            self._was_readable = True
            return found
        # Once: the metrics are requested every few seconds.
        if self._was_readable:
            self._was_readable = False
            self._log.warn("{data}: size not available: {reason}", data=self._data, reason=found)
        return None

    def _look(self) -> DiskState | str:
        """Return the state of the disk, or why it cannot be read."""
        try:
            found = os.statvfs(self._data)
            try:
                return DiskState(found, self._kept())
            except StorageError:
                return DiskState(found, None)
        except OSError as error:
            return reading_advice(error)


class _WithoutCreated:
    """A registry without the series `_created`, the creation times of the others.

    They double the number of series. The library can only omit them for the whole process.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            created = f"{metric.name}_created"
            metric.samples = [sample for sample in metric.samples if sample.name != created]
            yield metric
