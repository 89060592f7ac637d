"""Directories of a server: `list-directory` for the PHP Panels, `list` for Calagopus'."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated, TypeVar

import attrs
from twisted.logger import Logger

from wingsd.api.files import FilesPath, hidden_by, whole_number
from wingsd.errors import BadRequest, DirectoryMissing
from wingsd.files.denylist import Denylist
from wingsd.files.entries import MAX_ENTRIES, DirectoryLarge, FileEntry, Page, Sort, list_directory
from wingsd.filesystem import ServerPath, ServerRoot
from wingsd.http.long_lists import encoded
from wingsd.http.operations import INVALID, Encoded, Success, call
from wingsd.http.request import StreamingRequest
from wingsd.util.media import accepted
from wingsd.util.serialization import Keywords

__all__ = ["DirectoryListEndpoint", "PagedListEndpoint"]

_PELICANS_MESSAGE = "The requested directory was not found on the server."


@attrs.frozen
class DirectoryQuery:
    """Which directory."""

    directory: Annotated[str, "The path in the server's directory."] = ""


@attrs.frozen
class PageQuery:
    """Which page of which directory."""

    directory: Annotated[str, "The path in the server's directory."] = ""
    root: Annotated[str, "The same."] = ""
    ignored: Annotated[tuple[str, ...], "Files that are left out, as in gitignore."] = ()
    per_page: Annotated[str, "Entries of a page; `api.directory_entry_limit` without it."] = ""
    page: Annotated[str, "From 1."] = ""
    sort: Annotated[str, "The order.", Keywords(enum=[each.value for each in Sort])] = "name_asc"


@attrs.frozen
class DirectoryPage:
    """A page of a directory."""

    total: Annotated[int, "The entries of all pages."]
    filesystem_primary: bool
    filesystem_writable: bool
    filesystem_fast: bool
    uploads: Annotated[tuple[str, ...], "Always empty."]
    entries: tuple[FileEntry, ...]


T = TypeVar("T")


class _ListPath(FilesPath):
    fails = (HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE)
    _log = Logger()

    async def _listed(self, work: Callable[[ServerRoot, bool], T]) -> T:
        """Call `work` for a small directory, and for a large one when it is its turn."""
        try:
            return await self.run(self._node.files.short, lambda root: work(root, True))
        except DirectoryLarge:
            return await self.run(self._node.files.large, lambda root: work(root, False))

    def _warn(self, path: ServerPath, is_complete: bool) -> None:
        if not is_complete:
            self._log.warn(
                "{server}: directory not listed completely: {path} has more than {most} entries",
                server=self.game_server.uuid,
                path=str(path) or "/",
                most=MAX_ENTRIES,
            )


class DirectoryListEndpoint(_ListPath):
    """`/api/servers/{uuid}/files/list-directory`."""

    @call("GET", Success(HTTPStatus.OK, "The entries, directories first, then by name."))
    async def list_files(
        self, request: StreamingRequest, query: DirectoryQuery
    ) -> Encoded[tuple[FileEntry, ...]]:
        """Return the entries of a directory, the first 100,000 of them.

        Symlinks are not followed. Files on the egg's denylist are listed.
        """
        path, media = ServerPath.parse(query.directory), accepted(request.header("Accept"))

        def work(root: ServerRoot, small: bool) -> tuple[bool, Encoded[tuple[FileEntry, ...]]]:
            listing = list_directory(root, path, Page(), (), self._gone.is_set, small=small)
            return listing.is_complete, encoded(listing.entries, media)

        try:
            is_complete, answer = await self._listed(work)
        except DirectoryMissing as error:
            if self._config.is_pelican:
                error.message = _PELICANS_MESSAGE
            raise
        self._warn(path, is_complete)
        return answer


class PagedListEndpoint(_ListPath):
    """`/api/servers/{uuid}/files/list`, for Calagopus' Panel."""

    @call("GET", Success(HTTPStatus.OK, "The entries, directories first, then in that order."))
    async def list_page(
        self, request: StreamingRequest, query: PageQuery
    ) -> Encoded[DirectoryPage]:
        """Return a page of a directory.

        Symlinks are not followed. Files on the egg's denylist, and those of `ignored`, are as if
        they were not there.
        """
        path = ServerPath.parse(query.directory or query.root)
        page, media = self._page(query), accepted(request.header("Accept"))
        denylist, ignored = self.denylist, Denylist(query.ignored)

        def work(root: ServerRoot, small: bool) -> tuple[bool, Encoded[DirectoryPage]]:
            hidden = hidden_by(denylist, ignored)
            listing = list_directory(root, path, page, hidden, self._gone.is_set, small=small)
            around = {
                "total": listing.total,
                "filesystem_primary": True,
                "filesystem_writable": True,
                "filesystem_fast": True,
                "uploads": [],
            }
            return listing.is_complete, encoded(listing.entries, media, around, "entries")

        is_complete, answer = await self._listed(work)
        self._warn(path, is_complete)
        return answer

    def _page(self, query: PageQuery) -> Page:
        size = whole_number("per_page", query.per_page)
        number = whole_number("page", query.page)
        try:
            sort = Sort(query.sort)
        except ValueError as error:
            known = ", ".join(each.value for each in Sort)
            raise BadRequest(INVALID, f"sort: expected one of {known}") from error
        limit = self._config.api.directory_entry_limit
        return Page(max(number or 1, 1), limit if size is None else size, sort)
