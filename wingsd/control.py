"""The control socket: HTTP over a Unix socket, by which `wingsctl` asks the running daemon.

Root and one group can open it. docs/control.md describes its paths and answers: the status,
backups, histories and transfers.
"""

from __future__ import annotations

import grp
import os
import platform
import socket
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import attrs
from cryptography import x509
from twisted.internet.defer import CancelledError, Deferred, gatherResults, maybeDeferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from wingsd import __version__
from wingsd.api.context import NodeContext
from wingsd.api.node import DiagnosticsQuery, report_options
from wingsd.api.pairs import PairQuestion
from wingsd.api.resource import Endpoint
from wingsd.api.routes import Route, calls_by_path, root
from wingsd.backups.at_rest import BackupCheck, Rewrite
from wingsd.backups.catalogue import COMPLETE
from wingsd.backups.points import PointBackup
from wingsd.backups.store import BackupStore, StoredBackup, backup_uuid
from wingsd.config import Config, Control
from wingsd.docker.runtime import Pressure
from wingsd.errors import (
    BackupNotLeft,
    BadRequest,
    Conflict,
    FiguresUnavailable,
    InvalidData,
    NoSuchPoint,
    PanelRefused,
    ServerNotFound,
    ServersNotLoaded,
    TransferNotActive,
    WingsdError,
    error_code,
)
from wingsd.histories import HistoriesOnDemand
from wingsd.http.operations import Access, Topic, call
from wingsd.http.site import NodeSite
from wingsd.node.evacuation import EvacuationReport
from wingsd.node.figures import pressure
from wingsd.servers import PowerState, Server
from wingsd.servers.operations import Operation
from wingsd.statedb import (
    ArrivingState,
    Direction,
    LeftBackup,
    LeftState,
    PairRecord,
    TransferRecord,
    history_place,
    point_place,
)
from wingsd.transfers.outgoing.source import SeedOrder
from wingsd.transfers.steps import ProgressReport, ReceiveStep, SeedFigures, SendStep
from wingsd.util.net import limit_accepts
from wingsd.util.text import require_uuid

if TYPE_CHECKING:
    from wingsd.histories.manager import HistoryTask, PointInfo
    from wingsd.restores.rewinding import Rewind

Json = dict[str, Any]
T = TypeVar("T")


class ControlEndpoint(Endpoint):
    """Calls of the control socket. The mode of the socket limits who can call them."""

    topic = Topic.NODE

    def authorize(self, access: Access) -> None:
        """Accept every client."""


#: Seconds that the Panel and the engine have to answer.
PROBE_TIMEOUT = 3.0


def _disks(directories: dict[str, str]) -> list[Json]:
    """Return size and free space of the filesystems of directories, or the error."""
    found = []
    for purpose, path in directories.items():
        disk: Json = {"purpose": purpose, "path": path, "free_bytes": None, "total_bytes": None}
        try:
            status = os.statvfs(path)
        except OSError as error:
            disk["error"] = error.strerror or str(error)
        else:
            disk["error"] = ""
            disk["free_bytes"] = status.f_bavail * status.f_frsize
            disk["total_bytes"] = status.f_blocks * status.f_frsize
        found.append(disk)
    return found


class StatusEndpoint(ControlEndpoint):
    """The calls about the node."""

    @call(200, "The status.")
    async def get_status(self) -> Json:
        """Return the status of the node. Takes a few seconds at most."""
        node, system = self._node, self._config.system
        directories = {
            "servers": system.data,
            "arriving": node.staging.path,  # known since the start
            "journal": system.root_directory,
        }
        probes: list[Deferred[Any]] = [
            Deferred.fromCoroutine(self._ask_panel()),
            Deferred.fromCoroutine(self._ask_engine()),
            Deferred.fromCoroutine(self._orphaned()),
            node.disk.run(_disks, directories),
        ]
        panel, engine, orphans, disks = await gatherResults(probes, consumeErrors=True)
        transfers = system.transfers
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime_seconds": node.reactor.seconds() - node.begun,
            "address": node.address(),
            "panel": panel,
            "engine": engine,
            "containers_without_server": orphans,
            "servers": self._count_servers(),
            "transfers": {
                "receiving": len(node.receiver.servers),
                "sending": len(node.sender.servers),
                "expected": len(node.direct_transfers.expected),
                "waiting_orders": node.sender.waiting_orders,
            },
            "pairs": {"in": len(node.pairs.receiving), "out": len(node.pairs.sending)},
            "maintenance": _maintenance(node),
            "evacuation": node.evacuation.shown(),
            "histories": node.histories.totals(),
            "reports_waiting": node.callbacks.depth,
            "disks": disks,
            "limits": {
                "download_mib_per_second": max(transfers.download_limit, 0) or None,
                "upload_mib_per_second": transfers.upload_limit or None,
                "concurrent": transfers.concurrent,
                "waiting": transfers.waiting,
                "disk_reserve_mib": transfers.disk_reserve,
            },
        }

    async def _ask_panel(self) -> Json:
        reachable, detail, code = True, "", ""
        try:
            await self._with_timeout(Deferred.fromCoroutine(self._node.panel.greet()))
        except WingsdError as error:
            reachable, detail, code = isinstance(error, PanelRefused), error.detail, error.code
        return {
            "url": self._node.config.remote,
            "reachable": reachable,
            "error": detail,
            "code": code,
            "last_heard": self._node.panel.heard,
        }

    async def _ask_engine(self) -> Json:
        ask = self._node.ask_engine
        version, detail, code = "", "", ""
        if ask is not None:
            try:
                version = (await self._with_timeout(ask())).version
            except WingsdError as error:
                detail, code = error.detail, error.code
        return {"enabled": ask is not None, "version": version, "error": detail, "code": code}

    async def _orphaned(self) -> list[Json]:
        if self._node.orphans is None:
            return []
        try:
            found = await self._node.orphans.left(PROBE_TIMEOUT)
        except WingsdError:
            return []  # The engine's error is in the status, too.
        return [
            {
                "container": each.name,
                "server": each.server,
                "status": each.status,
                "image": each.image,
                "remove": each.removal,
            }
            for each in found
        ]

    async def _with_timeout(self, answer: Deferred[T]) -> T:
        try:
            return await answer.addTimeout(PROBE_TIMEOUT, self._node.reactor)
        except (DeferredTimeout, CancelledError) as error:
            raise WingsdError("no answer", f"no answer within {PROBE_TIMEOUT:g} s") from error

    def _count_servers(self) -> Json:
        try:
            servers = self._node.servers.all()
        except ServersNotLoaded:
            return {"loaded": False, "count": None, "running": None}
        running = [server for server in servers if server.state is not PowerState.OFFLINE]
        return {"loaded": True, "count": len(servers), "running": len(running)}

    @call(200, "The usage.")
    async def get_top(self) -> Json:
        """Return what the machine and each server use now. Raises `ServersNotLoaded`."""
        servers = [_used(server) for server in self._node.servers.all()]
        waited = await self._node.workers.run(pressure)
        machine: Json = {"pressure_percent": _percents(waited)}
        try:
            found = await self._node.figures.now()
        except FiguresUnavailable:  # a sandbox hides them
            machine |= dict.fromkeys(("cpu_percent", "memory_bytes", "memory_total_bytes"))
        else:
            machine["cpu_percent"] = found.rates.cpu_percent
            machine["memory_bytes"] = found.memory.used
            machine["memory_total_bytes"] = found.memory.total
        return {"machine": machine, "servers": servers}

    @call(200, "The report.")
    async def get_diagnostics(self, query: DiagnosticsQuery) -> Json:
        """Return the report as text."""
        return {"report": await self._node.diagnostics.report(report_options(query))}


