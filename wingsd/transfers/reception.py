"""The first half of receiving: from an upload's bytes to what stands whole in the staging area.

One thread takes the parts of an upload in their order: it extracts the archive, then writes what
comes with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from wingsd.archive import Extracted, extract
from wingsd.bridge import Feed, relayed
from wingsd.errors import ChecksumMismatch, PartialUpload, WingsdError
from wingsd.model import Settings
from wingsd.transfers.course import Course
from wingsd.transfers.extras import Backup
from wingsd.transfers.formdata import Checksums, UploadForm
from wingsd.transfers.lifecycle import ReceiveStep
from wingsd.transfers.means import ReceivingMeans
from wingsd.transfers.progress import Meter
from wingsd.transfers.undo import UndoList
from wingsd.transfers.wording import progress_bar

__all__ = ["Received", "Reception", "Upload"]

MIB = 1024 * 1024


class Upload(Protocol):
    """Where the archive comes from. `size` is that of the whole body in bytes, 0 if not known.

    `is_partial` tells that it has only some of the server's files, and other uploads the rest.
    """

    content_type: str
    user_agent: str
    size: int
    is_partial: bool

    def read_into(self, form: UploadForm, feed: Feed) -> Deferred[Checksums]:
        """Let the archive flow into `feed`, then each extra as a part of its own.

        The Deferred gives the checksums when all is read. Raises a `WingsdError` when the upload
        was stopped before.
        """

    def stop(self, error: WingsdError) -> None:
        """Read no further, for the reason `error`."""

    def when_gone(self, tell: Callable[[], None]) -> None:
        """Call `tell` when the sender goes after its body was complete, before its answer."""


@attrs.frozen
class Received:
    """What has come, and which checksums it should have."""

    archive: Extracted
    #: The SHA-256 of each backup by its UUID.
    backups: dict[str, str]
    checksums: Checksums

    def verify(self) -> None:
        """Raise `BadRequest` where anything is not what was sent."""
        sent = self.checksums
        if sent.archive != self.archive.sha256:
            raise ChecksumMismatch(sent.archive, self.archive.sha256)
        for uuid, checksum in sorted(self.backups.items()):
            if sent.backups[uuid] != checksum:
                what = f"backup {uuid}"
                raise ChecksumMismatch(sent.backups[uuid], checksum, what)


class Reception:
    """One server's coming into the staging area. What it does is added to `undo`."""

    _log = Logger()

    def __init__(
        self, server: str, means: ReceivingMeans, course: Course[ReceiveStep], undo: UndoList
    ) -> None:
        self._server = server
        self._means = means
        self._course = course
        self._undo = undo
        #: Counts the bytes that come, those of what comes with the server too.
        self.meter = Meter(means.reactor.seconds)
        self._size = 0

    async def receive(self, upload: Upload, settings: Settings) -> Received:
        """Take the whole upload, when it is its turn. Raises the `WingsdError` that stops it."""
        means, course = self._means, self._course
        if upload.is_partial:
            raise PartialUpload
        form = UploadForm(upload.content_type, upload.user_agent, means.form)
        await course.enter(ReceiveStep.RECEIVE)
        await course.chain.wait(means.slots.acquire())
        self.meter.start()
        try:
            course.take_turn()
            with means.write_back.during():
                return await self._take(upload, form, settings)
        finally:
            self.meter.stop()
            means.slots.release()

    async def _take(self, upload: Upload, form: UploadForm, settings: Settings) -> Received:
        means, announcer = self._means, self._course.announcer
        self._undo.add(lambda: means.disk.run(means.staging.withdraw, self._server))
        directory = await means.disk.run(means.staging.create, self._server)
        await means.disk.run(means.backups.discard, self._server)
        feed = Feed(means.reactor)
        self._size = upload.size
        coming = upload.read_into(form, feed)
        announcer.show_progress(self._progress)
        limits = means.limits.for_server(settings.build.disk_space)
        note = relayed(means.reactor, announcer.warn)
        unpack = partial(extract, limits=limits, abort=feed.close)
        try:
            # A failure of the body comes out here too: the feed raises it in the thread. So
            # there is one place to wait, and no thread is left behind in the directory.
            archive, backups = await means.extractors.run(
                self._work,
                feed,
                lambda: unpack(self._counted(feed), directory, means.owner, note),
            )
        except Exception as error:
            upload.stop(error if isinstance(error, WingsdError) else WingsdError(str(error)))
            coming.addErrback(lambda _: None)  # it is raised already
            raise
        finally:
            announcer.hide_progress()
        return Received(archive, backups, await coming)

    # What the thread does

    def _work(
        self, feed: Feed, unpack: Callable[[], Extracted]
    ) -> tuple[Extracted, dict[str, str]]:
        means, backups = self._means, {}
        archive = unpack()
        while (extra := feed.next_part()) is not None:
            blocks = self._counted(feed)
            if isinstance(extra, Backup):
                backups[extra.uuid] = means.backups.store(self._server, extra, blocks)
            else:
                means.logs.store(self._server, blocks)
        return archive, backups

    def _counted(self, feed: Feed) -> Iterator[bytes]:
        # The reactor only looks at the number.
        for block in feed.blocks():
            self.meter.done += len(block)
            yield block

    # What is said of it

    def _progress(self) -> str:
        return f"Receiving {progress_bar(self.meter.done, self._size)}"

    def say_figures(self, received: Received) -> None:
        """Tell how much came, and how fast; the journal has it too."""
        archive, meter = received.archive, self.meter
        files = archive.file_count + archive.hard_link_count
        self._course.note_figures(archive.archive_bytes, files)
        self._log.info(
            "{server}: received {bytes} bytes, {files} files, {backups} backups, {seconds:.1f} s, "
            "{rate:.1f} MiB/s",
            server=self._server,
            bytes=meter.done,
            files=files,
            backups=len(received.backups),
            seconds=meter.seconds,
            rate=meter.done / MIB / max(meter.seconds, 0.001),
        )
