"""Receiving a server: the chain of steps from an opened upload to the Panel's word.

Read `IncomingTransfer._receive` from top to bottom: receive, verify, make durable, swap into
place, environment, Panel. Each step that changes something leaves behind how to undo it, and any
failure, wherever it comes from, ends in `_fail`: undone, told, and raised again for the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred, DeferredSemaphore, succeed
from twisted.logger import Logger

from wingsd.archive import Extracted, extract
from wingsd.bridge import Feed, Workers, relayed
from wingsd.environment import Environment
from wingsd.errors import (
    AlreadyHere,
    BadRequest,
    NotReported,
    UploadCutShort,
    WingsdError,
)
from wingsd.events import EventBus
from wingsd.model import Configuration
from wingsd.panel import Panel
from wingsd.servers import Server, Servers
from wingsd.transfers.announcer import Announcer
from wingsd.transfers.formdata import UploadForm
from wingsd.transfers.interrupt import Interruptible
from wingsd.transfers.lifecycle import Lifecycle, ReceiveStep
from wingsd.transfers.staging import Staging
from wingsd.transfers.undo import UndoList
from wingsd.transfers.verdict import NotWanted, Verdict
from wingsd.transfers.wording import DESTINATION, progress_bar, readable_size

__all__ = ["IncomingTransfer", "Means", "Upload"]

MIB = 1024 * 1024
#: Why the server cannot be started meanwhile.
HOLD = "the server is being transferred to this node"
#: The same for one that has arrived, when nobody knows whether the Panel was told.
UNCLEAR = "the server has arrived here, but the Panel may not know; see there where it is now"


class Upload(Protocol):
    """Where the archive comes from. `size` is that of the whole body in bytes, 0 if not known."""

    content_type: str
    user_agent: str
    size: int

    def read_into(self, form: UploadForm, feed: Feed) -> Deferred[str]:
        """Let the archive flow into `feed`; the Deferred gives the checksum when all is read.

        Raises a `WingsdError` when the upload was stopped before.
        """

    def stop(self, error: WingsdError) -> None:
        """Read no further, for the reason `error`."""

    def when_gone(self, tell: Callable[[], None]) -> None:
        """Call `tell` when the sender goes after its body was complete, before its answer."""


@attrs.frozen
class Means:
    """What a transfer is done with. `owner` is the uid and gid of every server's files."""

    reactor: Any
    panel: Panel
    environment: Environment
    servers: Servers
    staging: Staging
    bus: EventBus
    owner: tuple[int, int]
    #: Threads that extract, and as many slots: who has none is not read from yet.
    extractors: Workers
    slots: DeferredSemaphore
    #: Threads for the short work on the disk.
    disk: Workers


