"""The upload of a server: what is sent, where to, and how far it is.

A destination that takes moves which resume gets one, any other the streams of `OutgoingStreams`.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, NoReturn

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from wingsd.archive import Part
from wingsd.archive.policy import attributes_line
from wingsd.archive.quota import ArchiveLimits
from wingsd.backups.local import LocalBackup
from wingsd.errors import DiskLimitExceeded, WingsdError
from wingsd.moves.source import MoveSource
from wingsd.servers import Server
from wingsd.statedb import MoveRecord
from wingsd.threadio import relayed
from wingsd.transfers.console import ProgressMeter, UploadFigures, progress_bar
from wingsd.transfers.errors import FinalPassStalled
from wingsd.transfers.outgoing.move import OutgoingMove
from wingsd.transfers.outgoing.mover import Mover, MoveSubject, begun_of
from wingsd.transfers.outgoing.rounds import LiveRounds, RoundReporter
from wingsd.transfers.outgoing.seed_order import SeedOrder, seed_of
from wingsd.transfers.outgoing.source import (
    JOINS_STREAMS,
    KEEPS_ATTRIBUTES,
    SourceStorage,
    TransferRequest,
    streams_of,
    upload_format,
)
from wingsd.transfers.outgoing.streams import OutgoingStreams, Payload, SourcePool, Uploader
from wingsd.transfers.step_log import StepLog
from wingsd.transfers.steps import SendStep
from wingsd.util.text import readable_size

if TYPE_CHECKING:
    from wingsd.archive.pack import Packed
    from wingsd.transfers.peer.client import PeerClient

__all__ = ["KEEPS_LINKS", "OutgoingUpload"]

#: The features of a destination that keeps symlinks and hard links.
KEEPS_LINKS = frozenset({"symlinks", "hard-links"})
#: Stands for the predicted downtime in a command: whole seconds, rounded up.
_SECONDS = "{seconds}"


class OutgoingUpload:
    """The upload of one server to `destination`, as it was requested."""

    _log = Logger()

    def __init__(
        self,
        server: Server,
        request: TransferRequest,
        destination: PeerClient,
        storage: SourceStorage,
        uploader: Uploader,
        steps: StepLog[SendStep],
        pool: SourcePool,
        mover: Mover | None,
    ) -> None:
        """Without a `mover` the server is sent as streams, whatever the destination takes."""
        self.request = request
        self.pool = pool
        self.backups: tuple[LocalBackup, ...] = ()
        #: What a seed is ordered by, and what one has read that this goes on with.
        self.seed: SeedOrder | None = None
        self.kept: MoveSource | None = None
        #: Counts the bytes that are read of files and backups.
        self.meter = ProgressMeter(uploader.reactor.seconds, self._count)
        self._server = server
        self._destination = destination
        self._storage = storage
        self._uploader = uploader
        self._steps = steps
        self._features: frozenset[str] = frozenset()
        self._further = 0
        self._mover = mover
        self._sending: OutgoingStreams | OutgoingMove | None = None
        self._is_recorded = False
        #: The rounds of a server that runs, or did when it was followed; None without any.
        self.rounds: LiveRounds | None = None
        #: Whether an earlier daemon may have asked for the commit.
        self._was_asked = False

    # How far it is

    @property
    def body_sent(self) -> bool:
        """Whether all of it is on its way."""
        return self._was_asked if self._sending is None else self._sending.body_sent

    @property
    def is_sent(self) -> bool:
        """Whether the destination may have everything; of a pooled server, from the start."""
        begun = self._sending is not None and self._sending.begun
        return self.body_sent or (self.pool.name != "" and begun)

    @property
    def is_move(self) -> bool:
        """Whether it is a move that resumes."""
        return isinstance(self._sending, OutgoingMove)

    @property
    def move(self) -> OutgoingMove | None:
        """The move that resumes, None where it is none."""
        return self._sending if isinstance(self._sending, OutgoingMove) else None

    @property
    def is_live(self) -> bool:
        """Whether it is a move of a server that was followed while it ran."""
        return isinstance(self._sending, OutgoingMove) and self._sending.is_live

    @property
    def may_follow(self) -> bool:
        """Whether the server may be sent while it runs, if the destination takes moves."""
        return self._mover is not None and self._mover.may_follow

    @property
    def may_go_on(self) -> bool:
        """Whether it is to be left to a later daemon: not while its commit is awaited."""
        move = self._sending
        return self._is_recorded and not (isinstance(move, OutgoingMove) and move.is_asked)

    @property
    def total(self) -> int:
        """The bytes there are to read; 0 while the server is not measured."""
        if self.pool.has_files:
            return self._backup_bytes
        measured = self._server.disk_bytes
        return 0 if measured is None else measured + self._backup_bytes

    @property
    def _limit(self) -> int | None:
        """Bytes that the server's files may have, None without a limit."""
        return ArchiveLimits.disk_bytes(self._server.configuration.settings.build.disk_space)

    @property
    def _backup_bytes(self) -> int:
        return sum(backup.size for backup in self.backups)

    def _count(self) -> int:
        return self._sending.read if self._sending is not None else 0

    # Before it

    async def query_destination(self) -> None:
        """Query what the destination supports. Raises why it cannot be asked, or would do harm."""
        self._features = await self.pool.query(self._destination.features)
        self._further = streams_of(
            self.request, self._uploader.max_streams, self._features, self._steps.announcer.warn
        )

    async def check(self) -> None:
        """Find the backups, and check the size of the files.

        Raises `StorageError` where a backup is missing or the files cannot be measured,
        `DiskLimitExceeded` where the server has more than it may have: no node would accept it.
        """
        await self._find_backups()
        limit, known = self._limit, self._server.disk_bytes
        # Measured where the last figure is too large: files may have been deleted since.
        if limit is None or self.pool.has_files or (known is not None and known <= limit):
            return
        found = await self._storage.survey(self._server.uuid)
        if found.size > limit:
            raise DiskLimitExceeded(
                f"the server's files have {readable_size(found.size)}, and its disk limit is "
                f"{readable_size(limit)}; the largest is {found.shown} with "
                f"{readable_size(found.largest_size)}. Holes of sparse files count. Raise its "
                "disk limit in the Panel, or delete files, and transfer it again"
            )

    async def _find_backups(self) -> None:
        if self.request.backups:
            self.backups = await self._storage.find_backups(self._server.uuid, self.request)

    def inode(self) -> Any:
        """Return that of the server's directory."""
        return self._storage.inode(self._server.uuid)

    async def find_dropped(self) -> list[str]:
        """Return where the backups are that the Panel drops. Raises `StorageError`."""
        return await self._storage.find_dropped(self._server.uuid, self.request)

    async def begin(self, *, follows: bool) -> None:
        """Begin a move, where the destination takes those; else do nothing.

        `follows` is whether the server is sent while it runs. Raises why it refuses the server, or
        cannot be asked.
        """
        mover = self._mover
        if mover is None or self.pool.name or not mover.is_for(self._features, self.seed):
            return
        self._is_recorded = True
        move = self._sending = await mover.begin(self._subject(), self._features, follows=follows)
        self._is_recorded = move is not None
        if move is not None:
            move.follow_plans(self._note_plan)
        else:
            self._steps.announcer.warn(
                "the destination does not take this kind of move: it is sent as one stream"
            )

    def recall(self, record: MoveRecord, *, was_asked: bool) -> None:
        """Note that an earlier daemon has begun a move; it may have asked for the commit."""
        self._is_recorded, self._was_asked = True, was_asked
        self.seed = seed_of(record)

    async def go_on(self, record: MoveRecord, *, gives_up: bool = False) -> None:
        """Go on with that move. Raises as `check` and `begin`.

        With `gives_up` it raises `FinalPassStalled` where the destination does not answer for as
        long as in `send`.
        """
        mover = self._mover
        assert mover is not None  # noqa: S101 - that daemon had one
        if self._was_asked:
            await self._find_backups()
            move = await mover.go_on_waiting(record, self._subject())
        else:
            await self.check()
            going = Deferred.fromCoroutine(mover.go_on(record, self._subject()))
            if gives_up and (within := float(mover.live.config.final_patience)):
                going.addTimeout(within, self._uploader.reactor, _stalled)
            move = await going
        self._sending = move
        move.follow_plans(self._note_plan)

    async def go_on_later(self, record: MoveRecord) -> None:
        """Go on with the move of a seed; the destination need not be there now."""
        mover = self._mover
        assert mover is not None  # noqa: S101 - that daemon had one
        if begun_of(record) is None:
            await self.go_on(record)
        else:
            self._sending = await mover.go_on_waiting(record, self._subject(), is_asked=False)

    async def rehearse(self, ask_panel: Callable[[], Awaitable[None]]) -> None:
        """Return when a running server may be stopped; see `OutgoingMove.rehearse`."""
        if isinstance(self._sending, OutgoingMove):
            await self._sending.rehearse(ask_panel)

    def _note_plan(self, there: int | None) -> None:
        """Note the bytes that are `there`, where the destination was asked, for the rate."""
        self.meter.skip(there or 0)
        if there is not None:
            self.meter.resumed = there

    def _subject(self) -> MoveSubject:
        return MoveSubject(
            self._server, self.request, self.backups, self._steps, self.seed, self.kept
        )

    # The upload itself

    def slots_held(self) -> AbstractAsyncContextManager[int]:
        """Wait for the slots that it needs, and hold them."""
        further = 0 if self.is_move else self._further
        return self._uploader.slots_held(further, self._steps.cancel_scope)

    async def follow(self, ask_panel: Callable[[], Awaitable[None]]) -> None:
        """Send what changes of a server that runs, until the moment to stop it, or it has ended.

        Raises as `send` and `rehearse`.
        """
        announcer, move, mover = self._steps.announcer, self._sending, self._mover
        assert isinstance(move, OutgoingMove)  # noqa: S101 - only moves follow servers
        assert mover is not None  # noqa: S101 - it has made the move

        def note(text: str) -> None:
            self._steps.detail = text

        config = mover.live.config
        rounds = self.rounds = LiveRounds(
            move,
            self._server,
            config,
            self._uploader.reactor,
            RoundReporter(announcer.say, note, self._steps.observer, self._announce),
            lambda: move.may_be_stopped(ask_panel),
        )
        self._server.files.measure_if_stale()
        self._steps.count = lambda: move.bytes_out
        announcer.show_progress(lambda: rounds.progress, figures=self._figures)
        self.meter.start()
        try:
            await mover.measure_file_system()
            await rounds.run()
        finally:
            self.meter.stop()
            announcer.hide_progress()

    async def _announce(self, downtime: float) -> None:
        """Announce to the players that the server will be down for so many seconds.

        A console that does not take the line does not stop the move.
        """
        assert self._mover is not None  # noqa: S101 - by `follow`
        command = self._mover.live.config.announce
        if not command:
            return
        try:
            await self._server.command(command.replace(_SECONDS, str(max(math.ceil(downtime), 1))))
        except WingsdError as error:
            self._steps.announcer.say(f"the move could not be announced to its players: {error}")

    async def note_running(self, *, runs: bool) -> None:
        """Record whether the server runs, which is stopped next. Raises `StorageError`."""
        move, mover, entry = self._sending, self._mover, self._steps.entry
        if isinstance(move, OutgoingMove) and mover is not None and entry is not None:
            move.running = runs
            await mover.note_running(entry, runs=runs)

    async def note_started(self) -> None:
        """Record that the server was started again, or used since. Raises `StorageError`."""
        mover, entry = self._mover, self._steps.entry
        if mover is not None and entry is not None:
            await mover.note_started(entry)

    def was_started(self) -> None:
        """Note that the server runs again, after its last round came to a halt."""
        if isinstance(self._sending, OutgoingMove):
            self._sending.was_started()

    async def send(self, *, gives_up: bool = False) -> None:
        """Send all; return when the last bytes are on their way, or only a commit is missing.

        With `gives_up` a move raises `FinalPassStalled` when it comes to a halt.
        """
        announcer = self._steps.announcer
        # Only for the progress bar, which does not wait for it.
        self._server.files.measure_if_stale()
        sending = self._sending or await self._streams()
        self._sending = sending
        self._steps.count = lambda: sending.bytes_out
        announcer.show_progress(self._progress_text, figures=self._figures)
        self.meter.start()
        try:
            packed = await self._send(sending, gives_up=gives_up)
        finally:
            self.meter.stop()
            announcer.hide_progress()
        if isinstance(sending, OutgoingMove):
            self._log_move(sending)
        elif packed:
            self._log_figures(packed)
            self._note_attributes(sum(each.without_attributes for each in packed))

    async def _send(
        self, sending: OutgoingStreams | OutgoingMove, *, gives_up: bool
    ) -> list[Packed]:
        warn = relayed(self._uploader.reactor, self._steps.announcer.warn)
        if isinstance(sending, OutgoingStreams):
            return await sending.send(warn)
        await sending.send(warn, self._patience(gives_up=gives_up))
        return []

    def _patience(self, *, gives_up: bool) -> float:
        assert self._mover is not None  # noqa: S101 - it has made the move
        return float(self._mover.live.config.final_patience) if gives_up else 0.0

    async def answered(self, has_moved: Callable[[], Awaitable[bool]], *, gives_up: bool) -> None:
        """Return when the destination has the server; see `OutgoingMove.answered` and `send`."""
        if isinstance(self._sending, OutgoingMove):
            await self._sending.answered(has_moved, self._patience(gives_up=gives_up))
        elif self._sending is not None:
            await self._sending.answered()

    def abort(self) -> None:
        """Close the connections at once, where there are any."""
        if self._sending is not None:
            self._sending.abort()

    async def close(self) -> None:
        """Let go of what a move needs."""
        if isinstance(self._sending, OutgoingMove):
            await self._sending.close()
        elif self.kept is not None:
            await self._uploader.packers.run(self.kept.close)

    async def discard(self, *, keep: bool) -> None:
        """Tell the destination of a move that it has failed; `keep` what has arrived there."""
        if isinstance(self._sending, OutgoingMove):
            await self._sending.discard(keep=keep)
        elif self._is_recorded and self._mover is not None:
            await self._mover.withdraw(self._subject(), keep=keep)

    async def _streams(self) -> OutgoingStreams:
        payloads = await self._payloads()
        self._steps.cancel_scope.check()
        return OutgoingStreams(
            payloads,
            self._destination,
            self._uploader,
            joined=JOINS_STREAMS in self._features,
            pool=self.pool.headers,
        )

    async def _payloads(self) -> list[Payload]:
        """Return the payload of each stream: the first also has all that is beside the files."""
        directory = self._storage.directory(self._server.uuid)
        whole = Payload(
            server=self._server.uuid,
            family=self.request.family,
            source=None if self.pool.has_files else Part(directory, limit=self._limit),
            links=self._features >= KEEPS_LINKS,
            attributes=KEEPS_ATTRIBUTES in self._features,
            format=upload_format(
                self.request, self._storage.compression, self._steps.announcer.warn
            ),
            backups=self.backups,
            logs=self._storage.logs,
        )
        if not self._further:
            return [whole]
        splitting = self._uploader.split(directory, 1 + self._further, self._limit)
        first, *others = await self._steps.cancel_scope.wait(splitting)
        return [whole.with_part(first), *(whole.only_part(part) for part in others)]

    def _progress_text(self) -> str:
        text = f"Uploading {progress_bar(self.meter.done, self.total)}"
        return text + self.meter.pace(self.total) if self.is_move else text

    def _figures(self) -> UploadFigures | None:
        sending = self._sending
        if sending is None:
            return None
        done = self.meter.done
        return UploadFigures(done, sending.bytes_out, max(self.total, done), sending.files)

    def _log_move(self, move: OutgoingMove) -> None:
        sent, seconds = move.bytes_out, self.meter.seconds
        self._steps.set_figures(sent, move.files)
        self._log.info(
            "{server}: sent {bytes} bytes, {again} of them twice, {files} files, {seconds:.1f} s, "
            "{rate}/s",
            server=self._server.uuid,
            bytes=sent,
            again=move.bytes_again,
            files=move.files,
            seconds=seconds,
            rate=readable_size(sent / max(seconds, 0.001)),
        )

    def _note_attributes(self, count: int) -> None:
        """Say of how many files attributes were left out."""
        if count:
            is_kept = KEEPS_ATTRIBUTES in self._features
            reason = "they have too many" if is_kept else "the destination does not keep them"
            self._steps.announcer.warn(attributes_line(count, reason))

    def _log_figures(self, packed: Sequence[Packed]) -> None:
        size = sum(each.archive_bytes for each in packed)
        files = sum(each.file_count + each.hard_link_count for each in packed)
        self._steps.set_figures(size, files)
        # The seconds include those of the backups.
        size += self._backup_bytes
        self._log.info(
            "{server}: sent {bytes} bytes, {files} files, {seconds:.1f} s, {rate}/s",
            server=self._server.uuid,
            bytes=size,
            files=files,
            seconds=self.meter.seconds,
            rate=readable_size(size / max(self.meter.seconds, 0.001)),
        )


def _stalled(_: object, seconds: float) -> NoReturn:
    raise FinalPassStalled(seconds)