def _percents(pressures: Mapping[str, Pressure]) -> Json:
    return {resource: each.percent for resource, each in pressures.items()}


def _used(server: Server) -> Json:
    """Return what a server uses."""
    usage, rates = server.figures.usage, server.figures.rates
    settings = server.configuration.settings
    return {
        "server": server.uuid,
        "name": settings.meta.name,
        "state": server.state.value,
        "uptime_seconds": usage.uptime / 1000,
        "cpu_percent": usage.cpu_absolute,
        "cpu_limit_percent": settings.build.cpu_limit if settings.build.cpu_limit > 0 else None,
        "cpu_seconds": usage.cpu_seconds,
        "throttled_seconds": usage.throttled_seconds,
        "memory_bytes": usage.memory_bytes,
        "memory_limit_bytes": usage.memory_limit_bytes or None,
        "memory_peak_bytes": usage.memory_peak_bytes,
        "pressure_percent": _percents(usage.pressure),
        "oom_kills": server.figures.oom_kills,
        "read_bytes_per_second": rates.read,
        "written_bytes_per_second": rates.written,
        "received_bytes_per_second": rates.received,
        "sent_bytes_per_second": rates.sent,
        "processes": usage.processes,
        "disk_bytes": server.disk_bytes,
        "disk_limit_bytes": server.files.limit,
    }


@attrs.frozen(eq=False, repr=False)
class BackupsQuery:
    """Which backups: those of one server, or all."""

    server: str = ""


def _left(node: NodeContext, left: LeftBackup, url: str) -> Json:
    """Return where a backup belongs whose server has moved away, and how far it is."""
    return {
        "state": left.state.value,
        "since": left.since,
        "destination": url or None,
        # Whether the Panel had no record of it when it was asked last.
        "missed": left.missed is not None,
        "sent_bytes": node.left_backups.reached.get(left.place, 0),
        "waits_for": node.left_backups.troubles.get(left.place, ""),
    }


async def _all_left(node: NodeContext, server: str) -> dict[str, Json]:
    """Return what `_left` says of all, or of those of a server, by their places."""
    urls: dict[int, str] = {}
    found = {}
    for each in await node.database.left():
        if server not in ("", each.server):
            continue
        if each.transfer not in urls:
            move = await node.database.move(each.transfer)
            urls[each.transfer] = "" if move is None else move.url
        place = history_place(each.server) if each.is_history else each.place
        found[place] = _left(node, each, urls[each.transfer])
    return found


def _described(store: BackupStore, found: StoredBackup, left: Json | None) -> Json:
    made = found.catalogue
    return {
        "backup": found.uuid,
        "server": found.server or None,
        "path": store.path(found.place),
        "point": None,
        "bytes": found.size,
        "files": None if made is None else made.files,
        "made": found.modified if made is None else made.made,
        # Without a catalogue nothing tells whether it is what was made.
        "state": None if made is None else made.state,
        "checked": None if made is None or not made.checked else made.checked,
        "fault": "" if made is None or made.state == COMPLETE else made.fault,
        "dropped_since": _dropped_since(left),
        "left": left,
    }


def _described_point(found: PointBackup, left: Json | None) -> Json:
    """Return what `_described` says of an archive, with the number of the point."""
    name = found.name
    return {
        "backup": name.name,
        "server": found.server,
        "path": None,
        "point": name.number,
        "bytes": name.size,
        "files": name.files,
        "made": name.made,
        # Its history is verified, and says whether it is damaged.
        "state": None,
        "checked": None,
        "fault": "",
        "dropped_since": _dropped_since(left),
        "left": left,
    }


def _dropped_since(left: Json | None) -> float | None:
    """Return when the server of a backup moved away, if the Panel has no record of the backup."""
    is_dropped = left is not None and (left["state"] == LeftState.DROPPED.value or left["missed"])
    return left["since"] if left is not None and is_dropped else None


def _progress(check: BackupCheck) -> Json:
    result = check.result
    return {
        "backup": check.found.uuid,
        "bytes": check.progress.bytes_done,
        "total_bytes": check.found.size,
        "whole": None if result is None else not result.fault,
        "fault": "" if result is None else result.fault,
        "sha256": None if result is None else result.sha256,
        "files": None if result is None else result.files,
    }