class IncomingTransfer:
    """One server on its way to this node; it begins when `after` has fired."""

    _log = Logger()

    def __init__(self, server: str, means: Means, after: Deferred[None]) -> None:
        self.server = server
        #: Fires when the transfer is over, whichever way, all is tidied up, and the Panel has
        #: heard of it.
        self.over: Deferred[None] = Deferred()
        self._after = after
        self._means = means
        self._life = Lifecycle(ReceiveStep)
        self._chain = Interruptible()
        self._announcer = Announcer(server, DESTINATION, means.bus, means.reactor)
        self._verdict = Verdict(server, means.panel, means.reactor)
        self._undo = UndoList(server)
        self._environment_begun = False
        self._upload: Upload | None = None
        self._received = 0
        #: Whether a failure leaves the server with its source, for all that is known.
        self._stays_away = True

    async def run(self, upload: Upload) -> None:
        """Receive the server. Raises the `WingsdError` that the sender is to read."""
        self._upload = upload
        upload.when_gone(self._sender_gone)
        rest: Deferred[None] = succeed(None)
        try:
            configuration = await self._admit()
            try:
                await self._receive(upload, configuration)
            except Exception as error:
                rest = await self._fail(error)
                raise
        finally:
            # The sender has its answer meanwhile: neither a Panel that is slow nor a large tree
            # that has to go is its concern.
            rest.addErrback(lambda failure: self._log.failure("a mistake", failure))
            rest.addCallback(self.over.callback)

    def give_up(self, reason: WingsdError, *, verified: bool = False) -> bool:
        """End a transfer whose archive is not verified yet; with `verified`, any other too.

        Return whether it ends: one whose success may have been told goes on in any case.
        """
        border = ReceiveStep.REPORT if verified else ReceiveStep.DURABLE
        if not self._life.before(border):
            return False
        self._chain.interrupt(reason)
        if self._upload is not None:
            self._upload.stop(reason)
        return True

    @property
    def has_failed(self) -> bool:
        """Whether it has, though its traces may still have to go."""
        return self._life.step is ReceiveStep.FAILED

    @property
    def is_receiving(self) -> bool:
        """Whether its archive is still to come, in whole or in part."""
        return self._life.before(ReceiveStep.VERIFY)

    def _sender_gone(self) -> None:
        # It can no longer be told, and every sender then takes the server to be still with it.
        self.give_up(
            UploadCutShort("the sender went away before its answer", "send the server again"),
            verified=True,
        )

    # The chain

    async def _admit(self) -> Configuration:
        """Ask the Panel about the server. Nothing has begun: a failure here is not told to it."""
        try:
            await self._chain.wait(self._after)
            return await self._chain.wait(Deferred.fromCoroutine(self._ask_panel()))
        except WingsdError as error:
            self._log.warn("{server}: not received: {error}", server=self.server, error=error)
            raise

    async def _ask_panel(self) -> Configuration:
        panel = self._means.panel
        if await panel.owns(self.server):
            raise AlreadyHere(
                "this server is already on this node",
                "a transfer would overwrite it; in the Panel, see which node it belongs to",
            )
        return await panel.describe(self.server)

    async def _receive(self, upload: Upload, configuration: Configuration) -> None:
        means, name = self._means, self.server
        server = means.servers.admit(configuration, HOLD)
        self._undo.add(self._forget)
        self._announcer.enter(self._life.step)
        form = UploadForm(upload.content_type, upload.user_agent)
        self._advance(ReceiveStep.RECEIVE)
        await self._chain.wait(means.slots.acquire())
        try:
            started = means.reactor.seconds()
            extracted, checksum = await self._extract(upload, form)
            seconds = means.reactor.seconds() - started
        finally:
            means.slots.release()

        self._advance(ReceiveStep.VERIFY)
        if checksum != extracted.sha256:
            raise BadRequest.checksum(checksum, extracted.sha256)

        self._advance(ReceiveStep.DURABLE)
        await self._chain.wait(means.disk.run(means.staging.flush, name))

        self._advance(ReceiveStep.SWAP)
        await self._make_room()
        await means.disk.run(means.staging.swap, name)
        self._undo.add(lambda: means.disk.run(means.staging.undo_swap, name))

        self._advance(ReceiveStep.ENVIRONMENT)
        # Noted before: an engine that is given up on may still make the container.
        self._environment_begun = True
        creating = means.environment.create(configuration.settings)
        await self._chain.wait(Deferred.fromCoroutine(creating))

        self._advance(ReceiveStep.REPORT)
        await self._report(server)
        self._say_figures(extracted, seconds)
        self._advance(ReceiveStep.DONE)
        await self._hand_over(server)

    async def _extract(self, upload: Upload, form: UploadForm) -> tuple[Extracted, str]:
        means = self._means
        self._undo.add(lambda: means.disk.run(means.staging.withdraw, self.server))
        directory = await means.disk.run(means.staging.create, self.server)
        feed = Feed(means.reactor)
        checksum = upload.read_into(form, feed)
        note = relayed(means.reactor, self._announcer.warn)
        self._announcer.show_progress(self._progress)
        try:
            # A failure of the body comes out here too: the feed raises it in the thread. So
            # there is one place to wait, and no thread is left behind in the directory.
            extracted = await means.extractors.run(
                extract, self._counted(feed), directory, means.owner, note, abort=feed.close
            )
        except Exception as error:
            upload.stop(error if isinstance(error, WingsdError) else WingsdError(str(error)))
            checksum.addErrback(lambda _: None)  # it is raised already
            raise
        finally:
            self._announcer.hide_progress()
        return extracted, await checksum

    def _counted(self, feed: Feed) -> Iterator[bytes]:
        # Runs in a thread of the extraction; the reactor only looks at the number.
        for block in feed.blocks():
            self._received += len(block)
            yield block

    def _progress(self) -> str:
        size = self._upload.size if self._upload is not None else 0
        if size:
            return f"Receiving {progress_bar(self._received, size)}"
        return f"Receiving {readable_size(self._received)}"

    async def _make_room(self) -> None:
        means, server = self._means, self.server
        aside = await means.disk.run(means.staging.set_aside, server)
        if aside is None:
            return
        self._undo.add(lambda: means.disk.run(means.staging.restore, server, aside))
        self._log.warn(
            "{server}: a directory of its name was no server of this node; it is now {aside}",
            server=server,
            aside=aside,
        )

    async def _report(self, server: Server) -> None:
        # The Panel may delete the source's copy as soon as this is sent. From here on nothing is
        # undone, whatever happens, unless the Panel has plainly said no.
        self._undo.clear()
        self._stays_away = False
        self._means.staging.settle(self.server)
        try:
            await self._verdict.succeeded()
        except NotReported:
            server.disown(UNCLEAR)
            raise
        except NotWanted:
            # What came here is whole, so it is not thrown away.
            self._undo.add(self._forget)
            self._undo.add(self._set_aside)
            self._stays_away = True
            raise

    async def _hand_over(self, server: Server) -> None:
        """Let the server be used. Only now the Panel tells its addresses on this node."""
        server.let_go()
        try:
            await server.sync()
        except WingsdError as error:
            # They are asked for again before it is started.
            self._log.warn(
                "{server}: its new settings were not to be had: {error}",
                server=self.server,
                error=error,
            )

    # What undoes it

    async def _fail(self, error: Exception) -> Deferred[None]:
        """Undo everything, and have the Panel told; return what goes on after that."""
        self._announcer.warn(f"failed while {self._life.step.words}: {error}")
        # Told first, since it is what the Panel's users wait for, and what a daemon that has to
        # end must not leave out; the server's place is the source's own again in any case.
        telling = self._verdict.failed() if self._stays_away else None
        told = Deferred.fromCoroutine(telling) if telling else succeed(None)
        await self._undo.run()
        self._life.advance(ReceiveStep.FAILED)
        self._announcer.enter(ReceiveStep.FAILED)
        return Deferred.fromCoroutine(self._tidy_up(told))

    async def _tidy_up(self, told: Deferred[None]) -> None:
        means = self._means
        tidy = UndoList(self.server)
        if self._environment_begun and self._stays_away:
            tidy.add(lambda: means.environment.remove(self.server))
        tidy.add(lambda: means.disk.run(means.staging.discard, self.server))
        await tidy.run()
        if self._stays_away:
            self._log.info("{server}: the failed transfer is cleaned up", server=self.server)
        await told

    async def _forget(self) -> None:
        self._means.servers.forget(self.server)

    async def _set_aside(self) -> None:
        means = self._means
        aside = await means.disk.run(means.staging.set_aside, self.server)
        self._log.warn(
            "{server}: the Panel does not want it here; its files are now {aside}",
            server=self.server,
            aside=aside,
        )

    # What is said of it

    def _advance(self, step: ReceiveStep) -> None:
        self._chain.check()
        self._life.advance(step)
        self._announcer.enter(step)

    def _say_figures(self, extracted: Extracted, seconds: float) -> None:
        self._log.info(
            "{server}: received {bytes} bytes, {files} files, {seconds:.1f} s, {rate:.1f} MiB/s",
            server=self.server,
            bytes=extracted.archive_bytes,
            files=extracted.file_count + extracted.hard_link_count,
            seconds=seconds,
            rate=extracted.archive_bytes / MIB / max(seconds, 0.001),
        )
