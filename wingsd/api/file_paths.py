"""The paths of the file manager, below `/api/servers/{uuid}/files/`, and of signed URLs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from wingsd.activity import ActivityRecorder
from wingsd.api import downloads, file_lists, file_searches, file_uploads, files
from wingsd.api.signed_urls import SignedPath, SignedUrls
from wingsd.config import Config
from wingsd.files.work import FileWork
from wingsd.servers.registry import Servers

__all__ = ["FILE_PATHS", "SIGNED_PATHS", "endpoints", "signed_endpoints"]

_FILES = "/api/servers/{uuid}/files"
FILE_PATHS: Mapping[str, type[files.FilesPath]] = {
    f"{_FILES}/contents": files.ContentsEndpoint,
    f"{_FILES}/fingerprints": file_searches.FingerprintsEndpoint,
    f"{_FILES}/list": file_lists.PagedListEndpoint,
    f"{_FILES}/list-directory": file_lists.DirectoryListEndpoint,
    f"{_FILES}/search": file_searches.SearchEndpoint,
}
SIGNED_PATHS: Mapping[str, type[SignedPath]] = {
    "/download/backup": downloads.BackupDownloadEndpoint,
    "/download/file": downloads.FileDownloadEndpoint,
    "/upload/file": file_uploads.FileUploadEndpoint,
}


def endpoints(config: Config, servers: Servers, work: FileWork) -> list[partial[Any]]:
    """Return the endpoints of these paths."""
    return [partial(kind, config, servers, work) for kind in FILE_PATHS.values()]


def signed_endpoints(
    config: Config, urls: SignedUrls, work: FileWork, activity: ActivityRecorder
) -> list[partial[Any]]:
    """Return the endpoints of signed URLs."""
    return [
        partial(downloads.BackupDownloadEndpoint, config, urls, work),
        partial(downloads.FileDownloadEndpoint, config, urls, work),
        partial(file_uploads.FileUploadEndpoint, config, urls, work, activity),
    ]
