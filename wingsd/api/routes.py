"""The routes of the HTTP interface in one table, and what follows from it.

Requests are dispatched by it, it says which token a call needs, and the OpenAPI document and the
list of calls in docs/families.md are made of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from http import HTTPStatus
from typing import Any

import attrs

from wingsd.api.backups import (
    AllBackupsEndpoint,
    BackupDeletionEndpoint,
    BackupEndpoint,
    BackupsEndpoint,
    RestoreEndpoint,
)
from wingsd.api.context import NodeContext
from wingsd.api.file_changes import (
    ChmodEndpoint,
    CompressEndpoint,
    CopyEndpoint,
    CopyManyEndpoint,
    CreateDirectoryEndpoint,
    CreateSymlinkEndpoint,
    DecompressEndpoint,
    DeleteEndpoint,
    FileTaskEndpoint,
    FileTasksEndpoint,
    PullEndpoint,
    PullQueryEndpoint,
    PullsEndpoint,
    RenameEndpoint,
    WriteEndpoint,
)
from wingsd.api.files import (
    ContentsEndpoint,
    DirectoryListEndpoint,
    FingerprintsEndpoint,
    PagedListEndpoint,
    SearchEndpoint,
)
from wingsd.api.moves import (
    MoveAttachmentEndpoint,
    MoveBatchEndpoint,
    MoveCommitEndpoint,
    MoveEndpoint,
    MovePrepareEndpoint,
    MoveResumeEndpoint,
    MoveRoomEndpoint,
    MoveRoundEndpoint,
    MovesEndpoint,
    MoveTreeEndpoint,
)
from wingsd.api.node import (
    AddressesEndpoint,
    ConfigEndpoint,
    DiagnosticsEndpoint,
    EngineDiskEndpoint,
    LogFileEndpoint,
    LogFilesEndpoint,
    OverviewEndpoint,
    PruneEndpoint,
    ServersUtilizationEndpoint,
    StatsEndpoint,
    SystemEndpoint,
    UpdateEndpoint,
    UpgradeEndpoint,
    UsedPortsEndpoint,
    UtilizationEndpoint,
)
from wingsd.api.resource import Endpoint
from wingsd.api.servers import (
    AbortEndpoint,
    AllPowerEndpoint,
    CommandsEndpoint,
    DeauthorizeEndpoint,
    DenyEndpoint,
    InstallEndpoint,
    InstallLogEndpoint,
    InstallOutputEndpoint,
    LogsEndpoint,
    PermissionsEndpoint,
    PowerEndpoint,
    ReinstallEndpoint,
    ServerEndpoint,
    ServersEndpoint,
    SocketEndpoint,
    SyncEndpoint,
)
from wingsd.api.signed_urls import (
    BackupDownloadEndpoint,
    DirectoryDownloadEndpoint,
    FileDownloadEndpoint,
    FilesDownloadEndpoint,
    FileUploadEndpoint,
)
from wingsd.api.transfers import (
    CancelledTransferEndpoint,
    DirectTransferEndpoint,
    IncomingEndpoint,
    OutgoingEndpoint,
    TransfersEndpoint,
)
from wingsd.config.vendors import CALAGOPUS, FAMILIES, PELICAN
from wingsd.http.openapi import document
from wingsd.http.operations import Access, Call, EncodedObject, Success, Topic, call, declared
from wingsd.http.request import StreamingRequest
from wingsd.http.site import Paths
from wingsd.util.media import MediaType, encode

__all__ = ["CALLS", "ROUTES", "InterfaceEndpoint", "Route", "interface", "root"]


class InterfaceEndpoint(Endpoint):
    """`/openapi.json`, without authentication.

    It is the same on every node of a version and contains nothing of this node. Tools that read
    such documents should not need the node's token.
    """

    topic = Topic.NODE

    @call("GET", Success(HTTPStatus.OK, "This document."))
    async def get_interface(self, request: StreamingRequest) -> EncodedObject:
        """Return the OpenAPI 3.1 document of this interface."""
        return _encoded_interface()


@attrs.frozen
class Route:
    """Methods of one path: who answers them, whose Panels call them, and by which token.

    Names in braces are variable parts of the path. A call without families is wingsd's own.
    """

    path: str
    methods: str
    endpoint: type[Endpoint]
    families: tuple[str, ...] = FAMILIES
    access: Access = Access.PANEL


_SERVER = "/api/servers/{uuid}"
_FILES = f"{_SERVER}/files"
_TRANSFER = "/api/transfers/{uuid}"
_MOVE = f"{_TRANSFER}/move"
_P, _C, _PC, _OWN = (PELICAN,), (CALAGOPUS,), (PELICAN, CALAGOPUS), ()

#: Of two paths that both match the first one counts.
ROUTES = (
    Route("/api/diagnostics", "GET", DiagnosticsEndpoint, _P),
    Route("/api/ports/used", "GET", UsedPortsEndpoint, _C),
    Route("/api/system", "GET", SystemEndpoint),
    Route("/api/update", "POST", UpdateEndpoint),
    Route("/api/system/docker/disk", "GET", EngineDiskEndpoint, _P),
    Route("/api/system/docker/image/prune", "DELETE", PruneEndpoint, _P),
    Route("/api/system/ips", "GET", AddressesEndpoint, _PC),
    Route("/api/system/config", "GET", ConfigEndpoint, _C),
    Route("/api/system/logs", "GET", LogFilesEndpoint, _C),
    Route("/api/system/logs/{file}", "GET", LogFileEndpoint, _C),
    Route("/api/system/overview", "GET", OverviewEndpoint, _C),
    Route("/api/system/stats", "GET", StatsEndpoint, _C),
    Route("/api/system/upgrade", "POST", UpgradeEndpoint, _C),
    Route("/api/system/utilization", "GET", UtilizationEndpoint, _P),
    Route("/api/servers/utilization", "GET", ServersUtilizationEndpoint, _C),
    Route("/api/deauthorize-user", "POST", DeauthorizeEndpoint),
    Route("/api/servers", "GET POST", ServersEndpoint),
    Route("/api/servers/power", "POST", AllPowerEndpoint, _C),
    Route(f"{_SERVER}/commands", "POST", CommandsEndpoint),
    Route(f"{_SERVER}/logs", "GET", LogsEndpoint),
    Route(f"{_SERVER}/power", "POST", PowerEndpoint),
    Route(f"{_SERVER}/sync", "POST", SyncEndpoint),
    Route(_SERVER, "GET DELETE", ServerEndpoint),
    Route(f"{_SERVER}/install", "POST", InstallEndpoint),
    Route(f"{_SERVER}/install/abort", "POST", AbortEndpoint, _C),
    Route(f"{_SERVER}/install-logs", "GET", InstallOutputEndpoint, _P),
    Route(f"{_SERVER}/logs/install", "GET", InstallLogEndpoint, _C),
    Route(f"{_SERVER}/reinstall", "POST", ReinstallEndpoint),
    # Browsers send their token in the first message.
    Route(f"{_SERVER}/ws", "GET", SocketEndpoint, access=Access.PUBLIC),
    Route(f"{_SERVER}/ws/deny", "POST", DenyEndpoint),
    Route(f"{_SERVER}/ws/permissions", "POST", PermissionsEndpoint, _C),
    Route(f"{_SERVER}/backup", "POST", BackupsEndpoint),
    Route("/api/backups/{backup}", "DELETE", BackupDeletionEndpoint, _C),
    Route(f"{_SERVER}/backup/{{backup}}", "DELETE", BackupEndpoint),
    Route(f"{_SERVER}/deleteAllBackups", "DELETE", AllBackupsEndpoint, _P),
    Route(f"{_FILES}/contents", "GET", ContentsEndpoint),
    Route(f"{_FILES}/fingerprints", "GET", FingerprintsEndpoint, _C),
    Route(f"{_FILES}/list", "GET", PagedListEndpoint, _C),
    Route(f"{_FILES}/list-directory", "GET", DirectoryListEndpoint),
    Route(f"{_FILES}/search", "GET", SearchEndpoint, _P),
    Route(f"{_FILES}/search", "POST", SearchEndpoint, _C),
    Route(f"{_FILES}/chmod", "POST", ChmodEndpoint),
    Route(f"{_FILES}/compress", "POST", CompressEndpoint),
    Route(f"{_FILES}/copy", "POST", CopyEndpoint),
    Route(f"{_FILES}/copy-many", "POST", CopyManyEndpoint, _C),
    Route(f"{_FILES}/create-directory", "POST", CreateDirectoryEndpoint),
    Route(f"{_FILES}/create-symlink", "POST", CreateSymlinkEndpoint, _C),
    Route(f"{_FILES}/decompress", "POST", DecompressEndpoint),
    Route(f"{_FILES}/delete", "POST", DeleteEndpoint),
    Route(f"{_FILES}/operations", "GET", FileTasksEndpoint, _C),
    Route(f"{_FILES}/operations/{{operation}}", "DELETE", FileTaskEndpoint, _C),
    Route(f"{_FILES}/rename", "PUT", RenameEndpoint),
    Route(f"{_FILES}/write", "POST", WriteEndpoint),
    Route(f"{_FILES}/pull", "GET POST", PullsEndpoint),
    Route(f"{_FILES}/pull/query", "POST", PullQueryEndpoint, _C),
    Route(f"{_FILES}/pull/{{identifier}}", "DELETE", PullEndpoint),
    Route(f"{_SERVER}/backup/{{backup}}/restore", "POST", RestoreEndpoint),
    Route(f"{_SERVER}/transfer", "POST DELETE", OutgoingEndpoint),
    Route("/api/transfer", "DELETE", CancelledTransferEndpoint, _P),
    Route("/api/transfers", "POST", TransfersEndpoint, access=Access.TRANSFER),
    Route("/api/transfers", "OPTIONS", TransfersEndpoint, _OWN, Access.PUBLIC),
    Route(_TRANSFER, "DELETE", IncomingEndpoint),
    Route(
        f"{_TRANSFER}/by-hand", "PUT DELETE", DirectTransferEndpoint, _OWN, Access.DIRECT_TRANSFER
    ),
    Route(_MOVE, "POST", MovesEndpoint, _OWN, Access.TRANSFER),
    Route(f"{_MOVE}/{{move}}", "GET DELETE", MoveEndpoint, _OWN, Access.MOVE),
    Route(f"{_MOVE}/{{move}}/resume", "POST", MoveResumeEndpoint, _OWN, Access.MOVE),
    Route(f"{_MOVE}/{{move}}/tree", "GET", MoveTreeEndpoint, _OWN, Access.MOVE),
    Route(f"{_MOVE}/{{move}}/batches/{{number}}", "PUT", MoveBatchEndpoint, _OWN, Access.MOVE),
    Route(f"{_MOVE}/{{move}}/rounds/{{number}}", "POST", MoveRoundEndpoint, _OWN, Access.MOVE),
    Route(
        f"{_MOVE}/{{move}}/attachments/{{name}}",
        "GET PATCH",
        MoveAttachmentEndpoint,
        _OWN,
        Access.MOVE,
    ),
    Route(f"{_MOVE}/{{move}}/prepare", "POST", MovePrepareEndpoint, _OWN, Access.MOVE),
    Route(f"{_MOVE}/{{move}}/room", "POST", MoveRoomEndpoint, _OWN, Access.MOVE),
    Route(f"{_MOVE}/{{move}}/commit", "POST", MoveCommitEndpoint, _OWN, Access.MOVE),
    Route("/download/backup", "GET", BackupDownloadEndpoint, access=Access.BACKUP_DOWNLOAD),
    Route("/download/directory", "GET", DirectoryDownloadEndpoint, _C, Access.FILE_DOWNLOAD),
    Route("/download/file", "GET", FileDownloadEndpoint, access=Access.FILE_DOWNLOAD),
    Route("/download/files", "GET", FilesDownloadEndpoint, _C, Access.FILES_DOWNLOAD),
    Route("/upload/file", "POST", FileUploadEndpoint, access=Access.FILE_UPLOAD),
    Route("/upload/file", "HEAD PATCH DELETE", FileUploadEndpoint, _C, Access.FILE_UPLOAD),
    Route("/openapi.json", "GET", InterfaceEndpoint, _OWN, Access.PUBLIC),
)


def _calls() -> Mapping[str, Mapping[str, Call]]:
    found: dict[str, dict[str, Call]] = {}
    for route in ROUTES:
        calls = declared(route.endpoint, route.access)
        named = {method: calls[method] for method in route.methods.split()}
        known = found.get(route.path, {}) | named
        # In the order in which the class has them.
        found[route.path] = {method: known[method] for method in calls if method in known}
    return found


#: The calls of each path by their methods.
CALLS = _calls()


def root(node: NodeContext) -> Paths:
    """Return the root of the site of a node."""
    return Paths(
        {route.path: partial(route.endpoint, node, CALLS[route.path]) for route in ROUTES}
    )


@cache
def interface() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of all paths."""
    return document(CALLS)


@cache
def _encoded_interface() -> EncodedObject:
    # Encoded once: it takes milliseconds, and the path needs no authentication.
    return EncodedObject(encode(interface(), MediaType.JSON))
