"""Calls that change a server's files by name: renamed, copied, deleted, made, and their modes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

import attrs

from wingsd.api.files import FilesPath
from wingsd.config.vendors import CALAGOPUS
from wingsd.errors import FileMissing, PathInvalid, Unprocessable
from wingsd.files.changes import (
    Mode,
    Renaming,
    copy,
    create_directory,
    delete,
    parse_mode,
    rename,
    set_modes,
)
from wingsd.files.denylist import Denylist
from wingsd.files.entries import FileEntry, entry_data, mime_of_entry
from wingsd.files.guard import Guard
from wingsd.files.progress import Progress
from wingsd.files.tasks import FileTask, Lane
from wingsd.filesystem import Entry, ServerPath, ServerRoot
from wingsd.http.operations import Accepted, Success, call
from wingsd.http.request import StreamingRequest
from wingsd.servers.operations import Operation

__all__ = [
    "ChangePath",
    "ChmodEndpoint",
    "CopyEndpoint",
    "CreateDirectoryEndpoint",
    "DeleteEndpoint",
    "RenameEndpoint",
    "Started",
    "below",
    "described",
]

T = TypeVar("T")

_Ignored = Annotated[
    tuple[str, ...], "Files that are denied as well, as in gitignore (Calagopus)."
]
_Root = Annotated[str, "The directory that the names are relative to."]


@attrs.frozen(eq=False, repr=False)
class Started:
    """A change that goes on; events about it have its identifier (Calagopus)."""

    identifier: str


class ChangePath(FilesPath):
    """A path by which a server's files are changed."""

    operation = Operation.CHANGE_FILES

    @property
    def is_calagopus(self) -> bool:
        """Whether the Panel is Calagopus'."""
        return self._config.family == CALAGOPUS

    def begin(
        self,
        change: Callable[[ServerRoot, Guard, Progress], T],
        title: str,
        details: Mapping[str, Any] | None = None,
        *,
        ignored: Sequence[str] = (),
        lane: Lane | None = None,
    ) -> FileTask[T]:
        """Begin a change; see `FileTasks.start`."""
        denylists = (self.denylist, Denylist(ignored))

        def work(root: ServerRoot, progress: Progress) -> T:
            return change(root, Guard(root, *denylists), progress)

        return self._node.file_tasks.start(
            self.game_server, lane or self._node.files.changes, work, title, details
        )

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


