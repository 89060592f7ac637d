"""A copy of a server that is kept up to date at another node, before a transfer is ordered.

A seed is a direct transfer that holds nothing until it is due: then it goes on as one of a server
that runs. A transfer that is ordered meanwhile takes its place: it goes on with the copy, and with
what this node knows of the files.
"""

from __future__ import annotations

from functools import partial
from http import HTTPStatus

from twisted.internet.defer import CancelledError

from wingsd.errors import ServerBusy
from wingsd.moves.source import MoveSource
from wingsd.servers import Server
from wingsd.statedb import MoveRecord
from wingsd.transfers.coordinator import SendingCoordinator
from wingsd.transfers.errors import DestinationRefused, SeedAdopted
from wingsd.transfers.outgoing.followed import SentServer
from wingsd.transfers.outgoing.mover import Mover
from wingsd.transfers.outgoing.rounds import SeedPolicy
from wingsd.transfers.outgoing.source import SeedOrder, SourceServers
from wingsd.transfers.outgoing.transfer import OutgoingTransfer, SeedRead
from wingsd.transfers.outgoing.upload import OutgoingUpload
from wingsd.transfers.step_log import ProgressReport, StepLog
from wingsd.transfers.steps import SendStep
from wingsd.util.deferreds import when_fired

__all__ = ["SeedTransfer", "SeededServer"]

#: Seconds after which it is tried again to take a server that is busy.
TAKEN_EVERY = 10.0


class SeededServer(SentServer):
    """A server that is used as ever until `take_now`."""

    #: Whether it was taken: else another transfer may have taken it, in the place of this.
    _is_taken = False

    def take(self, *, may_follow: bool) -> None:
        """Do not take it yet."""
        self.follows = True

    def take_now(self) -> None:
        """Take it for its transfer, while it runs if it does. Raises `ServerBusy`."""
        self.follows = False
        super().take(may_follow=True)
        self._is_taken = True

    def recall(self, record: MoveRecord) -> None:
        """Know that an earlier daemon has begun it."""
        self.follows = True

    async def take_over(self) -> None:
        """Do not take it yet."""

    def release(self) -> None:
        """Release it, if it was taken."""
        if self._is_taken:
            super().release()

    async def start_again(self) -> None:
        """Start it if it was stopped for this."""
        if self._is_taken:
            await super().start_again()


class SeedTransfer(OutgoingTransfer):
    """The seed of one server, as it was ordered. `mover` has made its move."""

    def __init__(
        self,
        server: Server,
        coordinator: SendingCoordinator,
        steps: StepLog[SendStep],
        upload: OutgoingUpload,
        servers: SourceServers,
        stop_grace: float,
        order: SeedOrder,
        mover: Mover,
    ) -> None:
        super().__init__(server, coordinator, steps, upload, servers, stop_grace)
        self._sent = self._seeded = SeededServer(server, steps, stop_grace, upload.note_started)
        self._order, self._mover = order, mover
        upload.seed = order
        steps.announcer.is_quiet = True
        self._rounds: SeedPolicy | None = None
        self._gives_way = False
        #: Whether that transfer still waits for what was read.
        self._is_wanted = True
        self._left: MoveSource | None = None

    @property
    def progress(self) -> ProgressReport:
        """How far it is."""
        return self._steps.progress(
            self._upload.meter,
            self._upload.total,
            None if self._rounds is None else self._rounds.figures,
        )

    @property
    def gives_way(self) -> bool:
        """Whether the server is used as ever, and a transfer of it may take the place of this."""
        return self._steps.lifecycle.before(SendStep.FOLLOW) and not self._gives_way

    def _give_way(self) -> None:
        self._gives_way = self._is_wanted = True
        if self._rounds is None:
            self._cancel(SeedAdopted())
            return
        # Not cancelled: nothing is to be under way in a thread when it is over.
        self._rounds.stop(SeedAdopted())
        self._upload.abort()

    async def hand_over(self) -> MoveSource | None:
        """End it, and return what was read, for the transfer that takes the place of this."""
        self._give_way()
        try:
            await when_fired(self.over)
        except CancelledError:
            self._is_wanted = False
            raise
        left, self._left = self._left, None
        return left

    def drop_left(self, _: None = None) -> None:
        """Close what was read, where that transfer has ended and has not asked for it."""
        self._is_wanted = False
        left, self._left = self._left, None
        if left is not None:
            closing = self._mover.uploader.packers.run(left.close)
            closing.addErrback(self.log_failure)

    async def _ask(self, seed: SeedRead | None = None) -> None:
        await super()._ask(seed)
        if self._upload.move is None:
            raise DestinationRefused(
                "the destination node cannot follow a server",
                "it needs wingsd of this version or newer with system.transfers.moves.enabled, "
                "and must not have the server's files already, by a storage pool",
                HTTPStatus.NOT_IMPLEMENTED,
            )

    async def _go_on(self, record: MoveRecord) -> None:
        await self._wait(self._upload.go_on_later(record))

    async def _send(self) -> None:
        if self._steps.lifecycle.before(SendStep.FOLLOW):
            await self._enter(SendStep.SEED)
            await self._seed()
        await super()._send()

    async def _seed(self) -> None:
        """Keep the copy up to date until the end is due, and take the server then."""
        move = self._upload.move
        assert move is not None  # noqa: S101 - by `_ask`
        await self._wait(self._mover.measure_file_system())
        database = self._mover.database
        rounds = self._rounds = SeedPolicy(
            move,
            self.server,
            self._steps,
            self._mover.live.config.follow_every,
            self._order.stop_at,
            partial(database.seconds_since, 0.0),
        )
        self._steps.count = lambda: move.bytes_out
        self._upload.meter.start()
        self.server.files.measure_if_stale()
        try:
            await self._wait(rounds.run())
            await self._wait(self._take(rounds))
        finally:
            self._rounds = None
            self._upload.meter.stop()
            if self._gives_way and self._is_wanted:
                self._left = move.hand_over()
        if not self._sent.follows:
            await self._wait(self._upload.note_running(runs=False))

    async def _take(self, rounds: SeedPolicy) -> None:
        """Take the server as soon as nothing else keeps it busy."""
        announcer, is_told = self._steps.announcer, False
        while True:
            try:
                self._seeded.take_now()
            except ServerBusy as error:
                if not is_told:
                    announcer.say(f"the server is moved when that is over: {error}")
                is_told = True
                await rounds.pause(TAKEN_EVERY)
                await rounds.run()
            else:
                announcer.speak()
                return
