"""`/api/servers/{uuid}/files/...`: the calls that read, list and search a server's files."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import Enum
from functools import partial
from http import HTTPStatus
from io import BytesIO
from threading import Event
from typing import Annotated, Any, ClassVar, TypeVar
from urllib.parse import quote

import attrs
import msgpack
from twisted.logger import Logger

from wingsd.api.context import NodeContext
from wingsd.api.resource import ServerResource
from wingsd.errors import (
    BadRequest,
    Conflict,
    DirectoryMissing,
    FileDenied,
    FileMissing,
    FileNotPermitted,
    FileTooLarge,
    FileWorkCancelled,
    PastReadOnly,
    RangeNotSatisfiable,
    Unprocessable,
    WingsdError,
)
from wingsd.files.denylist import Denylist
from wingsd.files.entries import (
    HEAD,
    MAX_ENTRIES,
    DirectoryLarge,
    FileEntry,
    Page,
    Sort,
    list_directory,
    mime_of,
)
from wingsd.files.guard import Guard
from wingsd.files.search import (
    MAX_RESULTS,
    Algorithm,
    ContentFilter,
    FileFilter,
    Search,
    SearchLimits,
    fingerprint,
    name_matcher,
)
from wingsd.files.tasks import Lane
from wingsd.filesystem.directory import Entry, OpenFile
from wingsd.filesystem.past import is_past
from wingsd.filesystem.paths import ServerPath, file_error
from wingsd.filesystem.paths import ServerPath as FilePath
from wingsd.filesystem.root import ServerRoot
from wingsd.histories import PastLane
from wingsd.http.body_sender import FileBody, Validators, requested_range
from wingsd.http.operations import INVALID, Call, Encoded, Topic, call
from wingsd.http.request import StreamingRequest
from wingsd.servers.operations import Operation
from wingsd.servers.server import Server
from wingsd.util.media import MediaType, accepted
from wingsd.util.serialization import Keywords

T = TypeVar("T")
Choice = TypeVar("Choice", bound=Enum)

#: Errors of file calls whose text Calagopus' Panel shows to its users with the status 417 only.
_SHOWN_AS_417 = (BadRequest, Conflict, FileDenied, FileNotPermitted, Unprocessable)
#: The longest number that a query may have.
_DIGITS = 15


class FilesPath(ServerResource):
    """A path for the files of one server, which may be read by `operation`.

    What runs for it in a thread is cancelled when the client goes.
    """

    topic = Topic.FILES
    fails: ClassVar[tuple[int, ...]] = (400, 409, 417, 500)
    operation = Operation.READ_FILES

    async def handle(self, call: Call) -> None:
        """Run a call. Raises `ServerBusy` where what is under way excludes it."""
        self._gone = Event()
        self._request.notifyFinish().addErrback(lambda _: self._gone.set())
        try:
            await super().handle(call)
        except WingsdError as error:
            if self.is_calagopus and isinstance(error, _SHOWN_AS_417):
                error.status = HTTPStatus.EXPECTATION_FAILED
            raise

    async def run(self, lane: Lane, work: Callable[[ServerRoot], T], *paths: ServerPath) -> T:
        """Call `work`, which reads these paths, in a thread; return its result.

        It gets the server's directory, with its past where a path leads there.
        """
        server = self.game_server
        server.operations.check(self.operation)
        return await read_files(self._node, server, lane, work, paths, self._gone.is_set)

    @property
    def denylist(self) -> Denylist:
        """The files that the server's egg denies."""
        return self._node.files.denylist(self.game_server)


def reading_lane(
    node: NodeContext,
    server: Server,
    lane: Lane,
    paths: Iterable[ServerPath],
    cancelled: Callable[[], bool] = lambda: False,
) -> Lane:
    """Return the lane for work that reads these paths: another one where one is in the past."""
    if not server.files.has_past or not any(map(is_past, paths)):
        return lane
    if lane in (node.files.short, node.files.long):
        lane = node.files.past
    return PastLane(lane, node.histories, cancelled)


async def read_files(
    node: NodeContext,
    server: Server,
    lane: Lane,
    work: Callable[[ServerRoot], T],
    paths: Collection[ServerPath],
    cancelled: Callable[[], bool],
) -> T:
    """Call `work`, which reads these paths, in a thread of the lane that they need."""
    first = reading_lane(node, server, lane, paths, cancelled)
    try:
        return await first.run(server, work)
    except PastReadOnly:
        second = reading_lane(node, server, lane, paths, cancelled)
        if type(second) is type(first):
            raise
        # It was found out meanwhile that the server has a past.
        return await second.run(server, work)


