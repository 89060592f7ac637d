"""A move to this node as an incoming transfer: admitted at once, and received by many requests.

From the commit on it is put into place as any transfer. Before that an end of the daemon leaves it
to the next one, and a failure keeps what has arrived for the next transfer of the server.
"""

from __future__ import annotations

import json
import time
from functools import partial

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from wingsd.auth.tokens import token_was_used
from wingsd.docker import Environment
from wingsd.docker.container import check_variables
from wingsd.errors import (
    DaemonStopping,
    ServerAlreadyExists,
    TransferCancelled,
    WingsdError,
    error_code,
)
from wingsd.moves.errors import RootMismatch
from wingsd.moves.rebasing import Resumption
from wingsd.moves.tree import MoveLimits
from wingsd.panel.schemas import Configuration
from wingsd.servers import Servers
from wingsd.statedb import Direction, MoveRecord, TransferRecord
from wingsd.transfers.console import ProgressMeter, progress_bar
from wingsd.transfers.coordinator import ReceivingCoordinator
from wingsd.transfers.errors import ContainerNameTaken
from wingsd.transfers.incoming.commit import Remainder
from wingsd.transfers.incoming.moves.attachments import Attachments
from wingsd.transfers.incoming.moves.beginning import MoveTerms
from wingsd.transfers.incoming.moves.errors import (
    MoveAbandoned,
    MoveBusy,
    MoveCommitted,
    MoveGivenUp,
    MoveOver,
    MoveResumeNeeded,
    MoveSuperseded,
    keeps_copy,
)
from wingsd.transfers.incoming.moves.partial_copy import CopySettings, PartialCopy
from wingsd.transfers.incoming.moves.reception import Commit, Phase, Reception
from wingsd.transfers.incoming.moves.silence import SilenceWatch
from wingsd.transfers.incoming.transfer import HOLD, IncomingTransfer
from wingsd.transfers.incoming.uploads import Extraction
from wingsd.transfers.step_log import ProgressReport, StepLogs
from wingsd.transfers.steps import ReceiveStep
from wingsd.transfers.storage.incoming import IncomingStorage
from wingsd.util.text import readable_size

__all__ = ["MoveTransfer"]

_MIB = 1 << 20
#: Seconds that this node waits longer than its source for a sign of the other.
LONGER = 300.0
#: Seconds since the last question to the Panel after which it is asked again before the end.
ASKED_ENOUGH = 600.0
_UNLIMITED = 1 << 62


