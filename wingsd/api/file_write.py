"""`/api/servers/{uuid}/files/write`: a file whose content is the body of the request."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

import attrs
from twisted.internet.defer import Deferred

from wingsd.api.file_changes import ChangePath
from wingsd.api.raw_body import RawBody
from wingsd.errors import BadRequest, FileWorkCancelled
from wingsd.files.denylist import Denylist
from wingsd.files.guard import Guard
from wingsd.filesystem import NewFile, NewFileOptions, ServerPath, ServerRoot
from wingsd.http.operations import Success, call
from wingsd.http.request import BodyReader, StreamingRequest

__all__ = ["WriteEndpoint"]


@attrs.frozen(eq=False, repr=False)
class WriteQuery:
    """Which file."""

    file: Annotated[str, "The path in the server's directory."] = ""
    user: Annotated[str, "The UUID of the user (Calagopus); of no effect."] = ""
    ignored: Annotated[
        tuple[str, ...], "Files that are denied as well, as in gitignore (Calagopus)."
    ] = ()


@attrs.frozen(eq=False, repr=False)
class Written:
    """The answer to Calagopus' Panel. No revisions of files are kept here."""

    revision_id: int | None


class WriteEndpoint(ChangePath):
    """`/api/servers/{uuid}/files/write`, which reads the body as it arrives."""

    streamed_methods = frozenset({b"POST"})
    _body: RawBody

    def open_body(self, request: StreamingRequest) -> BodyReader:
        """Return the reader of the body, which the call asks for as it writes."""
        self._body = RawBody(request)
        Deferred.fromCoroutine(self._respond(request))
        return self._body

    @call("POST", Success(HTTPStatus.NO_CONTENT, "It is written."), raw=True)
    async def write_file(self, request: StreamingRequest, query: WriteQuery) -> Written | None:
        """Write a file: the body is its content, whatever its type.

        Directories on the way are made. The file gets its name when it is complete: before that,
        and where the client goes, an existing one stays as it was. One that is replaced keeps its
        mode, a new one has 0644. `Content-Length` is required, and refused above the server's disk
        limit before the first byte is read.
        """
        size = _announced(request)
        path = ServerPath.parse(query.file)
        denylists = (self.denylist, Denylist(query.ignored))

        def begin(root: ServerRoot) -> NewFile:
            Guard(root, *denylists).check(path)
            return root.new_file(path, NewFileOptions(size=size))

        server = self.game_server
        server.operations.check(self.operation)
        with server.operations.during(self.operation, self._cancel):
            async with self._node.files.writes.turn(server.uuid):
                workers = self._node.files.writes.workers
                await self._write(await server.files.run(begin, writes=True, workers=workers))
        return Written(None) if self.is_calagopus else None

    async def _write(self, file: NewFile) -> None:
        run = self._node.files.writes.workers.run
        try:
            while block := await self._body.next():
                await run(file.write, block)
            await run(file.commit)
        finally:
            await run(file.close)

    def _cancel(self) -> None:
        self._body.stop(FileWorkCancelled())


def _announced(request: StreamingRequest) -> int:
    """Return the length of the body in bytes. Raises `BadRequest` for one in chunks."""
    if request.header("Transfer-Encoding"):
        raise BadRequest("Missing Content-Length")
    return int(request.header("Content-Length") or 0)
