"""`/download/file` and `/download/backup`: files and backups that a browser saves."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

import attrs

from wingsd.api.files import attachment
from wingsd.api.signed_urls import SignedPath
from wingsd.errors import BackupMissing, FileMissing, IsDirectory, RangeNotSatisfiable
from wingsd.files.denylist import Denylist
from wingsd.files.guard import Guard
from wingsd.filesystem import OpenFile, ServerRoot
from wingsd.filesystem import ServerPath as FilePath
from wingsd.http.file_body import FileBody
from wingsd.http.operations import Success, call
from wingsd.http.ranges import Validators, requested_range
from wingsd.http.request import StreamingRequest
from wingsd.servers.operations import Operation

__all__ = ["BackupDownloadEndpoint", "FileDownloadEndpoint", "download_headers"]


@attrs.frozen
class SignedQuery:
    """The token of a signed URL."""

    token: Annotated[str, "A JWT that the Panel has signed."] = ""


_FILE = Success(
    HTTPStatus.OK,
    "The bytes of the file.",
    {
        "Content-Disposition": "`attachment`, and the name.",
        "ETag": "Changes with the file; for `If-Range`.",
    },
)
_NO_RANGE = (HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,)


def download_headers(name: str) -> dict[str, str]:
    """Return the headers of a download, which no browser shows as a page of this node."""
    return {
        "Content-Type": "application/octet-stream",
        "Content-Disposition": attachment(name),
        "X-Content-Type-Options": "nosniff",
    }


class _DownloadPath(SignedPath):
    async def sent(self, request: StreamingRequest, file: OpenFile, name: str) -> FileBody:
        """Return the answer with an open file; the token is counted unless none is sent."""
        validators = Validators(file.entry.size, file.entry.modified)
        try:
            if request.method != b"HEAD" and _is_satisfiable(request, validators):
                resumes = bool(request.header("Range"))
                await self.use(request, resumes=resumes)
        except BaseException:
            file.close()
            raise
        headers = download_headers(file.entry.text)
        return FileBody(file, validators, self._node.files.reads, name, headers)


def _is_satisfiable(request: StreamingRequest, validators: Validators) -> bool:
    try:
        requested_range(request.header("Range"), request.header("If-Range"), validators)
    except RangeNotSatisfiable:
        return False
    return True


class FileDownloadEndpoint(_DownloadPath):
    """`/download/file`."""

    @call("GET", _FILE, fails=_NO_RANGE)
    async def download_file(self, request: StreamingRequest, query: SignedQuery) -> FileBody:
        """Download a file of a server, or with `Range` a part of it (206).

        The token is good once, with Calagopus `api.max_jwt_uses` times. A request with `Range`
        from the address that used it first is answered again until it expires, so that browsers
        resume. HEAD does not use it, and neither does a request that is refused.
        """
        token = self.token
        server = self.server_for(Operation.READ_FILES)
        path = FilePath.parse(token.file)
        denylist, ignored = self._node.files.denylist(server), Denylist(token.ignored)

        def open_file(root: ServerRoot) -> OpenFile:
            Guard(root, denylist).check(path)
            if Guard(root, ignored).denies(path):
                raise FileMissing(str(path))
            try:
                return root.open_file(path)
            except IsDirectory as error:
                raise FileMissing(str(path)) from error

        file = await self._node.files.run(self._node.files.short, server, open_file)
        return await self.sent(request, file, f"{server.uuid}: {path}")


class BackupDownloadEndpoint(_DownloadPath):
    """`/download/backup`."""

    @call("GET", _FILE, fails=_NO_RANGE)
    async def download_backup(self, request: StreamingRequest, query: SignedQuery) -> FileBody:
        """Download a local backup of a server, or with `Range` a part of it (206).

        Its token is used up as that of a file.
        """
        token = self.token
        if token.server:
            self.server_for(Operation.READ_FILES)
        opened = await self._node.files.short.workers.run(
            self._node.backup_store.open, token.server, token.backup
        )
        if opened is None:
            raise BackupMissing(token.backup)
        return await self.sent(request, opened[1], f"backup {token.backup}")
