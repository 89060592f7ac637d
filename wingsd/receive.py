"""Receiving a server: the chain of steps from an opened upload to the Panel's word.

Read `IncomingTransfer._receive` from top to bottom: receive, verify, make durable, swap into
place, environment, Panel. Each step that changes something leaves behind how to undo it, and any
failure, wherever it comes from, ends in `_fail`: undone, told, and raised again for the answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.logger import Logger

from wingsd.archive import Extracted, extract
from wingsd.bridge import Feed, Workers
from wingsd.environment import Environment
from wingsd.errors import (
    AlreadyHere,
    BadRequest,
    DaemonStopping,
    NotReported,
    PanelError,
    PanelRefused,
    WingsdError,
)
from wingsd.events import TRANSFER_STATUS, Event, EventBus
from wingsd.formdata import UploadForm
from wingsd.lifecycle import Lifecycle, Step
from wingsd.model import Server
from wingsd.panel import Panel
from wingsd.staging import Staging

__all__ = ["IncomingTransfer", "Means", "Receiver", "Upload"]

MIB = 1024 * 1024


class Upload(Protocol):
    """Where the archive comes from."""

    content_type: str
    user_agent: str

    def read_into(self, form: UploadForm, feed: Feed) -> Deferred[str]:
        """Let the archive flow into `feed`; the Deferred gives the checksum when all is read.

        Raises a `WingsdError` when the upload was stopped before.
        """

    def stop(self, error: WingsdError) -> None:
        """Read no further, for the reason `error`."""


@attrs.frozen
class Means:
    """What a transfer is done with. `owner` is the uid and gid of every server's files."""

    reactor: Any
    panel: Panel
    environment: Environment
    staging: Staging
    bus: EventBus
    owner: tuple[int, int]
    #: Threads that extract; each transfer holds one for as long as it receives.
    extractors: Workers
    #: Threads for the short work on the disk.
    disk: Workers


