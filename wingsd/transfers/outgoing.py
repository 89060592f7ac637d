"""Sending a server: the chain of steps from the Panel's order to its word.

Read `OutgoingTransfer._send` from top to bottom: stop, retire the container, ask, send, await.
The server's files are only read. They go when the Panel has them deleted, and never before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from wingsd.archive import Packed, pack
from wingsd.bridge import Outflow, OutflowClosed, relayed
from wingsd.errors import TransferCancelled, WingsdError
from wingsd.journal import Outcome
from wingsd.servers import Server
from wingsd.transfers.course import Course
from wingsd.transfers.destination import Destination, OutgoingUpload
from wingsd.transfers.formdata import FormFrame
from wingsd.transfers.lifecycle import SendStep
from wingsd.transfers.localbackups import LocalBackup, find_backups
from wingsd.transfers.means import SendingMeans
from wingsd.transfers.order import Form, TransferOrder, form_of
from wingsd.transfers.verdict import Verdict
from wingsd.transfers.wording import SOURCE, progress_bar, readable_size

__all__ = ["KEEPS_LINKS", "MOVED", "OutgoingTransfer"]

#: What a destination says that it keeps, when symlinks and hard links may be sent as they are.
KEEPS_LINKS = frozenset({"symlinks", "hard-links"})
#: Why a server is not started whose files still wait for the Panel to have them deleted.
MOVED = "the server has moved to another node"


class OutgoingTransfer:
    """One server on its way from this node."""

    _log = Logger()

    def __init__(self, server: Server, order: TransferOrder, means: SendingMeans) -> None:
        """Raise `BadRequest` when the order's address is none."""
        self.server = server
        #: Fires when the transfer is over, whichever way. The outbox sees to it that the Panel
        #: hears of a failure.
        self.over: Deferred[None] = Deferred()
        self._means = means
        self._order = order
        self._destination = Destination(order.url, order.token, means.reactor, means.trust)
        self._course = Course(server.uuid, SOURCE, SendStep, means)
        self._verdict = Verdict(server.uuid, means.panel, means.reactor)
        self._upload: OutgoingUpload | None = None
        self._backups: tuple[LocalBackup, ...] = ()
        self._retired = False
        self._read = 0
        #: Whether it has moved, and the Panel has not had it deleted here yet.
        self.is_left_behind = False

    async def run(self) -> None:
        """Send the server; however that ends is told, and nothing is raised."""
        try:
            # The Panel has begun another transfer: what was to be told of the last one is moot.
            self._means.outbox.drop(self.server.uuid)
            await self._course.begin()
            await self._send()
        except Exception as error:
            await self._fail(error)
        else:
            self._moved()
        finally:
            self.over.callback(None)

    def cancel(self) -> None:
        """End the transfer, wherever it is."""
        self._interrupt(TransferCancelled())

    def give_up(self, reason: WingsdError) -> None:
        """End it unless the destination has everything: it may then be moving already."""
        if not self.is_sent:
            self._interrupt(reason)

    def deleted(self) -> None:
        """The Panel deletes the server here, which is its word that the server has moved.

        Only for one that `is_sent`. The destination is still to answer, and may.
        """
        self._moved()
        self.is_left_behind = False
        self._course.close()

    @property
    def is_sent(self) -> bool:
        """Whether the destination may have everything."""
        return self._upload is not None and self._upload.body_sent

    @property
    def is_over(self) -> bool:
        """Whether the server has moved, or stays."""
        return self._course.life.over

    def _interrupt(self, reason: WingsdError) -> None:
        self._course.chain.interrupt(reason)
        if self._upload is not None:
            self._upload.abort()

    # The chain

    async def _send(self) -> None:
        means, server = self._means, self.server
        # Asked first: a server need not stop for a destination that cannot be reached.
        links = await self._wait(self._destination.features()) >= KEEPS_LINKS

        # Nor for one of which a backup would be lost.
        if self._order.backups:
            self._backups = await self._course.chain.wait(self._find_backups())

        await self._course.enter(SendStep.STOP)
        await self._wait(server.stop_within(means.stop_grace))

        await self._course.enter(SendStep.RETIRE)
        self._retired = True
        await self._wait(means.environment.remove(server.uuid))

        await self._course.enter(SendStep.SEND)
        await self._course.chain.wait(means.slots.acquire())
        try:
            upload = await self._stream(links)
        finally:
            means.slots.release()

        if not self._course.life.over:  # The Panel's word may be faster.
            self._course.pass_on(SendStep.AWAIT)
        await upload.answer

    async def _stream(self, links: bool) -> OutgoingUpload:
        """Send the archive; return when its last byte is on its way."""
        means, server = self._means, self.server
        announcer = self._course.announcer
        form = form_of(self._order, means.compression, announcer.warn)
        # Only for the bar: nothing waits for what is not measured yet.
        server.renew_measure()
        frame = FormFrame(f"archive.{form.archive.suffix}")
        body = Outflow(means.reactor, bucket=means.bucket)
        self._course.count = lambda: body.bytes_out
        self._upload = upload = self._destination.upload(
            frame.content_type, body, means.stall_timeout
        )
        announcer.show_progress(lambda: f"Uploading {progress_bar(self._read, self._all_bytes)}")
        started = means.reactor.seconds()
        try:
            packed = await means.packers.run(
                _write_body,
                body,
                frame,
                directory=self._directory,
                links=links,
                form=form,
                backups=self._backups,
                note=relayed(means.reactor, announcer.warn),
                progress=self._note_progress,
            )
        except OutflowClosed:
            await upload.answer  # which tells why
            raise
        except Exception:
            upload.answer.addErrback(lambda _: None)
            upload.abort()
            raise
        finally:
            announcer.hide_progress()
        seconds = means.reactor.seconds() - started
        self._say_figures(packed, seconds)
        return upload

    def _note_progress(self, read: int) -> None:
        # Called in the packing thread; the reactor only looks at the number.
        self._read = read

    def _find_backups(self) -> Deferred[tuple[LocalBackup, ...]]:
        order, means = self._order, self._means
        return means.disk.run(
            find_backups, means.backup_directory, self.server.uuid, order.backups, order.family
        )

    @property
    def _all_bytes(self) -> int:
        """What there is to read; 0 while the server is not measured."""
        measured = self.server.disk_bytes
        return measured and measured + sum(backup.size for backup in self._backups)

    async def _wait(self, work: Any) -> Any:
        return await self._course.chain.wait(Deferred.fromCoroutine(work))

    @property
    def _directory(self) -> str:
        return self._means.servers.directory(self.server.uuid)

    # The end

    async def _fail(self, error: Exception) -> None:
        """Find out whether it is a failure indeed, have the Panel told, and let the server go."""
        if self._course.life.over:
            self._log.warn(
                "{server}: moved by the Panel's word, though the destination's was: {error}",
                server=self.server.uuid,
                error=error,
            )
            return
        error = self._course.chain.reason or error
        if not isinstance(error, WingsdError):
            self._log.failure("{server}: a mistake", server=self.server.uuid)
            error = WingsdError("an unforeseen error", "the reason is in the log of this node")
        self._course.fail(error)
        if not self.is_sent:
            # Told after the state: the server is the user's again at once.
            self._stays()
            await self._means.outbox.tell(self.server.uuid, Outcome.FAILURE)
            return
        self._course.pass_on(SendStep.SETTLE)
        moved = await self._verdict.has_moved()
        if self._course.life.over:
            return  # The Panel has deleted the server here meanwhile.
        if moved:
            self._course.announcer.say(
                "the Panel says that it has moved: only its answer was lost"
            )
            self._moved()
        else:
            self._course.announcer.say("the Panel says that it is still this node's")
            self._stays()

    def _stays(self) -> None:
        self._course.pass_on(SendStep.FAILED)
        self.server.let_go()
        # Nobody waits for it, but a daemon that ends before does it at its next start.
        Deferred.fromCoroutine(self._restore()).addErrback(
            lambda failure: self._log.failure(
                "{server}: a mistake", failure, server=self.server.uuid
            )
        )

    async def _restore(self) -> None:
        if self._retired:
            await self.server.restore_environment()
        self._course.close()

    def _moved(self) -> None:
        if self._course.life.over:
            return
        self._course.pass_on(SendStep.DONE)
        self.is_left_behind = True
        self.server.disown(MOVED)

    async def look_after(self) -> None:
        """See what the Panel makes of a server that has moved, and that it did not have deleted.

        The destination may have answered before it could tell the Panel, and be lost since.
        """
        moved = await self._verdict.has_moved()
        if not self.is_left_behind:
            return
        self.is_left_behind = False
        if moved:
            self._means.servers.forget(self.server.uuid)
            await self._means.attic.store_away(self.server.uuid)
        else:
            self._log.warn(
                "{server}: the destination took it, but the Panel has it here: it stays",
                server=self.server.uuid,
            )
            self.server.let_go()
        self._course.close()

    # What is said of it

    def _say_figures(self, packed: Packed, seconds: float) -> None:
        self._log.info(
            "{server}: sent {bytes} bytes, {files} files, {seconds:.1f} s, {rate}/s",
            server=self.server.uuid,
            bytes=packed.archive_bytes,
            files=packed.file_count + packed.hard_link_count,
            seconds=seconds,
            rate=readable_size(packed.archive_bytes / max(seconds, 0.001)),
        )


def _write_body(
    body: Outflow,
    frame: FormFrame,
    *,
    directory: str,
    links: bool,
    form: Form,
    backups: Iterable[LocalBackup],
    note: Callable[[str], None],
    progress: Callable[[int], None],
) -> Packed:
    """Write the whole body of the upload, in a worker thread: the archive, then the backups."""
    body.write(frame.before())
    packed = pack(
        directory,
        body.write,
        links=links,
        form=form.archive,
        compression=form.compression,
        note=note,
        progress=progress,
    )
    body.write(frame.after(packed.sha256))
    read = packed.packed_bytes
    for local in backups:
        body.write(frame.before_backup(local.backup))
        digest = hashlib.sha256()
        with closing(local.blocks()) as blocks:
            for block in blocks:
                digest.update(block)
                body.write(block)
                read += len(block)
                progress(read)
        body.write(frame.after_backup(local.backup, digest.hexdigest()))
    body.write(frame.end())
    body.finish()
    return packed
