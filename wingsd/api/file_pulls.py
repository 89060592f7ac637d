"""`/api/servers/{uuid}/files/pull`: downloads from a URL into a server's files."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

import attrs

from wingsd.api.file_changes import ChangePath, Started, described
from wingsd.errors import BadRequest, RemoteDownloadDisabled
from wingsd.files.entries import FileEntry
from wingsd.files.pulls import Pull, PullTarget
from wingsd.filesystem import ServerPath
from wingsd.http.operations import INVALID, Accepted, Success, call
from wingsd.http.request import StreamingRequest
from wingsd.http_client.urls import WebUrl, disposition_name, plain_name
from wingsd.servers.operations import Operation
from wingsd.util.serialization import Keywords

__all__ = ["PullEndpoint", "PullQueryEndpoint", "PullsEndpoint"]

_Url = Annotated[str, "The URL, of http or https."]


class PullPath(ChangePath):
    """A path for downloads."""

    operation = Operation.READ_FILES

    def check_enabled(self) -> None:
        """Raise `RemoteDownloadDisabled`."""
        if self._config.api.disable_remote_download:
            raise RemoteDownloadDisabled


@attrs.frozen(eq=False, repr=False)
class NewPull:
    """A file to be downloaded."""

    url: _Url
    root: Annotated[str, "The directory that it is stored in, made if it is missing."] = ""
    directory: Annotated[str, "The same; one of both is required."] = ""
    file_name: Annotated[str | None, "Its path in that directory; else the URL's name."] = None
    use_header: Annotated[bool, "Whether the name that the other server gives comes first."] = (
        False
    )
    foreground: Annotated[bool, "Whether the answer waits for the end."] = False
    ignored: Annotated[tuple[str, ...], "Files that are denied as well, as in gitignore."] = ()


@attrs.frozen(eq=False, repr=False)
class GoPull:
    """A download under way, with the names of Wings."""

    Identifier: str
    Progress: Annotated[float, "The part that is here, 0 to 1."]


@attrs.frozen(eq=False, repr=False)
class CalagopusPull:
    """A download under way, for Calagopus' Panel."""

    identifier: str
    destination: Annotated[str, "The path; the directory while the name is not known."]
    progress: Annotated[int, "The bytes that are here."]
    total: Annotated[int, "The bytes of the file, 0 while they are not known."]


@attrs.frozen(eq=False, repr=False)
class PullList:
    """The downloads under way; null where there are none (Pterodactyl, Pelican)."""

    downloads: list[GoPull] | list[CalagopusPull] | None


class PullsEndpoint(PullPath):
    """`/api/servers/{uuid}/files/pull`."""

    @call("POST", Success(HTTPStatus.OK, "The file."))
    async def pull_file(
        self, request: StreamingRequest, body: NewPull
    ) -> FileEntry | Accepted[FileEntry | Started]:
        """Download a file from a URL.

        The answer is 202 with an identifier, and the console tells the end. With `foreground` it
        is 200 with the file if that is here within ten seconds. A file of that name is replaced
        when the new one is whole. The other server must announce a length that fits the server's
        disk limit. Redirects are followed up to `api.remote_download.max_redirects`, but none from
        https to http. Networks that are not public are refused, for each redirect as well.
        """
        self.check_enabled()
        top = body.root or body.directory
        if not top:
            raise BadRequest(INVALID, "root: expected a directory")
        name = body.file_name or ""
        target = PullTarget(ServerPath.parse(top), name, body.use_header, body.ignored)
        server, waits = self.game_server, body.foreground
        pull = self._node.pulls.start(server, body.url, target, detached=not waits)
        if waits and await self._node.file_tasks.wait(pull):
            return await self._entry(pull)
        return Accepted(Started(pull.identifier))

    async def _entry(self, pull: Pull) -> FileEntry:
        path, entry = pull.progress.target, pull.value
        assert path is not None  # noqa: S101 - it has ended well
        assert entry is not None  # noqa: S101 - the same
        return await self.run(self._node.files.short, lambda root: described(root, path, entry))

    @call("GET", Success(HTTPStatus.OK, "The downloads."))
    async def list_pulls(self, request: StreamingRequest) -> PullList:
        """Return the downloads of a server that are under way, and how far they are."""
        pulls = self._node.pulls.of(self.game_server.uuid)
        if self.is_calagopus:
            return PullList([_for_calagopus(pull) for pull in pulls])
        return PullList([_for_go(pull) for pull in pulls] or None)


class PullEndpoint(PullPath):
    """`/api/servers/{uuid}/files/pull/{identifier}`."""

    @call("DELETE", Success(HTTPStatus.NO_CONTENT, "It ends soon, or there is none."))
    async def cancel_pull(self, request: StreamingRequest) -> None:
        """Cancel a download; nothing is left of its file."""
        identifier = self.part("identifier")
        self._node.pulls.cancel(self.game_server.uuid, identifier)


@attrs.frozen(eq=False, repr=False)
class PullQuery:
    """A URL to be looked at."""

    url: _Url


@attrs.frozen(eq=False, repr=False)
class PullDescription:
    """What a URL leads to."""

    file_name: Annotated[str | None, "The name that the other server gives, or that of the URL."]
    file_size: Annotated[int | None, "Its bytes, if they are told.", Keywords(minimum=0)]
    final_url: Annotated[str, "The URL after all redirects."]
    headers: Annotated[dict[str, str], "The headers of the answer, with names in lower case."]


class PullQueryEndpoint(PullPath):
    """`/api/servers/{uuid}/files/pull/query`, for Calagopus' Panel."""

    @call("POST", Success(HTTPStatus.OK, "What is there."))
    async def query_pull(self, request: StreamingRequest, body: PullQuery) -> PullDescription:
        """Return what a URL leads to, by the same rules as a download; nothing is stored."""
        self.check_enabled()
        url = WebUrl.parse(body.url)
        answer = await self._node.pulls.describe(self.game_server, body.url)
        name = disposition_name(answer.header("content-disposition"))
        headers: dict[str, str] = {}
        for key, value in answer.headers:
            headers[key] = f"{headers[key]}, {value}" if key in headers else value
        return PullDescription(
            name or plain_name(url.last_segment) or None,
            answer.length,
            str(answer.url),
            headers,
        )


def _for_go(pull: Pull) -> GoPull:
    total = pull.progress.bytes_total
    return GoPull(pull.identifier, pull.progress.bytes_done / total if total else 0.0)


def _for_calagopus(pull: Pull) -> CalagopusPull:
    progress = pull.progress
    shown = "" if progress.target is None else str(progress.target)
    return CalagopusPull(pull.identifier, shown, progress.bytes_done, progress.bytes_total)