class ControlBackupsEndpoint(ControlEndpoint):
    """The calls about backups."""

    @call(200, "The backups.")
    async def list_backups(self, query: BackupsQuery) -> Json:
        """Return the backups on this node and those that are being made."""
        refusal = BadRequest("server is invalid", "expected the UUID of a server")
        server = require_uuid(query.server, refusal) if query.server else ""
        node = self._node
        found = await node.disk.run(node.backup_store.all, server)
        left = await _all_left(node, server)
        return {
            "making": [
                {"backup": backup, "server": owner}
                for backup, owner in node.backups.making.items()
                if server in ("", owner)
            ],
            "backups": [
                *(_described(node.backup_store, each, left.get(each.place)) for each in found),
                *(
                    _described_point(each, left.get(point_place(each.name.name)))
                    for each in await node.point_backups.readable(server)
                ),
            ],
            "coming": [
                {
                    "backup": each.backup,
                    "server": each.server,
                    "bytes": each.bytes,
                    "made": each.made or None,
                    "left": left.get(
                        node.backup_store.place(each.server, each.backup, each.suffix)
                    ),
                }
                for each in await node.database.coming(server)
            ],
            "dropped_kept_days": self._config.system.transfers.live.keep_source_days,
            "deletes_dropped": self._config.deletes_dropped_backups,
        }

    @property
    def backup(self) -> str:
        """The UUID in the path. Raises `BackupMissing`."""
        return backup_uuid(self.part("backup"))

    @call(200, "It is sent soon.", fails=(409,))
    async def send_left(self) -> Json:
        """Send a backup that its server has left here after it, whatever the Panel says."""
        return _ordered(self.backup, await self._node.left_backups.send(self.backup))

    @call(200, "It stays.", fails=(409, 502))
    async def keep_left(self) -> Json:
        """Keep a backup here that its server has left."""
        return _ordered(self.backup, await self._node.left_backups.keep(self.backup))

    @call(200, "It is deleted.", fails=(409,))
    async def delete_left(self) -> Json:
        """Delete a backup that its server has left here, now; or expect one no more."""
        coming = await self._node.database.coming("", self.backup)
        try:
            return _ordered(self.backup, await self._node.left_backups.delete(self.backup))
        except BackupNotLeft:
            if not coming:
                raise
        stays = ArrivingState.STAYS
        await self._node.backups.end_coming("", self.backup, stays)
        return {"backup": self.backup, "server": coming[0].server, "state": stays.value}

    @call(200, "The check is under way.")
    async def begin_check(self) -> Json:
        """Begin to verify a backup, or join the check of it that is under way."""
        return _progress(await self._node.backup_checks.begin(self.backup))

    @call(200, "How far it is, or what it has found.")
    async def show_check(self) -> Json:
        """Return the check of a backup that is under way, or has ended last."""
        return _progress(self._node.backup_checks.last(self.backup))

    @call(200, "The backup is being rewritten.")
    async def begin_rewrite(self) -> Json:
        """Begin to rewrite a backup for Wings, or join that if it is under way."""
        return _rewrite(await self._node.backup_rewrites.begin(self.backup))

    @call(200, "How far it is, or how it has ended.")
    async def show_rewrite(self) -> Json:
        """Return the rewrite of a backup that is under way, or has ended last."""
        return _rewrite(self._node.backup_rewrites.last(self.backup))


def _ordered(backup: str, left: LeftBackup) -> Json:
    return {"backup": backup, "server": left.server, "state": left.state.value}


def _rewrite(rewrite: Rewrite) -> Json:
    if not rewrite.is_over:
        state = "rewriting"
    elif rewrite.error is not None:
        state = "failed"
    else:
        state = "unchanged" if rewrite.is_unchanged else "rewritten"
    return {
        "backup": rewrite.found.uuid,
        "state": state,
        "bytes": rewrite.progress.bytes_done,
        "total_bytes": rewrite.found.size,
        "new_bytes": rewrite.size,
        "not_kept": rewrite.not_kept,
        "fault": "" if rewrite.error is None else str(rewrite.error),
    }


#: Seconds that a question waits for other work on a history.
TURN_TIMEOUT = 10.0
#: What is shown of a history's state.
_FIGURES = (
    *("newest", "looked", "points", "names", "bytes", "damaged", "unreadable"),
    *("unsettled", "seconds", "cpu_seconds", "trouble"),
)
#: Unsettled and damaged files of a point that are named in an answer.
NAMED_FILES = 100


def _history(
    histories: HistoriesOnDemand, server: str, name: str | None, left: Mapping[str, Json]
) -> Json:
    """Return what is known of a server's history; `name` is None where it is not here.

    `left` are the backups and histories that servers have left, by their places.
    """
    made = histories.made
    known = None if made is None else made.state(server)
    described: Json = {
        "server": server,
        "name": name,
        "every_seconds": histories.config.system.history.terms(server).every if name else 0,
        "late": made is not None and made.is_late(server),
        "left": left.get(history_place(server)),
    }
    figures = {} if known is None else attrs.asdict(known) | {"unsettled": len(known.unsettled)}
    return described | {each: figures.get(each) for each in _FIGURES}


def _paths(paths: Iterable[bytes]) -> list[str]:
    """Return the first of some paths; bytes that are not UTF-8 are escaped."""
    named = islice(filter(None, paths), NAMED_FILES)
    return [each.decode(errors="backslashreplace") for each in named]


def _point(found: PointInfo) -> Json:
    point = found.point
    return {
        "number": point.number,
        "time": point.time / 1e9,
        "label": point.label.name.lower(),
        "files": point.files,
        "bytes": point.size,
        "stored_bytes": found.stored,
        "unsettled": len(point.unsettled),
        "unsettled_files": _paths(point.unsettled),
        "backups": list(found.names),
        "damaged": bool(found.damaged),
        # Empty where nothing of the point can be used.
        "damaged_files": _paths(found.damaged),
    }


def _task(uuid: str, task: HistoryTask | None) -> Json:
    """Return what was last ordered for a history."""
    if task is None:
        return {"server": uuid, "kind": None, "over": True, "error": "", "detail": "", "code": ""}
    error = task.error
    is_known = isinstance(error, WingsdError)
    return {
        "server": uuid,
        "kind": task.kind.value,
        "over": task.is_over,
        "error": "" if error is None else getattr(error, "message", "an unexpected error"),
        "detail": "" if error is None else getattr(error, "detail", "see the log of wingsd"),
        "code": error_code(error) if is_known and error is not None else "",
        "point": None if task.point is None else task.point.number,
        "damaged": {str(number): _paths(files) for number, files in task.damaged.items()},
    }


class HistoryEndpoint(ControlEndpoint):
    """The calls about histories."""

    @property
    def _names(self) -> dict[str, str]:
        """The names of the servers of this node, by their UUIDs; none before they are loaded."""
        servers = self._node.servers
        found = servers.all() if servers.loaded else []
        return {each.uuid: each.configuration.settings.meta.name for each in found}

    @call(200, "The histories.")
    async def list_histories(self) -> Json:
        """Return the histories on this node, also those of servers that are not here any more."""
        histories, names = self._node.histories, self._names
        on = {uuid for uuid in names if histories.config.system.history.terms(uuid).every}
        listed = sorted(on.union(await histories.all()))
        left = await _all_left(self._node, "")
        return {
            "directory": histories.config.system.history.directory,
            "histories": [_history(histories, each, names.get(each), left) for each in listed],
        }

    @call(200, "The history.")
    async def show_history(self) -> Json:
        """Return a server's history with its points, null where it is in use for too long."""
        made, uuid = self._node.histories.get(), self.uuid
        reading = Deferred.fromCoroutine(made.points(uuid))
        points = None
        with suppress(DeferredTimeout):
            found = await reading.addTimeout(TURN_TIMEOUT, self._node.reactor)
            points = [_point(each) for each in found]
        left = await _all_left(self._node, uuid)
        shown = _history(self._node.histories, uuid, self._names.get(uuid), left)
        return shown | {"busy_seconds": made.busy(uuid), "points": points}

    @call(200, "It is begun.", fails=(409,))
    async def make_point(self) -> Json:
        """Begin to make a point of a server's files, or join that."""
        server = self._node.servers.get(self.uuid)
        return _task(self.uuid, self._node.histories.get().begin_make(server))

    @call(200, "It is begun.", fails=(409,))
    async def delete_point(self) -> Json:
        """Begin to remove a point."""
        number = self.part("point")
        if not number.isdecimal():
            raise NoSuchPoint(f"there is no point {number}")
        return _task(self.uuid, self._node.histories.get().begin_delete(self.uuid, int(number)))

    @call(200, "It is begun.", fails=(409,))
    async def delete_history(self) -> Json:
        """Begin to remove a server's history with all its points."""
        return _task(self.uuid, self._node.histories.get().begin_delete(self.uuid, None))

    @call(200, "It is begun.", fails=(409,))
    async def verify_history(self) -> Json:
        """Begin to read all of a history, or join that."""
        return _task(self.uuid, self._node.histories.get().begin_verify(self.uuid))

    @call(200, "How far it is, or how it has ended.")
    async def show_task(self) -> Json:
        """Return what was last ordered for a history: a point, a removal, or a verification."""
        return _task(self.uuid, self._node.histories.get().task(self.uuid))


