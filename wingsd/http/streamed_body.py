"""Answers whose body is made by a thread while it is sent, no faster than the client reads it.

Its length is not announced. When the thread fails, or the client reads too slowly, the connection
is closed, so that the client knows that the body is not whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from wingsd.http.body_sender import BodyRequest, BodySender
from wingsd.threadio import Outflow, OutflowClosed

__all__ = ["StreamedBody", "send_stream"]


@attrs.frozen(eq=False)
class StreamedBody:
    """The content of an answer: `produce` has a thread write it to an `Outflow`, and finish that.

    `name` is for the log.
    """

    produce: Callable[[Outflow], Deferred[None]]
    name: str
    headers: Mapping[str, str] = attrs.field(factory=dict)


def send_stream(request: BodyRequest, status: int, body: StreamedBody) -> None:
    """Answer with what a thread makes; to HEAD with the headers alone, and nothing is made."""
    request.setResponseCode(status)
    for name, value in body.headers.items():
        request.setHeader(name, value)
    if request.method == b"HEAD":
        request.write(b"")
        request.finish()
        return
    _StreamSender(request, body).start()


class _StreamSender(BodySender):
    """Sends one stream as the answer to one request."""

    def __init__(self, request: BodyRequest, body: StreamedBody) -> None:
        super().__init__(request, body.name)
        self._body = body
        self._outflow = Outflow(self._reactor)

    def start(self) -> None:
        """Have the thread begin."""
        self._begin(self._outflow)
        self._outflow.start(self._request.write, self._finish)
        self._body.produce(self._outflow).addErrback(self._failed)

    def _too_slow(self, reason: str) -> None:
        if self._watchdog.undelivered():
            self._abort(reason)
        else:
            # The disk is slow, and not the client.
            self._watchdog.start()

    def _failed(self, failure: Failure) -> None:
        if not failure.check(OutflowClosed):
            self._abort(failure.getErrorMessage())

    def _end(self, _: object = None) -> None:
        super()._end()
        self._outflow.close()
