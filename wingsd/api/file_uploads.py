"""`/upload/file`: files that a browser uploads, in a form or in parts that can be resumed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

import attrs
from twisted.internet.defer import Deferred

from wingsd.api.body_batches import BodyBatches
from wingsd.api.files import whole_number
from wingsd.api.signed_urls import SignedPath, client_address
from wingsd.config import CALAGOPUS
from wingsd.errors import BadRequest, FileMissing, PathInvalid, UploadOffsetWrong
from wingsd.files.denylist import Denylist
from wingsd.files.uploads import FileRules, FormUpload
from wingsd.filesystem import ServerPath as FilePath
from wingsd.filesystem import ServerRoot, name_text
from wingsd.filesystem.new_file import PartialFile
from wingsd.http.operations import INVALID, Access, Success, call
from wingsd.http.request import BodyReader, StreamingRequest
from wingsd.servers.operations import Operation
from wingsd.servers.server import Server
from wingsd.util.serialization import Keywords

__all__ = ["FileUploadEndpoint"]

T = TypeVar("T")

#: The most bytes of a form around its one file: what is longer than this and the limit together
#: has a file that is too large.
FORM_OVERHEAD = 64 << 10
#: No file has a size with more digits.
_DIGITS = 18
_OFFSET = {"Upload-Offset": "How many bytes of the file are here."}


@attrs.frozen
class PartQuery:
    """The file that is uploaded in parts (Calagopus)."""

    token: Annotated[str, "A JWT that the Panel has signed."] = ""
    directory: Annotated[str, "The directory, which is made if it is missing."] = ""
    file: Annotated[str, "The name in the directory; it may be a path."] = ""


@attrs.frozen
class PartHeaders:
    """Where a part belongs."""

    upload_offset: Annotated[
        str, "Where it begins: how much is here.", Keywords(type="integer", minimum=0)
    ]
    upload_length: Annotated[
        str, "The bytes of the whole file, if known.", Keywords(type="integer", minimum=0)
    ] = ""
    upload_complete: Annotated[str, "`?1` with the last part."] = ""


@attrs.frozen
class FileUploadForm:
    """The files."""

    files: Annotated[
        bytes,
        "A file, with its name; may be repeated. With Calagopus, any field with a file name, "
        "which may be a path.",
    ]


@attrs.frozen
class UploadQuery:
    """Where files are uploaded to, and by whom."""

    token: Annotated[str, "A JWT that the Panel has signed."] = ""
    directory: Annotated[str, "The directory, which is made if it is missing."] = ""
    total_size: Annotated[str, "The bytes of the file, if known (Calagopus)."] = ""


class FileUploadEndpoint(SignedPath):
    """`/upload/file`."""

    streamed_methods = frozenset({b"POST", b"PATCH"})

    def render(self, request: Any) -> int:
        """Start the call; see `Public`."""
        _share_headers_of_parts(request)
        return super().render(request)

    @call("POST", Success(HTTPStatus.OK, "All files are stored."), form=FileUploadForm)
    def upload_files(self, request: StreamingRequest, query: UploadQuery) -> BodyReader:
        """Store files of a form in a server's directory.

        Each is written as it arrives, and replaces an existing file when it is whole. A file
        above `api.upload_limit` is refused as soon as that is known. Those before it are kept.
        """
        server = self.server_for(Operation.CHANGE_FILES)
        batches = BodyBatches(request)
        storing = Deferred.fromCoroutine(self._store_form(request, batches, server))
        storing.addCallback(lambda _: request.respond(HTTPStatus.OK))
        storing.addErrback(partial(self.failed, request))
        return batches

    def open_body(self, request: StreamingRequest) -> BodyReader:
        """Begin to read the body of a request."""
        _share_headers_of_parts(request)
        self.authorize(request, Access.FILE_UPLOAD)
        if request.method == b"PATCH":
            return self.continue_upload(request, PartQuery())
        return self.upload_files(request, UploadQuery())

    @call("HEAD", Success(HTTPStatus.OK, "The part is known.", _OFFSET))
    async def get_upload_offset(self, request: StreamingRequest, query: PartQuery) -> None:
        """Return how much of a file was uploaded by PATCH; 0 where nothing was."""
        server, path = self._part(request)

        def size(root: ServerRoot) -> int:
            try:
                with root.partial_file(path, self.token.user, make=False) as part:
                    return part.size
            except FileMissing:
                return 0

        found = await self._node.files.run(self._node.files.short, server, size)
        request.setHeader("Upload-Offset", str(found))

    @call("DELETE", Success(HTTPStatus.OK, "Nothing of it is left."))
    async def discard_upload(self, request: StreamingRequest, query: PartQuery) -> None:
        """Delete what was uploaded of a file by PATCH."""
        server, path = self._part(request)

        def discard(root: ServerRoot) -> None:
            with (
                suppress(FileMissing),
                root.partial_file(path, self.token.user, make=False) as part,
            ):
                part.discard()

        await self._write(server, discard)

    @call(
        "PATCH",
        Success(HTTPStatus.OK, "The part is stored.", _OFFSET),
        form=bytes,
        headers=PartHeaders,
    )
    def continue_upload(self, request: StreamingRequest, query: PartQuery) -> BodyReader:
        """Append a part to a file, which gets its name when that was the last one.

        What has arrived stays when the connection breaks, for a day; HEAD tells how much it is. It
        belongs to the user of the token.
        """
        server, path = self._part(request)
        batches = BodyBatches(request)
        storing = Deferred.fromCoroutine(self._store_part(request, batches, server, path))
        storing.addCallback(lambda _: request.respond(HTTPStatus.OK))
        storing.addErrback(partial(self.failed, request))
        return batches

    def _part(self, request: StreamingRequest) -> tuple[Server, FilePath]:
        """Return server and path of a request for a part of a file."""
        server = self.server_for(Operation.CHANGE_FILES)
        directory = FilePath.parse(request.argument("directory"))
        path = directory.joined(request.argument("file"))
        if path.contains(directory):
            raise PathInvalid("Cannot perform that action: the file has no name.")
        return server, path

    async def _store_part(
        self,
        request: StreamingRequest,
        batches: BodyBatches,
        server: Server,
        path: FilePath,
    ) -> None:
        rules, name = self._rules(server), name_text(path.name)
        offset = whole_number("Upload-Offset", request.header("Upload-Offset"))
        total = whole_number("Upload-Length", request.header("Upload-Length"))
        if offset is None:
            raise BadRequest(INVALID, "Upload-Offset: expected how much was uploaded before")
        rules.check_size(name, total or 0)
        await self.use(request, resumes=True)

        def open_part(root: ServerRoot) -> PartialFile:
            rules.check_path(root, path)
            with ExitStack() as failing:
                part = failing.enter_context(root.partial_file(path, self.token.user))
                root.check_space(max((total or 0) - part.size, 0))
                failing.pop_all()
            return part

        def append(pieces: list[bytes], root: ServerRoot) -> None:
            for piece in pieces:
                rules.check_size(name, part.size + len(piece))
                part.write(piece)

        part = await self._write(server, open_part)
        try:
            request.setHeader("Upload-Offset", str(part.size))
            if part.size != offset:
                raise UploadOffsetWrong(part.size)
            while pieces := await batches.next():
                await self._write(server, partial(append, pieces))
            request.setHeader("Upload-Offset", str(part.size))
            if request.header("Upload-Complete").strip() == "?1":
                if total not in (None, part.size):
                    raise BadRequest(
                        "The upload is not complete.", f"{part.size} of {total} bytes are here"
                    )
                await self._write(server, lambda root: part.commit())
                self._record(request, path)
        finally:
            await self._node.files.short.workers.run(part.close)

    async def _store_form(
        self,
        request: StreamingRequest,
        batches: BodyBatches,
        server: Server,
    ) -> None:
        rules, expected = self._rules(server), self._expected(request)
        upload = FormUpload(
            request.header("Content-Type"),
            FilePath.parse(request.argument("directory")),
            rules,
            any_field=self._is_calagopus,
            expected=expected,
        )
        if not rules.is_too_large(expected):  # else refused when its name is known
            await self.use(request, resumes=False)
        try:
            while pieces := await batches.next():
                try:
                    await self._write(server, partial(upload.receive, pieces=pieces))
                finally:
                    while upload.whole:
                        self._record(request, upload.whole.pop(0))
            upload.close()
        finally:
            await self._node.files.short.workers.run(upload.abort)

    @property
    def _is_calagopus(self) -> bool:
        return self._config.family == CALAGOPUS

    def _rules(self, server: Server) -> FileRules:
        limit = self._config.api.upload_limit
        return FileRules(limit, self._node.files.denylist(server), Denylist(self.token.ignored))

    def _expected(self, request: StreamingRequest) -> int:
        """Return how many bytes the file of a form has at least, 0 where that is not known.

        Only pages are known to send one file in a request: other clients send several.
        """
        total = request.argument("total_size")
        if total.isascii() and total.isdecimal():
            return int(total[:_DIGITS])
        if self._is_calagopus or not request.header("Origin"):
            return 0
        length = request.header("Content-Length")
        return max(int(length) - FORM_OVERHEAD, 0) if length.isdecimal() else 0

    async def _write(self, server: Server, work: Callable[[ServerRoot], T]) -> T:
        # Each time, since a transfer may begin meanwhile, for one; it waits for what is written.
        server.operations.check(Operation.CHANGE_FILES)
        with server.operations.during(Operation.CHANGE_FILES):
            return await self._node.files.run(self._node.files.short, server, work, writes=True)

    def _record(self, request: StreamingRequest, path: FilePath) -> None:
        name, directory = name_text(path.name), f"/{path.parent}"
        files = {"files": [name]} if self._is_calagopus else {"file": name}
        self._node.activity.record(
            self.token.server,
            "server:file.uploaded",
            {**files, "directory": directory},
            self.token.user,
            client_address(self._config, request) or None,
        )


def _share_headers_of_parts(request: StreamingRequest) -> None:
    """Let pages of other origins, which the Panel's are, send and read the headers of parts."""
    name = "Access-Control-Allow-Headers"
    allowed = request.responseHeaders.getRawHeaders(name, [""])[-1]
    request.setHeader(name, f"{allowed}, Upload-Complete, Upload-Length, Upload-Offset")
    request.setHeader("Access-Control-Expose-Headers", "Upload-Offset")