class MoveTransfer(IncomingTransfer):
    """The move of one server to this node. `terms` must be set before anything else is done."""

    terms: MoveTerms

    def __init__(
        self,
        server: str,
        coordinator: ReceivingCoordinator,
        step_logs: StepLogs,
        storage: IncomingStorage,
        extraction: Extraction,
        environment: Environment,
        servers: Servers,
        reactor: IReactorTime,
    ) -> None:
        super().__init__(
            server, coordinator, step_logs, storage, extraction, environment, servers, reactor
        )
        self._storage = storage
        self._extraction = extraction
        self._reception: Reception | None = None
        self._arrival = self
        self._steps.count = self._arrived
        #: Counts what has arrived, of this move or before.
        self.meter = ProgressMeter(reactor.seconds, self._count)
        self._silence = SilenceWatch(reactor, self._is_committing, self._abandon)
        self._asked = reactor.seconds()
        self._reason: Exception | None = None
        #: Whether a later daemon could go on with it.
        self._is_recorded = False
        #: Bytes at the last line about the progress.
        self._shown = -1

    @property
    def progress(self) -> ProgressReport:
        """How far it is; the rate is that of what has arrived by this daemon."""
        found = super().progress
        rate = self._arrived() / self.meter.seconds if self.meter.seconds > 0 else 0.0
        return attrs.evolve(found, rate=rate)

    def _arrived(self) -> int:
        return self._reception.arrived if self._reception is not None else 0

    def _count(self) -> int:
        return self._reception.bytes if self._reception is not None else 0

    @property
    def size(self) -> int:
        """How many bytes are expected, 0 where that is not known."""
        if self._reception is None or not self.terms.beginning.bytes:
            return 0
        return self.terms.beginning.bytes + self._reception.attachments.size

    # Beginning

    async def begin(self, expires: float) -> None:
        """Admit the server, and use up the token, which expires then; return when it may come.

        The rest goes on by itself. Raises the `WingsdError` that the source is to read.
        """
        try:
            configuration = await self._admit()
        except BaseException:
            self._complete_later(Remainder())
            raise
        try:
            await self._begin()
            await self._use_token(expires)
            held = await self._open(configuration)
            await self._steps.enter(ReceiveStep.RECEIVE)
        except Exception as error:
            self._complete_later(await self._fail(error))
            raise
        if held:
            self._steps.announcer.say(
                f"{readable_size(held)} of it are here, from an earlier transfer"
            )
        Deferred.fromCoroutine(self._run(configuration))

    async def _use_token(self, expires: float) -> None:
        entry, identity = self._steps.entry, self.terms.identity
        if entry is None:
            raise MoveOver
        record = MoveRecord(
            transfer=entry,
            server=self.server,
            direction=Direction.IN,
            move=identity.move,
            key=identity.key,
            token=identity.token,
            family=self.terms.beginning.family,
            request=self.terms.beginning.encode(),
        )
        if not await self.terms.database.admit_move(record, expires):
            raise token_was_used()
        self._is_recorded = True

    async def _open(self, configuration: Configuration, *, is_new: bool = True) -> int:
        """Open the copy; return how many bytes of an earlier move it has."""
        limits = self._extraction.limits.for_server(configuration.settings.build.disk_space)
        size = limits.disk if limits.disk is not None else _UNLIMITED
        storage = self._storage
        staging, copies = storage.staging, storage.copies
        copy = PartialCopy(
            self.server,
            bytes.fromhex(self.terms.identity.move),
            copies,
            CopySettings(MoveLimits(limits.members, size), self._extraction.owner, limits.reserve),
            partial(staging.sync, self.server),
        )
        attachments = Attachments(
            self.server,
            self.terms.beginning.backups,
            self.terms.beginning.log,
            storage.backups,
            (copies.log_part(self.server), staging.log(self.server)),
            limits.reserve,
        )
        most = self.terms.settings.batch * _MIB
        reception = Reception(self.server, copy, attachments, self._extraction, storage.disk, most)
        if is_new:
            self._rollback.add(self._put_away)
        reception.bytes = held = await self._extraction.workers.run(
            copy.begin if is_new else copy.reopen
        )
        reception.on_session = self._on_session
        self._reception = reception
        self._steps.cancel_scope.check()
        return held

    async def resume(self, entry: TransferRecord) -> None:
        """Go on with the move that an earlier daemon has left: wait for its source."""
        self._steps.resume(entry, ReceiveStep.RECEIVE)
        self._rollback.add(self._put_away)
        self._is_recorded = True
        try:
            configuration = await self._readmit()
            await self._open(configuration, is_new=False)
        except Exception as error:
            self._complete_later(await self._fail(error))
            return
        await self._run(configuration)

    async def _readmit(self) -> Configuration:
        is_here, configuration = await self._ask_until_answered()
        if is_here:
            raise ServerAlreadyExists("this server is already on this node")
        check_variables(configuration.settings)
        self._servers.admit(configuration, HOLD)
        self._rollback.add(self._forget)
        return configuration

    # Receiving

    async def _run(self, configuration: Configuration) -> None:
        try:
            remainder = await self._receive_move(configuration)
        except Exception as error:
            remainder = await self._fail(error)
        self._complete_later(remainder)

    async def _receive_move(self, configuration: Configuration) -> Remainder:
        reception = self.reception
        self.meter.start()
        self._silence.start(self.terms.settings.patience + LONGER)
        try:
            with self._files.writing_back():
                size, configuration = await self._proven(reception, configuration)
        finally:
            self._silence.stop()
            self.meter.stop()
            self._steps.announcer.hide_progress()
        files = reception.copy.files
        await reception.close(MoveCommitted())
        self._log_figures(size, files)
        server = self._servers.get(self.server)
        return await self._commit_phase.run(server, configuration, size)

    async def _proven(
        self, reception: Reception, configuration: Configuration
    ) -> tuple[int, Configuration]:
        """Return the bytes of all files when they are proven and durable."""
        steps, scope = self._steps, self._steps.cancel_scope
        while True:
            commit = await scope.wait(reception.committed())
            await steps.enter(ReceiveStep.VERIFY)
            try:
                configuration = await self._ask_again(configuration)
                if self.terms.settings.reread:
                    await scope.wait(Deferred.fromCoroutine(reception.verify(commit)))
                await steps.enter(ReceiveStep.DURABLE)
                size = await scope.wait(Deferred.fromCoroutine(reception.finish()))
                await scope.wait(Deferred.fromCoroutine(self._files.flush(pooled=False)))
                reception.seal(commit)
            except (RootMismatch, MoveResumeNeeded) as error:
                await self._go_back(reception, commit, error)
            else:
                return size, configuration

    async def _go_back(self, reception: Reception, commit: Commit, error: WingsdError) -> None:
        scope = self._steps.cancel_scope
        scope.check()
        if isinstance(error, RootMismatch):
            self._steps.announcer.warn(f"{error.code}: {error}", error.code)
        reception.reject(commit, error)
        await self._steps.go_back(ReceiveStep.RECEIVE)

    async def _ask_again(self, configuration: Configuration) -> Configuration:
        """Return the server's description as it is now, if the last one is old."""
        if self._reactor.seconds() - self._asked < ASKED_ENOUGH:
            return configuration
        is_here, configuration = await self._ask_until_answered()
        self._asked = self._reactor.seconds()
        if is_here:
            raise ServerAlreadyExists("this server is already on this node")
        check_variables(configuration.settings)
        return configuration

    # What the requests of the source ask

    @property
    def reception(self) -> Reception:
        """What takes its requests. Raises `MoveBusy` before and after, `MoveOver` at the end."""
        if self._reason is not None:
            raise MoveOver
        if self._reception is None:
            raise MoveBusy("this node asks its Panel about the server; send it again")
        return self._reception

    def hear(self) -> None:
        """Note that the source has asked something."""
        self._silence.hear()

    @property
    def status(self) -> tuple[str, str, str, Reception | None]:
        """Its phase, the name of its step and its text, and what takes its requests."""
        phase = self._reception.phase if self._reception is not None else Phase.OPEN
        if self._reason is not None:
            phase = Phase.COMMIT  # it fails
        return phase, self._steps.step, self._steps.step_text, self._reception

    async def _check_engine(self) -> None:
        """Do nothing yet: a source on the same engine has its container until it sends."""

    async def _check_engine_now(self) -> None:
        try:
            await super()._check_engine()
        except ContainerNameTaken as error:
            self.abort(error)
        except WingsdError:
            pass  # an engine that is silent now is asked again at the end

    def _on_session(self, held: Resumption) -> None:
        reception, announcer = self.reception, self._steps.announcer
        if reception.sessions == 1:
            Deferred.fromCoroutine(self._check_engine_now())
        if held.bytes:
            total = f" of {readable_size(self.size)}" if self.size else ""
            announcer.say(
                f"the move goes on where it was: {readable_size(reception.bytes)}{total} are here"
            )
        self._shown = -1
        announcer.show_progress(self._progress_line)

    def _progress_line(self) -> str:
        done = self.meter.done
        if done == self._shown:
            # Until the source is heard again there is nothing new.
            self._steps.announcer.hide_progress()
        self._shown = done
        return f"Receiving {progress_bar(done, self.size)}"

    def _is_committing(self) -> bool:
        return not self._steps.lifecycle.before(ReceiveStep.VERIFY)

    def _abandon(self, seconds: float) -> None:
        self.abort(MoveAbandoned(seconds))

    # The end

    def abort(self, reason: WingsdError, *, verified: bool = False) -> bool:
        """End the move if it is not put into place yet; with `verified`, also later.

        `DaemonStopping` leaves it to the next daemon.
        """
        limit = ReceiveStep.REPORT if verified else ReceiveStep.SWAP
        if not self._steps.lifecycle.before(limit):
            return False
        self._steps.cancel_scope.cancel(reason)
        return True

    def release(self, *, keeps: bool) -> bool:
        """End it, since the server is to be deleted here; return whether it ends."""
        return self.abort(MoveGivenUp(keeps=True) if keeps else TransferCancelled(), verified=True)

    @property
    def gives_way(self) -> bool:
        """Whether it is not put into place yet: the Panel has ended it, and begun another."""
        return self._steps.lifecycle.before(ReceiveStep.SWAP)

    def give_way(self) -> None:
        """End it, and keep what is here. The Panel is not told: it would end the other one."""
        self.abort(MoveSuperseded())

    async def _fail(self, error: Exception) -> Remainder:
        self._silence.stop()
        goes_on = self._is_recorded and self._steps.lifecycle.before(ReceiveStep.SWAP)
        if isinstance(error, DaemonStopping) and goes_on:
            if self._reception is not None:
                await self._reception.close(DaemonStopping())
            self._storage.staging.finish(self.server)
            return Remainder()
        self._reason = error
        await self._note_failure(error)
        if self._reception is not None:
            await self._reception.close(MoveOver())
        if isinstance(error, MoveSuperseded | MoveGivenUp):
            # The source tells the Panel. This node's word could come when the next transfer has
            # begun, and would end that.
            self._commit_phase.is_unwanted = True
        return await super()._fail(error)

    async def _note_failure(self, error: Exception) -> None:
        """Record what the source is answered that asks for the outcome."""
        entry = self._steps.entry
        if entry is None:
            return
        message = error.message if isinstance(error, WingsdError) else "internal error"
        detail = error.detail if isinstance(error, WingsdError) else "see the log of this node"
        state = {"error": message, "detail": detail, "code": error_code(error)}
        noting = self.terms.database.set_move_state(entry, json.dumps(state))
        noting.addErrback(
            lambda failure: self._log.error(
                "{server}: {error}", server=self.server, error=failure.value
            )
        )
        await noting

    async def _put_away(self) -> None:
        """Keep what has arrived, unless a person has ended the move."""
        disk, copies = self._storage.disk, self._storage.copies
        if self.terms.settings.keep_days and keeps_copy(self._reason):
            kept = await disk.run(copies.keep, self.server, self._count(), time.time())
            self._keeps_backups = kept
            if kept:
                self._steps.announcer.say(
                    f"what has arrived is kept for {self.terms.settings.keep_days} days: the next "
                    "transfer of the server goes on with it"
                )
        else:
            await disk.run(copies.discard, self.server)

    async def _clean_up(self) -> None:
        if not self._keeps_backups:
            await self._tidy_up()
        await super()._clean_up()

    async def _tidy_up(self) -> None:
        """Remove what is beside the server's files."""
        try:
            await self._storage.disk.run(self._storage.copies.finish, self.server)
        except WingsdError as error:
            self._log.warn("{server}: {error}", server=self.server, error=error)

    def _log_figures(self, size: int, files: int) -> None:
        done, seconds = self._arrived(), self.meter.seconds
        self._steps.set_figures(size, files)
        self._log.info(
            "{server}: received {bytes} bytes, {files} files, {backups} backups, {seconds:.1f} s, "
            "{rate:.1f} MiB/s",
            server=self.server,
            bytes=done,
            files=files,
            backups=self.reception.attachments.backups,
            seconds=seconds,
            rate=done / _MIB / max(seconds, 0.001),
        )
