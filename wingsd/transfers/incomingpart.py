"""One upload's way through a thread: its archive is unpacked, what comes with it is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs

from wingsd.archive import Extracted
from wingsd.bridge import Feed
from wingsd.errors import ChecksumMismatch, StreamRefused, WingsdError
from wingsd.transfers.extras import Backup
from wingsd.transfers.formdata import Checksums, UploadForm
from wingsd.transfers.means import ReceivingMeans
from wingsd.transfers.upload import Upload

__all__ = ["IncomingPart", "ReceivedPart", "Unpack"]

#: Unpacks what it is given, or takes it for nothing; the other function ends that early.
Unpack = Callable[[Iterator[bytes], Callable[[], None]], Extracted | None]


@attrs.frozen
class ReceivedPart:
    """What has come by one upload, and which checksums it should have."""

    #: None where the files were here already.
    archive: Extracted | None
    #: The SHA-256 of each backup by its UUID.
    backups: dict[str, str]
    checksums: Checksums

    def verify(self) -> None:
        """Raise `BadRequest` where anything is not what was sent."""
        sent = self.checksums
        if self.archive is not None and sent.archive != self.archive.sha256:
            raise ChecksumMismatch(sent.archive, self.archive.sha256)
        for uuid, checksum in sorted(self.backups.items()):
            if sent.backups[uuid] != checksum:
                what = f"backup {uuid}"
                raise ChecksumMismatch(sent.backups[uuid], checksum, what)


class IncomingPart:
    """One upload of a server; of several `name` says which, and only the first has extras."""

    def __init__(
        self, server: str, upload: Upload, means: ReceivingMeans, name: str = "", *, first: bool
    ) -> None:
        """Raise `WrongContentType` where it is no form."""
        self.name = name
        self.upload = upload
        #: How many bytes have come so far.
        self.bytes = 0
        self._server = server
        self._means = means
        self._is_first = first
        self._form = UploadForm(upload.content_type, upload.user_agent, means.form)

    async def read(self, unpack: Unpack) -> ReceivedPart:
        """Take the whole upload. Raises the `WingsdError` that stops it."""
        feed = Feed(self._means.reactor)
        coming = self.upload.read_into(self._form, feed)
        try:
            # A failure of the body comes out here too: the feed raises it in the thread. So
            # there is one place to wait, and no thread is left behind in the directory.
            archive, backups = await self._means.extractors.run(self._work, feed, unpack)
        except Exception as error:
            self.upload.stop(error if isinstance(error, WingsdError) else WingsdError(str(error)))
            coming.addErrback(lambda _: None)  # it is raised already
            raise
        return ReceivedPart(archive, backups, await coming)

    # What the thread does

    def _work(self, feed: Feed, unpack: Unpack) -> tuple[Extracted | None, dict[str, str]]:
        means, backups = self._means, {}
        archive = unpack(self._counted(feed), feed.close)
        while (extra := feed.next_part()) is not None:
            if not self._is_first:
                raise StreamRefused(
                    "it brings more than an archive; backups and the log of the installation "
                    "come with the first request"
                )
            blocks = self._counted(feed)
            if isinstance(extra, Backup):
                backups[extra.uuid] = means.backups.store(self._server, extra, blocks)
            else:
                means.logs.store(self._server, blocks)
        return archive, backups

    def _counted(self, feed: Feed) -> Iterator[bytes]:
        # The reactor only looks at the number.
        for block in feed.blocks():
            self.bytes += len(block)
            yield block
