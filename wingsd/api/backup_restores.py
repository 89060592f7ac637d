"""`/api/servers/{uuid}/backup/{backup}/restore`: restoring a backup of a server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated

import attrs

from wingsd.api.resource import ServerResource
from wingsd.errors import BackupMissing, BadRequest
from wingsd.http.operations import INVALID, Success, Topic, call
from wingsd.http.request import StreamingRequest
from wingsd.restores.content import LocalArchive, RestoreArchive
from wingsd.util.serialization import Keywords
from wingsd.util.text import canonical_uuid

__all__ = ["RestoreEndpoint"]

WINGS, S3 = "wings", "s3"


@attrs.frozen(eq=False, repr=False)
class RestoreRequest:
    """Which backup is restored, and how."""

    adapter: Annotated[str, Keywords(enum=(WINGS, S3))]
    truncate_directory: Annotated[
        bool,
        "Replace all files of the server. Otherwise those of the backup are laid over them.",
    ] = False
    download_url: Annotated[
        str | None, "A signed link to the archive, for a backup in S3.", Keywords(format="uri")
    ] = None


class RestoreEndpoint(ServerResource):
    """`/api/servers/{uuid}/backup/{backup}/restore`."""

    topic = Topic.SERVERS

    @call(
        "POST",
        Success(HTTPStatus.ACCEPTED, "The backup is being restored."),
        fails=(HTTPStatus.CONFLICT, HTTPStatus.INTERNAL_SERVER_ERROR),
    )
    async def restore_backup(self, request: StreamingRequest, body: RestoreRequest) -> None:
        """Restore a backup of a server.

        Its archive is opened, or requested, before the answer; all of it is then read and verified
        before the server is stopped. The end is reported to the Panel.
        """
        backup = canonical_uuid(self.part("backup"))
        if backup is None:
            raise BadRequest("The backup identifier must be a valid UUID.")
        await self._node.restores.begin(
            self.game_server, backup, self._opener(backup, body), truncate=body.truncate_directory
        )

    def _opener(
        self, backup: str, body: RestoreRequest
    ) -> Callable[[], Awaitable[RestoreArchive]]:
        """Return what opens the archive. Raises `BadRequest`."""
        if body.adapter == WINGS:
            return lambda: self._open_local(backup)
        if body.adapter != S3:
            raise BadRequest(INVALID, f'adapter: expected "{WINGS}" or "{S3}"')
        url = body.download_url
        if not url:
            raise BadRequest(
                "The download_url field is required when the backup adapter is set to S3."
            )
        return lambda: self._node.restore_links.open(url)

    async def _open_local(self, backup: str) -> RestoreArchive:
        """Open a local backup. Raises `BackupMissing`, `StorageError`."""
        opened = await self._node.disk.run(self._node.backup_store.open, self.uuid, backup)
        if opened is None:
            raise BackupMissing(backup)
        found, file = opened
        return LocalArchive(file, found.catalogue.sha256 if found.catalogue is not None else "")
