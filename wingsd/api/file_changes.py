"""Calls that change a server's files: renaming, writing, packing, extracting and downloading."""

from __future__ import annotations

import posixpath
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Annotated, Any, TypeVar

import attrs
from twisted.internet.defer import Deferred

from wingsd.api.files import FilesPath, reading_lane
from wingsd.archive.compress import Compression
from wingsd.errors import (
    BadRequest,
    BodyIncomplete,
    FileMissing,
    FileTaskMissing,
    FileWorkCancelled,
    NameConflict,
    NoSpaceToCompress,
    PathInvalid,
    RemoteDownloadDisabled,
    Unprocessable,
)
from wingsd.files.archives import (
    ArchiveKind,
    Compressing,
    compress,
    default_name,
    kind_of_extension,
    kind_of_format,
)
from wingsd.files.changes import (
    Mode,
    copy,
    copy_names,
    create_directory,
    delete,
    parse_mode,
    rename,
    set_modes,
)
from wingsd.files.denylist import Denylist
from wingsd.files.entries import FileEntry, entry_data, mime_of_entry
from wingsd.files.extraction import ExtractedMembers, Extracting, extract
from wingsd.files.guard import Guard, Progress
from wingsd.files.pulls import Pull, PullTarget
from wingsd.files.tasks import FileTask, Lane
from wingsd.filesystem.directory import Entry
from wingsd.filesystem.new_file import NewFile, NewFileOptions
from wingsd.filesystem.paths import ServerPath, name_from_text
from wingsd.filesystem.root import ServerRoot
from wingsd.http.operations import INVALID, Accepted, call
from wingsd.http.request import BodyReader, PulledBody, StreamingRequest
from wingsd.http_client.urls import WebUrl, disposition_name, plain_name
from wingsd.servers.operations import Operation
from wingsd.util.deferreds import when_fired
from wingsd.util.serialization import Keywords

T = TypeVar("T")

_Ignored = Annotated[
    tuple[str, ...], "Files that are denied as well, as in gitignore (Calagopus)."
]
_Root = Annotated[str, "The directory that the names are relative to."]


@attrs.frozen(eq=False, repr=False)
class Started:
    """A change that goes on; events about it have its identifier (Calagopus)."""

    identifier: str


def below(root: str, name: str) -> ServerPath:
    """Return the path of a file named in a body. Raises `PathInvalid` unless it has a name there.

    An empty name, or `..`, would be the directory itself or one that it is in.
    """
    directory = ServerPath.parse(root)
    path = directory.joined(name)
    if path.contains(directory):
        raise PathInvalid(
            "a name is empty, or that of a directory above.",
            f"{name[:100]!r} names no file in {str(directory) or '/'}",
        )
    return path


def described(root: ServerRoot, path: ServerPath, entry: Entry) -> FileEntry:
    """Return an entry as the pages show it, with its type by its first bytes."""
    mime = mime_of_entry(entry)
    if entry.is_regular:
        with suppress(FileMissing), root.open_file(path) as file:
            mime = mime_of_entry(entry, file)
    return FileEntry(**entry_data(entry, mime))


def files_text(count: int) -> str:
    """Return a number of files in words."""
    return "1 file" if count == 1 else f"{count} files"


@attrs.frozen(
    eq=False,
    repr=False,
    these={
        # A word of Python, which cannot be written as a field.
        "from": attrs.field(type=str, alias="source"),
        "to": attrs.field(type=str, alias="target"),
    },
)
class MovedFile:
    """A file, and the path that it, or its copy, is to get."""

    def paths(self, top: ServerPath) -> tuple[ServerPath, ServerPath]:
        """Return both paths, which are relative to `top`."""
        source, target = (top.joined(getattr(self, name)) for name in ("from", "to"))
        return source, target


@attrs.frozen(eq=False, repr=False)
class FileRenames:
    """Files to be renamed or moved."""

    files: tuple[MovedFile, ...] = ()
    root: _Root = "/"
    ignored: _Ignored = ()


@attrs.frozen(eq=False, repr=False)
class Renamed:
    """How many files were renamed (Calagopus)."""

    renamed: int


