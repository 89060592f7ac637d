"""`/api/servers/{uuid}/backup` and the like: backups made, deleted and restored for a Panel."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from wingsd.api.resource import Endpoint, ServerResource
from wingsd.backups.creation import NewBackup
from wingsd.backups.store import backup_uuid
from wingsd.errors import BackupMissing, BadRequest, ServerBusy
from wingsd.http.operations import INVALID, Topic, call
from wingsd.http.request import StreamingRequest
from wingsd.restores.content import LocalArchive, RestoreArchive
from wingsd.servers.operations import Operation, Operations, refusal
from wingsd.util.serialization import Keywords
from wingsd.util.text import canonical_uuid

__all__ = ["BackupDeletionEndpoint", "BackupsEndpoint", "RestoreEndpoint"]

_CONFLICT = (HTTPStatus.CONFLICT, HTTPStatus.INTERNAL_SERVER_ERROR)


def _backup(text: str) -> str:
    uuid = canonical_uuid(text)
    if uuid is None:
        raise BadRequest(
            "The backup identifier must be a valid UUID.", "a backup is identified by its UUID"
        )
    return uuid


#: What needs the backups of a server to stay. A download does not: it reads on.
_KEEPING = (
    Operation.TRANSFER_OUT,
    Operation.FOLLOW,
    Operation.TRANSFER_IN,
    Operation.RESTORE,
)


def _check_unused(operations: Operations) -> None:
    """Raise ServerBusy while a backup of the server may be sent to another node, or restored."""
    for keeping in _KEEPING:
        if operations.runs(keeping):
            raise ServerBusy(refusal(keeping, Operation.BACKUP), "try again when that is over")


@attrs.frozen(eq=False, repr=False)
class BackupRequest:
    """A backup to be made."""

    uuid: Annotated[str, Keywords(format="uuid")]
    adapter: Annotated[str, "Where it is kept: `wings` is this node."]
    ignore: Annotated[
        str,
        "What it leaves out, in lines as in gitignore. When it is empty, the server's own list "
        "counts: `.pteroignore`, of Pelican `.pelicanignore`, of Calagopus both.",
    ] = ""


class BackupsEndpoint(ServerResource):
    """The calls about the backups of one server, but that which restores one."""

    topic = Topic.BACKUPS

    @call(HTTPStatus.ACCEPTED, "The backup is being made.", fails=_CONFLICT)
    async def make_backup(self, request: StreamingRequest, body: BackupRequest) -> None:
        """Make a backup of a server, whose program runs on.

        Its end is reported to the Panel, also after a restart of this node, and shown in the
        server's console.
        """
        asked = NewBackup(_backup(body.uuid), body.adapter, body.ignore)
        await self._node.backups.begin(self.game_server, asked)

    @property
    def backup(self) -> str:
        """The UUID of the backup in the path. Raises `BackupMissing` when it is invalid."""
        return backup_uuid(self.part("backup"))

    @call(HTTPStatus.NO_CONTENT, "The backup is deleted.", fails=_CONFLICT)
    async def delete_backup(self, request: StreamingRequest) -> None:
        """Delete a local backup of a server.

        One that is being made is cancelled. A download of it that is under way goes on to its end.
        """
        _check_unused(self.game_server.operations)
        await self._node.backup_deletion.delete(self.uuid, self.backup)

    @call(HTTPStatus.NO_CONTENT, "They are deleted.", fails=_CONFLICT)
    async def delete_all_backups(self, request: StreamingRequest) -> None:
        """Delete all local backups of a server.

        Backups of which nothing tells whose they are stay.
        """
        _check_unused(self.game_server.operations)
        await self._node.backup_deletion.delete_all(self.uuid)


@attrs.frozen(eq=False, repr=False)
class DeletedBackup:
    """How a backup is deleted; everything may be left out."""

    adapter: Annotated[str, "Where it is kept: `wings` is this node."] = "wings"
    server: Annotated[str | None, "Its server.", Keywords(format="uuid")] = None
    foreground: Annotated[bool, "Whether the answer waits for the end."] = False


class BackupDeletionEndpoint(Endpoint):
    """`/api/backups/{backup}`, for Calagopus' Panel."""

    topic = Topic.BACKUPS
    _log = Logger()

    @call(
        HTTPStatus.ACCEPTED,
        "The backup is being deleted.",
        fails=(HTTPStatus.NOT_FOUND, *_CONFLICT),
    )
    async def begin_backup_deletion(
        self, request: StreamingRequest, body: DeletedBackup | None = None
    ) -> None:
        """Delete a local backup, and report to the Panel how that has ended."""
        asked = body or DeletedBackup()
        if asked.adapter != "wings":
            raise BadRequest(INVALID, "adapter: this node has only backups of the kind wings")
        backup = _backup(self.part("backup"))
        server = "" if asked.server is None else canonical_uuid(asked.server)
        if server is None:
            raise BadRequest(INVALID, "server: expected the UUID of a server")
        server = await self._node.backup_deletion.owner(server, backup)
        for known in self._node.servers.all():
            # Where nothing tells whose it is, any server may be using it.
            if server in ("", known.uuid):
                _check_unused(known.operations)
        deleting = Deferred.fromCoroutine(
            self._node.backup_deletion.delete_and_report(server, backup)
        )
        deleting.addErrback(
            lambda failure: self._log.failure(
                "backup {backup}: its deletion failed", failure, backup=backup
            )
        )
        if asked.foreground:
            await deleting


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
        HTTPStatus.ACCEPTED,
        "The backup is being restored.",
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
