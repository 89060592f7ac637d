"""The first half of receiving: from an upload's bytes to what stands whole in the staging area.

One thread takes the parts of an upload in their order (`incomingpart`). Where a server comes by
several uploads, `together` has them read at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import attrs
from twisted.logger import Logger

from wingsd.archive import ArchiveLimits, Extracted, SharedTreeWriter, extract
from wingsd.errors import BadRequest, WingsdError
from wingsd.panel.schemas import Settings
from wingsd.threadio import relayed
from wingsd.transfers.cancellation import slots_held
from wingsd.transfers.collaborators import ReceivingCollaborators
from wingsd.transfers.errors import StreamMismatch
from wingsd.transfers.formatting import progress_bar
from wingsd.transfers.incoming.uploads import (
    ALONE,
    FIRST,
    IncomingPart,
    IncomingUpload,
    ParallelUploads,
    ReceivedPart,
    SiblingUploads,
    name_of,
)
from wingsd.transfers.step_log import ProgressMeter, StepLog
from wingsd.transfers.steps import ReceiveStep, RollbackList

__all__ = ["Received", "Reception"]

MIB = 1024 * 1024


@attrs.frozen
class Received:
    """What has come, by one upload or by several."""

    parts: Sequence[ReceivedPart]

    def verify(self) -> None:
        """Raise `BadRequest` where anything is not what was sent."""
        for part in self.parts:
            part.verify()

    @property
    def _archives(self) -> list[Extracted]:
        return [part.archive for part in self.parts if part.archive is not None]

    @property
    def files(self) -> int:
        """How many files there are, by all their names."""
        return sum(each.file_count + each.hard_link_count for each in self._archives)

    @property
    def archive_bytes(self) -> int:
        """The bytes of all archives, as they were sent."""
        return sum(each.archive_bytes for each in self._archives)

    @property
    def unpacked_bytes(self) -> int | None:
        """The bytes of all files; None where no archive was unpacked."""
        archives = self._archives
        return sum(each.unpacked_bytes for each in archives) if archives else None

    @property
    def backups(self) -> int:
        """How many backups there are."""
        return sum(len(part.backups) for part in self.parts)


class Reception:
    """One server's coming into the staging area. What it does is added to `undo`."""

    _log = Logger()

    def __init__(
        self,
        server: str,
        means: ReceivingCollaborators,
        course: StepLog[ReceiveStep],
        undo: RollbackList,
    ) -> None:
        self._server = server
        self._means = means
        self._course = course
        self._undo = undo
        self._parts: Sequence[IncomingPart] = ()
        #: Counts the bytes that come, those of what comes with the server too.
        self.meter = ProgressMeter(means.reactor.seconds, self._count)

    def _count(self) -> int:
        return sum(part.bytes for part in self._parts)

    @property
    def size(self) -> int:
        """How many bytes are to come, 0 where that is not known."""
        sizes = [part.upload.size for part in self._parts]
        return sum(sizes) if all(sizes) else 0

    async def receive(
        self,
        upload: IncomingUpload,
        settings: Settings,
        others: SiblingUploads = ALONE,
        *,
        pooled: bool = False,
    ) -> Received:
        """Take the whole server, when it is its turn. Raises the `WingsdError` that stops it.

        Of what is `pooled` the files are here: an archive is then read and thrown away, for what
        comes after it.
        """
        means, course = self._means, self._course
        self._parts = self._parts_of(upload, await course.chain.wait(others.gathered()))
        if pooled and len(self._parts) > 1:
            raise StreamMismatch("within a storage pool a server is sent in one request")
        await course.enter(ReceiveStep.RECEIVE)
        async with slots_held(means.slots, len(self._parts), course.chain) as slots:
            self.meter.start()
            try:
                course.take_turn()
                with means.write_back.during():
                    if pooled:
                        return await self._take_pooled()
                    return await self._take(settings, slots)
            finally:
                self.meter.stop()

    def _parts_of(
        self, upload: IncomingUpload, others: Sequence[IncomingUpload]
    ) -> list[IncomingPart]:
        name = FIRST if others else ""
        parts = [IncomingPart(self._server, upload, self._means, name, first=True)]
        for number, other in enumerate(others):
            name = name_of(number)
            try:
                part = IncomingPart(self._server, other, self._means, name, first=False)
            except WingsdError as error:
                error.add_context(name)
                raise
            parts.append(part)
        return parts

    async def _take(self, settings: Settings, slots: int) -> Received:
        means, announcer = self._means, self._course.announcer
        self._undo.add(lambda: means.disk.run(means.staging.withdraw, self._server))
        directory = await means.disk.run(means.staging.create, self._server)
        await means.disk.run(means.backups.discard, self._server)
        limits = means.limits.for_server(settings.build.disk_space)
        announcer.show_progress(self._progress)
        try:
            if len(self._parts) == 1:
                parts = [await self._alone(directory, limits)]
            else:
                parts = await self._together(directory, limits, slots)
        finally:
            announcer.hide_progress()
        return Received(parts)

    async def _take_pooled(self) -> Received:
        means, announcer = self._means, self._course.announcer
        await means.disk.run(means.staging.discard, self._server)
        await means.disk.run(means.backups.discard, self._server)
        most = await means.disk.run(means.volume.size)
        (part,) = self._parts
        announcer.show_progress(self._progress)
        try:
            return Received([await part.read(lambda blocks, _: _discard(blocks, most))])
        finally:
            announcer.hide_progress()

    async def _alone(self, directory: str, limits: ArchiveLimits) -> ReceivedPart:
        means = self._means
        (part,) = self._parts

        def unpack(blocks: Iterator[bytes], abort: Callable[[], None]) -> Extracted:
            return extract(blocks, directory, means.owner, self._note, limits=limits, abort=abort)

        return await part.read(unpack)

    async def _together(
        self, directory: str, limits: ArchiveLimits, slots: int
    ) -> list[ReceivedPart]:
        means, parts = self._means, self._parts
        tree = await means.disk.run(SharedTreeWriter, directory, means.owner, limits, len(parts))
        try:
            received = await ParallelUploads(parts, tree, slots, self._course.chain).read(
                self._note
            )
            await means.extractors.run(tree.finish)
        finally:
            await means.disk.run(tree.close)
        return received

    @property
    def _note(self) -> Callable[[str], None]:
        return relayed(self._means.reactor, self._course.announcer.warn)

    # What is said of it

    def _progress(self) -> str:
        return f"Receiving {progress_bar(self.meter.done, self.size)}"

    def say_figures(self, received: Received) -> None:
        """Tell how much came, and how fast; the journal has it too."""
        meter = self.meter
        if not self._course.pool:
            self._course.note_figures(received.archive_bytes, received.files)
        self._log.info(
            "{server}: received {bytes} bytes, {files} files, {backups} backups, {seconds:.1f} s, "
            "{rate:.1f} MiB/s",
            server=self._server,
            bytes=meter.done,
            files=received.files,
            backups=received.backups,
            seconds=meter.seconds,
            rate=meter.done / MIB / max(meter.seconds, 0.001),
        )


def _discard(blocks: Iterator[bytes], most: int) -> None:
    """Take an archive for nothing, in a thread; raise `BadRequest` beyond so many bytes."""
    left = most
    for block in blocks:
        left -= len(block)
        if left < 0:
            raise BadRequest(
                "the archive is larger than the storage pool that its files are in",
                "send the server again",
            )
