"""The uploads that a server arrives by: one, or several that are received at the same time.

A server may arrive by several requests. The first has `Multiplex-Stream-Count` with the number of
the others, itself not counted; each of those has `Multiplex-Stream` with its own number, from 0
on. They are sent at the same time, so they may come in any order. The source of this is what
Calagopus' nodes do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IProducer
from zope.interface import implementer

from wingsd.archive.extract import Extracted, extract
from wingsd.archive.quota import ArchiveLimits
from wingsd.backups.local import Backup
from wingsd.config import FormConfig
from wingsd.errors import BadRequest, WingsdError
from wingsd.threadio import Feed, Workers
from wingsd.transfers.cancellation import SharedSlots
from wingsd.transfers.errors import ChecksumMismatch, StreamMismatch, StreamMissing
from wingsd.transfers.storage.incoming import ArrivingServer
from wingsd.transfers.upload_form import Checksums, UploadForm
from wingsd.util.reactor import ThreadedReactor

__all__ = [
    "COUNT",
    "FIRST",
    "NUMBER",
    "Extraction",
    "FormFeed",
    "IncomingUpload",
    "ReceivedUpload",
    "StreamRegistry",
    "Unpack",
    "UploadConsumer",
    "UploadGroup",
    "UploadReader",
    "name_of",
]


class UploadConsumer(Protocol):
    """Takes the body of one upload; one of `finish` and `fail` ends it."""

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """Take the body from `producer`, a push producer, which is paused when need be."""

    def write(self, data: bytes) -> None:
        """Take the next piece. Raises `WingsdError` where the body is not valid."""

    def finish(self) -> None:
        """Take the end of the body. Raises `WingsdError` where it is not complete."""

    def fail(self, error: WingsdError) -> None:
        """Take the reason why there is no more of the body."""


class IncomingUpload(Protocol):
    """An upload whose body is not read before `deliver`. `size` is its bytes, 0 if not known.

    `pool` is the storage pool of the sender, and `mark` what it has left there; empty without.
    """

    content_type: str
    user_agent: str
    size: int
    pool: str
    mark: str

    def deliver(self, consumer: UploadConsumer) -> None:
        """Have the body written to `consumer`. Raises what `stop` was given before."""

    def stop(self, error: WingsdError) -> None:
        """Read no further, for the reason `error`."""

    def when_gone(self, callback: Callable[[], None]) -> None:
        """Call back when the sender disconnects while its body is not being read."""


class UploadGroup(Protocol):
    """The uploads of one transfer, which share a token."""

    async def admit(self) -> None:
        """Use up the token, once for all of them; nothing is read before.

        Raises `Unauthorized` where it was used before.
        """

    def gathered(self) -> Deferred[Sequence[IncomingUpload]]:
        """Return the other uploads by their numbers, when they are here.

        The Deferred fails with the `WingsdError` that any of them has failed with.
        """

    def stop(self, error: WingsdError) -> None:
        """Read none of the others further, for the reason `error`."""

    def when_failed(self, callback: Callable[[WingsdError], object]) -> None:
        """Call back with the reason when the others can no longer all come."""


#: Unpacks the blocks it is given, or discards them; the other function ends that early.
Unpack = Callable[[Iterator[bytes], Callable[[], None]], "Extracted | None"]


@attrs.frozen(eq=False, repr=False)
class Extraction:
    """How archives are extracted: by which threads, for which owner and within which limits."""

    workers: Workers
    #: Read back what has arrived of moves, behind that.
    rereaders: Workers
    #: As many as `workers` has threads. A transfer without a slot is not read from yet.
    slots: SharedSlots
    #: The user and group id of all files.
    owner: tuple[int, int]
    #: What one archive may take of this node; a server's own disk limit is added.
    limits: ArchiveLimits
    #: Bounds for the parts of an upload.
    form: FormConfig
    reactor: ThreadedReactor

    def form_of(self, upload: IncomingUpload) -> UploadForm:
        """Return the form of an upload. Raises `InvalidContentType` where it is not a form."""
        return UploadForm(upload.content_type, upload.user_agent, self.form)

    def unpack_into(
        self, directory: str, limits: ArchiveLimits, note: Callable[[str], None]
    ) -> Unpack:
        """Return what unpacks an archive into a directory.

        `note` gets a line for each member that was left out or written otherwise.
        """

        def unpack(blocks: Iterator[bytes], abort: Callable[[], None]) -> Extracted:
            return extract(blocks, directory, self.owner, note, limits=limits, abort=abort)

        return unpack


@attrs.frozen(eq=False, repr=False)
class ReceivedUpload:
    """What was received by one upload, and the checksums that it should have."""

    #: None where the files were here already.
    archive: Extracted | None
    #: The SHA-256 of each backup by its UUID.
    backups: dict[str, str]
    checksums: Checksums

    def verify(self) -> None:
        """Raise `ChecksumMismatch` where anything is not what was sent."""
        sent = self.checksums
        if self.archive is not None and sent.archive != self.archive.sha256:
            raise ChecksumMismatch(sent.archive, self.archive.sha256)
        for uuid, checksum in sorted(self.backups.items()):
            if sent.backups[uuid] != checksum:
                what = f"backup {uuid}"
                raise ChecksumMismatch(sent.backups[uuid], checksum, what)


@implementer(IConsumer)
class FormFeed:
    """Divides the body of an upload into its parts, and feeds them to a thread."""

    def __init__(self, form: UploadForm, feed: Feed) -> None:
        self._form = form
        self._feed = feed
        #: Fires when the body is complete, and fails with what is wrong with it.
        self.checksums: Deferred[Checksums] = Deferred()

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """Have `producer` paused while the thread cannot keep up."""
        self._feed.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """Drop the reference to the producer."""
        self._feed.unregisterProducer()

    def write(self, data: bytes) -> None:
        """Take a piece of the body. Raises `BadRequest` where it is not a valid form."""
        for piece in self._form.receive(data):
            if isinstance(piece, bytes):
                self._feed.write(piece)
            else:
                self._feed.divide(piece)

    def finish(self) -> None:
        """Take the end of the body. Raises `BadRequest` where a part is missing."""
        checksums = self._form.close()
        self._feed.unregisterProducer()
        self._feed.finish()
        self.checksums.callback(checksums)

    def fail(self, error: WingsdError) -> None:
        """Raise `error` in the thread as well."""
        self._feed.unregisterProducer()
        self._feed.fail(error)
        self.checksums.errback(error)


class UploadReader:
    """Reads one upload in a thread. Of several, only the first may have attachments.

    `name` is what the upload is called in errors.
    """

    def __init__(
        self,
        upload: IncomingUpload,
        extraction: Extraction,
        files: ArrivingServer,
        name: str = "",
    ) -> None:
        """Raise `InvalidContentType` where the upload is not a form."""
        self.name = name
        self.upload = upload
        #: How many bytes of the parts have been received so far.
        self.bytes = 0
        self._extraction = extraction
        self._files = files
        self._form = extraction.form_of(upload)

    async def read(self, unpack: Unpack) -> ReceivedUpload:
        """Read the whole upload. Raises the `WingsdError` that stops it."""
        feed = Feed(self._extraction.reactor)
        consumer = FormFeed(self._form, feed)
        try:
            self.upload.deliver(consumer)
            # An error of the body is raised here too, by the feed in the thread. So there is one
            # place to wait, and no thread is left behind in the directory.
            archive, backups = await self._extraction.workers.run(self._work, feed, unpack)
        except Exception as error:
            self.upload.stop(error if isinstance(error, WingsdError) else WingsdError(str(error)))
            consumer.checksums.addErrback(lambda _: None)  # it is raised already
            raise
        return ReceivedUpload(archive, backups, await consumer.checksums)

    # In the thread

    def _work(self, feed: Feed, unpack: Unpack) -> tuple[Extracted | None, dict[str, str]]:
        backups: dict[str, str] = {}
        archive = unpack(self._counted(feed), feed.close)
        while (attachment := feed.next_part()) is not None:
            if self.name not in ("", FIRST):
                raise StreamMismatch(
                    "it has more parts than an archive; backups and the installation log belong "
                    "in the first request"
                )
            blocks = self._counted(feed)
            if isinstance(attachment, Backup):
                backups[attachment.uuid] = self._files.store_backup(attachment, blocks)
            else:
                self._files.store_log(blocks)
        return archive, backups

    def _counted(self, feed: Feed) -> Iterator[bytes]:
        # The reactor only looks at the number.
        for block in feed.blocks():
            self.bytes += len(block)
            yield block


#: The headers of the first request and of the others.
COUNT = "Multiplex-Stream-Count"
NUMBER = "Multiplex-Stream"
#: The name of the first request in messages.
FIRST = "the first request"

_MOST_DIGITS = 6


def name_of(number: int | None) -> str:
    """Return the name of a stream in messages; the first request has no number."""
    return FIRST if number is None else f"stream {number}"


class StreamRegistry:
    """The streams of one transfer; `most` is how many this node accepts beside the first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._numbers: set[int] = set()
        #: How many others there are; None until the first has come.
        self.others: int | None = None

    @property
    def is_complete(self) -> bool:
        """Whether all are here."""
        return self.others is not None and len(self._numbers) == self.others

    def first(self, count: str) -> None:
        """Add the first request, with `count` in its header, which it may leave out.

        Raises `StreamMismatch`.
        """
        if self.others is not None:
            raise StreamMismatch(f"{FIRST} was sent twice; each stream is sent once")
        # From here on it has come, even if it is refused.
        self.others = 0
        others = _number(COUNT, count or "0")
        if others > self._most:
            raise StreamMismatch(
                f"{COUNT} is {others}, and this node accepts at most "
                f"{self._most} (system.transfers.streams.most)"
            )
        self.others = others
        for number in sorted(self._numbers):
            self._expect(number)

    def further(self, header: str, count: str = "") -> int:
        """Add another stream, with `header`; return its number.

        `count` is the value of the first request's header. Raises `StreamMismatch`.
        """
        number = _number(NUMBER, header)
        if count:
            raise StreamMismatch(f"a request has {COUNT} or {NUMBER}, not both")
        self._expect(number)
        if number in self._numbers:
            raise StreamMismatch(f"{name_of(number)} was sent twice; each stream is sent once")
        self._numbers.add(number)
        return number

    def leave(self, number: int) -> None:
        """Remove a stream whose sender has disconnected before any was read."""
        self._numbers.discard(number)

    def missing(self, within: float) -> BadRequest:
        """Return the error of streams that have not come `within` so many seconds."""
        if self.others is None:
            what = f"{FIRST}, the one with {COUNT},"
        else:
            what = ", ".join(map(name_of, self._absent()))
        return StreamMissing(
            f"{what} did not arrive within {within:g} s (system.transfers.streams.within)"
        )

    def _absent(self) -> Iterator[int]:
        return (number for number in range(self.others or 0) if number not in self._numbers)

    def _expect(self, number: int) -> None:
        if self.others is None:
            if number >= self._most:
                raise StreamMismatch(
                    f"{name_of(number)} is beyond the last: this node accepts {self._most} "
                    f"besides "
                    "the first, counted from 0 (system.transfers.streams.most)"
                )
        elif number >= self.others:
            known = f"0 to {self.others - 1}" if self.others else "none"
            raise StreamMismatch(f"{name_of(number)} is not announced: {FIRST} announces {known}")


def _number(header: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS):
        raise StreamMismatch(f"the header {header} is {text[:40]!r}: expected a number")
    return int(text)
