"""The backups of this node that are being restored: begun, cancelled, and settled after a restart.

Nothing of the server is changed, and it is not stopped, before the whole archive is read and
verified. Then it is stopped as its egg says, not killed, and the new content put into its place at
once. A server that crashes while its backup is read is started at the end, as one that was
stopped.

A daemon that dies leaves the server with its old content or, from when the new one was recorded as
whole, with the new one: the next start completes that, before it does anything else. It then
reports how the restore has ended, and starts the server if it was stopped for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import attrs
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredLock,
    DeferredSemaphore,
    succeed,
)
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.archive.extract import Extracted
from wingsd.archive.policy import Kind
from wingsd.archive.quota import ArchiveLimits
from wingsd.callbacks import CallbackQueue, PendingReport
from wingsd.errors import (
    BackupChecksumMismatch,
    DaemonStopping,
    DiskLimitExceeded,
    RestoreFailed,
    ServerBusy,
    ServerNotFound,
    StorageError,
    WingsdError,
)
from wingsd.events import (
    BACKUP_RESTORE_COMPLETED,
    BACKUP_RESTORE_PROGRESS,
    BACKUP_RESTORE_STARTED,
    DAEMON_MESSAGE,
    INSTALL_COMPLETED,
)
from wingsd.filesystem.walk import measure
from wingsd.restores.content import ReadProgress, RestoreArchive, extract_backup
from wingsd.restores.held import STOP_WITHIN, HeldServer, cancelled
from wingsd.restores.storage import RestoreStorage, kept_size, overlay
from wingsd.servers import Server, Servers
from wingsd.servers.files import BackgroundTasks
from wingsd.servers.operations import Operation, refusal
from wingsd.servers.running import RunningServers
from wingsd.statedb import Outcome, RestoreRecord, StateDatabase
from wingsd.threadio import Workers
from wingsd.transfers.cancellation import slots_held
from wingsd.util.reactor import Periodic
from wingsd.util.text import escaped, readable_time

_MIB = 1 << 20
#: Seconds to wait for the Panel's answer before the event by which pages load the server again.
ANSWER_PATIENCE = 10.0
#: Seconds after the answer to the request in which its end is not reported: a Panel commits that
#: the server is being restored only when it has the answer, and a report before is without effect.
FIRST_MOMENT = 0.5
#: Seconds between two messages about the progress.
PROGRESS_EVERY = 1.0
RESTORING = "a backup of the server is being restored"
#: Why a restore has failed that an earlier daemon had begun.
RESTARTED = "this node was restarted meanwhile; restore the backup again"


def say_failed(server: Server, error: WingsdError | None) -> None:
    """Show users that the backup is not restored, and why; None for an internal error."""
    why = str(error) if error is not None else "an unexpected error; see the node's log"
    server.say(
        f"The backup was not restored, and the server's files are as before: {why}", keep=True
    )


def restore_progress(size: int, total: int, files: int) -> str:
    """Return the data of the event about the progress of a restore."""
    # With the names of Calagopus' pages of 2025, and of those after.
    data = {
        "progress": size,
        "total": total,
        "bytes_processed": size,
        "bytes_total": total,
        "files_processed": files,
    }
    return json.dumps(data)


@attrs.define(eq=False, repr=False)
class Restore:
    """One of `restores`: that of a backup of `server`, as recorded; `run` does it.

    Read `_restore` from top to bottom. Until the content is put into place nothing of the server's
    files is changed.
    """

    server: Server
    _record: RestoreRecord
    _archive: RestoreArchive
    _restores: Restores
    _disk_space: int
    #: Fires when nothing more is done with the server's files, before the Panel has heard it.
    over: Deferred[None] = attrs.field(factory=Deferred)
    _progress: ReadProgress = attrs.field(factory=ReadProgress)
    #: A descriptor of the directory in which the content is staged.
    _directory: int = -1
    _held: HeldServer = attrs.field(init=False)
    _moment: Deferred[None] = attrs.field(factory=lambda: succeed(None))
    _log = Logger()

    def __attrs_post_init__(self) -> None:
        record_start = self._restores.database.start_after_restore
        restored = "its backup is restored"
        self._held = HeldServer(self.server, record_start, restored, self._restores)

    async def run(self) -> None:
        """Restore the backup, and report how that has ended."""
        self._moment = deferLater(self._restores.reactor, FIRST_MOMENT)
        outcome = await self._attempt()
        if outcome is None:
            self.over.callback(None)
        else:
            await self._end(outcome)

    async def _attempt(self) -> Outcome | None:
        """Return the outcome, None where the next start of the daemon completes the restore."""
        try:
            await self._restore()
        except CancelledError:
            raise
        except WingsdError as error:
            if isinstance(self._held.scope.reason, DaemonStopping):
                return None
            restores = self._restores
            if await restores.disk.run(restores.storage.is_undecided, self.server.uuid):
                # The start of the daemon decides.
                self._log.critical(
                    "{server}: the restore stopped halfway; restart wingsd to complete it: "
                    "{error}",
                    server=self.server.uuid,
                    error=error,
                )
                return None
            say_failed(self.server, error)
        except Exception:
            self._log.failure("{server}: its backup was not restored", server=self.server.uuid)
            say_failed(self.server, None)
        else:
            return Outcome.SUCCESS
        finally:
            self._archive.close()
            if self._directory >= 0:
                os.close(self._directory)
                self._directory = -1
        return Outcome.FAILURE

    def cancel(self, reason: WingsdError) -> None:
        """Let it fail for this reason, unless the content is being put into place already."""
        self._held.scope.cancel(reason)
        self._archive.abort(reason)

    # The steps

    async def _restore(self) -> None:
        scope, server, restores = self._held.scope, self.server, self._restores
        self._log.info(
            "{server}: restoring the backup {backup}: it is read and verified",
            server=server.uuid,
            backup=self._record.backup,
        )
        with self._shown():
            await self._stage()
        await self._stop()
        await scope.wait(server.operations.ended(Operation.CHANGE_FILES))
        if not self._record.truncate:
            owner, memory = restores.storage.owner, restores.limits.directory_memory
            await restores.workers.run(overlay, server.directory, self._directory, owner, memory)
        inode = await restores.long.run(restores.storage.flush, self._directory)
        scope.check()
        await restores.database.commit_restore(server.uuid, inode)
        await self._put_into_place(inode)
        server.say(f"Completed server restoration from {self._archive.kind}.")
        await restores.retire(self._record)

    async def _stage(self) -> None:
        """Read the archive to its end into a new directory, and verify all of it."""
        restores, server = self._restores, self.server.uuid
        self._directory = await restores.long.run(restores.storage.create, server)
        async with slots_held(restores.slots, 1, self._held.scope):
            self._archive.begin()
            extracted = await restores.workers.run(
                extract_backup,
                self._archive,
                restores.storage.path(server),
                restores.storage.owner,
                restores.limits.for_server(self._disk_space),
                self._progress,
                self._warn,
            )
            self._held.scope.check()
            await restores.workers.run(self._verify, extracted)
        self._log.info(
            "{server}: the backup is read and verified: {files} files, {size} bytes",
            server=server,
            files=extracted.counts[Kind.FILE],
            size=extracted.unpacked_bytes,
        )

    def _warn(self, line: str) -> None:
        self._log.warn("{server}: {line}", server=self.server.uuid, line=line)

    def _verify(self, extracted: Extracted) -> None:
        """Check what was read, in a thread; the present files that stay count as well."""
        expected = self._archive.sha256
        if expected and extracted.sha256 != expected:
            raise BackupChecksumMismatch(extracted.sha256, expected)
        if self._record.truncate:
            return
        kept = kept_size(self.server.directory, self._directory)
        limit = ArchiveLimits.disk_bytes(self._disk_space)
        path = self._restores.storage.path(self.server.uuid)
        if limit is not None and (size := measure(path) + kept) > limit:
            raise DiskLimitExceeded(
                f"with the present files that stay, the server's files take {-(-size // _MIB)} "
                f"MiB, its disk limit is {limit // _MIB} MiB; raise its disk limit, delete files, "
                "or have the backup replace all files"
            )

    async def _put_into_place(self, inode: int) -> None:
        """Exchange the new content with the present one: wholly, or not at all."""
        storage, disk, server = self._restores.storage, self._restores.disk, self.server.uuid
        try:
            await disk.run(storage.put_into_place, server, inode)
        except StorageError as error:
            if not await disk.run(storage.is_in_place, server, inode):
                raise
            self._log.error("{server}: {error}", server=server, error=error)

    @contextmanager
    def _shown(self) -> Iterator[None]:
        """Tell the beginning, and now and then what is read of the archive."""
        progress, total = self._progress, self._archive.size
        self.server.publish(BACKUP_RESTORE_STARTED)
        shown = ReadProgress()

        def show() -> None:
            if progress.files != shown.files:
                shown.files = progress.files
                name = escaped(progress.name.decode(errors="replace"))
                self.server.publish(DAEMON_MESSAGE, f"(restoring): {name}")
            if progress.size != shown.size:
                shown.size = progress.size
                shown_now = restore_progress(progress.size, total, progress.files)
                self.server.publish(BACKUP_RESTORE_PROGRESS, shown_now)

        repeating = Periodic(self._restores.reactor, show)
        repeating.start(PROGRESS_EVERY, now=False)
        try:
            yield
        finally:
            repeating.stop()
            show()

    async def _stop(self) -> None:
        """Stop the server if it runs. Raises `RestoreFailed` when it does not stop in time."""
        why = "The backup is verified. The server is stopped to put it into place."
        if not await self._held.stop(why):
            raise RestoreFailed(
                f"the server has not stopped within {readable_time(STOP_WITHIN)}; stop it, or "
                "kill it, and restore the backup again"
            )

    async def _end(self, outcome: Outcome) -> None:
        server, restores = self.server, self._restores
        await restores.withdraw(server.uuid)
        await self._moment
        report = await restores.callbacks.add_restore(self._record, outcome)
        self._held.release()
        if outcome is Outcome.SUCCESS:
            server.files.received(None)
        restores.delete(server.uuid)
        self.over.callback(None)
        await restores.show_end(server, outcome, report)
        await self._held.start()


@attrs.define(eq=False, repr=False)
class Restores:
    """All restores under way. `limits` are those of the node.

    `running` has the servers that a transfer is to start. `for_calagopus` is whether pages are
    those of its Panel.

    Replaced files, and failed content, are renamed at once, so that another restore of the server
    does not meet them, and deleted in the background, of one server at a time. What the daemon's
    end interrupts is deleted at its next start. Replaced files are kept in quarantine for
    `quarantine_days`, where all were to be replaced; 0 for none.
    """

    _servers: Servers
    storage: RestoreStorage
    #: Threads that read archives, as many at a time as `slots` has.
    workers: Workers
    slots: DeferredSemaphore
    #: Threads for short and for long work on the disk.
    disk: Workers
    long: Workers
    limits: ArchiveLimits
    database: StateDatabase
    callbacks: CallbackQueue
    running: RunningServers
    reactor: IReactorTime
    _quarantine_days: int
    _for_calagopus: bool
    _restores: dict[str, Restore] = attrs.field(factory=dict, init=False)
    _settled: list[tuple[RestoreRecord, PendingReport]] = attrs.field(factory=list, init=False)
    _tasks: BackgroundTasks = attrs.field(factory=BackgroundTasks, init=False)
    _deleting: DeferredLock = attrs.field(factory=DeferredLock, init=False)
    _stopping: bool = attrs.field(default=False, init=False)
    _log = Logger()

    @property
    def servers(self) -> list[str]:
        """The UUIDs of the servers whose backups are being restored."""
        return [*self._restores]

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
        self.check(server)
        archive = await open_archive()
        try:
            self.check(server)
            server.place_hold(Operation.RESTORE, RESTORING)
            record = await self._record(server, backup, truncate=truncate)
        except BaseException:
            archive.close()
            raise
        disk_space = server.configuration.settings.build.disk_space
        restore = self._restores[server.uuid] = Restore(server, record, archive, self, disk_space)
        restore.over.addCallback(self._over, server.uuid)
        self._tasks.start("restoring its backup", restore.run(), server.uuid)

    def _over(self, _: None, server: str) -> None:
        del self._restores[server]

    def check(self, server: Server) -> None:
        """Raise what keeps a server from being restored, or rewound, now."""
        if self._stopping:
            raise DaemonStopping
        if self._servers.get(server.uuid) is not server:  # It was deleted meanwhile.
            raise ServerNotFound("The requested resource does not exist on this instance.")
        server.operations.check(Operation.RESTORE)

    async def _record(self, server: Server, backup: str, *, truncate: bool) -> RestoreRecord:
        try:
            record = await self.database.begin_restore(server.uuid, backup, truncate=truncate)
        except BaseException:
            server.operations.release(Operation.RESTORE)
            raise
        if self._stopping or not server.operations.runs(Operation.RESTORE):
            # It was deleted meanwhile.
            await self.callbacks.add_restore(record, Outcome.FAILURE)
            server.operations.release(Operation.RESTORE)
            raise ServerBusy(refusal(Operation.DELETE, Operation.RESTORE))
        return record

    async def release(self, uuid: str) -> None:
        """End the restore of a server that is to be deleted; return when that is over."""
        if (restore := self._restores.get(uuid)) is not None:
            reason = ServerBusy(refusal(Operation.DELETE, Operation.RESTORE))
            await cancelled((restore,), reason)

    async def stop(self) -> None:
        """Stop reading archives. The next start settles what is not over."""
        self._stopping = True
        await cancelled(tuple(self._restores.values()), DaemonStopping())
        self._tasks.stop()

    # What a restore leaves on the disk

    async def retire(self, record: RestoreRecord) -> None:
        """Take the replaced files away. A failure is logged: the next start deletes them."""
        keep = self._keeps(record)
        try:
            kept = await self.long.run(self.storage.retire, record.server, keep=keep)
        except StorageError as error:
            self._log.error(
                "{server}: the files that its backup has replaced are deleted at the next start "
                "of this node: {error}",
                server=record.server,
                error=error,
            )
        else:
            self._log_kept(record.server, kept)

    async def withdraw(self, server: str) -> None:
        """Take away what a failed restore, or a rewind, has left. A failure is logged."""
        try:
            await self.long.run(self.storage.withdraw, server)
        except StorageError as error:
            self._log.error(
                "{server}: what its restore or rewind has left is deleted at the next start of "
                "this node: {error}",
                server=server,
                error=error,
            )

    def delete(self, server: str) -> None:
        """Delete in the background what was taken away, and is not kept."""
        self._tasks.start("deleting what a restore has left", self._delete(server), server)

    async def _delete(self, server: str) -> None:
        async with self._deleting:
            await self.long.run(self.storage.discard, server)

    def _keeps(self, record: RestoreRecord) -> bool:
        return record.truncate and self._quarantine_days > 0

    def _log_kept(self, server: str, kept: str | None) -> None:
        if kept is not None:
            self._log.info(
                "{server}: the files that its backup has replaced are kept for {days} days in "
                "{place}",
                server=server,
                days=self._quarantine_days,
                place=kept,
            )

    # After a restart

    def recover(self, records: Sequence[RestoreRecord]) -> None:
        """Complete what an earlier daemon has begun to put into place.

        Blocking, at the daemon's start. Raises `StorageError`.
        """
        for record in records:
            kept = self.storage.recover(record, keep=self._keeps(record))
            self._log_kept(record.server, kept)

    async def settle(self, records: Sequence[RestoreRecord]) -> list[str]:
        """Report how the restores of an earlier daemon have ended.

        Return the servers that are to be started again.
        """
        for record in records:
            report = await self.callbacks.add_restore(record, _outcome(record))
            self._settled.append((record, report))
            self.delete(record.server)
        return [record.server for record in records if record.start]

    def announce_settled(self) -> None:
        """Tell users how those have ended, when the servers are loaded."""
        for record, report in self._settled:
            with suppress(ServerNotFound):
                server = self._servers.get(record.server)
                announcing = self.announce(server, _outcome(record), report)
                self._tasks.start("showing its state", announcing)
        self._settled.clear()

    async def announce(self, server: Server, outcome: Outcome, report: PendingReport) -> None:
        """Show users how a restore of an earlier daemon has ended."""
        if outcome is Outcome.SUCCESS:
            server.say("The backup is restored. This node was restarted meanwhile.", keep=True)
        else:
            say_failed(server, RestoreFailed(RESTARTED))
        await self.show_end(server, outcome, report)

    async def show_end(self, server: Server, outcome: Outcome, report: PendingReport) -> None:
        """Publish the event by which pages show the server as it is, after the Panel's answer.

        The page of Pterodactyl and Pelican shows a server as being restored until `backup restore
        completed`, which it takes for a success. After a failure it gets `install completed` in
        its place, by which it asks the Panel for the server's state. Calagopus' page reads from
        the first whether it was a success.
        """
        await report.answered_within(ANSWER_PATIENCE, self.reactor)
        if self._for_calagopus:
            successful = "true" if outcome is Outcome.SUCCESS else "false"
            server.publish(BACKUP_RESTORE_COMPLETED, successful)
        elif outcome is Outcome.SUCCESS:
            server.publish(BACKUP_RESTORE_COMPLETED, "")
        else:
            server.publish(INSTALL_COMPLETED, "")


def _outcome(record: RestoreRecord) -> Outcome:
    return Outcome.FAILURE if record.inode is None else Outcome.SUCCESS
