"""Answers whose body is made by a thread while it is sent, no faster than the client reads it.

Its length is not announced. When the thread fails, or the client reads too slowly, the connection
is closed, so that the client knows that the body is not whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.http.file_body import DELIVERED, LOOK_EVERY, FileRequest
from wingsd.http.watchdogs import DeliveryWatchdog
from wingsd.threadio import Outflow, OutflowClosed

__all__ = ["StreamedBody", "send_stream"]


@attrs.frozen
class StreamedBody:
    """The content of an answer: `produce` has a thread write it to an `Outflow`, and finish that.

    `name` is for the log.
    """

    produce: Callable[[Outflow], Deferred[None]]
    name: str
    headers: Mapping[str, str] = attrs.field(factory=dict)


def send_stream(request: FileRequest, status: int, body: StreamedBody) -> None:
    """Answer with what a thread makes; to HEAD with the headers alone, and nothing is made."""
    request.setResponseCode(status)
    for name, value in body.headers.items():
        request.setHeader(name, value)
    if request.method == b"HEAD":
        request.write(b"")
        request.finish()
        return
    _StreamSender(request, body).start()


class _StreamSender:
    """Sends one stream as the answer to one request."""

    _log = Logger()

    def __init__(self, request: FileRequest, body: StreamedBody) -> None:
        self._request = request
        self._body = body
        site = request.channel.site
        self._reactor: Any = site.reactor
        self._outflow = Outflow(self._reactor)
        self._watchdog = DeliveryWatchdog(
            site.reactor, request.channel.transport, site.least_rate, site.timeOut, self._too_slow
        )
        self._has_ended = False

    def start(self) -> None:
        """Have the thread begin."""
        self._request.notifyFinish().addBoth(self._end)
        self._request.channel.enlarge_send_limit()
        self._request.registerProducer(self._outflow, True)
        self._watchdog.start()
        self._outflow.start(self._request.write, self._finish)
        self._body.produce(self._outflow).addErrback(self._failed)

    def _finish(self) -> None:
        """End the answer when the client has received it: what is left may not be discarded."""
        if self._has_ended:
            return
        if self._watchdog.undelivered() > DELIVERED:
            self._reactor.callLater(LOOK_EVERY, self._finish)
            return
        self._request.unregisterProducer()
        self._request.finish()

    def _too_slow(self, reason: str) -> None:
        if self._watchdog.undelivered():
            self._abort(reason)
        else:
            # The disk is slow, and not the client.
            self._watchdog.start()

    def _failed(self, failure: Failure) -> None:
        if not failure.check(OutflowClosed):
            self._abort(failure.getErrorMessage())

    def _abort(self, reason: str) -> None:
        if self._has_ended:
            return
        self._log.warn(
            "{file}: download ended early: {reason}", file=self._body.name, reason=reason
        )
        self._end()
        self._request.channel.abortConnection()

    def _end(self, _: object = None) -> None:
        self._has_ended = True
        self._watchdog.stop()
        self._outflow.close()