@attrs.frozen(eq=False, repr=False)
class FileCopy:
    """A file to be copied. The fields after the first are Calagopus'."""

    location: Annotated[str, "The path in the server's directory."] = ""
    path: Annotated[str, "The same."] = ""
    name: Annotated[str | None, "The path of the copy, relative to the file's directory."] = None
    overwrite: Annotated[bool, "Whether a file of that name is replaced."] = False
    foreground: Annotated[bool, "Whether the answer waits for the end."] = True
    ignored: _Ignored = ()


@attrs.frozen(eq=False, repr=False)
class FileNames:
    """Files to be deleted."""

    files: tuple[str, ...] = ()
    root: _Root = "/"
    ignored: _Ignored = ()


@attrs.frozen(eq=False, repr=False)
class Deleted:
    """How many files were deleted (Calagopus)."""

    deleted: int


@attrs.frozen(eq=False, repr=False)
class NewDirectory:
    """A directory to be made; Calagopus' Panel has `root` in place of `path`."""

    name: str = ""
    path: Annotated[str, "The directory that the name is relative to."] = ""
    root: Annotated[str, "The same."] = ""
    ignored: _Ignored = ()


@attrs.frozen(eq=False, repr=False)
class FileMode:
    """A file, and the mode that it is to get."""

    file: str
    mode: Annotated[str, "In octal, such as `644`. Set-id and sticky bits are left out."]
    recursive: Annotated[bool, "Whether all that is in a directory gets it (Calagopus)."] = False


@attrs.frozen(eq=False, repr=False)
class FileModes:
    """Files whose modes are set."""

    files: tuple[FileMode, ...] = ()
    root: _Root = "/"
    ignored: _Ignored = ()


@attrs.frozen(eq=False, repr=False)
class Updated:
    """Of how many files the mode was set (Calagopus)."""

    updated: int


#: Files of a change whose names are in Calagopus' events about it.
_NAMED = 100


@attrs.frozen(eq=False, repr=False)
class NewArchive:
    """Files to be packed; `extension` is Pelican's, the fields after it are Calagopus'."""

    files: tuple[str, ...] = ()
    root: Annotated[str, "The directory that the names are relative to."] = "/"
    name: Annotated[
        str | None, "The archive's name: without its extension (Pelican), or with it (Calagopus)."
    ] = None
    extension: Annotated[
        str, "zip, tar.gz, tgz, tar.bz2, tbz2, tar.xz or txz; any other is tar.gz."
    ] = ""
    format: Annotated[
        str,
        "The format.",
        Keywords(enum=("tar", "tar_gz", "tar_xz", "tar_bz2", "tar_lz4", "tar_zstd", "zip")),
    ] = "tar_gz"
    foreground: Annotated[bool, "Whether the answer waits for the end."] = True
    ignored: Annotated[tuple[str, ...], "Files that are left out, as in gitignore."] = ()


@attrs.frozen(eq=False, repr=False)
class FileCopies:
    """Files to be copied."""

    files: tuple[MovedFile, ...] = ()
    root: Annotated[str, "The directory that the names are relative to."] = "/"
    overwrite: Annotated[bool, "Whether existing files are replaced, or passed over."] = False
    foreground: Annotated[bool, "Whether the answer waits for the end."] = True
    ignored: Annotated[tuple[str, ...], "Files that are denied as well, as in gitignore."] = ()


@attrs.frozen(eq=False, repr=False)
class Copied:
    """How many files were copied, and which files were in the way."""

    copied: int
    skipped: tuple[FileEntry, ...]


@attrs.frozen(eq=False, repr=False)
class CopiesStarted:
    """Copies that go on."""

    identifier: str
    skipped: tuple[FileEntry, ...]


@attrs.frozen(eq=False, repr=False)
class NewSymlink:
    """A symlink to be made."""

    link: Annotated[str, "Its path, relative to `root`."]
    target: Annotated[str, "The path that it leads to, relative to its own directory."]
    root: str = ""
    path: Annotated[str, "The same as `root`."] = ""
    ignored: Annotated[tuple[str, ...], "Files that are denied as well, as in gitignore."] = ()


@attrs.frozen(eq=False, repr=False)
class ArchiveToExtract:
    """An archive, and the directory that it is extracted into; the last fields are Calagopus'."""

    file: Annotated[str, "The archive, relative to `root`."]
    root: Annotated[str, "The directory that it is extracted into."] = "/"
    foreground: Annotated[bool, "Whether the answer waits for the end."] = True
    ignored: Annotated[tuple[str, ...], "Files that are denied as well, as in gitignore."] = ()


