"""Searches in a server's files, and their fingerprints."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

import attrs

from wingsd.api.files import FilesPath, hidden_by
from wingsd.errors import BadRequest, FileWorkCancelled, WingsdError
from wingsd.files.denylist import Denylist
from wingsd.files.entries import FileEntry
from wingsd.files.guard import Guard
from wingsd.files.search import (
    MAX_RESULTS,
    Algorithm,
    ContentFilter,
    FileFilter,
    SearchLimits,
    content_search,
    fingerprint,
    name_matcher,
    name_search,
)
from wingsd.filesystem import ServerPath, ServerRoot
from wingsd.http.long_lists import encoded
from wingsd.http.operations import INVALID, Encoded, Success, call
from wingsd.http.request import StreamingRequest
from wingsd.util.media import accepted
from wingsd.util.serialization import Keywords

__all__ = ["FileSearch", "FingerprintsEndpoint", "SearchEndpoint", "search_filter"]

#: Characters that a pattern has at least; the message is Pelican's.
_LEAST = 3
_TOO_SHORT = "Pattern must be at least 3 characters long"
#: Depth of directories in Calagopus' searches, which have none of their own.
_DEPTH = 64
#: Results, and bytes of a file that is searched, in Calagopus' form of 2025.
_OLD_RESULTS, _OLD_SIZE = 100, 512 * 1024


@attrs.frozen
class SearchQuery:
    """What is searched for, and where."""

    directory: Annotated[str, "The directory below which is searched."] = ""
    pattern: Annotated[str, "A glob with `*` or `?`, or a part of the name."] = ""


@attrs.frozen
class PathFilter:
    """Patterns as in gitignore for paths below `root`."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    case_insensitive: bool = False


@attrs.frozen
class SizeFilter:
    """Bytes of a file: at least `min`, and less than `max`."""

    max: int
    min: int = 0


@attrs.frozen
class ContentQuery:
    """A text that files contain; of those that are larger than `max_search_size` none does."""

    query: str
    max_search_size: int
    include_unmatched: Annotated[bool, "Whether those larger files are results."] = False
    case_insensitive: bool = False


@attrs.frozen
class FileSearch:
    """A search of Calagopus' Panel; the last four fields are those of 2025."""

    root: str = ""
    path_filter: PathFilter | None = None
    size_filter: SizeFilter | None = None
    content_filter: ContentQuery | None = None
    per_page: Annotated[int, Keywords(minimum=1)] = MAX_RESULTS
    query: Annotated[str, "A part of the path."] = ""
    include_content: Annotated[bool, "Whether the content may have it as well."] = False
    limit: int = _OLD_RESULTS
    max_size: int = _OLD_SIZE


@attrs.frozen
class FoundFiles:
    """What a search has found; names are paths below its root."""

    results: tuple[FileEntry, ...]


class SearchEndpoint(FilesPath):
    """`/api/servers/{uuid}/files/search`."""

    fails = (HTTPStatus.NOT_FOUND,)

    @call("GET", Success(HTTPStatus.OK, "The files and directories, whose names are their paths."))
    async def search_names(
        self, request: StreamingRequest, query: SearchQuery
    ) -> Encoded[tuple[FileEntry, ...]]:
        """Search for names, case aside (Pelican).

        `Search` in the configuration has the depth, and the directories that are passed over. The
        first 1,000 results, and what was found within 100 s, is the answer. A search ends when
        the client goes.
        """
        if len(query.pattern) < _LEAST:
            raise BadRequest(_TOO_SHORT)
        start, media = ServerPath.parse(query.directory), accepted(request.header("Accept"))
        prefix = query.directory.rstrip("/")
        settings = self._config.Search
        limits = SearchLimits(
            settings.max_recursion_depth,
            skipped=frozenset(name.lower().encode() for name in settings.blacklisted_dirs),
        )

        def work(root: ServerRoot) -> Encoded[tuple[FileEntry, ...]]:
            matches = name_matcher(query.pattern)
            found = name_search(root, start, matches, limits, self._gone.is_set)
            for each in found if prefix else ():
                each["name"] = f"{prefix}/{each['name']}"
            return encoded(found, media)

        return await self.run(self._node.files.long, work)

    @call("POST", Success(HTTPStatus.OK, "The regular files, whose names are paths below `root`."))
    async def search_files(
        self, request: StreamingRequest, body: FileSearch
    ) -> Encoded[FoundFiles]:
        """Search for files by path, size and content (Calagopus).

        Files on the egg's denylist are never found. A search ends as that of Pelican does.
        """
        start, media = ServerPath.parse(body.root), accepted(request.header("Accept"))
        wanted, results = search_filter(body)
        limits = SearchLimits(_DEPTH, results=max(1, min(results, MAX_RESULTS)))
        denylist = self.denylist

        def work(root: ServerRoot) -> Encoded[FoundFiles]:
            hidden = hidden_by(denylist)
            found = content_search(root, start, wanted, hidden, limits, self._gone.is_set)
            return encoded(found, media, {}, "results")

        return await self.run(self._node.files.long, work)


