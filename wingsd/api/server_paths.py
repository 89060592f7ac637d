"""The paths of servers, their power, their consoles and their installations."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from wingsd.api.resource import LaterEndpoint
from wingsd.api.revocations import Revocations
from wingsd.backups.deletion import BackupDeletion
from wingsd.config import Config
from wingsd.restores.manager import Restores
from wingsd.servers.installations import Installations
from wingsd.servers.registry import Servers
from wingsd.sftp.listener import SftpListener
from wingsd.transfers.manager import IncomingTransfers, OutgoingTransfers

if TYPE_CHECKING:
    from wingsd.api.consoles import ConsoleResources

__all__ = ["SERVER_PATHS", "endpoints", "install_endpoints", "server_endpoint"]

_SERVER = LaterEndpoint("servers", "ServerEndpoint")
_SOCKET = LaterEndpoint("consoles", "SocketEndpoint")
_DENY = LaterEndpoint("consoles", "DenyEndpoint")
_PERMISSIONS = LaterEndpoint("consoles", "PermissionsEndpoint")
_DEAUTHORIZE = LaterEndpoint("consoles", "DeauthorizeEndpoint")
#: Those that take the servers alone.
_PLAIN: Mapping[str, LaterEndpoint] = {
    "/api/servers": LaterEndpoint("servers", "ServersEndpoint"),
    # Before the paths of one server.
    "/api/servers/power": LaterEndpoint("power", "AllPowerEndpoint"),
    "/api/servers/{uuid}/commands": LaterEndpoint("servers", "CommandsEndpoint"),
    "/api/servers/{uuid}/logs": LaterEndpoint("servers", "LogsEndpoint"),
    "/api/servers/{uuid}/power": LaterEndpoint("power", "PowerEndpoint"),
    "/api/servers/{uuid}/sync": LaterEndpoint("servers", "SyncEndpoint"),
}
_INSTALL: Mapping[str, LaterEndpoint] = {
    "/api/servers/{uuid}/install": LaterEndpoint("installations", "InstallEndpoint"),
    "/api/servers/{uuid}/install/abort": LaterEndpoint("installations", "AbortEndpoint"),
    "/api/servers/{uuid}/install-logs": LaterEndpoint("installations", "InstallOutputEndpoint"),
    "/api/servers/{uuid}/logs/install": LaterEndpoint("installations", "InstallLogEndpoint"),
    "/api/servers/{uuid}/reinstall": LaterEndpoint("installations", "ReinstallEndpoint"),
}
SERVER_PATHS: Mapping[str, LaterEndpoint] = {
    "/api/deauthorize-user": _DEAUTHORIZE,
    **_PLAIN,
    "/api/servers/{uuid}": _SERVER,
    **_INSTALL,
    "/api/servers/{uuid}/ws": _SOCKET,
    "/api/servers/{uuid}/ws/deny": _DENY,
    "/api/servers/{uuid}/ws/permissions": _PERMISSIONS,
}


def endpoints(
    config: Config,
    servers: Servers,
    sockets: ConsoleResources,
    revocations: Revocations,
    sftp: SftpListener,
) -> list[partial[Any]]:
    """Return the endpoints of servers but `server_endpoint`. `sftp` are its sessions."""
    return [
        *(partial(kind, config, servers) for kind in _PLAIN.values()),
        partial(_SOCKET, config, servers, sockets),
        partial(_DENY, config, revocations, sftp),
        partial(_PERMISSIONS, config, revocations, sftp),
        partial(_DEAUTHORIZE, config, revocations, sftp, sockets),
    ]


def server_endpoint(
    config: Config,
    servers: Servers,
    receiver: IncomingTransfers,
    sender: OutgoingTransfers,
    restores: Restores,
    backups: BackupDeletion,
) -> partial[Any]:
    """Return the endpoint of one server, by which it is deleted."""
    return partial(_SERVER, config, servers, receiver, sender, restores, backups)


def install_endpoints(
    config: Config, servers: Servers, installations: Installations
) -> list[partial[Any]]:
    """Return the endpoints of installations."""
    return [partial(kind, config, servers, installations) for kind in _INSTALL.values()]
