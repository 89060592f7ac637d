"""`compress`, and the extras of Calagopus' page: several copies at once, symlinks."""

from __future__ import annotations

import posixpath
import stat
import time
from collections.abc import Iterator
from http import HTTPStatus
from itertools import chain
from typing import Annotated

import attrs

from wingsd.api.file_changes import ChangePath, MovedFile, Started, described
from wingsd.archive import Compression
from wingsd.errors import (
    FileMissing,
    NameConflict,
    NoSpaceToCompress,
    PathInvalid,
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
from wingsd.files.changes import copy, copy_names
from wingsd.files.entries import FileEntry, entry_data
from wingsd.files.guard import Guard
from wingsd.files.progress import Progress
from wingsd.files.tasks import FileTask
from wingsd.filesystem import Entry, ServerPath, ServerRoot, name_from_text
from wingsd.http.operations import Accepted, Success, call
from wingsd.http.request import StreamingRequest
from wingsd.util.serialization import Keywords

__all__ = ["CompressEndpoint", "CopyManyEndpoint", "CreateSymlinkEndpoint"]

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


class CompressEndpoint(ChangePath):
    """`/api/servers/{uuid}/files/compress`."""

    @call(
        "POST",
        Success(HTTPStatus.OK, "The archive."),
        fails=(HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY),
    )
    async def compress_files(
        self, request: StreamingRequest, body: NewArchive
    ) -> FileEntry | Accepted[FileEntry | Started]:
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
        if by_format and not body.foreground:
            self._node.file_tasks.detach(task)
            return self.started(task)
        if await self._node.file_tasks.wait(task) and task.value is not None:
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

        def change(root: ServerRoot, guard: Guard, progress: Progress) -> FileEntry:
            targets = self._targets(top, body.name, kind)
            path, entry = compress(root, guard, asked, targets, progress)
            if self.is_calagopus:
                return described(root, path, entry)
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


class CopyManyEndpoint(ChangePath):
    """`/api/servers/{uuid}/files/copy-many`, for Calagopus' Panel."""

    @call("POST", Success(HTTPStatus.OK, "How many were copied."))
    async def copy_files(
        self, request: StreamingRequest, body: FileCopies
    ) -> Copied | Accepted[CopiesStarted]:
        """Copy files and directories to other paths.

        Those that do not exist, or whose new path is in use, are passed over.
        """
        top = ServerPath.parse(body.root)
        files = [each.paths(top) for each in body.files]
        skipped: list[FileEntry] = []

        def change(root: ServerRoot, guard: Guard, progress: Progress) -> int:
            copied = 0
            for each in files:
                progress.check()
                try:
                    copy(
                        root,
                        guard,
                        each.source,
                        each.target,
                        progress,
                        overwrite=body.overwrite,
                        directories=True,
                    )
                except NameConflict:
                    entry = root.stat(each.target)
                    skipped.append(described(root, each.target, entry))
                except (FileMissing, PathInvalid):
                    continue
                else:
                    copied += 1
            return copied

        names = [{"from": f"/{each.source}", "to": f"/{each.target}"} for each in files[:_NAMED]]
        details = {"type": "copy_many", "path": f"/{top}", "files": names}
        task = self.begin(change, f"Copying {len(files)} files", details, ignored=body.ignored)
        if body.foreground and await self._node.file_tasks.wait(task):
            return Copied(task.value or 0, tuple(skipped))
        self._node.file_tasks.detach(task)
        return Accepted(CopiesStarted(task.identifier, ()))


@attrs.frozen(eq=False, repr=False)
class NewSymlink:
    """A symlink to be made."""

    link: Annotated[str, "Its path, relative to `root`."]
    target: Annotated[str, "The path that it leads to, relative to its own directory."]
    root: str = ""
    path: Annotated[str, "The same as `root`."] = ""
    ignored: Annotated[tuple[str, ...], "Files that are denied as well, as in gitignore."] = ()


class CreateSymlinkEndpoint(ChangePath):
    """`/api/servers/{uuid}/files/create-symlink`, for Calagopus' Panel."""

    @call(
        "POST",
        Success(HTTPStatus.NO_CONTENT, "It is made."),
        fails=(HTTPStatus.NOT_FOUND,),
    )
    async def create_symlink(self, request: StreamingRequest, body: NewSymlink) -> None:
        """Make a symlink to a file of the server that exists.

        A target that begins with a slash is below the server's directory.
        """
        link = ServerPath.parse(body.root or body.path).joined(body.link)
        start = ServerPath() if body.target.startswith("/") else link.parent
        target = start.joined(body.target)
        text = posixpath.relpath(b"/" + bytes(target), b"/" + bytes(link.parent))

        def change(root: ServerRoot, guard: Guard, progress: Progress) -> None:
            guard.check(target, is_directory=root.stat(target).is_directory)
            guard.check(link)
            root.make_symlink(link, text)

        title = f"Making the symlink {link}"
        task = self.begin(change, title, ignored=body.ignored, lane=self._node.files.short)
        await self._node.file_tasks.wait(task)
