"""What a server is sent as, and how far that is: the uploads to its destination, and their bar."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.logger import Logger

from wingsd.archive import Limits, Packed, Part, split, survey
from wingsd.bridge import relayed
from wingsd.errors import DiskLimitExceeded
from wingsd.servers import Server
from wingsd.transfers.cargo import Cargo
from wingsd.transfers.course import Course
from wingsd.transfers.destination import Destination
from wingsd.transfers.lifecycle import SendStep
from wingsd.transfers.localbackups import LocalBackup, find_backups
from wingsd.transfers.means import SendingMeans
from wingsd.transfers.order import JOINS_STREAMS, TransferOrder, form_of
from wingsd.transfers.outgoingstreams import OutgoingStreams
from wingsd.transfers.pooling import SourcePool
from wingsd.transfers.progress import Meter
from wingsd.transfers.wording import progress_bar, readable_size

__all__ = ["KEEPS_LINKS", "Dispatch"]

#: What a destination says that it keeps, when symlinks and hard links may be sent as they are.
KEEPS_LINKS = frozenset({"symlinks", "hard-links"})


class Dispatch:
    """What is sent of one server, as `order` has it."""

    _log = Logger()

    def __init__(
        self,
        server: Server,
        order: TransferOrder,
        means: SendingMeans,
        course: Course[SendStep],
        pool: SourcePool,
    ) -> None:
        self.backups: tuple[LocalBackup, ...] = ()
        #: Counts the bytes that are read of files and backups.
        self.meter = Meter(means.reactor.seconds, self._count)
        self._server = server
        self._order = order
        self._means = means
        self._course = course
        self._pool = pool
        self._streams: OutgoingStreams | None = None

    # How far it is

    @property
    def body_sent(self) -> bool:
        """Whether all of it is on its way."""
        return self._streams is not None and self._streams.body_sent

    @property
    def may_be_taken(self) -> bool:
        """Whether the destination may have everything. What is pooled, it has from the start."""
        begun = self._streams is not None and self._streams.begun
        return self.body_sent or (self._pool.name != "" and begun)

    @property
    def total(self) -> int:
        """The bytes there are to read; 0 while the server is not measured."""
        if self._pool.has_files:
            return self._along
        measured = self._server.disk_bytes
        return 0 if measured is None else measured + self._along

    @property
    def _limit(self) -> int | None:
        """Bytes that the server's files may have, None without a limit."""
        return Limits.disk_of(self._server.configuration.settings.build.disk_space)

    @property
    def _along(self) -> int:
        return sum(backup.size for backup in self.backups)

    def _count(self) -> int:
        return self._streams.read if self._streams is not None else 0

    # Its way

    async def find_backups(self) -> None:
        """Find those that are to go along. Raises `StorageError` where one is missing."""
        order, means, uuid = self._order, self._means, self._server.uuid
        self.backups = await means.disk.run(
            find_backups, means.backup_directory, uuid, order.backups, order.family
        )

    async def check_size(self) -> None:
        """Raise `DiskLimitExceeded` where the server's files are more than it may have.

        They are measured where that is not known, or where the last figure is too large: files
        may have been deleted since. Raises `StorageError` where they cannot be.
        """
        limit, known = self._limit, self._server.disk_bytes
        if limit is None or self._pool.has_files or (known is not None and known <= limit):
            return
        means = self._means
        found = await means.disk.run(survey, means.servers.directory(self._server.uuid))
        if found.size > limit:
            raise DiskLimitExceeded(
                f"the server's files have {readable_size(found.size)}, and it may have "
                f"{readable_size(limit)}; the largest is {found.shown} with "
                f"{readable_size(found.largest_size)}. Holes of sparse files count. Raise its "
                "disk limit in the Panel, or delete files, and transfer it again"
            )

    async def send(
        self, destination: Destination, features: frozenset[str], further: int
    ) -> OutgoingStreams:
        """Send it all; return when the last bytes are on their way.

        `features` are those of the destination, and `further` is in how many uploads beside the
        first it is sent.
        """
        means, announcer = self._means, self._course.announcer
        # Only for the bar: nothing waits for what is not measured yet.
        self._server.renew_measure()
        cargoes = await self._cargoes(features >= KEEPS_LINKS, further)
        self._course.chain.check()
        joined = JOINS_STREAMS in features
        streams = OutgoingStreams(
            cargoes, destination, means, joined=joined, pool=self._pool.headers
        )
        self._streams = streams
        self._course.count = lambda: streams.bytes_out
        announcer.show_progress(self._bar)
        self.meter.start()
        try:
            packed = await streams.send(relayed(means.reactor, announcer.warn))
        finally:
            self.meter.stop()
            announcer.hide_progress()
        if packed:
            self._say_figures(packed)
        return streams

    def abort(self) -> None:
        """Close the connections at once, where there are any."""
        if self._streams is not None:
            self._streams.abort()

    async def _cargoes(self, links: bool, further: int) -> list[Cargo]:
        """Return what each upload is to hold: the first also has all that is beside the files."""
        means, directory = self._means, self._means.servers.directory(self._server.uuid)
        whole = Cargo(
            server=self._server.uuid,
            family=self._order.family,
            source=None if self._pool.has_files else Part(directory, limit=self._limit),
            links=links,
            form=form_of(self._order, means.compression, self._course.announcer.warn),
            backups=self.backups,
            logs=means.logs,
        )
        if not further:
            return [whole]
        dividing = means.packers.run(split, directory, 1 + further, self._limit)
        first, *others = await self._course.chain.wait(dividing)
        return [whole.of(first), *(whole.files_of(part) for part in others)]

    # What is said of it

    def _bar(self) -> str:
        return f"Uploading {progress_bar(self.meter.done, self.total)}"

    def _say_figures(self, packed: Sequence[Packed]) -> None:
        size = sum(each.archive_bytes for each in packed)
        files = sum(each.file_count + each.hard_link_count for each in packed)
        self._course.note_figures(size, files)
        # The seconds are theirs, too.
        size += self._along
        self._log.info(
            "{server}: sent {bytes} bytes, {files} files, {seconds:.1f} s, {rate}/s",
            server=self._server.uuid,
            bytes=size,
            files=files,
            seconds=self.meter.seconds,
            rate=readable_size(size / max(self.meter.seconds, 0.001)),
        )
