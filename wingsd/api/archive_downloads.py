"""`/download/directory` and `/download/files`: archives that are made while a browser saves them.

They are calls of Calagopus' pages.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus
from typing import Annotated

import attrs
from twisted.internet.defer import Deferred

from wingsd.api.downloads import download_headers
from wingsd.api.signed_urls import SignedPath
from wingsd.archive import Compression
from wingsd.config import CALAGOPUS
from wingsd.errors import DirectoryMissing, PathNotFound
from wingsd.files.archives import (
    ArchiveKind,
    Compressing,
    check_packing,
    default_name,
    kind_of_format,
    pack_into,
)
from wingsd.files.denylist import Denylist
from wingsd.files.guard import Guard
from wingsd.files.progress import Progress
from wingsd.filesystem import ServerPath as FilePath
from wingsd.filesystem import ServerRoot, name_text
from wingsd.http.operations import Access, Success, call
from wingsd.http.request import StreamingRequest
from wingsd.http.streamed_body import StreamedBody
from wingsd.servers.operations import Operation
from wingsd.threadio import Outflow

__all__ = ["DirectoryDownloadEndpoint", "FilesDownloadEndpoint"]


@attrs.frozen
class ArchiveQuery:
    """The token of a signed URL, and the format of the archive."""

    token: Annotated[str, "A JWT that the Panel has signed."] = ""
    archive_format: Annotated[
        str, "tar, tar_gz, tar_xz, tar_bz2, tar_lz4, tar_zstd or zip; tar_gz by default."
    ] = ""


_ARCHIVE = Success(
    HTTPStatus.OK,
    "The archive. Its length is not known before.",
    {"Content-Disposition": "`attachment`, and the name."},
)


class _Output:
    """What an archive is written to: the stream of an answer."""

    def __init__(self, outflow: Outflow) -> None:
        self._outflow = outflow

    def write(self, data: bytes, /) -> int:
        """Append bytes. Raises `OutflowClosed` when the client has gone."""
        self._outflow.write(data)
        return len(data)


class _ArchivePath(SignedPath):
    def authorize(self, request: StreamingRequest, access: Access) -> None:
        """Check the token, on nodes of Calagopus; the others do not have the path."""
        if self._config.family != CALAGOPUS:
            raise PathNotFound(
                request.path.decode("latin-1"),
                f"nodes of {CALAGOPUS} have it; when this node's Panel is of that family, say so "
                "by `family` in its configuration",
            )
        super().authorize(request, access)

    async def archive(
        self,
        request: StreamingRequest,
        kind: ArchiveKind,
        files: Sequence[FilePath],
        name: str,
    ) -> StreamedBody:
        """Return the answer with an archive of files in the directory of a token."""
        token, server = self.token, self.server_for(Operation.READ_FILES)
        denylist, ignored = self._node.files.denylist(server), Denylist(token.ignored)
        level = self._config.system.backups.compression_level
        asked = Compressing(
            FilePath.parse(token.file), files, kind, Compression(level), skip_missing=True
        )

        def check(root: ServerRoot) -> None:
            if Guard(root, ignored).denies(asked.top, is_directory=True):
                raise DirectoryMissing(str(asked.top))
            if not root.stat(asked.top).is_directory:
                raise DirectoryMissing(str(asked.top))
            check_packing(root, Guard(root, denylist, ignored), asked)

        def pack(outflow: Outflow, root: ServerRoot) -> None:
            guard = Guard(root, denylist, ignored)
            pack_into(root, guard, asked, _Output(outflow), Progress())
            outflow.finish()

        def produce(outflow: Outflow) -> Deferred[None]:
            work = self._node.files.run(self._node.archives, server, partial(pack, outflow))
            return Deferred.fromCoroutine(work)

        await self._node.files.run(self._node.files.short, server, check)
        if request.method != b"HEAD":
            await self.use(request, resumes=False)
        headers = {**download_headers(name), "Content-Type": kind.mime}
        return StreamedBody(produce, f"{server.uuid}: {asked.top}", headers)


class DirectoryDownloadEndpoint(_ArchivePath):
    """`/download/directory`."""

    @call("GET", _ARCHIVE)
    async def download_directory(
        self, request: StreamingRequest, query: ArchiveQuery
    ) -> StreamedBody:
        """Download a directory as an archive, without what is denied or hidden from the user.

        Where a file cannot be read the connection is closed before the end.
        """
        kind = kind_of_format(query.archive_format or "tar_gz")
        name = name_text(FilePath.parse(self.token.file).name) or "server"
        files = (FilePath(),)
        return await self.archive(request, kind, files, f"{name}.{kind.suffix}")


class FilesDownloadEndpoint(_ArchivePath):
    """`/download/files`."""

    @call("GET", _ARCHIVE)
    async def download_files(self, request: StreamingRequest, query: ArchiveQuery) -> StreamedBody:
        """Download files and directories of one directory as an archive; as for a directory."""
        kind = kind_of_format(query.archive_format or "tar_gz")
        files = tuple(map(FilePath.parse, self.token.files))
        name = f"{name_text(default_name(time.time()))}.{kind.suffix}"
        return await self.archive(request, kind, files, name)
