"""Signed URLs, by which browsers download and upload files and download backups.

A Panel's page gets such an address for a click of its user. The node's own token is not needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from http import HTTPStatus
from threading import Event
from typing import Annotated, Any, ClassVar, TypeVar

import attrs
from twisted.internet.defer import Deferred

from wingsd.api.files import attachment, lacks_range, read_files, whole_number
from wingsd.api.resource import Endpoint
from wingsd.archive.compress import Compression
from wingsd.auth.tokens import SignedToken, signed_token
from wingsd.backups.creation import missing_backup
from wingsd.config import CALAGOPUS
from wingsd.errors import (
    BadRequest,
    DirectoryMissing,
    FileMissing,
    Forbidden,
    IsDirectory,
    PathInvalid,
    PathNotFound,
    ServerNotFound,
    SignedUrlVoid,
    UploadOffsetWrong,
    UploadTruncated,
)
from wingsd.files.archives import (
    ArchiveKind,
    Compressing,
    default_name,
    existing,
    kind_of_format,
    pack_into,
)
from wingsd.files.denylist import Denylist
from wingsd.files.guard import Guard
from wingsd.files.uploads import FileRules, FormUpload
from wingsd.filesystem.directory import Entry, OpenFile
from wingsd.filesystem.new_file import PartialFile
from wingsd.filesystem.past import is_past
from wingsd.filesystem.paths import ServerPath as FilePath
from wingsd.filesystem.paths import name_text
from wingsd.filesystem.root import ServerRoot
from wingsd.http.body_sender import FileBody, StreamedBody, Validators
from wingsd.http.operations import INVALID, Access, Topic, call
from wingsd.http.request import BodyReader, PulledBody, StreamingRequest
from wingsd.servers.operations import Operation
from wingsd.servers.server import Server
from wingsd.threadio import Outflow
from wingsd.util.addresses import parse_address
from wingsd.util.serialization import Keywords


class SignedPath(Endpoint):
    """A path for browsers, whose `token` is in the query.

    No record of used tokens is lost with the daemon.
    """

    topic = Topic.FILES
    fails: ClassVar[tuple[int, ...]] = (400, 401, 403, 404, 409, 500, 503)
    token: SignedToken

    def authorize(self, access: Access) -> None:
        """Check the token, which is for the path. Raises `Unauthorized`, `SignedUrlVoid`."""
        assert access.kind is not None  # noqa: S101 - that of each signed path
        config = self._config
        token = signed_token(
            self._request.argument("token"), config.token, access.kind, config.family
        )
        if self._node.denied.revoked(token.keys, token.issued):
            raise SignedUrlVoid("the access of its user was changed after it was issued")
        self.token = token

    def server_for(self, operation: Operation) -> Server:
        """Return the server of the token, with which `operation` can be done now.

        Raises `SignedUrlVoid`, `Forbidden` for one that is suspended, `ServersNotLoaded` and
        `ServerBusy`.
        """
        try:
            server = self._node.servers.get(self.token.server)
        except ServerNotFound as error:
            raise SignedUrlVoid("its server is not on this node") from error
        if server.suspended:
            raise Forbidden("server is suspended", "only the Panel's administrators can help")
        server.operations.check(operation)
        return server

    @property
    def client_address(self) -> str:
        """The address of the user; empty where it is not known."""
        text = self._request.client_behind(self._config.api.trusted_proxies)
        try:
            return str(parse_address(text))
        except ValueError:
            return ""

    async def use(self, *, resumes: bool, counts: bool = True) -> None:
        """Count a use of the token, before the first byte is sent or read.

        With `resumes` the request continues one from the same address, which counted. Without
        `counts` it is only checked. Raises `SignedUrlVoid` where it was used as often as it may
        be, and `StorageError`.
        """
        token = self.token
        most = self._config.api.max_jwt_uses if self.is_calagopus else 1
        address = self.client_address
        if not await self._node.database.use_url(
            token.digest, token.expires, most, address, resumes=resumes, counts=counts
        ):
            raise SignedUrlVoid("it was used before")


@attrs.frozen(eq=False, repr=False)
class SignedQuery:
    """The token of a signed URL."""

    token: Annotated[str, "A JWT that the Panel has signed."] = ""


_FILE = {
    "Content-Disposition": "`attachment`, and the name.",
    "ETag": "Changes with the file; for `If-Range`.",
}
_NO_RANGE = (416,)


def download_headers(name: str) -> dict[str, str]:
    """Return the headers of a download, which no browser shows as a page of this node."""
    return {
        "Content-Type": "application/octet-stream",
        "Content-Disposition": attachment(name),
        "X-Content-Type-Options": "nosniff",
    }


class FileDownloadEndpoint(SignedPath):
    """The calls that send a file or a backup."""

    async def sent(self, file: OpenFile, name: str) -> FileBody:
        """Return the answer with an open file; the token is counted unless none is sent."""
        try:
            await self._use_for(file.entry)
        except BaseException:
            file.close()
            raise
        headers = download_headers(file.entry.text)
        validators = Validators(file.entry.size, file.entry.modified)
        return FileBody(file, validators, self._node.files.reads, name, headers)

    async def _use_for(self, entry: Entry, *, counts: bool = True) -> bool:
        """Use the token for a file; return whether any of it is sent, and the token used."""
        if self._request.method == b"HEAD" or lacks_range(self._request, entry):
            return False
        await self.use(resumes=bool(self._request.header("Range")), counts=counts)
        return True

    @call(200, "The bytes of the file.", answer_headers=_FILE, fails=_NO_RANGE)
    async def download_file(self, query: SignedQuery) -> FileBody:
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
            if is_described and (entry := root.stat(path)).is_regular:
                return OpenFile(-1, entry)
            try:
                return root.open_file(path)
            except IsDirectory as error:
                raise FileMissing(str(path)) from error

        async def opened() -> OpenFile:
            return await read_files(self._node, server, lane, open_file, (path,), gone.is_set)

        gone, lane = Event(), self._node.files.short
        self._request.notifyFinish().addErrback(lambda _: gone.set())
        # A file of the past would be copied before the request is refused.
        is_described = self._request.method == b"HEAD" or is_past(path)
        file = await opened()
        if is_described and await self._use_for(file.entry, counts=False):
            is_described = False
            file.close()
            file = await opened()
        return await self.sent(file, f"{server.uuid}: {path}")

    @call(200, "The bytes of the file.", answer_headers=_FILE, fails=_NO_RANGE)
    async def download_backup(self, query: SignedQuery) -> FileBody | StreamedBody:
        """Download a local backup of a server, or with `Range` a part of it (206).

        Its token is used up as that of a file. A backup that is a point of a history is packed
        while it is sent: `Range` has no effect, and the connection is closed before the end where
        it is damaged, or deleted meanwhile.
        """
        token = self.token
        if token.server:
            self.server_for(Operation.READ_FILES)
        opened = await self._node.files.short.workers.run(
            self._node.backup_store.open, token.server, token.backup
        )
        if opened is not None:
            return await self.sent(opened[1], f"backup {token.backup}")
        points = self._node.point_backups
        found = await points.find(token.server, token.backup)
        if found is None:
            raise await missing_backup(self._node.database, token.server, token.backup)
        level = Compression(self._config.system.backups.compression_level)

        def produce(outflow: Outflow) -> Deferred[None]:
            return Deferred.fromCoroutine(points.send(found, level, outflow))

        if self._request.method != b"HEAD":
            await self.use(resumes=False)
        headers = download_headers(f"{token.backup}.tar.gz")
        return StreamedBody(produce, f"backup {token.backup}", headers)


@attrs.frozen(eq=False, repr=False)
class ArchiveQuery(SignedQuery):
    """The token of a signed URL, and the format of the archive."""

    archive_format: Annotated[
        str, "tar, tar_gz, tar_xz, tar_bz2, tar_lz4, tar_zstd or zip; tar_gz by default."
    ] = ""


_ARCHIVE = {"Content-Disposition": "`attachment`, and the name."}


class ArchiveDownloadEndpoint(SignedPath):
    """The calls that send files as an archive."""

    def authorize(self, access: Access) -> None:
        """Check the token, on nodes of Calagopus; the others do not have the path."""
        if not self.is_calagopus:
            raise PathNotFound(
                self._request.path.decode("latin-1"),
                f"nodes of {CALAGOPUS} have it; when this node's Panel is of that family, say so "
                "by `family` in its configuration",
            )
        super().authorize(access)

    async def archive(
        self, kind: ArchiveKind, files: Sequence[FilePath], name: str
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
            existing(Guard(root, denylist, ignored), asked)

        def pack(outflow: Outflow, root: ServerRoot) -> None:
            pack_into(Guard(root, denylist, ignored), asked, outflow.write)
            outflow.finish()

        def produce(outflow: Outflow) -> Deferred[None]:
            work = self._node.archives.run(server, partial(pack, outflow))
            return Deferred.fromCoroutine(work)

        await self._node.files.short.run(server, check)
        if self._request.method != b"HEAD":
            await self.use(resumes=False)
        headers = {**download_headers(name), "Content-Type": kind.mime}
        return StreamedBody(produce, f"{server.uuid}: {asked.top}", headers)

    @call(200, "The archive. Its length is not known before.", answer_headers=_ARCHIVE)
    async def download_directory(self, query: ArchiveQuery) -> StreamedBody:
        """Download a directory as an archive, without what is denied or hidden from the user.

        Where a file cannot be read the connection is closed before the end.
        """
        kind = kind_of_format(query.archive_format or "tar_gz")
        name = name_text(FilePath.parse(self.token.file).name) or "server"
        files = (FilePath(),)
        return await self.archive(kind, files, f"{name}.{kind.suffix}")

    @call(200, "The archive. Its length is not known before.", answer_headers=_ARCHIVE)
    async def download_files(self, query: ArchiveQuery) -> StreamedBody:
        """Download files and directories of one directory as an archive; as for a directory."""
        kind = kind_of_format(query.archive_format or "tar_gz")
        files = tuple(map(FilePath.parse, self.token.files))
        name = f"{name_text(default_name(time.time()))}.{kind.suffix}"
        return await self.archive(kind, files, name)


T = TypeVar("T")

#: The most bytes of a form around its one file: what is longer than this and the limit together
#: has a file that is too large.
FORM_OVERHEAD = 64 << 10
#: No file has a size with more digits.
_DIGITS = 18
_OFFSET = {"Upload-Offset": "How many bytes of the file are here."}


@attrs.frozen(eq=False, repr=False)
class PartQuery(SignedQuery):
    """The file that is uploaded in parts (Calagopus)."""

    directory: Annotated[str, "The directory, which is made if it is missing."] = ""
    file: Annotated[str, "The name in the directory; it may be a path."] = ""


@attrs.frozen(eq=False, repr=False)
class PartHeaders:
    """Where a part belongs."""

    upload_offset: Annotated[
        str, "Where it begins: how much is here.", Keywords(type="integer", minimum=0)
    ]
    upload_length: Annotated[
        str, "The bytes of the whole file, if known.", Keywords(type="integer", minimum=0)
    ] = ""
    upload_complete: Annotated[str, "`?1` with the last part."] = ""


@attrs.frozen(eq=False, repr=False)
class FileUploadForm:
    """The files."""

    files: Annotated[
        bytes,
        "A file, with its name; may be repeated. With Calagopus, any field with a file name, "
        "which may be a path.",
    ]


@attrs.frozen(eq=False, repr=False)
class UploadQuery(SignedQuery):
    """Where files are uploaded to, and by whom."""

    directory: Annotated[str, "The directory, which is made if it is missing."] = ""
    total_size: Annotated[str, "The bytes of the file, if known (Calagopus)."] = ""


class FileUploadEndpoint(SignedPath):
    """`/upload/file`."""

    def render(self, request: Any) -> None:
        """Start the call."""
        self._share_headers_of_parts()
        super().render(request)

    @call(200, "All files are stored.", form=FileUploadForm)
    def upload_files(self, query: UploadQuery) -> BodyReader:
        """Store files of a form in a server's directory.

        Each is written as it arrives, and replaces an existing file when it is whole. A file
        above `api.upload_limit` is refused as soon as that is known. Those before it are kept.
        """
        server = self.server_for(Operation.CHANGE_FILES)
        return self._stored(partial(self._store_form, server))

    def open_body(self, request: StreamingRequest) -> BodyReader:
        """Begin to read the body of a request."""
        self._share_headers_of_parts()
        self.authorize(Access.FILE_UPLOAD)
        reader: BodyReader
        if request.method == b"PATCH":
            reader = self.continue_upload(PartQuery())
        else:
            reader = self.upload_files(UploadQuery())
        return reader

    def _share_headers_of_parts(self) -> None:
        """Let pages of other origins, as the Panel's are, send and read the headers of parts."""
        name = "Access-Control-Allow-Headers"
        allowed = self._request.responseHeaders.getRawHeaders(name, [""])[-1]
        value = f"{allowed}, Upload-Complete, Upload-Length, Upload-Offset"
        self._request.setHeader(name, value)
        self._request.setHeader("Access-Control-Expose-Headers", "Upload-Offset")

    @call(200, "The part is known.", answer_headers=_OFFSET)
    async def get_upload_offset(self, query: PartQuery) -> None:
        """Return how much of a file was uploaded by PATCH; 0 where nothing was."""
        server, path = self._part()

        def size(root: ServerRoot) -> int:
            try:
                with root.partial_file(path, self.token.user, make=False) as part:
                    return part.size
            except FileMissing:
                return 0

        found = await self._node.files.short.run(server, size)
        self._request.setHeader("Upload-Offset", str(found))

    @call(200, "Nothing of it is left.")
    async def discard_upload(self, query: PartQuery) -> None:
        """Delete what was uploaded of a file by PATCH."""
        server, path = self._part()

        def discard(root: ServerRoot) -> None:
            with (
                suppress(FileMissing),
                root.partial_file(path, self.token.user, make=False) as part,
            ):
                part.discard()

        await self._write(server, discard)

    @call(200, "The part is stored.", answer_headers=_OFFSET, form=bytes, headers=PartHeaders)
    def continue_upload(self, query: PartQuery) -> BodyReader:
        """Append a part to a file, which gets its name when that was the last one.

        What has arrived stays when the connection breaks, for a day; HEAD tells how much it is. It
        belongs to the user of the token.
        """
        server, path = self._part()
        return self._stored(partial(self._store_part, server, path))

    def _stored(self, store: Callable[[PulledBody], Coroutine[Any, Any, None]]) -> PulledBody:
        """Return the reader of a body that is being stored; its end is the answer."""
        truncated = partial(UploadTruncated, "the upload ended before it was complete")
        body = PulledBody(self._request, truncated)
        storing = Deferred.fromCoroutine(store(body))
        storing.addCallback(lambda _: self._request.respond(HTTPStatus.OK))
        storing.addErrback(self.failed)
        return body

    def _part(self) -> tuple[Server, FilePath]:
        """Return server and path of a request for a part of a file."""
        server = self.server_for(Operation.CHANGE_FILES)
        directory = FilePath.parse(self._request.argument("directory"))
        path = directory.joined(self._request.argument("file"))
        if path.contains(directory):
            raise PathInvalid("the file has no name.")
        return server, path

    async def _store_part(self, server: Server, path: FilePath, body: PulledBody) -> None:
        rules, name = self._rules(server), name_text(path.name)
        offset = whole_number("Upload-Offset", self._request.header("Upload-Offset"))
        total = whole_number("Upload-Length", self._request.header("Upload-Length"))
        if offset is None:
            raise BadRequest(INVALID, "Upload-Offset: expected how much was uploaded before")
        rules.check_size(name, total or 0)
        await self.use(resumes=True)

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
            self._request.setHeader("Upload-Offset", str(part.size))
            if part.size != offset:
                raise UploadOffsetWrong(part.size)
            while pieces := await body.next():
                await self._write(server, partial(append, pieces))
            self._request.setHeader("Upload-Offset", str(part.size))
            if self._request.header("Upload-Complete").strip() == "?1":
                if total not in (None, part.size):
                    raise BadRequest(
                        "The upload is not complete.", f"{part.size} of {total} bytes are here"
                    )
                await self._write(server, lambda root: part.commit())
                self._record(path)
        finally:
            await self._node.files.short.workers.run(part.close)

    async def _store_form(self, server: Server, body: PulledBody) -> None:
        rules, expected = self._rules(server), self._expected()
        upload = FormUpload(
            self._request.header("Content-Type"),
            FilePath.parse(self._request.argument("directory")),
            rules,
            any_field=self.is_calagopus,
            expected=expected,
        )
        if not rules.is_too_large(expected):  # else refused when its name is known
            await self.use(resumes=False)
        try:
            while pieces := await body.next():
                try:
                    await self._write(server, partial(upload.receive, pieces=pieces))
                finally:
                    while upload.whole:
                        self._record(upload.whole.pop(0))
            upload.close()
        finally:
            await self._node.files.short.workers.run(upload.abort)

    def _rules(self, server: Server) -> FileRules:
        limit = self._config.api.upload_limit
        return FileRules(limit, self._node.files.denylist(server), Denylist(self.token.ignored))

    def _expected(self) -> int:
        """Return how many bytes the file of a form has at least, 0 where that is not known.

        Only pages are known to send one file in a request: other clients send several.
        """
        total = self._request.argument("total_size")
        if total.isascii() and total.isdecimal():
            return int(total[:_DIGITS])
        if self.is_calagopus or not self._request.header("Origin"):
            return 0
        length = self._request.header("Content-Length")
        return max(int(length) - FORM_OVERHEAD, 0) if length.isdecimal() else 0

    async def _write(self, server: Server, work: Callable[[ServerRoot], T]) -> T:
        # Each time, since a transfer may begin meanwhile, for one; it waits for what is written.
        server.operations.check(Operation.CHANGE_FILES)
        with server.operations.during(Operation.CHANGE_FILES):
            return await self._node.files.short.run(server, work, writes=True)

    def _record(self, path: FilePath) -> None:
        name, directory = name_text(path.name), f"/{path.parent}"
        files = {"files": [name]} if self.is_calagopus else {"file": name}
        self._node.activity.record(
            self.token.server,
            "server:file.uploaded",
            {**files, "directory": directory},
            self.token.user,
            self.client_address or None,
        )