@attrs.frozen(eq=False, repr=False)
class ContentsQuery:
    """Which file, and how it is sent."""

    file: Annotated[str, "The path in the server's directory."] = ""
    download: Annotated[str, "Not empty: with the headers of a download."] = ""
    max_size: Annotated[str, "The most bytes of a file that is sent (Calagopus)."] = ""
    ignored: Annotated[
        tuple[str, ...], "Files that are as if they were not there, as in gitignore (Calagopus)."
    ] = ()


def lacks_range(request: StreamingRequest, entry: Entry) -> bool:
    """Return whether a request asks for a range that a file does not have."""
    validators = Validators(entry.size, entry.modified)
    try:
        requested_range(request.header("Range"), request.header("If-Range"), validators)
    except RangeNotSatisfiable:
        return True
    return False


def _opened(
    root: ServerRoot, path: FilePath, most: int | None, lacks: Callable[[Entry], bool]
) -> tuple[OpenFile, str]:
    """Open a file, but one of the past that `lacks` what is asked for; return its MIME type."""
    # Before it is opened: of the past it would be copied.
    is_past = root.past_of(path) is not None
    if (is_past or most is not None) and (found := root.stat(path)).is_regular:
        if most is not None and found.size > most:
            raise FileTooLarge(found.size)
        if is_past and lacks(found):
            return OpenFile(-1, found), ""
    file = root.open_file(path)
    if most is not None and file.entry.size > most:  # it has grown
        file.close()
        raise FileTooLarge(file.entry.size)
    try:
        return file, mime_of(file.read_at(0, HEAD))
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


def _choice(kind: type[Choice], name: str, text: str) -> Choice:
    """Return one of an enumeration by its value in a query. Raises `BadRequest`."""
    try:
        return kind(text)
    except ValueError as error:
        known = ", ".join(each.value for each in kind)
        raise BadRequest(INVALID, f"{name}: expected one of {known}") from error


def hidden_by(*denylists: Denylist) -> tuple[Denylist, ...]:
    """Return those that deny anything."""
    return tuple(each for each in denylists if not each.is_empty)


#: Characters that a pattern has at least; the message is Pelican's.
_LEAST = 3
_TOO_SHORT = "Pattern must be at least 3 characters long"
#: Depth of directories in Calagopus' searches, which have none of their own.
_DEPTH = 64
#: Results, and bytes of a file that is searched, in Calagopus' form of 2025.
_OLD_RESULTS, _OLD_SIZE = 100, 512 * 1024


@attrs.frozen(eq=False, repr=False)
class SearchQuery:
    """The search: a pattern of names, and the directory."""

    directory: Annotated[str, "The directory below which is searched."] = ""
    pattern: Annotated[str, "A glob with `*` or `?`, or a part of the name."] = ""


