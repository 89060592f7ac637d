"""`/upload/file`: files that a browser uploads, in a form or in parts that can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Annotated, TypeVar

import attrs
from twisted.internet.defer import Deferred

from wingsd.activity import ActivityRecorder
from wingsd.api.body_batches import BodyBatches
from wingsd.api.signed_urls import SignedPath, SignedUrls, client_address
from wingsd.auth.signed_urls import SignedToken, SignedUse
from wingsd.config import CALAGOPUS, Config
from wingsd.files.denylist import Denylist
from wingsd.files.uploads import FileRules, FormUpload
from wingsd.files.work import FileWork
from wingsd.filesystem import ServerPath as FilePath
from wingsd.filesystem import ServerRoot, name_text
from wingsd.http.operations import Success, call
from wingsd.http.request import BodyReader, StreamingRequest
from wingsd.servers.operations import Operation
from wingsd.servers.server import Server

__all__ = ["FileUploadEndpoint"]

T = TypeVar("T")

#: The most bytes of a form around its one file: what is longer than this and the limit together
#: has a file that is too large.
FORM_OVERHEAD = 64 << 10
#: No file has a size with more digits.
_DIGITS = 18


@attrs.frozen
class UploadForm:
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

    use = SignedUse.FILE_UPLOAD
    streamed_methods = frozenset({b"POST"})

    def __init__(
        self,
        config: Config,
        urls: SignedUrls,
        work: FileWork,
        activity: ActivityRecorder,
        parts: Mapping[str, bytes] = {},
    ) -> None:
        super().__init__(config, urls, parts)
        self._work = work
        self._activity = activity

    @call("POST", Success(HTTPStatus.OK, "All files are stored."), form=UploadForm)
    def upload_files(self, request: StreamingRequest, query: UploadQuery) -> BodyReader:
        """Store files of a form in a server's directory.

        Each is written as it arrives, and replaces an existing file when it is whole. A file
        above `api.upload_limit` is refused as soon as that is known. Those before it are kept.
        """
        token = self.token(request)
        server = self._urls.server(token, Operation.CHANGE_FILES)
        batches = BodyBatches(request)
        storing = Deferred.fromCoroutine(self._store_form(request, batches, token, server))
        storing.addCallback(lambda _: request.respond(HTTPStatus.OK))
        storing.addErrback(partial(self.failed, request))
        return batches

    def open_body(self, request: StreamingRequest) -> BodyReader:
        """Begin to read the body of a request."""
        return self.upload_files(request, UploadQuery())

    async def _store_form(
        self,
        request: StreamingRequest,
        batches: BodyBatches,
        token: SignedToken,
        server: Server,
    ) -> None:
        rules, expected = self._rules(token, server), self._expected(request)
        upload = FormUpload(
            request.header("Content-Type"),
            FilePath.parse(request.argument("directory")),
            rules,
            any_field=self._is_calagopus,
            expected=expected,
        )
        if not rules.is_too_large(expected):  # else refused when its name is known
            await self._urls.use(self._config, request, token, resumes=False)
        try:
            while pieces := await batches.next():
                try:
                    await self._write(server, partial(upload.receive, pieces=pieces))
                finally:
                    while upload.whole:
                        self._record(request, token, upload.whole.pop(0))
            upload.close()
        finally:
            await self._work.short.workers.run(upload.abort)

    @property
    def _is_calagopus(self) -> bool:
        return self._config.family == CALAGOPUS

    def _rules(self, token: SignedToken, server: Server) -> FileRules:
        limit = self._config.api.upload_limit
        return FileRules(limit, self._work.denylist(server), Denylist(token.ignored))

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
        # Each time, since a transfer may begin meanwhile, for one.
        server.operations.check(Operation.CHANGE_FILES)
        return await self._work.run(self._work.short, server, work, writes=True)

    def _record(self, request: StreamingRequest, token: SignedToken, path: FilePath) -> None:
        name, directory = name_text(path.name), f"/{path.parent}"
        files = {"files": [name]} if self._is_calagopus else {"file": name}
        self._activity.record(
            token.server,
            "server:file.uploaded",
            {**files, "directory": directory},
            token.user,
            client_address(self._config, request) or None,
        )
