"""The table of the routes of the HTTP interface: path, methods, token and handler.

Requests are dispatched by it, it says which token a call needs, and the OpenAPI document and the
list of calls in docs/families.md are made of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache, partial
from typing import Any

import attrs

from wingsd.api.context import NodeContext
from wingsd.api.file_changes import ChangeFilesEndpoint, PullsEndpoint, WriteEndpoint
from wingsd.api.files import ListFilesEndpoint, ReadFilesEndpoint
from wingsd.api.moves import (
    FollowingBackupEndpoint,
    FollowingHistoryEndpoint,
    HistoryBaseEndpoint,
    MoveBodyEndpoint,
    MoveEndpoint,
    MovesEndpoint,
    PointNameEndpoint,
)
from wingsd.api.node import NodeEndpoint, UpdateEndpoint
from wingsd.api.pairs import PairEndpoint, PairSeedEndpoint
from wingsd.api.resource import Endpoint
from wingsd.api.servers import (
    AccessEndpoint,
    AllServersEndpoint,
    BackupDeletionEndpoint,
    BackupsEndpoint,
    RestoreEndpoint,
    ServerCallsEndpoint,
    ServerEndpoint,
    SocketEndpoint,
)
from wingsd.api.signed_urls import (
    ArchiveDownloadEndpoint,
    FileDownloadEndpoint,
    FileUploadEndpoint,
)
from wingsd.api.transfers import (
    DirectTransferEndpoint,
    IncomingEndpoint,
    OutgoingEndpoint,
    TransfersEndpoint,
)
from wingsd.config import CALAGOPUS, FAMILIES, PELICAN
from wingsd.http.openapi import document
from wingsd.http.operations import Access, Call, Encoded, Topic, call
from wingsd.http.site import Paths
from wingsd.util.media import MediaType, encode


class InterfaceEndpoint(Endpoint):
    """`/openapi.json`, without authentication.

    It is the same on every node of a version and contains nothing of this node. Tools that read
    such documents should not need the node's token.
    """

    topic = Topic.NODE

    @call(200, "This document.")
    async def get_interface(self) -> Encoded[dict[str, Any]]:
        """Return the OpenAPI 3.1 document of this interface."""
        return _encoded_interface()


@attrs.frozen
class Route:
    """A method of a path: what answers it, whose Panels call it, and by which token.

    Names in braces are variable parts of the path. A call without families is wingsd's own.
    """

    method: str
    path: str
    call: Call
    families: tuple[str, ...] = FAMILIES
    access: Access = Access.PANEL


_SERVER = "/api/servers/{uuid}"
_FILES = f"{_SERVER}/files"
_TRANSFER = "/api/transfers/{uuid}"
_MOVE = f"{_TRANSFER}/move"
_ONE_MOVE = f"{_MOVE}/{{move}}"
_BY_HAND = f"{_TRANSFER}/by-hand"
_ATTACHMENT = f"{_ONE_MOVE}/attachments/{{name}}"
_FOLLOWING = f"{_ONE_MOVE}/backups/{{backup}}"
_HISTORY = f"{_ONE_MOVE}/history"
_P, _C, _PC, _OWN = (PELICAN,), (CALAGOPUS,), (PELICAN, CALAGOPUS), ()

#: Of two paths that both match the first one counts.
ROUTES = (
    Route("GET", "/api/diagnostics", NodeEndpoint.get_diagnostics, _P),
    Route("GET", "/api/ports/used", NodeEndpoint.list_used_ports, _C),
    Route("GET", "/api/system", NodeEndpoint.get_system),
    Route("POST", "/api/update", UpdateEndpoint.update_settings),
    Route("GET", "/api/system/docker/disk", NodeEndpoint.get_engine_disk, _P),
    Route("DELETE", "/api/system/docker/image/prune", NodeEndpoint.prune_images, _P),
    Route("GET", "/api/system/ips", NodeEndpoint.list_addresses, _PC),
    Route("GET", "/api/system/config", NodeEndpoint.get_config, _C),
    Route("GET", "/api/system/logs", NodeEndpoint.list_log_files, _C),
    Route("GET", "/api/system/logs/{file}", NodeEndpoint.get_log_file, _C),
    Route("GET", "/api/system/overview", NodeEndpoint.get_overview, _C),
    Route("GET", "/api/system/stats", NodeEndpoint.get_stats, _C),
    Route("POST", "/api/system/upgrade", NodeEndpoint.upgrade, _C),
    Route("GET", "/api/system/utilization", NodeEndpoint.get_utilization, _P),
    Route("GET", "/api/servers/utilization", AllServersEndpoint.get_servers_utilization, _C),
    Route("POST", "/api/deauthorize-user", AccessEndpoint.deauthorize_user),
    Route("GET", "/api/servers", AllServersEndpoint.list_servers),
    Route("POST", "/api/servers", AllServersEndpoint.create_server),
    Route("POST", "/api/servers/power", AllServersEndpoint.power_servers, _C),
    Route("POST", f"{_SERVER}/commands", ServerCallsEndpoint.send_commands),
    Route("GET", f"{_SERVER}/logs", ServerCallsEndpoint.get_logs),
    Route("POST", f"{_SERVER}/power", ServerCallsEndpoint.power_server),
    Route("POST", f"{_SERVER}/sync", ServerCallsEndpoint.sync_server),
    Route("GET", _SERVER, ServerEndpoint.get_server),
    Route("DELETE", _SERVER, ServerEndpoint.delete_server),
    Route("POST", f"{_SERVER}/install", ServerCallsEndpoint.install_server),
    Route("POST", f"{_SERVER}/install/abort", ServerCallsEndpoint.abort_installation, _C),
    Route("GET", f"{_SERVER}/install-logs", ServerCallsEndpoint.get_install_output, _P),
    Route("GET", f"{_SERVER}/logs/install", ServerCallsEndpoint.get_install_log, _C),
    Route("POST", f"{_SERVER}/reinstall", ServerCallsEndpoint.reinstall_server),
    # Browsers send their token in the first message.
    Route("GET", f"{_SERVER}/ws", SocketEndpoint.open_console, access=Access.PUBLIC),
    Route("POST", f"{_SERVER}/ws/deny", AccessEndpoint.deny_tokens),
    Route("POST", f"{_SERVER}/ws/permissions", AccessEndpoint.change_permissions, _C),
    Route("POST", f"{_SERVER}/backup", BackupsEndpoint.make_backup),
    Route("DELETE", "/api/backups/{backup}", BackupDeletionEndpoint.begin_backup_deletion, _C),
    Route("DELETE", f"{_SERVER}/backup/{{backup}}", BackupsEndpoint.delete_backup),
    Route("DELETE", f"{_SERVER}/deleteAllBackups", BackupsEndpoint.delete_all_backups, _P),
    Route("GET", f"{_FILES}/contents", ReadFilesEndpoint.get_contents),
    Route("GET", f"{_FILES}/fingerprints", ReadFilesEndpoint.get_fingerprints, _C),
    Route("GET", f"{_FILES}/list", ListFilesEndpoint.list_page, _C),
    Route("GET", f"{_FILES}/list-directory", ListFilesEndpoint.list_files),
    Route("GET", f"{_FILES}/search", ReadFilesEndpoint.search_names, _P),
    Route("POST", f"{_FILES}/search", ReadFilesEndpoint.search_files, _C),
    Route("POST", f"{_FILES}/chmod", ChangeFilesEndpoint.change_modes),
    Route("POST", f"{_FILES}/compress", ChangeFilesEndpoint.compress_files),
    Route("POST", f"{_FILES}/copy", ChangeFilesEndpoint.copy_file),
    Route("POST", f"{_FILES}/copy-many", ChangeFilesEndpoint.copy_files, _C),
    Route("POST", f"{_FILES}/create-directory", ChangeFilesEndpoint.create_directory),
    Route("POST", f"{_FILES}/create-symlink", ChangeFilesEndpoint.create_symlink, _C),
    Route("POST", f"{_FILES}/decompress", ChangeFilesEndpoint.decompress_file),
    Route("POST", f"{_FILES}/delete", ChangeFilesEndpoint.delete_files),
    Route("GET", f"{_FILES}/operations", ChangeFilesEndpoint.list_file_operations, _C),
    Route(
        "DELETE",
        f"{_FILES}/operations/{{operation}}",
        ChangeFilesEndpoint.cancel_file_operation,
        _C,
    ),
    Route("PUT", f"{_FILES}/rename", ChangeFilesEndpoint.rename_files),
    Route("POST", f"{_FILES}/write", WriteEndpoint.write_file),
    Route("POST", f"{_FILES}/pull", PullsEndpoint.pull_file),
    Route("GET", f"{_FILES}/pull", PullsEndpoint.list_pulls),
    Route("POST", f"{_FILES}/pull/query", PullsEndpoint.query_pull, _C),
    Route("DELETE", f"{_FILES}/pull/{{identifier}}", PullsEndpoint.cancel_pull),
    Route("POST", f"{_SERVER}/backup/{{backup}}/restore", RestoreEndpoint.restore_backup),
    Route("POST", f"{_SERVER}/transfer", OutgoingEndpoint.send_server),
    Route("DELETE", f"{_SERVER}/transfer", OutgoingEndpoint.cancel_sending),
    Route("DELETE", "/api/transfer", IncomingEndpoint.cancel_by_panel, _P),
    Route("POST", "/api/transfers", TransfersEndpoint.receive_server, access=Access.TRANSFER),
    Route(
        "OPTIONS", "/api/transfers", TransfersEndpoint.get_transfer_features, _OWN, Access.PUBLIC
    ),
    Route("DELETE", _TRANSFER, IncomingEndpoint.cancel_receiving),
    Route("PUT", _BY_HAND, DirectTransferEndpoint.describe_server, _OWN, Access.DIRECT_TRANSFER),
    Route("DELETE", _BY_HAND, DirectTransferEndpoint.conclude_move, _OWN, Access.DIRECT_TRANSFER),
    Route("POST", "/api/pair", PairEndpoint.get_pair_facts, _OWN, Access.PAIR),
    Route(
        "PUT",
        "/api/pair/seeds/{uuid}",
        PairSeedEndpoint.admit_pair_seed,
        _OWN,
        Access.PAIR,
    ),
    Route("POST", _MOVE, MovesEndpoint.begin_move, _OWN, Access.TRANSFER),
    Route("GET", _ONE_MOVE, MoveEndpoint.get_move, _OWN, Access.MOVE),
    Route("DELETE", _ONE_MOVE, MoveEndpoint.delete_move, _OWN, Access.MOVE),
    Route("POST", f"{_ONE_MOVE}/resume", MoveEndpoint.resume_move, _OWN, Access.MOVE),
    Route("GET", f"{_ONE_MOVE}/tree", MoveEndpoint.get_held_tree, _OWN, Access.MOVE),
    Route("PUT", f"{_ONE_MOVE}/batches/{{number}}", MoveBodyEndpoint.put_batch, _OWN, Access.MOVE),
    Route("POST", f"{_ONE_MOVE}/rounds/{{number}}", MoveEndpoint.close_round, _OWN, Access.MOVE),
    Route("GET", _ATTACHMENT, MoveBodyEndpoint.get_attachment, _OWN, Access.MOVE),
    Route("PATCH", _ATTACHMENT, MoveBodyEndpoint.append_attachment, _OWN, Access.MOVE),
    Route("POST", f"{_ONE_MOVE}/prepare", MoveEndpoint.prepare_move, _OWN, Access.MOVE),
    Route("POST", f"{_ONE_MOVE}/room", MoveEndpoint.check_room, _OWN, Access.MOVE),
    Route("POST", f"{_ONE_MOVE}/commit", MoveEndpoint.commit_move, _OWN, Access.MOVE),
    Route("GET", _FOLLOWING, FollowingBackupEndpoint.get_following_backup, _OWN, Access.MOVE),
    Route("PATCH", _FOLLOWING, FollowingBackupEndpoint.append_following_backup, _OWN, Access.MOVE),
    Route(
        "DELETE", _FOLLOWING, FollowingBackupEndpoint.forget_following_backup, _OWN, Access.MOVE
    ),
    Route("PUT", f"{_FOLLOWING}/point", PointNameEndpoint.name_point, _OWN, Access.MOVE),
    Route("GET", _HISTORY, FollowingHistoryEndpoint.get_following_history, _OWN, Access.MOVE),
    Route("PATCH", _HISTORY, FollowingHistoryEndpoint.append_following_history, _OWN, Access.MOVE),
    Route(
        "DELETE", _HISTORY, FollowingHistoryEndpoint.forget_following_history, _OWN, Access.MOVE
    ),
    Route("GET", f"{_HISTORY}/base", HistoryBaseEndpoint.get_history_base, _OWN, Access.MOVE),
    Route(
        "POST",
        f"{_HISTORY}/blocks",
        HistoryBaseEndpoint.get_history_blocks,
        _OWN,
        Access.MOVE,
    ),
    Route(
        "GET",
        "/download/backup",
        FileDownloadEndpoint.download_backup,
        access=Access.BACKUP_DOWNLOAD,
    ),
    Route(
        "GET",
        "/download/directory",
        ArchiveDownloadEndpoint.download_directory,
        _C,
        Access.FILE_DOWNLOAD,
    ),
    Route(
        "GET", "/download/file", FileDownloadEndpoint.download_file, access=Access.FILE_DOWNLOAD
    ),
    Route(
        "GET", "/download/files", ArchiveDownloadEndpoint.download_files, _C, Access.FILES_DOWNLOAD
    ),
    Route("POST", "/upload/file", FileUploadEndpoint.upload_files, access=Access.FILE_UPLOAD),
    Route("HEAD", "/upload/file", FileUploadEndpoint.get_upload_offset, _C, Access.FILE_UPLOAD),
    Route("DELETE", "/upload/file", FileUploadEndpoint.discard_upload, _C, Access.FILE_UPLOAD),
    Route("PATCH", "/upload/file", FileUploadEndpoint.continue_upload, _C, Access.FILE_UPLOAD),
    Route("GET", "/openapi.json", InterfaceEndpoint.get_interface, _OWN, Access.PUBLIC),
)


def calls_by_path(routes: Iterable[Route]) -> dict[str, dict[str, Call]]:
    """Return the calls of each path by their methods."""
    found: dict[str, dict[str, Call]] = {}
    for each in routes:
        call = each.call.routed(each.method, each.access)
        found.setdefault(each.path, {})[each.method] = call
    return found


#: The calls of each path by their methods.
CALLS = calls_by_path(ROUTES)


def root(node: NodeContext, calls: Mapping[str, Mapping[str, Call]] = CALLS) -> Paths:
    """Return the root of a site of a node. The calls of a path are of one class."""
    paths = {}
    for path, made in calls.items():
        (endpoint,) = {each.endpoint for each in made.values()}
        paths[path] = partial(endpoint, node, made)
    return Paths(paths)


@cache
def interface() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of all paths."""
    return document(CALLS)


@cache
def _encoded_interface() -> Encoded[dict[str, Any]]:
    # Encoded once: it takes milliseconds, and the path needs no authentication.
    return Encoded(encode(interface(), MediaType.JSON), MediaType.JSON)
