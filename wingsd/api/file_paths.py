"""The paths of the file manager, below `/api/servers/{uuid}/files/`, and of signed URLs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from wingsd.activity import ActivityRecorder
from wingsd.api import (
    archive_downloads,
    downloads,
    file_archives,
    file_changes,
    file_lists,
    file_searches,
    file_tasks,
    file_uploads,
    files,
)
from wingsd.api.file_write import WriteEndpoint
from wingsd.api.signed_urls import SignedPath, SignedUrls
from wingsd.config import Config
from wingsd.files.tasks import FileTasks
from wingsd.files.work import FileWork, Lane
from wingsd.servers.registry import Servers

__all__ = ["FILE_PATHS", "SIGNED_PATHS", "endpoints", "signed_endpoints"]

_FILES = "/api/servers/{uuid}/files"
#: Those that only read.
_READING: Mapping[str, type[files.FilesPath]] = {
    f"{_FILES}/contents": files.ContentsEndpoint,
    f"{_FILES}/fingerprints": file_searches.FingerprintsEndpoint,
    f"{_FILES}/list": file_lists.PagedListEndpoint,
    f"{_FILES}/list-directory": file_lists.DirectoryListEndpoint,
    f"{_FILES}/search": file_searches.SearchEndpoint,
}
_CHANGING: Mapping[str, type[file_changes.ChangePath]] = {
    f"{_FILES}/chmod": file_changes.ChmodEndpoint,
    f"{_FILES}/compress": file_archives.CompressEndpoint,
    f"{_FILES}/copy": file_changes.CopyEndpoint,
    f"{_FILES}/copy-many": file_archives.CopyManyEndpoint,
    f"{_FILES}/create-directory": file_changes.CreateDirectoryEndpoint,
    f"{_FILES}/create-symlink": file_archives.CreateSymlinkEndpoint,
    f"{_FILES}/delete": file_changes.DeleteEndpoint,
    f"{_FILES}/operations": file_tasks.FileTasksEndpoint,
    f"{_FILES}/operations/{{operation}}": file_tasks.FileTaskEndpoint,
    f"{_FILES}/rename": file_changes.RenameEndpoint,
    f"{_FILES}/write": WriteEndpoint,
}
FILE_PATHS: Mapping[str, type[files.FilesPath]] = {**_READING, **_CHANGING}
SIGNED_PATHS: Mapping[str, type[SignedPath]] = {
    "/download/backup": downloads.BackupDownloadEndpoint,
    "/download/directory": archive_downloads.DirectoryDownloadEndpoint,
    "/download/file": downloads.FileDownloadEndpoint,
    "/download/files": archive_downloads.FilesDownloadEndpoint,
    "/upload/file": file_uploads.FileUploadEndpoint,
}


def endpoints(
    config: Config, servers: Servers, work: FileWork, tasks: FileTasks
) -> list[partial[Any]]:
    """Return the endpoints of the files of a server."""
    return [
        *(partial(kind, config, servers, work) for kind in _READING.values()),
        *(partial(kind, config, servers, work, tasks) for kind in _CHANGING.values()),
    ]


def signed_endpoints(
    config: Config, urls: SignedUrls, work: FileWork, archives: Lane, activity: ActivityRecorder
) -> list[partial[Any]]:
    """Return the endpoints of signed URLs; `archives` makes those that are sent."""
    return [
        partial(downloads.BackupDownloadEndpoint, config, urls, work),
        partial(downloads.FileDownloadEndpoint, config, urls, work),
        partial(archive_downloads.DirectoryDownloadEndpoint, config, urls, work, archives),
        partial(archive_downloads.FilesDownloadEndpoint, config, urls, work, archives),
        partial(file_uploads.FileUploadEndpoint, config, urls, work, activity),
    ]
