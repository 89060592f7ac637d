"""The uploads of one server: one, or several that are received at the same time.

A server may come in several requests at a time. The first has `Multiplex-Stream-Count` with the
number of the others, itself not counted; each of those has `Multiplex-Stream` with its own number,
from 0 on. They may come in any order, since they are sent at the same time. The source of this is
what Calagopus' nodes do. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore, succeed

from wingsd.archive import Extracted, SharedTreeWriter, extract_part
from wingsd.backups.attachments import Backup
from wingsd.errors import BadRequest, WingsdError
from wingsd.threadio import Feed
from wingsd.transfers.cancellation import CancelScope
from wingsd.transfers.collaborators import ReceivingCollaborators
from wingsd.transfers.errors import ChecksumMismatch, StreamMismatch, StreamMissing
from wingsd.transfers.form.upload_form import Checksums, UploadForm

__all__ = [
    "ALONE",
    "COUNT",
    "FIRST",
    "NUMBER",
    "IncomingPart",
    "IncomingUpload",
    "ParallelUploads",
    "ReceivedPart",
    "SiblingUploads",
    "StreamRegistry",
    "Unpack",
    "name_of",
]


class IncomingUpload(Protocol):
    """Where an archive comes from. `size` is that of the whole body in bytes, 0 if not known.

    `pool` is the storage pool of the sender, and `mark` what it has left there; empty without.
    """

    content_type: str
    user_agent: str
    size: int
    pool: str
    mark: str

    def read_into(self, form: UploadForm, feed: Feed) -> Deferred[Checksums]:
        """Let the archive flow into `feed`, then each extra as a part of its own.

        The Deferred gives the checksums when all is read. Raises a `WingsdError` when the upload
        was stopped before.
        """

    def stop(self, error: WingsdError) -> None:
        """Read no further, for the reason `error`."""

    def when_gone(self, tell: Callable[[], None]) -> None:
        """Call `tell` when the sender goes after its body was complete, before its answer."""


class SiblingUploads(Protocol):
    """The other uploads that a server comes by, beside the first."""

    def gathered(self) -> Deferred[Sequence[IncomingUpload]]:
        """Return all of them by their numbers, when they are here.

        The Deferred fails with the `WingsdError` that any of them has failed with.
        """

    def stop(self, error: WingsdError) -> None:
        """Read none of them further, for the reason `error`."""

    def when_failed(self, tell: Callable[[WingsdError], object]) -> None:
        """Call `tell` with the reason when they cannot all come any more."""


class _Alone:
    """There are no others."""

    def gathered(self) -> Deferred[Sequence[IncomingUpload]]:
        return succeed(())

    def stop(self, error: WingsdError) -> None:
        pass

    def when_failed(self, tell: Callable[[WingsdError], object]) -> None:
        pass


ALONE: SiblingUploads = _Alone()


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
        self,
        server: str,
        upload: IncomingUpload,
        means: ReceivingCollaborators,
        name: str = "",
        *,
        first: bool,
    ) -> None:
        """Raise `InvalidContentType` where it is no form."""
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
                raise StreamMismatch(
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


class ParallelUploads:
    """The uploads of one server, the first of them before the others.

    Of those that it is read by, `slots` threads are its own.
    """

    def __init__(
        self, parts: Sequence[IncomingPart], tree: SharedTreeWriter, slots: int, chain: CancelScope
    ) -> None:
        self._parts = parts
        self._tree = tree
        self._slots = DeferredSemaphore(slots)
        self._chain = chain
        self._error: Exception | None = None

    async def read(self, note: Any) -> list[ReceivedPart]:
        """Take all of them; raise what the first of them to fail has failed with.

        `note` gets a line for each member that was left out or written otherwise.
        """
        first, *others = self._parts
        jobs = [Deferred.fromCoroutine(self._read(part, note)) for part in others]
        if self._slots.limit < len(self._parts):
            # A sender may end its first stream only when the others are with us. It must not hold
            # a place that one of them waits for.
            await DeferredList(jobs)
        jobs.insert(0, Deferred.fromCoroutine(self._read(first, note)))
        done = await DeferredList(jobs, consumeErrors=True)
        if self._error is not None:
            raise self._error
        return [received for _, received in done]

    async def _read(self, part: IncomingPart, note: Any) -> ReceivedPart:
        await self._slots.acquire()
        try:
            received = await part.read(
                lambda blocks, abort: extract_part(blocks, self._tree, note, abort=abort)
            )
            # Already now: there is no sense in reading the others to their ends.
            received.verify()
        except Exception as error:
            self._fail(part, error)
            raise
        finally:
            self._slots.release()
        return received

    def _fail(self, part: IncomingPart, error: Exception) -> None:
        if self._error is not None:
            return
        self._error = error
        told = error if isinstance(error, WingsdError) else WingsdError(str(error))
        if told is not self._chain.reason:
            told.add_context(part.name)
        for each in self._parts:
            each.upload.stop(told)


#: The headers.
COUNT = "Multiplex-Stream-Count"
NUMBER = "Multiplex-Stream"
#: What the first request is called to people.
FIRST = "the first request"

_MOST_DIGITS = 6


def name_of(number: int | None) -> str:
    """Return what a stream is called to people; the first request has no number."""
    return FIRST if number is None else f"stream {number}"


class StreamRegistry:
    """The streams of one transfer; `most` are as many as this node takes beside the first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._numbers: set[int] = set()
        #: How many others there are; None until the first has told.
        self.others: int | None = None

    @property
    def is_complete(self) -> bool:
        """Whether all are here."""
        return self.others is not None and len(self._numbers) == self.others

    def first(self, count: str) -> None:
        """The first request has come, with `count` in its header, which it may leave out.

        Raises `StreamMismatch`.
        """
        if self.others is not None:
            raise StreamMismatch(f"{FIRST} came twice; each stream is sent once")
        # From here on it has come, whatever it says.
        self.others = 0
        others = _number(COUNT, count or "0")
        if others > self._most:
            raise StreamMismatch(
                f"it is to come in {others} streams beside the first, and this node takes "
                f"{self._most} (system.transfers.streams.most)"
            )
        self.others = others
        for number in sorted(self._numbers):
            self._expect(number)

    def further(self, header: str, count: str = "") -> int:
        """Another stream has come, with `header`; return its number.

        `count` is what it has in the first one's header. Raises `StreamMismatch`.
        """
        number = _number(NUMBER, header)
        if count:
            raise StreamMismatch(f"a request has {COUNT} or {NUMBER}, and not both of them")
        self._expect(number)
        if number in self._numbers:
            raise StreamMismatch(f"{name_of(number)} came twice; each stream is sent once")
        self._numbers.add(number)
        return number

    def leave(self, number: int) -> None:
        """A stream is not here any more, and none has been read yet."""
        self._numbers.discard(number)

    def missing(self, within: float) -> BadRequest:
        """Return what is said where some have not come `within` so many seconds."""
        if self.others is None:
            what = f"{FIRST}, the one with {COUNT},"
        else:
            what = ", ".join(map(name_of, self._absent()))
        return StreamMissing(
            f"{what} did not come within {within:g} s (system.transfers.streams.within)"
        )

    def _absent(self) -> Iterator[int]:
        return (number for number in range(self.others or 0) if number not in self._numbers)

    def _expect(self, number: int) -> None:
        if self.others is None:
            if number >= self._most:
                raise StreamMismatch(
                    f"there is {name_of(number)}, counted from 0, and this node takes "
                    f"{self._most} beside the first (system.transfers.streams.most)"
                )
        elif number >= self.others:
            known = f"0 to {self.others - 1}" if self.others else "none"
            raise StreamMismatch(f"{name_of(number)} came, and {FIRST} tells of {known}")


def _number(header: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS):
        raise StreamMismatch(f"the header {header} is {text[:40]!r}: expected a number")
    return int(text)