#: Seconds that a server is expected, by default and at most.
DEFAULT_SECONDS = 3600
MAX_SECONDS = 7 * 24 * 3600
#: Days for which a pair may be made.
MAX_PAIR_DAYS = 366
#: Ended transfers in an answer, by default and at most.
DEFAULT_PAST = 20
MAX_PAST = 10_000


def running_transfer(progress: ProgressReport, now: float) -> Json:
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
        "resumed_bytes": progress.resumed,
        "round": progress.round,
        "predicted_downtime": progress.downtime,
        "follow": _follow(progress.seed, now),
    }


def _follow(seed: SeedFigures | None, now: float) -> Json | None:
    """Return how far a copy is that follows its server; None for another transfer."""
    if seed is None:
        return None
    return {
        "rounds": seed.rounds,
        "changed_bytes": seed.changed,
        "missing_bytes": seed.missing,
        "whole_at": None if seed.age is None else now - seed.age,
        "predicted_downtime": seed.downtime,
        "stop_at": seed.until,
        "trouble": seed.trouble or None,
    }


def unfinished_transfer(entry: TransferRecord, started: float) -> Json:
    """Return a transfer of the database that has not ended and is not in progress.

    It began before this daemon `started` (Unix time), or it is about to end.
    """
    return running_transfer(unfinished_report(entry, started), entry.begun)  # since 0 s then


def unfinished_report(entry: TransferRecord, started: float) -> ProgressReport:
    """Return the progress of such a transfer, as far as it is known."""
    step = (ReceiveStep if entry.direction is Direction.IN else SendStep)[entry.step]
    text = (
        "finding out its result after the restart of this node"
        if entry.begun < started
        else "ending"
    )
    return ProgressReport(
        entry.server, entry.id, step, text, entry.direct, entry.pool, 0.0, 0, 0, 0.0
    )


def ended_transfer(entry: TransferRecord) -> Json:
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
        "downtime": entry.downtime,
    }


_WILDCARDS = {"0.0.0.0", "::", ""}  # noqa: S104 - compared with the configured address


def reachable_at(config: Config, listens: str) -> tuple[str, bool]:
    """Return the URL by which other nodes reach this one, and whether it is configured.

    `listens` is the URL of the listening socket. Without `api.public_url` the URL is a guess: from
    the first name in the certificate, the address of the socket, or the host name. Blocking.
    """
    if config.api.public_url:
        return config.api.public_url.rstrip("/"), True
    parts = urlsplit(listens)
    host = _certificate_name(config) or parts.hostname or ""
    if host in _WILDCARDS:
        host = platform.node()
    if ":" in host:
        host = f"[{host}]"
    return f"{parts.scheme}://{host}:{parts.port or config.api.port}", False


def _certificate_name(config: Config) -> str:
    if not config.api.ssl.enabled:
        return ""
    with suppress(OSError, ValueError, x509.ExtensionNotFound):
        certificate = x509.load_pem_x509_certificate(Path(config.api.ssl.cert).read_bytes())
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = extension.value.get_values_for_type(x509.DNSName)
        addresses = map(str, extension.value.get_values_for_type(x509.IPAddress))
        return next((name for name in (*names, *addresses) if "*" not in name), "")
    return ""


@attrs.frozen(eq=False, repr=False)
class ExpectedServer:
    """A server that is to be received. `settings` are in the form of a Panel's answer.

    With `follow` a copy may be kept up to date here before.
    """

    server: str
    settings: dict[str, Any] | None = None
    addresses: tuple[str, ...] = ()
    seconds: int = DEFAULT_SECONDS
    follow: bool = False


@attrs.frozen(eq=False, repr=False)
class SendRequest:
    """A server that is to be sent to the node at `url`; `remove` deletes it here afterwards.

    With `follow` a copy is kept up to date there, until a transfer is ordered; or until `stop_at`,
    in seconds since the epoch: then the server is sent.
    """

    server: str
    url: str
    token: str = attrs.field(repr=False)
    settings: dict[str, Any] | None = None
    remove: bool = False
    follow: bool = False
    stop_at: float | None = None


def _uuid(text: str) -> str:
    refusal = BadRequest("a server is identified by its UUID", f"{text!r} is not a UUID")
    return require_uuid(text, refusal)


@attrs.frozen(eq=False, repr=False)
class PastQuery:
    """How many ended transfers to return. A string, so that the handler words the error."""

    past: str = ""


