"""Metrics for Prometheus: `Recorder` counts, `Exposition` renders.

A node without metrics has an `Observer`, and does not import this. Counters are updated at
the ends of steps and transfers, not while bytes flow; gauges are read when they are requested.

The resource in `prometheus_client.twisted` is not used: it renders in a thread
while the reactor changes the values, and its import installs a reactor.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from wingsd import __version__
from wingsd.activity import ActivityLog
from wingsd.backups.at_rest import BackupChecks
from wingsd.callbacks import CallbackQueue
from wingsd.direct_transfers.pairs import Pairs
from wingsd.direct_transfers.wanted_seeds import WantedSeeds
from wingsd.docker.runtime import ContainerUsage, Pressure
from wingsd.errors import ServersNotLoaded, StorageError, WingsdError, is_cancel
from wingsd.histories import HistoriesOnDemand
from wingsd.node.answers import LatestAnswer
from wingsd.node.evacuation import AT_WORK, Evacuation
from wingsd.node.figures import pressure
from wingsd.servers import Server, Servers
from wingsd.sftp.service import SftpService
from wingsd.threadio import Workers
from wingsd.transfers.manager import IncomingTransfers, OutgoingTransfers
from wingsd.transfers.outgoing.left_backups import LeftBackups
from wingsd.transfers.steps import ReceiveStep, SeedFigures, SendStep, State
from wingsd.util.observer import DIRECTIONS, ENGINE, PANEL, Observer, Passage
from wingsd.util.text import reading_advice

if TYPE_CHECKING:
    from wingsd.histories.manager import Histories

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


class Recorder(Observer):
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
        # Not imported for this: before docker-py is loaded, there is no error of it.
        docker = sys.modules.get("docker.errors")
        from_engine = docker is not None and isinstance(error, docker.APIError)
        answered = error is None or isinstance(error, WingsdError) or from_engine
        outcome = "ok" if error is None else "refused" if answered else "failed"
        self._duration.labels(operation, outcome).observe(seconds)
        (self._last_answer if answered else self._last_failure).set_to_current_time()


def _outcome(error: Exception | None) -> str:
    if error is None:
        return SUCCESS
    return CANCELLED if is_cancel(error) else FAILURE


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


def of_pairs(
    pairs: Pairs, evacuation: Evacuation, wanted: WantedSeeds, now: float
) -> Iterator[Metric]:
    """Return what other nodes have here, and how far a command is that moves all servers."""
    yield _by(
        GaugeMetricFamily,
        "direction",
        "wingsd_pairs",
        "Pairs with other nodes, by which copies of servers come or go.",
        {"in": len(pairs.receiving), "out": len(pairs.sending)},
    )
    yield GaugeMetricFamily(
        "wingsd_pair_bytes",
        "The bytes that the copies of pairs take on this node, at most.",
        value=sum(each.bytes for each in pairs.receiving.values()),
    )
    yield GaugeMetricFamily(
        "wingsd_maintenance",
        "1 while the node takes no servers.",
        value=pairs.is_maintained,
    )
    found = evacuation.last
    yield _by(
        GaugeMetricFamily,
        "state",
        "wingsd_evacuation_servers",
        "Servers of the last evacuation of this node.",
        {
            "moved": found.moved if found is not None else 0,
            "failed": found.failed if found is not None else 0,
            "left": found.waiting if found is not None else 0,
        },
    )
    # Before the first report, copies that are wanted tell of an evacuation before the restart.
    is_at_work = bool(wanted.wanted) if found is None else found.state in AT_WORK
    yield GaugeMetricFamily(
        "wingsd_evacuation_silent_seconds",
        "Time since the command that moves all servers has reported; 0 while none is at work.",
        value=max(now - evacuation.reported, 0.0) if is_at_work else 0,
    )


def of_histories(made: Histories | None, servers: Servers | None) -> Iterator[Metric]:
    """Return what is known of histories; nothing on a node that has used none."""
    if made is None:
        return
    totals = made.totals()
    yield GaugeMetricFamily(
        "wingsd_histories", "Servers of which points in time are made.", value=totals.count
    )
    yield _by(
        GaugeMetricFamily,
        "state",
        "wingsd_histories_troubled",
        "Histories that do not advance (late, or failing), or have damaged points.",
        {"late": totals.late, "failing": totals.failing, "damaged": totals.damaged},
    )
    yield GaugeMetricFamily(
        "wingsd_history_bytes", "Bytes on the disk that these histories take.", value=totals.bytes
    )
    yield GaugeMetricFamily(
        "wingsd_history_points", "Points of these histories.", value=totals.points
    )
    yield CounterMetricFamily(
        "wingsd_history_points_made", "Points that this daemon has made.", value=made.made
    )
    yield CounterMetricFamily(
        "wingsd_history_seconds",
        "Time that making them took, also where nothing had changed.",
        value=made.seconds,
    )
    yield CounterMetricFamily(
        "wingsd_history_cpu_seconds", "CPU time of the same.", value=made.cpu_seconds
    )
    states, now = made.states(), time.time()
    found = [
        (_labels(each), (states[each.uuid], now))
        for each in _loaded(servers)
        if each.uuid in states
    ]
    for figure in _OF_HISTORIES:
        yield _collected(figure, found)


_LIVE = (State.PENDING, State.PROCESSING)
#: The steps of transfers in progress.
_STEPS = [
    *(("in", step.name.lower()) for step in ReceiveStep if step.state in _LIVE),
    ("in", "seed"),
    *(("out", step.name.lower()) for step in SendStep if step.state in _LIVE),
]


@attrs.frozen(eq=False, repr=False)
class Sources:
    """The sources of gauges: transfers in both directions, reports, activity, backups, SFTP.

    `servers` are those whose figures are exported, None where they are not.
    """

    received: IncomingTransfers
    sent: OutgoingTransfers
    reports: CallbackQueue
    activity: ActivityLog
    backups: BackupChecks
    left: LeftBackups
    sftp: SftpService
    pairs: Pairs
    evacuation: Evacuation
    wanted: WantedSeeds
    histories: HistoriesOnDemand
    servers: Servers | None = None


def _of_sftp(sftp: SftpService) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "wingsd_sftp_sessions",
        "Connections of SFTP that are logged in.",
        value=sftp.sessions.count,
    )
    yield _by(
        CounterMetricFamily,
        "kind",
        "wingsd_sftp_logins_refused",
        "Passwords and public keys that SFTP clients have shown and that were refused.",
        sftp.refused,
    )
    yield _by(
        CounterMetricFamily,
        "direction",
        "wingsd_sftp_bytes",
        "Bytes of SFTP's requests (in, with what is uploaded) and answers (out).",
        sftp.moved,
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


def _seconds(pressure: Mapping[str, Pressure]) -> dict[str, float]:
    return {resource: each.seconds for resource, each in pressure.items()}


def _disk_bytes(usage: ContainerUsage) -> dict[str, float]:
    moved = usage.disk_io
    return {"read": moved.read_bytes, "write": moved.write_bytes} if moved else {}


def _disk_operations(usage: ContainerUsage) -> dict[str, float]:
    done = usage.disk_operations
    return {"read": done[0], "write": done[1]} if done else {}


def _network_bytes(usage: ContainerUsage) -> dict[str, float]:
    moved = usage.network
    return {"in": moved.rx_bytes, "out": moved.tx_bytes} if moved else {}


def _network_packets(usage: ContainerUsage) -> dict[str, float]:
    moved = usage.network
    return {"in": moved.rx_packets, "out": moved.tx_packets} if moved else {}


@attrs.frozen(eq=False, repr=False)
class _OfServers:
    """A figure of servers: its name without `wingsd_server_`, and how it is read.

    With a label of its own, `read` returns the values by that.
    """

    family: type[CounterMetricFamily | GaugeMetricFamily]
    name: str
    text: str
    read: Callable[[Any], Any]
    label: str = ""


_counter, _gauge = partial(_OfServers, CounterMetricFamily), partial(_OfServers, GaugeMetricFamily)
#: The figures of a run, by its usage, and those of a server.
_OF_RUNS = (
    _counter("cpu_seconds", "CPU time since its start.", lambda of: of.cpu_seconds),
    _counter(
        "cpu_throttled_seconds",
        "Time in which its CPU limit kept it waiting, at most.",
        lambda of: of.throttled_seconds,
    ),
    _gauge(
        "memory_bytes",
        "Memory in use, without the file cache that can be dropped.",
        lambda of: of.memory_bytes,
    ),
    _gauge(
        "memory_limit_bytes",
        "Its limit of memory; without one, the memory of the machine.",
        lambda of: of.memory_limit_bytes,
    ),
    _gauge(
        "memory_peak_bytes",
        "The most memory that it has used since its start, with the file cache.",
        lambda of: of.memory_peak_bytes,
    ),
    _counter(
        "pressure_seconds",
        "Time in which one of its processes waited for a resource (the kernel's PSI).",
        lambda of: _seconds(of.pressure),
        "resource",
    ),
    _counter(
        "disk_io_bytes",
        "Bytes read from disks and written to them since its start.",
        _disk_bytes,
        "operation",
    ),
    _counter("disk_io_operations", "Operations of these.", _disk_operations, "operation"),
    _counter(
        "network_bytes", "Bytes received and sent since its start.", _network_bytes, "direction"
    ),
    _counter("network_packets", "Packets of these.", _network_packets, "direction"),
    _gauge("processes", "Its processes and threads.", lambda of: of.processes),
    _gauge("uptime_seconds", "Time since its start.", lambda of: of.uptime / 1000),
)
_OF_SERVERS = (
    _gauge("disk_bytes", "What its files take, as last measured.", lambda of: of.disk_bytes),
    _gauge("disk_limit_bytes", "What they may take.", lambda of: of.files.limit),
    _counter(
        "oom_kills",
        "Processes of it that the kernel has killed since memory ran out.",
        lambda of: of.figures.oom_kills,
    ),
    _counter("starts", "Its starts by this daemon.", lambda of: of.figures.starts),
    _counter(
        "crashes",
        "Ends of its program that were not requested, by the reason.",
        lambda of: of.figures.crashes,
        "reason",
    ),
    _counter("console_lines", "Lines of its console.", lambda of: of.figures.lines),
)


#: The figures of histories, each by its state and the present time.
_OF_HISTORIES = (
    _gauge(
        "history_age_seconds",
        "Time since its newest point.",
        lambda of: None if of[0].newest is None else of[1] - of[0].newest,
    ),
    _gauge(
        "history_looked_age_seconds",
        "Time since its history was last as its files.",
        lambda of: None if of[0].looked is None else of[1] - of[0].looked,
    ),
    _gauge("history_bytes", "Bytes on the disk that its history takes.", lambda of: of[0].bytes),
    _gauge("history_points", "Points of its history.", lambda of: of[0].points),
    _gauge(
        "history_unsettled_files",
        "Files that were changed each time while they were read for its newest point.",
        lambda of: len(of[0].unsettled),
    ),
    _gauge(
        "history_last_seconds",
        "Time that its last point took, also where nothing had changed.",
        lambda of: of[0].seconds,
    ),
    _gauge(
        "history_damaged_points",
        "Points of its history that are known to be damaged.",
        lambda of: of[0].damaged,
    ),
)


def of_servers(servers: Servers) -> Iterator[Metric]:
    """Return the figures of servers; none before they are loaded, nor what is not known."""
    found = _loaded(servers)
    if not found:
        return
    labels = [_labels(server) for server in found]
    usages = [server.figures.usage for server in found]
    runs = [(own, usage) for own, usage in zip(labels, usages, strict=True) if usage.uptime]
    for figure in _OF_RUNS:
        yield _collected(figure, runs)
    for figure in _OF_SERVERS:
        yield _collected(figure, zip(labels, found, strict=True))


def _loaded(servers: Servers | None) -> Sequence[Server]:
    """Return the servers whose figures are shown; none before they are loaded."""
    try:
        return () if servers is None else servers.all()
    except ServersNotLoaded:
        return ()


def _labels(server: Server) -> dict[str, str]:
    name = server.configuration.settings.meta.name
    return {"uuid": server.uuid} | ({"name": name} if name else {})


def _collected(figure: _OfServers, sources: Iterable[tuple[dict[str, str], Any]]) -> Metric:
    metric = figure.family(f"wingsd_server_{figure.name}", figure.text)
    # Not by `add_metric`, which makes the labels of each sample again.
    name = f"{metric.name}_total" if figure.family is CounterMetricFamily else metric.name
    for labels, source in sources:
        value = figure.read(source)
        if figure.label:
            for of, number in value.items():
                metric.samples.append(Sample(name, labels | {figure.label: of}, number))
        elif value is not None:
            metric.samples.append(Sample(name, labels, value))
    return metric


@attrs.frozen(eq=False, repr=False)
class DiskState:
    """The state of the disk; `kept` is None where that could not be read.

    `pressure` is that of the machine.
    """

    disk: os.statvfs_result
    kept: int | None
    pressure: Mapping[str, Pressure] = attrs.field(factory=dict)


#: Seconds for the filesystem to report its size; a network filesystem may be disconnected.
DISK_TIMEOUT = 2


@attrs.define(eq=False, repr=False, slots=False)
class Exposition(Collector):
    """Renders the metrics of `recorder`, `sources` and the process.

    The size of `data`, the directory of servers, is read in the threads of `disk`, as are the
    bytes of partial copies, by `kept`, which raises `StorageError`.
    """

    _log = Logger()

    _recorder: Recorder
    _sources: Sources
    _disk: Workers
    _data: str
    _kept: Callable[[], int]
    _reactor: IReactorTime
    _pressure: Callable[[], Mapping[str, Pressure]] = pressure

    def __attrs_post_init__(self) -> None:
        self._registry = registry = self._recorder.registry
        self._state = LatestAnswer(self._look, self._disk, self._reactor)
        self._was_readable = True
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
        yield from of_pairs(
            self._sources.pairs, self._sources.evacuation, self._sources.wanted, time.time()
        )
        yield GaugeMetricFamily(
            "wingsd_outbox_reports",
            "Ends of transfers that the Panel has not heard of yet.",
            value=self._sources.reports.depth,
        )
        yield from self._activity()
        yield from self._backups()
        yield from of_histories(self._sources.histories.made, self._sources.servers)
        yield from _of_sftp(self._sources.sftp)
        if self._found is not None:
            yield from _filesystem(self._found.disk)
            yield _by(
                CounterMetricFamily,
                "resource",
                "wingsd_pressure_seconds",
                "Time in which a process of the machine waited for a resource (the kernel's PSI).",
                _seconds(self._found.pressure),
            )
        if self._sources.servers is not None:
            yield from of_servers(self._sources.servers)
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
        yield _by(
            GaugeMetricFamily,
            "state",
            "wingsd_backups_left",
            "Backups and histories on this node whose servers have moved away.",
            self._sources.left.counts,
        )
        yield GaugeMetricFamily(
            "wingsd_backups_left_oldest_seconds",
            "How long one has waited to follow its server, since one has last followed.",
            value=self._sources.left.oldest,
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
        is_fresh = await self._state.get(DISK_TIMEOUT)
        found = self._state.value if is_fresh else f"no answer within {DISK_TIMEOUT} s"
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
            found, waited = os.statvfs(self._data), self._pressure()
            try:
                return DiskState(found, self._kept(), waited)
            except StorageError:
                return DiskState(found, None, waited)
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
