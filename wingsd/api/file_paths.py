"""The paths of the file manager, below `/api/servers/{uuid}/files/`, and of signed URLs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from wingsd.activity import ActivityRecorder
from wingsd.api.resource import LaterEndpoint
from wingsd.api.signed_urls import SignedUrls
from wingsd.config import Config
from wingsd.files.pulls import Pulls
from wingsd.files.tasks import FileTasks
from wingsd.files.work import FileWork, Lane
from wingsd.servers.registry import Servers

__all__ = ["FILE_PATHS", "SIGNED_PATHS", "endpoints", "signed_endpoints"]

_FILES = "/api/servers/{uuid}/files"
#: Those that only read.
_READING: Mapping[str, LaterEndpoint] = {
    f"{_FILES}/contents": LaterEndpoint("files", "ContentsEndpoint"),
    f"{_FILES}/fingerprints": LaterEndpoint("file_searches", "FingerprintsEndpoint"),
    f"{_FILES}/list": LaterEndpoint("file_lists", "PagedListEndpoint"),
    f"{_FILES}/list-directory": LaterEndpoint("file_lists", "DirectoryListEndpoint"),
    f"{_FILES}/search": LaterEndpoint("file_searches", "SearchEndpoint"),
}
_CHANGING: Mapping[str, LaterEndpoint] = {
    f"{_FILES}/chmod": LaterEndpoint("file_changes", "ChmodEndpoint"),
    f"{_FILES}/compress": LaterEndpoint("file_archives", "CompressEndpoint"),
    f"{_FILES}/copy": LaterEndpoint("file_changes", "CopyEndpoint"),
    f"{_FILES}/copy-many": LaterEndpoint("file_archives", "CopyManyEndpoint"),
    f"{_FILES}/create-directory": LaterEndpoint("file_changes", "CreateDirectoryEndpoint"),
    f"{_FILES}/create-symlink": LaterEndpoint("file_archives", "CreateSymlinkEndpoint"),
    f"{_FILES}/decompress": LaterEndpoint("file_extraction", "DecompressEndpoint"),
    f"{_FILES}/delete": LaterEndpoint("file_changes", "DeleteEndpoint"),
    f"{_FILES}/operations": LaterEndpoint("file_tasks", "FileTasksEndpoint"),
    f"{_FILES}/operations/{{operation}}": LaterEndpoint("file_tasks", "FileTaskEndpoint"),
    f"{_FILES}/rename": LaterEndpoint("file_changes", "RenameEndpoint"),
    f"{_FILES}/write": LaterEndpoint("file_write", "WriteEndpoint"),
}
_PULLING: Mapping[str, LaterEndpoint] = {
    f"{_FILES}/pull": LaterEndpoint("file_pulls", "PullsEndpoint"),
    # Before the path of one download.
    f"{_FILES}/pull/query": LaterEndpoint("file_pulls", "PullQueryEndpoint"),
    f"{_FILES}/pull/{{identifier}}": LaterEndpoint("file_pulls", "PullEndpoint"),
}
FILE_PATHS: Mapping[str, LaterEndpoint] = {**_READING, **_CHANGING, **_PULLING}
_BACKUP_DOWNLOAD = LaterEndpoint("downloads", "BackupDownloadEndpoint")
_DIRECTORY_DOWNLOAD = LaterEndpoint("archive_downloads", "DirectoryDownloadEndpoint")
_FILE_DOWNLOAD = LaterEndpoint("downloads", "FileDownloadEndpoint")
_FILES_DOWNLOAD = LaterEndpoint("archive_downloads", "FilesDownloadEndpoint")
_FILE_UPLOAD = LaterEndpoint("file_uploads", "FileUploadEndpoint")
SIGNED_PATHS: Mapping[str, LaterEndpoint] = {
    "/download/backup": _BACKUP_DOWNLOAD,
    "/download/directory": _DIRECTORY_DOWNLOAD,
    "/download/file": _FILE_DOWNLOAD,
    "/download/files": _FILES_DOWNLOAD,
    "/upload/file": _FILE_UPLOAD,
}


def endpoints(
    config: Config, servers: Servers, work: FileWork, tasks: FileTasks, pulls: Pulls
) -> list[partial[Any]]:
    """Return the endpoints of the files of a server."""
    return [
        *(partial(kind, config, servers, work) for kind in _READING.values()),
        *(partial(kind, config, servers, work, tasks) for kind in _CHANGING.values()),
        *(partial(kind, config, servers, work, tasks, pulls) for kind in _PULLING.values()),
    ]


def signed_endpoints(
    config: Config, urls: SignedUrls, work: FileWork, archives: Lane, activity: ActivityRecorder
) -> list[partial[Any]]:
    """Return the endpoints of signed URLs; `archives` makes those that are sent."""
    return [
        partial(_BACKUP_DOWNLOAD, config, urls, work),
        partial(_FILE_DOWNLOAD, config, urls, work),
        partial(_DIRECTORY_DOWNLOAD, config, urls, work, archives),
        partial(_FILES_DOWNLOAD, config, urls, work, archives),
        partial(_FILE_UPLOAD, config, urls, work, activity),
    ]