class ControlTransfersEndpoint(ControlEndpoint):
    """The calls about transfers, and the names of servers."""

    @call(201, "The server is expected.")
    async def expect_server(self, body: ExpectedServer) -> Json:
        """Expect a server; return the token and the address for its source."""
        server = _uuid(body.server)
        if not 0 < body.seconds <= MAX_SECONDS:
            raise BadRequest("seconds is out of range", f"expected 1 to {MAX_SECONDS}, a week")
        after = await self._last_transfer(server)
        invitation = await self._node.direct_transfers.expect(
            server,
            seconds=body.seconds,
            description=body.settings,
            addresses=body.addresses,
            follow=body.follow,
        )
        url, certain = await self._node.disk.run(reachable_at, self._config, self._node.address())
        return {
            "server": server,
            "url": url,
            "url_is_certain": certain,
            "token": invitation.token,
            "expires": invitation.expires,
            "after": after,
        }

    @call(202, "The transfer has started.")
    async def begin_sending(self, body: SendRequest) -> Json:
        """Start to send a server; its progress is at `/v1/transfers/{uuid}`."""
        server = _uuid(body.server)
        if body.stop_at is not None and not body.follow:
            raise BadRequest("stop_at needs follow", "without it the server is sent at once")
        after = await self._last_transfer(server)
        await self._node.direct_transfers.send(
            server,
            body.url,
            body.token,
            description=body.settings,
            remove=body.remove,
            seed=SeedOrder(body.stop_at) if body.follow else None,
        )
        # Those stay there of which nothing tells whose they are.
        backups = self._config.system.backup_directory
        return {"server": server, "after": after, "backups_stay_in": backups}

    async def _last_transfer(self, server: str) -> int:
        """Return the number of a server's last transfer; 0 without one. Numbers ascend."""
        last = await self._node.database.ended(1, server)
        return last[0].id if last else 0

    async def running(self) -> list[Json]:
        """Return the transfers in progress, the oldest first.

        One that ends meanwhile is in `past`, when that is called afterwards.
        """
        # Read first: a transfer that begins meanwhile is in `progress`.
        unfinished = await self._node.database.unfinished()
        now = self._node.now()
        found = [
            running_transfer(each, now)
            for each in (*self._node.receiver.progress, *self._node.sender.progress)
        ]
        shown = {each["server"] for each in found}
        found += [
            unfinished_transfer(entry, self._node.started)
            for entry in unfinished
            if entry.server not in shown
        ]
        return sorted(found, key=lambda each: float(each["begun"]))

    def expected(self) -> list[Json]:
        """Return the servers that direct transfers may bring."""
        expected = self._node.direct_transfers.expected
        return [{"server": uuid, "expires": until} for uuid, until in expected.items()]

    async def past(self, most: int, server: str | None = None) -> list[Json]:
        """Return the last transfers that have ended, of all servers or of one."""
        return [ended_transfer(entry) for entry in await self._node.database.ended(most, server)]

    @call(200, "The transfers.")
    async def list_transfers(self, query: PastQuery) -> Json:
        """Return the transfers in progress, the expected ones, and the last that have ended.

        What is kept of failed moves has the oldest first. Raises `StorageError`.
        """
        most = _number(query.past)
        return {
            "running": await self.running(),
            "expected": self.expected(),
            "kept": [
                {"server": each.server, "bytes": each.bytes, "since": each.since}
                for each in await self._node.long.run(self._node.partial_copies.kept)
            ],
            "past": await self.past(most),
        }

    @call(204, "It is removed.")
    async def forget_kept(self) -> None:
        """Remove what is kept of a server, or the copy that follows it.

        Raises `ServerNotFound`, `StorageError`.
        """
        server = self.uuid
        if self._node.receiver.forget(server):
            return
        if not await self._node.long.run(self._forget, server):
            raise ServerNotFound(
                "nothing is kept of this server",
                "wingsctl transfers lists what is kept of moves that have failed",
            )

    def _forget(self, server: str) -> int:
        found = self._node.partial_copies.forget(server)
        if found:
            self._node.received_backups.discard(server)
        return found

    @call(200, "The servers.")
    async def list_servers(self) -> Json:
        """Return the UUID and the name of each server. Raises `ServersNotLoaded`."""
        return {
            "servers": [
                {"server": each.uuid, "name": each.configuration.settings.meta.name}
                for each in self._node.servers.all()
            ]
        }

    @call(200, "Its transfers.")
    async def show_transfers(self) -> Json:
        """Return all that is known of a server's transfers. Raises `ServerNotFound`."""
        uuid = self.uuid
        answer: Json = {
            "server": self._server(uuid),
            "running": _only(await self.running(), uuid),
            "expected": _only(self.expected(), uuid),
            "past": await self.past(MAX_PAST, uuid),
            "reports_waiting": [
                {
                    "server": uuid,
                    "outcome": each.outcome.value,
                    "since": each.created,
                    "attempts": each.attempts,
                    "answer": each.answer,
                }
                for each in await self._node.database.unsettled()
                if each.server == uuid
            ],
        }
        if not any(answer.values()):
            raise ServerNotFound(
                "this node has no such server, and no transfer of it",
                "wingsctl transfers lists the transfers of the last 90 days",
            )
        return {"uuid": uuid} | answer

    @call(202, "The transfer is being cancelled.")
    async def cancel_transfer(self) -> None:
        """Cancel a server's transfer, or stop expecting it. Raises `Conflict`."""
        server = self.uuid
        for transfers in (self._node.sender, self._node.receiver):
            with suppress(Conflict):
                transfers.cancel(server)
                return
        if not self._node.direct_transfers.cancel(server):
            raise TransferNotActive(
                "this server has no transfer that can be cancelled",
                "none is under way or expected here, or its success was reported already; "
                "wingsctl transfers lists them",
            )

    def _server(self, uuid: str) -> Json | None:
        try:
            server = self._node.servers.get(uuid)
        except (ServersNotLoaded, ServerNotFound):
            return None
        server.files.measure_if_stale()
        return {
            "name": server.configuration.settings.meta.name,
            "state": server.state.value,
            "hold": server.hold,
            "by_hand": server.moved_directly,
            "disk_bytes": server.disk_bytes,
        }


def _only(found: list[Json], uuid: str) -> Json | None:
    return next((each for each in found if each["server"] == uuid), None)


def _number(text: str) -> int:
    try:
        number = int(text or DEFAULT_PAST)
    except ValueError:
        number = -1
    if not 0 <= number <= MAX_PAST:
        raise BadRequest("past is out of range", f"expected a number from 0 to {MAX_PAST}")
    return number


def _maintenance(node: NodeContext) -> Json | None:
    found = node.receiver.maintenance
    return None if found is None else {"since": found.since, "why": found.why}


@attrs.frozen(eq=False, repr=False)
class NewPair:
    """A pair by which another node may send copies here; without `bytes`, as much as is free."""

    name: str = ""
    days: int = 30
    bytes: int = 0
    servers: int = 100


@attrs.frozen(eq=False, repr=False)
class AcceptedPair:
    """A pair that the node at `url` has made."""

    url: str
    key: str = attrs.field(repr=False)


@attrs.frozen(eq=False, repr=False)
class PairQuery:
    """Which pair of two that have one name: `in` or `out`."""

    direction: str = ""


