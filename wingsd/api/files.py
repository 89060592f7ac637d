"""`/api/servers/{uuid}/files/...`: reading a server's files, for the pages of its Panel."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from threading import Event
from typing import Annotated, ClassVar, TypeVar
from urllib.parse import quote

import attrs

from wingsd.api.resource import ServerResource
from wingsd.config.vendors import CALAGOPUS
from wingsd.errors import (
    BadRequest,
    Conflict,
    FileDenied,
    FileMissing,
    FileNotPermitted,
    FileTooLarge,
    Unprocessable,
    WingsdError,
)
from wingsd.files.denylist import Denylist
from wingsd.files.entries import head_of, mime_of
from wingsd.files.guard import Guard
from wingsd.files.tasks import Lane
from wingsd.filesystem import OpenFile, ServerRoot
from wingsd.filesystem import ServerPath as FilePath
from wingsd.filesystem.errors import file_error
from wingsd.http.file_body import FileBody
from wingsd.http.operations import INVALID, Call, Success, Topic, call
from wingsd.http.ranges import Validators
from wingsd.http.request import StreamingRequest
from wingsd.servers.operations import Operation

__all__ = ["ContentsEndpoint", "FilesPath", "attachment", "hidden_by", "whole_number"]

T = TypeVar("T")

#: Errors of file calls whose text Calagopus' Panel shows to its users with the status 417 only.
_SHOWN_AS_417 = (BadRequest, Conflict, FileDenied, FileNotPermitted, Unprocessable)
#: The longest number that a query may have.
_DIGITS = 15


class FilesPath(ServerResource):
    """A path for the files of one server, which may be read by `operation`.

    What runs for it in a thread is cancelled when the client goes.
    """

    topic = Topic.FILES
    fails: ClassVar[tuple[HTTPStatus, ...]] = (
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.CONFLICT,
        HTTPStatus.EXPECTATION_FAILED,
        HTTPStatus.INTERNAL_SERVER_ERROR,
    )
    operation = Operation.READ_FILES

    async def handle(self, request: StreamingRequest, call: Call) -> None:
        """Run a call. Raises `ServerBusy` where what is under way excludes it."""
        self._gone = Event()
        request.notifyFinish().addErrback(lambda _: self._gone.set())
        try:
            await super().handle(request, call)
        except WingsdError as error:
            if self._config.family == CALAGOPUS and isinstance(error, _SHOWN_AS_417):
                error.status = HTTPStatus.EXPECTATION_FAILED
            raise

    async def run(self, lane: Lane, work: Callable[[ServerRoot], T]) -> T:
        """Call `work` with the server's directory in a thread; return its result."""
        self.game_server.operations.check(self.operation)
        return await self._node.files.run(lane, self.game_server, work)

    @property
    def denylist(self) -> Denylist:
        """What the server's egg denies."""
        return self._node.files.denylist(self.game_server)


@attrs.frozen
class ContentsQuery:
    """Which file, and how it is sent."""

    file: Annotated[str, "The path in the server's directory."] = ""
    download: Annotated[str, "Not empty: with the headers of a download."] = ""
    max_size: Annotated[str, "The most bytes of a file that is sent (Calagopus)."] = ""
    ignored: Annotated[
        tuple[str, ...], "Files that are as if they were not there, as in gitignore (Calagopus)."
    ] = ()


class ContentsEndpoint(FilesPath):
    """`/api/servers/{uuid}/files/contents`."""

    @call(
        "GET",
        Success(
            HTTPStatus.OK,
            "The bytes of the file.",
            headers={
                "X-Mime-Type": "The type of the file, by its first bytes.",
                "Content-Disposition": "`attachment` and the name, with `download`.",
                "ETag": "Changes with the file; for `If-Range`.",
            },
        ),
        fails=(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE),
    )
    async def get_contents(self, request: StreamingRequest, query: ContentsQuery) -> FileBody:
        """Return a regular file, or with `Range` a part of it (206).

        It is sent as fast as the client reads it. Of a file that grows meanwhile only the
        announced bytes are sent; where one shrinks the connection is closed.
        """
        path = FilePath.parse(query.file)
        most = whole_number("max_size", query.max_size)
        denylist, ignored = self.denylist, Denylist(query.ignored)

        def open_file(root: ServerRoot) -> tuple[OpenFile, str]:
            Guard(root, denylist).check(path)
            if Guard(root, ignored).denies(path):
                raise FileMissing(str(path))
            return _opened(root, path, most)

        file, mime = await self.run(self._node.files.short, open_file)
        headers = {"X-Mime-Type": mime, "Content-Type": mime}
        if query.download and query.download.lower() not in ("0", "false"):
            headers["Content-Type"] = "application/octet-stream"
            headers["Content-Disposition"] = attachment(file.entry.text)
        name = f"{self.game_server.uuid}: {path}"
        validators = Validators(file.entry.size, file.entry.modified)
        return FileBody(file, validators, self._node.files.reads, name, headers)


def _opened(root: ServerRoot, path: FilePath, most: int | None) -> tuple[OpenFile, str]:
    file = root.open_file(path)
    if most is not None and file.entry.size > most:
        file.close()
        raise FileTooLarge(file.entry.size)
    try:
        return file, mime_of(head_of(file))
    except OSError as error:
        file.close()
        raise file_error(error, bytes(path)) from error


def attachment(name: str) -> str:
    """Return the `Content-Disposition` of a download with this name (RFC 6266).

    Clients that do not know `filename*` get a name without what is not ASCII.
    """
    plain = "".join(each if " " <= each <= "~" and each not in '"\\%' else "_" for each in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def whole_number(name: str, text: str) -> int | None:
    """Return a number of a query; None where it is empty. Raises `BadRequest`."""
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        raise BadRequest(INVALID, f"{name}: expected a whole number")
    return int(text)


def hidden_by(*denylists: Denylist) -> tuple[Denylist, ...]:
    """Return those that deny anything."""
    return tuple(each for each in denylists if not each.is_empty)
