"""`decompress`: an archive of a user extracted beside it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

import attrs

from wingsd.api.file_changes import ChangePath, Started, below
from wingsd.files.extraction import ExtractedMembers, Extracting, extract
from wingsd.files.guard import Guard
from wingsd.files.progress import Progress
from wingsd.filesystem import ServerPath, ServerRoot
from wingsd.http.operations import Accepted, Success, call
from wingsd.http.request import StreamingRequest
from wingsd.util.deferreds import when_fired

__all__ = ["DecompressEndpoint"]


@attrs.frozen(eq=False, repr=False)
class ArchiveToExtract:
    """An archive, and the directory that it is extracted into; the last fields are Calagopus'."""

    file: Annotated[str, "The archive, relative to `root`."]
    root: Annotated[str, "The directory that it is extracted into."] = "/"
    foreground: Annotated[bool, "Whether the answer waits for the end."] = True
    ignored: Annotated[tuple[str, ...], "Files that are denied as well, as in gitignore."] = ()


class DecompressEndpoint(ChangePath):
    """`/api/servers/{uuid}/files/decompress`."""

    @call(
        "POST",
        Success(HTTPStatus.NO_CONTENT, "It is extracted."),
        fails=(HTTPStatus.NOT_FOUND,),
    )
    async def decompress_file(
        self, request: StreamingRequest, body: ArchiveToExtract
    ) -> Accepted[Started] | None:
        """Extract an archive: zip, tar, 7z, RAR, or a single compressed file.

        Its format is told by its content, and by its name where that does not tell. Existing files
        are replaced, and what the egg's denylist has is passed over. Symlinks are made where they
        lead to a file of the server, and hard links become copies. If it takes more than ten
        seconds, the answer is 202, and the console tells the end.
        """
        top, archive = ServerPath.parse(body.root), below(body.root, body.file)
        server = self.game_server
        limit, used = server.files.limit, server.files.disk_bytes
        left = None if limit is None or used is None else limit - used
        asked = Extracting(archive, top, left)

        def change(root: ServerRoot, guard: Guard, progress: Progress) -> ExtractedMembers:
            progress.target = top
            return extract(root, guard, asked, progress)

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
        if self.is_calagopus and not body.foreground:
            self._node.file_tasks.detach(task)
            return self.started(task)
        return None if await self._node.file_tasks.wait(task) else self.started(task)

    def _tell(self, extracted: ExtractedMembers | None) -> None:
        """Say in the console what was left out."""
        if extracted is not None and extracted.passed_over:
            self.game_server.say(
                f"{extracted.passed_over} entries of the archive were passed over, such as "
                f"{extracted.example}: links that lead elsewhere, devices, or files of the egg's "
                "denylist."
            )
