"""The node's status: what it can reach, what it has room for, what it is allowed."""

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
from wingsd.config import Config
from wingsd.control.resource import ControlContext, ControlEndpoint
from wingsd.errors import ServersNotLoaded, WingsdError
from wingsd.http.operations import Success, Topic, call
from wingsd.http.request import StreamingRequest
from wingsd.panel.errors import PanelRefused
from wingsd.servers import PowerState

__all__ = ["StatusEndpoint", "reachable_at"]

_ANY = {"0.0.0.0", "::", ""}  # noqa: S104 - what is configured is looked at


def reachable_at(config: Config, listens: str) -> tuple[str, bool]:
    """Return an address of this node, which `listens` at that URL, and whether it is certain.

    It is that of `api.public_url`, or else a guess: by the certificate's first name, the address
    it listens at, or the machine's name. Blocking: it reads the certificate.
    """
    if config.api.public_url:
        return config.api.public_url.rstrip("/"), True
    parts = urlsplit(listens)
    host = _certified(config) or parts.hostname or ""
    if host in _ANY:
        host = platform.node()
    if ":" in host:
        host = f"[{host}]"
    return f"{parts.scheme}://{host}:{parts.port or config.api.port}", False


def _certified(config: Config) -> str:
    if not config.api.ssl.enabled:
        return ""
    with suppress(OSError, ValueError, x509.ExtensionNotFound):
        certificate = x509.load_pem_x509_certificate(Path(config.api.ssl.cert).read_bytes())
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = extension.value.get_values_for_type(x509.DNSName)
        addresses = map(str, extension.value.get_values_for_type(x509.IPAddress))
        return next((name for name in (*names, *addresses) if "*" not in name), "")
    return ""


#: Seconds that the Panel, and the engine, have to answer.
WITHIN = 3.0

Json = dict[str, Any]


class StatusEndpoint(ControlEndpoint):
    """`status`."""

    topic = Topic.NODE

    @call("GET", Success(HTTPStatus.OK, "It is told."))
    async def get_status(self, request: StreamingRequest) -> Json:
        """Tell how the node is; takes a few seconds at most."""
        return await _Survey(self.rooms).gather()


class _Survey:
    """One look at the node whose `rooms` these are."""

    def __init__(self, rooms: ControlContext) -> None:
        self._rooms = rooms

    async def gather(self) -> Json:
        rooms = self._rooms
        asking: list[Deferred[Any]] = [
            Deferred.fromCoroutine(self._panel()),
            Deferred.fromCoroutine(self._engine()),
            rooms.disk.run(_disks, self._places()),
        ]
        panel, engine, disks = await gatherResults(asking, consumeErrors=True)
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime_seconds": rooms.reactor.seconds() - rooms.started,
            "address": rooms.address(),
            "panel": panel,
            "engine": engine,
            "servers": self._servers(),
            "transfers": {
                "receiving": len(rooms.services.receiver.servers),
                "sending": len(rooms.services.sender.servers),
                "expected": len(rooms.services.by_hand.arrivals.expected),
            },
            "reports_waiting": rooms.outbox.depth,
            "disks": disks,
            "limits": self._limits(),
        }

    async def _panel(self) -> Json:
        panel = self._rooms.panel
        answers, why, code = True, "", ""
        try:
            await self._in_time(panel.greet())
        except WingsdError as error:
            answers, why, code = isinstance(error, PanelRefused), error.detail, error.code
        return {
            "url": self._rooms.services.config.remote,
            "reachable": answers,
            "error": why,
            "code": code,
            "last_heard": panel.heard,
        }

    async def _engine(self) -> Json:
        ask = self._rooms.services.engine
        version, why, code = "", "", ""
        if ask is not None:
            try:
                version = (await self._in_time(_asked(ask))).version
            except WingsdError as error:
                why, code = error.detail, error.code
        return {"enabled": ask is not None, "version": version, "error": why, "code": code}

    async def _in_time(self, asking: Coroutine[Any, Any, Any]) -> Any:
        asked = Deferred.fromCoroutine(asking)
        try:
            return await asked.addTimeout(WITHIN, self._rooms.reactor)
        except (DeferredTimeout, CancelledError) as error:
            raise WingsdError("no answer", f"no answer within {WITHIN:g} s") from error

    def _servers(self) -> Json:
        try:
            servers = self._rooms.services.servers.all()
        except ServersNotLoaded:
            return {"loaded": False, "count": None, "running": None}
        alive = [server for server in servers if server.state is not PowerState.OFFLINE]
        return {"loaded": True, "count": len(servers), "running": len(alive)}

    def _places(self) -> dict[str, str]:
        system = self._rooms.services.config.system
        return {
            "servers": system.data,
            "arriving": self._rooms.staging.path,
            "journal": system.root_directory,
        }

    def _limits(self) -> Json:
        transfers = self._rooms.services.config.system.transfers
        return {
            "download_mib_per_second": max(transfers.download_limit, 0) or None,
            "upload_mib_per_second": transfers.upload_limit or None,
            "concurrent": transfers.concurrent,
            "waiting": transfers.waiting,
            "disk_reserve_mib": transfers.disk_reserve,
        }


async def _asked(ask: Any) -> Any:
    return await ask()


def _disks(places: dict[str, str]) -> list[Json]:
    """Return what the filesystems have of room; one that cannot be asked has an error."""
    found = []
    for purpose, path in places.items():
        disk: Json = {"purpose": purpose, "path": path, "free_bytes": None, "total_bytes": None}
        try:
            held = os.statvfs(path)
        except OSError as error:
            disk["error"] = error.strerror or str(error)
        else:
            disk["error"] = ""
            disk["free_bytes"] = held.f_bavail * held.f_frsize
            disk["total_bytes"] = held.f_blocks * held.f_frsize
        found.append(disk)
    return found
