"""An upload's body on its way from the request into a feed: the custom producer.

It takes the bytes as a `BodyReader`, has `UploadForm` tell its parts apart, writes those that are
wanted into the feed and, as the feed's producer, slows the client down when the thread
behind it cannot keep up; and also when it comes faster than the node's limit lets it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from wingsd.errors import WingsdError
from wingsd.http.request import StreamingRequest
from wingsd.threadio import Feed, Share, TokenBucket
from wingsd.transfers.errors import UploadTruncated
from wingsd.transfers.form.upload_form import Checksums, UploadForm
from wingsd.transfers.storage.shared_volume import MARK, POOL

__all__ = ["UploadBody"]

# In place of Twisted's words, by which nobody knows at which end to look.
_GONE = "the sender gave up, or its connection broke; its own log says which"


@implementer(IPushProducer)
class UploadBody:
    """The body of one `POST /api/transfers`.

    Until `read_into` is called the client is paused, and the little that has arrived is kept.
    `admit` is waited for before any of it is taken; when that fails, the upload does. With a
    `bucket`, the body is then read at the rate that it has there.
    """

    def __init__(
        self,
        request: StreamingRequest,
        admit: Callable[[], Awaitable[None]],
        bucket: TokenBucket | None = None,
    ) -> None:
        self.content_type = request.header("Content-Type")
        self.user_agent = request.header("User-Agent")
        self.pool, self.mark = request.header(POOL), request.header(MARK)
        length = request.header("Content-Length")
        self.size = int(length) if length.isdecimal() else 0
        self._request = request
        self._admit = admit
        self._bucket = bucket
        self._share: Share | None = None
        self._feed_is_full = False
        self._begun = False
        self._early: list[bytes] = []
        self._ended = False
        self._stopped: WingsdError | None = None
        self._form: UploadForm | None = None
        self._checksums: Deferred[Checksums] = Deferred()
        self._tell_gone: Callable[[], None] = lambda: None
        request.pause()

    # What the transfer calls

    def read_into(self, form: UploadForm, feed: Feed) -> Deferred[Checksums]:
        """Let the body come, and the archive in it flow into `feed`, then each extra as a part.

        The Deferred gives the checksums when the body is complete, or fails with what is wrong
        with the body; the feed then fails with the same. Raises what `stop` was given before.
        """
        if self._stopped is not None:
            raise self._stopped
        self._form, self._feed = form, feed
        feed.registerProducer(self, True)
        Deferred.fromCoroutine(self._begin()).addErrback(self._refuse)
        return self._checksums

    def stop(self, error: WingsdError) -> None:
        """Read no further, for the reason `error`."""
        if self._stopped is None and not self._checksums.called:
            self._stopped = error
            self._leave_bucket()
            if self._form is not None:
                self._feed.unregisterProducer()
                self._feed.fail(error)
                self._checksums.errback(error)

    def when_gone(self, tell: Callable[[], None]) -> None:
        """Call `tell` when the sender goes before its answer, and its body is not being read."""
        self._tell_gone = tell

    # What the request calls

    def data(self, chunk: bytes) -> None:
        """Take a piece of the body."""
        if self._stopped is not None or self._checksums.called:
            return
        if self._form is None or not self._begun:
            self._early.append(chunk)
            return
        if self._share is not None:
            self._share.take(len(chunk))
        try:
            self._take(self._form, chunk)
        except WingsdError as error:
            self.stop(error)
        # Also when it was before: the transport resumes itself after some writes.
        if self._share is not None and self._share.held:
            self._request.pause()

    def end(self) -> None:
        """Take the body's end."""
        self._ended = True
        self._leave_bucket()
        # Read on, though nothing more may come: only so is it seen when the client goes.
        self._request.resume()
        if self._form is not None and self._begun and self._stopped is None:
            try:
                checksums = self._form.close()
            except WingsdError as error:
                self.stop(error)
            else:
                self._feed.unregisterProducer()
                self._feed.finish()
                self._checksums.callback(checksums)

    def lost(self, reason: Failure) -> None:
        """Take the connection's end; before the body's it is the end of the upload."""
        if not self._ended:
            went = reason.check(ConnectionDone, ConnectionLost)
            detail = _GONE if went else reason.getErrorMessage()
            self.stop(UploadTruncated("the upload ended before it was complete", detail))
        if self._ended or self._form is None:
            self._tell_gone()

    async def _begin(self) -> None:
        await self._admit()
        if self._stopped is not None:
            return
        self._begun = True
        if self._bucket is not None:
            self._share = self._bucket.join(self._go_on)
        early, self._early = self._early, []
        for chunk in early:
            self.data(chunk)
        if self._ended:
            self.end()
        self._request.proceed()
        self._go_on()

    def _go_on(self) -> None:
        # Two have a say, the feed and the bucket, and neither's word is the other's.
        if not self._feed_is_full and (self._share is None or not self._share.held):
            self._request.resume()

    def _leave_bucket(self) -> None:
        if self._share is not None:
            self._share.leave()

    def _refuse(self, failure: Failure) -> None:
        error = failure.value
        self.stop(error if isinstance(error, WingsdError) else WingsdError(str(error)))

    def _take(self, form: UploadForm, chunk: bytes) -> None:
        for piece in form.receive(chunk):
            if isinstance(piece, bytes):
                self._feed.write(piece)
            else:
                self._feed.divide(piece)

    # What the feed calls

    def pauseProducing(self) -> None:
        """Slow the client down."""
        self._feed_is_full = True
        self._request.pause()

    def resumeProducing(self) -> None:
        """Let the client send on."""
        self._feed_is_full = False
        self._go_on()

    def stopProducing(self) -> None:
        """Part of the interface; the feed never needs it, the transfer calls `stop`."""