@attrs.frozen(eq=False, repr=False)
class FileTaskList:
    """The changes under way."""

    operations: Annotated[
        list[dict[str, Any]],
        "Each as in the event `operation progress`, with its `identifier`.",
    ]


class ChangeFilesEndpoint(FilesPath):
    """The calls that change files, but that which writes one, and downloads."""

    operation = Operation.CHANGE_FILES

    def begin(
        self,
        change: Callable[[Guard], T],
        title: str,
        details: Mapping[str, Any] | None = None,
        *,
        ignored: Sequence[str] = (),
        lane: Lane | None = None,
        reads: Iterable[ServerPath] = (),
    ) -> FileTask[T]:
        """Begin a change, which reads these paths if they are in the past; see `FileTasks`."""
        lane = lane or self._node.files.changes
        lane = reading_lane(self._node, self.game_server, lane, reads)
        denylists = (self.denylist, Denylist(ignored))

        def work(root: ServerRoot, progress: Progress) -> T:
            return change(Guard(root, *denylists, progress=progress))

        return self._node.file_tasks.start(self.game_server, lane, work, title, details)

    async def waited(self, task: FileTask[Any], *, foreground: bool) -> bool:
        """Return whether a change has ended; Calagopus' Panel may not wait for it."""
        if self.is_calagopus and not foreground:
            task.is_detached = True
            return False
        return await self._node.file_tasks.wait(task)

    async def counted(
        self, task: FileTask[int], form: Callable[[int], T]
    ) -> T | Accepted[Started] | None:
        """Return the answer to a change of several files: how many, for Calagopus' Panel."""
        if not await self._node.file_tasks.wait(task):
            return self.started(task)
        return form(task.value or 0) if self.is_calagopus else None

    def started(self, task: FileTask[Any]) -> Accepted[Started]:
        """Return the answer to a change that goes on."""
        # An empty answer says as much to the other Panels, which do not know the events.
        return Accepted(Started(task.identifier) if self.is_calagopus else None)  # type: ignore[arg-type]

    @call(204, "They are renamed.", fails=(422,))
    async def rename_files(self, body: FileRenames) -> Renamed | Accepted[Started] | None:
        """Rename or move files, in order.

        Directories on the way are made. A file that does not exist is passed over; at the first
        other failure nothing more is renamed.
        """
        if not body.files and not self.is_calagopus:
            raise Unprocessable("No files to move or rename were provided.")
        top = ServerPath.parse(body.root)
        files = [each.paths(top) for each in body.files]
        task = self.begin(
            lambda guard: rename(guard, files),
            f"Renaming {files_text(len(files))}",
            ignored=body.ignored,
            lane=self._node.files.renames,
        )
        return await self.counted(task, Renamed)

    @call(204, "It is copied.")
    async def copy_file(self, body: FileCopy) -> FileEntry | Accepted[Started] | None:
        """Copy a regular file, or for Calagopus' Panel a directory.

        The copy is beside the file, `name copy.ext` or with a number or the time where that is in
        use, unless Calagopus' Panel gives it a name.
        """
        source = ServerPath.parse(body.path or body.location)
        named = body.name if self.is_calagopus else None
        target = None if named is None else source.parent.joined(named)

        def change(guard: Guard) -> FileEntry:
            guard.progress.bytes_total = guard.root.stat(source).size
            path, entry = copy(
                guard, source, target, overwrite=body.overwrite, directories=self.is_calagopus
            )
            guard.progress.target = path
            return described(guard.root, path, entry)

        shown = "" if target is None else f"/{target}"
        details = {"type": "copy", "path": f"/{source}", "destination_path": shown}
        task = self.begin(
            change, f"Copying {source}", details, ignored=body.ignored, reads=(source,)
        )
        if not await self.waited(task, foreground=body.foreground):
            return self.started(task)
        return task.value if self.is_calagopus else None

    @call(204, "They are deleted.", fails=(422,))
    async def delete_files(self, body: FileNames) -> Deleted | Accepted[Started] | None:
        """Delete files, and directories with all that is in them; symlinks are not followed.

        What the egg's denylist has stays, with the directories that it is in. A file that does
        not exist is an error for Pelican's Panel only.
        """
        if not body.files and not self.is_calagopus:
            raise Unprocessable("No files were specified for deletion.")
        paths = [below(body.root, name) for name in body.files]
        missing = self._config.is_pelican
        task = self.begin(
            lambda guard: delete(guard, paths, missing=missing),
            f"Deleting {files_text(len(paths))}",
            ignored=body.ignored,
        )
        return await self.counted(task, Deleted)

    @call(204, "It is made, or was there.")
    async def create_directory(self, body: NewDirectory) -> None:
        """Make a directory and those on the way to it; one that exists is kept."""
        path = ServerPath.parse(body.root or body.path).joined(body.name)
        task = self.begin(
            lambda guard: create_directory(guard, path),
            f"Making the directory {path}",
            ignored=body.ignored,
            lane=self._node.files.short,
        )
        await self._node.file_tasks.wait(task)

    @call(204, "They have these modes.", fails=(422,))
    async def change_modes(self, body: FileModes) -> Updated | Accepted[Started] | None:
        """Set the permission bits of files and directories; symlinks are not followed.

        A file that does not exist is passed over.
        """
        if not body.files and not self.is_calagopus:
            raise Unprocessable("No files to chmod were provided.")
        files = [
            Mode(below(body.root, each.file), parse_mode(each.mode), each.recursive)
            for each in body.files
        ]
        task = self.begin(
            lambda guard: set_modes(guard, files),
            f"Setting the modes of {files_text(len(files))}",
            ignored=body.ignored,
        )
        return await self.counted(task, Updated)

    @call(200, "The archive.", fails=(422,))
    async def compress_files(self, body: NewArchive) -> FileEntry | Accepted[FileEntry | Started]:
        """Pack files into an archive beside them.

        Symlinks are stored as such, and nothing but files, directories and symlinks is packed.
        What the egg's denylist has is left out. An archive that would exceed the server's disk
        limit is removed. If it takes more than ten seconds, the answer is 202, for Panels other
        than Calagopus' with the archive as it is so far, and the console tells the end.
        """
        if not body.files and not self.is_calagopus:
            raise Unprocessable("No files were passed through to be compressed.")
        limit, used = self.game_server.files.limit, self.game_server.files.disk_bytes
        if limit is not None and used is not None and used > limit:
            raise NoSpaceToCompress
        by_format = self.is_calagopus
        kind = kind_of_format(body.format) if by_format else kind_of_extension(body.extension)
        task = self._begin(body, kind)
        if await self.waited(task, foreground=body.foreground) and task.value is not None:
            return task.value
        return self.started(task) if by_format else Accepted(self._so_far(task, kind))

    def _begin(self, body: NewArchive, kind: ArchiveKind) -> FileTask[FileEntry]:
        top = ServerPath.parse(body.root)
        asked = Compressing(
            top,
            [ServerPath().joined(name) for name in body.files],
            kind,
            Compression(self._config.system.backups.compression_level),
            overwrite=self.is_calagopus and bool(body.name),
            skip_missing=self.is_calagopus,
        )

        def change(guard: Guard) -> FileEntry:
            path, entry = compress(guard, asked, self._targets(top, body.name, kind))
            if self.is_calagopus:
                return described(guard.root, path, entry)
            return FileEntry(**entry_data(entry, self._mime(kind)))

        details = {
            "type": "compress",
            "path": f"/{top}",
            "files": body.files[:_NAMED],
            "destination_path": "",
        }
        return self.begin(
            change,
            f"Compressing files of /{top}",
            details,
            ignored=body.ignored,
            lane=self._node.files.archives,
        )

    def _targets(
        self, top: ServerPath, name: str | None, kind: ArchiveKind
    ) -> Iterator[ServerPath]:
        """Yield the paths that the archive may get, in the order in which they are tried."""
        if name and self.is_calagopus:
            return iter((top.joined(name),))
        suffix = f".{kind.suffix}".encode()
        base = name_from_text(name) if name else default_name(time.time())
        names = chain((base + suffix,), copy_names(base, suffix))
        # Pelican's name may have directories.
        return (ServerPath.from_bytes(bytes(top) + b"/" + each) for each in names)

    def _mime(self, kind: ArchiveKind) -> str:
        return kind.mime if self._config.is_pelican else "application/tar+gzip"

    def _so_far(self, task: FileTask[FileEntry], kind: ArchiveKind) -> FileEntry:
        """Return an archive that is being made, with its name as far as that is decided."""
        target = task.progress.target
        now = time.time_ns()
        entry = Entry(
            name=b"" if target is None else target.name,
            mode=stat.S_IFREG | 0o644,
            size=0,
            modified=now,
            changed=now,
            accessed=now,
            links=1,
            uid=0,
            gid=0,
        )
        return FileEntry(**entry_data(entry, self._mime(kind)))

    @call(200, "How many were copied.")
    async def copy_files(self, body: FileCopies) -> Copied | Accepted[CopiesStarted]:
        """Copy files and directories to other paths.

        Those that do not exist, or whose new path is in use, are passed over.
        """
        top = ServerPath.parse(body.root)
        files = [each.paths(top) for each in body.files]
        skipped: list[FileEntry] = []

        def change(guard: Guard) -> int:
            copied = 0
            for source, target in files:
                guard.progress.check()
                try:
                    copy(guard, source, target, overwrite=body.overwrite, directories=True)
                except NameConflict:
                    entry = guard.root.stat(target)
                    skipped.append(described(guard.root, target, entry))
                except (FileMissing, PathInvalid):
                    continue
                else:
                    copied += 1
            return copied

        names = [{"from": f"/{source}", "to": f"/{target}"} for source, target in files[:_NAMED]]
        details = {"type": "copy_many", "path": f"/{top}", "files": names}
        task = self.begin(
            change,
            f"Copying {len(files)} files",
            details,
            ignored=body.ignored,
            reads=[source for source, _ in files],
        )
        if body.foreground and await self._node.file_tasks.wait(task):
            return Copied(task.value or 0, tuple(skipped))
        task.is_detached = True
        return Accepted(CopiesStarted(task.identifier, ()))

    @call(204, "It is made.")
    async def create_symlink(self, body: NewSymlink) -> None:
        """Make a symlink to a file of the server that exists.

        A target that begins with a slash is below the server's directory.
        """
        link = ServerPath.parse(body.root or body.path).joined(body.link)
        start = ServerPath() if body.target.startswith("/") else link.parent
        target = start.joined(body.target)
        text = posixpath.relpath(b"/" + bytes(target), b"/" + bytes(link.parent))

        def change(guard: Guard) -> None:
            guard.check(target, is_directory=guard.root.stat(target).is_directory)
            guard.check(link)
            guard.root.make_symlink(link, text)

        title = f"Making the symlink {link}"
        task = self.begin(change, title, ignored=body.ignored, lane=self._node.files.short)
        await self._node.file_tasks.wait(task)

    @call(204, "It is extracted.")
    async def decompress_file(self, body: ArchiveToExtract) -> Accepted[Started] | None:
        """Extract an archive: zip, tar, 7z, RAR, or a single compressed file.

        Its content shows the format, or else its name does. Existing files are replaced, and what
        the egg's denylist has is passed over. Symlinks are made where they lead to a file of the
        server, and hard links become copies. If it takes more than ten
        seconds, the answer is 202, and the console tells the end.
        """
        top, archive = ServerPath.parse(body.root), below(body.root, body.file)
        server = self.game_server
        limit, used = server.files.limit, server.files.disk_bytes
        left = None if limit is None or used is None else limit - used
        asked = Extracting(archive, top, left)

        def change(guard: Guard) -> ExtractedMembers:
            guard.progress.target = top
            return extract(guard, asked)

        details = {
            "type": "decompress",
            "path": f"/{archive}",
            "destination_path": f"/{top}",
        }
        task = self.begin(
            change,
            f"Extracting {archive}",
            details,
            ignored=body.ignored,
            lane=self._node.files.archives,
        )
        when_fired(task.over).addCallback(lambda _: self._tell(task.value))
        if await self.waited(task, foreground=body.foreground):
            return None
        return self.started(task)

    def _tell(self, extracted: ExtractedMembers | None) -> None:
        """Say in the console what was left out."""
        if extracted is not None and extracted.passed_over:
            self.game_server.say(
                f"{extracted.passed_over} entries of the archive were passed over, such as "
                f"{extracted.example}: links that lead elsewhere, devices, or files of the egg's "
                "denylist."
            )

    @call(200, "The changes.")
    async def list_file_operations(self) -> FileTaskList:
        """Return the copies and archives of a server that are being made."""
        return FileTaskList(
            [
                {"identifier": task.identifier, **task.data()}
                for task in self._node.file_tasks.of(self.game_server.uuid)
            ]
        )

    @call(204, "It ends soon.")
    async def cancel_file_operation(self) -> None:
        """Cancel a change of files. Nothing is left of a copy or an archive."""
        identifier = self.part("operation")
        if not self._node.file_tasks.cancel(self.game_server.uuid, identifier):
            raise FileTaskMissing