def below(root: str, name: str) -> ServerPath:
    """Return the path of a file named in a body. Raises `PathInvalid` unless it has a name there.

    An empty name, or `..`, would be the directory itself or one that it is in.
    """
    directory = ServerPath.parse(root)
    path = directory.joined(name)
    if path.contains(directory):
        raise PathInvalid(
            "Cannot perform that action: a name is empty, or that of a directory above.",
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

    def paths(self, top: ServerPath) -> Renaming:
        """Return both paths, which are relative to `top`."""
        source, target = (top.joined(getattr(self, name)) for name in ("from", "to"))
        return Renaming(source, target)


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


class RenameEndpoint(ChangePath):
    """`/api/servers/{uuid}/files/rename`."""

    @call(
        "PUT",
        Success(HTTPStatus.NO_CONTENT, "They are renamed."),
        fails=(HTTPStatus.UNPROCESSABLE_ENTITY,),
    )
    async def rename_files(
        self, request: StreamingRequest, body: FileRenames
    ) -> Renamed | Accepted[Started] | None:
        """Rename or move files, in order.

        Directories on the way are made. A file that does not exist is passed over; at the first
        other failure nothing more is renamed.
        """
        if not body.files and not self.is_calagopus:
            raise Unprocessable("No files to move or rename were provided.")
        top = ServerPath.parse(body.root)
        files = [each.paths(top) for each in body.files]
        task = self.begin(
            lambda root, guard, progress: rename(root, guard, files, progress),
            f"Renaming {files_text(len(files))}",
            ignored=body.ignored,
            lane=self._node.files.renames,
        )
        return await self.counted(task, Renamed)


@attrs.frozen(eq=False, repr=False)
class FileCopy:
    """A file to be copied. The fields after the first are Calagopus'."""

    location: Annotated[str, "The path in the server's directory."] = ""
    path: Annotated[str, "The same."] = ""
    name: Annotated[str | None, "The path of the copy, relative to the file's directory."] = None
    overwrite: Annotated[bool, "Whether a file of that name is replaced."] = False
    foreground: Annotated[bool, "Whether the answer waits for the end."] = True
    ignored: _Ignored = ()


class CopyEndpoint(ChangePath):
    """`/api/servers/{uuid}/files/copy`."""

    @call(
        "POST",
        Success(HTTPStatus.NO_CONTENT, "It is copied."),
        fails=(HTTPStatus.NOT_FOUND,),
    )
    async def copy_file(
        self, request: StreamingRequest, body: FileCopy
    ) -> FileEntry | Accepted[Started] | None:
        """Copy a regular file, or for Calagopus' Panel a directory.

        The copy is beside the file, `name copy.ext` or with a number or the time where that is in
        use, unless Calagopus' Panel gives it a name.
        """
        source = ServerPath.parse(body.path or body.location)
        named = body.name if self.is_calagopus else None
        target = None if named is None else source.parent.joined(named)

        def change(root: ServerRoot, guard: Guard, progress: Progress) -> FileEntry:
            progress.bytes_total = root.stat(source).size
            path, entry = copy(
                root,
                guard,
                source,
                target,
                progress,
                overwrite=body.overwrite,
                directories=self.is_calagopus,
            )
            progress.target = path
            return described(root, path, entry)

        shown = "" if target is None else f"/{target}"
        details = {"type": "copy", "path": f"/{source}", "destination_path": shown}
        task = self.begin(change, f"Copying {source}", details, ignored=body.ignored)
        if self.is_calagopus and not body.foreground:
            self._node.file_tasks.detach(task)
            return self.started(task)
        if not await self._node.file_tasks.wait(task):
            return self.started(task)
        return task.value if self.is_calagopus else None


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


class DeleteEndpoint(ChangePath):
    """`/api/servers/{uuid}/files/delete`."""

    @call(
        "POST",
        Success(HTTPStatus.NO_CONTENT, "They are deleted."),
        fails=(HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY),
    )
    async def delete_files(
        self, request: StreamingRequest, body: FileNames
    ) -> Deleted | Accepted[Started] | None:
        """Delete files, and directories with all that is in them; symlinks are not followed.

        What the egg's denylist has stays, with the directories that it is in. A file that does
        not exist is an error for Pelican's Panel only.
        """
        if not body.files and not self.is_calagopus:
            raise Unprocessable("No files were specified for deletion.")
        paths = [below(body.root, name) for name in body.files]
        missing = self._config.is_pelican
        task = self.begin(
            lambda root, guard, progress: delete(root, guard, paths, progress, missing=missing),
            f"Deleting {files_text(len(paths))}",
            ignored=body.ignored,
        )
        return await self.counted(task, Deleted)


@attrs.frozen(eq=False, repr=False)
class NewDirectory:
    """A directory to be made; Calagopus' Panel has `root` in place of `path`."""

    name: str = ""
    path: Annotated[str, "The directory that the name is relative to."] = ""
    root: Annotated[str, "The same."] = ""
    ignored: _Ignored = ()


class CreateDirectoryEndpoint(ChangePath):
    """`/api/servers/{uuid}/files/create-directory`."""

    @call("POST", Success(HTTPStatus.NO_CONTENT, "It is made, or was there."))
    async def create_directory(self, request: StreamingRequest, body: NewDirectory) -> None:
        """Make a directory and those on the way to it; one that exists is kept."""
        path = ServerPath.parse(body.root or body.path).joined(body.name)
        task = self.begin(
            lambda root, guard, progress: create_directory(root, guard, path),
            f"Making the directory {path}",
            ignored=body.ignored,
            lane=self._node.files.short,
        )
        await self._node.file_tasks.wait(task)


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


class ChmodEndpoint(ChangePath):
    """`/api/servers/{uuid}/files/chmod`."""

    @call(
        "POST",
        Success(HTTPStatus.NO_CONTENT, "They have these modes."),
        fails=(HTTPStatus.UNPROCESSABLE_ENTITY,),
    )
    async def change_modes(
        self, request: StreamingRequest, body: FileModes
    ) -> Updated | Accepted[Started] | None:
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
            lambda root, guard, progress: set_modes(root, guard, files, progress),
            f"Setting the modes of {files_text(len(files))}",
            ignored=body.ignored,
        )
        return await self.counted(task, Updated)
