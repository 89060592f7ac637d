"""The body of an upload as a byte stream with flow control.

The client is slowed down when the consumer cannot keep up, and when it sends faster than the
node's rate limit.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from wingsd.errors import WingsdError
from wingsd.http.request import StreamingRequest
from wingsd.threadio import Share, TokenBucket
from wingsd.transfers.errors import UploadTruncated
from wingsd.transfers.incoming.uploads import UploadConsumer
from wingsd.transfers.storage.shared_volume import MARK, POOL

__all__ = ["UploadStream"]

# In place of Twisted's words, which do not say at which end to look.
_GONE = "the sender gave up, or its connection broke; its own log says which"


@implementer(IPushProducer)
class UploadStream:
    """The body of one `POST /api/transfers`.

    The client is paused until `deliver`, and the little that arrives before is kept. With a
    `bucket`, the body is then read at the rate that it has there.
    """

    def __init__(self, request: StreamingRequest, bucket: TokenBucket | None = None) -> None:
        self.content_type = request.header("Content-Type")
        self.user_agent = request.header("User-Agent")
        self.pool, self.mark = request.header(POOL), request.header(MARK)
        length = request.header("Content-Length")
        self.size = int(length) if length.isdecimal() else 0
        self._request = request
        self._bucket = bucket
        self._share: Share | None = None
        self._consumer: UploadConsumer | None = None
        self._consumer_is_full = False
        self._early: list[bytes] = []
        #: Whether the whole body has arrived, and whether the consumer has taken it.
        self._ended = self._finished = False
        self._stopped: WingsdError | None = None
        self._on_gone: Callable[[], None] = lambda: None
        request.pause()

    # What the transfer calls

    def deliver(self, consumer: UploadConsumer) -> None:
        """Have the body written to `consumer`. Raises what `stop` was given before."""
        if self._stopped is not None:
            raise self._stopped
        self._consumer = consumer
        consumer.registerProducer(self, True)
        if self._bucket is not None:
            self._share = self._bucket.join(self._resume)
        early, self._early = self._early, []
        for chunk in early:
            self.data(chunk)
        if self._ended:
            self.end()
        self._request.proceed()
        self._resume()

    def stop(self, error: WingsdError) -> None:
        """Read no further, for the reason `error`."""
        if self._stopped is None and not self._finished:
            self._stopped = error
            self._leave_bucket()
            if self._consumer is not None:
                self._consumer.fail(error)

    def when_gone(self, callback: Callable[[], None]) -> None:
        """Call back when the sender disconnects while its body is not being read."""
        self._on_gone = callback

    # What the request calls

    def data(self, chunk: bytes) -> None:
        """Take a piece of the body."""
        if self._stopped is not None or self._finished:
            return
        if self._consumer is None:
            self._early.append(chunk)
            return
        if self._share is not None:
            self._share.take(len(chunk))
        try:
            self._consumer.write(chunk)
        except WingsdError as error:
            self.stop(error)
        # Also when it was paused before: the transport resumes itself after some writes.
        if self._share is not None and self._share.held:
            self._request.pause()

    def end(self) -> None:
        """Take the body's end."""
        self._ended = True
        self._leave_bucket()
        # Read on, though nothing more may come: only so is it seen when the client disconnects.
        self._request.resume()
        if self._consumer is not None and self._stopped is None:
            try:
                self._consumer.finish()
            except WingsdError as error:
                self.stop(error)
            else:
                self._finished = True

    def lost(self, reason: Failure) -> None:
        """Take the connection's end; before the body's it is the end of the upload."""
        if not self._ended:
            went = reason.check(ConnectionDone, ConnectionLost)
            detail = _GONE if went else reason.getErrorMessage()
            self.stop(UploadTruncated("the upload ended before it was complete", detail))
        if self._ended or self._consumer is None:
            self._on_gone()

    # What the consumer calls

    def pauseProducing(self) -> None:
        """Slow the client down."""
        self._consumer_is_full = True
        self._request.pause()

    def resumeProducing(self) -> None:
        """Let the client continue."""
        self._consumer_is_full = False
        self._resume()

    def stopProducing(self) -> None:
        """Part of the interface; no consumer needs it, the transfer calls `stop`."""

    def _resume(self) -> None:
        # Only when both the consumer and the bucket allow it.
        if not self._consumer_is_full and (self._share is None or not self._share.held):
            self._request.resume()

    def _leave_bucket(self) -> None:
        if self._share is not None:
            self._share.leave()