@attrs.frozen(eq=False, repr=False)
class WriteQuery:
    """Which file."""

    file: Annotated[str, "The path in the server's directory."] = ""
    user: Annotated[str, "The UUID of the user (Calagopus); of no effect."] = ""
    ignored: _Ignored = ()


@attrs.frozen(eq=False, repr=False)
class Written:
    """The answer to Calagopus' Panel. No revisions of files are kept here."""

    revision_id: int | None


#: Bytes of a body that are written at a time, and at which the client is paused.
_BLOCK = 256 << 10


class WriteEndpoint(FilesPath):
    """`/api/servers/{uuid}/files/write`, which reads the body as it arrives."""

    operation = Operation.CHANGE_FILES
    _body: PulledBody

    def open_body(self, request: StreamingRequest) -> BodyReader:
        """Return the reader of the body, which the call asks for as it writes."""
        self._body = PulledBody(request, BodyIncomplete, least=_BLOCK, most=_BLOCK)
        Deferred.fromCoroutine(self._respond())
        return self._body

    @call(204, "It is written.", form=bytes)
    async def write_file(self, query: WriteQuery) -> Written | None:
        """Write a file: the body is its content, whatever its type.

        Directories on the way are made. The file gets its name when it is complete: before that,
        and where the client goes, an existing one stays as it was. One that is replaced keeps its
        mode, a new one has 0644. `Content-Length` is required, and refused above the server's disk
        limit before the first byte is read.
        """
        if self._request.header("Transfer-Encoding"):
            raise BadRequest("Missing Content-Length")
        size = int(self._request.header("Content-Length") or 0)
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
            while pieces := await self._body.next():
                await run(_append, file, pieces)
            await run(file.commit)
        finally:
            await run(file.close)

    def _cancel(self) -> None:
        self._body.stop(FileWorkCancelled())


