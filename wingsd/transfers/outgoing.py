"""Sending a server: the chain of steps from the Panel's order to its word.

Read `OutgoingTransfer._send` from top to bottom: stop, retire the container, ask, send, await.
The server's files are only read. They go when the Panel has them deleted, and never before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.archive import Packed, split
from wingsd.bridge import relayed
from wingsd.errors import TransferCancelled, WingsdError
from wingsd.servers import Server
from wingsd.transfers.authority import SendingAuthority
from wingsd.transfers.cargo import Cargo
from wingsd.transfers.course import Course
from wingsd.transfers.destination import Destination
from wingsd.transfers.lifecycle import SendStep
from wingsd.transfers.localbackups import LocalBackup, find_backups
from wingsd.transfers.means import SendingMeans
from wingsd.transfers.order import JOINS_STREAMS, TransferOrder, form_of, streams_of
from wingsd.transfers.outgoingstreams import OutgoingStreams
from wingsd.transfers.progress import Meter, Progress
from wingsd.transfers.slots import slots_held
from wingsd.transfers.wording import SOURCE, progress_bar, readable_size

__all__ = ["KEEPS_LINKS", "MOVED", "OutgoingTransfer"]

#: What a destination says that it keeps, when symlinks and hard links may be sent as they are.
KEEPS_LINKS = frozenset({"symlinks", "hard-links"})
#: Why a server is not started whose files still wait for the Panel to have them deleted.
MOVED = "the server has moved to another node"


class OutgoingTransfer:
    """One server on its way from this node."""

    _log = Logger()

    def __init__(
        self,
        server: Server,
        order: TransferOrder,
        means: SendingMeans,
        authority: SendingAuthority,
    ) -> None:
        """Raise `BadRequest` when the order's address is none."""
        self.server = server
        self.authority = authority
        #: Fires when the transfer is over, whichever way. The outbox sees to it that the Panel
        #: hears of a failure.
        self.over: Deferred[None] = Deferred()
        self._means = means
        self._order = order
        self._destination = Destination(order.url, order.token, means.reactor, means.trust)
        self._course = Course(server.uuid, SOURCE, SendStep, means, authority)
        self._streams: OutgoingStreams | None = None
        self._backups: tuple[LocalBackup, ...] = ()
        self._retired = False
        self._meter = Meter(means.reactor.seconds, self._count)
        self._begun = means.reactor.seconds()
        #: Whether it has moved, and the Panel has not had it deleted here yet.
        self.is_left_behind = False

    async def run(self) -> None:
        """Send the server; however that ends is told, and nothing is raised."""
        try:
            self.authority.begin()
            await self.authority.write_down(await self._course.begin())
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
    def progress(self) -> Progress:
        """How far it is."""
        return Progress(
            server=self.server.uuid,
            entry=self._course.entry,
            step=self._course.life.step,
            words=self._course.doing,
            by_hand=self.authority.by_hand,
            seconds=self._means.reactor.seconds() - self._begun,
            bytes=self._meter.done,
            total=self._all_bytes,
            rate=self._meter.rate,
        )

    @property
    def is_waiting(self) -> bool:
        """Whether others are at work, and it is not its turn yet."""
        return self._course.chain.is_waiting

    @property
    def is_sent(self) -> bool:
        """Whether the destination may have everything."""
        return self._streams is not None and self._streams.body_sent

    @property
    def is_over(self) -> bool:
        """Whether the server has moved, or stays."""
        return self._course.life.over

    def _interrupt(self, reason: WingsdError) -> None:
        self._course.chain.interrupt(reason)
        self.authority.give_up(reason)
        if self._streams is not None:
            self._streams.abort()

    # The chain

    async def _send(self) -> None:
        means, server = self._means, self.server
        # Asked first: a server need not stop for a destination that cannot be reached.
        await self._wait(self.authority.introduce())
        features = await self._wait(self._destination.features())
        warn = self._course.announcer.warn
        further = streams_of(self._order, means.streams, features, warn)

        # Nor for one of which a backup would be lost.
        if self._order.backups:
            self._backups = await self._course.chain.wait(self._find_backups())

        await self._course.enter(SendStep.STOP)
        await self._wait(server.stop_within(means.stop_grace))

        await self._course.enter(SendStep.RETIRE)
        self._retired = True
        await self._wait(means.environment.remove(server.uuid))

        await self._course.enter(SendStep.SEND)
        async with slots_held(means.slots, 1 + further, self._course.chain):
            self._course.take_turn()
            streams = await self._stream(features, further)

        if not self._course.life.over:  # The Panel's word may be faster.
            self._course.pass_on(SendStep.AWAIT)
        await streams.answered()

    async def _stream(self, features: frozenset[str], further: int) -> OutgoingStreams:
        """Send the archives; return when the last bytes of all are on their way."""
        means, announcer = self._means, self._course.announcer
        # Only for the bar: nothing waits for what is not measured yet.
        self.server.renew_measure()
        cargoes = await self._cargoes(features >= KEEPS_LINKS, further)
        self._course.chain.check()
        joined = JOINS_STREAMS in features
        streams = OutgoingStreams(cargoes, self._destination, means, joined=joined)
        self._streams = streams
        self._course.count = lambda: streams.bytes_out
        announcer.show_progress(self._bar)
        self._meter.start()
        try:
            packed = await streams.send(relayed(means.reactor, announcer.warn))
        finally:
            self._meter.stop()
            announcer.hide_progress()
        self._say_figures(packed)
        return streams

    async def _cargoes(self, links: bool, further: int) -> list[Cargo]:
        """Return what each upload is to hold: the first also has all that is beside the files."""
        means, directory = self._means, self._means.servers.directory(self.server.uuid)
        whole = Cargo(
            server=self.server.uuid,
            family=self._order.family,
            source=directory,
            links=links,
            form=form_of(self._order, means.compression, self._course.announcer.warn),
            backups=self._backups,
            logs=means.logs,
        )
        if not further:
            return [whole]
        dividing = means.packers.run(split, directory, 1 + further)
        first, *others = await self._course.chain.wait(dividing)
        return [whole.of(first), *(whole.files_of(part) for part in others)]

    def _bar(self) -> str:
        return f"Uploading {progress_bar(self._meter.done, self._all_bytes)}"

    def _count(self) -> int:
        return self._streams.read if self._streams is not None else 0

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
            await self.authority.tell_failure()
            return
        self._course.pass_on(SendStep.SETTLE)
        moved = await self.authority.has_moved()
        if self._course.life.over:
            return  # The Panel has deleted the server here meanwhile.
        if moved:
            self._course.announcer.say("it has moved: only its answer was lost")
            self._moved()
        else:
            self._course.announcer.say("it is still this node's")
            self._stays()

    def _stays(self) -> None:
        self._course.pass_on(SendStep.FAILED)
        self.server.let_go()
        # Nobody waits for it, but a daemon that ends before does it at its next start.
        Deferred.fromCoroutine(self._restore()).addErrback(self._mistake)

    async def _restore(self) -> None:
        if self._retired:
            await self.server.restore_environment()
        self._course.close()

    def _moved(self) -> None:
        if self._course.life.over:
            return
        self._course.pass_on(SendStep.DONE)
        self.server.disown(MOVED)
        self.is_left_behind = self.authority.deletes
        if not self.authority.deletes:
            Deferred.fromCoroutine(self._part()).addErrback(self._mistake)

    async def _part(self) -> None:
        await self.authority.part(self.server)
        self._course.close()

    def _mistake(self, failure: Failure) -> None:
        self._log.failure("{server}: a mistake", failure, server=self.server.uuid)

    async def look_after(self) -> None:
        """See what the Panel makes of a server that has moved, and that it did not have deleted.

        The destination may have answered before it could tell the Panel, and be lost since.
        """
        moved = await self.authority.has_moved()
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

    def _say_figures(self, packed: Sequence[Packed]) -> None:
        size = sum(each.archive_bytes for each in packed)
        files = sum(each.file_count + each.hard_link_count for each in packed)
        self._course.note_figures(size, files)
        self._log.info(
            "{server}: sent {bytes} bytes, {files} files, {seconds:.1f} s, {rate}/s",
            server=self.server.uuid,
            bytes=size,
            files=files,
            seconds=self._meter.seconds,
            rate=readable_size(size / max(self._meter.seconds, 0.001)),
        )