class ControlPairsEndpoint(ControlEndpoint):
    """The calls about pairs with other nodes."""

    @call(201, "The pair is made.")
    async def create_pair(self, body: NewPair) -> Json:
        """Make a pair; return the key and the address for its source."""
        node, free = self._node, body.bytes
        if not (0 < body.days <= MAX_PAIR_DAYS and body.servers > 0 and body.bytes >= 0):
            raise BadRequest(
                "days, servers or bytes is out of range",
                f"expected 1 to {MAX_PAIR_DAYS} days, and a server at least",
            )
        if not free:  # what is kept of moves stays
            copies = node.partial_copies
            _, free = await node.long.run(copies.free)
            free = max(free - await node.long.run(copies.kept_bytes), 1)
        record, key = await node.pairs.create(body.name, body.days, free, body.servers)
        url, certain = await node.disk.run(reachable_at, self._config, node.address())
        return {
            "name": record.name,
            "url": url,
            "url_is_certain": certain,
            "key": key,
            "expires": record.expires,
            "bytes": record.bytes,
            "servers": record.servers,
        }

    @call(201, "This node is the source of the pair.")
    async def accept_pair(self, body: AcceptedPair) -> Json:
        """Become the source of a pair of another node, which is asked about it."""
        node = self._node
        own, _ = await node.disk.run(reachable_at, self._config, node.address())
        name = urlsplit(own).netloc
        return _pair(await node.pairs.accept(body.url, body.key, name))

    @call(200, "The pairs.")
    async def list_pairs(self) -> Json:
        """Return the pairs in both directions, and what is used of those by which copies come."""
        uses = list(self._node.pairs.receiving.values())
        for use in uses:
            await use.refresh()
        found = [
            _pair(use.record) | {"used_bytes": use.bytes, "used_servers": len(use.servers)}
            for use in uses
        ]
        return {"pairs": found + [_pair(each) for each in self._node.pairs.sending.values()]}

    @call(204, "It has ended.")
    async def revoke_pair(self, query: PairQuery) -> None:
        """End a pair, and the copies that follow servers by it."""
        node, name = self._node, self.part("pair")
        try:
            direction = Direction(query.direction) if query.direction else None
        except ValueError:
            raise BadRequest("the direction is invalid", "expected in or out") from None
        direction = node.pairs.direction(name, direction)
        if direction is Direction.OUT:
            await node.wanted_seeds.end_all(name)
        await node.pairs.revoke(name, direction)

    @call(200, "The facts.")
    async def ask_pair(self, body: PairQuestion) -> Json:
        """Ask the destination of a pair about itself."""
        node = self._node
        own, _ = await node.disk.run(reachable_at, self._config, node.address())
        asked = attrs.asdict(attrs.evolve(body, name=urlsplit(own).netloc))
        return await node.pairs.facts(self.part("pair"), asked)


def _pair(record: PairRecord) -> Json:
    return {
        "name": record.name,
        "direction": record.direction.value,
        "peer": record.peer,
        "url": record.url,
        "created": record.created,
        "expires": record.expires,
        "used": record.used,
        "bytes": record.bytes,
        "servers": record.servers,
        "used_bytes": 0,
        "used_servers": 0,
    }


@attrs.frozen(eq=False, repr=False)
class SeedsRequest:
    """The servers of which copies are to follow them by a pair; so many first rounds `at_once`."""

    pair: str
    servers: tuple[str, ...]
    at_once: int = 4


@attrs.frozen(eq=False, repr=False)
class SinceQuery:
    """From which time on ended transfers are returned, in seconds since the epoch."""

    since: str = ""


@attrs.frozen(eq=False, repr=False)
class MaintenanceReason:
    """Why the node takes no servers, for those who are refused."""

    why: str = ""


#: The phases of an order by its steps; in any other the server is down for its move, if it ran.
_PHASES: dict[ReceiveStep | SendStep, str] = {
    SendStep.WAIT: "waiting",
    SendStep.ASK: "moving",
    SendStep.FOLLOW: "moving",
    SendStep.AWAIT: "deciding",
    SendStep.SETTLE: "deciding",
    SendStep.DONE: "moved",
    SendStep.FAILED: "failed",
}