class Receiver:
    """All transfers to this node, at most one for each server."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._open: dict[str, IncomingTransfer] = {}
        self._stopping = False

    def open(self, server: str) -> IncomingTransfer:
        """Return a new transfer of the server with the UUID `server`.

        Raises `AlreadyHere` while one is under way, `DaemonStopping` after `stop`.
        """
        if self._stopping:
            raise DaemonStopping
        if server in self._open:
            raise AlreadyHere(
                "this server is already being received",
                "wait for the transfer under way to end",
            )
        transfer = IncomingTransfer(server, self._means)
        self._open[server] = transfer
        transfer.over.addCallback(self._forget, server)
        return transfer

    def _forget(self, _: None, server: str) -> None:
        del self._open[server]

    def stop(self) -> Deferred[Any]:
        """Give up what is not verified yet; the Deferred fires when the rest is at its end."""
        self._stopping = True
        transfers = tuple(self._open.values())
        over = DeferredList([_when_fired(transfer.over) for transfer in transfers])
        for transfer in transfers:
            transfer.give_up(DaemonStopping())
        return over

    @property
    def servers(self) -> tuple[str, ...]:
        """The UUIDs of the servers being received."""
        return tuple(self._open)


class IncomingTransfer:
    """One server on its way to this node."""

    _log = Logger()

    def __init__(self, server: str, means: Means) -> None:
        self.server = server
        #: Fires when the transfer is over, whichever way.
        self.over: Deferred[None] = Deferred()
        self._means = means
        self._life = Lifecycle()
        self._upload: Upload | None = None
        self._admission: Deferred[Server] | None = None
        self._given_up: WingsdError | None = None
        self._undo: list[Callable[[], Awaitable[object]]] = []
        self._tell_failure = True

    async def run(self, upload: Upload) -> None:
        """Receive the server. Raises the `WingsdError` that the sender is to read."""
        self._upload = upload
        try:
            settings = await self._admit()
            try:
                await self._receive(upload, settings)
            except Exception as error:
                await self._fail(error)
                raise
        finally:
            self.over.callback(None)

    def give_up(self, reason: WingsdError) -> None:
        """End a transfer whose archive is not verified; leave any other alone."""
        if self._life.can_be_given_up:
            self._given_up = reason
            if self._admission is not None:
                self._admission.cancel()
            if self._upload is not None:
                self._upload.stop(reason)

    # The chain

    async def _admit(self) -> Server:
        """Ask the Panel about the server. Nothing has begun: a failure here is not told to it."""
        self._admission = Deferred.fromCoroutine(self._ask_panel())
        try:
            return await self._admission
        except CancelledError:
            raise self._given_up or DaemonStopping() from None
        except WingsdError as error:
            self._log.warn("{server}: not received: {error}", server=self.server, error=error)
            raise
        finally:
            self._admission = None

    async def _ask_panel(self) -> Server:
        panel = self._means.panel
        if await panel.owns(self.server):
            raise AlreadyHere(
                "this server is already on this node",
                "a transfer would overwrite it; in the Panel, see which node it belongs to",
            )
        return await panel.server(self.server)

    async def _receive(self, upload: Upload, settings: Server) -> None:
        means, server = self._means, self.server
        self._announce()
        form = UploadForm(upload.content_type, upload.user_agent)
        self._advance(Step.RECEIVE)
        started = means.reactor.seconds()
        extracted, checksum = await self._extract(upload, form)
        seconds = means.reactor.seconds() - started

        self._advance(Step.VERIFY)
        if checksum != extracted.sha256:
            raise BadRequest.checksum(checksum, extracted.sha256)

        self._advance(Step.DURABLE)
        await means.disk.run(means.staging.flush, server)

        self._advance(Step.SWAP)
        aside = await means.disk.run(means.staging.swap, server)
        self._undo.append(lambda: means.disk.run(means.staging.undo_swap, server))
        if aside is not None:
            self._log.warn(
                "{server}: a directory of its name was no server of this node; it is now {aside}",
                server=server,
                aside=aside,
            )

        self._advance(Step.ENVIRONMENT)
        if await means.environment.create(settings):
            self._undo.append(lambda: means.environment.remove(server))

        self._advance(Step.REPORT)
        await self._report()
        self._log_figures(extracted, seconds)
        self._advance(Step.DONE)

    async def _extract(self, upload: Upload, form: UploadForm) -> tuple[Extracted, str]:
        means = self._means
        directory = await means.disk.run(means.staging.create, self.server)
        self._undo.append(lambda: means.disk.run(means.staging.discard, self.server))
        feed = Feed(means.reactor)
        checksum = upload.read_into(form, feed)
        try:
            # A failure of the body comes out here too: the feed raises it in the thread. So
            # there is one place to wait, and no thread is left behind in the directory.
            extracted = await means.extractors.run(
                extract, feed.blocks(), directory, means.owner, self._note, abort=feed.close
            )
        except Exception as error:
            upload.stop(error if isinstance(error, WingsdError) else WingsdError(str(error)))
            checksum.addErrback(lambda _: None)  # it is raised already
            raise
        return extracted, await checksum

    async def _report(self) -> None:
        # The Panel may delete the source's copy as soon as this is sent. From here on nothing is
        # undone, whatever happens, unless the Panel has plainly said no.
        self._undo.clear()
        self._tell_failure = False
        try:
            await self._means.panel.transfer_succeeded(self.server)
        except PanelError as error:
            await self._settle(error)

    async def _settle(self, error: PanelError) -> None:
        """Find out what a success became that the Panel did not take. No data is deleted."""
        means = self._means
        try:
            ours = await means.panel.owns(self.server)
        except PanelError:
            ours = None
        if ours:
            return  # It was heard before, and only the answer got lost.
        if ours is None or not isinstance(error, PanelRefused):
            raise NotReported(str(error)) from error
        # The server stays with the source. What came here is whole, so it is not thrown away.
        self._undo += [self._set_aside, lambda: means.environment.remove(self.server)]
        self._tell_failure = True
        raise error

    async def _set_aside(self) -> None:
        means = self._means
        aside = await means.disk.run(means.staging.set_aside, self.server)
        self._log.warn(
            "{server}: the Panel does not want it here; its files are now {aside}",
            server=self.server,
            aside=aside,
        )

    async def _fail(self, error: Exception) -> None:
        self._log.error(
            "{server}: failed while {step}: {error}",
            server=self.server,
            step=self._life.step.words,
            error=error,
        )
        for undo in reversed(self._undo):
            try:
                await undo()
            except Exception:
                self._log.failure("{server}: could not be undone", server=self.server)
        if self._tell_failure:
            try:
                await self._means.panel.transfer_failed(self.server)
            except PanelError as untold:
                self._log.error(
                    "{server}: the Panel was not told of the failure: {error}",
                    server=self.server,
                    error=untold,
                )
        self._life.advance(Step.FAILED)
        self._announce()

    # What is said of it

    def _advance(self, step: Step) -> None:
        if self._given_up is not None and self._life.can_be_given_up:
            raise self._given_up
        before = self._life.step.state
        self._life.advance(step)
        if step.state != before:
            self._announce()
        else:
            self._log.info("{server}: {step}", server=self.server, step=step.words)

    def _announce(self) -> None:
        step = self._life.step
        self._log.info(
            "{server}: state {state}: {step}",
            server=self.server,
            state=step.state.value,
            step=step.words,
        )
        self._means.bus.publish(Event(self.server, TRANSFER_STATUS, (step.state.value,)))

    def _note(self, text: str) -> None:
        # Called in the extracting thread; twisted's logger takes that.
        self._log.info("{server}: {text}", server=self.server, text=text)

    def _log_figures(self, extracted: Extracted, seconds: float) -> None:
        self._log.info(
            "{server}: received {bytes} bytes, {files} files, {seconds:.1f} s, {rate:.1f} MiB/s",
            server=self.server,
            bytes=extracted.archive_bytes,
            files=extracted.file_count + extracted.hard_link_count,
            seconds=seconds,
            rate=extracted.archive_bytes / MIB / max(seconds, 0.001),
        )


def _when_fired(deferred: Deferred[None]) -> Deferred[None]:
    """Return a Deferred of its own that fires after `deferred` does."""
    fired: Deferred[None] = Deferred()

    def tell(result: None) -> None:
        fired.callback(None)

    deferred.addCallback(tell)
    return fired