def _append(file: NewFile, pieces: list[bytes]) -> None:
    for piece in pieces:
        file.write(piece)


_Url = Annotated[str, "The URL, of http or https."]


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


@attrs.frozen(eq=False, repr=False)
class PullQuery:
    """A URL to be looked at."""

    url: _Url


@attrs.frozen(eq=False, repr=False)
class PullDescription:
    """The file that a URL leads to."""

    file_name: Annotated[str | None, "The name that the other server gives, or that of the URL."]
    file_size: Annotated[
        int | None, "Its bytes, if the other server says how many.", Keywords(minimum=0)
    ]
    final_url: Annotated[str, "The URL after all redirects."]
    headers: Annotated[dict[str, str], "The headers of the answer, with names in lower case."]


class PullsEndpoint(FilesPath):
    """The calls about downloads from URLs."""

    def check_enabled(self) -> None:
        """Raise `RemoteDownloadDisabled`."""
        if self._config.api.disable_remote_download:
            raise RemoteDownloadDisabled

    @call(200, "The file.")
    async def pull_file(self, body: NewPull) -> FileEntry | Accepted[FileEntry | Started]:
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

    @call(200, "The downloads.")
    async def list_pulls(self) -> PullList:
        """Return the downloads of a server that are under way, and how far they are."""
        pulls = self._node.pulls.of(self.game_server.uuid)
        if self.is_calagopus:
            return PullList([_for_calagopus(pull) for pull in pulls])
        return PullList([_for_go(pull) for pull in pulls] or None)

    @call(204, "It ends soon, or there is none.")
    async def cancel_pull(self) -> None:
        """Cancel a download; nothing is left of its file."""
        identifier = self.part("identifier")
        self._node.pulls.cancel(self.game_server.uuid, identifier)

    @call(200, "What is there.")
    async def query_pull(self, body: PullQuery) -> PullDescription:
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
