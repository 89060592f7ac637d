"""The upload of a server: what is sent, where to, and how far it is.

A destination that takes moves which resume gets one, any other streams.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from twisted.internet.defer import Deferred

from wingsd.backups.local import LocalBackup
from wingsd.errors import DiskLimitExceeded
from wingsd.moves.source import MoveSource
from wingsd.servers import Server
from wingsd.statedb import MoveRecord
from wingsd.threadio import relayed
from wingsd.transfers.cancellation import slots_held
from wingsd.transfers.console import ProgressMeter, UploadFigures, progress_bar
from wingsd.transfers.errors import FinalPassStalled
from wingsd.transfers.outgoing.move import MoveSending
from wingsd.transfers.outgoing.mover import Mover, begun_of
from wingsd.transfers.outgoing.rounds import LivePolicy
from wingsd.transfers.outgoing.source import (
    SeedOrder,
    SourceStorage,
    Subject,
    TransferRequest,
    seed_of,
    streams_of,
)
from wingsd.transfers.outgoing.streams import SourcePool, StreamSending, Uploader, size_limit
from wingsd.transfers.step_log import StepLog
from wingsd.transfers.steps import SendStep
from wingsd.util.text import readable_size

if TYPE_CHECKING:
    from wingsd.transfers.peer.client import PeerClient

__all__ = ["OutgoingUpload", "Sending"]

#: How a server is sent, with one interface.
Sending: TypeAlias = StreamSending | MoveSending


class OutgoingUpload:
    """The upload of one server to `destination`, as it was requested."""

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
        #: None until it is known how it is sent.
        self._sending: Sending | None = None
        self._is_recorded = False
        #: The rounds of a server that runs, or did when it was followed; None without any.
        self.rounds: LivePolicy | None = None
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
        return self._sending is not None and self._sending.is_move

    @property
    def move(self) -> MoveSending | None:
        """The move that resumes; None for streams."""
        return self._sending if isinstance(self._sending, MoveSending) else None

    @property
    def is_live(self) -> bool:
        """Whether it is a move of a server that was followed while it ran."""
        return self._sending is not None and self._sending.is_live

    @property
    def may_follow(self) -> bool:
        """Whether the server may be sent while it runs, if the destination takes moves."""
        return self._mover is not None and self._mover.may_follow

    @property
    def may_go_on(self) -> bool:
        """Whether it is to be left to a later daemon: not while its commit is awaited."""
        return self._is_recorded and not (self._sending is not None and self._sending.is_asked)

    @property
    def total(self) -> int:
        """The bytes there are to read; 0 while the server is not measured."""
        if self.pool.has_files:
            return self._backup_bytes
        measured = self._server.disk_bytes
        return 0 if measured is None else measured + self._backup_bytes

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
        limit, known = size_limit(self._server), self._server.disk_bytes
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
        mover, subject = self._mover, self._subject()
        move: MoveSending | None = None
        if mover is not None and not self.pool.name and mover.is_for(self._features, self.seed):
            self._is_recorded = True
            move = await mover.begin(subject, self._features, follows=follows)
            self._is_recorded = move is not None
            if move is None:
                self._steps.announcer.warn(
                    "the destination does not take this kind of move: it is sent as one stream"
                )
        self._sending = move or StreamSending(
            subject,
            self._destination,
            self._uploader,
            self._storage,
            self.pool,
            self._features,
            self._further,
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
            self._sending = await mover.go_on_waiting(record, self._subject())
            return
        await self.check()
        going = Deferred.fromCoroutine(mover.go_on(record, self._subject()))
        if gives_up and (within := float(mover.live.config.final_patience)):
            going.addTimeout(within, self._uploader.reactor, _stalled)
        self._sending = await going

    async def go_on_later(self, record: MoveRecord) -> None:
        """Go on with the move of a seed; the destination need not be there now."""
        mover = self._mover
        assert mover is not None  # noqa: S101 - that daemon had one
        if begun_of(record) is None:
            await self.go_on(record)
        else:
            self._sending = await mover.go_on_waiting(record, self._subject(), is_asked=False)

    async def rehearse(self, ask_panel: Callable[[], Awaitable[None]]) -> None:
        """Return when a running server may be stopped; see `MoveSending.rehearse`."""
        if self._sending is not None:
            await self._sending.rehearse(ask_panel)

    def _subject(self) -> Subject:
        return Subject(
            self._server,
            self.request,
            self.backups,
            self._steps,
            self.meter,
            self.seed,
            self.kept,
        )

    # The upload itself

    def slots_held(self) -> AbstractAsyncContextManager[int]:
        """Wait for the slots that it needs, and hold them."""
        further = 0 if self.is_move else self._further
        return slots_held(self._uploader.slots, 1 + further, self._steps.cancel_scope)

    async def follow(self, ask_panel: Callable[[], Awaitable[None]]) -> None:
        """Send what changes of a server that runs, until the moment to stop it, or it has ended.

        Raises as `send` and `rehearse`.
        """
        announcer, move, mover = self._steps.announcer, self.move, self._mover
        assert move is not None  # noqa: S101 - only moves follow servers
        assert mover is not None  # noqa: S101 - it has made the move
        rounds = self.rounds = LivePolicy(
            move, self._server, self._steps, mover.live.config, ask_panel
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

    async def note_running(self, *, runs: bool) -> None:
        """Record whether the server runs, which is stopped next. Raises `StorageError`."""
        move, mover, entry = self.move, self._mover, self._steps.entry
        if move is not None and mover is not None and entry is not None:
            move.running = runs
            await mover.note_running(entry, runs=runs)

    async def note_started(self) -> None:
        """Record that the server was started again, or used since. Raises `StorageError`."""
        mover, entry = self._mover, self._steps.entry
        if mover is not None and entry is not None:
            await mover.note_started(entry)

    def was_started(self) -> None:
        """Note that the server runs again, after its last round came to a halt."""
        if self.move is not None:
            self.move.was_started()

    async def send(self, *, gives_up: bool = False) -> None:
        """Send all; return when the last bytes are on their way, or only a commit is missing.

        With `gives_up` a move raises `FinalPassStalled` when it comes to a halt.
        """
        announcer, sending = self._steps.announcer, self._sending
        assert sending is not None  # noqa: S101 - by `begin` or `go_on`
        # Only for the progress bar, which does not wait for it.
        self._server.files.measure_if_stale()
        self._steps.count = lambda: sending.bytes_out
        announcer.show_progress(self._progress_text, figures=self._figures)
        self.meter.start()
        try:
            warn = relayed(self._uploader.reactor, announcer.warn)
            await sending.send(warn, self._patience(gives_up=gives_up))
        finally:
            self.meter.stop()
            announcer.hide_progress()
        sending.log_sent()

    def _patience(self, *, gives_up: bool) -> float:
        """Return the seconds without progress after which a move gives up; 0 for never."""
        mover = self._mover
        return float(mover.live.config.final_patience) if gives_up and mover is not None else 0.0

    async def answered(self, has_moved: Callable[[], Awaitable[bool]], *, gives_up: bool) -> None:
        """Return when the destination has the server; see `MoveSending.answered` and `send`."""
        if self._sending is not None:
            await self._sending.answered(has_moved, self._patience(gives_up=gives_up))

    def abort(self) -> None:
        """Close the connections at once, where there are any."""
        if self._sending is not None:
            self._sending.abort()

    async def close(self) -> None:
        """Let go of what a move needs."""
        if self._sending is not None:
            await self._sending.close()
        elif self.kept is not None:
            await self._uploader.packers.run(self.kept.close)

    async def discard(self, *, keep: bool) -> None:
        """Tell the destination of a move that it has failed; `keep` what has arrived there."""
        if self._sending is not None:
            await self._sending.discard(keep=keep)
        elif self._is_recorded and self._mover is not None:
            await self._mover.withdraw(self._subject(), keep=keep)

    def _progress_text(self) -> str:
        text = f"Uploading {progress_bar(self.meter.done, self.total)}"
        return text + self.meter.pace(self.total) if self.is_move else text

    def _figures(self) -> UploadFigures | None:
        sending = self._sending
        if sending is None:
            return None
        done = self.meter.done
        return UploadFigures(done, sending.bytes_out, max(self.total, done), sending.files)


def _stalled(_: object, seconds: float) -> NoReturn:
    raise FinalPassStalled(seconds)