class EvacuationEndpoint(ControlEndpoint):
    """The calls by which all servers of a node are moved to others, and its maintenance."""

    @call(202, "Copies of them follow, each in its turn.")
    async def want_seeds(self, body: SeedsRequest) -> Json:
        """Send copies of servers, which follow them, to the destination of a pair."""
        if body.at_once < 1:
            raise BadRequest("at_once is out of range", "expected 1 or more")
        wanted = self._node.wanted_seeds
        await wanted.want(body.pair, [_uuid(each) for each in body.servers], body.at_once)
        return {"wanted": sorted(wanted.wanted)}

    @call(204, "It ends.")
    async def end_seed(self) -> None:
        """End the copy of a server that is wanted by a pair."""
        await self._node.wanted_seeds.end(self.uuid)

    @call(204, "They end.")
    async def end_seeds(self) -> None:
        """End all copies that are wanted by pairs."""
        await self._node.wanted_seeds.end_all()

    @call(200, "The servers and their moves.")
    async def show_evacuation(self, query: SinceQuery) -> Json:
        """Return what a command needs that moves all servers: the servers, copies and orders."""
        node, now = self._node, self._node.now()
        try:
            since = float(query.since or now)
        except ValueError:
            raise BadRequest("since is invalid", "expected seconds since the epoch") from None
        # Read first: one that begins meanwhile is in `progress`, and one that ends in both.
        unfinished = await node.database.unfinished()
        under_way = {
            each.server: unfinished_report(each, node.started)
            for each in unfinished
            if each.direction is Direction.OUT and not each.direct
        } | {each.server: each for each in node.sender.progress}
        ended = await node.database.sent_since(since)
        config = self._config
        return {
            "now": now,
            "node": {"uuid": config.uuid, "family": config.family, "panel": config.remote},
            "last_transfer": await node.database.last_number(),
            "maintenance": _maintenance(node),
            "reported": node.evacuation.shown(),
            "servers": [
                self._evacuated(each, under_way.get(each.uuid)) for each in node.servers.all()
            ],
            "ended": [ended_transfer(each) for each in ended],
        }

    def _evacuated(self, server: Server, progress: ProgressReport | None) -> Json:
        """Return what is known of a server, of its copy and of its transfer."""
        node, settings = self._node, server.configuration.settings
        server.files.measure_if_stale()
        figures = node.sender.parts.known_figures(server.uuid)
        build, allocations = settings.build, settings.allocations
        addresses = [(allocations.default.ip, allocations.default.port)]
        for ip, ports in allocations.mappings.items():
            addresses += [(ip, port) for port in ports if (ip, port) not in addresses]
        order = None if progress is None or progress.is_direct else progress
        return {
            "server": server.uuid,
            "name": settings.meta.name,
            "state": server.state.value,
            "suspended": server.suspended,
            "hold": server.hold,
            "busy": [each.value for each in Operation if server.operations.runs(each)],
            "disk_bytes": server.disk_bytes,
            "files": None if figures is None else figures["files"],
            "restart_seconds": server.restart_seconds,
            "image": settings.container.image,
            "mounts": [each.source for each in settings.mounts],
            "addresses": [f"{ip}:{port}" for ip, port in addresses if port],
            "memory_mib": build.memory_limit,
            "swap_mib": build.swap,
            "disk_mib": build.disk_space,
            "cpu_percent": build.cpu_limit,
            "seed": self._seed(server.uuid, progress),
            "order": None if order is None else self._order(order),
        }

    def _seed(self, server: str, progress: ProgressReport | None) -> Json | None:
        """Return how far the copy of a server is that is wanted by a pair."""
        node, wanted = self._node, self._node.wanted_seeds
        row = wanted.wanted.get(server)
        if row is None:
            return None
        follows = progress is not None and progress.is_direct
        found = running_transfer(progress, node.now()) if progress and follows else {}
        figures = found.get("follow") or {}
        trouble = figures.get("trouble") or wanted.trouble(server)
        if trouble:
            state = "trouble"
        elif not follows:
            state = "queued"
        else:
            state = "sending" if figures.get("whole_at") is None else "following"
        return {
            "pair": row.pair,
            "state": state,
            "bytes": found.get("bytes", 0),
            "total_bytes": found.get("total_bytes"),
            "bytes_per_second": found.get("bytes_per_second", 0.0),
            "rounds": 0,
            "changed_bytes": 0,
            "missing_bytes": None,
            "whole_at": None,
            "predicted_downtime": None,
            **figures,
            "trouble": trouble,
        }

    def _order(self, progress: ProgressReport) -> Json:
        phase = _PHASES.get(progress.step, "down")
        waits = phase == "waiting"
        return running_transfer(progress, self._node.now()) | {
            "phase": "moving" if phase == "down" and progress.was_off else phase,
            "waits_for": progress.step_text if waits else "",
            "waits_until": progress.until if waits else None,
        }

    @call(204, "It is shown.")
    async def report_evacuation(self, body: EvacuationReport) -> None:
        """Report how far a command is that moves all servers, for the status and metrics."""
        try:
            self._node.evacuation.report(body)
        except InvalidData as error:
            raise BadRequest("the report is invalid", str(error)) from error

    @call(204, "It is not shown any more.")
    async def forget_evacuation(self) -> None:
        """Forget what such a command has reported."""
        self._node.evacuation.report(None)

    @call(200, "Since when it takes none.")
    async def show_maintenance(self) -> Json:
        """Return since when the node takes no servers, and why."""
        return _maintenance(self._node) or {"since": None, "why": ""}

    @call(204, "It takes none.")
    async def begin_maintenance(self, body: MaintenanceReason) -> None:
        """Take no servers from now on, also after restarts: none is created, and none arrives."""
        await self._set_maintenance(body.why[:200])

    @call(204, "It takes servers.")
    async def end_maintenance(self) -> None:
        """Take servers again."""
        await self._set_maintenance(None)

    async def _set_maintenance(self, why: str | None) -> None:
        node = self._node
        await node.database.set_maintenance(why)
        node.receiver.maintenance = await node.database.maintenance()
        self._log.info(
            "maintenance: {state}", state="off" if why is None else f"on {why}".rstrip()
        )


#: Paths that an answer about a rewind has, at most.
MAX_PATHS = 1000


@attrs.frozen(repr=False)
class RewindOrder:
    """The point to which a server is rewound: one by its number, or the newest one at a time.

    `at` is in seconds since the epoch. With `undo` the last rewind of the server is undone. With
    `dry_run` nothing is changed, and the answers tell what would be. With `skip_damaged` files
    stay as they are that are damaged in the history.
    """

    point: int | None = None
    at: float | None = None
    undo: bool = False
    dry_run: bool = False
    skip_damaged: bool = False


class RewindsEndpoint(ControlEndpoint):
    """The calls about rewinds of servers to points of their histories."""

    @call(202, "It is under way.", fails=(409,))
    async def begin_rewind(self, body: RewindOrder) -> Json:
        """Rewind a server, in the background."""
        if sum((body.point is not None, body.at is not None, body.undo)) != 1:
            raise BadRequest("the request is invalid", "expected one of point, at and undo")
        server, rewinds = self._node.servers.get(self.uuid), self._node.rewinds.get()
        begun = await rewinds.begin(
            server,
            body.point,
            is_dry_run=body.dry_run,
            at=body.at,
            skips_damaged=body.skip_damaged,
        )
        return _rewind(begun)

    @call(200, "How far it is, or how it has ended.", fails=(409,))
    async def show_rewind(self) -> Json:
        """Return the rewind of a server that is under way, or was the last one."""
        return _rewind(self._node.rewinds.get().last(self.uuid))

    @call(200, "How it has ended.", fails=(409,))
    async def cancel_rewind(self) -> Json:
        """Cancel a rewind whose exchange has not begun, or cannot be completed."""
        return _rewind(await self._node.rewinds.get().cancel(self.uuid))


def _rewind(rewind: Rewind) -> Json:
    found, error = rewind.found, rewind.error
    return {
        "server": rewind.server.uuid,
        "point": rewind.point,
        "time": rewind.time,
        "dry_run": rewind.is_dry_run,
        "state": rewind.state.value,
        "changes": None if found is None else found.entries,
        "bytes": None if found is None else found.size,
        "paths": [] if found is None else _changed(found.paths),
        "prepared_bytes": rewind.prepared,
        "seconds_off": rewind.seconds_off,
        "restart_seconds": rewind.server.restart_seconds,
        "undo": rewind.undo,
        "differing": _changed(rewind.differing),
        "unsettled": _changed(rewind.unsettled),
        "unreadable": _changed(rewind.lost),
        "damaged": [] if found is None else _changed(found.damaged),
        "kept": [] if found is None else _changed(found.kept),
        "error": "" if error is None else str(error),
        "code": "" if error is None else error.code,
    }


def _changed(paths: Sequence[bytes]) -> list[str]:
    return [path.decode(errors="backslashreplace") for path in paths[:MAX_PATHS]]


