"""`/v1/status` and `/v1/diagnostics`; for all paths of the control socket their base class, and
transfers as JSON.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Coroutine
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.defer import TimeoutError as DeferredTimeout

from wingsd import __version__
from wingsd.api.node import DiagnosticsQuery, report_options
from wingsd.api.resource import Endpoint
from wingsd.config import Config
from wingsd.errors import PanelRefused, ServersNotLoaded, WingsdError
from wingsd.http.operations import Access, Success, Topic, call
from wingsd.http.request import StreamingRequest
from wingsd.servers import PowerState
from wingsd.statedb.records import Direction, Report, TransferRecord
from wingsd.transfers.step_log import ProgressReport, SeedFigures
from wingsd.transfers.steps import ReceiveStep, SendStep

__all__ = [
    "ControlDiagnosticsEndpoint",
    "ControlEndpoint",
    "Json",
    "StatusEndpoint",
    "ended_transfer",
    "reachable_at",
    "running_transfer",
    "unfinished_transfer",
    "waiting_report",
]

Json = dict[str, Any]


class ControlEndpoint(Endpoint):
    """A path of the control socket. The mode of the socket limits who can call it."""

    def authorize(self, request: StreamingRequest, access: Access) -> None:
        """Accept every client."""


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
        "resumed_bytes": 0,
        "round": None,
        "predicted_downtime": None,
        "follow": None,
    }


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
    }


def waiting_report(waiting: Report) -> Json:
    """Return a report that the Panel has not confirmed yet."""
    return {
        "server": waiting.server,
        "outcome": waiting.outcome.value,
        "since": waiting.created,
        "attempts": waiting.attempts,
        "answer": waiting.answer,
    }


#: Seconds that the Panel and the engine have to answer.
PROBE_TIMEOUT = 3.0

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


class StatusEndpoint(ControlEndpoint):
    """`/v1/status`."""

    topic = Topic.NODE

    @call("GET", Success(HTTPStatus.OK, "The status."))
    async def get_status(self, request: StreamingRequest) -> Json:
        """Return the status of the node. Takes a few seconds at most."""
        probed = await self._probe()
        counts = self._counts()
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime_seconds": self._node.reactor.seconds() - self._node.begun,
            "address": self._node.address(),
            "panel": probed["panel"],
            "engine": probed["engine"],
            "containers_without_server": probed["orphans"],
            **counts,
            "disks": probed["disks"],
            "limits": self._limits(),
        }

    def _limits(self) -> Json:
        transfers = self._config.system.transfers
        return {
            "download_mib_per_second": max(transfers.download_limit, 0) or None,
            "upload_mib_per_second": transfers.upload_limit or None,
            "concurrent": transfers.concurrent,
            "waiting": transfers.waiting,
            "disk_reserve_mib": transfers.disk_reserve,
        }

    async def _probe(self) -> Json:
        """Return the answers by the keys of the status."""
        directories = {
            "servers": self._config.system.data,
            "arriving": self._node.staging.path,  # known since the start
            "journal": self._config.system.root_directory,
        }
        probes: list[Deferred[Any]] = [
            Deferred.fromCoroutine(self._ask_panel()),
            Deferred.fromCoroutine(self._ask_engine()),
            Deferred.fromCoroutine(self._orphaned()),
            self._node.disk.run(_disks, directories),
        ]
        panel, engine, orphans, disks = await gatherResults(probes, consumeErrors=True)
        return {"panel": panel, "engine": engine, "orphans": orphans, "disks": disks}

    async def _ask_panel(self) -> Json:
        reachable, detail, code = True, "", ""
        try:
            await self._with_timeout(self._node.panel.greet())
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

            async def asked() -> Any:
                return await ask()

            try:
                version = (await self._with_timeout(asked())).version
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

    async def _with_timeout(self, asking: Coroutine[Any, Any, Any]) -> Any:
        answer = Deferred.fromCoroutine(asking)
        try:
            return await answer.addTimeout(PROBE_TIMEOUT, self._node.reactor)
        except (DeferredTimeout, CancelledError) as error:
            raise WingsdError("no answer", f"no answer within {PROBE_TIMEOUT:g} s") from error

    def _counts(self) -> Json:
        """Return the numbers by the keys of the status."""
        return {
            "servers": self._count_servers(),
            "transfers": {
                "receiving": len(self._node.receiver.servers),
                "sending": len(self._node.sender.servers),
                "expected": len(self._node.direct_transfers.incoming.expected),
            },
            "reports_waiting": self._node.callbacks.depth,
        }

    def _count_servers(self) -> Json:
        try:
            servers = self._node.servers.all()
        except ServersNotLoaded:
            return {"loaded": False, "count": None, "running": None}
        running = [server for server in servers if server.state is not PowerState.OFFLINE]
        return {"loaded": True, "count": len(servers), "running": len(running)}


def _disks(directories: dict[str, str]) -> list[Json]:
    """Return size and free space of the filesystems of directories, or the error."""
    found = []
    for purpose, path in directories.items():
        disk: Json = {"purpose": purpose, "path": path, "free_bytes": None, "total_bytes": None}
        try:
            stat = os.statvfs(path)
        except OSError as error:
            disk["error"] = error.strerror or str(error)
        else:
            disk["error"] = ""
            disk["free_bytes"] = stat.f_bavail * stat.f_frsize
            disk["total_bytes"] = stat.f_blocks * stat.f_frsize
        found.append(disk)
    return found


class ControlDiagnosticsEndpoint(ControlEndpoint):
    """`/v1/diagnostics`."""

    topic = Topic.NODE

    @call("GET", Success(HTTPStatus.OK, "The report."))
    async def get_diagnostics(self, request: StreamingRequest, query: DiagnosticsQuery) -> Json:
        """Return the report as text."""
        return {"report": await self._node.diagnostics.report(report_options(query))}
