"""The backups of this node that are being restored: begun, cancelled, and settled after a restart.

A daemon that dies leaves the server with its old content or, from when the new one was recorded as
whole, with the new one: the next daemon completes that at its start, before it does anything else.
It then reports how the restore has ended, and starts the server if it was stopped for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from twisted.internet.defer import DeferredList

from wingsd.callbacks import PendingReport
from wingsd.errors import DaemonStopping, RestoreFailed, ServerBusy, ServerNotFound
from wingsd.restores.announcements import Announcements
from wingsd.restores.archives import RestoreArchive
from wingsd.restores.content import ContentParts, RestoredContent
from wingsd.restores.leftovers import RestoreLeftovers
from wingsd.restores.restore import ANSWER_PATIENCE, Restore, RestoreReporting
from wingsd.servers import Server, Servers
from wingsd.servers.files import BackgroundTasks
from wingsd.servers.operations import Operation, refusal
from wingsd.statedb import Outcome, RestoreRecord
from wingsd.util.deferreds import when_fired

__all__ = ["Restores"]

RESTORING = "a backup of the server is being restored"
_RESTARTED = "this node was restarted meanwhile; restore the backup again"


class Restores:
    """All restores under way. `for_calagopus` is whether pages are those of its Panel."""

    def __init__(
        self,
        servers: Servers,
        parts: ContentParts,
        leftovers: RestoreLeftovers,
        reporting: RestoreReporting,
        *,
        for_calagopus: bool,
    ) -> None:
        self._servers = servers
        self._parts = parts
        self._reporting = reporting
        self._leftovers = leftovers
        self._for_calagopus = for_calagopus
        self._running: dict[str, Restore] = {}
        self._settled: list[tuple[RestoreRecord, PendingReport]] = []
        self._tasks = BackgroundTasks()
        self._stopping = False

    @property
    def servers(self) -> list[str]:
        """The UUIDs of the servers whose backups are being restored."""
        return [*self._running]

    async def begin(
        self,
        server: Server,
        backup: str,
        open_archive: Callable[[], Awaitable[RestoreArchive]],
        *,
        truncate: bool,
    ) -> None:
        """Open the archive of a backup, and restore it in the background.

        With `truncate` it replaces all files of the server, else it is laid over them. Raises
        `ServerBusy`, `ServerNotFound`, `StorageError`, `DaemonStopping`, and whatever opening the
        archive raises: then nothing has begun.
        """
        self._check(server)
        archive = await open_archive()
        try:
            self._check(server)
            server.place_hold(Operation.RESTORE, RESTORING)
            record = await self._record(server, backup, truncate=truncate)
        except BaseException:
            archive.close()
            raise
        self._start(server, record, archive)

    def _check(self, server: Server) -> None:
        if self._stopping:
            raise DaemonStopping
        if self._servers.get(server.uuid) is not server:  # It was deleted meanwhile.
            raise ServerNotFound("The requested resource does not exist on this instance.")
        server.operations.check(Operation.RESTORE)

    async def _record(self, server: Server, backup: str, *, truncate: bool) -> RestoreRecord:
        database = self._reporting.database
        try:
            record = await database.begin_restore(server.uuid, backup, truncate=truncate)
        except BaseException:
            server.operations.release(Operation.RESTORE)
            raise
        if self._stopping or not server.operations.runs(Operation.RESTORE):
            # It was deleted meanwhile.
            await self._reporting.callbacks.add_restore(record, Outcome.FAILURE)
            server.operations.release(Operation.RESTORE)
            raise ServerBusy(refusal(Operation.DELETE, Operation.RESTORE))
        return record

    def _start(self, server: Server, record: RestoreRecord, archive: RestoreArchive) -> None:
        uuid = server.uuid
        build = server.configuration.settings.build
        content = RestoredContent(uuid, server.directory, build.disk_space, archive, self._parts)
        announcements = self._announcements(server, archive.kind)
        restore = Restore(server, record, content, self._leftovers, announcements, self._reporting)
        self._running[uuid] = restore
        restore.over.addCallback(self._over, restore)
        self._tasks.start("restoring its backup", restore.run(), uuid)

    def _announcements(self, server: Server, kind: str = "") -> Announcements:
        return Announcements(server, kind, self._for_calagopus, self._reporting.reactor)

    def _over(self, _: None, restore: Restore) -> None:
        del self._running[restore.server.uuid]

    async def release(self, uuid: str) -> None:
        """End the restore of a server that is to be deleted; return when that is over."""
        restore = self._running.get(uuid)
        if restore is not None:
            over = when_fired(restore.over)
            restore.cancel(ServerBusy(refusal(Operation.DELETE, Operation.RESTORE)))
            await over

    async def stop(self) -> None:
        """Stop reading archives. The next daemon settles what is not over."""
        self._stopping = True
        running = tuple(self._running.values())
        over = [when_fired(restore.over) for restore in running]
        for restore in running:
            restore.cancel(DaemonStopping())
        await DeferredList(over)
        self._leftovers.stop()
        self._tasks.stop()

    # After a restart

    def names(self, records: Sequence[RestoreRecord]) -> list[str]:
        """Return the names in the staging area that `recover` needs."""
        return self._parts.storage.names(records)

    def recover(self, records: Sequence[RestoreRecord]) -> None:
        """Complete what an earlier daemon has begun to put into place.

        Blocking, at the daemon's start. Raises `StorageError`.
        """
        for record in records:
            self._leftovers.recover(record)

    async def settle(self, records: Sequence[RestoreRecord]) -> list[str]:
        """Report how the restores of an earlier daemon have ended.

        Return the servers that are to be started again.
        """
        callbacks = self._reporting.callbacks
        for record in records:
            self._settled.append((record, await callbacks.add_restore(record, _outcome(record))))
            self._leftovers.delete(record.server)
        return [record.server for record in records if record.start]

    def announce_settled(self) -> None:
        """Tell users how those have ended, when the servers are loaded."""
        for record, report in self._settled:
            with suppress(ServerNotFound):
                self._announce(self._servers.get(record.server), record, report)
        self._settled.clear()

    def _announce(self, server: Server, record: RestoreRecord, report: PendingReport) -> None:
        announcements = self._announcements(server)
        if _outcome(record) is Outcome.SUCCESS:
            server.say("The backup is restored. This node was restarted meanwhile.", keep=True)
        else:
            announcements.failed(RestoreFailed(_RESTARTED))
        self._tasks.start("showing its state", self._end(announcements, record, report))

    async def _end(
        self, announcements: Announcements, record: RestoreRecord, report: PendingReport
    ) -> None:
        await report.answered_within(ANSWER_PATIENCE, self._reporting.reactor)
        announcements.ended(_outcome(record))


def _outcome(record: RestoreRecord) -> Outcome:
    return Outcome.FAILURE if record.inode is None else Outcome.SUCCESS