_route = partial(Route, families=(), access=Access.CONTROL)
#: The routes of the control socket.
ROUTES = (
    _route("GET", "/v1/status", StatusEndpoint.get_status),
    _route("GET", "/v1/top", StatusEndpoint.get_top),
    _route("GET", "/v1/diagnostics", StatusEndpoint.get_diagnostics),
    _route("GET", "/v1/backups", ControlBackupsEndpoint.list_backups),
    _route("POST", "/v1/backups/{backup}/send", ControlBackupsEndpoint.send_left),
    _route("POST", "/v1/backups/{backup}/keep", ControlBackupsEndpoint.keep_left),
    _route("DELETE", "/v1/backups/{backup}", ControlBackupsEndpoint.delete_left),
    _route("POST", "/v1/backups/{backup}/verify", ControlBackupsEndpoint.begin_check),
    _route("GET", "/v1/backups/{backup}/verify", ControlBackupsEndpoint.show_check),
    _route("POST", "/v1/backups/{backup}/for-wings", ControlBackupsEndpoint.begin_rewrite),
    _route("GET", "/v1/backups/{backup}/for-wings", ControlBackupsEndpoint.show_rewrite),
    _route("GET", "/v1/history", HistoryEndpoint.list_histories),
    _route("GET", "/v1/history/{uuid}", HistoryEndpoint.show_history),
    _route("POST", "/v1/history/{uuid}", HistoryEndpoint.make_point),
    _route("DELETE", "/v1/history/{uuid}", HistoryEndpoint.delete_history),
    _route("GET", "/v1/history/{uuid}/task", HistoryEndpoint.show_task),
    _route("POST", "/v1/history/{uuid}/verify", HistoryEndpoint.verify_history),
    _route("DELETE", "/v1/history/{uuid}/points/{point}", HistoryEndpoint.delete_point),
    _route("POST", "/v1/rewinds/{uuid}", RewindsEndpoint.begin_rewind),
    _route("GET", "/v1/rewinds/{uuid}", RewindsEndpoint.show_rewind),
    _route("DELETE", "/v1/rewinds/{uuid}", RewindsEndpoint.cancel_rewind),
    _route("GET", "/v1/servers", ControlTransfersEndpoint.list_servers),
    _route("GET", "/v1/transfers", ControlTransfersEndpoint.list_transfers),
    _route("GET", "/v1/transfers/{uuid}", ControlTransfersEndpoint.show_transfers),
    _route("DELETE", "/v1/transfers/{uuid}", ControlTransfersEndpoint.cancel_transfer),
    _route("DELETE", "/v1/kept/{uuid}", ControlTransfersEndpoint.forget_kept),
    _route("POST", "/v1/receive", ControlTransfersEndpoint.expect_server),
    _route("POST", "/v1/send", ControlTransfersEndpoint.begin_sending),
    _route("GET", "/v1/pairs", ControlPairsEndpoint.list_pairs),
    _route("POST", "/v1/pairs", ControlPairsEndpoint.create_pair),
    _route("POST", "/v1/pairs/accept", ControlPairsEndpoint.accept_pair),
    _route("DELETE", "/v1/pairs/{pair}", ControlPairsEndpoint.revoke_pair),
    _route("POST", "/v1/pairs/{pair}/facts", ControlPairsEndpoint.ask_pair),
    _route("POST", "/v1/seeds", EvacuationEndpoint.want_seeds),
    _route("DELETE", "/v1/seeds", EvacuationEndpoint.end_seeds),
    _route("DELETE", "/v1/seeds/{uuid}", EvacuationEndpoint.end_seed),
    _route("GET", "/v1/evacuation", EvacuationEndpoint.show_evacuation),
    _route("PUT", "/v1/evacuation", EvacuationEndpoint.report_evacuation),
    _route("DELETE", "/v1/evacuation", EvacuationEndpoint.forget_evacuation),
    _route("GET", "/v1/maintenance", EvacuationEndpoint.show_maintenance),
    _route("PUT", "/v1/maintenance", EvacuationEndpoint.begin_maintenance),
    _route("DELETE", "/v1/maintenance", EvacuationEndpoint.end_maintenance),
)

#: The owner and the group may open the socket.
MODE = 0o660
#: Seconds that a client may take for a request.
TIMEOUT = 30
#: Seconds that clients have at the end to read the last answers.
DRAIN_TIMEOUT = 1.0


class ControlListener:
    """Listens on the control socket of a node."""

    _log = Logger()

    def __init__(self, settings: Control, node: NodeContext) -> None:
        self._settings = settings
        self._reactor = node.reactor
        paths = root(node, calls_by_path(ROUTES))
        self._site: Any = NodeSite(paths, reactor=node.reactor, timeout=TIMEOUT)
        self._port: IListeningPort | None = None

    def open(self) -> None:
        """Listen. An error is logged with its remedy; the daemon runs without the socket."""
        path = self._settings.socket
        if not path:
            self._log.info("no control socket: control.socket is empty")
            return
        try:
            _remove_stale(path)
            # Twisted logs that it listens before it tries to.
            with socket.socket(socket.AF_UNIX) as trial:
                trial.bind(path)
            os.unlink(path)
            port = self._reactor.listenUNIX(path, self._site, mode=MODE)
        except (OSError, CannotListenError) as error:
            self._log.warn(
                "no control socket at {path}, wingsctl cannot be used: {reason}",
                path=path,
                reason=_reason(error, path),
            )
            return
        limit_accepts(port, self._reactor)
        self._port = port
        self._give_to_group(path)
        self._log.info("control socket for wingsctl: {path}", path=path)

    async def close(self) -> None:
        """Stop listening and close all connections."""
        port, self._port = self._port, None
        if port is not None:
            await maybeDeferred(port.stopListening)
            await self._site.drain(DRAIN_TIMEOUT)

    def _give_to_group(self, path: str) -> None:
        group = self._settings.group
        if not group:
            return
        try:
            os.chown(path, -1, grp.getgrnam(group).gr_gid)
        except (KeyError, OSError) as error:
            reason = "there is no such group" if isinstance(error, KeyError) else error
            self._log.warn(
                "the control socket was not given to the group {group}, it keeps the daemon's own "
                "group: {reason}",
                group=group,
                reason=reason,
            )


def _remove_stale(path: str) -> None:
    """Remove a socket that no process listens on. Raises `OSError`."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError("it exists and is not a socket; move it away")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # The queue of a process that listens is full.
    raise FileExistsError("another daemon listens on it; set another path as control.socket")


def _reason(error: OSError | CannotListenError, path: str) -> str:
    cause: Any = error.socketError if isinstance(error, CannotListenError) else error
    directory = os.path.dirname(path)
    match cause:
        case FileNotFoundError() | NotADirectoryError():
            return (
                f"there is no directory {directory}; create it (in a systemd unit with "
                "RuntimeDirectory=), or set another path as control.socket, or an empty one"
            )
        case PermissionError():
            return f"no permission to write to {directory}; it must belong to the daemon's user"
        case OSError():
            return cause.strerror or str(cause)
    return str(cause)