@attrs.frozen(eq=False, repr=False)
class PathFilter:
    """Patterns as in gitignore for paths below `root`."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    case_insensitive: bool = False


@attrs.frozen(eq=False, repr=False)
class SizeFilter:
    """Bytes of a file: at least `min`, and less than `max`."""

    max: int
    min: int = 0


@attrs.frozen(eq=False, repr=False)
class ContentQuery:
    """A text that files contain; of those that are larger than `max_search_size` none does."""

    query: str
    max_search_size: int
    include_unmatched: Annotated[bool, "Whether those larger files are results."] = False
    case_insensitive: bool = False


@attrs.frozen(eq=False, repr=False)
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


@attrs.frozen(eq=False, repr=False)
class FoundFiles:
    """The files that a search has found; names are paths below its root."""

    results: tuple[FileEntry, ...]


def search_filter(body: FileSearch) -> tuple[FileFilter, int]:
    """Return which files a search wants, and how many of them at most."""
    if body.query:
        return _old_filter(body)
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


@attrs.frozen(eq=False, repr=False)
class FingerprintsQuery:
    """Which files, and the algorithm."""

    algorithm: Annotated[str, Keywords(enum=[each.value for each in Algorithm])] = ""
    files: Annotated[tuple[str, ...], "Paths below `root`."] = ()
    root: Annotated[str, "A directory; the server's own without it."] = ""
    ignored: Annotated[tuple[str, ...], "Files that are left out, as in gitignore."] = ()


@attrs.frozen(eq=False, repr=False)
class Fingerprints:
    """Fingerprints by the paths as they were given."""

    fingerprints: dict[str, str]


class ReadFilesEndpoint(FilesPath):
    """The calls that read and search files."""

    @call(
        200,
        "The bytes of the file.",
        answer_headers={
            "X-Mime-Type": "The type of the file, by its first bytes.",
            "Content-Disposition": "`attachment` and the name, with `download`.",
            "ETag": "Changes with the file; for `If-Range`.",
        },
        fails=(413, 416),
    )
    async def get_contents(self, query: ContentsQuery) -> FileBody:
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
            return _opened(root, path, most, partial(lacks_range, self._request))

        file, mime = await self.run(self._node.files.short, open_file, path)
        headers = {"X-Mime-Type": mime, "Content-Type": mime}
        if query.download and query.download.lower() not in ("0", "false"):
            headers["Content-Type"] = "application/octet-stream"
            headers["Content-Disposition"] = attachment(file.entry.text)
        name = f"{self.game_server.uuid}: {path}"
        validators = Validators(file.entry.size, file.entry.modified)
        return FileBody(file, validators, self._node.files.reads, name, headers)

    @call(200, "The files and directories, whose names are their paths.")
    async def search_names(self, query: SearchQuery) -> Encoded[tuple[FileEntry, ...]]:
        """Search for names, case aside (Pelican).

        `Search` in the configuration has the depth, and the directories that are passed over. The
        first 1,000 results, and what was found within 100 s, is the answer. A search ends when
        the client goes.
        """
        if len(query.pattern) < _LEAST:
            raise BadRequest(_TOO_SHORT)
        start, media = ServerPath.parse(query.directory), accepted(self._request.header("Accept"))
        prefix = query.directory.rstrip("/")
        settings = self._config.Search
        limits = SearchLimits(
            settings.max_recursion_depth,
            skipped=frozenset(name.lower().encode() for name in settings.blacklisted_dirs),
        )

        def work(root: ServerRoot) -> Encoded[tuple[FileEntry, ...]]:
            matches = name_matcher(query.pattern)
            found = Search(root, start, limits, self._gone.is_set).by_name(matches)
            for each in found if prefix else ():
                each["name"] = f"{prefix}/{each['name']}"
            return encoded(found, media)

        return await self.run(self._node.files.long, work, start)

    @call(200, "The regular files, whose names are paths below `root`.")
    async def search_files(self, body: FileSearch) -> Encoded[FoundFiles]:
        """Search for files by path, size and content (Calagopus).

        Files on the egg's denylist are never found. A search ends as that of Pelican does.
        """
        start, media = ServerPath.parse(body.root), accepted(self._request.header("Accept"))
        wanted, results = search_filter(body)
        if wanted.content is not None and self.game_server.files.has_past and is_past(start):
            raise BadRequest(
                "The content of files of the past is not searched.",
                "search by names, or copy the files out of .history",
            )
        limits = SearchLimits(_DEPTH, results=max(1, min(results, MAX_RESULTS)))
        denylist = self.denylist

        def work(root: ServerRoot) -> Encoded[FoundFiles]:
            hidden = hidden_by(denylist)
            search = Search(root, start, limits, self._gone.is_set)
            found = search.by_content(wanted, hidden)
            return encoded(found, media, {}, "results")

        return await self.run(self._node.files.long, work, start)

    @call(200, "The fingerprints of the files that are there.")
    async def get_fingerprints(self, query: FingerprintsQuery) -> Fingerprints:
        """Return fingerprints of regular files: hexadecimal, of `curseforge` decimal.

        Files that are missing or denied are left out. The work ends when the client goes.
        """
        algorithm = _choice(Algorithm, "algorithm", query.algorithm.lower())
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

        return Fingerprints(await self.run(self._node.files.long, work, *paths.values()))


_PELICANS_MESSAGE = "The requested directory was not found on the server."


@attrs.frozen(eq=False, repr=False)
class DirectoryQuery:
    """Which directory."""

    directory: Annotated[str, "The path in the server's directory."] = ""


@attrs.frozen(eq=False, repr=False)
class PageQuery(DirectoryQuery):
    """Which page of which directory."""

    root: Annotated[str, "The same."] = ""
    ignored: Annotated[tuple[str, ...], "Files that are left out, as in gitignore."] = ()
    per_page: Annotated[str, "Entries of a page; `api.directory_entry_limit` without it."] = ""
    page: Annotated[str, "From 1."] = ""
    sort: Annotated[str, "The order.", Keywords(enum=[each.value for each in Sort])] = "name_asc"


@attrs.frozen(eq=False, repr=False)
class DirectoryPage:
    """A page of a directory."""

    total: Annotated[int, "The entries of all pages."]
    filesystem_primary: bool
    filesystem_writable: bool
    filesystem_fast: bool
    uploads: Annotated[tuple[str, ...], "Always empty."]
    entries: tuple[FileEntry, ...]


class ListFilesEndpoint(FilesPath):
    """The calls that list directories."""

    _log = Logger()

    async def _listed(
        self, path: ServerPath, work: Callable[[ServerRoot, bool], tuple[bool, T]]
    ) -> T:
        """Call `work` for a small directory, and for a large one when it is its turn.

        It returns whether all entries are listed, and the answer.
        """
        try:
            is_complete, answer = await self.run(
                self._node.files.short, lambda root: work(root, True), path
            )
        except DirectoryLarge:
            is_complete, answer = await self.run(
                self._node.files.large, lambda root: work(root, False), path
            )
        if not is_complete:
            self._log.warn(
                "{server}: directory not listed completely: {path} has more than {most} entries",
                server=self.game_server.uuid,
                path=str(path) or "/",
                most=MAX_ENTRIES,
            )
        return answer

    @call(200, "The entries, directories first, then by name.")
    async def list_files(self, query: DirectoryQuery) -> Encoded[tuple[FileEntry, ...]]:
        """Return the entries of a directory, the first 100,000 of them.

        Symlinks are not followed. Files on the egg's denylist are listed.
        """
        path, media = ServerPath.parse(query.directory), accepted(self._request.header("Accept"))

        def work(root: ServerRoot, small: bool) -> tuple[bool, Encoded[tuple[FileEntry, ...]]]:
            listing = list_directory(root, path, Page(), (), self._gone.is_set, small=small)
            return listing.is_complete, encoded(listing.entries, media)

        try:
            return await self._listed(path, work)
        except DirectoryMissing as error:
            if self._config.is_pelican:
                error.message = _PELICANS_MESSAGE
            raise

    @call(200, "The entries, directories first, then in that order.")
    async def list_page(self, query: PageQuery) -> Encoded[DirectoryPage]:
        """Return a page of a directory.

        Symlinks are not followed. Files on the egg's denylist, and those of `ignored`, are as if
        they were not there.
        """
        path = ServerPath.parse(query.directory or query.root)
        size = whole_number("per_page", query.per_page)
        number = whole_number("page", query.page)
        sort = _choice(Sort, "sort", query.sort)
        limit = self._config.api.directory_entry_limit
        page = Page(max(number or 1, 1), limit if size is None else size, sort)
        media = accepted(self._request.header("Accept"))
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

        return await self._listed(path, work)


#: Entries encoded at a time.
_PIECE = 500


def encoded(
    entries: Sequence[Mapping[str, Any]],
    media: MediaType,
    around: Mapping[str, Any] | None = None,
    name: str = "",
) -> Encoded[Any]:
    """Return a list of plain data, or a map `around` with the list in it as the last value `name`.

    Blocking.
    """
    body = BytesIO()
    if media is MediaType.MESSAGE_PACK:
        packer = msgpack.Packer(unicode_errors="replace")
        if around is not None:
            body.write(packer.pack_map_header(len(around) + 1))
            for key, value in around.items():
                body.write(packer.pack(key) + packer.pack(value))
            body.write(packer.pack(name))
        body.write(packer.pack_array_header(len(entries)))
        body.writelines(map(packer.pack, entries))
        return Encoded(body.getvalue(), media)
    if around is not None:
        fields = (b"%b:%b," % (_json(key), _json(value)) for key, value in around.items())
        body.write(b"{%b%b:" % (b"".join(fields), _json(name)))
    body.write(b"[")
    for at in range(0, len(entries), _PIECE):
        body.write(b"," * (at > 0) + _json(entries[at : at + _PIECE])[1:-1])
    body.write(b"]" if around is None else b"]}")
    return Encoded(body.getvalue(), media)


# Not in ASCII, in which a byte of a name may take twelve.
_encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


def _json(value: object) -> bytes:
    return _encoder.encode(value).encode("utf-8", "replace")
