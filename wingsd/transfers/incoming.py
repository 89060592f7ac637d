"""Receiving a server: the chain of steps from an opened upload to the Panel's word.

Read `IncomingTransfer._receive` from top to bottom: receive, verify, make durable, swap into
place, environment, Panel. Each step that changes something leaves behind how to undo it, and any
failure, wherever it comes from, ends in `_fail`: undone, told, and raised again for the answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Protocol, TypeVar

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, succeed
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
from wingsd.model import Settings
from wingsd.panel import Panel
from wingsd.transfers.formdata import UploadForm
from wingsd.transfers.lifecycle import Lifecycle, Step
from wingsd.transfers.staging import Staging

__all__ = ["IncomingTransfer", "Means", "Upload"]

T = TypeVar("T")

MIB = 1024 * 1024
#: Answers by which the Panel plainly says that no transfer brings the server here. Any other
#: refusal (too many requests, a credential it does not like) says nothing about the server.
NOT_WANTED = (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)


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
    #: Threads that extract, and as many slots: who has none is not read from yet.
    extractors: Workers
    slots: DeferredSemaphore
    #: Threads for the short work on the disk.
    disk: Workers


class IncomingTransfer:
    """One server on its way to this node."""

    _log = Logger()

    def __init__(self, server: str, means: Means) -> None:
        self.server = server
        #: Fires when the transfer is over, whichever way, and the Panel has heard of it.
        self.over: Deferred[None] = Deferred()
        self._means = means
        self._life = Lifecycle()
        self._upload: Upload | None = None
        self._given_up: WingsdError | None = None
        self._waiting: Deferred[Any] | None = None
        self._undo: list[Callable[[], Awaitable[object]]] = []
        self._tell_failure = True

    async def run(self, upload: Upload) -> None:
        """Receive the server. Raises the `WingsdError` that the sender is to read."""
        self._upload = upload
        told: Deferred[None] = succeed(None)
        try:
            settings = await self._admit()
            try:
                await self._receive(upload, settings)
            except Exception as error:
                told = await self._fail(error)
                raise
        finally:
            # The sender has its answer meanwhile: a Panel that is slow is not its concern.
            told.addErrback(lambda failure: self._log.failure("a mistake", failure))
            told.addCallback(self.over.callback)

    def give_up(self, reason: WingsdError, *, verified: bool = False) -> None:
        """End a transfer whose archive is not verified yet; with `verified`, any other too.

        One whose success may have been told goes on in any case.
        """
        if not self._life.can_be_given_up and (not verified or self._life.may_be_told):
            return
        self._given_up = reason
        if self._waiting is not None:
            self._waiting.cancel()
        if self._upload is not None:
            self._upload.stop(reason)

    # The chain

    async def _admit(self) -> Settings:
        """Ask the Panel about the server. Nothing has begun: a failure here is not told to it."""
        try:
            return await self._unless_given_up(Deferred.fromCoroutine(self._ask_panel()))
        except WingsdError as error:
            self._log.warn("{server}: not received: {error}", server=self.server, error=error)
            raise

    async def _ask_panel(self) -> Settings:
        panel = self._means.panel
        if await panel.owns(self.server):
            raise AlreadyHere(
                "this server is already on this node",
                "a transfer would overwrite it; in the Panel, see which node it belongs to",
            )
        return (await panel.describe(self.server)).settings

    async def _receive(self, upload: Upload, settings: Settings) -> None:
        means, server = self._means, self.server
        self._announce()
        form = UploadForm(upload.content_type, upload.user_agent)
        self._advance(Step.RECEIVE)
        await self._unless_given_up(means.slots.acquire())
        try:
            started = means.reactor.seconds()
            extracted, checksum = await self._extract(upload, form)
            seconds = means.reactor.seconds() - started
        finally:
            means.slots.release()

        self._advance(Step.VERIFY)
        if checksum != extracted.sha256:
            raise BadRequest.checksum(checksum, extracted.sha256)

        self._advance(Step.DURABLE)
        await self._unless_given_up(means.disk.run(means.staging.flush, server))

        self._advance(Step.SWAP)
        await self._make_room()
        await means.disk.run(means.staging.swap, server)
        self._undo.append(lambda: means.disk.run(means.staging.undo_swap, server))

        self._advance(Step.ENVIRONMENT)
        creating = Deferred.fromCoroutine(means.environment.create(settings))
        if await self._unless_given_up(creating):
            self._undo.append(lambda: means.environment.remove(server))

        self._advance(Step.REPORT)
        await self._report()
        self._log_figures(extracted, seconds)
        self._advance(Step.DONE)

    async def _extract(self, upload: Upload, form: UploadForm) -> tuple[Extracted, str]:
        means = self._means
        self._undo.append(self._withdraw)
        directory = await means.disk.run(means.staging.create, self.server)
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

    async def _make_room(self) -> None:
        means, server = self._means, self.server
        aside = await means.disk.run(means.staging.set_aside, server)
        if aside is None:
            return
        self._undo.append(lambda: means.disk.run(means.staging.restore, server, aside))
        self._log.warn(
            "{server}: a directory of its name was no server of this node; it is now {aside}",
            server=server,
            aside=aside,
        )

    async def _report(self) -> None:
        # The Panel may delete the source's copy as soon as this is sent. From here on nothing is
        # undone, whatever happens, unless the Panel has plainly said no.
        self._undo.clear()
        self._tell_failure = False
        self._means.staging.settle(self.server)
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
        if ours is None or not isinstance(error, PanelRefused) or error.code not in NOT_WANTED:
            raise NotReported(str(error)) from error
        # The server stays with the source. What came here is whole, so it is not thrown away.
        self._undo += [self._set_aside, lambda: means.environment.remove(self.server)]
        self._tell_failure = True
        raise error

    # What undoes it

    async def _fail(self, error: Exception) -> Deferred[None]:
        """Undo everything, and have the Panel told; return when that has been done."""
        self._log.error(
            "{server}: failed while {step}: {error}",
            server=self.server,
            step=self._life.step.words,
            error=error,
        )
        # Told first, since it is what the Panel's users wait for, and what a daemon that has to
        # end must not leave out; the server's place is the source's own again in any case.
        told = Deferred.fromCoroutine(self._tell_of_failure())
        for undo in reversed(self._undo):
            try:
                await undo()
            except WingsdError as stuck:
                self._log.error("{server}: not undone: {error}", server=self.server, error=stuck)
            except Exception:
                self._log.failure("{server}: not undone", server=self.server)
        self._life.advance(Step.FAILED)
        self._announce()
        return told

    async def _tell_of_failure(self) -> None:
        if not self._tell_failure:
            return
        try:
            await self._means.panel.transfer_failed(self.server)
        except PanelError as error:
            self._log.error(
                "{server}: the Panel was not told of the failure: {error}",
                server=self.server,
                error=error,
            )
        else:
            self._log.info("{server}: the Panel was told of the failure", server=self.server)

    async def _withdraw(self) -> None:
        means = self._means
        await means.disk.run(means.staging.withdraw, self.server)
        await means.disk.run(means.staging.discard, self.server)

    async def _set_aside(self) -> None:
        means = self._means
        aside = await means.disk.run(means.staging.set_aside, self.server)
        self._log.warn(
            "{server}: the Panel does not want it here; its files are now {aside}",
            server=self.server,
            aside=aside,
        )

    # What is said of it

    async def _unless_given_up(self, waiting: Deferred[T]) -> T:
        """Wait, but no longer than until the transfer is given up."""
        self._waiting = waiting
        try:
            return await waiting
        except CancelledError:
            raise self._given_up or DaemonStopping() from None
        finally:
            self._waiting = None

    def _advance(self, step: Step) -> None:
        if self._given_up is not None:
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