def search_filter(body: FileSearch) -> tuple[FileFilter, int]:
    """Return which files a search wants, and how many of them at most."""
    return _old_filter(body) if body.query else _filter(body)


def _filter(body: FileSearch) -> tuple[FileFilter, int]:
    paths = body.path_filter or PathFilter()
    sizes, content = body.size_filter, body.content_filter
    include, exclude = paths.include, paths.exclude
    if paths.case_insensitive:
        include = tuple(each.lower() for each in include)
        exclude = tuple(each.lower() for each in exclude)
    return FileFilter(
        included=Denylist(include),
        excluded=Denylist(exclude),
        ignore_case=paths.case_insensitive,
        sizes=None if sizes is None else range(max(sizes.min, 0), max(sizes.max, 0)),
        content=None
        if content is None
        else ContentFilter(
            content.query.encode(),
            content.max_search_size,
            content.include_unmatched,
            content.case_insensitive,
        ),
    ), body.per_page


def _old_filter(body: FileSearch) -> tuple[FileFilter, int]:
    content = None
    if body.include_content:
        content = ContentFilter(body.query.encode(), body.max_size, ignore_case=True)
    return FileFilter(content=content, part=body.query), body.limit


@attrs.frozen
class FingerprintsQuery:
    """Which files, and the algorithm."""

    algorithm: Annotated[str, Keywords(enum=[each.value for each in Algorithm])] = ""
    files: Annotated[tuple[str, ...], "Paths below `root`."] = ()
    root: Annotated[str, "A directory; the server's own without it."] = ""
    ignored: Annotated[tuple[str, ...], "Files that are left out, as in gitignore."] = ()


@attrs.frozen
class Fingerprints:
    """Fingerprints by the paths as they were given."""

    fingerprints: dict[str, str]


class FingerprintsEndpoint(FilesPath):
    """`/api/servers/{uuid}/files/fingerprints`, for Calagopus' Panel."""

    @call("GET", Success(HTTPStatus.OK, "The fingerprints of the files that are there."))
    async def get_fingerprints(
        self, request: StreamingRequest, query: FingerprintsQuery
    ) -> Fingerprints:
        """Return fingerprints of regular files: hexadecimal, of `curseforge` decimal.

        Files that are missing or denied are left out. The work ends when the client goes.
        """
        try:
            algorithm = Algorithm(query.algorithm.lower())
        except ValueError as error:
            known = ", ".join(each.value for each in Algorithm)
            raise BadRequest(INVALID, f"algorithm: expected one of {known}") from error
        start = ServerPath.parse(query.root)
        paths = {given: start.joined(given) for given in query.files}
        denylists = (self.denylist, Denylist(query.ignored))

        def work(root: ServerRoot) -> dict[str, str]:
            found = {}
            guard = Guard(root, *denylists)
            for given, path in paths.items():
                try:
                    if guard.denies(path):
                        continue
                    with root.open_file(path) as file:
                        found[given] = fingerprint(file, algorithm, self._gone.is_set)
                except FileWorkCancelled:
                    raise
                except (WingsdError, OSError):
                    continue
            return found

        return Fingerprints(await self.run(self._node.files.long, work))
